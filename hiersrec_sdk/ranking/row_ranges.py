"""Sets of rows as ranges: pure functions.

Ranges are int64 [m, 2], pairs ``[start, stop)``, disjoint. Ranges "in order" have rising starts and stops; empty ones
may stand among them. Arrays are small here and every NumPy call counts, hence the methods and the outputs that are
filled in place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ranges = NDArray[np.int64]
Rows = NDArray[np.int64]

_ONE_ROW = np.array([0, 1])


def rising(ranges: Ranges) -> Ranges:
    """``ranges`` in order, without empty ones."""
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    return ranges[ranges[:, 0].argsort()]


def join(ranges: Ranges) -> Ranges:
    """``ranges`` in order with those that touch made one, and without empty ones."""
    if not len(ranges):
        return ranges
    starts, stops = ranges[:, 0], ranges[:, 1]
    opens = (starts[1:] != stops[:-1]).nonzero()[0] + 1
    joined: Ranges = np.empty((len(opens) + 1, 2), dtype=np.int64)
    joined[1:, 0] = starts[opens]
    joined[:-1, 1] = stops[opens - 1]
    joined[0, 0] = starts[0]
    joined[-1, 1] = stops[-1]
    return joined[joined[:, 0] < joined[:, 1]]


def contains(ranges: Ranges, rows: Rows) -> NDArray[np.bool]:
    """bool [len(rows)]: whether each row lies in one of the ``ranges``, which are in order."""
    if not len(ranges):
        return np.zeros(len(rows), dtype=bool)
    place = ranges[:, 0].searchsorted(rows, side="right") - 1
    inside: NDArray[np.bool] = (place >= 0) & (rows < ranges[place, 1])
    return inside


def add(ranges: Ranges, rows: Rows) -> Ranges:
    """``ranges`` in order and ``rows`` (distinct, in any order) together, joined."""
    both = np.concatenate([ranges, singles(rows[~contains(ranges, rows)])])
    both.sort(axis=0)  # as they are disjoint, starts and stops pair up again
    return join(both)


def complement(ranges: Ranges, n: int) -> Ranges:
    """int64 [m + 1, 2], in order: the rows of ``[0, n)`` outside of ``ranges`` [m, 2], which may stand in any order."""
    edges = np.empty(2 * len(ranges) + 2, dtype=np.int64)
    edges[0], edges[-1] = 0, n
    edges[1:-1] = ranges.ravel()
    edges.sort()  # as the ranges are disjoint, starts and stops alternate still
    return edges.reshape(-1, 2)


def union(some: Rows, others: Rows) -> Rows:
    """The rows of either, rising; each of both lists is rising. np.union1d hashes them, which takes 50 us at least."""
    both = np.concatenate([some, others])
    both.sort(kind="stable")  # which merges what is sorted already
    if len(both) < 2:
        return both
    first = np.empty(len(both), dtype=bool)
    first[0] = True
    np.not_equal(both[1:], both[:-1], out=first[1:])
    return both[first]


def as_bitmap(mask: NDArray[np.bool]) -> NDArray[np.uint64]:
    """uint64 [ceil(n / 64)], one bit a row, of bool [n]."""
    bits = np.packbits(mask, bitorder="little")
    bitmap = np.zeros(-(-len(mask) // 64), dtype=np.uint64)
    bitmap.view(np.uint8)[: len(bits)] = bits
    return bitmap


def in_bitmap(bitmap: NDArray[np.uint64], rows: Rows) -> NDArray[np.bool]:
    """bool [len(rows)]: the bit of each row."""
    bits = bitmap[rows >> 6] >> (rows & 63).astype(np.uint64)
    found: NDArray[np.bool] = (bits & np.uint64(1)).astype(bool)
    return found


def singles(rows: Rows) -> Ranges:
    """One range for each row."""
    ranges: Ranges = rows[:, None] + _ONE_ROW
    return ranges
