"""The slope at a time: causal convolutions, and attention over chunks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cosyvoice.masks import add_optional_chunk_mask


class CausalConditionalDecoder(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, channels: int, static_chunk_size: int, num_decoding_left_chunks: int
    ) -> None:
        super().__init__()
        self.static_chunk_size = static_chunk_size
        self.enter = nn.Conv1d(in_channels, channels, 3)
        self.time = nn.Linear(1, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.leave = nn.Conv1d(channels, out_channels, 1)

    def forward(
        self, x: Tensor, mask: Tensor, mu: Tensor, t: Tensor, spks: Tensor, cond: Tensor, streaming: bool = False
    ) -> Tensor:
        x = torch.cat([x, mu, spks[:, :, None].repeat(1, 1, x.shape[2]), cond], 1)
        x = self.enter(functional.pad(x, (2, 0))).transpose(1, 2) + self.time(t[:, None])[:, None]
        size = self.static_chunk_size if streaming else 0
        seen = add_optional_chunk_mask(x, mask.bool(), False, False, 0, size, -1)
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=3)
        x = x + functional.scaled_dot_product_attention(q, k, v, seen[:, None])[:, 0]
        return self.leave(functional.mish(x).transpose(1, 2)) * mask
