"""How an ONNX file stores the weights of a graph that computes in float32: narrower, and widened when it is loaded.

ONNX Runtime folds the casts away at load, so that they cost no time and the file is all that gets smaller.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor, nn

from wand_export.spec.target import AudioPrecision

Floats = npt.NDArray[np.float32]

LEAST = 1 << 14
"""Entries below which a tensor stays as it is: it may be a table that has to be exact, and costs little."""
_AXES = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 1, "Gather": 0}
"""Operations whose second input, or Gather's first, is a weight, and the axis of its outputs."""


class DynamicLinear(nn.Module):
    """A linear layer of 8-bit weights, one scale an output, and activations rounded to 8 bits at run time.

    ONNX Runtime's DynamicQuantizeMatMul has one scale for all activations: each row is first divided by its largest, so
    that a loud one costs the others no precision. It does not run in torch.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().T
        scales = weight.abs().amax(0).clamp(min=1e-12) / 127
        self.register_buffer("integers", torch.round(weight / scales).to(torch.int8).contiguous())
        self.register_buffer("scales", scales)
        self.bias, self.rows = linear.bias, linear.out_features

    def forward(self, x: Tensor) -> Tensor:
        """x [.., columns] -> [.., rows]."""
        largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-12)
        y = torch.onnx.ops.symbolic(
            "com.microsoft::DynamicQuantizeMatMul",
            (x / largest, self.integers, self.scales),
            dtype=torch.float32,
            shape=(*x.shape[:-1], self.rows),
            version=1,
        )
        return y * largest if self.bias is None else y * largest + self.bias


def store(model: ir.Model, precision: AudioPrecision) -> None:
    """Store the weights of Conv, MatMul and Gather: in float16, or in 8 bits with a scale for each output.

    Of a float32 model, those are stored in float16 that it holds exactly: a checkpoint of that type.
    """
    nodes = []
    for name, value in list(model.graph.initializers.items()):
        axis = _axis(value)
        if axis is None or value.const_value is None:
            continue
        weight = value.const_value.numpy()
        narrow = _int8(weight, axis) if precision == "int8" else _half(weight, precision == "float32")
        if narrow is None:
            continue
        stored = [_initializer(f"{name}_{i}", array) for i, array in enumerate(narrow)]
        widening = [ir.node("Cast", stored[:1], attributes={"to": ir.DataType.FLOAT})]
        if len(stored) == 2:
            widening.append(ir.node("Mul", [widening[0].outputs[0], stored[1]]))
        widened = widening[-1].outputs[0]
        widened.name, widened.dtype, widened.shape = f"{name}_wide", value.dtype, value.shape
        value.replace_all_uses_with(widened)
        del model.graph.initializers[name]
        for new in stored:
            model.graph.register_initializer(new)
        nodes += widening
    model.graph.insert_before(model.graph[0], nodes)


def _axis(value: ir.Value) -> int | None:
    """The axis of a large float32 weight's outputs; None for a tensor that is no weight."""
    tensor = value.const_value
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < LEAST or len(tensor.shape) < 2:
        return None
    axes = {_AXES.get(use.node.op_type) for use in value.uses() if use.idx == (use.node.op_type != "Gather")}
    return axes.pop() if len(axes) == 1 and len(list(value.uses())) == 1 else None


def _half(weight: Floats, exactly: bool) -> list[npt.NDArray[Any]] | None:
    half = weight.astype(np.float16)
    return [half] if np.isfinite(half).all() and not (exactly and np.any(half != weight)) else None


def _int8(weight: Floats, axis: int) -> list[npt.NDArray[Any]]:
    """Integers, and the scales that they are multiplied by."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scale = np.maximum(np.abs(weight).max(axis=others, keepdims=True), np.float32(1e-12)) / np.float32(127)
    return [np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)]


def _initializer(name: str, array: npt.NDArray[Any]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, const_value=tensor, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
