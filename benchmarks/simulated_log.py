"""A SIMULATED data set of any size, made directly as arrays: to measure costs with, never accuracy."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_training.data.dataset import CategoryTree, Dataset, Sessions

LEAVES, TOPS = 1_000, 40  # categories of the two levels, at most
LONGEST = 50  # clicks of a session
ZIPF = 0.9  # the item of rank r is begun with in proportion to r^-ZIPF
JUMP = 0.2  # share of the clicks that go anywhere, by popularity; the others stay near, in the category
NEAR = 10  # items to either side that a click may go on to
VALID = 200  # sessions of the validation part, at most


def simulated_log(items: int, sessions: int, seed: int = 0) -> Dataset:
    """``sessions`` of five clicks in mean over ``items`` in a category tree of two levels, without text or numbers."""
    random = np.random.default_rng(seed)
    leaves = max(1, min(LEAVES, items // 20))
    tops = max(1, min(TOPS, leaves // 10))
    category = np.arange(items) * leaves // items  # of neighbouring items the same
    clicks = _clicks(random, category, sessions)
    lengths = np.minimum(1 + random.geometric(0.25, sessions), LONGEST)
    valid = min(VALID, sessions // 10)
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, items)
    return Dataset(
        item_ids=pl.Series(np.arange(items)),
        category=category.astype(np.int32),
        extra_categories=[],
        clicks=np.bincount(clicks[np.arange(LONGEST) < lengths[:, None]], minlength=items),
        title=nothing,
        text=nothing,
        numbers={},
        tree=CategoryTree(
            [list(range(tops)), list(range(leaves))],
            [np.full(tops, -1, np.int32), (np.arange(leaves) * tops // leaves).astype(np.int32)],
        ),
        train=_sessions(clicks[valid:], lengths[valid:]),
        valid=_sessions(clicks[:valid], lengths[:valid]),
        test=_sessions(clicks[:0], lengths[:0]),
    )


def _clicks(random: np.random.Generator, category: NDArray[np.int64], sessions: int) -> NDArray[np.int32]:
    """int32 [sessions, LONGEST]."""
    items = len(category)
    by_rank = random.permutation(items)
    cumulated = np.cumsum(np.arange(1, items + 1) ** -ZIPF)
    starts = np.searchsorted(category, np.arange(category[-1] + 2))

    def popular(count: int) -> NDArray[np.int64]:
        drawn: NDArray[np.int64] = by_rank[np.searchsorted(cumulated, random.random(count) * cumulated[-1])]
        return drawn

    clicks = np.empty((sessions, LONGEST), np.int32)
    clicks[:, 0] = popular(sessions)
    for place in range(1, LONGEST):
        before = clicks[:, place - 1]
        first, last = starts[category[before]], starts[category[before] + 1] - 1
        near = np.clip(before + random.integers(-NEAR, NEAR + 1, sessions), first, last)
        clicks[:, place] = np.where(random.random(sessions) < JUMP, popular(sessions), near)
    return clicks


def _sessions(clicks: NDArray[np.int32], lengths: NDArray[np.int64]) -> Sessions:
    offsets = np.concatenate([[0], lengths.cumsum()])
    return Sessions(clicks[np.arange(LONGEST) < lengths[:, None]], offsets)
