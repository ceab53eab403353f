"""The session encoder: the bundle's ONNX graph, run by onnxruntime.

in   session_vectors      float32 [batch, length, d]  input vectors of the items, oldest first, then padding
in   session_lengths      int64 [batch]               how many of them are real
out  category_logits      float32 [batch, leaf categories]; higher levels as category_logits_<level>, 0 the top
out  repeat_logits        float32 [batch, length]     optional: added to the scores of the session's own items
out  item_query           float32 [batch, d]          score(item) = item_query . output vector + bias
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.schema import MODEL
from hiersrec_sdk.encoders.onnx import Arrays, BoundGraph, Graph, Values
from hiersrec_sdk.encoders.per_process import PerProcess
from hiersrec_sdk.ranking import small_arrays
from hiersrec_sdk.ranking.backend import AllFinite

_MOST_BUFFERS: Final = 256  # lengths that a thread keeps buffers for


class Vectors(Protocol):
    """Item vectors by row; a snapshot of the catalog."""

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(rows), d]."""
        ...

    def vectors_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Write them to ``out`` float32 [len(rows), d]."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """The graph's outputs for a batch of sessions.

    Attributes:
        category_logits: for each level, the top first, float32 [batch, categories].
        repeat_logits: float32 [batch, length], 0 at padding; None where the graph has none.
        item_query: float32 [batch, d].
        buffers: what the arrays lie in, for :meth:`OnnxSessionEncoder.reuse`; None: in nothing that is used again.
    """

    category_logits: tuple[NDArray[np.float32], ...]
    repeat_logits: NDArray[np.float32] | None
    item_query: NDArray[np.float32]
    buffers: Buffers | None = None


class OnnxSessionEncoder:
    """The graph of a bundle, loaded. Any number of threads may call :meth:`encode` at once.

    Args:
        model: the graph, a serialized ONNX model.
        dimension: width d of the item vectors.
        categories: number of categories of each level, the top first.
        providers: where to run, in order of preference: "cpu", "cuda".
        threads: threads of one call.
        all_finite: checks the outputs for one session; of a ranking backend.

    Raises:
        BundleCorruptError: the file is no ONNX graph, holds what no graph of a bundle may, or lacks an input or output
            of the table above.
        HierSRecError: as :class:`~hiersrec_sdk.encoders.onnx.Graph`.
    """

    def __init__(
        self,
        model: bytes,
        *,
        dimension: int,
        categories: Sequence[int],
        providers: Sequence[str] = ("cpu",),
        threads: int = 1,
        all_finite: AllFinite = small_arrays.all_finite,
    ) -> None:
        self._all_finite = all_finite
        *higher, leaf = categories
        self._levels = [*(f"category_logits_{level}" for level in range(len(higher))), "category_logits"]
        inputs: Values = {
            "session_vectors": (np.float32, ("batch", "length", dimension)),
            "session_lengths": (np.int64, ("batch",)),
        }
        outputs: Values = {
            **{
                name: (np.float32, ("batch", size))
                for name, size in zip(self._levels, (*higher, leaf), strict=True)
            },
            "item_query": (np.float32, ("batch", dimension)),
            "repeat_logits": (np.float32, ("batch", "length")),
        }
        load = partial(
            Graph,
            model,
            MODEL,
            inputs=inputs,
            outputs=outputs,
            optional=("repeat_logits",),
            providers=providers,
            threads=threads,
        )
        self._graph = PerProcess(load)
        self._graph()
        self.providers: tuple[str, ...] = tuple(providers)
        self.threads: int = threads

    def encode_one(self, catalog: Vectors, rows: NDArray[np.int64]) -> Encoded:
        """Encode one session: ``rows`` int64 [length], at least one, of ``catalog``.

        The vectors are gathered into buffers that the runtime reads, and it writes into others. They are the answer's
        until :meth:`reuse`: a signal handler that recommends in the middle of a call finds none, and makes its own.
        """
        length = len(rows)
        if self.providers != ("cpu",):  # buffers of this process are not the device's
            return self.encode(catalog.vectors(rows)[None], np.array([length]))
        bound = self._spare().pop(length, None)
        if bound is None:
            vectors = catalog.vectors(rows)
            encoded = self.encode(vectors[None], np.array([length]))
            self.reuse(self._buffers(length, vectors.shape[1]))
            return encoded
        catalog.vectors_into(rows, bound.vectors)
        bound.graph.run()
        written = bound.written
        return Encoded(written.category_logits, written.repeat_logits, written.item_query, bound)

    def reuse(self, buffers: Buffers | None) -> None:
        """Let a later call of this thread write to ``buffers``: nobody reads what lies in them any more."""
        if buffers is not None:
            spare = self._spare()
            if len(spare) >= _MOST_BUFFERS:
                spare.clear()
            spare[len(buffers.vectors)] = buffers

    def _spare(self) -> dict[int, Buffers]:
        """Of this thread, by the length of a session."""
        local = self._graph.local
        try:
            spare: dict[int, Buffers] = local.buffers
        except AttributeError:
            spare = local.buffers = {}
        return spare

    def encode(self, vectors: NDArray[np.float32], lengths: NDArray[np.int64]) -> Encoded:
        """Encode ``vectors`` float32 [batch, length, d] of which ``lengths`` int64 [batch], >= 1, are real.

        Raises:
            BundleCorruptError: the graph fails, or gives an output of another shape or one that is not finite.
            ProviderError: the provider fails.
        """
        graph: Graph = self._graph()
        feeds: Arrays = {"session_vectors": vectors, "session_lengths": lengths}
        outputs = graph.run(feeds)
        graph.check_finite(outputs, feeds)
        return self._encoded(outputs)

    def _buffers(self, length: int, dimension: int) -> Buffers:
        vectors = np.zeros((1, length, dimension), dtype=np.float32)
        feeds: Arrays = {"session_vectors": vectors, "session_lengths": np.array([length], dtype=np.int64)}
        graph = BoundGraph(self._graph(), feeds, self._all_finite)
        return Buffers(vectors[0], graph, self._encoded(graph.outputs))

    def _encoded(self, outputs: Arrays) -> Encoded:
        logits = tuple(outputs[level] for level in self._levels)
        return Encoded(logits, outputs.get("repeat_logits"), outputs["item_query"])


class Buffers(NamedTuple):
    """Memory for one session of one length: what the graph reads, the graph bound to it, and what it writes.

    Nothing here may lead back to it: a cycle would keep the graph until the garbage collector comes, which may be in a
    forked child, where no session of onnxruntime can be taken down.

    Attributes:
        vectors: float32 [length, d].
        graph: bound to them, and to what it writes.
        written: views of that.
    """

    vectors: NDArray[np.float32]
    graph: BoundGraph
    written: Encoded
