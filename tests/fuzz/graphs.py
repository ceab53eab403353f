"""Target "graphs": ``model.onnx``, ``item_encoder.onnx`` and ``query_parts.onnx``, forged with what ONNX offers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hiersrec_sdk.bundle.schema import ITEM_ENCODER, MODEL, QUERY_PARTS
from tests.fuzz.bundle_case import BundleCase, opening
from tests.fuzz.chance import Chance
from tests.fuzz.parts import sound, with_config

_Change = Callable[[Chance, Any], str]
"""Changes an onnx.ModelProto, and says how."""
_Constant = Callable[[Any], str]
"""The name of a constant of the graph that holds a value."""

_OPSET: Final = 17
_DTYPES: Final = {
    "double": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "string": TensorProto.STRING,
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
}


def make(chance: Chance) -> BundleCase:
    """A bundle with a damaged graph."""
    parts = chance.choice(sound()).copy()
    name = chance.weighted({MODEL: 6, ITEM_ENCODER: 3, QUERY_PARTS: 2})
    notes = [parts.name, name]
    if chance.one_in(8):
        parts.files[name], note = chance.spoiled(parts.files[name])
        notes.append(note)
    else:
        model = onnx.load_from_string(parts.files[name])
        for _ in range(chance.choice([1, 1, 1, 2])):
            if model.graph.node and model.graph.output and model.graph.input:
                notes.append(chance.weighted(_CHANGES)(chance, model))
        try:
            parts.files[name] = model.SerializeToString()
        except Exception:  # of protobuf; an output may have nothing left of its type
            parts.files[name] = b""
    options = opening(chance)
    notes.append(str(options))
    files = with_config(parts, parts.content())
    return BundleCase(notes, files, parts.ids, chance, options, trusts_graphs=False)


def _behind(model: Any, output: Any, nodes: Callable[[str, str], list[Any]]) -> None:
    """Let ``nodes(from, to)`` make what comes out under the name of ``output``."""
    name = output.name
    inner = f"{name}_inner_{len(model.graph.node)}"
    for node in model.graph.node:
        for names in (node.output, node.input):
            for at, each in enumerate(names):
                if each == name:
                    names[at] = inner
    model.graph.node.extend(nodes(inner, name))


def _constant(model: Any, value: Any) -> str:
    name = f"constant_{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _hidden(model: Any, value: Any, nodes: list[Any]) -> str:
    """A constant that is only known when the graph runs: the input that has integers takes part in it."""
    name = f"hidden_{len(model.graph.initializer)}"
    types = {each.name: each.type.tensor_type.elem_type for each in model.graph.input}
    integers = next((each for each, dtype in types.items() if dtype == TensorProto.INT64), "")
    nodes += [
        helper.make_node("ReduceMin", [integers], [f"{name}_least"], keepdims=0),
        helper.make_node("Mul", [f"{name}_least", _constant(model, 0)], [f"{name}_zero"]),
        helper.make_node("Add", [f"{name}_zero", _constant(model, value)], [name]),
    ]
    return name


def _declare(chance: Chance, output: Any) -> str:
    """Say something, or nothing, about the type and shape of an output."""
    kind = chance.kind("2 * symbols, nothing, as before, unknown, wrong, other rank, other type, negative")
    tensor = output.type.tensor_type
    lengths = tensor.shape.dim
    if kind == "nothing":
        tensor.ClearField("shape")
    elif kind == "other rank" and lengths and chance.one_in(2):
        del lengths[-1]
    elif kind == "other rank":
        lengths.add().dim_param = "more"
    elif kind == "other type":
        tensor.elem_type = chance.choice([*_DTYPES.values(), 0, 99])
    elif kind != "as before":
        for at, each in enumerate(lengths):
            each.Clear()
            if kind == "symbols":
                each.dim_param = f"any{at}"
            elif kind != "unknown":
                each.dim_value = -1 if kind == "negative" else chance.choice([0, 1, 5, 2**40])
    return f"declared {kind}"


def _shape_of_output(chance: Chance, model: Any) -> str:
    """An output of another shape than the config says, at run time."""
    output = chance.choice(model.graph.output)
    rank = len(output.type.tensor_type.shape.dim)
    kind = chance.kind(
        "narrower, wider, longer, huge, none, batch, no batch, one more axis, one less, flat, scalar, one, transposed, "
        "data"
    )
    hides = not chance.one_in(3)  # from onnxruntime, which else works shapes out before the graph runs

    def nodes(inner: str, name: str) -> list[Any]:
        made: list[Any] = []

        def constant(value: Any) -> str:
            is_hidden = hides and np.asarray(value).dtype == np.int64
            return _hidden(model, value, made) if is_hidden else _constant(model, value)

        return made + _reshaping(chance, kind, rank, inner, name, constant)

    _behind(model, output, nodes)
    return f"{output.name}: {kind}{' in hiding' if hides else ''}, {_declare(chance, output)}"


def _reshaping(chance: Chance, kind: str, rank: int, inner: str, name: str, constant: _Constant) -> list[Any]:
    """Nodes that turn ``inner``, which has ``rank`` axes, into ``name``."""
    node, last, between = helper.make_node, rank - 1, f"{name}_between"
    if kind == "narrower":
        stop = constant([chance.choice([1, 2, 3])])
        return [node("Slice", [inner, constant([0]), stop, constant([last])], [name])]
    if kind == "wider":
        return [node("Gather", [inner, constant([0] * chance.choice([7, 10, 33, 1000]))], [name], axis=last)]
    if kind == "longer":  # by one
        first = node("Slice", [inner, constant([0]), constant([1]), constant([last])], [between])
        return [first, node("Concat", [inner, between], [name], axis=last)]
    if kind == "huge":
        first = node("Slice", [inner, constant([0]), constant([1]), constant([last])], [between])
        shape = constant([1] * last + [chance.choice([65_536, 5_000_000])])
        return [first, node("Expand", [between, shape], [name])]
    if kind == "none":
        return [
            node(
                "Slice",
                [inner, constant([0]), constant([0]), constant([chance.randrange(rank or 1)])],
                [name],
            )
        ]
    if kind == "batch":
        return [node("Gather", [inner, constant([0] * chance.choice([2, 50]))], [name], axis=0)]
    if kind == "no batch":
        return [node("ReduceSum", [inner, constant([0])], [name], keepdims=0)]
    if kind == "one more axis":
        return [node("Unsqueeze", [inner, constant([chance.randrange(rank + 1)])], [name])]
    if kind == "flat":
        return [node("Reshape", [inner, constant([-1])], [name])]
    if kind == "one less":
        return [node("ReduceSum", [inner, constant([last])], [name], keepdims=0)]
    if kind in ("scalar", "one"):
        return [node("ReduceSum", [inner], [name], keepdims=int(kind == "one"))]
    if kind == "transposed":
        return [node("Transpose", [inner], [name])]
    return [  # as many as the values say, which depend on the session
        node("Cast", [inner], [f"{name}_whole"], to=TensorProto.INT64),
        node("ReduceMax", [f"{name}_whole"], [f"{name}_most"], keepdims=0),
        node("Unsqueeze", [f"{name}_most", constant([0])], [between]),
        node("Slice", [inner, constant([0]), between, constant([last])], [name]),
    ]


def _type_of_output(chance: Chance, model: Any) -> str:
    output = chance.choice(model.graph.output)
    kind = chance.choice([*_DTYPES, "sequence", "optional"])
    operator = {"sequence": "SequenceConstruct", "optional": "Optional"}.get(kind, "Cast")
    attributes: dict[str, Any] = {"to": _DTYPES[kind]} if kind in _DTYPES else {}
    _behind(model, output, lambda inner, name: [helper.make_node(operator, [inner], [name], **attributes)])
    if chance.one_in(3):
        return f"{output.name}: {kind}, undeclared"
    if kind in _DTYPES:
        output.type.tensor_type.elem_type = _DTYPES[kind]
    elif kind == "sequence":
        output.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    else:
        output.type.optional_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    return f"{output.name}: {kind}"


def _value_of_output(chance: Chance, model: Any) -> str:
    output = chance.choice(model.graph.output)
    value = np.float32(chance.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45, 0]))
    kind = chance.kind("Add, Mul, Div, constant")
    if kind == "constant":
        shape = chance.choice([[1, 6], [1, 9], [1, 1], [2, 4], [0], [], [1, 0]])
        constant = _constant(model, np.full(shape, value))
        _behind(model, output, lambda _, name: [helper.make_node("Identity", [constant], [name])])
        return f"{output.name}: {value} in a constant of shape {shape}, {_declare(chance, output)}"
    constant = _constant(model, value)
    _behind(model, output, lambda inner, name: [helper.make_node(kind, [inner, constant], [name])])
    return f"{output.name}: {kind} {value}"


def _outputs(chance: Chance, model: Any) -> str:
    """Outputs that are missing, exchanged, named otherwise or of a node that is not there."""
    outputs, node = model.graph.output, helper.make_node
    kind = chance.kind("missing, exchanged, renamed, nowhere, an input, twice, more, as they were")
    output, other = chance.choice(outputs), chance.choice(outputs)
    name = output.name
    if kind == "missing":
        outputs.remove(output)
    elif kind == "exchanged":
        output.name, other.name = other.name, name
    elif kind == "renamed":
        _behind(model, output, lambda inner, _: [node("Identity", [inner], ["other"])])
        output.name = "other"
    elif kind == "nowhere":
        _behind(model, output, lambda inner, _: [node("Identity", [inner], ["elsewhere"])])
    elif kind == "an input":
        given = chance.choice(model.graph.input)
        _behind(model, output, lambda _, name: [node("Identity", [given.name], [name])])
        if chance.one_in(2):
            output.type.CopyFrom(given.type)
    elif kind in ("twice", "more"):
        outputs.add().CopyFrom(output)
        if kind == "more":
            outputs[-1].name = "more"
            model.graph.node.append(node("Identity", [name], ["more"]))
    else:
        kind += f", {_declare(chance, output)}"
    return f"{name}: {kind}"


def _inputs(chance: Chance, model: Any) -> str:
    inputs = model.graph.input
    given = chance.choice(inputs)
    kind = chance.kind("renamed, fixed, other type, more, missing, other rank, unknown")
    name, tensor = given.name, given.type.tensor_type
    if kind == "renamed":
        given.name = chance.choice(["other", "", "tokens", "session_lengths", "vectors"])
        for node in model.graph.node:
            for at, each in enumerate(node.input):
                if each == name:
                    node.input[at] = given.name
    elif kind == "fixed":
        for each in tensor.shape.dim:
            each.dim_value = each.dim_value or chance.choice([1, 2, 0])
    elif kind == "other type":
        tensor.elem_type = chance.choice([TensorProto.DOUBLE, TensorProto.INT32, TensorProto.STRING, 0])
    elif kind == "more":
        shape: Any = chance.choice([[1], ["n"], []])
        inputs.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, shape))
    elif kind == "missing":
        inputs.remove(given)
    elif kind == "other rank":
        tensor.shape.dim.add().dim_param = "more"
    else:
        tensor.ClearField("shape")
    return f"{name}: {kind}"


def _initializers(chance: Chance, model: Any) -> str:
    if not model.graph.initializer:
        return "nothing"
    each = chance.choice(model.graph.initializer)
    kind = chance.kind("2 * value, shape, short, type, 2 * external, missing, twice, negative, huge")
    name = each.name
    if kind == "value":
        try:
            table = numpy_helper.to_array(each).copy()
        except (TypeError, ValueError, KeyError):  # its shape or type was changed before
            return "nothing"
        at = chance.randrange(max(1, table.size))
        table.reshape(-1)[at : at + 1] = chance.extreme(table.dtype, 9)
        each.CopyFrom(numpy_helper.from_array(table, name))
        kind += f" {table.reshape(-1)[at : at + 1].tolist()} at {at}"
    elif kind == "shape":
        each.dims[:] = chance.choice([[*each.dims, 1], [*each.dims][:-1], [*each.dims][::-1], [1000, 1000]])
    elif kind == "short":
        each.raw_data = each.raw_data[: len(each.raw_data) // 2]
    elif kind == "type":
        each.data_type = chance.choice([*_DTYPES.values(), TensorProto.BFLOAT16, 0, 77])
    elif kind == "external":
        place = chance.choice(
            ["README.md", "catalog.safetensors", "/etc/passwd", "../x", "", "/dev/zero", "/proc/self/mem"]
        )
        each.ClearField("raw_data")
        each.data_location = TensorProto.EXTERNAL
        for key, value in {
            "location": place,
            "offset": chance.choice(["0", "-1", "x", "99999999999"]),
        }.items():
            each.external_data.add(key=key, value=value)
        kind += f", in {place}"
    elif kind == "missing":
        model.graph.initializer.remove(each)
    elif kind == "twice":
        model.graph.initializer.add().CopyFrom(each)
    else:
        each.dims[:] = [-1] if kind == "negative" else [2**31, 2**31]
    return f"{name}: {kind}"


def _nodes(chance: Chance, model: Any) -> str:
    nodes = model.graph.node
    node = chance.choice(nodes)
    kind = chance.kind(
        "missing, other, domain, cycle, itself, order, inputs, twice, attribute, nameless, many"
    )
    name = node.op_type
    if kind == "missing":
        nodes.remove(node)
    elif kind == "other":
        node.op_type = chance.kind(
            "Relu, Sqrt, Log, Softmax, Exp, MatMul, Size, Nothing, Div, RandomNormalLike, Range, Tile"
        )
    elif kind == "domain":
        node.domain = chance.kind("com.microsoft, ai.onnx.ml, nobody, ai.onnx.training")
    elif kind in ("cycle", "itself") and node.input:
        node.input[0] = ([*node.output] if kind == "itself" else [*nodes[-1].output, ""])[0]
    elif kind == "order":
        every = [*nodes]
        chance.shuffle(every)
        del nodes[:]
        nodes.extend(every)
    elif kind == "inputs" and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(
            ["", "nowhere", model.graph.input[0].name]
        )
    elif kind == "twice":
        nodes.add().CopyFrom(node)
    elif kind == "attribute":
        attribute = chance.kind("axis, to, keepdims, other")
        node.attribute.append(helper.make_attribute(attribute, chance.choice([-1, 7, 2**40])))
    elif kind == "nameless":
        del node.output[:]
    elif kind == "many":
        _behind(model, model.graph.output[0], _chain)
    return f"node {name}: {kind}"


def _chain(start: str, end: str) -> list[Any]:
    names = [start, *(f"{end}_{at}" for at in range(3_000)), end]
    return [helper.make_node("Neg", [one], [other]) for one, other in pairwise(names)]


def _control(chance: Chance, model: Any) -> str:
    """An output behind a loop, a branch, a scan or a function."""
    output = chance.choice(model.graph.output)
    kind = chance.kind("2 * Loop, If, Scan, function")
    node, info = helper.make_node, helper.make_tensor_value_info
    any_shape = {name: info(name, TensorProto.FLOAT, None) for name in ("x", "y")}

    def body(operator: str, taken: str, inputs: list[Any], outputs: list[Any], *more: Any) -> Any:
        attributes: dict[str, Any] = {"axis": -1} if operator == "Concat" else {}
        nodes = [node(operator, [taken], ["y"], **attributes), *more]
        return helper.make_graph(nodes, "body", inputs, outputs)

    def nodes(inner: str, name: str) -> list[Any]:
        if kind == "If":
            branch = {
                each: body("Concat", inner, [], [any_shape["y"]]) for each in ("then_branch", "else_branch")
            }
            return [node("If", [_constant(model, np.array(True))], [name], **branch)]
        if kind == "Scan":
            inside = body("Identity", "x", [any_shape["x"]], [any_shape["y"]])
            return [node("Scan", [inner], [name], body=inside, num_scan_inputs=1)]
        if kind == "function":
            double = [node("Add", ["x", "x"], ["y"])]
            made = helper.make_function(
                "own", "Twice", ["x"], ["y"], double, [helper.make_opsetid("", _OPSET)]
            )
            model.functions.append(made)
            model.opset_import.append(helper.make_opsetid("own", 1))
            return [node("Twice", [inner], [name], domain="own")]
        given = [info("turn", TensorProto.INT64, []), info("on", TensorProto.BOOL, []), any_shape["x"]]
        back = [info("still", TensorProto.BOOL, []), any_shape["y"]]
        inside = body("Neg", "x", given, back, node("Identity", ["on"], ["still"]))
        turns = _constant(model, np.array(chance.choice([0, 1, 3, 1000, 2**62])))
        return [node("Loop", [turns, _constant(model, np.array(True)), inner], [name], body=inside)]

    _behind(model, output, nodes)
    return f"{output.name}: {kind}, {_declare(chance, output)}"


def _work(chance: Chance, model: Any) -> str:
    """An output that takes much memory, or an error when the graph runs."""
    output, node = chance.choice(model.graph.output), helper.make_node
    kind = chance.kind("2 * memory, index, reshape")

    def nodes(inner: str, name: str) -> list[Any]:
        if kind == "memory":
            shape = _constant(
                model, chance.choice([[2**40], [2**62], [2**33], [2**20, 2**20], [-1], [2**31]])
            )
            return [
                node("ConstantOfShape", [shape], [f"{name}_large"]),
                node("ReduceSum", [f"{name}_large"], [f"{name}_sum"], keepdims=0),
                node("Add", [inner, f"{name}_sum"], [name]),
            ]
        if kind == "index":
            return [
                node(
                    "Gather", [inner, _constant(model, chance.choice([[10**6], [-(10**6)], [2**62]]))], [name]
                )
            ]
        shape = _constant(model, chance.choice([[7, 7], [0, 0, 0, 0], [-1, -1], [2**62]]))
        return [node("Reshape", [inner, shape], [name])]

    _behind(model, output, nodes)
    return f"{output.name}: {kind}, {_declare(chance, output)}"


def _model(chance: Chance, model: Any) -> str:
    kind = chance.kind("opset, ir, domain, no opset, metadata, sparse, training, name, no graph, doc")
    if kind == "opset":
        model.opset_import[0].version = chance.choice([0, 1, 7, 13, 21, 99, -1, 2**62])
    elif kind == "ir":
        model.ir_version = chance.choice([0, 1, 3, 11, 99, -1, 2**62])
    elif kind == "domain":
        domain = chance.choice(["nobody", "com.microsoft", "", "ai.onnx"])
        model.opset_import.append(helper.make_opsetid(domain, chance.choice([1, 99])))
    elif kind == "no opset":
        del model.opset_import[:]
    elif kind == "metadata":
        settings = chance.choice(["{", '{"session_options": {"intra_op_num_threads": 99}}'])
        model.metadata_props.add(key=chance.choice(["ort_config", "a" * 1000, ""]), value=settings)
    elif kind == "sparse":
        values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
        places = helper.make_tensor("places", TensorProto.INT64, [1], [chance.choice([0, 99, -1])])
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 3]))
    elif kind == "training":
        model.training_info.add()
    elif kind == "name":
        model.graph.name = chance.choice(["", "ü" * 1000])
    elif kind == "no graph":
        model.ClearField("graph")
    else:
        model.doc_string = "x" * 1_000_000
    return f"model: {kind}"


_CHANGES: Final[dict[_Change, int]] = {
    _shape_of_output: 12,
    _type_of_output: 4,
    _value_of_output: 4,
    _outputs: 5,
    _inputs: 3,
    _initializers: 5,
    _nodes: 4,
    _control: 2,
    _work: 2,
    _model: 2,
}
