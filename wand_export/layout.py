"""The WAND law: which slot a token takes and which tokens a query sees.

A request has `prefix_len` = p conditioning tokens (p <= P) followed by generated tokens. Token t (0-based,
absolute) is generated token g = t - p when t >= p. The KV buffer has C = P + W slots: P for the prefix, W
as a ring for the last W generated tokens, the query included.

    slot(t)    = t  if t < p,  else  P + g mod W
    sees(t, s) = s <= t and (s < p or s > t - W)

Every function takes Python ints, numpy arrays or torch tensors alike and broadcasts: integer arithmetic and
comparisons only, so the same lines run in tests, in masks for training and inside exported graphs. Remainders
are only taken of non-negative numbers, because runtimes disagree about negative ones.

Source: WAND, arXiv 2604.08558, section 3 (prefix attention plus a sliding window over generated tokens).
"""

from dataclasses import dataclass
from typing import Any

SLOT_MULTIPLE = 32

Integer = Any
"""An int, or an integer numpy array or torch tensor."""

Boolean = Any
"""A bool, or a boolean numpy array or torch tensor."""


@dataclass(frozen=True)
class Layout:
    """The static shape of a KV buffer: P prefix slots followed by a ring of W slots.

    Raises ValueError if W or P is below 1.
    """

    prefix_capacity: int
    window: int

    def __post_init__(self) -> None:
        if self.window < 1 or self.prefix_capacity < 1:
            raise ValueError(f"window {self.window} and prefix {self.prefix_capacity} must be at least 1")

    @classmethod
    def fitting(cls, prefix: int, window: int) -> "Layout":
        """The smallest layout that holds `prefix` tokens and whose capacity is a multiple of 32."""
        return cls(prefix + -(prefix + window) % SLOT_MULTIPLE, window)

    @property
    def capacity(self) -> int:
        """C = P + W, in slots."""
        return self.prefix_capacity + self.window

    def slot(self, t: Integer, prefix_len: Integer) -> Integer:
        """The slot that token t takes."""
        g = t - prefix_len
        ring = self.prefix_capacity + (g * (g >= 0)) % self.window
        return t * (g < 0) + ring * (g >= 0)

    def sees_after_write(self, t: Integer, slot: Integer, prefix_len: Integer) -> Boolean:
        """Whether the query at t sees `slot` once its own row, and those before it, have been written."""
        in_prefix = (slot < prefix_len) & (slot <= t)
        r = slot - self.prefix_capacity
        in_ring = (r >= 0) & (r <= t - prefix_len)
        return in_prefix | in_ring

    def sees_before_write(self, t: Integer, slot: Integer, prefix_len: Integer, first: Integer) -> Boolean:
        """Whether the query at t sees `slot` of the cache as it was before the call whose first row is at `first`.

        The rows of the call itself are not in the cache yet: among them, row j is seen from row i iff j <= i.
        """
        in_prefix = (slot < prefix_len) & (slot < first)
        r = slot - self.prefix_capacity
        g = t - prefix_len
        leaving = (g * (g >= 0)) % self.window
        in_ring = (r >= 0) & (r < g) & (r != leaving)
        return in_prefix | in_ring


def sees(t: Integer, s: Integer, prefix_len: Integer, window: Integer) -> Boolean:
    """Whether the query at absolute position t attends token s (W counts the query itself)."""
    return (s <= t) & ((s < prefix_len) | (s > t - window))


def kv_bytes(tokens: int, layers: int, kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Bytes of keys and values held for `tokens` slots: KV_FORMULA."""
    return tokens * layers * 2 * kv_heads * head_dim * itemsize


KV_FORMULA = "slots x layers x 2 x kv_heads x head_dim x itemsize"
