"""What float16 breaks, and the forms that survive it: each naive form fails, as a package run in float16."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.conftest import KINDS, write_checkpoint, write_recipe
from wand_export.commands.export import export
from wand_export.errors import CheckpointError
from wand_export.graph import half, steps
from wand_export.graph.checkpoint import random_checkpoint
from wand_export.graph.decoder import Attention, Decoder, RMSNorm, Rotary
from wand_export.host.bundle import load_bundle
from wand_export.host.runtimes.coreml_interpreter import Interpreter
from wand_export.layout import Layout
from wand_export.spec.recipe import Backbone

pytest.importorskip("coremltools")
from wand_export.backends import coreml

LAYOUT = Layout(20, 12)


def in_half(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], folder: Path) -> dict[str, np.ndarray]:
    """What a module gives once converted to a float16 package and interpreted as such."""
    coreml.save_module(module, inputs, outputs, folder / "module.mlpackage", float16=True)
    function = Interpreter(folder / "module.mlpackage", half=True).functions["main"]
    return function({name: tensor.numpy() for name, tensor in inputs.items()}, {})


class NaiveRMSNorm(nn.Module):
    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + self.eps) * self.weight


def large_rows() -> Tensor:
    """Rows of magnitude 0, 1e-2, 1, 300 and 30,000."""
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    return rows / rows.abs().amax(1, keepdim=True) * torch.tensor([0, 1e-2, 1, 300, 3e4])[:, None]


@pytest.mark.parametrize("norm", [RMSNorm(64, 1e-6), nn.LayerNorm(64, eps=1e-5)], ids=["rms", "layer"])
def test_scaled_norms_survive_large_rows(norm: nn.Module, tmp_path: Path) -> None:
    x = large_rows()
    scaled = half.HalfRMSNorm(norm) if isinstance(norm, RMSNorm) else half.HalfLayerNorm(norm)
    with torch.no_grad():
        expected = norm(x)
        assert torch.allclose(scaled(x), expected, atol=1e-5)
    found = in_half(scaled, {"x": x}, ["y"], tmp_path)["y"]
    assert np.allclose(found, expected.numpy(), rtol=5e-3, atol=5e-3)


def test_a_naive_norm_overflows(tmp_path: Path) -> None:
    found = in_half(NaiveRMSNorm(RMSNorm(64, 1e-6)), {"x": large_rows()}, ["y"], tmp_path)["y"]
    assert np.abs(found[2]).max() > 1
    assert not np.abs(found[3:]).any()  # the mean square is infinite


BACKBONE = Backbone(kind="llama", layers=1, hidden=64, heads=4, kv_heads=2, head_dim=16, mlp=96)
POSITIONS = torch.tensor([0, 7, 3001, 10_007], dtype=torch.int32)


def test_a_rotary_table_is_right_at_any_position(tmp_path: Path) -> None:
    cos, sin = Rotary(BACKBONE)(POSITIONS)
    table = half.RotaryTable(Rotary(BACKBONE), 16384)
    assert all(torch.equal(*pair) for pair in zip(table(POSITIONS), (cos, sin), strict=True))
    found = in_half(table, {"positions": POSITIONS}, ["cos", "sin"], tmp_path)
    assert np.abs(found["cos"] - cos.numpy()).max() < 1e-3
    assert np.abs(found["sin"] - sin.numpy()).max() < 1e-3


def test_rotary_angles_in_float16_are_wrong(tmp_path: Path) -> None:
    found = in_half(Rotary(BACKBONE), {"positions": POSITIONS}, ["cos", "sin"], tmp_path)["cos"]
    error = np.abs(found - Rotary(BACKBONE)(POSITIONS)[0].numpy()).max(axis=1)
    assert error[0] < 1e-3
    assert error[2:].min() > 0.1


def lowest_values(decoder: Decoder, folder: Path) -> dict[str, float]:
    """The lowest value among all results of a decode step in float16, by op."""
    coreml.save_step(steps.SelectStep(decoder, LAYOUT), 1, folder / "step.mlpackage")
    interpreter = Interpreter(folder / "step.mlpackage", half=True)
    lowest: dict[str, float] = {}

    def observe(kind: str, name: str, value: np.ndarray) -> None:
        lowest[kind] = min(lowest.get(kind, 0.0), float(value.min()))

    integers = {name: np.array([value], np.int32) for name, value in (("position", 5), ("prefix_len", 3), ("last", 0))}
    embeds = np.ones((1, 1, decoder.backbone.hidden), np.float32)
    interpreter.functions["main"]({"embeds": embeds, **integers}, interpreter.new_state(), observe)
    return lowest


@pytest.mark.parametrize(("masked", "lowest"), [(steps.MASKED, -1e4), (torch.finfo(torch.float32).min, -np.inf)])
def test_the_mask_stays_finite(masked: float, lowest: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "MASKED", masked)
    decoder = random_checkpoint(str(write_recipe(tmp_path / "recipe"))).decoder()
    half.prepare(decoder, 32)
    assert lowest_values(decoder, tmp_path)["select"] == lowest


@pytest.mark.parametrize("kind", KINDS)
def test_a_prepared_decoder_is_the_decoder(kind: str, tmp_path: Path) -> None:
    source = random_checkpoint(str(write_recipe(tmp_path / kind, kind)))
    plain, prepared = source.decoder(), source.decoder()
    half.prepare(prepared, 64)
    left = [module for module in prepared.modules() if isinstance(module, (RMSNorm, nn.LayerNorm, Rotary))]
    assert left == []
    assert any(isinstance(module, Attention) for module in prepared.modules())
    embeds = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(1))
    integers = [torch.tensor([value], dtype=torch.int32) for value in (0, 9, 8)]
    with torch.no_grad():
        logits = [steps.SelectStep(decoder, LAYOUT)(embeds, *integers)[0] for decoder in (plain, prepared)]
    assert torch.allclose(*logits, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "row", "target", "words"),
    [
        ("text.weight", 3, "onnx-int4", None),
        ("text.weight", 3, "coreml-int4", "row 3 of text.weight"),
        ("lm.layers.1.mlp.down_proj.weight", 5, "onnx-int4", None),
        ("lm.layers.1.mlp.down_proj.weight", 5, "coreml-fp16", "row 5 of lm.layers.1.mlp.down_proj.weight"),
        ("head.bias", 7, "coreml-int8", "row 7 of head.bias"),
    ],
)
@pytest.mark.parametrize("value", [1e5, -65520.0, 65519.0])
def test_numbers_beyond_float16(
    tmp_path: Path, name: str, row: int, target: str, words: str | None, value: float
) -> None:
    """A table that has one stays float32; what computes in float16 is refused it by row."""
    recipe = write_recipe(tmp_path / "recipe")
    tensors = write_checkpoint(tmp_path / "c", recipe)
    tensors[name][row] = value
    save_file(tensors, tmp_path / "c" / "model.safetensors")

    def planned() -> dict[str, Any]:
        return export(tmp_path / "c", tmp_path / "o", ["onnx-int8", target], dry_run=True)

    if words is not None and abs(value) > 65519:
        with pytest.raises(CheckpointError, match=words) as raised:
            planned()
        assert target in str(raised.value)
        return
    kept = name == "text.weight" and abs(value) > 65519
    manifest = planned()
    assert manifest["tables"]["text"]["dtype"] == ("float32" if kept else "float16")
    assert manifest["tables"]["speech"]["dtype"] == "float16"
    assert any("row 3 of text.weight" in warning for warning in manifest["warnings"]) == kept


def test_a_table_beyond_float16_is_whole_in_its_bundle(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    tensors = write_checkpoint(tmp_path / "c", recipe)
    tensors["speech.weight"][35] = 1e5
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    export(tmp_path / "c", tmp_path / "o", ["onnx-int8"], allow_low_parity=True)
    bundle = load_bundle(tmp_path / "o")
    assert bundle.embed("speech", [35]).max() == 1e5
    assert {name: table.dtype for name, table in bundle.manifest.tables.items()} == {
        "text": "float16", "speech": "float32"
    }  # fmt: skip
