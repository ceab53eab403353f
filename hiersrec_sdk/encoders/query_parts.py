"""The parts of the item query, for explanations: the bundle's optional graph ``query_parts.onnx``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle import QUERY_PARTS, Bundle
from hiersrec_sdk.encoders.onnx import load_graph
from hiersrec_sdk.forks import cached_property


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
        self._bundle, self._providers = bundle, providers

    @cached_property
    def _session(self) -> Any:
        if QUERY_PARTS not in self._bundle.config["files"]:
            return None
        return load_graph(self._bundle.read(QUERY_PARTS), QUERY_PARTS, self._providers, 1)

    def __call__(self, vectors: NDArray[np.float32]) -> QueryParts | None:
        """The parts for one session of ``vectors`` float32 [length, d]; None where the bundle has no such graph."""
        if self._session is None:
            return None
        feeds = {"session_vectors": vectors[None], "session_lengths": np.array([len(vectors)])}
        names = ["session_weights", "state_query", "category_query"]
        return QueryParts(*(value[0] for value in self._session.run(names, feeds)))
