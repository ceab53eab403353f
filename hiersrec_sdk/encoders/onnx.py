"""A graph of the bundle, loaded: what goes in and comes out is what the bundle's format says, or an error.

Nothing that a graph gives is taken on trust. Whoever reads an output relies on its type and its whole shape, in native
code too, and a graph from elsewhere may give any other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.encoders.onnx_file import check_graph
from hiersrec_sdk.encoders.runtime import (
    checked_providers,
    import_onnxruntime,
    not_finite,
    open_session,
    run_error,
)
from hiersrec_sdk.errors import BundleCorruptError
from hiersrec_sdk.ranking import small_arrays
from hiersrec_sdk.ranking.backend import AllFinite
from hiersrec_sdk.shown import shown

Shape = tuple[int | str, ...]
"""Lengths of an array; one with a name differs from call to call."""

Values = Mapping[str, tuple[type[np.generic], Shape]]
"""What goes into a graph or comes out of it: type and shape by name."""

Arrays = dict[str, NDArray[Any]]

_TYPES: Final[dict[type[np.generic], str]] = {np.float32: "tensor(float)", np.int64: "tensor(int64)"}
_MOST_SHOWN: Final = 300  # characters of a list of names


class Graph:
    """An ONNX graph of a bundle in onnxruntime. Any number of threads may run it at once.

    Args:
        content: the ONNX file.
        name: of the file, for messages.
        inputs: what it has to take, and nothing else. The names of lengths are shared with the outputs.
        outputs: what it has to give.
        optional: inputs and outputs that it may lack.
        providers: where to run, in order of preference: "cpu", "cuda".
        threads: threads of one run.

    Attributes:
        inputs: those that it has.
        outputs: those of ``outputs`` that it has, in their order.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ProviderError: a provider is unknown, not in this onnxruntime, or did not start.
        BundleCorruptError: the file is no ONNX graph, holds what no graph of a bundle may, or has other inputs or
            outputs.
        InvalidThreadsError: ``threads`` is not an integer from 1 to 256.
        InvalidProvidersError: ``providers`` is not a list of names.
    """

    def __init__(
        self,
        content: bytes,
        name: str,
        *,
        inputs: Values,
        outputs: Values,
        optional: Collection[str] = (),
        providers: Sequence[str] = ("cpu",),
        threads: int = 1,
    ) -> None:
        self.name = name
        self._content, self._providers = content, checked_providers(providers)
        check_graph(content, name)
        self.session: Any = open_session(content, name, providers, threads)
        try:
            has_inputs, has_outputs = (
                {value.name: (value.type, value.shape) for value in values}
                for values in (self.session.get_inputs(), self.session.get_outputs())
            )
        except UnicodeDecodeError as error:
            raise BundleCorruptError(f"{name} cannot be loaded: a name in it is not UTF-8") from error
        self.inputs: Values = _checked(f"{name}: input", has_inputs, inputs, optional)
        self.outputs: Values = _checked(f"{name}: output", has_outputs, outputs, optional)
        for other in has_inputs.keys() - inputs.keys():
            raise BundleCorruptError(f"{name}: input {shown(other)} must not be there")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """The outputs, by name, for inputs of the declared types and shapes. Their values may be anything.

        Raises:
            BundleCorruptError: the graph fails, or an output is of another type or shape.
            ProviderError: the provider fails.
        """
        shapes = self.shapes(feeds)
        try:
            values = self.session.run(list(self.outputs), dict(feeds))
        except Exception as error:
            raise self.error(error, feeds) from error
        found: Arrays = {}
        for (output, (dtype, _)), shape, value in zip(
            self.outputs.items(), shapes.values(), values, strict=True
        ):
            if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
                raise BundleCorruptError(
                    f"{self.name}: output {output!r} is {_described(value)}; it must be "
                    f"{dtype.__name__} {list(shape)}"
                )
            found[output] = value
        return found

    def shapes(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
        """The shape that each output must have."""
        lengths: dict[str | int, int] = {}
        for input_, (_, shape) in self.inputs.items():
            lengths.update(zip(shape, feeds[input_].shape, strict=True))
        return {
            output: tuple(length if isinstance(length, int) else lengths[length] for length in shape)
            for output, (_, shape) in self.outputs.items()
        }

    def check_finite(self, values: Mapping[str, NDArray[Any]], feeds: Mapping[str, NDArray[Any]]) -> None:
        """Check the ``values`` of outputs, which ``feeds`` gave.

        Raises:
            BundleCorruptError: one is NaN or infinite.
            ProviderError: one is, but not when the CPU alone runs the graph.
        """
        for output, value in values.items():
            if not np.isfinite(value).all():
                raise not_finite(output, self._content, self.name, self._providers, feeds)

    def error(self, error: Exception, feeds: Mapping[str, NDArray[Any]]) -> Exception:
        """What to raise where onnxruntime raised ``error`` at ``feeds``."""
        return run_error(error, self._content, self.name, self._providers, feeds)


class BoundGraph:
    """A graph with inputs and outputs of one shape, bound once: onnxruntime reads and writes NumPy's own memory.

    For the CPU, outputs of float32, and one thread at a time.

    Attributes:
        outputs: by name; each run writes them anew.
    """

    def __init__(
        self,
        graph: Graph,
        feeds: Mapping[str, NDArray[Any]],
        all_finite: AllFinite = small_arrays.all_finite,
    ) -> None:
        """Bind ``feeds``, contiguous arrays whose content may change between runs; ``all_finite`` checks outputs."""
        self._graph, self._feeds, self._all_finite = graph, feeds, all_finite
        ort_value = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._binding, self._run = graph.session.io_binding(), graph.session.run_with_iobinding
        # All outputs lie in one piece, so that one pass clears them and another one checks them.
        shapes = graph.shapes(feeds)
        stops = np.cumsum([math.prod(shape) for shape in shapes.values()])
        self._piece = np.empty(stops[-1], dtype=np.float32)
        # Cleared by these, not by fill(), for which NumPy gives the global lock away: a thread waits to get it back.
        self._bytes = self._piece.data.cast("B")
        self._nans = np.full_like(self._piece, np.nan).tobytes()
        pieces = np.split(self._piece, stops[:-1])
        self.outputs: Arrays = {
            name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
        }
        for name, array in feeds.items():
            self._binding.bind_ortvalue_input(name, ort_value(array))
        for name, array in self.outputs.items():
            self._binding.bind_ortvalue_output(name, ort_value(array))

    def run(self) -> None:
        """Run the graph on what its inputs hold now.

        Raises:
            BundleCorruptError: the graph fails, gives an output of another shape, or one that is not finite.
        """
        self._bytes[:] = self._nans  # so that what a run leaves out is not finite either
        try:
            self._run(self._binding)
        except Exception as error:  # also where an output does not have the shape of its array
            self._graph.run(self._feeds)  # tells which one, and what it is
            raise self._graph.error(error, self._feeds) from error
        if not self._all_finite(self._piece):
            self._graph.check_finite(self.outputs, self._feeds)


def _checked(
    what: str, values: Mapping[str, tuple[str, list[Any]]], wanted: Values, optional: Collection[str]
) -> Values:
    """Those ``wanted`` that are there.

    Raises:
        BundleCorruptError: one is missing, or of another type or shape. A length that the graph leaves open fits here,
            and is compared when the graph has run.
    """
    found = {}
    for name, (dtype, shape) in wanted.items():
        if name not in values:
            if name in optional:
                continue
            names = ", ".join(values)[:_MOST_SHOWN] or "none"
            raise BundleCorruptError(f"{what} {name!r} is missing; the graph has {names}")
        type_, has = values[name]
        fits = len(has) == len(shape) and all(
            length == want for length, want in zip(has, shape, strict=True) if isinstance(length, int)
        )
        if type_ != _TYPES[dtype] or not fits:
            raise BundleCorruptError(
                f"{what} {name!r} is {type_} {shown(has)}; it must be {_TYPES[dtype]} {list(shape)}"
            )
        found[name] = (dtype, shape)
    return found


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} {list(value.shape)}"
    return f"no tensor but a {type(value).__name__}"
