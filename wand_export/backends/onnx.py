"""ONNX: one dynamic-S graph, weights in a data file beside it, integer weights as MatMulNBits."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from wand_export.backends import Emitted
from wand_export.errors import InputError
from wand_export.graph.decoder import Decoder
from wand_export.graph.onnx_weights import DynamicLinear, store
from wand_export.graph.quantize import linears, quantize_blocks
from wand_export.graph.steps import ScatterStep
from wand_export.graph.trace import OLDEST_RUNTIME, OPSET, traced
from wand_export.graph.vocoder import Vocoder
from wand_export.layout import Layout
from wand_export.spec.audio import AudioDecoder
from wand_export.spec.target import Precision, Target

DECODER, DATA, TWIN = "decoder.onnx", "decoder.data", "twin.onnx"
_INLINE_BYTES = 1024
_INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level that multiplies integers; the others are more than twice as slow."""

_MAX_ROWS = 4096


class BlockLinear(nn.Module):
    """A linear layer whose weight is exported as ONNX Runtime's MatMulNBits. It does not run in torch."""

    def __init__(self, linear: nn.Linear, precision: Precision) -> None:
        super().__init__()
        assert isinstance(precision.block, int)
        blocks = quantize_blocks(linear.weight, precision.bits, precision.block)
        # MatMulNBits holds unsigned integers around a zero point of half the range, low nibble first.
        unsigned = (blocks.integers.to(torch.int16) + 2 ** (precision.bits - 1)).to(torch.uint8)
        if precision.bits == 4:
            unsigned = unsigned[..., 0::2] | (unsigned[..., 1::2] << 4)
        self.register_buffer("integers", unsigned.contiguous())
        self.register_buffer("scales", blocks.scales.flatten())
        self.bias = linear.bias
        self.rows = linear.out_features
        self.attributes = {
            "K": linear.in_features,
            "N": linear.out_features,
            "bits": precision.bits,
            "block_size": precision.block,
            "accuracy_level": _INT8_ACTIVATIONS,
        }

    def forward(self, x: Tensor) -> Tensor:
        """x [S, columns] -> [S, rows]."""
        bias = [] if self.bias is None else [None, None, self.bias]
        return torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            (x, self.integers, self.scales, *bias),
            self.attributes,
            dtype=torch.float32,
            shape=(*x.shape[:-1], self.rows),
            version=1,
        )


def quantize(decoder: Decoder, target: Target) -> None:
    """Replace, in place, the linear layers that the target holds as integers.

    Raises InputError for a block that MatMulNBits does not have.
    """
    for name, linear, precision in linears(decoder, target.precision):
        if precision.block == "channel":
            raise InputError(target.name, "block channel", "MatMulNBits takes blocks of 16, 32, 64 or 128")
        if precision.block is not None:
            parent, _, child = name.rpartition(".")
            setattr(decoder.get_submodule(parent), child, BlockLinear(linear, precision))


def emit(decoder: Decoder, layout: Layout, target: Target, folder: Path, with_twin: bool) -> Emitted:
    """Write decoder.onnx with decoder.data, and twin.onnx over the same data, into `folder`.

    The decoder's linear layers are replaced in place.
    """
    quantize(decoder, target)
    step_bytes = sum(t.numel() * t.element_size() for t in (*decoder.parameters(), *decoder.buffers()))
    model = export_step(decoder, layout, target.prefill_chunk)
    check_inputs(model)
    ir.save(model, folder / DECODER, external_data=DATA, size_threshold_bytes=_INLINE_BYTES)
    files = [DECODER, DATA]
    if with_twin:
        twin = export_step(decoder, None, target.prefill_chunk)
        check_inputs(twin, windowless=True)
        share_data(twin, folder)
        ir.save(twin, folder / TWIN)
        files.append(TWIN)
    return Emitted(
        files=files,
        step_bytes=step_bytes,
        emitted_by={"torch": torch.__version__.split("+")[0], "onnx": onnx.__version__, "opset": str(OPSET)},
        oldest_runtime=OLDEST_RUNTIME,
        twin=TWIN if with_twin else None,
    )


