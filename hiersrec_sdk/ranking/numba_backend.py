"""The search in Numba, for where there is no compiled kernel: the plain scan of csrc/topk.c. All else is NumPy's.

It has no use for codes. It is compiled when this module is imported, which takes seconds, for exactly the types that
come in, so that no call compiles anew. It is never cached on disk, because Numba's cache is pickle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numba
import numpy as np
from numba import types

from hiersrec_sdk.ranking import numpy_backend
from hiersrec_sdk.ranking.requests import Found, Request, Table, checked_k

LANES: Final = 16

_NO_FLOATS: Final = np.empty(0, np.float32)
_NO_ROWS: Final = np.empty(0, np.int64)
_NO_WORDS: Final = np.empty(0, np.uint64)
_NO_RANGES: Final = np.empty((0, 2), np.int64)


@numba.njit(nogil=True, inline="always")
def _fold(lane: Any) -> Any:
    half = LANES // 2
    while half:
        for j in range(half):
            lane[j] += lane[j + half]
        half //= 2
    return lane[0]


@numba.njit(nogil=True)
def _dot(query: Any, row: Any, lane: Any) -> Any:
    """In the order of csrc/topk.h; Numba does not reorder floats, nor fuse them."""
    lane[:] = 0
    whole = len(query) // LANES * LANES
    for i in range(0, whole, LANES):
        for j in range(LANES):
            lane[j] += query[i + j] * row[i + j]
    for i in range(whole, len(query)):
        lane[i - whole] += query[i] * row[i]
    return _fold(lane)


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
def _offer(scores: Any, rows: Any, count: Any, score: Any, row: Any) -> Any:
    """Keep (score, row) if it is among the best so far; the new count. A NaN compares false, so it never enters."""
    if count == len(scores):
        if _worse(scores[0], rows[0], score, row):
            _sink(scores, rows, count, score, row)
        return count
    if score != score:
        return count
    at = count  # it rises from the end to its place
    while at > 0:
        parent = (at - 1) // 2
        if not _worse(score, row, scores[parent], rows[parent]):
            break
        scores[at] = scores[parent]
        rows[at] = rows[parent]
        at = parent
    scores[at] = score
    rows[at] = row
    return count + 1


@numba.njit(nogil=True, inline="always")
def _are_ranges(ranges: Any, n: Any) -> Any:
    """Whether the ranges lie in [0, n)."""
    right = True
    for at in range(len(ranges)):
        right &= 0 <= ranges[at, 0] <= ranges[at, 1] <= n
    return right


@numba.njit(nogil=True, inline="always")
def _are_rows(rows: Any, n: Any) -> Any:
    """Whether the rows rise within [0, n)."""
    right, last = True, -1
    for at in range(len(rows)):
        right &= last < rows[at] < n
        last = rows[at]
    return right


@numba.njit(nogil=True)
def _holds(rows: Any, row: Any) -> Any:
    at = np.searchsorted(rows, row)
    return at < len(rows) and rows[at] == row


def _readonly(dtype: types.Type, dimensions: int) -> types.Array:
    return types.Array(dtype, dimensions, "C", readonly=True)


_FLOATS: Final = _readonly(types.float32, 1)
_ROWS: Final = _readonly(types.int64, 1)
_RANGES: Final = _readonly(types.int64, 2)
_tuple: Any = types.UniTuple  # which has no types
_PAIR: Final = _tuple(types.int64, 2)
_SIGNATURE: Final = _PAIR(
    _readonly(types.float32, 2),  # vectors
    _FLOATS,  # query
    _RANGES,
    _RANGES,  # rest
    _readonly(types.uint64, 1),  # bitmap; empty: every row may rank
    _ROWS,  # skipped
    _ROWS,  # covisited
    _FLOATS,  # offsets
    _FLOATS,  # bias; empty: none
    types.float32[::1],  # scores
    types.int64[::1],  # rows
)


@numba.njit(_SIGNATURE, nogil=True)
def _topk(
    vectors: Any,
    query: Any,
    ranges: Any,
    rest: Any,
    bitmap: Any,
    skipped: Any,
    covisited: Any,
    offsets: Any,
    bias: Any,
    scores: Any,
    rows: Any,
) -> Any:
    """Fill ``scores`` and ``rows`` with the best, best first; how many there are, and how many rows were scored.

    (-1, 0) where an argument leaves the table or another argument: Numba does not check where it reads.
    """
    n, d = vectors.shape
    if (
        len(query) != d
        or ranges.shape[1] != 2
        or rest.shape[1] != 2
        or (len(bitmap) and len(bitmap) < (n + 63) >> 6)
        or len(offsets) != len(covisited)
        or (len(bias) and len(bias) != n)
        or not len(scores)
        or len(scores) != len(rows)
        or not _are_ranges(ranges, n)
        or not _are_ranges(rest, n)
        or not _are_rows(skipped, n)
        or not _are_rows(covisited, n)
    ):
        return -1, 0
    lane = np.empty(LANES, np.float32)
    count = 0
    scored = 0
    for part in range(3):
        for at in range(len(covisited) if part == 0 else len(ranges) if part == 1 else len(rest)):
            if part == 0:
                start, stop = covisited[at], covisited[at] + 1
            elif part == 1:
                start, stop = ranges[at, 0], ranges[at, 1]
            else:
                start, stop = rest[at, 0], rest[at, 1]
            for row in range(start, stop):
                if len(bitmap) and (bitmap[row >> 6] >> np.uint64(row & 63)) & np.uint64(1) == 0:
                    continue
                if part == 0 and _holds(skipped, row):
                    continue
                if part == 0 or not _holds(covisited, row) or _holds(skipped, row):
                    scored += 1  # covisited rows have been counted
                score = _dot(query, vectors[row], lane)
                if len(bias):
                    score += bias[row]
                if part == 0:
                    score += offsets[at]
                elif _holds(covisited, row) or _holds(skipped, row):
                    continue
                count = _offer(scores, rows, count, score, row)
    for last in range(count - 1, 0, -1):  # the worst goes to the end, again and again
        score, row = scores[last], rows[last]
        scores[last], rows[last] = scores[0], rows[0]
        _sink(scores, rows, last, score, row)
    return count, scored


def search(table: Table, requests: Sequence[Request], k: int) -> list[Found]:
    """The best ``k`` of each request. Runs without the GIL."""
    count = min(checked_k(k, 1), len(table))
    return [_search(table, request, count) for request in requests]


def _search(table: Table, request: Request, k: int) -> Found:
    scores = np.empty(k, np.float32)
    rows = np.empty(k, np.int64)
    if not all(part is None or (type(part) is np.ndarray and part.flags.aligned) for part in request):
        request = request.within(table)  # of a subclass, it makes a plain array
    _, _, rest, bitmap, skipped, covisited, offsets = request
    try:
        count, scored = _topk(
            np.asarray(table.vectors),
            request.query,
            request.ranges,
            _NO_RANGES if rest is None else rest,
            _NO_WORDS if bitmap is None else bitmap,
            _NO_ROWS if skipped is None else skipped,
            _NO_ROWS if covisited is None else covisited,
            _NO_FLOATS if offsets is None else offsets,
            _NO_FLOATS if table.bias is None else np.asarray(table.bias),
            scores,
            rows,
        )
    except TypeError:  # of a type that was not compiled
        count, scored = -1, 0
    if count < 0 or (bitmap is not None and not len(bitmap)):
        request.within(table)  # names what is wrong
        raise ValueError("the table changed since it was made")
    read = scored * (4 * table.vectors.shape[1] + (0 if table.bias is None else 4))
    return Found(scores[:count], rows[:count], scored, read)


BACKEND: Final = replace(numpy_backend.BACKEND, name="numba", search=search)
