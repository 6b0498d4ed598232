"""How new rows meet the KV cache, and the graph contract over each way: what a backend chooses by name.

    step(embeds, position, prefix_len, last) -> logits, hidden     with keys and values as state

embeds float32 [1, S, hidden]; position (of the first row), prefix_len, last (the row to read out) int32 [1]; logits
float32 [head_rows]; hidden float32 [hidden]; keys and values float32 [kv_heads, C, head_dim] for each layer.
"""

import torch
from torch import Tensor, nn

from wand_export.graph.decoder import Decoder
from wand_export.layout import Layout

MASKED = -1e4
"""What is added to the score of an unseen slot: finite, and still representable in float16."""


class ScatterCache:
    """Write-then-attend: new rows are scattered into their slots, then every seen slot is attended.

    keys and values, [kv_heads, C, head_dim], are replaced by their successors, never changed in place.
    """

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor, seen: Tensor) -> None:
        """slots: int64 [S]; seen: bool [S, C]."""
        self.keys, self.values = keys, values
        self.slots = slots[None, :, None]
        self.bias = torch.where(seen, 0.0, MASKED)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Cache.attend."""
        index = self.slots.expand_as(k)
        self.keys = torch.scatter(self.keys, 1, index, k)
        self.values = torch.scatter(self.values, 1, index, v)
        kv_heads, capacity, _ = self.keys.shape
        scores = torch.matmul(q, self.keys.transpose(1, 2))
        scores = scores.view(kv_heads, -1, k.shape[1], capacity) + self.bias
        weights = torch.softmax(scores, dim=-1).view(kv_heads, -1, capacity)
        return torch.matmul(weights, self.values)


class ScatterStep(nn.Module):
    """The graph contract over a ScatterCache: caches go in and come out.

    With layout None there is no window: the cache's own size is the prefix capacity, and every token is prefix.
    """

    def __init__(self, decoder: Decoder, layout: Layout | None) -> None:
        super().__init__()
        self.decoder, self.layout = decoder, layout

    def forward(
        self,
        embeds: Tensor,
        position: Tensor,
        prefix_len: Tensor,
        last: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """embeds float32 [1, S, hidden]; position, prefix_len, last int32 [1]; keys, values [kv_heads, C, head_dim].

        Returns logits [head_rows], hidden [hidden], and the new keys and values.
        """
        capacity = keys[0].shape[1]
        t = position.to(torch.int64) + torch.arange(embeds.shape[1])
        p = prefix_len.to(torch.int64)
        slot = torch.arange(capacity)
        if self.layout is None:
            slots, seen = t, slot <= t[:, None]
        else:
            slots, seen = self.layout.slot(t, p), self.layout.sees_after_write(t[:, None], slot, p)
        caches = [ScatterCache(k, v, slots, seen) for k, v in zip(keys, values, strict=True)]
        logits, hidden = self.decoder(embeds, t, last, list(caches))
        return logits, hidden, [c.keys for c in caches], [c.values for c in caches]


class LateCache:
    """Attend-then-write: queries attend the cache as it was and the call's own rows, which are written last.

    After attend, `rows` holds the call's keys and values, each [kv_heads, S, head_dim].
    """

    rows: tuple[Tensor, Tensor]

    def __init__(self, keys: Tensor, values: Tensor, bias: Tensor) -> None:
        """bias: float32 [group * S, C + S], added to the scores of the cache's slots and then the call's own rows."""
        self.keys, self.values, self.bias = keys, values, bias

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Cache.attend.

        One product over cache and rows, though it copies the cache: of two, the weights would have to be sliced, which
        XNNPACK leaves to others. Products of four dimensions it does, too.
        """
        self.rows = k, v
        keys, values = torch.cat([self.keys, k], dim=1), torch.cat([self.values, v], dim=1)
        weights = torch.softmax(torch.bmm(q, keys.transpose(1, 2)) + self.bias, dim=-1)
        return torch.bmm(weights, values)


