"""Ranks of targets, and the metrics made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

CUTS = (1, 5, 10, 20)
SCORES_TOGETHER = 1 << 27  # half a GB of float32


def reaches_target(scores: Any, targets: Any) -> Any:
    """Which items score as high as the target, the target among them: bool [n, items].

    How many they are is the target's rank, counted from 1: ties count against the model.

    Args:
        scores: [n, items], an array or a tensor.
        targets: int64 [n], the target's column in each row.
    """
    size = len(targets)
    each: Any = torch.arange(size, device=scores.device) if torch.is_tensor(scores) else np.arange(size)
    return scores >= scores[each, targets][:, None]


def target_ranks(scores: Any, targets: Any) -> NDArray[np.int64]:
    """Rank of the target in each row, int64 [n]. Arguments as in :func:`reaches_target`."""
    reaches = reaches_target(scores, targets)
    # torch takes twice as long to count in its usual int64
    counts = reaches.sum(1, dtype=np.int32 if isinstance(reaches, np.ndarray) else torch.int32)
    # NumPy reads no tensor of a GPU
    return np.asarray(counts.cpu() if torch.is_tensor(counts) else counts).astype(np.int64)


def target_ranks_of_entries(scores: Any, example: Any, targets: Any) -> NDArray[np.int64]:
    """Rank of the target among the entries of its example, int64 [n]. Ties count against the model.

    Args:
        scores: [entries], an array.
        example: int64 [entries], the example of each entry, from 0 to n - 1.
        targets: int64 [n], the target's entry of each example.
    """
    reaches = scores >= scores[targets][example]
    return np.bincount(example[reaches], minlength=len(targets))


def ranking_metrics(ranks: NDArray[np.integer], cuts: tuple[int, ...] = CUTS) -> dict[str, float]:
    """Recall, MRR and NDCG at each cut, as fractions.

    Args:
        ranks: [examples], 1 for the best; 0 where the target was not found. With one target an example, Recall@k is
            the share of ranks up to k, and NDCG@k the mean of ``1 / log2(rank + 1)`` over them.
        cuts: the values of k.
    """
    found: dict[str, float] = {}
    examples = max(1, len(ranks))
    for cut in cuts:
        hit = ranks[(ranks >= 1) & (ranks <= cut)].astype(np.float64)
        found[f"recall@{cut}"] = len(hit) / examples
        found[f"mrr@{cut}"] = float((1 / hit).sum()) / examples
        found[f"ndcg@{cut}"] = float((1 / np.log2(hit + 1)).sum()) / examples
    return found


def ranked_together(items: int) -> int:
    """How many examples to rank at once, so that the scores of all ``items`` fit into memory."""
    return max(1, min(256, SCORES_TOGETHER // max(1, items)))
