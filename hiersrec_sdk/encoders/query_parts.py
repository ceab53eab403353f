"""The parts of the item query, for explanations: the bundle's optional graph ``query_parts.onnx``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle import QUERY_PARTS, Bundle
from hiersrec_sdk.encoders.onnx import Arrays, Graph
from hiersrec_sdk.encoders.per_process import PerProcess


class QueryParts(NamedTuple):
    """The query is the sum of the session's item vectors times ``session_weights`` and of the two others.

    ``session_weights`` float32 [length], ``state`` and ``category`` float32 [d].
    """

    session_weights: NDArray[np.float32]
    state: NDArray[np.float32]
    category: NDArray[np.float32]


class QueryPartsGraph:
    """``query_parts.onnx`` of a bundle, loaded when it is first asked. Any number of threads may call it."""

    def __init__(self, bundle: Bundle, providers: Sequence[str]) -> None:
        self._has_graph = QUERY_PARTS in bundle.config["files"]
        self._graph = PerProcess(partial(_load, bundle, providers))

    def __call__(self, vectors: NDArray[np.float32]) -> QueryParts | None:
        """The parts for one session of ``vectors`` float32 [length, d]; None where the bundle has no such graph.

        Raises:
            BundleCorruptError: the graph fails, or gives an output of another shape or one that is not finite.
            ProviderError: the provider fails.
        """
        if not self._has_graph:
            return None
        graph: Graph = self._graph()
        feeds: Arrays = {"session_vectors": vectors[None], "session_lengths": np.array([len(vectors)])}
        found = graph.run(feeds)
        graph.check_finite(found, feeds)
        return QueryParts(found["session_weights"][0], found["state_query"][0], found["category_query"][0])


def _load(bundle: Bundle, providers: Sequence[str]) -> Graph:
    d = bundle.config["dimension"]
    return Graph(
        bundle.read(QUERY_PARTS),
        QUERY_PARTS,
        inputs={
            "session_vectors": (np.float32, ("batch", "length", d)),
            "session_lengths": (np.int64, ("batch",)),
        },
        outputs={
            "session_weights": (np.float32, ("batch", "length")),
            "state_query": (np.float32, ("batch", d)),
            "category_query": (np.float32, ("batch", d)),
        },
        providers=providers,
    )
