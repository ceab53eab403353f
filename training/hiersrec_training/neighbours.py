"""The co-click graph of the training sessions: for each item its nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiersrec_training.data.dataset import Sessions
from hiersrec_training.pairs import best, near_pairs

DECAY = 0.7  # a co-click n clicks apart counts DECAY^(n - 1)


@dataclass(frozen=True)
class CoClicks:
    """``neighbours`` int32 [items, width], the most frequent first, and how often they were clicked with the item.

    ``counts`` float32 [items, width]: each co-click weighs by its distance. Places without a neighbour hold item 0 with
    a count of 0. ``window``: clicks between co-clicks, at most.
    """

    neighbours: NDArray[np.int32]
    counts: NDArray[np.float32]
    window: int


def co_clicks(sessions: Sessions, items: int, width: int, window: int) -> CoClicks:
    """The ``width`` items that were clicked most often within ``window`` clicks of each item, either way.

    Ties go to the lower item index.
    """
    graph = CoClicks(np.zeros((items, width), np.int32), np.zeros((items, width), np.float32), window)
    weights = np.array([DECAY**apart for apart in range(window)])
    for pairs in near_pairs(sessions, items, window):
        each = weights[np.abs(pairs.distance) - 1]
        counts = np.bincount(pairs.place, each, len(pairs.source)).astype(np.float32)
        kept, rank = best(pairs, counts, width)
        graph.neighbours[pairs.source[kept], rank] = pairs.target[kept]
        graph.counts[pairs.source[kept], rank] = counts[kept]
    return graph
