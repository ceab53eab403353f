"""Ranges of rows against sets of rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.ranking.row_ranges import Ranges, add, complement, contains, join, rising, singles

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


def joined(rows: set[int]) -> list[list[int]]:
    """The fewest ranges that hold ``rows``."""
    starts = [row for row in sorted(rows) if row - 1 not in rows]
    stops = [row + 1 for row in sorted(rows) if row + 1 not in rows]
    return [list(pair) for pair in zip(starts, stops, strict=True)]


@settings(max_examples=300)
@given(ranges=ranges_in_order(), others=st.sets(st.integers(0, N - 1)))
def test_ranges_as_sets(ranges: Ranges, others: set[int]) -> None:
    rows = set(rows_of(ranges))
    backwards: NDArray[np.int64] = np.array(sorted(others, reverse=True), dtype=np.int64)
    assert contains(ranges, np.arange(-1, N + 1)).tolist() == [row in rows for row in range(-1, N + 1)]
    assert join(ranges).tolist() == joined(rows)
    assert add(ranges, backwards).tolist() == joined(rows | others)
    assert rows_of(singles(backwards)) == backwards.tolist()


@settings(max_examples=300)
@given(data=st.data(), ranges=ranges_in_order())
def test_ranges_in_any_order(data: st.DataObject, ranges: Ranges) -> None:
    order: list[int] = data.draw(st.permutations(range(len(ranges))))
    shuffled = ranges[order]
    rows = set(rows_of(ranges))
    assert rising(shuffled).tolist() == [pair for pair in ranges.tolist() if pair[0] < pair[1]]
    others = complement(shuffled, N)
    assert others.shape == (len(ranges) + 1, 2)
    assert rows_of(others) == sorted(set(range(N)) - rows)
    assert (others[:, 0] <= others[:, 1]).all()
    assert (others[1:, 0] >= others[:-1, 1]).all()
    # Arguments are left as they were.
    assert shuffled.tolist() == ranges[order].tolist()


@given(ranges=ranges_in_order(), n=st.integers(N, N + 5))
def test_the_complement_of_the_complement(ranges: Ranges, n: int) -> None:
    assert join(complement(complement(ranges, n), n)).tolist() == join(ranges).tolist()


def test_no_ranges() -> None:
    none = np.empty((0, 2), dtype=np.int64)
    assert rising(none).shape == join(none).shape == (0, 2)
    assert contains(none, np.array([1])).tolist() == [False]
    assert complement(none, 3).tolist() == [[0, 3]]
    assert rows_of(complement(none, 0)) == []
    assert add(none, np.array([2, 1])).tolist() == [[1, 3]]
    assert singles(np.empty(0, np.int64)).shape == (0, 2)
    # An empty range inside another one is no hole.
    assert rows_of(complement(np.array([[0, 9], [4, 4]]), 12)) == [9, 10, 11]
