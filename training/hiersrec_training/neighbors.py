"""The co-click graph of the training sessions: each item's nearest neighbors. And the pairs of nearby clicks that it,
like the co-visitation counts, is counted from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_training.data.dataset import Sessions

DECAY = 0.7  # a co-click n clicks apart counts DECAY^(n - 1)
CLICKS_TOGETHER = 1 << 16  # clicks whose pairs are held at once; a more frequent item has a slice to itself


@dataclass(frozen=True)
class CoClicks:
    """The ``width`` most frequent neighbors of every item.

    Attributes:
        neighbors: int32 [items, width], the most frequent first; 0 where there is none.
        counts: float32 [items, width], how often each was clicked near the item, weighted by distance; 0 where there
            is none.
        window: most clicks between two co-clicked items.
    """

    neighbors: NDArray[np.int32]
    counts: NDArray[np.float32]
    window: int


def co_clicks(sessions: Sessions, items: int, width: int, window: int) -> CoClicks:
    """The ``width`` items clicked most often within ``window`` clicks of each item, before or after it.

    Ties go to the lower item index.
    """
    graph = CoClicks(np.zeros((items, width), np.int32), np.zeros((items, width), np.float32), window)
    weights = np.array([DECAY**apart for apart in range(window)])
    for pairs in near_pairs(sessions, items, window):
        each = weights[np.abs(pairs.distance) - 1]
        counts = np.bincount(pairs.pair, each, len(pairs.source)).astype(np.float32)
        kept, rank = most_frequent(pairs, counts, width)
        graph.neighbors[pairs.source[kept], rank] = pairs.target[kept]
        graph.counts[pairs.source[kept], rank] = counts[kept]
    return graph


class Pairs(NamedTuple):
    """P distinct pairs of items, in rising order, and the N times that one was clicked near the other."""

    source: NDArray[np.int64]  # [P]
    target: NDArray[np.int64]  # [P], never the source
    pair: NDArray[np.int64]  # [N], index of the pair, ordered by distance
    distance: NDArray[
        np.int64
    ]  # [N], clicks from the source to the target, negative where the target came first


def near_pairs(sessions: Sessions, items: int, window: int) -> Iterator[Pairs]:
    """All pairs of different items within ``window`` clicks of each other, in slices of rising sources.

    A pair of items is in one slice only.
    """
    window = min(
        window, int(sessions.lengths.max(initial=2)) - 1
    )  # no two clicks of a session are further apart
    numbers = np.repeat(np.arange(len(sessions), dtype=np.int32), sessions.lengths)
    session = np.pad(numbers, window, constant_values=-1)  # a click beyond either end is in no session
    clicked = np.pad(sessions.items, window)
    by_item = np.argsort(sessions.items, kind="stable") + window
    for first, last in pairwise(_cuts(np.bincount(sessions.items, minlength=items))):
        at = by_item[first:last]
        source, source_session = clicked[at], session[at]
        keys, distances = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for size in range(1, window + 1):
            for distance in (size, -size):
                target = clicked[at + distance]
                near = np.flatnonzero((session[at + distance] == source_session) & (target != source))
                keys.append(source[near].astype(np.int64) * items + target[near])
                distances.append(np.full(len(near), distance))
        pairs, pair = np.unique(np.concatenate(keys), return_inverse=True)
        yield Pairs(pairs // items, pairs % items, pair, np.concatenate(distances))


def most_frequent(
    pairs: Pairs, counts: NDArray[np.number], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ``width`` pairs of each source with the largest ``counts`` [P], the largest first.

    Ties go to the lower target.

    Returns:
        Indices of the pairs, one source after the other, int64 [M]; and the rank of each within its source, from 0.
    """
    order = np.lexsort((-counts, pairs.source))  # stable: the targets rise already
    rank = np.arange(len(order)) - np.searchsorted(pairs.source, pairs.source)
    kept = rank < width
    return order[kept], rank[kept]


def _cuts(clicks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut the log, sorted by item, into slices: between items, of which each has ``clicks`` [items]."""
    ends = np.concatenate([[0], clicks.cumsum()])
    wanted = np.arange(0, ends[-1] + CLICKS_TOGETHER, CLICKS_TOGETHER)
    cuts: NDArray[np.int64] = np.unique(ends[np.searchsorted(ends[:-1], wanted)])
    return cuts
