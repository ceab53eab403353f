"""faiss: every row, over float32, over its own 8 bits, and over the candidates alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.peer import Answer, Peer, Setup, Work


def build(setup: Setup) -> list[Peer]:
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(setup.vectors.shape[1])
    flat.add(setup.vectors)
    quantized = faiss.IndexScalarQuantizer(
        setup.vectors.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    quantized.train(setup.vectors[:100_000])
    quantized.add(setup.vectors)
    return [
        Index("faiss-flat", flat, setup.k),
        Selected("faiss-flat-selected", flat, setup.k),
        Index("faiss-sq8", quantized, setup.k),
    ]


class Index(Peer):
    """An index of faiss with the ``parameters`` of its search."""

    def __init__(self, name: str, index: Any, k: int, parameters: Any = None) -> None:
        self.name = name
        self._index = index
        self._k = k
        self._parameters = parameters

    def exact(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        return Answer(self._best(query[None], self._parameters)[0])

    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        return Answer(self._best(queries, self._parameters))

    def _best(self, queries: NDArray[np.float32], parameters: Any) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self._index.search(queries, self._k, params=parameters)[1]
        return rows


class Selected(Index):
    """The candidates by a bitmap of faiss, which is made for each query."""

    works: ClassVar[tuple[Work, ...]] = ("candidates",)
    ranks_candidates = True

    def candidates(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        chosen = np.zeros(self._index.ntotal, bool)
        for start, stop in ranges.tolist():
            chosen[start:stop] = True
        selector = faiss.IDSelectorBitmap(np.packbits(chosen, bitorder="little"))
        return Answer(self._best(query[None], faiss.SearchParameters(sel=selector))[0])
