"""The law, by brute force: a cache that remembers which token lies where is compared with sees()."""

import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wand_export.layout import SLOT_MULTIPLE, Layout, kv_bytes, sees

VECTORS = json.loads((Path(__file__).resolve().parent / "vectors" / "layout.json").read_text())
LAYOUTS = [Layout(6, 4), Layout(5, 1), Layout(1, 7), Layout(3, 8), Layout(9, 3)]
EMPTY, PADDING = (-1, -1), (-2, -2)


def prefixes(layout: Layout) -> list[int]:
    return sorted({1, (layout.prefix_capacity + 1) // 2, layout.prefix_capacity})


def lengths(layout: Layout) -> list[int]:
    """Generated tokens: none, and around the wraps of the ring."""
    w = layout.window
    return sorted({0, w - 1, w, w + 1, 2 * w + 1, 3 * w})


def calls(p: int, n: int, chunk: int) -> list[range]:
    """The rows of each call: prefix rows in chunks, the last of which is padded, then single rows."""
    return [range(t, t + chunk) for t in range(0, p, chunk)] + [range(t, t + 1) for t in range(p, p + n)]


def wanted(t: int, p: int, window: int) -> list[int]:
    """The tokens that the query at t attends, by the definition."""
    return [s for s in range(t + 1) if s < p or t - s < window]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 8, 20])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_write_then_attend(layout: Layout, chunk: int) -> None:
    cache: list[tuple[int, int]] = [EMPTY] * layout.capacity
    for utterance, (p, n) in enumerate(product(prefixes(layout), lengths(layout))):
        for rows in calls(p, n, chunk):
            padded = rows.start < p
            for t in rows:
                cache[layout.slot(t, p)] = PADDING if padded and t >= p else (utterance, t)
            for t in rows:
                if padded and t >= p:
                    continue
                seen = [cache[s] for s in range(layout.capacity) if layout.sees_after_write(t, s, p)]
                assert sorted(seen) == [(utterance, s) for s in wanted(t, p, layout.window)], (p, n, t)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 8, 20])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_attend_then_write(layout: Layout, chunk: int) -> None:
    cache: list[tuple[int, int]] = [EMPTY] * layout.capacity
    for utterance, (p, n) in enumerate(product(prefixes(layout), lengths(layout))):
        for rows in calls(p, n, chunk):
            padded = rows.start < p
            for t in rows:
                if padded and t >= p:
                    continue
                old = [cache[s] for s in range(layout.capacity) if layout.sees_before_write(t, s, p, first=rows.start)]
                own = [(utterance, s) for s in rows if s <= t]
                assert sorted(old + own) == [(utterance, s) for s in wanted(t, p, layout.window)], (p, n, t)
            for t in rows:
                cache[layout.slot(t, p)] = PADDING if padded and t >= p else (utterance, t)


@pytest.mark.parametrize(("layout", "p"), [(Layout(32, 64), 20), (Layout(480, 32), 480), (Layout(5, 3), 1)], ids=str)
def test_far_positions(layout: Layout, p: int) -> None:
    """Beyond 10,000, after a cache that stepped all the way there."""
    slots = np.arange(layout.capacity)
    cache = np.full(layout.capacity, -1)
    cache[:p] = np.arange(p)
    end = 10_000 + 2 * layout.window + 2
    for t in range(p, end):
        if t >= 10_000:
            before = cache[layout.sees_before_write(t, slots, p, t)]
            assert sorted([*before.tolist(), t]) == wanted(t, p, layout.window)
        cache[layout.slot(t, p)] = t
        if t >= 10_000:
            assert sorted(cache[layout.sees_after_write(t, slots, p)].tolist()) == wanted(t, p, layout.window)


def test_the_new_row_takes_the_slot_that_left_the_window() -> None:
    layout, p = Layout(6, 4), 5
    for t in range(p + layout.window, p + 40):
        assert layout.slot(t, p) == layout.slot(t - layout.window, p)
        assert not sees(t, t - layout.window, p, layout.window)
        assert len({layout.slot(s, p) for s in wanted(t, p, layout.window)}) == p + layout.window


