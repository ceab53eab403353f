"""implicit's own top-k: a matrix product and a heap for each query, over the whole table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from implicit.cpu.topk import topk
from numpy.typing import NDArray

from benchmarks.peers.peer import Answer, Peer, Setup


def build(setup: Setup) -> list[Peer]:
    return [Implicit(setup)]


class Implicit(Peer):
    name = "implicit"

    def __init__(self, setup: Setup) -> None:
        self._vectors = setup.vectors
        self._k = setup.k

    def exact(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        return Answer(self._best(query[None])[0])

    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        return Answer(self._best(queries))

    def _best(self, queries: NDArray[np.float32]) -> NDArray[np.int64]:
        rows, _ = topk(self._vectors, queries, self._k, num_threads=1)
        found: NDArray[np.int64] = rows.astype(np.int64)
        return found
