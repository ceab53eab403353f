"""What the training sessions say of each item beside its vector: the tables of the model's wide part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.covisitation import EDGE_COUNTS, POPULARITIES
from hiersrec_sdk.ranking.covisitation import CovisitationCounts as Links
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.pairs import best, near_pairs

WINDOW = 5  # clicks between two items that are linked, at most
WIDTH = 128  # neighbours of an item, at most
RECENT = (0.01, 0.03, 0.1, 0.3)  # newest shares of the sessions whose clicks are counted apart
MOST_CLICKS = np.iinfo(np.uint16).max


def links_of(sessions: Sessions, items: int, width: int = WIDTH) -> Links:
    """The links of all items, by item index: the ``width`` neighbours clicked most often near each.

    Ties go to the lower item index. Sessions are in order of time; a log needs no dates.
    """
    degrees = np.zeros(items, np.int64)
    rows, clicks = [np.empty(0, np.int32)], [np.empty((0, EDGE_COUNTS), np.uint16)]
    for pairs in near_pairs(sessions, items, WINDOW):
        kinds = (pairs.distance > 0, pairs.distance < 0, pairs.distance == 1)
        counts = np.stack(
            [np.bincount(pairs.place[kind], minlength=len(pairs.source)) for kind in kinds], axis=1
        )
        kept, _ = best(pairs, counts[:, 0] + counts[:, 1], width)
        np.add.at(degrees, pairs.source[kept], 1)
        rows.append(pairs.target[kept].astype(np.int32))
        clicks.append(np.minimum(counts[kept], MOST_CLICKS).astype(np.uint16))
    offsets = np.concatenate([[0], degrees.cumsum()])
    return Links(_popularity(sessions, items), offsets, np.concatenate(rows), np.concatenate(clicks))


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
    return Links(links.popularity[order], offsets, row[links.rows[edges]], links.counts[edges])


def without(links: Links, items: NDArray[np.bool]) -> Links:
    """The links as if nobody had clicked ``items`` bool [n]."""
    source = np.repeat(np.arange(len(items)), np.diff(links.offsets))
    kept = ~(items[source] | items[links.rows])
    offsets = np.concatenate([[0], np.bincount(source[kept], minlength=len(items)).cumsum()])
    popularity = np.where(items[:, None], np.float32(0), links.popularity)
    return Links(popularity, offsets, links.rows[kept], links.counts[kept])
