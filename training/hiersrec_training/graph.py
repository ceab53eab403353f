"""The co-click graph of the training sessions: for each item its nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiersrec_training.dataset import Sessions


@dataclass(frozen=True)
class CoClicks:
    """``neighbours`` int32 [items, width] and ``weights`` float32 [items, width]: the weights of an item sum to 1, or
    to 0 where it has no neighbour; places without a neighbour hold item 0 with weight 0."""

    neighbours: NDArray[np.int32]
    weights: NDArray[np.float32]


def co_clicks(sessions: Sessions, items: int, width: int, window: int) -> CoClicks:
    """The ``width`` items that were clicked most often within ``window`` clicks of each item, either way.

    The weight is the square root of the count, scaled to a sum of 1. Ties go to the lower item index.
    """
    session = np.repeat(np.arange(len(sessions)), sessions.lengths)
    clicked = sessions.items.astype(np.int64)
    pairs = []
    for lag in range(1, window + 1):
        first, second = clicked[:-lag], clicked[lag:]
        keep = (session[:-lag] == session[lag:]) & (first != second)
        pairs += [first[keep] * items + second[keep], second[keep] * items + first[keep]]
    keys, counts = np.unique(np.concatenate(pairs), return_counts=True)
    source, target = keys // items, keys % items
    order = np.lexsort((target, -counts, source))
    source, target, counts = source[order], target[order], counts[order]
    place = np.arange(len(source)) - np.searchsorted(source, source)
    keep = place < width
    source, target, place = source[keep], target[keep], place[keep]
    neighbours = np.zeros((items, width), dtype=np.int32)
    weights = np.zeros((items, width), dtype=np.float32)
    neighbours[source, place] = target
    weights[source, place] = np.sqrt(counts[keep])
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    return CoClicks(neighbours, weights)
