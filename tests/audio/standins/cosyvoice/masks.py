"""Masks that look into their own values, which no graph can."""

import torch
from torch import Tensor


def make_pad_mask(lengths: Tensor, size: int = 0) -> Tensor:
    size = size or int(lengths.max().item())
    return torch.arange(size)[None] >= lengths[:, None]


def add_optional_chunk_mask(
    x: Tensor, mask: Tensor, dynamic: bool, left: bool, decoding: int, size: int, chunks: int
) -> Tensor:
    if size > 0:
        place = torch.arange(x.shape[1])
        mask = mask & (place[None] < (place[:, None] // size + 1) * size)[None]
    if (mask.sum(-1) == 0).sum().item() != 0:
        raise ValueError("a place that sees nothing")
    return mask
