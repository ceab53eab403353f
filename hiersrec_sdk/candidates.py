"""Which rows are candidates: pure functions over ranges of rows.

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


def best_categories(
    logits: NDArray[np.float32], sizes: NDArray[np.int64], need: int
) -> tuple[NDArray[np.int64], int]:
    """The most probable categories, by higher logit, then lower index; and how many hold ``need`` rows.

    ``logits`` float32 [categories], ``sizes`` int64 [categories]: rows of each. The category that reaches ``need``
    is counted in. At least 128 categories are returned, or all of them.
    """
    few = 128
    while few < len(logits):  # a few categories are enough as a rule, so only those at the top are sorted
        top = (logits >= np.partition(logits, -few)[-few]).nonzero()[0]
        order = top[(-logits[top]).argsort(kind="stable")]
        held = sizes[order].cumsum()
        if len(held) and held[-1] >= need:
            return order, int(held.searchsorted(need)) + 1
        few *= 4
    order = (-logits).argsort(kind="stable")
    return order, int(sizes[order].cumsum().searchsorted(need)) + 1


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


def cut(ranges: Ranges, rows: Rows) -> Ranges:
    """``ranges`` in order without ``rows`` (distinct, in any order), and without empty ones."""
    rows = rows[contains(ranges, rows)]
    # A row that goes ends one range and begins the next: once they are sorted, starts and stops pair up again.
    edges: Ranges = np.empty((len(ranges) + len(rows), 2), dtype=np.int64)
    edges[: len(ranges)] = ranges
    edges[len(ranges) :, 0] = rows + 1
    edges[len(ranges) :, 1] = rows
    edges.sort(axis=0)
    return edges[edges[:, 0] < edges[:, 1]]


def singles(rows: Rows) -> Ranges:
    """One range for each row."""
    ranges: Ranges = rows[:, None] + _ONE_ROW
    return ranges


def count(ranges: Ranges) -> int:
    """Number of rows in ``ranges``."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def best(scores: NDArray[np.float32], rows: Rows, k: int) -> tuple[NDArray[np.float32], Rows]:
    """The ``k`` best of ``rows``, by higher score, then lower row; a score that is NaN never ranks."""
    order = np.lexsort((rows, -scores))[:k]
    scores, rows = scores[order], rows[order]
    ranks = ~np.isnan(scores)  # lexsort puts NaN last
    return (scores, rows) if ranks.all() else (scores[ranks], rows[ranks])
