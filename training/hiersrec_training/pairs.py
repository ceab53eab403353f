"""The pairs of clicks near each other in a session, an item's pairs together, so that they can be counted in slices."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_training.data.dataset import Sessions

CLICKS_TOGETHER = 1 << 16  # clicks whose pairs are held at once; a more frequent item has a slice of its own


class Pairs(NamedTuple):
    """Distinct pairs of items, rising, and every time that one was clicked near the other; P pairs, N times."""

    source: NDArray[np.int64]  # [P]
    target: NDArray[np.int64]  # [P], never the source
    place: NDArray[np.int64]  # [N], index of the pair; by distance
    distance: NDArray[np.int64]  # [N], clicks from the source to the target, negative where that came first


def near_pairs(sessions: Sessions, items: int, window: int) -> Iterator[Pairs]:
    """All pairs of different items within ``window`` clicks of each other, either way, in slices of the source's
    range: a pair of items is in one slice only."""
    numbers = np.repeat(np.arange(len(sessions), dtype=np.int32), sessions.lengths)
    session = np.pad(numbers, window, constant_values=-1)  # a click beyond either end is in no session
    clicked = np.pad(sessions.items, window)
    by_item = np.argsort(sessions.items, kind="stable") + window
    for first, last in pairwise(_cuts(np.bincount(sessions.items, minlength=items))):
        at = by_item[first:last]
        own, of = clicked[at], session[at]
        keys, distances = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for size in range(1, window + 1):
            for distance in (size, -size):
                other = clicked[at + distance]
                near = np.flatnonzero((session[at + distance] == of) & (other != own))
                keys.append(own[near].astype(np.int64) * items + other[near])
                distances.append(np.full(len(near), distance))
        pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
        yield Pairs(pairs // items, pairs % items, place, np.concatenate(distances))


def best(pairs: Pairs, counts: NDArray[np.number], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ``width`` pairs of each source with the largest ``counts`` [P], the largest first.

    Ties go to the lower target. Returns the sources' pairs one after the other, int64 [M], and the rank of each.
    """
    order = np.lexsort((-counts, pairs.source))  # stable: the targets rise already
    rank = np.arange(len(order)) - np.searchsorted(pairs.source, pairs.source)
    kept = rank < width
    return order[kept], rank[kept]


def _cuts(clicks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where to cut the clicks in order of their items, of which each has ``clicks``: between items."""
    ends = np.concatenate([[0], clicks.cumsum()])
    wanted = np.arange(0, ends[-1] + CLICKS_TOGETHER, CLICKS_TOGETHER)
    cuts: NDArray[np.int64] = np.unique(ends[np.searchsorted(ends[:-1], wanted)])
    return cuts
