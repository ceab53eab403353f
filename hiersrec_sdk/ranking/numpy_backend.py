"""The ranking kernel in NumPy: the definition that the other backends are held to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.scan import Scan

LANES = 16
_CHUNK = 4_096  # rows at a time, so that the copies stay in cache


def topk(scan: Scan) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and rows of the best ``scan.k``, by higher score, then lower row."""
    rows = np.concatenate([np.arange(start, stop) for start, stop in scan.ranges])
    if scan.bitmap is not None:
        listed = (scan.bitmap[rows // 64] >> (rows % 64).astype(np.uint64)) & np.uint64(1)
        rows = rows[listed.astype(bool) != scan.deny]
    with np.errstate(all="ignore"):  # infinities and NaN are legal scores here
        chunks = [_scores(scan, rows[i : i + _CHUNK]) for i in range(0, len(rows), _CHUNK)]
    scores = np.concatenate([np.empty(0, np.float32), *chunks])

    ranks = ~np.isnan(scores)
    scores, rows = scores[ranks], rows[ranks]
    if len(scores) > scan.k:  # keep the k best and whatever equals the last of them
        kept = scores >= np.partition(scores, -scan.k)[-scan.k]
        scores, rows = scores[kept], rows[kept]
    order = np.lexsort((rows, -scores))[: scan.k]
    return scores[order], rows[order]


def _scores(scan: Scan, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [len(rows)]."""
    vectors = scan.vectors[rows]
    if scan.scales is None:
        scores = _dot_float32(vectors, scan.query)
    else:
        dots = vectors.astype(np.int32) @ scan.query.astype(np.int32)
        scores = dots.astype(np.float32) * (scan.query_scale * scan.scales[rows])
    return scores if scan.bias is None else scores + scan.bias[rows]


def _dot_float32(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dot products float32 [n], summed in the order of csrc/topk.h."""
    lanes = np.zeros((len(vectors), LANES), np.float32)
    for start in range(0, len(query), LANES):
        products = vectors[:, start : start + LANES] * query[start : start + LANES]
        lanes[:, : products.shape[1]] += products
    half = LANES // 2
    while half:
        lanes[:, :half] += lanes[:, half : 2 * half]
        half //= 2
    return lanes[:, 0]
