"""Block quantization: its bound, and that ONNX Runtime reads the packed weights as we mean them."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from tests.conftest import write_recipe
from wand_export.backends.onnx import BlockLinear
from wand_export.graph.checkpoint import random_checkpoint
from wand_export.graph.quantize import quantize_blocks, round_reference
from wand_export.graph.trace import traced
from wand_export.spec.target import Precision


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [64, 70])
def test_error_is_at_most_half_a_step(bits: int, columns: int) -> None:
    weight = torch.randn(5, columns, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    blocks = quantize_blocks(weight, bits, 32)
    error = nn.functional.pad((blocks.dequantize() - weight).abs(), (0, -columns % 32)).view(5, -1, 32)
    # A value of the far sign may be cut off by up to one step, all others are rounded.
    assert (error <= blocks.scales.abs() * 1.0001).all()
    assert (error <= blocks.scales.abs() * 0.5001).float().mean() > 0.95
    assert torch.equal(blocks.dequantize()[2], torch.zeros(columns))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_onnx_runtime_multiplies_the_dequantized_weight(tmp_path: Path, bits: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 24, bias=bias)
    precision = Precision(bits=bits, block=32)
    names = {"input_names": ["x"], "output_names": ["y"]}
    ir.save(traced(BlockLinear(linear, precision), (torch.zeros(3, 96),), names), tmp_path / "m.onnx")
    x = torch.randn(3, 96)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x.numpy()})
    expected = nn.functional.linear(x, quantize_blocks(linear.weight, bits, 32).dequantize(), linear.bias)
    relative = np.abs(found - expected.detach().numpy()).max() / expected.std().item()
    assert relative < 0.05  # its activations are rounded to 8 bits
    other = nn.functional.linear(x, quantize_blocks(linear.weight.flip(1), bits, 32).dequantize(), linear.bias)
    assert np.abs(found - other.detach().numpy()).max() / expected.std().item() > 0.5


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_rounding_one_component_of_a_reference(tmp_path: Path, kind: str) -> None:
    source = random_checkpoint(str(write_recipe(tmp_path / kind, kind)))
    rows, precision = torch.randn(20, 64), Precision(bits=4, block=32)
    exact = source.reference()(rows, 8, 8)[0]
    for component in ("attention", "mlp", "head"):
        reference = source.reference()
        round_reference(reference, component, precision)
        error = (reference(rows, 8, 8)[0] - exact).pow(2).mean().sqrt() / exact.std()
        assert 0.01 < error < 0.4
