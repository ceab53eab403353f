"""Examples: a prefix of a session, and the item that came next.

Training, fitting, calibration and evaluation all take their examples from here. Those of :meth:`Examples.of` have the
whole session before the target as their prefix. Training cuts long sessions into :class:`Windows` first, so that one
pass over a window makes all of its examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import EmptyLogError
from hiersrec_training.data.dataset import Sessions


class Example(NamedTuple):
    """A prefix int32 [length], oldest item first, and the item that came next."""

    prefix: NDArray[np.int32]
    target: int


@dataclass(frozen=True)
class Examples:
    """n examples of one log of clicks.

    Attributes:
        clicks: int32, items of all sessions, end to end.
        start: int64 [n], where the prefix of each example begins in ``clicks``.
        stop: int64 [n], where it ends: the position of the target.
    """

    clicks: NDArray[np.int32]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @classmethod
    def of(cls, sessions: Sessions) -> Examples:
        """Every example of ``sessions``: of each session the shortest prefix first."""
        return Windows.of(sessions).examples()

    def __len__(self) -> int:
        return len(self.stop)

    def __getitem__(self, index: int) -> Example:
        stop = self.stop[index]
        return Example(self.clicks[self.start[index] : stop], int(self.clicks[stop]))

    def __iter__(self) -> Iterator[Example]:
        return map(self.__getitem__, range(len(self)))

    @property
    def targets(self) -> NDArray[np.int64]:
        """int64 [n]: the item that came next in each."""
        return self.clicks[self.stop].astype(np.int64)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n]: the length of each prefix."""
        return self.stop - self.start

    def take(self, index: NDArray[np.int64] | slice) -> Examples:
        """The examples at ``index``, in its order."""
        return Examples(self.clicks, self.start[index], self.stop[index])

    def sample(self, most: int, seed: int = 0) -> Examples:
        """At most ``most`` of them, in their order; each as likely as any other."""
        if len(self) <= most:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False)))

    def newest(self, max_length: int) -> Examples:
        """These examples, with only the newest ``max_length`` items of each prefix."""
        return Examples(self.clicks, np.maximum(self.start, self.stop - max_length), self.stop)

    def chunks(self, size: int) -> Iterator[Examples]:
        """All of them in order, ``size`` at a time."""
        return (self.take(slice(first, first + size)) for first in range(0, len(self), size))

    def batches(
        self, vectors: NDArray[np.float32], max_length: int, size: int
    ) -> Iterator[tuple[Examples, NDArray[np.float32]]]:
        """Batches of ``size`` examples of like length, the short ones first, with the vectors of their prefixes.

        Args:
            vectors: float32 [items, d].
            max_length: how many of the newest items of a prefix count.
            size: of a batch.

        Yields:
            The examples of a batch, cut to ``max_length``; and float32 [size, length, d], padded with 0.
        """
        cut = self.newest(max_length)
        ordered = cut.take(np.argsort(cut.lengths, kind="stable"))
        for some in ordered.chunks(size):
            lengths = some.lengths
            padded = np.zeros((len(some), lengths.max(), vectors.shape[1]), dtype=np.float32)
            there = np.arange(padded.shape[1]) < lengths[:, None]
            padded[there] = vectors[np.concatenate([prefix for prefix, _ in some])]
            yield some, padded


@dataclass(frozen=True)
class Windows:
    """Stretches of sessions, each with all the examples that begin where it begins.

    A window of ``length`` items is the prefixes of 1 to ``length`` of them; the last one's target is the item after
    the window.

    Attributes:
        clicks: int32, items of all sessions, end to end.
        session: int64 [windows], the session of each.
        start: int64 [windows], where each begins in ``clicks``.
        length: int64 [windows].
    """

    clicks: NDArray[np.int32]
    session: NDArray[np.int64]
    start: NDArray[np.int64]
    length: NDArray[np.int64]

    @classmethod
    def of(cls, sessions: Sessions, max_length: int | None = None) -> Windows:
        """The windows of ``sessions``, so that every item but a session's first is a target once.

        Without ``max_length`` a session is one window. Otherwise a session of more than ``max_length + 1`` items is
        cut; the last target of a window is the first item of the next.
        """
        targets = np.maximum(0, sessions.lengths - 1)
        most = max_length or max(1, int(targets.max(initial=1)))
        windows = -(-targets // most)
        session = np.repeat(np.arange(len(sessions)), windows)
        number = np.arange(len(session)) - np.repeat(np.cumsum(windows) - windows, windows)
        start = sessions.offsets[session] + number * most
        length = np.minimum(most, sessions.offsets[session + 1] - start - 1)
        return cls(sessions.items, session, start, length)

    def __len__(self) -> int:
        return len(self.start)

    def examples(self, some: NDArray[np.int64] | slice = slice(None)) -> Examples:
        """The examples of the windows ``some``: of each window the shortest prefix first."""
        start, length = self.start[some], self.length[some]
        total = int(length.sum())
        position = 1 + np.arange(total) - np.repeat(np.cumsum(length) - length, length)
        begins = np.repeat(start, length)
        return Examples(self.clicks, begins, begins + position)


def examples_to_measure(sessions: Sessions, split: str) -> Examples:
    """The examples of the split called ``split``. Raises :class:`EmptyLogError` where there are none."""
    examples = Examples.of(sessions)
    if not len(examples):
        raise EmptyLogError(
            f"the {split} split of the dataset has no session of two clicks; hiersrec prepare makes a test split with "
            "--test-days, --test-fraction or --test-log"
        )
    return examples
