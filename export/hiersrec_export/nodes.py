"""Nodes of an ONNX graph, written one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Operand = str | int | float | list[int] | NDArray[Any]  # a value of the graph by its name, or a constant


class Nodes:
    """Nodes of a graph. ``op.Add(x, 1)`` makes one and returns the name of its output.

    The name may be given as ``name``. With several ``outputs`` it returns a list of names. Numbers and lists are
    constants: int64, or float32 where they are floats.

    Attributes:
        nodes, initializers: so far.
        shapes: of values whose shape onnxruntime cannot infer, by name.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.shapes: dict[str, list[str | int]] = {}
        self._constants: dict[tuple[str, bytes], str] = {}

    def __getattr__(self, op_type: str) -> Any:
        return partial(self._add, op_type)

    def _add(
        self,
        op_type: str,
        *inputs: Operand,
        name: str = "",
        outputs: int = 1,
        domain: str = "",
        **attributes: Any,
    ) -> str | list[str]:
        node = f"{op_type}.{len(self.nodes)}"
        names = [name] if name else [f"{node}.{at}" for at in range(outputs)]
        known = [one if isinstance(one, str) else self.constant(one) for one in inputs]
        self.nodes.append(helper.make_node(op_type, known, names, domain=domain, name=node, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: int | float | list[int] | NDArray[Any]) -> str:
        array = np.asarray(value, dtype=np.float32) if isinstance(value, float) else np.asarray(value)
        key = f"{array.dtype}{list(array.shape)}", array.tobytes()
        if key not in self._constants:
            self._constants[key] = self.table(f"constant.{len(self._constants)}", array)
        return self._constants[key]

    def table(self, name: str, values: NDArray[Any] | Sequence[int] | Sequence[str]) -> str:
        """Add an initializer, and return its name."""
        if not isinstance(values, np.ndarray) and isinstance(values[0], str):
            texts: list[Any] = [str(value).encode() for value in values]
            tensor = helper.make_tensor(name, TensorProto.STRING, [len(texts)], texts)
        else:
            tensor = numpy_helper.from_array(np.asarray(values, order="C"), name)
        self.initializers.append(tensor)
        return name
