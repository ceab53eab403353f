"""NumPy: a matrix product, then ``argpartition``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Answer, Peer, Setup, Work, rows_in


def build(setup: Setup) -> list[Peer]:
    return [NumPy(setup), Slices(setup)]


class NumPy(Peer):
    """Gathers the rows of the candidates: what one writes first."""

    name = "numpy"
    ranks_candidates = True

    def __init__(self, setup: Setup) -> None:
        self._vectors = setup.vectors
        self._k = setup.k

    def candidates(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        rows = rows_in(ranges)
        return Answer(rows[self._best(self._vectors[rows] @ query)])

    def exact(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        return Answer(self._best(self._vectors @ query))

    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        return Answer(np.stack([self._best(scores) for scores in queries @ self._vectors.T]))

    def _best(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        best = np.argpartition(scores, len(scores) - self._k)[len(scores) - self._k :]
        ordered: NDArray[np.int64] = best[np.argsort(-scores[best], kind="stable")]
        return ordered


class Slices(NumPy):
    """One product for each range of candidates, without a copy: what our layout makes of NumPy."""

    name = "numpy-slices"
    works: ClassVar[tuple[Work, ...]] = ("candidates",)

    def candidates(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        scores = [self._vectors[start:stop] @ query for start, stop in ranges.tolist()]
        return Answer(rows_in(ranges)[self._best(np.concatenate(scores))])
