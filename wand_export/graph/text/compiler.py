"""A tokenizer as the tables and the words by which a host reads text: what is in no closed list is refused by name.

It is compiled from what `tokenizers` itself writes of a tokenizer, which spells out every default and old form.
"""

import base64
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import models

from wand_export.errors import CheckpointError
from wand_export.graph.text.arrays import Arrays, int32, points, replacement, trie
from wand_export.graph.text.characters import tables_of, uppercase
from wand_export.host.normal import MARK
from wand_export.host.pieces import SINGLE_WORD, STEERS, STRIP_LEFT, STRIP_RIGHT, Tokenizer
from wand_export.host.sentences import trimmed
from wand_export.host.tables import LONGEST_REPLACEMENT
from wand_export.spec.pieces import Pieces

Spec = Mapping[str, Any]
"""A tokenizer.json, or a part of it."""

_START = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {_START + r"\p{N}" + _REST: "qwen2", _START + r"\p{N}{1,3}" + _REST: "llama3"}
"""The regular expressions that hosts know, and the name of each."""
SPACE_MARK = chr(MARK)
TRIM = "Trim"
"""A step of SentencePiece's own that `tokenizers` lacks: no U+0020 at either end."""
_KEY_ENDS, _VALUE = 1 << 8, 1 << 31
"""Bits of a unit of a SentencePiece normalizer."""


