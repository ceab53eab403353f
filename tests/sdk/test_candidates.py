"""Ranges of rows against sets of rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk.candidates import Ranges, add, best, best_categories, contains, count, cut, join, singles

N = 40


@st.composite
def ranges_in_order(draw: st.DrawFn) -> Ranges:
    """Disjoint ranges with rising starts and stops; some touch, some are empty."""
    pairs = list(pairwise(sorted(draw(st.lists(st.integers(0, N), min_size=2, max_size=12)))))
    kept = draw(st.lists(st.booleans(), min_size=len(pairs), max_size=len(pairs)))
    pairs = [pair for pair, keep in zip(pairs, kept, strict=True) if keep]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def rows_of(ranges: Ranges) -> list[int]:
    return [row for start, stop in ranges.tolist() for row in range(start, stop)]


@settings(max_examples=300)
@given(ranges=ranges_in_order(), others=st.sets(st.integers(0, N - 1)))
def test_ranges_as_sets(ranges: Ranges, others: set[int]) -> None:
    rows = set(rows_of(ranges))
    backwards = np.array(sorted(others, reverse=True), dtype=np.int64)
    assert count(ranges) == len(rows)
    assert contains(ranges, np.arange(-1, N + 1)).tolist() == [row in rows for row in range(-1, N + 1)]
    assert join(ranges).tolist() == joined(rows)
    assert add(ranges, backwards).tolist() == joined(rows | others)
    assert rows_of(cut(ranges, backwards)) == sorted(rows - others)
    assert (np.diff(cut(ranges, backwards)) > 0).all()
    assert rows_of(singles(backwards)) == backwards.tolist()


def joined(rows: set[int]) -> list[list[int]]:
    """The fewest ranges that hold ``rows``."""
    starts = [row for row in sorted(rows) if row - 1 not in rows]
    stops = [row + 1 for row in sorted(rows) if row + 1 not in rows]
    return [list(pair) for pair in zip(starts, stops, strict=True)]


@given(
    seed=st.integers(0, 999),
    categories=st.integers(1, 700),  # more than are sorted at first
    values=st.sampled_from([1, 3, 10_000]),
    share=st.floats(0, 1.2),
)
def test_best_categories(seed: int, categories: int, values: int, share: float) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(0, values, categories).astype(np.float32)
    sizes = random.integers(0, 4, categories)
    need = max(1, int(share * sizes.sum()))
    want = sorted(range(categories), key=lambda index: (-logits[index], index))
    held = [int(sizes[want[:count]].sum()) for count in range(categories + 1)]
    order, enough = best_categories(logits, sizes, need)
    assert len(order) >= min(categories, 128)
    assert order.tolist() == want[: len(order)]
    if need <= held[-1]:
        assert held[enough - 1] < need <= held[enough]
    else:
        assert order[:enough].tolist() == want


@given(nan=st.lists(st.booleans(), min_size=1, max_size=200))
def test_categories_without_a_probability_come_last(nan: list[bool]) -> None:
    logits = np.where(nan, np.nan, 1).astype(np.float32)
    found, enough = best_categories(logits, np.ones(len(nan), dtype=np.int64), len(nan))
    assert enough == len(nan)
    assert found.tolist() == sorted(range(len(nan)), key=lambda index: (nan[index], index))


scores = st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan])


@given(values=st.lists(scores), k=st.integers(1, 9), data=st.data())
def test_best(values: list[float], k: int, data: st.DataObject) -> None:
    rows = data.draw(st.permutations(range(len(values))))
    found, order = best(np.array(values, dtype=np.float32), np.array(rows, dtype=np.int64), k)
    pairs = [(-score, row) for score, row in zip(values, rows, strict=True) if score == score]
    assert list(zip((-found).tolist(), order.tolist(), strict=True)) == sorted(pairs)[:k]
