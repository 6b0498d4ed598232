"""How the weights of an audio decoder are stored: in fewer bits, and dequantized on load."""

import contextlib
import io
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime.quantization import QuantType, quantize_dynamic

from wand_export.spec.target import AudioPrecision

_OUTPUTS = {"Conv": (1, 0), "ConvTranspose": (1, 1), "MatMul": (1, 1), "Gemm": (1, 1), "Gather": (0, 0)}
"""Operator -> which of its inputs is the weight, and the weight's axis of outputs, or of rows."""
_LEAST = 1024
"""Weights of fewer values stay as they are."""


def store(file: Path, precision: AudioPrecision, int8_arithmetic: bool) -> None:
    """Write an ONNX file again, in place, its weights at this precision; all arithmetic stays in float32.

    Convolutions, matrices and tables alone: biases, norms and Fourier bases stay float32. At "mixed" matrices are
    multiplied as integers, inputs rounded as they come, where `int8_arithmetic`; all else is float16.
    """
    if precision == "float32":
        return
    if precision == "mixed" and int8_arithmetic:
        _multiply_integers(file)
    model = ir.load(file)
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        axis = _axis(value)
        if tensor is None or axis is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _LEAST:
            continue
        weight = tensor.numpy()
        if precision == "int8":
            stored, node = _integers(name, weight, axis)
        else:
            half = ir.Value(name=f"{name}_half", const_value=ir.tensor(weight.astype(np.float16), name=f"{name}_half"))
            stored, node = [half], ir.node("Cast", [half], attributes={"to": ir.DataType.FLOAT})
        ir.convenience.replace_all_uses_with(value, node.outputs[0])
        del model.graph.initializers[name]
        for part in stored:
            model.graph.register_initializer(part)
        node.outputs[0].name = name
        model.graph.insert_before(model.graph[0], node)
    ir.save(model, file)


def _integers(name: str, weight: np.ndarray, axis: int) -> tuple[list[ir.Value], ir.Node]:
    """int8 values, one scale for each output, and the node that multiplies them."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.maximum(np.abs(weight).max(others), np.finfo(np.float32).tiny) / 127
    integers = np.rint(weight / np.expand_dims(scales, others)).astype(np.int8)
    parts = {f"{name}_int8": integers, f"{name}_scale": scales.astype(np.float32)}
    values = [ir.Value(name=part, const_value=ir.tensor(array, name=part)) for part, array in parts.items()]
    return values, ir.node("DequantizeLinear", values, attributes={"axis": axis})


def _axis(value: ir.Value) -> int | None:
    """The axis of outputs of a weight; None for what is no weight."""
    axes = set()
    for node, index in value.uses():
        place, axis = _OUTPUTS.get(node.op_type, (-1, 0))
        if index != place or (value.shape is not None and len(value.shape) < 2):
            return None
        transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0)
        axes.add(0 if transposed else axis if node.op_type != "MatMul" else len(value.shape or (0, 0)) - 1)
    return axes.pop() if len(axes) == 1 else None


def _multiply_integers(file: Path) -> None:
    # Shapes that torch inferred with its own names stop ONNX Runtime's quantizer from inferring its own.
    model = onnx.load(file)
    del model.graph.value_info[:]
    with contextlib.redirect_stdout(io.StringIO()):
        quantize_dynamic(
            model,
            file,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
