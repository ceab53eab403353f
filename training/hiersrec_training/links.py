"""What the training sessions say of each item beside its vector: the tables of the model's wide part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.wide import CLICKS_OF, POPULARITIES, Links
from hiersrec_training.dataset import Sessions

WINDOW = 5  # clicks between two items that are linked, at most
WIDTH = 128  # neighbours of an item, at most
RECENT = (0.01, 0.03, 0.1, 0.3)  # newest shares of the sessions whose clicks are counted apart
MOST_CLICKS = np.iinfo(np.uint16).max


def links_of(sessions: Sessions, items: int, width: int = WIDTH) -> Links:
    """The links of all items, by item index: the ``width`` neighbours clicked most often near each.

    Ties go to the lower item index. Sessions are in order of time; a log needs no dates.
    """
    session = np.repeat(np.arange(len(sessions)), sessions.lengths)
    clicked = sessions.items.astype(np.int64)
    keys, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for distance in range(1, WINDOW + 1):
        first, second = clicked[:-distance], clicked[distance:]
        keep = (session[:-distance] == session[distance:]) & (first != second)
        after, before = first[keep] * items + second[keep], second[keep] * items + first[keep]
        keys += [after, before]
        columns += [np.full(len(after), 0), np.full(len(before), 1)]
        if distance == 1:
            keys.append(after)
            columns.append(np.full(len(after), 2))
    pairs, place = np.unique(np.concatenate(keys), return_inverse=True)
    counts = np.bincount(place * CLICKS_OF + np.concatenate(columns), minlength=len(pairs) * CLICKS_OF)
    counts = counts.reshape(-1, CLICKS_OF)
    source, target = pairs // items, pairs % items
    order = np.lexsort((target, -counts[:, 0] - counts[:, 1], source))
    source, target, counts = source[order], target[order], counts[order]
    keep = np.arange(len(source)) - np.searchsorted(source, source) < width
    source, target, counts = source[keep], target[keep], counts[keep]
    offsets = np.searchsorted(source, np.arange(items + 1)).astype(np.int64)
    clicks = np.minimum(counts, MOST_CLICKS).astype(np.uint16)
    return Links(_popularity(sessions, items), offsets, target.astype(np.int32), clicks)


def _popularity(sessions: Sessions, items: int) -> NDArray[np.float32]:
    """float32 [items, POPULARITIES]: log(1 + clicks) in the newest parts of the sessions, and in all."""
    popularity = np.empty((items, POPULARITIES), dtype=np.float32)
    for column, share in enumerate((*RECENT, 1.0)):
        newest = sessions.items[sessions.offsets[round((1 - share) * len(sessions))] :]
        popularity[:, column] = np.log1p(np.bincount(newest, minlength=items))
    return popularity


def by_rows(links: Links, order: NDArray[np.int64]) -> Links:
    """The links of the catalogue's rows, of which ``order`` int64 [n] names the items."""
    row = np.empty(len(order), dtype=np.int32)
    row[order] = np.arange(len(order), dtype=np.int32)
    starts, counts = links.offsets[order], np.diff(links.offsets)[order]
    offsets = np.concatenate([[0], counts.cumsum()])
    edges = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
    return Links(links.popularity[order], offsets, row[links.rows[edges]], links.clicks[edges])