def export_step(decoder: Decoder, layout: Layout | None, chunk: int) -> ir.Model:
    """The graph contract as an ONNX model with dynamic S; without a layout, with a dynamic capacity too."""
    backbone = decoder.backbone
    capacity = layout.capacity if layout else 2 * chunk
    cache = [torch.zeros(backbone.kv_heads, capacity, backbone.head_dim) for _ in range(backbone.layers)]
    # One tensor for each input: the exporter takes an object that comes twice for one input.
    integers = [torch.zeros(1, dtype=torch.int32) for _ in range(3)]
    arguments = (torch.zeros(1, 3, backbone.hidden), *integers, cache, [c.clone() for c in cache])
    rows = {1: torch.export.Dim("S", min=1, max=_MAX_ROWS)}
    slots = {} if layout else {1: torch.export.Dim("C", min=2, max=1 << 20)}
    caches = [slots] * backbone.layers

    def per_layer(name: str) -> list[str]:
        return [f"{name}_{i}" for i in range(backbone.layers)]

    inputs = ["embeds", "position", "prefix_len", "last", *per_layer("keys"), *per_layer("values")]
    outputs = ["logits", "hidden", *per_layer("new_keys"), *per_layer("new_values")]
    names = {"input_names": inputs, "output_names": outputs}
    shapes = (rows, None, None, None, caches, caches)
    return traced(ScatterStep(decoder, layout), arguments, {**names, "dynamic_shapes": shapes})


def check_inputs(model: ir.Model, windowless: bool = False) -> None:
    """Raise ValueError unless every input is read, and each cache input by nothing but its scatter.

    The host binds a cache input and its successor to one buffer, unknown to ONNX Runtime: any other reader of the
    old cache could silently see the new one. Shape reads no data.
    """
    for value in model.graph.inputs:
        if value.name and value.name.startswith(("keys_", "values_")):
            readers = [(use.node.op_type, use.idx) for use in value.uses() if use.node.op_type != "Shape"]
            if readers != [("ScatterElements", 0)]:
                raise ValueError(f"cache input {value.name} is read by {readers}, not by one ScatterElements")
        elif not value.consumers() and not (windowless and value.name == "prefix_len"):
            raise ValueError(f"input {value.name} is read by nothing")


def share_data(model: ir.Model, folder: Path) -> None:
    """Point the initializers of a second graph at the data file of the first. Raises ValueError if they differ."""
    stored = ir.load(folder / DECODER).graph.initializers
    for name, value in model.graph.initializers.items():
        tensor = stored[name].const_value if name in stored else None
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        assert value.const_value is not None
        if not np.array_equal(tensor.numpy(), value.const_value.numpy()):
            raise ValueError(f"initializer {name} differs between the decoder and its twin")
        value.const_value = tensor
    held = [name for name, value in model.graph.initializers.items() if is_large(value.const_value)]
    if held:
        raise ValueError(f"the twin holds weights of its own: {held[0]}")


def is_large(tensor: ir.TensorProtocol | None) -> bool:
    """Whether a tensor that is not in the data file ought to be."""
    return tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes > _INLINE_BYTES


def emit_audio(vocoder: Vocoder, decoder: AudioDecoder, folder: Path) -> list[str]:
    """Write the audio decoder as one ONNX file for chunks of any length, and return its name.

    In mixed precision the linear layers of the spectra's blocks, replaced in place, multiply integers; the rest is
    float16: one more layer of integers would gain little time, and cost as much precision as all of these.
    """
    if decoder.precision == "mixed":
        for block in vocoder.spectra.blocks:
            block.up, block.down = DynamicLinear(block.up), DynamicLinear(block.down)
    chunk = torch.export.Dim("chunk", min=2, max=_MAX_ROWS)
    config, graph = vocoder.config, decoder.graphs[0]
    states = vocoder.states()
    arguments = (*vocoder.example(3), *states)
    samples = config.samples_per_code * chunk + config.noise_samples(0)
    shapes: Any = ({1: chunk + config.look_ahead}, {1: samples}, tuple({} for _ in states))
    names = {"input_names": graph.inputs, "output_names": graph.outputs, "dynamic_shapes": shapes}
    model = traced(vocoder, arguments, names)
    store(model, decoder.precision)
    file = f"{decoder.precision}.onnx"
    ir.save(model, folder / file)
    return [file]
