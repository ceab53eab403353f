"""The ranking kernel in Numba: for machines without the compiled extension.

The algorithm is that of csrc/topk.c. Compiled at import, for one signature a dtype; never cached on disk, because
Numba's cache is pickle.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from hiersrec_sdk.ranking.scan import Scan

LANES = 16
_NO_BIAS = np.empty(0, np.float32)
_NO_BITMAP = np.empty(0, np.uint64)


@numba.njit(nogil=True)
def _dot_float32(query: Any, row: Any, lane: Any) -> Any:
    whole = len(query) // LANES * LANES
    lane[:] = 0
    for i in range(0, whole, LANES):
        for j in range(LANES):
            lane[j] += query[i + j] * row[i + j]
    for j in range(len(query) - whole):
        lane[j] += query[whole + j] * row[whole + j]
    for half in (8, 4, 2, 1):
        for j in range(half):
            lane[j] += lane[j + half]
    return lane[0]


@numba.njit(nogil=True)
def _dot_int8(query: Any, row: Any, lane: Any) -> Any:
    total = np.int32(0)
    for i in range(len(query)):
        total += np.int32(query[i]) * np.int32(row[i])
    return np.float32(total)


@numba.njit(nogil=True)
def _worse(score: Any, row: Any, other_score: Any, other_row: Any) -> Any:
    return score < other_score or (score == other_score and row > other_row)


@numba.njit(nogil=True)
def _sink(scores: Any, rows: Any, count: Any, score: Any, row: Any) -> None:
    """Let (score, row) sink from the root, which is free, to its place among the first ``count`` entries."""
    at = 0
    child = 1
    while child < count:
        if child + 1 < count and _worse(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if not _worse(scores[child], rows[child], score, row):
            break
        scores[at] = scores[child]
        rows[at] = rows[child]
        at = child
        child = 2 * at + 1
    scores[at] = score
    rows[at] = row


@numba.njit(nogil=True)
def _push(scores: Any, rows: Any, count: Any, score: Any, row: Any) -> None:
    """Add (score, row) to ``count`` entries: it rises from the end to its place."""
    at = count
    while at > 0:
        parent = (at - 1) // 2
        if not _worse(score, row, scores[parent], rows[parent]):
            break
        scores[at] = scores[parent]
        rows[at] = rows[parent]
        at = parent
    scores[at] = score
    rows[at] = row


def _compiled(element: types.Type, dot: Any) -> Any:
    """The scan for vectors of ``element``, scored by ``dot``."""

    def readonly(dtype: types.Type, dimensions: int) -> types.Array:
        return types.Array(dtype, dimensions, "C", readonly=True)

    floats, words = readonly(types.float32, 1), readonly(types.uint64, 1)
    scan = types.int64(
        readonly(element, 2),
        readonly(element, 1),
        floats,
        types.float32,
        readonly(types.int64, 2),
        floats,
        words,
        types.boolean,
        types.float32[::1],
        types.int64[::1],
    )

    @numba.njit(scan, nogil=True)
    def topk(
        vectors: Any,
        query: Any,
        scales: Any,  # empty: scores are the dot products
        query_scale: Any,
        ranges: Any,
        bias: Any,  # empty: none
        bitmap: Any,  # empty: every row ranks
        deny: Any,
        scores: Any,
        rows: Any,
    ) -> Any:
        lane = np.empty(LANES, np.float32)
        k = len(scores)
        count = 0
        for r in range(len(ranges)):
            for row in range(ranges[r, 0], ranges[r, 1]):
                if len(bitmap):
                    listed = (bitmap[row >> 6] >> np.uint64(row & 63)) & np.uint64(1) != 0
                    if listed == deny:
                        continue
                score = dot(query, vectors[row], lane)
                if len(scales):
                    score *= query_scale * scales[row]
                if len(bias):
                    score += bias[row]
                if count < k:
                    if score == score:  # a NaN compares false everywhere, so it never enters
                        _push(scores, rows, count, score, row)
                        count += 1
                elif _worse(scores[0], rows[0], score, row):
                    _sink(scores, rows, k, score, row)
        for last in range(count - 1, 0, -1):  # the worst goes to the end, again and again
            score, row = scores[last], rows[last]
            scores[last], rows[last] = scores[0], rows[0]
            _sink(scores, rows, last, score, row)
        return count

    return topk


_KERNELS = {
    np.dtype(np.float32): _compiled(types.float32, _dot_float32),
    np.dtype(np.int8): _compiled(types.int8, _dot_int8),
}


def topk(scan: Scan) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and rows of the best ``scan.k``, by higher score, then lower row. Runs without the GIL."""
    scores = np.empty(scan.k, np.float32)
    rows = np.empty(scan.k, np.int64)
    count = _KERNELS[scan.vectors.dtype](
        scan.vectors,
        scan.query,
        _NO_BIAS if scan.scales is None else scan.scales,
        scan.query_scale,
        scan.ranges,
        _NO_BIAS if scan.bias is None else scan.bias,
        _NO_BITMAP if scan.bitmap is None else scan.bitmap,
        scan.deny,
        scores,
        rows,
    )
    return scores[:count], rows[:count]
