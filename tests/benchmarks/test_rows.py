"""Medians, ratios and recalls of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers import Answer, Peer
from benchmarks.rows import Row, as_table, compared, recall, row_of


class Someone(Peer):
    """A name; it ranks nothing."""

    def __init__(self, name: str = "someone") -> None:
        self.name = name

    def exact(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        return Answer(ids())

    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        return Answer(ids())


class OfCandidates(Someone):
    ranks_candidates = True


def ids(*rows: int) -> NDArray[np.int64]:
    return np.array(rows)


def test_recall() -> None:
    assert recall([ids(1, 2), ids(5, 6)], [ids(2, 1), ids(5, 7)]) == 0.75
    assert recall([np.array([[1, 2], [3, -1]])], [np.array([[1, 2], [3, 4]])]) == 0.75


def test_row_of_a_batch() -> None:
    truth = [np.array([[1, 2], [3, 4]])] * 3
    answers = [Answer(truth[0], 10, 100)] * 2 + [Answer(np.array([[1, 2], [4, 3]]), 40, 400)]
    row = row_of("batch", Someone(), [2_000, 9_000, 4_000], answers, truth, truth, 2)

    assert row.median_us == 2
    assert row.spread == pytest.approx((4 - 1.2) / 2)  # percentiles lie between the times
    assert row.recall == row.recall_exact == 1
    assert row.ids_equal is False  # in another order
    assert (row.rows_scored, row.bytes_read, row.queries) == (10, 100, 6)


def test_row_of_candidates() -> None:
    near, exact = [np.array([[1, 2]])], [np.array([[1, 9]])]
    answers = [Answer(ids(1, 2))]
    row = row_of("candidates", OfCandidates(), [1_000], answers, near, exact, 1)

    assert (row.recall, row.recall_exact, row.ranks, row.ids_equal) == (1, 0.5, "candidates", True)
    assert row.rows_scored is None


def test_row_of_the_read() -> None:
    answers = [Answer(ids(), 0, 128)]
    row = row_of("exact", Someone("plain-read"), [1_000], answers, [np.array([[1]])], [np.array([[1]])], 1)

    assert (row.recall, row.recall_exact, row.ids_equal, row.bytes_read) == (None, None, None, 128)


def rows() -> list[Row]:
    times = {"numpy": 50.0, "hiersrec-int8": 5.0, "plain-read": 4.0, "hiersrec-float32": 20.0}
    return [Row(work="exact", by=name, median_us=time, spread=0.1) for name, time in times.items()]


def test_compared() -> None:
    found = compared(rows(), ours=["hiersrec-float32", "hiersrec-int8"])

    assert [row.by for row in found] == ["plain-read", "hiersrec-int8", "hiersrec-float32", "numpy"]
    assert [row.ratio for row in found] == [1, 1.25, 5, 12.5]
    assert [row.slower for row in found] == [0.8, 1, 4, 10]
    assert [row.best for row in found] == [False, True, False, False]


def test_compared_with_nobody() -> None:
    (row,) = compared(rows()[:1], ours=[])

    assert (row.ratio, row.slower, row.best) == (None, None, False)


def test_as_table() -> None:
    head, *lines = as_table(compared(rows(), ours=["hiersrec-int8"])).splitlines()

    assert head.split()[:2] == ["work", "by"]
    assert lines[1].split() == ["exact", "hiersrec-int8", "**", "5.0", "us", "10", "%", "1.25x", "1.0x"]
    assert len(lines) == 4
