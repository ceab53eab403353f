"""Cases to measure on: a prefix of a session, and the click that came next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_training.data.dataset import Sessions


class Batch(NamedTuple):
    """B cases of like length.

    ``clicks``: of each case its newest items, oldest first; ``vectors`` float32 [B, length, d] of them, padded with 0;
    ``lengths`` int64 [B]; ``targets`` int64 [B]: the items that came next.
    """

    clicks: list[NDArray[np.int32]]
    vectors: NDArray[np.float32]
    lengths: NDArray[np.int64]
    targets: NDArray[np.int64]


@dataclass(frozen=True)
class Cases:
    """Prefixes of ``sessions``: ``session`` int64 [n], the index of each; ``length`` int64 [n], the clicks of each."""

    sessions: Sessions
    session: NDArray[np.int64]
    length: NDArray[np.int64]

    @classmethod
    def sample(cls, sessions: Sessions, most: int, seed: int = 0) -> Cases:
        """At most ``most`` of all cases of ``sessions``, every case as likely as any other."""
        per_session = np.maximum(sessions.lengths - 1, 0)
        session = np.repeat(np.arange(len(sessions)), per_session)
        length = 1 + np.arange(len(session)) - np.repeat(np.cumsum(per_session) - per_session, per_session)
        if len(session) > most:
            chosen = np.sort(np.random.default_rng(seed).choice(len(session), most, replace=False))
            session, length = session[chosen], length[chosen]
        return cls(sessions, session, length)

    def __len__(self) -> int:
        return len(self.session)

    def batches(self, vectors: NDArray[np.float32], max_length: int, size: int) -> Iterator[Batch]:
        """All cases, ``size`` at a time, the short ones first; ``vectors`` float32 [items, d] of the items.

        Of a case the newest ``max_length`` clicks count.
        """
        order = np.argsort(np.minimum(self.length, max_length), kind="stable")
        for start in range(0, len(order), size):
            some = order[start : start + size]
            clicks, targets = [], np.empty(len(some), dtype=np.int64)
            for at, case in enumerate(some):
                session, length = self.sessions[int(self.session[case])], int(self.length[case])
                clicks.append(session[max(0, length - max_length) : length])
                targets[at] = session[length]
            lengths = np.array([len(items) for items in clicks], dtype=np.int64)
            padded = np.zeros((len(some), lengths.max(), vectors.shape[1]), dtype=np.float32)
            padded[np.arange(padded.shape[1]) < lengths[:, None]] = vectors[np.concatenate(clicks)]
            yield Batch(clicks, padded, lengths, targets)
