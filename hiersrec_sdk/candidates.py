"""Which rows are candidates: pure functions over ranges of rows.

Ranges are int64 [m, 2], pairs ``[start, stop)``; "sorted" ranges are disjoint, in order and not empty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ranges = NDArray[np.int64]
Rows = NDArray[np.int64]


def best_categories(logits: NDArray[np.float32], sizes: NDArray[np.int64], need: int) -> NDArray[np.int64]:
    """The most probable categories, by higher logit, then lower index, until they hold ``need`` rows.

    ``logits`` float32 [categories], ``sizes`` int64 [categories]: rows of each. The category that reaches ``need``
    is the last; all of them where ``need`` is never reached.
    """
    count = 64
    while True:
        # A few categories are enough as a rule, so only those at the top are sorted.
        if count < len(logits):
            top = np.flatnonzero(logits >= np.partition(logits, -count)[-count])
        else:
            top = np.arange(len(logits))
        order = top[np.argsort(-logits[top], kind="stable")]
        held = np.cumsum(sizes[order])
        if len(order) and held[-1] >= need:
            return order[: int(np.searchsorted(held, need)) + 1]
        if count >= len(logits):
            return order
        count *= 4


def join(ranges: Ranges) -> Ranges:
    """Disjoint ``ranges`` in any order as sorted ranges, neighbours that touch made one."""
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    ranges = ranges[np.argsort(ranges[:, 0])]
    opens = np.ones(len(ranges) + 1, dtype=bool)
    np.not_equal(ranges[1:, 0], ranges[:-1, 1], out=opens[1:-1])
    return np.stack([ranges[opens[:-1], 0], ranges[opens[1:], 1]], axis=1)


def contains(ranges: Ranges, rows: Rows) -> NDArray[np.bool]:
    """bool [len(rows)]: whether each row lies in one of the sorted ``ranges``."""
    if not len(ranges):
        return np.zeros(len(rows), dtype=bool)
    place = np.searchsorted(ranges[:, 0], rows, side="right") - 1
    inside: NDArray[np.bool] = (place >= 0) & (rows < ranges[place, 1])
    return inside


def add(ranges: Ranges, rows: Rows) -> Ranges:
    """Sorted ``ranges`` and ``rows`` (distinct, in any order) together, as sorted ranges."""
    return join(np.concatenate([ranges, singles(rows[~contains(ranges, rows)])]))


def cut(ranges: Ranges, rows: Rows) -> Ranges:
    """Sorted ``ranges`` without ``rows`` (distinct, ascending), as sorted ranges."""
    rows = rows[contains(ranges, rows)]
    # A row that goes ends one range and begins the next: as both lists are sorted, they pair up again.
    starts = np.sort(np.concatenate([ranges[:, 0], rows + 1]))
    stops = np.sort(np.concatenate([ranges[:, 1], rows]))
    parts = np.stack([starts, stops], axis=1)
    return parts[starts < stops]


def singles(rows: Rows) -> Ranges:
    """One range for each row."""
    return np.stack([rows, rows + 1], axis=1)


def count(ranges: Ranges) -> int:
    """Number of rows in ``ranges``."""
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def best(scores: NDArray[np.float32], rows: Rows, k: int) -> tuple[NDArray[np.float32], Rows]:
    """The ``k`` best of ``rows``, by higher score, then lower row; a score that is NaN never ranks."""
    order = np.lexsort((rows, -scores))[:k]
    scores, rows = scores[order], rows[order]
    ranks = ~np.isnan(scores)  # lexsort puts NaN last
    return (scores, rows) if ranks.all() else (scores[ranks], rows[ranks])
