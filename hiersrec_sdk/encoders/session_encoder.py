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
from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.schema import MODEL
from hiersrec_sdk.encoders.forks import PerProcess
from hiersrec_sdk.encoders.onnx import Values, check_values, load_graph

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
    """

    category_logits: tuple[NDArray[np.float32], ...]
    repeat_logits: NDArray[np.float32] | None
    item_query: NDArray[np.float32]


class OnnxSessionEncoder:
    """The graph of a bundle, loaded. Any number of threads may call :meth:`encode` at once.

    Args:
        model: the graph, a serialized ONNX model.
        dimension: width d of the item vectors.
        categories: number of categories of each level, the top first.
        providers: where to run, in order of preference: "cpu", "cuda".
        threads: threads of one call.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ProviderError: a provider is unknown, not in this onnxruntime, or did not start.
        BundleCorruptError: the file is no ONNX graph, or lacks an input or output of the table above.
        InvalidThreadsError: ``threads`` is not an integer ≥ 1.
        InvalidProvidersError: ``providers`` is not a list of names.
    """

    def __init__(
        self,
        model: bytes,
        *,
        dimension: int,
        categories: Sequence[int],
        providers: Sequence[str] = ("cpu",),
        threads: int = 1,
    ) -> None:
        self._session = PerProcess(partial(load_graph, model, MODEL, providers, threads))
        session = self._session()
        self.providers: tuple[str, ...] = tuple(providers)
        self.threads: int = threads
        self._levels = len(categories)
        levels = [*(f"category_logits_{level}" for level in range(self._levels - 1)), "category_logits"]
        inputs: Values = {
            "session_vectors": ("tensor(float)", [None, None, dimension]),
            "session_lengths": ("tensor(int64)", [None]),
        }
        outputs: Values = {
            **{
                level: ("tensor(float)", [None, size]) for level, size in zip(levels, categories, strict=True)
            },
            "item_query": ("tensor(float)", [None, dimension]),
        }
        repeats: Values = {"repeat_logits": ("tensor(float)", [None, None])}
        check_values(f"{MODEL}: input", session.get_inputs(), inputs)
        if any(value.name in repeats for value in session.get_outputs()):
            outputs = {**outputs, **repeats}
        check_values(f"{MODEL}: output", session.get_outputs(), outputs)
        self._outputs = list(outputs)

    def encode_one(self, catalog: Vectors, rows: NDArray[np.int64]) -> Encoded:
        """Encode one session: ``rows`` int64 [length], at least one, of ``catalog``.

        The vectors are gathered into buffers that the runtime reads, and it writes into others: the answer holds until
        the next call in the same thread.
        """
        if self.providers != ("cpu",):  # buffers of this process are not the device's
            return self.encode(catalog.vectors(rows)[None], np.array([len(rows)]))
        buffers: dict[int, _Buffers] | None = getattr(self._session.local, "buffers", None)
        if buffers is None:
            buffers = self._session.local.buffers = {}
        bound = buffers.get(len(rows))
        if bound is None:
            if len(buffers) == _MOST_BUFFERS:
                buffers.clear()
            vectors = catalog.vectors(rows)
            encoded = self.encode(vectors[None], np.array([len(rows)]))
            buffers[len(rows)] = _Buffers(
                self._session(), vectors.shape[1], len(rows), encoded, self._outputs
            )
            return encoded
        catalog.vectors_into(rows, bound.vectors)
        bound.run(bound.binding)
        return bound.encoded

    def encode(self, vectors: NDArray[np.float32], lengths: NDArray[np.int64]) -> Encoded:
        """Encode ``vectors`` float32 [batch, length, d] of which ``lengths`` int64 [batch], >= 1, are real."""
        values = self._session().run(self._outputs, {"session_vectors": vectors, "session_lengths": lengths})
        category_logits, (item_query, *repeats) = values[: self._levels], values[self._levels :]
        return Encoded(tuple(category_logits), repeats[0] if repeats else None, item_query)


class _Buffers:
    """Inputs and outputs of one session of one length, bound once: onnxruntime reads and writes NumPy's own memory."""

    def __init__(
        self, session: Any, dimension: int, length: int, like: Encoded, names: Sequence[str]
    ) -> None:
        ort_value = import_module("onnxruntime").OrtValue.ortvalue_from_numpy
        self.binding, self.run = session.io_binding(), session.run_with_iobinding
        vectors = np.zeros((1, length, dimension), dtype=np.float32)
        self.vectors = vectors[0]
        self._inputs = [ort_value(vectors), ort_value(np.array([length], dtype=np.int64))]
        for name, value in zip(("session_vectors", "session_lengths"), self._inputs, strict=True):
            self.binding.bind_ortvalue_input(name, value)
        repeats = [] if like.repeat_logits is None else [np.empty_like(like.repeat_logits)]
        outputs = [*map(np.empty_like, like.category_logits), np.empty_like(like.item_query), *repeats]
        self._outputs = [ort_value(output) for output in outputs]
        for name, value in zip(names, self._outputs, strict=True):
            self.binding.bind_ortvalue_output(name, value)
        levels = len(like.category_logits)
        self.encoded = Encoded(tuple(outputs[:levels]), repeats[0] if repeats else None, outputs[levels])
