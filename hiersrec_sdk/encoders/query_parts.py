"""The parts of the item query, for explanations: the bundle's optional graph ``query_parts.onnx``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle import QUERY_PARTS, Bundle
from hiersrec_sdk.encoders.forks import PerProcess
from hiersrec_sdk.encoders.onnx import load_graph


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
        self._session = PerProcess(lambda: load_graph(bundle.read(QUERY_PARTS), QUERY_PARTS, providers, 1))

    def __call__(self, vectors: NDArray[np.float32]) -> QueryParts | None:
        """The parts for one session of ``vectors`` float32 [length, d]; None where the bundle has no such graph."""
        if not self._has_graph:
            return None
        feeds = {"session_vectors": vectors[None], "session_lengths": np.array([len(vectors)])}
        names = ["session_weights", "state_query", "category_query"]
        return QueryParts(*(value[0] for value in self._session().run(names, feeds)))
