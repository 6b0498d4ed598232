"""What a decoder needs to survive float16, whose largest number is 65,504 and whose integers are exact to 2048.

- Rotary angles grow with the position: they are computed here, in float32, and only their cosines and sines, in a
  table with a row for each position, reach the graph.
- The mean square of a norm overflows from |x| = 256 on: the row is divided by its largest magnitude a first. What is
  then added to the mean square is (sqrt(eps) / a)^2: a^2 would overflow in its turn, and eps alone is a denormal.
- The mask is finite: see MASKED in graph/steps.py.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from wand_export.graph.checkpoint import Checkpoint, expected_shapes
from wand_export.graph.decoder import Decoder, RMSNorm, Rotary
from wand_export.spec.target import COMPONENTS, Target

_OVERFLOWS = 65520.0
"""The smallest number that float16 rounds to infinity."""
_SMALLEST = 1e-3
"""A row whose largest magnitude is below it is not scaled up further."""


class UnitRMS(nn.Module):
    """x / sqrt(mean(x^2) + eps) along the last axis; no value on the way leaves float16 while |x| < 65,504."""

    root: Tensor

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.register_buffer("root", torch.tensor([math.sqrt(eps)]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        a = x.abs().amax(dim=-1, keepdim=True).clamp(min=_SMALLEST)
        y, floor = x / a, self.root / a
        return y * torch.rsqrt((y * y).mean(dim=-1, keepdim=True) + floor * floor)


class HalfRMSNorm(nn.Module):
    """RMSNorm, scaled."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight, self.unit = norm.weight, UnitRMS(norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x) * self.weight


class HalfLayerNorm(nn.Module):
    """LayerNorm over the last axis, scaled."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.unit = norm.weight, norm.bias, UnitRMS(norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x - x.mean(dim=-1, keepdim=True)) * self.weight + self.bias


class RotaryTable(nn.Module):
    """The rotary angles of positions 0 to rows - 1, looked up."""

    table: Tensor

    def __init__(self, rotary: Rotary, rows: int) -> None:
        super().__init__()
        self.register_buffer("table", torch.cat(rotary(torch.arange(rows)), dim=1), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin float32 [S, head_dim / 2] of integer positions [S]."""
        cos, sin = self.table.index_select(0, positions).chunk(2, dim=1)
        return cos, sin


def prepare(decoder: Decoder, max_position: int) -> None:
    """Replace, in place, the norms and the rotary of a decoder by those of this module.

    max_position: positions that the rotary table serves.
    """
    for parent in list(decoder.modules()):
        for name, child in parent.named_children():
            if isinstance(child, RMSNorm):
                setattr(parent, name, HalfRMSNorm(child))
            elif isinstance(child, nn.LayerNorm):
                setattr(parent, name, HalfLayerNorm(child))
    if decoder.rotary is not None:
        decoder.rotary = RotaryTable(decoder.rotary, max_position)


def needs_half(target: Target) -> bool:
    """Whether a target computes in float16, or keeps weights in it."""
    return target.runtime == "coreml" or any(getattr(target.precision, part).bits == 16 for part in COMPONENTS)


def beyond_half(source: Checkpoint) -> Iterator[tuple[str | None, str, int]]:
    """The first row, or id, of each tensor that float16 cannot hold: table (None for weights), tensor, row.

    Reads every tensor. Raises CheckpointError for NaN and infinity.
    """
    recipe = source.recipe
    tables = {table.tensor: name for name, table in recipe.tables.items()}
    for tensor in expected_shapes(recipe, source.backbone):
        if (row := _first_beyond(source.tensor(tensor))) is not None:
            yield tables.get(tensor), tensor, row


def _first_beyond(tensor: Tensor) -> int | None:
    rows = (tensor.abs() >= _OVERFLOWS).flatten(1).any(1) if tensor.dim() > 1 else tensor.abs() >= _OVERFLOWS
    return int(rows.nonzero()[0]) if rows.any() else None
