"""Symmetric integer weights with one scale for each block along the input: the scheme of every integer target."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from wand_export.graph.decoder import Decoder
from wand_export.graph.reference import Reference
from wand_export.spec.target import COMPONENTS, Precision, Precisions


@dataclass(frozen=True)
class Blocks:
    """A quantized weight [rows, columns]: weight = integers * scales.

    integers: int8 [rows, blocks, block], the columns padded with zeros to whole blocks; scales: float32
    [rows, blocks, 1].
    """

    integers: Tensor
    scales: Tensor
    columns: int

    def dequantize(self) -> Tensor:
        """float32 [rows, columns]."""
        weight = self.integers.to(torch.float32) * self.scales
        return weight.flatten(1)[:, : self.columns].contiguous()

    def with_half_scales(self) -> "Blocks":
        """The same integers, their scales rounded to float16."""
        return replace(self, scales=self.scales.half().float())


def quantize_blocks(weight: Tensor, bits: int, block: int | Literal["channel"]) -> Blocks:
    """Round a float32 weight [rows, columns] to signed integers of 4 or 8 bits; block "channel" is a whole row.

    The scale takes the value of largest magnitude in a block to -2^(bits-1), the one end of the range that is
    a step wider than the other, as llama.cpp's Q4_0 and ONNX Runtime's MatMulNBits quantizer do.
    """
    rows, columns = weight.shape
    block = columns if block == "channel" else block
    padded = nn.functional.pad(weight, (0, -columns % block)).view(rows, -1, block)
    extreme = padded.gather(2, padded.abs().argmax(dim=2, keepdim=True))
    limit = 2 ** (bits - 1)
    scales = extreme / -limit
    inverse = torch.where(scales == 0, 0.0, 1 / scales)
    integers = (padded * inverse).round().clamp(-limit, limit - 1).to(torch.int8)
    return Blocks(integers, scales, columns)


def component_of(name: str) -> str | None:
    """Which component a module of the decoder belongs to, by its name."""
    return next((component for component in COMPONENTS if component in name.split(".")), None)


def linears(decoder: Decoder, precisions: Precisions) -> list[tuple[str, nn.Linear, Precision]]:
    """Every linear layer of the decoder: its name, itself, and the precision that its component asks for."""
    found = []
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear):
            component = component_of(name)
            assert component is not None, name
            found.append((name, module, getattr(precisions, component)))
    return found


def rounded(weight: Tensor, precision: Precision) -> Tensor:
    """A float32 weight [rows, columns] as a target holds it: float32 [rows, columns]."""
    if precision.block is not None:
        return quantize_blocks(weight, precision.bits, precision.block).dequantize()
    return weight.half().float() if precision.bits == 16 else weight


def rounded_in_half(weight: Tensor, precision: Precision) -> Tensor:
    """The same, in an artifact whose floats, scales included, are float16."""
    if precision.block is not None:
        return quantize_blocks(weight, precision.bits, precision.block).with_half_scales().dequantize()
    return weight.half().float()


Rounding = Callable[[Tensor, Precision], Tensor]


def round_reference(reference: Reference, component: str, precision: Precision, rounding: Rounding = rounded) -> None:
    """Give one component of a reference, in place, the values that its weights have in an artifact."""
    if component == "head":
        reference.head = rounding(reference.head, precision)
        return
    named = {"attention": ("self_attn", "attn"), "mlp": ("mlp",)}[component]
    for name, module in reference.model.named_modules():
        if any(part in named for part in name.split(".")) and isinstance(module, (nn.Linear, Conv1D)):
            transposed = isinstance(module, Conv1D)  # transformers' GPT-2 keeps weights as [in, out]
            weight = rounding(module.weight.T if transposed else module.weight, precision)
            module.weight = nn.Parameter(weight.T if transposed else weight, requires_grad=False)


def round_as_half(reference: Reference, precisions: Precisions) -> None:
    """Give a reference, in place, all the values that an artifact of these precisions and float16 stores.

    Beside the weights these are norms and biases, and the rotary's cosines and sines, which lie in a table.
    """
    for component in COMPONENTS:
        round_reference(reference, component, getattr(precisions, component), rounded_in_half)
    for parameter in reference.model.parameters():
        if parameter.dim() == 1:
            parameter.data = parameter.data.half().float()
    if reference.bias is not None:
        reference.bias = reference.bias.half().float()
    if hasattr(reference.model, "rotary_emb"):
        reference.model.rotary_emb.register_forward_hook(
            lambda module, inputs, output: tuple(tensor.half().float() for tensor in output)
        )
