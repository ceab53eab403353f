"""torch: a matrix product over the whole table, then ``topk``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.peer import Answer, Peer, Setup


def build(setup: Setup) -> list[Peer]:
    torch.set_num_threads(1)
    return [Torch(setup)]


class Torch(Peer):
    name = "torch"

    def __init__(self, setup: Setup) -> None:
        # query @ table.T was the fastest of it, table @ query and table @ query[:, None]
        self._table = torch.from_numpy(setup.vectors).T
        self._k = setup.k

    def exact(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        return Answer(self._best(query[None])[0])

    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        return Answer(self._best(queries))

    @torch.inference_mode()
    def _best(self, queries: NDArray[np.float32]) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = torch.topk(torch.from_numpy(queries) @ self._table, self._k).indices.numpy()
        return rows
