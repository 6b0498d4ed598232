"""Hostile bundles with right checksums: refused by the place in the file that lies, or they speak."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from tests.host.mutants import (
    SENTENCE,
    Mutant,
    Outcome,
    changes,
    chosen,
    document_mutants,
    link,
    main,
    outcome,
    put,
    restore,
    tensor_mutants,
)
from wand_export.errors import InputError
from wand_export.host.bundle import CHECKSUMS, EMBEDDINGS, MANIFEST
from wand_export.host.voices import load_voice
from wand_export.spec.selftest import SELFTEST_FILE

Attack = Callable[[Mutant], Outcome]


@pytest.fixture(scope="module")
def attack(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Attack:
    """What becomes of the tiny bundle with one file changed."""
    copy = tmp_path_factory.mktemp("attack") / "bundle"
    link(exported, copy)

    def attacked(mutant: Mutant) -> Outcome:
        put(copy, mutant, exported)
        try:
            return outcome(copy, SENTENCE, targets=1)
        finally:
            restore(copy, mutant, exported)

    return attacked


def with_value(folder: Path, path: str, value: Any, file: str = MANIFEST) -> Mutant:
    """A file with another value at a path of keys and indices apart by dots; `...` removes it."""
    document = json.loads((folder / file).read_text())
    *outer, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place = document
    for key in outer:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return Mutant(file, path, lambda: json.dumps(document).encode())


LIES: list[tuple[str, Any, str]] = [
    ("kv_cache.capacity", 64, "kv_cache: capacity 64 must be"),
    ("kv_cache.window", 2**31, "kv_cache.window"),
    ("kv_cache.window", 0, "kv_cache.window"),
    ("kv_cache.prefix_capacity", -1, "kv_cache.prefix_capacity"),
    ("kv_cache.bytes", 1, "kv_cache.bytes: 1 must be"),
    ("kv_cache.dtype", "float16", "kv_cache.bytes"),
    ("model.layers", 2**31, "model.layers"),
    ("model.layers", 1, "kv_cache.bytes"),
    ("model.hidden", 128, EMBEDDINGS),
    ("model.kv_heads", 3, "heads 4 must be a multiple"),
    ("model.head_dim", 2**62, "model.head_dim"),
    ("model.parameters", 2**62, "model.parameters"),
    ("tables.speech.rows", 38, f"{EMBEDDINGS}: tensor 'speech' is F32"),
    ("tables.speech.rows", 2**31, "tables.speech.rows"),
    ("tables.speech.dtype", "float16", EMBEDDINGS),
    ("tables.speech.positions", "nowhere", "tables.speech.positions: 'nowhere'"),
    ("tables.text.positions", "text", "tables.text.positions"),
    ("tables.more", {"rows": 3, "dtype": "float32", "positions": None}, f"{EMBEDDINGS}: tensor 'more'"),
    ("tables.latents", {"rows": 3, "dtype": "float32", "positions": None}, "tables.latents"),
    ("tables.text", ..., "prefix.0.table: 'text'"),
    ("speech_table", "nowhere", "speech_table: 'nowhere'"),
    ("head.ranges", [], "head.ranges"),
    ("head.ranges", [[0, 2**31 - 1]], "ranges hold 2147483648 ids"),
    ("head.ranges", [[0, 30], [30, 33]], "hold id 30 twice"),
    ("head.ranges", [[30, 0]], "head: ranges hold \\[30, 0\\]"),
    ("head.ranges", [[0, 36]], r"decoder\.onnx: output 'logits'"),
    ("head.ranges", [[1, 35]], "audio.codes"),
    ("head.ranges.0.0", True, "head.ranges.0.0"),
    ("head.ranges.0.0", "0", "head.ranges.0.0"),
    ("prefix", [], "prefix"),
    ("prefix.0.table", "nowhere", "prefix.0.table"),
    ("prefix.1.ids", [37], "prefix.1.ids: 37"),
    ("prefix.1.ids", [-1], "prefix.1.ids"),
    ("prefix.1.ids", [0] * 25, "prefix: its 25 fixed rows"),
    ("prefix.0.offset", 20, "prefix.0.codes: reach beyond the 20"),
    ("prefix.0.codes", 21, "prefix.0.codes"),
    ("prefix.0.length", 25, "prefix: its 26 fixed rows"),
    ("prefix.1", {"table": "text", "literal": "a"}, "prefix.1.literal"),
    ("voices", ["../x"], "voices.0"),
    ("voices", ["a"], "voices/a/voice.json is not among its files"),
    ("stop.ids", [99], "stop.ids: none of them"),
    ("stop.ids", [3], "stop.ids: 3 is an audio code"),
    ("stop.max_tokens", 2**31, "stop.max_tokens"),
    ("stop.max_per_text", 1e308, "stop.max_per_text"),
    ("sampler.temperature", 1e-300, "temperature"),
    ("sampler.repetition_penalty", 1e308, "sampler.repetition_penalty"),
    ("text.template", "{text.__class__}", "template"),
    ("text.template", "{text:>999999999}", "template"),
    ("text.unsupported", "(a+)+$", "unsupported"),
    ("text.unsupported", "[z-a]", "unsupported"),
    ("audio.codes", 40, "audio.codes"),
    ("audio.first_id", 31, "audio.codes"),
    ("audio.silent", [[26, 28]], "silent \\[26, 28\\]"),
    ("audio.decoders.float32.chunk.later", 2**31, "chunk.later"),
    ("audio.decoders.float32.hop", 2**31, "hop"),
    ("audio.decoders.float32.states.0.shape", [2**15, 2**15], "states hold more"),
    ("audio.decoders.float32.states.0.shape", [1, 1, 1], r"float32\.onnx: input"),
    ("audio.decoders.float32.noise.0.per_unit", 2**24, "noise"),
    ("audio.decoders.float32.noise.0.name", "loud", "reads 'noise'"),
    ("audio.sample_rate", 0, "audio.sample_rate"),
    ("audio.decoders", {}, "'float32' is not in audio.decoders"),
    ("audio.decoders.float32.graphs.0.files.onnx.0", "onnx-fp32/decoder.onnx", "input 'codes' is missing"),
    ("artifacts", {}, "artifacts"),
    ("artifacts.onnx-fp32.files", [], "artifacts.onnx-fp32.files"),
    ("artifacts.onnx-fp32.files.0", "report.md", r"report\.md: ONNX Runtime"),
    ("artifacts.onnx-fp32.files.0", "nowhere", "artifacts.onnx-fp32.files.0: nowhere"),
    ("artifacts.onnx-fp32.files.0", "onnx-fp32/twin.onnx", r"twin\.onnx: input 'keys_0'"),
    ("artifacts.onnx-fp32.twin", "audio/onnx/float32.onnx", r"float32\.onnx: input 'codes' is unknown"),
    ("artifacts.onnx-fp32.audio_decoder", "onnx-fp32/decoder.onnx", "is not in audio.decoders"),
    ("artifacts.onnx-fp32.prefill_chunk", 0, "prefill_chunk"),
    ("artifacts.onnx-fp32.parity.kl", 10**400, "more than 64 bits"),
    ("family", "../../x", "family"),
    ("family", "a\nb", "family"),
]


@pytest.mark.parametrize(("path", "value", "words"), LIES, ids=[f"{path}={value!r:.30}" for path, value, _ in LIES])
def test_a_manifest_that_lies_is_refused_by_name(
    attack: Attack, exported: Path, path: str, value: Any, words: str
) -> None:
    result = attack(with_value(exported, path, value))
    assert result.kind == "refused", result
    assert re.search(words, result.why), result.why


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("title", "T" * 10_000),
        ("title", "two\nlines"),
        ("licence.weights", "Mine"),
        ("licence.obligations", "None.\nNone at all."),
        ("sampler", {"temperature": 0}),
        ("sampler", {"temperature": 100.0, "top_k": 2**31 - 1, "min_p": 0.5, "repeat_window": 3}),
        ("sampler.repetition_ids", [0, 2**31 - 1]),
        ("stop.ids", [*range(27, 37), 2**31 - 1]),
        ("stop.min_tokens", 2**20),
        ("stop.max_tokens", 1),
        ("audio.silent", [[100, 2**31 - 1]]),
        ("audio.token_rate", 41.5),
        ("model.mlp", 1),
        ("model.max_position", 10_000),
        ("artifacts.onnx-fp32.parity", None),
        ("artifacts.onnx-fp32.prefill_chunk", 1),
        ("artifacts.onnx-fp32.twin", None),
        ("artifacts.onnx-int8", ...),
        ("refused", {"singing": "it cannot"}),
        ("skipped_positions", 3),
        ("source.sha256", None),
    ],
)
def test_a_harmless_change_still_speaks(attack: Attack, exported: Path, path: str, value: Any) -> None:
    result = attack(with_value(exported, path, value))
    assert result == Outcome("spoke"), result.why


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("requests", [], "requests"),
        ("requests.0.prefix", [], "requests.0.prefix"),
        ("requests.0.prefix.0.table", "nowhere", "requests.0.prefix.0.table: 'nowhere'"),
        ("requests.0.prefix.0.ids", [20], "id 20 is not in table 'text'"),
        ("requests.0.prefix.0.ids", [1] * 25, "prefix of 2[56] rows"),
        ("requests.0.forced", [1], "step 40 lies behind the 1 forced"),
        ("requests.0.forced", [1] * 5000, "requests.0.forced"),
        ("requests.0.forced.0", 99, "id 99 is not in table 'speech'"),
        ("requests.0.expected", [], "requests.0.expected"),
        ("requests.0.expected.0.top", [], "requests.0.expected.0.top"),
        ("requests.0.expected.0.top.0.0", 35, "row 35 lies beyond the head's 35"),
        ("requests.0.expected.0.top.0.0", -1, "requests.0.expected.0.top.0.0"),
        ("tolerance", {}, "tolerance: has none for onnx-fp32"),
        ("audio.codes", [27], "audio.codes: 27"),
        ("audio.expected", [[0, 0.5], [1, 0.5]], "no two different samples"),
        ("audio.expected.1.0", 10**6, "lies beyond the samples"),
        ("audio.tolerance", {}, "audio.tolerance: has none for onnx-fp32"),
        ("audio.seed", 2**60, "audio.seed"),
        ("texts.0.text", "", "texts.0.text"),
        ("texts.0.text", "a" * 5000, "texts.0.text"),
        ("texts.0.ids", [], "texts.0: ids: are of 0 sentences"),
        ("texts.0.ids.0.0", -1, "texts.0.ids.0.0"),
    ],
)
def test_a_selftest_that_lies_is_refused_by_name(
    attack: Attack, exported: Path, path: str, value: Any, words: str
) -> None:
    result = attack(with_value(exported, path, value, SELFTEST_FILE))
    assert result.kind == "refused", result
    assert re.search(words, result.why), result.why


def tensors_with(folder: Path, **changed: np.ndarray | None) -> Mutant:
    """The embedding tables, some of them changed, more, or (None) left out."""
    tensors = load_file(folder / EMBEDDINGS) | changed
    return Mutant(EMBEDDINGS, "", lambda: save({name: table for name, table in tensors.items() if table is not None}))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"more": np.zeros(3, np.float32)}, "tensor 'more'"),
        ({"text": None}, "tensor 'text'"),
        ({"text": np.zeros((20, 63), np.float32)}, r"'text' is F32 \[20, 63\], not F32 \[20, 64\]"),
        ({"text": np.zeros((19, 64), np.float32)}, r"'text' is F32 \[19, 64\]"),
        ({"text": np.zeros(20 * 64, np.float32)}, r"'text' is F32 \[1280\]"),
        ({"text": np.zeros((20, 64), np.float16)}, r"'text' is F16"),
        ({"text": np.zeros((20, 64), np.int32)}, r"'text' is I32"),
    ],
)
def test_tables_that_are_not_the_manifests(attack: Attack, exported: Path, changed: dict[str, Any], words: str) -> None:
    result = attack(tensors_with(exported, **changed))
    assert result.kind == "refused" and EMBEDDINGS in result.why
    assert re.search(words, result.why), result.why


@pytest.mark.parametrize("pattern", [MANIFEST, CHECKSUMS, EMBEDDINGS, SELFTEST_FILE, "text/*"])
def test_whatever_is_changed_it_is_refused_or_speaks(attack: Attack, exported: Path, pattern: str) -> None:
    """Some of the thousands that `python tests/host/mutants.py` tries."""
    for mutant in chosen(exported, pattern, 6, seed=1):
        result = attack(mutant)
        assert result.passed, f"{mutant.file}: {mutant.what}: {result.kind}: {result.why}"


VOICED = [
    {"table": "text", "input": "text"},
    {"table": "text", "input": "globals", "offset": 100, "codes": 8, "length": 3},
    {"input": "latents", "length": 2},
]


def test_whatever_is_changed_in_a_voice_it_is_refused_or_loads(make_manifest: Any, tmp_path: Path) -> None:
    manifest, voice, tensors = make_manifest(prefix=VOICED), tmp_path / "voice.json", tmp_path / "latents.safetensors"
    good = json.dumps({"schema_version": 1, "globals": [1, 2, 3], "mode": None})
    voice.write_text(good)
    save_file({"latents": np.ones((2, 4), np.float32), "more": np.ones(3, np.int64)}, tensors)
    load_voice(tmp_path, manifest)
    whole, loaded = tensors.read_bytes(), 0
    cases = [(voice, make) for _, make in document_mutants(good)]
    cases += [(tensors, make) for _, make in tensor_mutants(whole)]
    for file, make in Random(0).sample(cases, 400):
        voice.write_text(good)
        tensors.write_bytes(whole)
        file.write_bytes(make())
        try:
            load_voice(tmp_path, manifest)
            loaded += 1
        except InputError as error:
            assert "\n" not in str(error)
    assert 0 < loaded < 100


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"latents": np.float32(1)}, "has shape \\[\\]"),
        ({"latents": np.ones((2, 5), np.float32)}, "latents of shape \\[2, 5\\]"),
        ({"latents": np.full((2, 4), np.inf, np.float32)}, "NaN or infinity"),
    ],
)
def test_latents_that_are_no_rows(make_manifest: Any, tmp_path: Path, tensors: dict, words: str) -> None:
    (tmp_path / "voice.json").write_text('{"schema_version": 1, "globals": [1, 2, 3]}')
    save_file({name: np.asarray(value) for name, value in tensors.items()}, tmp_path / "latents.safetensors")
    with pytest.raises(InputError, match=words):
        load_voice(tmp_path, make_manifest(prefix=VOICED))


def test_the_changes_are_changes() -> None:
    """Nothing in the mutator is the value itself, so that every mutant differs from its bundle."""
    for value in (0, 3, True, None, "x", [1], {"a": 1}, 0.5):
        assert all(other != value or type(other) is not type(value) for _, other in changes(value))


def test_mutants_are_written_for_other_languages(exported: Path, tmp_path: Path) -> None:
    assert main([str(exported), "--count", "5", "--write", str(tmp_path / "out")]) == 0
    lines = [line.split("\t") for line in (tmp_path / "out" / "index.tsv").read_text().splitlines()]
    assert len(lines) == 5
    assert all((tmp_path / "out" / number / file).is_file() for number, file, _ in lines)


def test_the_command_line_tells_and_counts(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A crash is told and counted; a bundle that does not speak by itself proves nothing."""
    assert main([str(exported), "--count", "2"]) == 0
    assert capsys.readouterr().out.endswith("2 passed, 0 failed\n")
    assert main([str(exported), "--count", "2", "--sentence", "你好"]) == 2

    def crash(folder: Path, sentence: str, targets: int | None) -> None:
        if not (folder / MANIFEST).is_symlink():
            raise KeyError("capacity")

    monkeypatch.setattr("tests.host.mutants.use", crash)
    capsys.readouterr()
    assert main([str(exported), "--count", "2"]) == 1
    out = capsys.readouterr().out
    assert "KeyError: 'capacity'" in out
    assert out.endswith("0 passed, 2 failed\n")
