"""What the ExecuTorch backend emits and refuses, and that no broken file ends the process."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("executorch")

import torch

from tests.backends.test_onnx import assert_is_the_vocoder
from tests.conftest import of_another_decoder, write_recipe
from wand_export.backends.executorch import emit, emit_audio, lower, quantize, step_inputs
from wand_export.commands.verify import verify
from wand_export.errors import BundleError, InputError
from wand_export.graph.checkpoint import open_checkpoint, random_checkpoint
from wand_export.graph.steps import LateStep
from wand_export.graph.vocoder import describe, load_vocoder
from wand_export.host.bundle import CHECKSUMS, load_bundle
from wand_export.host.runtimes.executorch import STEP, Program
from wand_export.layout import Layout
from wand_export.spec.manifest import Head
from wand_export.spec.target import Target, load_target

FP32 = "executorch-xnnpack-fp32"
P, W = 24, 8


def target_with(**precision: object) -> Target:
    parts = {part: {"bits": 32} for part in ("attention", "mlp", "head")} | precision | {"embeddings": "fp32"}
    return Target.model_validate(
        {
            "schema_version": 1, "name": "mine", "runtime": "executorch", "delegate": "XNNPACK", "prefill_chunk": 64,
            "precision": parts, "parity": {"min_psnr_db": 0.0},
        }
    )  # fmt: skip


def played(program: Program, prefix: torch.Tensor, further: torch.Tensor) -> np.ndarray:
    """Logits after the first 11 rows of a prefix [11 or more, 64], given in one call, and after each further row."""

    def run(chunk: torch.Tensor, position: int, last: int) -> np.ndarray:
        integers = (torch.tensor([i], dtype=torch.int32) for i in (position, 11, last))
        return program.run([chunk[None], *integers])[0]

    return np.stack([run(prefix, 0, 10), *(run(row[None], 11 + g, 0) for g, row in enumerate(further))])


def test_padding_rows_are_never_seen(exported_executorch: Path, tiny: Path) -> None:
    """The session gives no padding; an app over a runtime of static shapes may."""
    program = Program(exported_executorch / FP32 / "decoder.pte", STEP, None)
    rows = torch.randn(11 + 2 * W + 3, 64, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([rows[:11], torch.full((9, 64), 9.0)])
    expected = open_checkpoint(tiny / "checkpoint").reference()(rows, 11, W)[0][10:]
    assert np.abs(played(program, padded, rows[11:]) - expected.numpy()).max() < 1e-4


def test_weights_lie_once_in_the_file(exported_executorch: Path, tiny: Path) -> None:
    data = (exported_executorch / FP32 / "decoder.pte").read_bytes()
    decoder = open_checkpoint(tiny / "checkpoint").decoder()
    for name, weight in decoder.named_parameters():
        row = weight.detach().flatten()[:64]
        if row.unique().numel() > 1:  # norms of ones are everywhere
            assert data.count(row.numpy().tobytes()) == 1, name
    artifacts = load_bundle(exported_executorch).manifest.artifacts
    for artifact in artifacts.values():
        assert 0 < artifact.bytes - artifact.step_bytes < 100_000
    assert artifacts["mixed"].step_bytes < artifacts[FP32].step_bytes / 2


def test_components_at_precisions_of_their_own(exported_executorch: Path) -> None:
    result = verify(exported_executorch)
    assert result["ok"] and [a["how"] for a in result["artifacts"]] == ["ran", "ran"]
    exact, mixed = (a.parity for a in load_bundle(exported_executorch).manifest.artifacts.values())
    assert exact is not None and mixed is not None
    assert (exact.psnr_db or 999) > 100 and exact.greedy_equal
    assert 20 < (mixed.psnr_db or 999) < 60 and set(mixed.components) == {"attention", "mlp"}


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gpt2"])
def test_every_kind_of_backbone(kind: str, tmp_path: Path) -> None:
    """Biases, normed queries and keys, LayerNorm and a plain MLP; llama is the bundle's own."""
    source = random_checkpoint(str(write_recipe(tmp_path / "recipe", kind)), 1)
    emit(source.decoder(), Layout(P, W), target_with(), tmp_path, False)
    program = Program(tmp_path / "decoder.pte", STEP, None)
    rows = torch.randn(11 + 2 * W, 64, generator=torch.Generator().manual_seed(0))
    expected = source.reference()(rows, 11, W)[0][10:]
    # XNNPACK's GELU by tanh is 5e-4 beside torch's.
    tolerance = 2e-3 if kind == "gpt2" else 1e-4
    assert np.abs(played(program, rows[:11], rows[11:]) - expected.numpy()).max() < tolerance


def test_quicker_lowering_gives_the_same_file(exported_executorch: Path, tiny: Path, tmp_path: Path) -> None:
    decoder, target = open_checkpoint(tiny / "checkpoint").decoder(), load_target(str(tiny / "mixed.toml"))
    quantize(decoder, target)
    lower(LateStep(decoder, Layout(P, W)), STEP, *step_inputs(decoder, target.prefill_chunk), tmp_path / "whole.pte")
    assert (tmp_path / "whole.pte").read_bytes() == (exported_executorch / "mixed" / "decoder.pte").read_bytes()


