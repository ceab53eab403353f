"""The co-click graph of the training sessions: for each item its nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hiersrec_training.dataset import Sessions

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
    session = np.repeat(np.arange(len(sessions)), sessions.lengths)
    clicked = sessions.items.astype(np.int64)
    keys, weights = [np.empty(0, np.int64)], [np.empty(0)]
    for distance in range(1, window + 1):
        first, second = clicked[:-distance], clicked[distance:]
        keep = (session[:-distance] == session[distance:]) & (first != second)
        keys += [first[keep] * items + second[keep], second[keep] * items + first[keep]]
        weights.append(np.full(2 * keep.sum(), DECAY ** (distance - 1)))
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    counts = np.bincount(place, np.concatenate(weights), len(pairs)).astype(np.float32)
    source, target = pairs // items, pairs % items
    order = np.lexsort((target, -counts, source))
    source, target, counts = source[order], target[order], counts[order]
    place = np.arange(len(source)) - np.searchsorted(source, source)
    keep = place < width
    source, target, place = source[keep], target[keep], place[keep]
    graph = CoClicks(np.zeros((items, width), np.int32), np.zeros((items, width), np.float32), window)
    graph.neighbours[source, place] = target
    graph.counts[source, place] = counts[keep]
    return graph
