"""Writing the tables that wand_export/host/tables.py reads."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
"""Tensors by name: int32 unless said otherwise."""
CODE_POINTS = 0x110000


def trie(name: str, values: Mapping[tuple[int, ...], int]) -> Arrays:
    """A trie of keys and what they stand for, its nodes before those that they lead to; equal ends are shared."""
    shared: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
    # The nodes along the latest key, each as [value, edges]. Keys come in order: a branch that is left is complete.
    path: list[tuple[int, list[tuple[int, int]]]] = [(values.get((), -1), [])]
    previous: tuple[int, ...] = ()

    def leave(depth: int) -> None:
        while len(path) > depth + 1:
            value, edges = path.pop()
            node = shared.setdefault((value, tuple(edges)), len(shared))
            path[-1][1].append((previous[len(path) - 1], node))

    for key in sorted(values):
        common = next((i for i, (a, b) in enumerate(zip(key, previous, strict=False)) if a != b), len(previous))
        leave(min(common, len(key)))
        path += [(-1, []) for _ in key[len(path) - 1 : -1]]
        if key:
            path.append((values[key], []))
        previous = key
    leave(0)
    value, edges = path[0]
    # A node was numbered after all that it leads to, and the root is the last.
    nodes = [*shared, (value, tuple(edges))][::-1]
    flat = [edge for _, own in nodes for edge in own]
    return {
        f"{name}.start": int32([0, *np.cumsum([len(own) for _, own in nodes])]),
        f"{name}.symbol": int32([symbol for symbol, _ in flat]),
        f"{name}.next": int32([len(shared) - node for _, node in flat]),
        f"{name}.value": int32([value for value, _ in nodes]),
    }


def replacement(name: str, pairs: Mapping[str, str]) -> Arrays:
    """A trie of strings, and what each is replaced by; equal replacements are stored once."""
    texts = {text: i for i, text in enumerate(dict.fromkeys(pairs.values()))}
    return {
        **trie(name, {points(old): texts[new] for old, new in pairs.items()}),
        f"{name}.to_from": int32([0, *np.cumsum([len(text) for text in texts])]),
        f"{name}.to": int32([point for text in texts for point in points(text)]),
    }


def runs(starts: str, numbers: str, values: npt.NDArray[np.uint8]) -> Arrays:
    """A number for each code point, uint8 [CODE_POINTS], as the runs of equal ones."""
    first = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    return {starts: int32(first), numbers: values[first]}


def points(text: str) -> tuple[int, ...]:
    """The code points of a string."""
    return tuple(map(ord, text))


def int32(values: Iterable[int] | npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """An array of one dimension, as it is stored."""
    return np.array(values if isinstance(values, np.ndarray) else list(values), np.int32)
