"""Tables of integers from a safetensors file: tries, replacements and runs of code points.

Every table is searched by halves and checked once, when it is read: afterwards no lookup can leave it, whatever the
file holds. Text is a list of code points throughout.
"""

from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from wand_export.errors import BundleError
from wand_export.spec.pieces import LAST_CODE_POINT

LONGEST_REPLACEMENT = 64
"""Code points that one replacement may write: a file must not turn a short text into gigabytes."""

Integers = npt.NDArray[np.int32] | npt.NDArray[np.uint8]


class Tables:
    """The tensors of a file by name, each of one dimension."""

    def __init__(self, file: Path) -> None:
        """Raises BundleError if the file is missing or unreadable."""
        self.file = file
        try:
            opened: Any = safe_open(file, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise BundleError(file, f"unreadable: {error}", "export the bundle again") from error
        self._tensors = opened
        self._names = set(opened.keys())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def integers(self, name: str, dtype: Literal["I32", "U8"] = "I32") -> Integers:
        """A tensor [n]. Raises BundleError if it is missing or of another kind."""
        self.require(name, name in self._names, "missing")
        kind = self._tensors.get_slice(name)
        self.require(name, kind.get_dtype() == dtype and len(kind.get_shape()) == 1, f"not one row of {dtype}")
        found: Integers = self._tensors.get_tensor(name)
        return found

    def offsets(self, name: str, count: int, size: int) -> Integers:
        """A tensor [count + 1] that rises from 0 to size: where each of `count` stretches begins and ends."""
        found = self.integers(name)
        whole = len(found) == count + 1 > 0 and found[0] == 0 and found[-1] == size
        self.require(name, bool(whole and (found[1:] >= found[:-1]).all()), "does not rise from the first to the last")
        return found

    def below(self, name: str, limit: int, least: int = 0) -> Integers:
        """A tensor [n] of numbers from `least` to limit - 1."""
        found = self.integers(name)
        self.require(name, bool(((found >= least) & (found < limit)).all()), f"not within {least} to {limit - 1}")
        return found

    def require(self, name: str, holds: bool, why: str) -> None:
        """Raises BundleError, naming the tensor, unless what is expected of it holds."""
        if not holds:
            raise BundleError(self.file, f"tensor {name}: {why}", "export the bundle again")


def find(values: memoryview, wanted: int, low: int, high: int) -> int:
    """The place of a number in the sorted values[low:high], or -1."""
    place = bisect_left(values, wanted, low, high)
    return place if place < high and values[place] == wanted else -1


class Trie:
    """Keys of integers, each with a value. The edges of node n are start[n] to start[n + 1] - 1, sorted by symbol."""

    def __init__(self, tables: Tables, name: str, values: int) -> None:
        """values: the limit of what keys stand for. Raises BundleError where an edge or a value leads nowhere."""
        value = tables.below(f"{name}.value", values, -1)
        symbol, following = tables.integers(f"{name}.symbol"), tables.below(f"{name}.next", len(value))
        tables.require(f"{name}.next", len(value) > 0 and len(following) == len(symbol), "no edges of a trie")
        start = tables.offsets(f"{name}.start", len(value), len(symbol))
        # Nodes lead to later nodes only, so that no key is endless, and nothing leads to the root.
        node = np.repeat(np.arange(len(value)), np.diff(start))
        tables.require(f"{name}.next", bool((following > node).all()), "leads back")
        self._start, self._symbol = start.data, symbol.data
        self._next, self._value = following.data, value.data

    def child(self, node: int, symbol: int) -> int:
        """The node that a symbol leads to, or 0."""
        edge = find(self._symbol, symbol, self._start[node], self._start[node + 1])
        return self._next[edge] if edge >= 0 else 0

    def value(self, node: int) -> int:
        """What the key that ends in a node stands for, or -1."""
        return self._value[node]

    def longest(self, text: list[int], at: int) -> tuple[int, int]:
        """The value and the end of the longest key that stands in a text at a place, or (-1, at)."""
        node, value, end = 0, -1, at
        for place in range(at, len(text)):
            node = self.child(node, text[place])
            if node == 0:
                break
            if self._value[node] >= 0:
                value, end = self._value[node], place + 1
        return value, end


class Replacement:
    """Keys that are written otherwise, the leftmost longest first."""

    def __init__(self, tables: Tables, name: str) -> None:
        """Raises BundleError for a trie that is none, or a replacement that is long or no text."""
        to = tables.below(f"{name}.to", LAST_CODE_POINT + 1)
        count = len(tables.integers(f"{name}.to_from")) - 1
        to_from = tables.offsets(f"{name}.to_from", count, len(to))
        longest = int(np.diff(to_from).max(initial=0))
        tables.require(f"{name}.to_from", longest <= LONGEST_REPLACEMENT, f"a replacement of {longest} characters")
        self._trie = Trie(tables, name, count)
        self._to_from, self._to = to_from.data, to.data

    def apply(self, text: list[int]) -> list[int]:
        """The text with every key replaced."""
        out: list[int] = []
        at = 0
        while at < len(text):
            value, end = self._trie.longest(text, at)
            if value >= 0:
                out.extend(self._to[self._to_from[value] : self._to_from[value + 1]])
                at = end
            else:
                out.append(text[at])
                at += 1
        return out


class Runs:
    """A number for each code point, the same all through a run."""

    def __init__(self, tables: Tables, starts: str, numbers: str) -> None:
        """Raises BundleError unless the runs begin at 0 and follow each other."""
        first, number = tables.integers(starts), tables.integers(numbers, "U8")
        tables.require(starts, len(first) == len(number) > 0 and first[0] == 0, "no runs from 0 on")
        tables.require(starts, bool((first[1:] > first[:-1]).all()), "does not rise")
        self._first, self._number = first.data, number.data

    def of(self, point: int) -> int:
        """The number of a code point."""
        return self._number[bisect_right(self._first, point) - 1]
