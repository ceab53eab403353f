"""The ranking kernel in NumPy: the definition that the other backends are held to. It has no use for codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.requests import Found, Request, Table

LANES = 16
_CHUNK = 4_096  # rows at a time, so that the copies stay in cache


def search(table: Table, requests: Sequence[Request], k: int) -> list[Found]:
    """The best ``k`` of each request."""
    return [_search(table, request, k) for request in requests]


def _search(table: Table, request: Request, k: int) -> Found:
    ranges = [*request.ranges, *([] if request.rest is None else request.rest)]
    none = np.empty(0, np.int64)
    rows = np.concatenate([none, *(np.arange(start, stop) for start, stop in ranges)])
    own = none if request.covisited is None else request.covisited
    boosts = np.zeros(0, np.float32) if request.offsets is None else request.offsets
    if request.skipped is not None:
        ranks = ~np.isin(own, request.skipped)
        own, boosts = own[ranks], boosts[ranks]
    rows = np.concatenate([rows[~np.isin(rows, own)], own])
    boosts = np.concatenate([np.zeros(len(rows) - len(own), np.float32), boosts])
    if request.bitmap is not None:
        may = (request.bitmap[rows // 64] >> (rows % 64).astype(np.uint64) & np.uint64(1)).astype(bool)
        rows, boosts = rows[may], boosts[may]
    looked_at = len(rows)
    if request.skipped is not None:
        may = ~np.isin(rows, request.skipped)
        rows, boosts = rows[may], boosts[may]
    with np.errstate(all="ignore"):  # infinities and NaN are legal scores here
        chunks = [_scores(table, request.query, rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
        scores = np.concatenate([np.empty(0, np.float32), *chunks]) + boosts
    read = looked_at * (table.vectors[0].nbytes + (0 if table.bias is None else 4))
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
    vectors = table.vectors[rows].astype(np.float32)
    lanes = np.zeros((len(vectors), LANES), np.float32)
    for start in range(0, len(query), LANES):
        products = vectors[:, start : start + LANES] * query[start : start + LANES]
        lanes[:, : products.shape[1]] += products
    half = LANES // 2
    while half:
        lanes[:, :half] += lanes[:, half : 2 * half]
        half //= 2
    scores = lanes[:, 0]
    return scores if table.bias is None else scores + table.bias[rows]


from hiersrec_sdk.ranking.lookup import find_in_numpy as find_ids, own_items_in_numpy as session_items  # noqa