def test_sees_is_its_definition() -> None:
    for window, p in product([1, 3, 8], [1, 4]):
        for t in range(30):
            assert [s for s in range(40) if sees(t, s, p, window)] == wanted(t, p, window)


def evaluate(layout: Layout, p: Any, t: Any, slot: Any, first: Any) -> list[Any]:
    return [
        layout.slot(t, p),
        layout.sees_after_write(t, slot, p),
        layout.sees_before_write(t, slot, p, first),
        sees(t, slot, p, layout.window),
    ]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_ints_arrays_and_tensors_agree(layout: Layout, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    positions = [*range(20), 10_000, 10_001, 100_003]
    for p in prefixes(layout):
        ints = [[evaluate(layout, p, t, s, t) for s in range(layout.capacity)] for t in positions]
        t, slot = np.array(positions, dtype)[:, None], np.arange(layout.capacity, dtype=dtype)
        arrays = evaluate(layout, np.array([p], dtype), t, slot, t)
        tensors = evaluate(layout, torch.tensor([p], dtype=getattr(torch, dtype)), *map(torch.tensor, (t, slot, t)))
        for k, (array, tensor) in enumerate(zip(arrays, tensors, strict=True)):
            expected = np.array([[cell[k] for cell in row] for row in ints])
            assert np.array_equal(np.broadcast_to(array, expected.shape), expected)
            assert np.array_equal(np.broadcast_to(tensor.numpy(), expected.shape), expected)
            assert array.dtype == (bool if k else dtype)
            assert tensor.dtype == (torch.bool if k else getattr(torch, dtype))


@pytest.mark.parametrize(
    "case", VECTORS["cases"], ids=lambda c: f"{c['prefix_capacity']}-{c['window']}-{c['prefix_len']}"
)
def test_vectors(case: Any) -> None:
    layout, p = Layout(case["prefix_capacity"], case["window"]), case["prefix_len"]
    for row in case["rows"]:
        t = row["t"]
        assert row["slot"] == layout.slot(t, p)
        # Held to the definition, not only to the code that wrote them: which token lies in each slot by now.
        held = {layout.slot(s, p): s for s in range(max(0, t - 200), t + 1)} | {s: s for s in range(min(p, t + 1))}
        seen = [held[s] for s, bit in enumerate(row["sees_after_write"]) if bit == "1"]
        assert sorted(seen) == wanted(t, p, layout.window)


def test_capacity_is_rounded_up_by_the_prefix() -> None:
    for prefix, window in product(range(1, 70), [1, 7, 32, 64]):
        layout = Layout.fitting(prefix, window)
        assert layout.window == window and layout.capacity % SLOT_MULTIPLE == 0
        assert prefix <= layout.prefix_capacity < prefix + SLOT_MULTIPLE
    for prefix, window, rounded in VECTORS["fitting"]:
        assert Layout.fitting(prefix, window).prefix_capacity == rounded


@pytest.mark.parametrize(("prefix", "window"), [(0, 4), (4, 0), (-1, 4)])
def test_empty_layouts_are_refused(prefix: int, window: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Layout(prefix, window)


def test_bytes_follow_the_formula() -> None:
    assert kv_bytes(tokens=512, layers=24, kv_heads=2, head_dim=64, itemsize=2) == 512 * 24 * 2 * 2 * 64 * 2
    assert all(kv_bytes(*sizes) == size for *sizes, size in VECTORS["kv_bytes"])


def test_every_wrap_of_the_ring_is_in_the_vectors() -> None:
    for case in VECTORS["cases"]:
        ring = [row["slot"] for row in case["rows"] if row["t"] >= case["prefix_len"]]
        assert len(ring) >= 4 and all(slot >= case["prefix_capacity"] for slot in ring)
        assert any(after < before or case["window"] == 1 for before, after in pairwise(ring))
