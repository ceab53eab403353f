"""faiss IVF-flat: the lists of the centroids nearest to the query are ranked; approximate."""

from __future__ import annotations

import math
from typing import Any, Final

import faiss

from benchmarks.peers.faiss_flat import Index
from benchmarks.peers.faiss_index import built
from benchmarks.peers.peer import Peer, Setup

PROBES: Final = (1, 4, 16, 64)
_TRAINING: Final = 50  # rows a centroid


def build(setup: Setup) -> list[Peer]:
    rows, dimension = setup.vectors.shape
    lists = 1 << max(
        4, round(math.log2(2 * math.sqrt(rows)))
    )  # twice the root of the rows: 2,048 of a million

    def make() -> Any:
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # no warning about tiny tables
        index.cp.max_points_per_centroid = _TRAINING
        index.train(setup.vectors[:: max(1, rows // (_TRAINING * lists))])
        index.add(setup.vectors)
        return index

    index = built(setup, f"ivf{lists}", make)
    return [
        Index(f"faiss-ivf-{probes}", index, setup.k, faiss.SearchParametersIVF(nprobe=probes))
        for probes in PROBES
    ]
