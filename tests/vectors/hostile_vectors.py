"""hostile.json: bundles that lie, by one file each, and the place that is named when they are refused."""

import json
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from small_manifest import MANIFEST, manifest_with

from wand_export.errors import BundleError
from wand_export.host.bundle import CHECKSUMS, EMBEDDINGS, Bundle, read_checksums, read_manifest
from wand_export.host.bundle import MANIFEST as MANIFEST_FILE
from wand_export.spec.manifest import Manifest

SCHEMA = 1
LIES: list[tuple[str, dict[str, Any]]] = [
    ("a cache that no device holds", {"kv_cache.window": 2**31}),
    ("a size whose products leave 64 bits", {"model.head_dim": 2**62}),
    ("fewer bytes than the cache takes", {"kv_cache.bytes": 1}),
    ("a head whose ids alone fill the memory", {"head.ranges": [[0, 2**31 - 1]]}),
    ("true where 1 is meant", {"head.ranges": [[True, 8]]}),
    ("a stop that is an audio code: speech ends at once, or in noise", {"stop.ids": [3]}),
    ("no stop that can come: speech never ends", {"stop.ids": [99]}),
    ("a temperature that overflows", {"sampler.temperature": 1e-300}),
    ("a format that pads a text to a billion characters", {"text.template": "{text:>999999999}"}),
    ("a format that reads attributes", {"text.template": "{text.__class__}"}),
    ("an expression that takes for ever", {"text.unsupported": "(a+)+$"}),
    ("a family whose name is a path", {"family": "../../x"}),
    ("a voice whose folder lies outside", {"voices": ["../x"]}),
    ("a file that lies outside", {"files": MANIFEST["files"] | {"../../etc/passwd": 1}}),
    ("a file behind a backslash, which one system takes for a folder", {"files": MANIFEST["files"] | {"a\\b": 1}}),
    ("a prefix id outside its table", {"prefix.1.ids": [10]}),
    ("a chunk of audio that fills the memory", {"audio.decoders.small.chunk.later": 2**31}),
]
FINE = json.dumps(MANIFEST)
TEXTS = [
    ("a key twice: readers differ in which they take", FINE.replace('"family"', '"family": "other", "family"', 1)),
    ("NaN, which is no JSON", FINE.replace('"token_rate": 10.0', '"token_rate": NaN')),
    ("infinity by its digits", FINE.replace('"token_rate": 10.0', '"token_rate": 1e999')),
    ("an integer beyond 64 bits", FINE.replace('"prefill_chunk": 5', '"prefill_chunk": 9223372036854775808')),
    ("33 lists in one another", FINE.replace('"not_run": []', '"not_run": ' + "[" * 33 + "]" * 33)),
    ("cut in the middle", FINE[: len(FINE) // 2]),
    ("a later schema", FINE.replace('"schema_version": 2', '"schema_version": 3')),
    ("a schema's number as a string", FINE.replace('"schema_version": 2', '"schema_version": "2"')),
]
SUM = "0" * 64
CHECKSUM_FILES = [
    ("the last line cut", f"{SUM}  manifest.json"),
    ("a file twice", f"{SUM}  manifest.json\n{SUM}  manifest.json\n"),
    ("capitals", f"{'A' * 64}  manifest.json\n"),
    ("one space", f"{SUM} manifest.json\n"),
    ("63 digits", f"{SUM[1:]}  manifest.json\n"),
    ("an empty line", f"\n{SUM}  manifest.json\n"),
]
TENSORS = {
    "text": {"dtype": "F32", "shape": [128, 4], "data_offsets": [0, 2048]},
    "speech": {"dtype": "F32", "shape": [10, 4], "data_offsets": [2048, 2208]},
}
HEADERS: list[tuple[str, dict[str, dict[str, Any]]]] = [
    ("another type", {"speech": {"dtype": "F16", "shape": [20, 4]}}),
    ("another shape of as many bytes", {"speech": {"shape": [4, 10]}}),
    ("bytes beyond the file", {"speech": {"shape": [10, 4000], "data_offsets": [2048, 162048]}}),
    ("a hole between two tensors", {"text": {"shape": [127, 4], "data_offsets": [0, 2032]}}),
    ("two tensors of the same bytes", {"speech": {"data_offsets": [0, 160]}}),
    ("a shape whose product leaves 64 bits", {"speech": {"shape": [2**62, 2**62]}}),
    ("a table more than the manifest's", {"more": {"dtype": "F32", "shape": [0, 4], "data_offsets": [2208, 2208]}}),
]


def hostile_vectors() -> dict[str, Any]:
    """Cases by file; `place` is what stands before the first colon of the complaint, where a key is named.

    manifest: `changes` of the small manifest; texts and checksums: the whole file; embeddings: its first bytes in
    hexadecimal, and how many zeros follow.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / MANIFEST_FILE).write_text(FINE, encoding="utf-8")
        read_manifest(folder)
        (folder / EMBEDDINGS).write_bytes(file_of(header(TENSORS)))
        Bundle(folder, Manifest.model_validate(MANIFEST))
        return {
            "schema": SCHEMA,
            "good": {"manifest": MANIFEST, "embeddings": [header(TENSORS).hex(), DATA]},
            "manifest": [
                {"why": why, "changes": changes, "place": refused_manifest(folder, json.dumps(manifest_with(changes)))}
                for why, changes in LIES
            ],
            "texts": [{"why": why, "text": text} for why, text in TEXTS if refused_manifest(folder, text)],
            "checksums": [{"why": why, "text": text} for why, text in CHECKSUM_FILES if refused_sums(folder, text)],
            "embeddings": [
                {"why": why, "head": head.hex(), "zeros": DATA} for why, head in heads() if refused_tables(folder, head)
            ],
        }


DATA = 2208
"""Bytes of the tables."""


def header(tensors: dict[str, dict[str, Any]]) -> bytes:
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def file_of(head: bytes) -> bytes:
    return head + bytes(DATA)


def heads() -> list[tuple[str, bytes]]:
    good = header(TENSORS)
    merged = [
        (why, header({name: TENSORS.get(name, {}) | changed.get(name, {}) for name in [*TENSORS, *changed]}))
        for why, changed in HEADERS
    ]
    lengths = [("a header of 2^63 bytes", struct.pack("<Q", 2**63) + good[8:])]
    return [*merged, *lengths, ("a header that is no JSON", good.replace(b"{", b"[", 1)), ("zeros alone", b"")]


def refused_manifest(folder: Path, text: str) -> str:
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
    return refusal(lambda: read_manifest(folder), MANIFEST_FILE)


def refused_sums(folder: Path, text: str) -> str:
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")
    return refusal(lambda: read_checksums(folder), CHECKSUMS)


def refused_tables(folder: Path, head: bytes) -> str:
    (folder / EMBEDDINGS).write_bytes(file_of(head))
    return refusal(lambda: Bundle(folder, Manifest.model_validate(MANIFEST)), EMBEDDINGS)


def refusal(read: Any, file: str) -> str:
    """The place that is named. Raises AssertionError unless the file is refused by its name."""
    try:
        read()
    except BundleError as error:
        assert error.file.endswith(file), error
        return error.value.partition(":")[0]
    raise AssertionError(f"{file} is taken for good")