@dataclass(frozen=True)
class Compiled:
    """What a bundle holds of a tokenizer: the tensors of text/pieces.safetensors, and the manifest's words."""

    tables: Arrays
    words: Pieces

    def save(self, file: Path) -> None:
        """Write the tables."""
        save_file(self.tables, file)

    def tokenizer(self) -> Tokenizer:
        """What a host makes of the tables as they are written."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / "pieces.safetensors"
            self.save(file)
            return Tokenizer.load(file, self.words)


@dataclass(frozen=True)
class Reading:
    """What a recipe adds to a tokenizer: text is read in capital letters; [first, last] code points that are refused;
    added tokens that a text may hold."""

    capitals: bool = False
    refused: Sequence[tuple[int, int]] = ()
    markup: Sequence[str] = ()


def compile_tokenizer(file: Path, tokenizer: tokenizers.Tokenizer, reading: Reading | None = None) -> Compiled:
    """Compile a tokenizer that was read from a file.

    Raises CheckpointError naming the file and the first thing that hosts do not know.
    """
    normalizer = tokenizer.normalizer
    normalize = normalizer.normalize_str if normalizer is not None else str
    return compile_spec(file, json.loads(tokenizer.to_str()), normalize, reading or Reading())


def compile_spec(
    file: Path,
    spec: Spec,
    normalize: Callable[[str], str],
    reading: Reading,
    whole: frozenset[str] = frozenset(),
) -> Compiled:
    """Compile the parts of a tokenizer.json; normalize: its normalizer. `whole` are pieces that are never taken apart.

    Raises CheckpointError.
    """
    draft = _Draft(file, dict(tables_of("classes")), {"refused": list(reading.refused)})
    if reading.capitals:
        draft.tables.update(uppercase())
        draft.words["case"] = "upper"
    draft.words["normalize"] = []
    for part in _parts(spec["normalizer"], "normalizers"):
        _add_step(draft, part, whole)
    _add_split(draft, list(_parts(spec["pre_tokenizer"], "pretokenizers")))
    _add_model(draft, spec["model"], whole)
    _add_tokens(draft, spec["added_tokens"], normalize, reading.markup)
    return Compiled(draft.tables, Pieces.model_validate(draft.words))


@dataclass(frozen=True)
class _Draft:
    file: Path
    tables: Arrays
    words: dict[str, Any] = field(default_factory=dict)

    def refuse(self, what: str) -> CheckpointError:
        """The error for a part that hosts do not know."""
        return CheckpointError(self.file, f"{what}: no host knows it", "this tokenizer cannot be carried by a bundle")


def _parts(part: Spec | None, key: str) -> Iterator[Spec]:
    """A normalizer or pre-tokenizer as those that it is a sequence of."""
    if part is not None and part["type"] == "Sequence":
        for inner in part[key]:
            yield from _parts(inner, key)
    elif part is not None:
        yield part


def _add_step(draft: _Draft, part: Spec, whole: frozenset[str]) -> None:
    """One normalizer."""
    kind = part["type"]
    tables: Arrays = {}
    if kind in ("NFC", "NFKC", "Lowercase", "Nmt"):
        step = kind.lower()
        tables = tables_of(step)
    elif kind == "Precompiled":
        step = "charsmap"
        tables = replacement(step, charsmap(base64.b64decode(part["precompiled_charsmap"])) | {p: p for p in whole})
    elif kind == "Replace" and part["pattern"].get("String") and len(part["content"]) <= LONGEST_REPLACEMENT:
        step = "replace"
        tables = replacement(step, {part["pattern"]["String"]: part["content"]})
    elif kind == "Replace" and part["pattern"] == {"Regex": " {2,}"} and part["content"] == " ":
        step = "squeeze"
    elif kind == "Strip" and part["strip_left"] and part["strip_right"]:
        step = "strip"
    elif kind == TRIM:
        step = "trim"
    elif kind == "Prepend" and part["prepend"] == SPACE_MARK:
        step = "mark"
    else:
        raise draft.refuse(f"normalizer {_shown(part)}")
    steps = draft.words["normalize"]
    if step in steps or {step, *steps} >= {"nfc", "nfkc"}:
        raise draft.refuse(f"a second normalizer {_shown(part)}")
    steps.append(step)
    draft.tables.update(tables)


def charsmap(blob: bytes) -> dict[str, str]:
    """The replacements of a SentencePiece normalizer: a double array of darts-clone, then texts that end in NUL.

    A unit of the array holds the label of its edge in the low byte and the offset to its children from bit 10 on (in
    steps of 256 where bit 9 is set); bit 8 says that a key ends here, its value being at the child of label 0.
    """
    (size,) = struct.unpack("<I", blob[:4])
    units, texts = np.frombuffer(blob[4 : 4 + size], "<u4").tolist(), blob[4 + size :]
    children: dict[int, list[int]] = {}
    for at, unit in enumerate(units):
        if not unit & _VALUE:
            children.setdefault(at ^ unit & 0xFF, []).append(at)

    def below(at: int) -> int:
        """The place from which the children of a unit are counted, each by its label."""
        unit = units[at]
        return at ^ (unit >> 10) << ((unit & 1 << 9) >> 6)

    found, pending = {}, [(below(0), b"")]
    while pending:
        base, key = pending.pop()
        for at in children.get(base, []):
            if label := units[at] & 0xFF:
                longer = key + bytes([label])
                if units[at] & _KEY_ENDS:
                    begin = units[below(at)] & ~_VALUE
                    found[longer.decode()] = texts[begin : texts.index(0, begin)].decode()
                pending.append((below(at), longer))
    return found


def _add_split(draft: _Draft, parts: list[Spec]) -> None:
    """The pre-tokenizers, all of them at once."""
    kinds = [part["type"] for part in parts]
    words: dict[str, str] | None = None
    if not parts:
        words = {"split": "none", "prefix": "never", "alphabet": "characters"}
    elif kinds == ["ByteLevel"]:
        split = "gpt2" if parts[0]["use_regex"] else "none"
        words = {"split": split, "prefix": "always" if parts[0]["add_prefix_space"] else "never", "alphabet": "bytes"}
    elif kinds == ["Split", "ByteLevel"] and not (parts[1]["use_regex"] or parts[1]["add_prefix_space"]):
        found = SPLITS.get(parts[0]["pattern"].get("Regex"))
        # The expressions leave nothing unmatched: to keep the matches alone is to keep everything.
        kept = (parts[0]["behavior"], parts[0]["invert"]) in (("Isolated", False), ("Removed", True))
        if found and kept:
            words = {"split": found, "prefix": "never", "alphabet": "bytes"}
    elif kinds == ["Metaspace"] and parts[0]["replacement"] == SPACE_MARK:
        split = "metaspace" if parts[0]["split"] else "mark"
        words = {"split": split, "prefix": parts[0]["prepend_scheme"], "alphabet": "characters"}
        # The library asks for the first character of the text as it was given: nothing before it may have gone.
        if words["prefix"] == "first" and not {"nfc", "nfkc", "lowercase"}.issuperset(draft.words["normalize"]):
            raise draft.refuse(f"prepend_scheme first behind {', '.join(draft.words['normalize'])}")
    if words is None:
        raise draft.refuse(f"pre-tokenizer {' and '.join(map(_shown, parts))}")
    draft.words.update(words)


def _add_model(draft: _Draft, model: Spec, whole: frozenset[str]) -> None:
    if model["type"] != "BPE":
        raise draft.refuse(f"model {model['type']}")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model[option]:
            raise draft.refuse(f"{option} {model[option]}")
    ids: dict[str, int] = model["vocab"]
    symbols: dict[tuple[int, ...], int]
    if draft.words["alphabet"] == "bytes":
        symbols = {(byte,): ids[letter] for letter, byte in BYTES.items() if letter in ids}
        if len(symbols) < len(BYTES):
            raise draft.refuse(f"a byte-level vocabulary of {len(symbols)} bytes")
    else:
        symbols = {points(piece): i for piece, i in ids.items() if len(piece) == 1 or piece in whole}
    draft.tables.update(trie("symbols", symbols))
    draft.tables.update(_merges(model, max(ids.values()) + 1))
    if model["byte_fallback"]:
        byte_ids = [ids[f"<0x{byte:02X}>"] for byte in range(256) if f"<0x{byte:02X}>" in ids]
        if len(byte_ids) < 256:
            raise draft.refuse(f"a byte fallback of {len(byte_ids)} bytes")
        draft.tables["byte_ids"] = int32(byte_ids)
    if model["ignore_merges"] and (kept := _unmade(model, draft.words["alphabet"] == "bytes")):
        draft.tables.update(trie("pieces", kept))
    unknown = model["unk_token"]
    draft.words.update(model="bpe", unknown=ids[unknown] if unknown else None, fuse_unknown=model["fuse_unk"])


def _merges(model: Spec, size: int) -> Arrays:
    """The merges by their left id, those of one sorted by their right id. Of equal ones the last counts."""
    ids = model["vocab"]
    made = {(ids[left], ids[right]): (rank, ids[left + right]) for rank, (left, right) in enumerate(model["merges"])}
    table = np.array([(*pair, *merge) for pair, merge in sorted(made.items())], np.int32).reshape(-1, 4)
    left, right, rank, joined = (np.ascontiguousarray(column) for column in table.T)
    counts = np.bincount(left, minlength=size)
    merge_from = int32([0, *np.cumsum(counts)])
    return {"merge_from": merge_from, "merge_right": right, "merge_rank": rank, "merge_id": joined}


def _unmade(model: Spec, in_bytes: bool) -> dict[tuple[int, ...], int]:
    """Where merges are ignored: the pieces that their own merges do not make; all others come out the same."""
    merging = models.BPE(
        model["vocab"],
        [tuple(merge) for merge in model["merges"]],
        unk_token=model["unk_token"],
        fuse_unk=model["fuse_unk"],
        byte_fallback=model["byte_fallback"],
    )
    found = {}
    for piece, i in model["vocab"].items():
        if piece and [token.id for token in merging.tokenize(piece)] != [i]:
            if not in_bytes:
                found[points(piece)] = i
            elif all(letter in BYTES for letter in piece):
                found[tuple(BYTES[letter] for letter in piece)] = i
    return found


def _add_tokens(draft: _Draft, tokens: list[Spec], normalize: Callable[[str], str], markup: Sequence[str]) -> None:
    """Added tokens before and behind the normalizer; those of the second kind are found in their normal form."""
    for name, normalized in ("added", False), ("added_normal", True):
        found: dict[str, Spec] = {}
        # The library asks its special tokens first, and the first of two equal ones counts.
        for token in sorted(tokens, key=lambda token: not token["special"]):
            if token["normalized"] == normalized:
                found.setdefault(normalize(token["content"]) if normalized else token["content"], token)
        if "" in found:
            raise draft.refuse(f"added token {found['']['content']!r}, which its normalizer empties")
        if found:
            draft.tables.update(trie(name, {points(content): n for n, content in enumerate(found)}))
            draft.tables[f"{name}.id"] = int32([token["id"] for token in found.values()])
            draft.tables[f"{name}.flags"] = np.array([_flags(token, markup) for token in found.values()], np.uint8)


def _flags(token: Spec, markup: Sequence[str]) -> int:
    """Of the tokens that are no markup only mere characters and spaces may stand in a text."""
    flags = STRIP_LEFT * token["lstrip"] | STRIP_RIGHT * token["rstrip"] | SINGLE_WORD * token["single_word"]
    return flags | STEERS * (len(trimmed(token["content"])) > 1 and token["content"] not in markup)


def _shown(part: Spec) -> str:
    """A part of a tokenizer.json in a few words."""
    options = {key: value for key, value in part.items() if key not in ("type", "precompiled_charsmap")}
    return f"{part['type']} {json.dumps(options, ensure_ascii=False)[:160]}" if options else part["type"]


def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level vocabularies write bytes: themselves where they can be seen, else from U+0100."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + n): byte for n, byte in enumerate(unseen)}


BYTES = _byte_letters()
"""Letter -> byte."""
