"""The native operations in NumPy: the definition that the other backends are held to. Imports nothing compiled of ours.

Its search has no use for codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.arrays import FLOAT32, INT64, array_of
from hiersrec_sdk.ranking.backend import UNKNOWN, Backend
from hiersrec_sdk.ranking.candidates import choose
from hiersrec_sdk.ranking.covisitation import CovisitationScorer, ScoreOffsets
from hiersrec_sdk.ranking.requests import Found, Request, Table, checked_k

LANES: Final = 16
_CHUNK: Final = 4_096  # rows at a time, so that the copies stay in cache


def search(table: Table, requests: Sequence[Request], k: int) -> list[Found]:
    """The best ``k`` of each request."""
    count = checked_k(k, 1)
    return [_search(table, request.within(table), count) for request in requests]


def _search(table: Table, request: Request, k: int) -> Found:
    ranges = [*request.ranges, *([] if request.rest is None else request.rest)]
    none = np.empty(0, np.int64)
    rows = np.concatenate([none, *(np.arange(start, stop) for start, stop in ranges)])
    covisited = none if request.covisited is None else request.covisited
    offsets = np.zeros(0, np.float32) if request.offsets is None else request.offsets
    if request.skipped is not None:
        ranks = ~np.isin(covisited, request.skipped)
        covisited, offsets = covisited[ranks], offsets[ranks]
    rows = np.concatenate([rows[~np.isin(rows, covisited)], covisited])
    offsets = np.concatenate([np.zeros(len(rows) - len(covisited), np.float32), offsets])
    if request.bitmap is not None:
        may = (request.bitmap[rows // 64] >> (rows % 64).astype(np.uint64) & np.uint64(1)).astype(bool)
        rows, offsets = rows[may], offsets[may]
    looked_at = len(rows)
    if request.skipped is not None:
        may = ~np.isin(rows, request.skipped)
        rows, offsets = rows[may], offsets[may]
    with np.errstate(all="ignore"):  # infinities and NaN are legal scores here
        chunks = [_scores(table, request.query, rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
        scores = np.concatenate([np.empty(0, np.float32), *chunks]) + offsets
    read = looked_at * (4 * table.vectors.shape[1] + (0 if table.bias is None else 4))
    return Found(*best(scores, rows, k), looked_at, read)


def best(
    scores: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The ``k`` best of ``rows``, by higher score, then lower row; a score that is NaN never ranks."""
    ranks = ~np.isnan(scores)
    scores, rows = scores[ranks], rows[ranks]
    if len(scores) > k:  # keep the k best and whatever equals the last of them
        kept = scores >= np.partition(scores, -k)[-k]
        scores, rows = scores[kept], rows[kept]
    order = np.lexsort((rows, -scores))[:k]
    return scores[order], rows[order]


def _scores(table: Table, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [len(rows)], summed in the order of csrc/topk.h."""
    vectors: NDArray[np.float32] = np.asarray(table.vectors)[rows]
    lanes = np.zeros((len(vectors), LANES), np.float32)
    for start in range(0, len(query), LANES):
        products = vectors[:, start : start + LANES] * query[start : start + LANES]
        lanes[:, : products.shape[1]] += products
    half = LANES // 2
    while half:
        lanes[:, :half] += lanes[:, half : 2 * half]
        half //= 2
    scores = lanes[:, 0]
    return scores if table.bias is None else scores + np.asarray(table.bias)[rows]


def find_ids(
    ids: NDArray[np.int64], order: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """int64 [m]: the row of each of ``wanted`` in ``ids`` [n], which ``order`` [n] sorts; -1 where it is not there."""
    array_of("ids", ids, INT64, (None,))
    array_of("order", order, INT64, (len(ids),))
    array_of("wanted", wanted, INT64, (None,))
    if not len(ids):
        return np.full(len(wanted), UNKNOWN)
    try:
        positions = ids.searchsorted(wanted, sorter=order)
    except ValueError as error:  # an order that names rows outside
        raise IndexError(str(error)) from None
    rows = order.take(positions, mode="clip")
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(ids):
        raise IndexError("order names rows outside")
    rows[ids[rows] != wanted] = UNKNOWN
    return rows


def session_items(
    session: NDArray[np.int64], logits: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The distinct rows of ``session``, rising, and the sums of their ``logits``, or zeros."""
    array_of("session", session, INT64, (None,))
    if logits is not None and len(array_of("logits", logits, FLOAT32, (None,))) < len(session):
        raise ValueError(f"logits must be at least {len(session)}, one for each click, got {len(logits)}")
    rows, positions = np.unique(session, return_inverse=True)
    if logits is None:
        return rows, np.zeros(len(rows), dtype=np.float32)
    sums = np.full(len(rows), -0.0, dtype=np.float32)  # to which adding changes nothing, not even a sign
    np.add.at(sums, positions, logits[: len(session)])
    return rows, sums


def covisitation(scorer: CovisitationScorer) -> ScoreOffsets:
    """The scorer in NumPy."""
    scorer.check()
    return scorer.score_offsets


BACKEND: Final = Backend("numpy", search, choose, find_ids, session_items, covisitation)