class LateStep(nn.Module):
    """The graph contract over a LateCache: keys and values are buffers `keys_0`, `values_0` and so on.

    Without a batch axis, which would cost a copy of the whole cache for every layer at every step in ExecuTorch.
    """

    def __init__(self, decoder: Decoder, layout: Layout) -> None:
        super().__init__()
        self.decoder, self.layout = decoder, layout
        self.group = decoder.backbone.heads // decoder.backbone.kv_heads
        shape = (decoder.backbone.kv_heads, layout.capacity, decoder.backbone.head_dim)
        for i in range(decoder.backbone.layers):
            self.register_buffer(f"keys_{i}", torch.zeros(shape), persistent=False)
            self.register_buffer(f"values_{i}", torch.zeros(shape), persistent=False)

    def forward(self, embeds: Tensor, position: Tensor, prefix_len: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """See the top of this file."""
        rows = torch.arange(embeds.shape[1])
        first, p = position.to(torch.int64), prefix_len.to(torch.int64)
        t = first + rows
        cached = self.layout.sees_before_write(t[:, None], torch.arange(self.layout.capacity), p, first)
        seen = torch.cat([cached, rows <= rows[:, None]], dim=1)
        bias = torch.where(seen, 0.0, MASKED).repeat(self.group, 1)
        buffers = [
            (self.get_buffer(f"keys_{i}"), self.get_buffer(f"values_{i}")) for i in range(len(self.decoder.layers))
        ]
        caches = [LateCache(keys, values, bias) for keys, values in buffers]
        logits, hidden = self.decoder(embeds, t, last, list(caches))
        slots = self.layout.slot(t, p)
        for cache in caches:
            for buffer, new in zip((cache.keys, cache.values), cache.rows, strict=True):
                # Not buffer[:, slots] = new, which fails in ExecuTorch for more than one row.
                torch.ops.aten.index_put_.default(buffer, [None, slots], new)
        return logits, hidden


class SelectCache:
    """Write-then-attend: each slot keeps what it holds or takes a new row, then every seen slot is attended.

    No write has an index that is known at run time only. keys and values, [1, kv_heads, C, head_dim], are replaced by
    their successors.
    """

    def __init__(self, keys: Tensor, values: Tensor, taken: Tensor, row: Tensor, bias: Tensor) -> None:
        """taken: bool [C, 1], which slots take a new row; row: integers [C], which one; bias: [group * S, C]."""
        self.keys, self.values = keys, values
        self.taken, self.row, self.bias = taken, row, bias

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """See Cache.attend. Products of four dimensions, the layout of the states."""
        if k.shape[1] > 1:
            k, v = k.index_select(1, self.row), v.index_select(1, self.row)
        self.keys = torch.where(self.taken, k[None], self.keys)
        self.values = torch.where(self.taken, v[None], self.values)
        weights = torch.softmax(torch.matmul(q[None], self.keys.transpose(2, 3)) + self.bias, dim=-1)
        return torch.matmul(weights, self.values)[0]


class SelectStep(nn.Module):
    """The graph contract over a SelectCache: keys and values are buffers `keys_0`, `values_0` and so on.

    Each is [1, kv_heads, C, head_dim], four axes as Core ML's Neural Engine wants its states. Integers stay int32.
    """

    def __init__(self, decoder: Decoder, layout: Layout) -> None:
        super().__init__()
        self.decoder, self.layout = decoder, layout
        self.group = decoder.backbone.heads // decoder.backbone.kv_heads
        shape = (1, decoder.backbone.kv_heads, layout.capacity, decoder.backbone.head_dim)
        for i in range(decoder.backbone.layers):
            self.register_buffer(f"keys_{i}", torch.zeros(shape), persistent=False)
            self.register_buffer(f"values_{i}", torch.zeros(shape), persistent=False)

    def forward(self, embeds: Tensor, position: Tensor, prefix_len: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """See the top of this file."""
        rows = torch.arange(embeds.shape[1], dtype=torch.int32)
        slot = torch.arange(self.layout.capacity, dtype=torch.int32)
        t = position + rows
        takes = slot[:, None] == self.layout.slot(t, prefix_len)
        row = (takes * rows).amax(dim=1)
        taken = takes.any(dim=1)[:, None]
        seen = self.layout.sees_after_write(t[:, None], slot, prefix_len)
        bias = torch.where(seen, 0.0, MASKED).repeat(self.group, 1)
        buffers = [
            (self.get_buffer(f"keys_{i}"), self.get_buffer(f"values_{i}")) for i in range(len(self.decoder.layers))
        ]
        caches = [SelectCache(keys, values, taken, row, bias) for keys, values in buffers]
        logits, hidden = self.decoder(embeds, t, last, list(caches))
        for (keys, values), cache in zip(buffers, caches, strict=True):
            keys[:] = cache.keys
            values[:] = cache.values
        return logits, hidden
