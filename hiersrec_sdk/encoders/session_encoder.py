"""The session encoder: the bundle's ONNX graph, run by onnxruntime.

in   session_vectors      float32 [batch, length, d]  input vectors of the items, oldest first, then padding
in   session_lengths      int64 [batch]               how many of them are real
out  category_logits      float32 [batch, leaf categories]; higher levels as category_logits_<level>, 0 the top
out  repeat_logits        float32 [batch, length]     optional: added to the scores of the session's own items
out  item_query           float32 [batch, d]          score(item) = item_query . output vector + bias
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import BundleCorruptError, InvalidOptionError, MissingExtraError, ProviderError

# Name here: name in onnxruntime, extra that installs it.
_PROVIDERS: Final = {"cpu": ("CPUExecutionProvider", "cpu"), "cuda": ("CUDAExecutionProvider", "gpu")}

_MOST_BUFFERS: Final = 256  # lengths that a thread keeps buffers for

# What a graph has to have: type and shape by name, None for a length that differs from call to call.
_Values = Mapping[str, tuple[str, list[int | None]]]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the graph says of a batch of sessions.

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
        model: the file of the graph, or its bytes.
        dimension: width d of the item vectors.
        categories: number of categories of each level, the top first.
        providers: where to run, in order of preference: "cpu", "cuda".
        threads: threads of one call.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ProviderError: a provider is unknown, not in this onnxruntime, or did not start.
        BundleCorruptError: the file is no ONNX graph, or lacks an input or output of the table above.
        InvalidOptionError: ``threads`` is no whole number of at least 1, or ``providers`` no list of names.
    """

    def __init__(
        self,
        model: bytes | str | os.PathLike[str],
        *,
        dimension: int,
        categories: Sequence[int],
        providers: Sequence[str] = ("cpu",),
        threads: int = 1,
    ) -> None:
        name = "model.onnx" if isinstance(model, bytes) else os.fspath(model)
        if isinstance(threads, int) and threads > 1 and not isinstance(model, bytes):
            model = Path(model).read_bytes()  # for a forked child, whatever is in the folder then
        self._load = partial(load_graph, model, name, providers, threads)
        self._session = self._load()
        self.providers: tuple[str, ...] = tuple(providers)
        self.threads: int = threads
        self._levels = len(categories)
        levels = [*(f"category_logits_{level}" for level in range(self._levels - 1)), "category_logits"]
        inputs: _Values = {
            "session_vectors": ("tensor(float)", [None, None, dimension]),
            "session_lengths": ("tensor(int64)", [None]),
        }
        outputs: _Values = {
            **{
                level: ("tensor(float)", [None, size]) for level, size in zip(levels, categories, strict=True)
            },
            "item_query": ("tensor(float)", [None, dimension]),
        }
        repeats: _Values = {"repeat_logits": ("tensor(float)", [None, None])}
        _check(f"{name}: input", self._session.get_inputs(), inputs)
        if any(value.name in repeats for value in self._session.get_outputs()):
            outputs = {**outputs, **repeats}
        _check(f"{name}: output", self._session.get_outputs(), outputs)
        self._outputs = list(outputs)
        self._local = threading.local()
        self._lock = threading.Lock()
        if threads > 1:  # with one there are no threads but the caller's
            os.register_at_fork(after_in_child=partial(_forget_after_fork, weakref.ref(self)))

    def encode_one(self, table: NDArray[np.float32], rows: NDArray[np.int64]) -> Encoded:
        """Encode one session: ``rows`` int64 [length], at least one, of ``table`` float32 [n, d].

        The vectors are gathered into buffers that the runtime reads, and it writes into others: the answer holds until
        the next call in the same thread.
        """
        if self.providers != ("cpu",):  # buffers of this process are not the device's
            return self.encode(table[rows][None], np.array([len(rows)]))
        buffers: dict[int, _Buffers] | None = getattr(self._local, "buffers", None)
        if buffers is None:
            buffers = self._local.buffers = {}
        bound = buffers.get(len(rows))
        if bound is None:
            if len(buffers) == _MOST_BUFFERS:
                buffers.clear()
            encoded = self.encode(table[rows][None], np.array([len(rows)]))
            buffers[len(rows)] = _Buffers(self._running, table.shape[1], len(rows), encoded, self._outputs)
            return encoded
        table.take(rows, axis=0, out=bound.vectors, mode="clip")
        self._running.run_with_iobinding(bound.binding)
        return bound.encoded

    def encode(self, vectors: NDArray[np.float32], lengths: NDArray[np.int64]) -> Encoded:
        """Encode ``vectors`` float32 [batch, length, d] of which ``lengths`` int64 [batch], >= 1, are real."""
        values = self._running.run(self._outputs, {"session_vectors": vectors, "session_lengths": lengths})
        category_logits, (item_query, *repeats) = values[: self._levels], values[self._levels :]
        return Encoded(tuple(category_logits), repeats[0] if repeats else None, item_query)

    @property
    def _running(self) -> Any:
        """The ``onnxruntime.InferenceSession``."""
        if self._session is None:
            with self._lock:
                if self._session is None:
                    self._session = self._load()
        return self._session

    def _forget(self) -> None:
        """In a forked child: the session's threads are not there, so it can neither run nor be taken down, which would
        wait for them for ever. It is left alone, and loaded anew by the next call."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
        self._session, self._local, self._lock = None, threading.local(), threading.Lock()


def _forget_after_fork(encoder: weakref.ref[OnnxSessionEncoder]) -> None:
    there = encoder()
    if there is not None:
        there._forget()


class _Buffers:
    """Inputs and outputs of one session of one length, bound once: onnxruntime reads and writes NumPy's own memory."""

    def __init__(
        self, session: Any, dimension: int, length: int, like: Encoded, names: Sequence[str]
    ) -> None:
        ort_value = import_module("onnxruntime").OrtValue.ortvalue_from_numpy
        self.binding = session.io_binding()
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


