"""Graphs for tests: traced once an architecture, and filled with the weights of each further model.

Tracing takes seconds, and most of the tests' models have one architecture. The export checks every graph against
PyTorch, so that a weight in the wrong place fails the test that asked for the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

Array = NDArray[Any]
Source = tuple[str, Callable[[Array], Array]]  # name of a weight, and its part that an initializer holds

# Weights that no graph holds. Their sizes differ between data sets.
_NOT_EXPORTED = ("items.item.weight", "items.neighbours", "items.co_clicks")


class TracedOnce:
    """Takes the place of ``hiersrec_export.graphs._export``, which is ``trace``."""

    def __init__(self, trace: Callable[..., bytes]) -> None:
        self._trace = trace
        self._known: dict[Any, tuple[bytes, dict[str, Source] | None]] = {}

    def __call__(self, graph: nn.Module, inputs: Any, shapes: Any, output_names: list[str]) -> bytes:
        state = {
            name: weight.detach().numpy()
            for name, weight in graph.state_dict().items()
            if not name.endswith(_NOT_EXPORTED)
        }
        key = (
            type(graph),
            tuple((name, weight.shape) for name, weight in state.items()),
            tuple(_settings(graph)),
            tuple((tuple(each.shape), each.dtype) for each in inputs),
            tuple(shapes),
            tuple(output_names),
        )
        if key not in self._known:
            content = self._trace(graph, inputs, shapes, output_names)
            self._known[key] = content, _sources(content, state)
        content, sources = self._known[key]
        if sources is None:
            return self._trace(graph, inputs, shapes, output_names)
        proto = onnx.load_from_string(content)
        for tensor in proto.graph.initializer:
            if tensor.name in sources:
                name, part = sources[tensor.name]
                values = np.ascontiguousarray(part(state[name]))
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return bytes(proto.SerializeToString())


def _settings(graph: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Everything but the weights that a trace depends on: plain attributes of the modules."""
    for module_name, module in graph.named_modules():
        if module_name.endswith("items.item"):
            continue
        for name, value in vars(module).items():
            if isinstance(value, int | float | str) and not name.startswith("_"):
                yield module_name, name, value


def _sources(content: bytes, state: dict[str, Array]) -> dict[str, Source] | None:
    """The weight behind each initializer of floats; None where that is not sure."""
    sources: dict[str, Source] = {}
    initializers = onnx.load_from_string(content).graph.initializer
    held = {tensor.name for tensor in initializers}
    for tensor in initializers:
        values = onnx.numpy_helper.to_array(tensor)
        if tensor.name in state:
            if any(np.array_equal(state[name], values) for name in state.keys() - held):
                return None  # the exporter may have put one in place of both
            sources[tensor.name] = tensor.name, _whole
        elif values.dtype == np.float32 and values.size > 1:
            found = [
                (name, part)
                for name, weight in state.items()
                for part in _parts(weight, values)
                if np.array_equal(part(weight), values)
            ]
            symmetric = values.ndim == 2 and np.array_equal(values, values.T)  # it may stand transposed
            if symmetric or len({name for name, _ in found}) != 1:
                return None
            sources[tensor.name] = found[0]
    used = {name for name, _ in sources.values()}
    if any(
        weight.size == 1 and weight.item() in (0, 1) for name, weight in state.items() if name not in used
    ):
        return None  # the exporter leaves out a factor of 1, which another model's is not
    return sources


def _parts(weight: Array, values: Array) -> Iterator[Callable[[Array], Array]]:
    """The parts of a weight that the exporter may have folded into a constant of the shape of ``values``."""
    if weight.ndim != 2 or values.ndim != 2:
        if weight.shape == values.shape:
            yield _whole
        return
    for transposed in (False, True):
        rows, columns = values.shape[::-1] if transposed else values.shape
        if weight.shape[0] == rows and weight.shape[1] >= columns:
            yield partial(_columns, some=slice(columns), transposed=transposed)
            yield partial(_columns, some=slice(-columns, None), transposed=transposed)


def _columns(weight: Array, some: slice, transposed: bool) -> Array:
    return weight[:, some].T if transposed else weight[:, some]


def _whole(weight: Array) -> Array:
    return weight
