"""Baselines without learning, ranked under the same protocol as the model.

Each gives one score an item; equal scores are told apart by popularity, which helps the baselines.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hiersrec_sdk.arguments import number_of
from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_sdk.shown import shown
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.examples import Examples, examples_to_measure
from hiersrec_training.metrics import ranking_metrics, target_ranks


class Baseline(ABC):
    """A method that learns from sessions of item indices and scores every item after a session."""

    def __init__(self, sessions: Sessions, items: int) -> None:
        clicks = np.bincount(sessions.items, minlength=items)
        self.popularity: NDArray[np.float64] = clicks / (clicks.max() + 1) * 1e-6

    @abstractmethod
    def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
        """Scores float64 [items] after the clicks of ``session`` (at least one)."""


class Popular(Baseline):
    """Popularity: the items clicked most in training."""

    def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
        return self.popularity


class Rules(Baseline):
    """Sequential rules (Ludewig and Jannach, UMUAI 2018): how often an item followed the newest one, at most ``reach``
    clicks later. A pair at distance n counts ``1 / n``, times ``exp(-age / age_decay)`` where the age is the share of
    the training sessions that came later; infinity weighs old and new alike."""

    def __init__(self, sessions: Sessions, items: int, reach: int = 10, age_decay: float = math.inf) -> None:
        super().__init__(sessions, items)
        session = np.repeat(np.arange(len(sessions)), sessions.lengths)
        fresh = np.exp(-_ages(len(sessions)) / age_decay)[session]
        keys, weights = [np.empty(0, np.int64)], [np.empty(0)]
        longest = int(sessions.lengths.max(initial=1))
        for distance in range(1, min(reach, longest - 1) + 1):  # no two clicks of a session are further apart
            inside = session[:-distance] == session[distance:]
            source, target = sessions.items[:-distance][inside], sessions.items[distance:][inside]
            keys.append(source.astype(np.int64) * items + target)
            weights.append(fresh[distance:][inside] / distance)
        pairs, pair = np.unique(np.concatenate(keys), return_inverse=True)
        self.weights = np.bincount(pair, np.concatenate(weights), len(pairs))
        self.following = pairs % items
        self.offsets = np.searchsorted(pairs // items, np.arange(items + 1))

    def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
        begin, end = self.offsets[session[-1]], self.offsets[session[-1] + 1]
        scores = self.popularity.copy()
        scores[self.following[begin:end]] += self.weights[begin:end]
        return scores


class Markov(Rules):
    """First-order Markov chain: how often an item directly followed the newest one."""

    def __init__(self, sessions: Sessions, items: int, age_decay: float = math.inf) -> None:
        super().__init__(sessions, items, 1, age_decay)


class SessionKNN(Baseline):
    """Session-based nearest neighbors: of the ``recent`` newest training sessions that share an item, the
    ``neighbors`` most alike; an item scores the sum of the likeness of the neighbors that hold it.

    The likeness is the cosine of the item sets (Jannach and Ludewig, RecSys 2017). Where the decays are finite it is
    that of STAN (Garg et al., SIGIR 2019) and VSTAN (Ludewig et al., UMUAI 2021), with repeated clicks of an item
    counted once, at its newest position.

    Args:
        click_decay: an item n clicks before the newest one weighs ``exp(-n / click_decay)`` in the likeness.
        age_decay: a neighbor weighs ``exp(-age / age_decay)``; its age is the share of the training sessions that
            came later (logs need no time).
        position_decay: an item weighs ``exp(-n / position_decay)`` where it is n clicks from the newest shared item
            in the neighbor.
        match_decay: a neighbor votes with weight ``exp(-n / match_decay)`` where its newest shared item is n clicks
            before the newest one of the session.
        rarity: an item's votes count ``1 + rarity · log(sessions / sessions that hold it)``.
    """

    def __init__(
        self,
        sessions: Sessions,
        items: int,
        recent: int = 1000,
        neighbors: int = 100,
        click_decay: float = math.inf,
        age_decay: float = math.inf,
        position_decay: float = math.inf,
        match_decay: float = math.inf,
        rarity: float = 0.0,
    ) -> None:
        super().__init__(sessions, items)
        self.recent, self.neighbors = recent, neighbors
        self.click_decay, self.position_decay, self.match_decay = click_decay, position_decay, match_decay
        session = np.repeat(np.arange(len(sessions), dtype=np.int64), sessions.lengths)
        position = np.arange(len(session)) - sessions.offsets[:-1][session]
        # each item once a session, at its newest position: the first of the reversed keys
        keys, newest = np.unique((session * items + sessions.items)[::-1], return_index=True)
        self.members, self.positions = keys % items, position[::-1][newest]
        self.ends = np.searchsorted(keys // items, np.arange(len(sessions) + 1))
        order = np.argsort(self.members, kind="stable")  # sessions of each item, oldest first
        self.holders, self.held_positions = (keys // items)[order], self.positions[order]
        self.starts = np.searchsorted(self.members[order], np.arange(items + 1))
        self.fresh = np.exp(-_ages(len(sessions)) / age_decay)
        self.worth = 1 + rarity * np.log(len(sessions) / np.maximum(1, np.diff(self.starts)))

    def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
        # back: clicks between the newest and each item
        items, back = np.unique(session[::-1], return_index=True)
        oldest_first = np.argsort(-back)
        items, back = items[oldest_first], back[oldest_first]
        begins, counts = self.starts[items], self.starts[items + 1] - self.starts[items]
        entry = _flat(begins, counts)
        found, which = np.unique(self.holders[entry], return_inverse=True)
        ago = np.repeat(back, counts)
        shared = np.bincount(which, np.exp(-ago / self.click_decay), len(found))
        # of repeated indices the last assignment stays: that of the newest shared item
        match, match_position = np.empty(len(found)), np.empty(len(found))
        match[which], match_position[which] = ago, self.held_positions[entry]
        newest = slice(max(0, len(found) - self.recent), None)
        found, shared, match, match_position = (
            found[newest],
            shared[newest],
            match[newest],
            match_position[newest],
        )
        sizes = self.ends[found + 1] - self.ends[found]
        likeness = shared / np.sqrt(len(items) * sizes) * self.fresh[found]
        best = np.lexsort((-found, -likeness))[: self.neighbors]
        vote = likeness[best] * np.exp(-match[best] / self.match_decay)
        member = _flat(self.ends[found[best]], sizes[best])
        apart = np.abs(self.positions[member] - np.repeat(match_position[best], sizes[best]))
        votes = np.repeat(vote, sizes[best]) * np.exp(-apart / self.position_decay)
        held = np.bincount(self.members[member], votes, len(self.popularity))
        return self.popularity + held * self.worth


def _ages(sessions: int) -> NDArray[np.float64]:
    """The age of each session, in order of time: the share of the sessions that came later."""
    return np.arange(sessions)[::-1] / max(1, sessions)


def _flat(begins: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of ``counts`` entries from each of ``begins``, end to end."""
    return np.repeat(begins - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())


