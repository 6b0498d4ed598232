"""Saved Core ML packages, run by the interpreter, against the reference."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.backends.test_onnx import assert_is_the_vocoder
from tests.conftest import of_another_decoder, write_recipe
from wand_export.commands import export
from wand_export.errors import BundleError, InputError, ParityError
from wand_export.graph import ladder
from wand_export.graph.checkpoint import Checkpoint, open_checkpoint, random_checkpoint
from wand_export.graph.quantize import round_as_half
from wand_export.graph.steps import SelectStep
from wand_export.graph.vocoder import load_vocoder
from wand_export.host.bundle import Bundle, load_bundle
from wand_export.host.runtimes.coreml_interpreter import Interpreter
from wand_export.host.runtimes.coreml_package import Package
from wand_export.host.selftest import compare, load_selftest, play, play_late
from wand_export.host.session import Floats
from wand_export.layout import Layout
from wand_export.spec.manifest import Exact
from wand_export.spec.schema import find_named
from wand_export.spec.target import Target, load_target

pytest.importorskip("coremltools")
from wand_export.backends import coreml

TARGETS = ("coreml-fp16", "coreml-int4")
WINDOW, PREFIX, CHUNK, LAYERS = 8, 24, 8, 2


def small(name: str, folder: Path) -> str:
    """A shipped target whose prefill takes three calls for the longest prefix."""
    text = find_named("targets", name, "{name}.toml").read_text(encoding="utf-8")
    assert "prefill_chunk = 64" in text
    path = folder / f"{name}.toml"
    path.write_text(text.replace("prefill_chunk = 64", f"prefill_chunk = {CHUNK}"), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def bundle(tiny: Path) -> Bundle:
    """A bundle of float16 weights and one that mixes 4 and 8 bits."""
    targets = [small(name, tiny) for name in TARGETS]
    export.export(tiny / "checkpoint", tiny / "coreml", targets, allow_low_parity=True)
    return load_bundle(tiny / "coreml")


@pytest.fixture(scope="module")
def source(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny / "checkpoint")


def rows(count: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, 64)).astype(np.float32)


def package_of(bundle: Bundle, target: str) -> Path:
    return (bundle.path / bundle.manifest.artifacts[target].files[0]).parent


def near(found: Floats, expected: Floats, psnr: float) -> bool:
    comparison = compare(found, expected)
    return comparison.psnr_db is None or comparison.psnr_db >= psnr


@pytest.mark.parametrize("prefix_len", [1, PREFIX // 2, PREFIX])
def test_the_saved_package_is_the_reference(bundle: Bundle, source: Checkpoint, prefix_len: int) -> None:
    """At n = W - 1, W, W + 1 and 2 W + 1 generated tokens and all between, after an unrelated utterance."""
    embeds = rows(prefix_len + 2 * WINDOW + 1, prefix_len)
    reference = source.reference()
    expected = reference(torch.from_numpy(embeds), prefix_len, WINDOW)[0][prefix_len - 1 :].numpy()
    with bundle.open("coreml-fp16") as session:
        assert session.how == "interpreted"
        assert near(play(session, embeds[:prefix_len], embeds[prefix_len:]), expected, 40)
    round_as_half(reference, bundle.manifest.artifacts["coreml-fp16"].precision)
    expected = reference(torch.from_numpy(embeds), prefix_len, WINDOW)[0][prefix_len - 1 :].numpy()
    session = bundle.open_exact("coreml-fp16")
    assert session is not None
    found = play(session, embeds[:prefix_len], embeds[prefix_len:])
    assert len(found) == 2 * WINDOW + 2
    assert np.abs(found - expected).max() < 1e-4


def test_positions_beyond_ten_thousand(bundle: Bundle, source: Checkpoint) -> None:
    p, first, flush = 5, 10_000, LAYERS * WINDOW
    embeds = rows(p + flush + 12, 7)
    positions = torch.cat([torch.arange(p), torch.arange(first, first + flush + 12)])
    reference = source.reference()
    expected = reference(torch.from_numpy(embeds), p, WINDOW, positions)[0][p + flush :].numpy()
    with bundle.open("coreml-fp16") as session:
        assert near(play_late(session, embeds[:p], embeds[p:], first, flush), expected, 40)
    round_as_half(reference, bundle.manifest.artifacts["coreml-fp16"].precision)
    exact = bundle.open_exact("coreml-fp16")
    assert exact is not None
    found = play_late(exact, embeds[:p], embeds[p:], first, flush)
    expected = reference(torch.from_numpy(embeds), p, WINDOW, positions)[0][p + flush :].numpy()
    assert near(found, expected, ladder.FLOAT32_PSNR_DB)
    off = play_late(exact, embeds[:p], embeds[p:], first + 1, flush)
    assert not near(off, expected, ladder.FLOAT32_PSNR_DB)  # the bound would see a rotation that is off by one


def test_the_ladder_holds_every_target(bundle: Bundle) -> None:
    """Compressed ones too: their exact way is held to a reference with the same integers."""
    parities = {name: bundle.manifest.artifacts[name].parity for name in TARGETS}
    for parity in parities.values():
        assert parity is not None and parity.exact is not None
        assert parity.how == "interpreted"
        assert parity.exact.greedy_equal
        assert parity.exact.psnr_db is None or parity.exact.psnr_db >= ladder.FLOAT32_PSNR_DB
    full, mixed = (parity.psnr_db for parity in parities.values() if parity is not None)
    assert full is not None and mixed is not None
    assert full > 40 and full > mixed + 10


def test_what_is_not_exact_does_not_pass(bundle: Bundle, source: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = load_selftest(bundle).requests[0].prefix
    expectation = ladder.expect(bundle, source, prefix, 10)
    assert ladder.hold(bundle, source, expectation, "coreml-fp16").passed
    wrong = Exact(psnr_db=66.6, max_abs_dlogit=0.1, greedy_equal=True, first_divergence=None)
    monkeypatch.setattr(ladder, "measure_exact", lambda *arguments: wrong)
    parity = ladder.hold(bundle, source, expectation, "coreml-fp16")
    assert parity.exact == wrong and not parity.passed
    with pytest.raises(ParityError, match=r"not the reference even in float32 arithmetic: 66\.6 dB"):
        export._below(load_target("coreml-fp16"), parity, False, [])


def test_late_positions_are_left_out_where_a_table_is_too_short(
    bundle: Bundle, source: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    expectation = ladder.expect(bundle, source, load_selftest(bundle).requests[0].prefix, 10)
    with bundle.open("coreml-fp16") as session:
        assert ladder.measure(bundle, expectation, session).steps == 11 + WINDOW
        monkeypatch.setattr(type(session), "max_position", 4096)
        assert ladder.measure(bundle, expectation, session).steps == 11


def test_positions_beyond_the_table_are_refused(bundle: Bundle) -> None:
    embeds = rows(3, 0)
    with bundle.open("coreml-fp16") as session:
        session.prefill(embeds)
        session.seek(16383)
        session.step(embeds[0])
        with pytest.raises(InputError, match="position 16384"):
            session.step(embeds[0])


def test_weights_lie_once_in_the_file(bundle: Bundle, source: Checkpoint) -> None:
    """Prefill and decode share them: the file is one copy, a table of angles and little else."""
    decoder = source.decoder()
    floats = sum(parameter.numel() for parameter in decoder.parameters())
    linears = sum(parameter.numel() for parameter in decoder.parameters() if parameter.dim() == 2)
    mlp = sum(p.numel() for name, p in decoder.named_parameters() if ".mlp." in name)
    others = 2 * (floats - linears)
    copies = {
        "coreml-fp16": 2 * floats,
        "coreml-int4": linears - mlp // 2 + 2 * (mlp // 32) + others,
    }
    for name, copy in copies.items():
        artifact = bundle.manifest.artifacts[name]
        file = package_of(bundle, name) / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
        assert artifact.step_bytes == file.stat().st_size - 16384 * 16 * 2
        assert copy < artifact.step_bytes < 1.35 * copy  # 64 bytes of metadata and alignment for each of few weights
    assert artifact.bytes == sum((bundle.path / name).stat().st_size for name in artifact.files)


@pytest.mark.parametrize("target", TARGETS)
def test_each_function_reads_and_writes_each_state_once(bundle: Bundle, target: str) -> None:
    functions = Package(package_of(bundle, target)).functions
    assert set(functions) == {"prefill", "decode"}
    for function in functions.values():
        kinds = Counter(op.type for op in function.block_specializations[function.opset].operations)
        assert kinds["read_state"] == kinds["write_state"] == 2 * LAYERS
        assert kinds["slice_update"] == kinds["scatter"] == 0
        integers = {"coreml-fp16": 0}.get(target, 5 * LAYERS + 1)
        assert kinds["constexpr_blockwise_shift_scale"] == integers


def test_a_lost_state_is_noticed(bundle: Bundle) -> None:
    import coremltools as ct

    spec = ct.utils.load_spec(str(package_of(bundle, "coreml-fp16")))
    coreml.check_states(spec, LAYERS)
    with pytest.raises(ValueError, match="describes the states"):
        coreml.check_states(spec, LAYERS + 1)
    function = spec.mlProgram.functions["prefill"]
    operations = function.block_specializations[function.opset].operations
    lost = next(i for i, op in enumerate(operations) if op.type == "write_state")
    del operations[lost]
    with pytest.raises(ValueError, match="function prefill has write_state of"):
        coreml.check_states(spec, LAYERS)


def test_files_and_what_is_said_of_them(bundle: Bundle) -> None:
    for name in TARGETS:
        artifact = bundle.manifest.artifacts[name]
        package = package_of(bundle, name)
        assert package.name == "decoder.mlpackage"
        written = {file.relative_to(bundle.path).as_posix() for file in package.rglob("*") if file.is_file()}
        assert set(artifact.files) == written
        assert artifact.oldest_runtime == artifact.minimum_os == "iOS 18 / macOS 15"
        assert artifact.compute_units == "CPU and Neural Engine (expected, not measured)"
        assert artifact.emitted_by["specification"] == "9"
    report = (bundle.path / "report.md").read_text(encoding="utf-8")
    assert report.count("needs iOS 18 / macOS 15; where it runs: CPU and Neural Engine (expected, not measured).") == 2


def test_packages_hold_neither_chance_nor_date(bundle: Bundle) -> None:
    import coremltools as ct

    manifests = {(package_of(bundle, name) / "Manifest.json").read_bytes() for name in TARGETS}
    assert len(manifests) == 1
    assert json.loads(manifests.pop())["fileFormatVersion"] == "1.0.0"
    for name in TARGETS:
        metadata = ct.utils.load_spec(str(package_of(bundle, name))).description.metadata
        assert not [key for key in metadata.userDefined if "date" in key]


def test_opening_a_package_changes_no_byte_of_it(bundle: Bundle) -> None:
    """coremltools writes Manifest.json again whenever it opens a package."""
    import coremltools as ct

    for name in ("coreml-fp16/decoder.mlpackage", "audio/coreml/float32.mlpackage"):
        ct.utils.load_spec(str(bundle.path / name))
        ct.models.MLModel(str(bundle.path / name), skip_model_load=True)
    load_bundle(bundle.path)


def test_the_audio_decoder_is_the_vocoder(bundle: Bundle, tiny: Path) -> None:
    assert_is_the_vocoder(bundle.open_audio("coreml-fp16"), load_vocoder(tiny / "recipe" / "vocoder"))


@pytest.mark.parametrize("damage", ["flipped", "cut"])
@pytest.mark.parametrize("name", ["model.mlmodel", "weights/weight.bin"])
def test_a_damaged_package_is_refused(bundle: Bundle, tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.path, folder)
    file = folder / "coreml-int4" / "decoder.mlpackage" / "Data" / "com.apple.CoreML" / name
    data = bytearray(file.read_bytes())
    if damage == "flipped":
        data[len(data) // 3] ^= 16
    file.write_bytes(data if damage == "flipped" else data[: len(data) // 3])
    with pytest.raises(BundleError, match=file.name):
        load_bundle(folder)
    if damage == "cut":  # whoever does not check hashes is told all the same
        with pytest.raises(BundleError, match=file.name):
            Bundle(folder, bundle.manifest).open("coreml-int4")


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("kv_cache", {"capacity": 2**20}, "keys_0"),
        ("model", {"kv_heads": 1}, "keys_0"),
        ("model", {"layers": 3}, "keys_2"),
        ("model", {"hidden": 2**16}, "embeds"),
        ("head", {"ranges": [(0, 30)]}, "logits"),
    ],
)
def test_another_models_package(bundle: Bundle, part: str, changes: dict[str, object], words: str) -> None:
    other = getattr(bundle.manifest, part).model_copy(update=changes)
    lying = Bundle(bundle.path, bundle.manifest)
    lying.manifest = bundle.manifest.model_copy(update={part: other})
    with pytest.raises(BundleError, match=rf"decoder\.mlpackage: function prefill has {words} as"):
        lying.open("coreml-fp16")


def test_another_models_audio_decoder(bundle: Bundle) -> None:
    lying = Bundle(bundle.path, bundle.manifest)
    lying.manifest = of_another_decoder(bundle.manifest, "coreml-fp16")
    with pytest.raises(BundleError, match=r"\.mlpackage: function first has state_0 as"):
        lying.open_audio("coreml-fp16")


def targeted(**changes: object) -> Target:
    return load_target("coreml-fp16").model_copy(update={"prefill_chunk": CHUNK, "max_position": 64, **changes})


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_other_kinds(kind: str, tmp_path: Path) -> None:
    """LayerNorm without rotary, and norms of queries and keys."""
    source = random_checkpoint(str(write_recipe(tmp_path / "recipe", kind)))
    layout, p = Layout(PREFIX, WINDOW), 11
    target = targeted()
    emitted = coreml.emit(source.decoder(), layout, target, tmp_path, False)
    embeds = rows(p + 2 * WINDOW + 1, 5)
    interpreter = Interpreter((tmp_path / emitted.files[0]).parent, half=False)
    state = {name: value + 3 for name, value in interpreter.new_state().items()}
    found = []
    for first, last in [(0, CHUNK), (CHUNK, p), *((t, t + 1) for t in range(p, len(embeds)))]:
        size = CHUNK if first < p else 1
        chunk = np.zeros((1, size, 64), np.float32)
        chunk[0, : last - first] = embeds[first:last]
        integers = {"position": first, "prefix_len": p, "last": last - first - 1}
        inputs = {"embeds": chunk, **{name: np.array([value], np.int32) for name, value in integers.items()}}
        found.append(interpreter.functions["prefill" if first < p else "decode"](inputs, state)["logits"])
    reference = source.reference()
    round_as_half(reference, target.precision)
    expected = reference(torch.from_numpy(embeds), p, WINDOW)[0][p - 1 :].numpy()
    assert np.abs(np.stack(found[1:]) - expected).max() < 1e-4


def test_eight_bits_for_each_row(source: Checkpoint) -> None:
    weights = coreml.compressed(source.decoder(), load_target("coreml-int8"))
    assert len(weights) == 5 * LAYERS + 1
    for bits, blocks in weights.values():
        assert bits == 8
        assert blocks.scales.shape == (blocks.integers.shape[0], 1, 1)


def test_targets_that_core_ml_does_not_have_are_refused(source: Checkpoint, tmp_path: Path) -> None:
    layout = Layout(PREFIX, WINDOW)
    with pytest.raises(InputError, match="no max_position"):
        coreml.emit(source.decoder(), layout, targeted(max_position=None), tmp_path, False)
    with pytest.raises(InputError, match="fp32 for layers"):
        precision = load_target("onnx-fp32").precision
        coreml.emit(source.decoder(), layout, targeted(precision=precision), tmp_path, False)
    with pytest.raises(InputError, match="64 inputs, no multiple of 128"):
        precision = load_target("onnx-int4-b128").precision
        coreml.emit(source.decoder(), layout, targeted(precision=precision), tmp_path, False)


def test_a_state_written_in_part_is_noticed(source: Checkpoint, tmp_path: Path) -> None:
    class Partial(SelectStep):
        def forward(
            self, embeds: torch.Tensor, position: torch.Tensor, prefix_len: torch.Tensor, last: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            self.keys_0[:, :1] = self.keys_1[:, :1] + embeds.sum()
            row = embeds[0, 0] + (position + prefix_len + last)
            return row, row * 2

    with pytest.raises(ValueError, match="state keys_0 is written in part"):
        coreml.save_step(Partial(source.decoder(), Layout(PREFIX, WINDOW)), 1, tmp_path / "partial.mlpackage")
