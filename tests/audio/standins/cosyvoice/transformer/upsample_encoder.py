"""Attention over chunks, a convolution that reads ahead, and two frames a token."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosyvoice.masks import add_optional_chunk_mask, make_pad_mask


class UpsampleConformerEncoder(nn.Module):
    def __init__(self, input_size: int, output_size: int, static_chunk_size: int) -> None:
        super().__init__()
        self.static_chunk_size, self._size = static_chunk_size, output_size
        self.ahead = nn.Conv1d(input_size, output_size, 4)
        self.qkv = nn.Linear(output_size, 3 * output_size)
        self.up = nn.Conv1d(output_size, output_size, 5)
        self.norm = nn.LayerNorm(output_size)

    def output_size(self) -> int:
        return self._size

    def forward(self, x: Tensor, lengths: Tensor, streaming: bool = False) -> tuple[Tensor, Tensor]:
        mask = ~make_pad_mask(lengths, x.shape[1])[:, None]
        mask = add_optional_chunk_mask(x, mask, False, False, 0, self.static_chunk_size if streaming else 0, -1)
        x = functional.leaky_relu(self.ahead(functional.pad(x.transpose(1, 2), (0, 3)))).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x))[:, None].chunk(3, dim=3)
        x = x + functional.scaled_dot_product_attention(q, k, v, mask[:, None])[:, 0]
        wide = functional.pad(x.transpose(1, 2).repeat_interleave(2, dim=2), (4, 0))
        return self.up(wide).transpose(1, 2), torch.ones(1)
