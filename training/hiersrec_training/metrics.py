"""Metrics of next-item recommendation, from the rank of the target. A rank of 0 means: not among the results."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUTS = (1, 5, 10, 20)
SCORES_TOGETHER = 1 << 27  # half a GB of float32


def ranking_metrics(ranks: NDArray[np.integer], cuts: tuple[int, ...] = CUTS) -> dict[str, float]:
    """Recall, MRR and NDCG at each cut, as fractions.

    Args:
        ranks: [cases], 1 for the best; 0 where the target was not found. With one target a case, Recall@k is the
            share of ranks up to k, and NDCG@k the mean of ``1 / log2(rank + 1)`` over them.
    """
    found: dict[str, float] = {}
    cases = max(1, len(ranks))
    for cut in cuts:
        hit = ranks[(ranks >= 1) & (ranks <= cut)].astype(np.float64)
        found[f"recall@{cut}"] = len(hit) / cases
        found[f"mrr@{cut}"] = float((1 / hit).sum()) / cases
        found[f"ndcg@{cut}"] = float((1 / np.log2(hit + 1)).sum()) / cases
    return found


def ranked_together(items: int) -> int:
    """Of how many positions the scores of all ``items`` are held at once."""
    return max(1, min(256, SCORES_TOGETHER // max(1, items)))