STAN = {"recent": 5000, "neighbors": 1000, "click_decay": 1.5, "age_decay": 0.5, "position_decay": 3.0}
VSTAN = {"recent": 5000, "neighbors": 100, "click_decay": 3.0, "age_decay": 1.0, "position_decay": 5.0}
KINDS: Mapping[str, tuple[type[Baseline], dict[str, float]]] = {
    "popular": (Popular, {}),
    "markov": (Markov, {"age_decay": math.inf}),
    "rules": (Rules, {"reach": 10, "age_decay": math.inf}),
    "sknn": (SessionKNN, {"recent": 1000, "neighbors": 100}),
    "stan": (SessionKNN, STAN),
    "vstan": (SessionKNN, VSTAN | {"match_decay": 5.0, "rarity": 0.3}),
}
"""The class of each baseline, and its options with their defaults. Those of STAN and VSTAN are the best of 45 random
draws each on validation sessions of Diginetica."""
COMPARED = ("popular", "markov", "rules", "sknn", "vstan")
"""The baselines of ``hiersrec compare``: those whose defaults are of use without tuning."""


def parse_options(assignments: Iterable[str]) -> dict[str, float]:
    """``name=number`` strings as a dictionary. Raises :class:`InvalidOptionError`."""
    options: dict[str, float] = {}
    for assignment in assignments:
        name, _, text = assignment.partition("=")
        number = number_of(text.strip())
        if number is None:
            raise InvalidOptionError(f"--set takes name=number, got {shown(assignment)}")
        options[name.strip()] = number
    return options


def baseline(
    name: str, sessions: Sessions, items: int, options: Mapping[str, float] | None = None
) -> Baseline:
    """The baseline ``name`` with ``options``, trained on ``sessions``.

    Raises :class:`InvalidOptionError` for a name or an option that is not known, an option that is not above 0, or a
    fraction where the default is an integer.
    """
    if name not in KINDS:
        raise InvalidOptionError(f"there is no baseline {shown(name)}; known: {', '.join(KINDS)}")
    kind, defaults = KINDS[name]
    for option, value in (options or {}).items():
        if option not in defaults:
            raise InvalidOptionError(
                f"{name} has no option {shown(option)}; known: {', '.join(defaults) or 'none'}"
            )
        if not value > 0:
            raise InvalidOptionError(f"{option} must be above 0, got {value}")
        if isinstance(defaults[option], int) and not float(value).is_integer():
            raise InvalidOptionError(f"{option} must be an integer, got {value}")
    chosen = {
        option: type(default)((options or {}).get(option, default)) for option, default in defaults.items()
    }
    make: Callable[..., Baseline] = kind
    return make(sessions, items, **chosen)


def popularity_metrics(sessions: Sessions, later: Sessions, items: int) -> dict[str, float]:
    """What :func:`evaluate_baseline` says of :class:`Popular` on the sessions ``later``, in a moment."""
    clicks = np.bincount(sessions.items, minlength=items)
    below = np.sort(clicks).searchsorted(clicks[Examples.of(later).targets])
    return ranking_metrics(items - below)


def evaluate_baseline(
    method: Baseline, sessions: Sessions, progress: bool = False, split: str = "evaluated"
) -> dict[str, float]:
    """Metrics over every prefix of every session; every item ranked, ties counted against the baseline.

    Args:
        method: the baseline.
        sessions: to measure it on.
        progress: show a progress bar.
        split: what the sessions are, for the error.

    Raises:
        EmptyLogError: the sessions hold no example.
    """
    examples = examples_to_measure(sessions, split)
    ranks = np.zeros(len(examples), dtype=np.int64)
    for at, (prefix, target) in enumerate(
        tqdm(examples, "examples", len(examples), unit="example", disable=not progress)
    ):
        ranks[at] = target_ranks(method.scores(prefix)[None], [target])[0]
    return {"examples": len(examples), **ranking_metrics(ranks)}
