"""The static-shape transformer decoder: every backbone kind, over a fixed-capacity KV cache.

Reads top to bottom: norms, rotary, attention, MLP, layer, decoder. Learned positions are not its business: the
host adds them to the rows that it feeds. A backend that computes in float16 replaces the norms and the rotary by
those of `graph/half.py`.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wand_export.spec.recipe import Backbone


class Cache(Protocol):
    """How one layer's new rows meet its keys and values."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries q [kv_heads, group * S, head_dim] over the cache and the new k, v [kv_heads, S, head_dim].

        q is scaled. Returns [kv_heads, group * S, head_dim].
        """
        ...


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def norm(backbone: Backbone) -> nn.Module:
    """The norm of this backbone kind over the hidden size."""
    if backbone.kind == "gpt2":
        return nn.LayerNorm(backbone.hidden, eps=backbone.norm_eps)
    return RMSNorm(backbone.hidden, backbone.norm_eps)


class Rotary(nn.Module):
    """The rotary angles of positions, computed in float32."""

    inv_freq: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.register_buffer("inv_freq", self.frequencies(backbone), persistent=False)

    @staticmethod
    def frequencies(backbone: Backbone) -> Tensor:
        """Radians per position, float32 [head_dim / 2]."""
        exponent = torch.arange(0, backbone.head_dim, 2, dtype=torch.float32) / backbone.head_dim
        plain = backbone.rope_theta**-exponent
        scaling = backbone.rope_scaling
        if scaling is None:
            return plain
        # Llama 3.1: slow turns are stretched by the factor, fast ones kept, and between them it is a mixture.
        turns = scaling.original_max_position * plain / (2 * math.pi)
        kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        return torch.lerp(plain / scaling.factor, plain, kept.clamp(0, 1))

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin float32 [S, head_dim / 2] of integer positions [S]."""
        angles = positions.to(torch.float32)[:, None] * self.inv_freq
        return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [heads, S, head_dim] by cos, sin [S, head_dim / 2] (RoFormer, arXiv 2104.09864).

    Dimension d is paired with d + head_dim / 2, as transformers' Llama does.
    """
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = backbone.heads, backbone.kv_heads, backbone.head_dim
        q_size, kv_size = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.sizes = [q_size, kv_size, kv_size]
        self.qkv = nn.Linear(backbone.hidden, sum(self.sizes), bias=backbone.kind in ("qwen2", "gpt2"))
        self.out = nn.Linear(q_size, backbone.hidden, bias=backbone.kind == "gpt2")
        normed = backbone.kind == "qwen3"
        self.q_norm = RMSNorm(self.head_dim, backbone.norm_eps) if normed else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, backbone.norm_eps) if normed else nn.Identity()

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, cache: Cache) -> Tensor:
        """x [S, hidden] -> [S, hidden].

        S is left to be inferred wherever a shape is given: XNNPACK takes no reshape that computes with it.
        """
        q, k, v = self.qkv(x).split(self.sizes, dim=-1)
        q = self.q_norm(q.view(-1, self.heads, self.head_dim)).transpose(0, 1)
        k = self.k_norm(k.view(-1, self.kv_heads, self.head_dim)).transpose(0, 1)
        v = v.view(-1, self.kv_heads, self.head_dim).transpose(0, 1)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        # Query heads of a group read the same keys: they become rows of one matrix product.
        q = (q * self.head_dim**-0.5).reshape(self.kv_heads, -1, self.head_dim)
        attended = cache.attend(q, k, v).view(self.kv_heads, self.heads // self.kv_heads, -1, self.head_dim)
        return self.out(attended.permute(2, 0, 1, 3).contiguous().view(-1, self.heads * self.head_dim))


class GatedMLP(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.gate = nn.Linear(backbone.hidden, backbone.mlp, bias=False)
        self.up = nn.Linear(backbone.hidden, backbone.mlp, bias=False)
        self.down = nn.Linear(backbone.mlp, backbone.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class PlainMLP(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.up = nn.Linear(backbone.hidden, backbone.mlp)
        self.down = nn.Linear(backbone.mlp, backbone.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Layer(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.attention_norm = norm(backbone)
        self.attention = Attention(backbone)
        self.mlp_norm = norm(backbone)
        self.mlp = PlainMLP(backbone) if backbone.kind == "gpt2" else GatedMLP(backbone)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None, cache: Cache) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rotary, cache)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """Layers, final norm and head. Caches come from outside, one for each layer.

    Its modules are named by component: `layers.*.attention`, `layers.*.mlp` and `head`. rotary is None where positions
    are learned.
    """

    def __init__(self, backbone: Backbone, head_rows: int, head_bias: bool, head_norm: bool = False) -> None:
        """head_norm: whether a second norm stands between the final one and the head."""
        super().__init__()
        self.backbone = backbone
        self.layers = nn.ModuleList(Layer(backbone) for _ in range(backbone.layers))
        self.norm = norm(backbone)
        self.head_norm = norm(backbone) if head_norm else nn.Identity()
        self.head = nn.Linear(backbone.hidden, head_rows, bias=head_bias)
        self.rotary = None if backbone.kind == "gpt2" else Rotary(backbone)

    def forward(self, embeds: Tensor, positions: Tensor, last: Tensor, caches: list[Cache]) -> tuple[Tensor, Tensor]:
        """One call over S rows.

        embeds: float32 [1, S, hidden]; positions: integer [S], absolute; last: integer [1], the row to read out.
        Returns logits float32 [head_rows] and hidden float32 [hidden], the vector that the head read.
        """
        x = embeds[0]
        rotary = None if self.rotary is None else self.rotary(positions)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, rotary, cache)
        hidden = self.head_norm(self.norm(x.index_select(0, last)))
        return self.head(hidden)[0], hidden[0]
