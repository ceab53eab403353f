"""Baselines without learning, ranked under the same protocol as the model.

Each gives one score an item; equal scores are told apart by popularity, which helps the baselines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hiersrec_sdk.errors import OptionError
from hiersrec_training.dataset import Sessions
from hiersrec_training.metrics import ranking_metrics

NAMES = ("popular", "markov", "sknn")


class Baseline(ABC):
    """Learns from sessions of item indices; scores every item after a session."""

    def __init__(self, sessions: Sessions, items: int) -> None:
        clicks = np.bincount(sessions.items, minlength=items)
        self.popularity: NDArray[np.float64] = clicks / (clicks.max() + 1) * 1e-6

    @abstractmethod
    def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
        """Scores float64 [items] after the clicks of ``session`` (at least one)."""


class Popular(Baseline):
    """The items clicked most in training."""

    def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
        return self.popularity


class Markov(Baseline):
    """First-order Markov chain: how often an item directly followed the newest one."""

    def __init__(self, sessions: Sessions, items: int) -> None:
        super().__init__(sessions, items)
        session = np.repeat(np.arange(len(sessions)), sessions.lengths)
        inside = session[:-1] == session[1:]
        pairs = sessions.items[:-1][inside].astype(np.int64) * items + sessions.items[1:][inside]
        keys, self.counts = np.unique(pairs, return_counts=True)
        self.following = keys % items
        self.offsets = np.searchsorted(keys // items, np.arange(items + 1))

    def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
        begin, end = self.offsets[session[-1]], self.offsets[session[-1] + 1]
        scores = self.popularity.copy()
        scores[self.following[begin:end]] += self.counts[begin:end]
        return scores


class SessionKNN(Baseline):
    """Session-based nearest neighbours (Jannach and Ludewig, RecSys 2017): of the ``recent`` newest training sessions
    that share an item, the ``neighbours`` most alike (cosine of the item sets); an item scores the sum of the
    likeness of the neighbours that hold it."""

    def __init__(self, sessions: Sessions, items: int, recent: int = 1000, neighbours: int = 100) -> None:
        super().__init__(sessions, items)
        self.recent, self.neighbours = recent, neighbours
        session = np.repeat(np.arange(len(sessions), dtype=np.int64), sessions.lengths)
        keys = np.unique(session * items + sessions.items)  # each item once a session
        self.members = keys % items
        self.ends = np.searchsorted(keys // items, np.arange(len(sessions) + 1))
        order = np.argsort(self.members, kind="stable")  # sessions of each item, oldest first
        self.holders = (keys // items)[order]
        self.starts = np.searchsorted(self.members[order], np.arange(items + 1))

    def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
        own = np.unique(session)
        holders = np.concatenate([self.holders[self.starts[item] : self.starts[item + 1]] for item in own])
        found, shared = np.unique(holders, return_counts=True)
        found, shared = found[-self.recent :], shared[-self.recent :]
        likeness = shared / np.sqrt(len(own) * (self.ends[found + 1] - self.ends[found]))
        best = np.lexsort((-found, -likeness))[: self.neighbours]
        scores = self.popularity.copy()
        begins, counts = self.ends[found[best]], self.ends[found[best] + 1] - self.ends[found[best]]
        place = np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        np.add.at(scores, self.members[place], np.repeat(likeness[best], counts))
        return scores


def baseline(name: str, sessions: Sessions, items: int) -> Baseline:
    """The baseline ``name``, trained on ``sessions``. Raises :class:`OptionError` for a name that is not known."""
    kinds = {"popular": Popular, "markov": Markov, "sknn": SessionKNN}
    if name not in kinds:
        raise OptionError(f"there is no baseline {name!r}; known: {', '.join(NAMES)}")
    return kinds[name](sessions, items)


def evaluate_baseline(method: Baseline, sessions: Sessions, progress: bool = False) -> dict[str, float]:
    """Metrics over every prefix of every session; every item ranked, ties counted against the baseline."""
    ranks = np.zeros(sessions.cases, dtype=np.int64)
    case = 0
    for index in tqdm(range(len(sessions)), "sessions", unit="session", disable=not progress):
        clicks = sessions[index]
        for length in range(1, len(clicks)):
            scores = method.scores(clicks[:length])
            ranks[case] = np.count_nonzero(scores >= scores[clicks[length]])
            case += 1
    return {"cases": case, **ranking_metrics(ranks)}
