"""faiss HNSW: a walk through a graph of neighbours; approximate."""

from __future__ import annotations

from typing import Any, Final

import faiss

from benchmarks.peers.faiss_flat import Index
from benchmarks.peers.faiss_index import built
from benchmarks.peers.peer import Peer, Setup

SEARCHES: Final = (32, 128, 512)
_LINKS: Final = 32


def build(setup: Setup) -> list[Peer]:
    dimension = setup.vectors.shape[1]

    def make() -> Any:
        index = faiss.IndexHNSWFlat(dimension, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.add(setup.vectors)
        return index

    index = built(setup, f"hnsw{_LINKS}", make)
    return [
        Index(f"faiss-hnsw-{search}", index, setup.k, faiss.SearchParametersHNSW(efSearch=search))
        for search in SEARCHES
    ]
