"""Graphs that a forger would write. What shapes they give shows only when they run: no shape inference knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.sdk.bundles import Shop

Constants = Mapping[str, Any]


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


def with_output(
    model: bytes,
    output: str,
    nodes: Sequence[NodeProto],
    constants: Constants | None = None,
    shape: Sequence[int | str] = ("any batch", "any width"),
    dtype: int = TensorProto.FLOAT,
) -> bytes:
    """The graph ``model`` with ``output`` made by ``nodes``, which may read its right value as "right"."""
    forged = onnx.load_from_string(model)
    for each in forged.graph.node:
        for at, name in enumerate(each.output):
            if name == output:
                each.output[at] = "right"
        for at, name in enumerate(each.input):
            if name == output:
                each.input[at] = "right"
    _extend(forged.graph, nodes, constants or {}, "session_vectors")
    for value in [*forged.graph.output]:
        if value.name == output:
            forged.graph.output.remove(value)
    forged.graph.output.append(helper.make_tensor_value_info(output, dtype, list(shape)))
    return bytes(forged.SerializeToString())


def model_of(
    nodes: Sequence[NodeProto],
    constants: Constants,
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    hidden: bool = True,
) -> bytes:
    """A graph with inputs and outputs of these types and shapes; ``hidden``: from shape inference."""
    given, made = (
        [helper.make_tensor_value_info(name, dtype, list(shape)) for name, (dtype, shape) in values.items()]
        for values in (inputs, outputs)
    )
    whole = helper.make_graph([], "forged", given, made)
    _extend(whole, nodes, constants, next(iter(inputs)) if hidden else None)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _extend(
    graph: onnx.GraphProto, nodes: Sequence[NodeProto], constants: Constants, an_input: str | None
) -> None:
    """Add nodes and the constants that they read. Integers, which may be shapes, seem to depend on ``an_input``."""
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    if an_input is not None:
        hidden = [name for name, array in arrays.items() if array.dtype == np.int64 and name != "axis"]
        arrays = {f"{name} known" if name in hidden else name: array for name, array in arrays.items()}
        arrays["an integer 0"] = np.array(0)
        nodes = [
            node("Cast", [an_input], ["the input as integers"], to=TensorProto.INT64),
            node("Mul", ["the input as integers", "an integer 0"], ["zeros"]),
            node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
            *(node("Add", [f"{name} known", "nothing"], [name]) for name in hidden),
            *nodes,
        ]
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    graph.node.extend(nodes)


def files(shop: Shop, model: bytes) -> dict[str, bytes]:
    return {**shop.files, "model.onnx": model}