def test_every_linear_layer_gets_its_own_precision(tiny: Path) -> None:
    decoder = open_checkpoint(tiny / "checkpoint").decoder()
    quantize(decoder, target_with(attention={"bits": 8, "block": "channel"}, mlp={"bits": 4, "block": 32}))
    found = {}
    for name, module in decoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            found[name] = getattr(module.weight, "target_dtype", None), getattr(module.weight, "block_size", None)
    assert found.pop("head") == (None, None)
    for name, kind in found.items():
        columns = 96 if name.endswith("down") else 64
        assert kind == ((torch.int8, (1, columns)) if "attention" in name else (torch.int4, (1, 32))), name


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ({"bits": 16}, "16 bits"),
        ({"bits": 8, "block": 32}, "8 bits in blocks of 32"),
        ({"bits": 4, "block": 16}, "blocks of 16"),
        ({"bits": 4, "block": 64}, "blocks of 64 over the 96 inputs"),
    ],
)
def test_precisions_that_xnnpack_lacks(tiny: Path, precision: dict[str, object], words: str) -> None:
    decoder = open_checkpoint(tiny / "checkpoint").decoder()
    with pytest.raises(InputError, match=words):
        quantize(decoder, target_with(mlp=precision))


def test_the_audio_decoder_is_the_vocoder(exported_executorch: Path, tiny: Path) -> None:
    session = load_bundle(exported_executorch).open_audio(FP32)
    assert_is_the_vocoder(session, load_vocoder(tiny / "recipe" / "vocoder"))


def test_an_audio_decoder_that_xnnpack_cannot_store_is_refused(tiny: Path, tmp_path: Path) -> None:
    vocoder = load_vocoder(tiny / "recipe" / "vocoder")
    decoder = describe(vocoder).model_copy(update={"precision": "float16"})
    with pytest.raises(InputError, match="float16: XNNPACK stores no such audio decoder"):
        emit_audio(vocoder, decoder, tmp_path)


def test_threads_belong_to_the_process(exported_executorch: Path) -> None:
    bundle = load_bundle(exported_executorch)
    with bundle.open(FP32, threads=1), bundle.open("mixed", 1), pytest.raises(InputError, match="threads: 2"):
        bundle.open(FP32, threads=2)
    with bundle.open(FP32, threads=2) as session:
        assert np.isfinite(session.prefill(np.ones((3, 64), np.float32)).logits).all()


OPENER = """
import sys
from pathlib import Path
from wand_export.errors import BundleError
from wand_export.host.bundle import load_bundle
bundle = load_bundle(sys.argv[1], check="size")
decoder = bundle.path / sys.argv[2] / "decoder.pte"
for file in sys.argv[3:]:
    decoder.write_bytes(Path(file).read_bytes())
    try:
        bundle.open(sys.argv[2])
        print("opened", file)
    except BundleError as error:
        print(error, file=sys.stderr)
"""


def test_broken_files_past_the_hashes(exported_executorch: Path, tmp_path: Path) -> None:
    """Each is one line and no signal: ExecuTorch would end the process on some of them."""
    shutil.copytree(exported_executorch, tmp_path / "bundle")
    good = (exported_executorch / FP32 / "decoder.pte").read_bytes()
    broken = {
        "empty": b"",
        "short": good[:20],
        "truncated": good[:-1],
        "half": good[: len(good) // 2],
        "longer": good + b"\0",
        "random": np.random.default_rng(0).bytes(len(good)),
        "zeros": bytes(len(good)),
        "other": (exported_executorch / "audio" / "executorch" / "float32.pte").read_bytes(),
        **{f"flipped{i}": good[:i] + bytes([good[i] ^ 0xFF]) + good[i + 1 :] for i in range(40)},
    }
    for name, data in broken.items():
        (tmp_path / name).write_bytes(data)
    files = [str(tmp_path / name) for name in broken]
    done = subprocess.run(
        [sys.executable, "-c", OPENER, str(tmp_path / "bundle"), FP32, *files], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == len(broken) and all("decoder.pte: " in line for line in lines), done.stderr


def test_another_models_decoder(exported_executorch: Path) -> None:
    """A sound program of other shapes."""
    bundle = load_bundle(exported_executorch)
    bundle.manifest = bundle.manifest.model_copy(update={"head": Head(ranges=[(0, 30)])})
    with pytest.raises(BundleError, match=r"decoder\.pte.*other shapes"):
        bundle.open(FP32)


@pytest.mark.parametrize("changes", [{"prefix_capacity": P + 32, "capacity": P + W + 32}, {"window": 2**20 - P}])
def test_another_models_cache(exported_executorch: Path, changes: dict[str, int]) -> None:
    bundle = load_bundle(exported_executorch)
    bundle.manifest = bundle.manifest.model_copy(
        update={"kv_cache": bundle.manifest.kv_cache.model_copy(update=changes)}
    )
    with pytest.raises(BundleError, match=r"decoder\.pte.*another cache"):
        bundle.open(FP32)


def test_another_models_audio_decoder(exported_executorch: Path) -> None:
    bundle = load_bundle(exported_executorch)
    bundle.manifest = of_another_decoder(bundle.manifest, FP32)
    with pytest.raises(BundleError, match=r"\.pte.*other shapes"):
        bundle.open_audio(FP32)


@pytest.mark.parametrize("resealed", [False, True])
def test_a_broken_file_on_the_command_line(exported_executorch: Path, tmp_path: Path, resealed: bool) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported_executorch, folder)
    file = folder / FP32 / "decoder.pte"
    file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size))
    if resealed:  # as an attacker would
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        name = f"{FP32}/decoder.pte"
        lines = (folder / CHECKSUMS).read_text().splitlines()
        lines = [f"{digest}  {name}" if line.endswith(f"  {name}") else line for line in lines]
        (folder / CHECKSUMS).write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "wand_export.cli", "verify", str(folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, done.stderr) == (2, "")
    assert error["file"].endswith("decoder.pte") and ("hash" in error["value"]) != resealed