def load_graph(
    model: bytes | str | os.PathLike[str], name: str, providers: Sequence[str], threads: int
) -> Any:
    """An ``onnxruntime.InferenceSession`` that runs on ``providers``."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidOptionError(
            f"threads is {threads!r}; it must be a whole number of at least 1, or 'auto'"
        )
    if isinstance(providers, str) or not providers:
        raise InvalidOptionError(f"providers is {providers!r}; it must be a list of names such as ('cpu',)")
    for provider in providers:
        if provider not in _PROVIDERS:
            raise ProviderError(
                f"provider {provider!r} is unknown; there are {', '.join(map(repr, _PROVIDERS))}"
            )
    try:
        onnxruntime = import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(_PROVIDERS[providers[0]][1], "running a model", "onnxruntime") from error
    _require(providers, onnxruntime.get_available_providers(), "is not in the onnxruntime installed here")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # idle threads leave the cores free
    source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        session = onnxruntime.InferenceSession(source, options, [_PROVIDERS[own][0] for own in providers])
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise BundleCorruptError(f"{name} cannot be loaded: {error}") from error
    # onnxruntime goes on without a provider that does not start, e.g. for want of a driver.
    _require(providers, session.get_providers(), "did not start: its driver or libraries are missing")
    session.disable_fallback()  # nor may a later call move to another one unseen
    return session


def _require(providers: Sequence[str], present: Sequence[str], otherwise: str) -> None:
    for provider in providers:
        name, extra = _PROVIDERS[provider]
        if name not in present:
            raise ProviderError(
                f"provider {provider!r} ({name}) {otherwise}: pip uninstall onnxruntime onnxruntime-gpu, then "
                f"pip install 'hiersrec-sdk[{extra}]'; or ask for another provider. There are {', '.join(present)}"
            )


def _check(what: str, values: Sequence[Any], wanted: _Values) -> None:
    """Raise :class:`BundleCorruptError` where the graph's ``values`` are not those ``wanted``."""
    present = {value.name: value for value in values}
    for name, (dtype, shape) in wanted.items():
        if name not in present:
            raise BundleCorruptError(
                f"{what} {name!r} is missing; the graph has {', '.join(present) or 'none'}"
            )
        value = present[name]
        # A length that the graph leaves open has a name or None; it is taken on trust.
        fits = len(value.shape) == len(shape) and all(
            have == want if isinstance(have, int) else True
            for have, want in zip(value.shape, shape, strict=True)
        )
        if value.type != dtype or not fits:
            raise BundleCorruptError(
                f"{what} {name!r} is {value.type} {value.shape}; it should be {dtype} "
                f"{['any' if want is None else want for want in shape]}"
            )
