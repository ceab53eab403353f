"""Target "graphs": ``model.onnx``, ``item_encoder.onnx`` and ``query_parts.onnx``, forged with what ONNX offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hiersrec_sdk.bundle.schema import ITEM_ENCODER, MODEL, QUERY_PARTS
from tests.fuzz.bundle_case import BundleCase, opening
from tests.fuzz.chance import Chance
from tests.fuzz.parts import sound, with_config

_LARGE: Final = 5_000_000
_Change = Callable[[Chance, Any], str]
"""Changes an onnx.ModelProto, and says how."""


def make(chance: Chance) -> BundleCase:
    """A bundle with a damaged graph."""
    parts = chance.choice(sound()).copy()
    notes = [parts.name]
    name = chance.choices([MODEL, ITEM_ENCODER, QUERY_PARTS], [6, 3, 2])[0]
    if chance.one_in(8):
        parts.files[name], note = chance.spoiled(parts.files[name])
        notes.append(f"{name}: {note}")
    else:
        model = onnx.load_from_string(parts.files[name])
        for _ in range(chance.choice([1, 1, 1, 2])):
            note = chance.choices([change for change, _ in _CHANGES], [weight for _, weight in _CHANGES])[0](chance, model)
            notes.append(f"{name}: {note}")
        try:
            parts.files[name] = model.SerializeToString()
        except Exception:  # too odd to write
            parts.files[name] = b""
    options = opening(chance)
    notes.append(str(options))
    files = with_config(parts, parts.content())
    return BundleCase(notes, files, parts.ids, chance, options, compare=False, trusts_graphs=False)


def _output(chance: Chance, model: Any) -> Any | None:
    return chance.choice(model.graph.output) if model.graph.output else None


def _behind(model: Any, output: Any, nodes: Callable[[str, str], list[Any]]) -> None:
    """Let ``nodes(from, to)`` make what comes out under the name of ``output``."""
    name = output.name
    inner = f"{name}_inner_{len(model.graph.node)}"
    for node in model.graph.node:
        for at, each in enumerate(node.output):
            if each == name:
                node.output[at] = inner
        for at, each in enumerate(node.input):
            if each == name:
                node.input[at] = inner
    model.graph.node.extend(nodes(inner, name))


def _constant(model: Any, value: Any) -> str:
    name = f"constant_{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def _hidden(model: Any, value: Any, nodes: list[Any]) -> str:
    """A constant that is only known when the graph runs: the input that has integers takes part in it."""
    name = f"hidden_{len(model.graph.initializer)}"
    integers = next((each.name for each in model.graph.input if each.type.tensor_type.elem_type == TensorProto.INT64), "")
    nodes += [
        helper.make_node("ReduceMin", [integers], [f"{name}_least"], keepdims=0),
        helper.make_node("Mul", [f"{name}_least", _constant(model, 0)], [f"{name}_zero"]),
        helper.make_node("Add", [f"{name}_zero", _constant(model, value)], [name]),
    ]
    return name


def _declare(chance: Chance, output: Any) -> str:
    """Say something, or nothing, about the type and shape of an output."""
    kind = chance.choice(["symbols", "symbols", "nothing", "as before", "unknown", "wrong", "other rank", "other type", "negative"])
    tensor = output.type.tensor_type
    if kind == "symbols":
        for at, each in enumerate(tensor.shape.dim):
            each.dim_param = f"any{at}"
    elif kind == "nothing":
        tensor.ClearField("shape")
    elif kind == "unknown":
        for each in tensor.shape.dim:
            each.Clear()
    elif kind == "wrong":
        for each in tensor.shape.dim:
            each.dim_value = chance.choice([0, 1, 5, 2**40])
    elif kind == "negative":
        for each in tensor.shape.dim:
            each.dim_value = -1
    elif kind == "other rank":
        if tensor.shape.dim and chance.one_in(2):
            del tensor.shape.dim[-1]
        else:
            tensor.shape.dim.add().dim_param = "more"
    elif kind == "other type":
        tensor.elem_type = chance.choice([TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING, TensorProto.FLOAT16, 0, 99])
    return kind


def _shape_of_output(chance: Chance, model: Any) -> str:
    """An output of another shape than the config says, at run time."""
    output = _output(chance, model)
    if output is None:
        return "nothing"
    node = helper.make_node
    rank = len(output.type.tensor_type.shape.dim)
    kind = chance.choice(
        ["narrower", "wider", "huge", "none", "batch", "no batch", "one more axis", "flat", "one less", "scalar", "data", "one", "transposed", "longer"]
    )

    hides = not chance.one_in(3)  # from onnxruntime, which else works shapes out before the graph runs

    def nodes(inner: str, name: str) -> list[Any]:
        made: list[Any] = []

        def c(value: Any) -> str:
            if hides and np.asarray(value).dtype == np.int64:
                return _hidden(model, value, made)
            return _constant(model, value)

        return made + shaped(inner, name, c)

    def shaped(inner: str, name: str, c: Callable[[Any], str]) -> list[Any]:
        last = [rank - 1]
        if kind == "narrower":
            return [node("Slice", [inner, c([0]), c([chance.choice([1, 2, 3])]), c(last)], [name])]
        if kind == "wider":
            return [node("Gather", [inner, c([0] * chance.choice([7, 10, 33, 1000]))], [name], axis=rank - 1)]
        if kind == "longer":  # than there are, by one
            one = f"{name}_one"
            return [node("Slice", [inner, c([0]), c([1]), c(last)], [one]), node("Concat", [inner, one], [name], axis=rank - 1)]
        if kind == "huge":
            column = f"{name}_column"
            return [
                node("Slice", [inner, c([0]), c([1]), c(last)], [column]),
                node("Expand", [column, c([1] * (rank - 1) + [chance.choice([_LARGE, 65536])])], [name]),
            ]
        if kind == "none":
            return [node("Slice", [inner, c([0]), c([0]), c([chance.randrange(max(1, rank))])], [name])]
        if kind == "batch":
            return [node("Gather", [inner, c([0] * chance.choice([2, 50]))], [name], axis=0)]
        if kind == "no batch":
            return [node("ReduceSum", [inner, c([0])], [name], keepdims=0)]
        if kind == "one more axis":
            return [node("Unsqueeze", [inner, c([chance.randrange(rank + 1)])], [name])]
        if kind == "flat":
            return [node("Reshape", [inner, c([-1])], [name])]
        if kind == "one less":
            return [node("ReduceSum", [inner, c(last)], [name], keepdims=0)]
        if kind == "scalar":
            return [node("ReduceSum", [inner], [name], keepdims=0)]
        if kind == "one":
            return [node("ReduceSum", [inner], [name], keepdims=1)]
        if kind == "transposed":
            return [node("Transpose", [inner], [name])]
        return [  # as many as the values say, which depend on the session
            node("Cast", [inner], [f"{name}_whole"], to=TensorProto.INT64),
            node("ReduceMax", [f"{name}_whole"], [f"{name}_most"], keepdims=0),
            node("Unsqueeze", [f"{name}_most", c([0])], [f"{name}_stop"]),
            node("Slice", [inner, c([0]), f"{name}_stop", c(last)], [name]),
        ]

    hides = not chance.one_in(3)  # from onnxruntime, which else works shapes out before the graph runs

    def nodes(inner: str, name: str) -> list[Any]:
        made: list[Any] = []

        def c(value: Any) -> str:
            if hides and np.asarray(value).dtype == np.int64:
                return _hidden(model, value, made)
            return _constant(model, value)

        return made + shaped(inner, name, c)

    def shaped(inner: str, name: str, c: Callable[[Any], str]) -> list[Any]:
        last = [rank - 1]
        if kind == "narrower":
            return [node("Slice", [inner, c([0]), c([chance.choice([1, 2, 3])]), c(last)], [name])]
        if kind == "wider":
            return [node("Gather", [inner, c([0] * chance.choice([7, 10, 33, 1000]))], [name], axis=rank - 1)]
        if kind == "longer":  # than there are, by one
            one = f"{name}_one"
            return [node("Slice", [inner, c([0]), c([1]), c(last)], [one]), node("Concat", [inner, one], [name], axis=rank - 1)]
        if kind == "huge":
            column = f"{name}_column"
            return [
                node("Slice", [inner, c([0]), c([1]), c(last)], [column]),
                node("Expand", [column, c([1] * (rank - 1) + [chance.choice([_LARGE, 65536])])], [name]),
            ]
        if kind == "none":
            return [node("Slice", [inner, c([0]), c([0]), c([chance.randrange(max(1, rank))])], [name])]
        if kind == "batch":
            return [node("Gather", [inner, c([0] * chance.choice([2, 50]))], [name], axis=0)]
        if kind == "no batch":
            return [node("ReduceSum", [inner, c([0])], [name], keepdims=0)]
        if kind == "one more axis":
            return [node("Unsqueeze", [inner, c([chance.randrange(rank + 1)])], [name])]
        if kind == "flat":
            return [node("Reshape", [inner, c([-1])], [name])]
        if kind == "one less":
            return [node("ReduceSum", [inner, c(last)], [name], keepdims=0)]
        if kind == "scalar":
            return [node("ReduceSum", [inner], [name], keepdims=0)]
        if kind == "one":
            return [node("ReduceSum", [inner], [name], keepdims=1)]
        if kind == "transposed":
            return [node("Transpose", [inner], [name])]
        return [  # as many as there are values above 0: it depends on the session
            node("Greater", [inner, c(np.float32(0))], [f"{name}_above"]),
            node("Reshape", [f"{name}_above", c([-1])], [f"{name}_flags"]),
            node("Reshape", [inner, c([-1])], [f"{name}_flat"]),
            node("Compress", [f"{name}_flat", f"{name}_flags"], [f"{name}_some"], axis=0),
            node("Unsqueeze", [f"{name}_some", c([0])], [name]),
        ]

    _behind(model, output, nodes)
    return f"{output.name}: {kind}{' in hiding' if hides else ''}, declared {_declare(chance, output)}"


def _type_of_output(chance: Chance, model: Any) -> str:
    output = _output(chance, model)
    if output is None:
        return "nothing"
    kind = chance.choice(["double", "int64", "float16", "string", "bool", "uint8", "sequence", "optional"])
    types = {
        "double": TensorProto.DOUBLE,
        "int64": TensorProto.INT64,
        "float16": TensorProto.FLOAT16,
        "string": TensorProto.STRING,
        "bool": TensorProto.BOOL,
        "uint8": TensorProto.UINT8,
    }
    if kind in types:
        _behind(model, output, lambda inner, name: [helper.make_node("Cast", [inner], [name], to=types[kind])])
        if not chance.one_in(3):
            output.type.tensor_type.elem_type = types[kind]
    elif kind == "sequence":
        _behind(model, output, lambda inner, name: [helper.make_node("SequenceConstruct", [inner], [name])])
        if not chance.one_in(3):
            output.type.sequence_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    else:
        _behind(model, output, lambda inner, name: [helper.make_node("Optional", [inner], [name])])
        if not chance.one_in(3):
            output.type.optional_type.elem_type.tensor_type.elem_type = TensorProto.FLOAT
    return f"{output.name}: {kind}"


def _value_of_output(chance: Chance, model: Any) -> str:
    output = _output(chance, model)
    if output is None:
        return "nothing"
    value = np.float32(chance.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45, 0]))
    kind = chance.choice(["Add", "Mul", "Div", "constant"])
    if kind == "constant":
        shape = chance.choice([[1, 6], [1, 9], [1, 1], [2, 4], [0], [], [1, 0]])
        constant = _constant(model, np.full(shape, value))
        _behind(model, output, lambda _, name: [helper.make_node("Identity", [constant], [name])])
        return f"{output.name}: {value} in a constant of shape {shape}, declared {_declare(chance, output)}"
    constant = _constant(model, value)
    _behind(model, output, lambda inner, name: [helper.make_node(kind, [inner, constant], [name])])
    return f"{output.name}: {kind} {value}"


def _outputs(chance: Chance, model: Any) -> str:
    """Outputs that are missing, exchanged, named otherwise or of a node that is not there."""
    outputs = model.graph.output
    if not outputs:
        return "nothing"
    kind = chance.choice(["missing", "exchanged", "renamed", "nowhere", "an input", "twice", "more"])
    output = chance.choice(outputs)
    if kind == "missing":
        outputs.remove(output)
    elif kind == "exchanged" and len(outputs) > 1:
        one, other = chance.sample([*outputs], 2)
        one.name, other.name = other.name, one.name
    elif kind == "renamed":
        _behind(model, output, lambda inner, _: [helper.make_node("Identity", [inner], ["other"])])
        output.name = "other"
    elif kind == "nowhere":
        for node in model.graph.node:
            for at, each in enumerate(node.output):
                if each == output.name:
                    node.output[at] = "elsewhere"
    elif kind == "an input":
        given = chance.choice(model.graph.input)
        _behind(model, output, lambda _, name: [helper.make_node("Identity", [given.name], [name])])
        if chance.one_in(2):
            output.type.CopyFrom(given.type)
    elif kind == "twice":
        outputs.add().CopyFrom(output)
    else:
        more = outputs.add()
        more.CopyFrom(output)
        more.name = "more"
        model.graph.node.append(helper.make_node("Identity", [output.name], ["more"]))
    return f"{output.name}: {kind}"


def _inputs(chance: Chance, model: Any) -> str:
    inputs = model.graph.input
    if not inputs:
        return "nothing"
    given = chance.choice(inputs)
    kind = chance.choice(["renamed", "fixed", "other type", "more", "missing", "other rank", "unknown"])
    name, tensor = given.name, given.type.tensor_type
    if kind == "renamed":
        given.name = chance.choice(["other", "", "tokens", "session_lengths", "vectors"])
        for node in model.graph.node:
            for at, each in enumerate(node.input):
                if each == name:
                    node.input[at] = given.name
    elif kind == "fixed":
        for each in tensor.shape.dim:
            if not each.dim_value:
                each.dim_value = chance.choice([1, 2, 0])
    elif kind == "other type":
        tensor.elem_type = chance.choice([TensorProto.DOUBLE, TensorProto.INT32, TensorProto.STRING, 0])
    elif kind == "more":
        inputs.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, chance.choice([[1], ["n"], []])))
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
    kind = chance.choice(["value", "value", "shape", "short", "type", "external", "external", "missing", "twice", "negative", "huge"])
    if kind == "value":
        table = numpy_helper.to_array(each).copy()
        if table.size:
            at = chance.randrange(table.size)
            table.reshape(-1)[at] = chance.extreme(table.dtype, 9)
            each.CopyFrom(numpy_helper.from_array(table, each.name))
            return f"{each.name}: {table.reshape(-1)[at]} at {at}"
    elif kind == "shape":
        each.dims[:] = chance.choice([[*each.dims, 1], [*each.dims][:-1], [*each.dims][::-1], [1000, 1000]])
    elif kind == "short":
        each.raw_data = each.raw_data[: len(each.raw_data) // 2]
    elif kind == "type":
        each.data_type = chance.choice([TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING, TensorProto.BFLOAT16, 0, 77])
    elif kind == "external":
        each.ClearField("raw_data")
        each.data_location = TensorProto.EXTERNAL
        place = chance.choice(["README.md", "catalog.safetensors", "/etc/passwd", "../x", "", "/dev/zero", "none", "/proc/self/mem"])
        for key, value in {"location": place, "offset": chance.choice(["0", "-1", "x", "99999999999"])}.items():
            entry = each.external_data.add()
            entry.key, entry.value = key, value
        return f"{each.name}: in {place}"
    elif kind == "missing":
        model.graph.initializer.remove(each)
        return f"{each.name}: missing"
    elif kind == "twice":
        model.graph.initializer.add().CopyFrom(each)
    elif kind == "negative":
        each.dims[:] = [-1]
    else:
        each.dims[:] = [2**31, 2**31]
    return f"{each.name}: {kind}"


def _nodes(chance: Chance, model: Any) -> str:
    nodes = model.graph.node
    if not nodes:
        return "nothing"
    node = chance.choice(nodes)
    kind = chance.choice(["missing", "other", "domain", "cycle", "itself", "order", "inputs", "twice", "attribute", "nameless", "many"])
    if kind == "missing":
        nodes.remove(node)
    elif kind == "other":
        node.op_type = chance.choice(["Relu", "Sqrt", "Log", "Softmax", "Exp", "MatMul", "Size", "Nothing", "", "Div", "RandomNormalLike", "Tile", "Range"])
    elif kind == "domain":
        node.domain = chance.choice(["com.microsoft", "ai.onnx.ml", "nobody", "ai.onnx.training"])
    elif kind == "cycle" and node.input and nodes[-1].output:
        node.input[0] = nodes[-1].output[0]
    elif kind == "itself" and node.input and node.output:
        node.input[0] = node.output[0]
    elif kind == "order":
        every = [*nodes]
        chance.shuffle(every)
        del nodes[:]
        nodes.extend(every)
    elif kind == "inputs" and node.input:
        node.input[chance.randrange(len(node.input))] = chance.choice(["", "nowhere", model.graph.input[0].name if model.graph.input else ""])
    elif kind == "twice":
        nodes.add().CopyFrom(node)
    elif kind == "attribute":
        node.attribute.append(helper.make_attribute(chance.choice(["axis", "to", "keepdims", "other"]), chance.choice([-1, 7, 2**40])))
    elif kind == "nameless":
        del node.output[:]
    elif kind == "many" and len(model.graph.output):
        last = model.graph.output[0].name
        _behind(model, model.graph.output[0], lambda inner, _: _chain(inner, last, 3_000))
    return f"node {node.op_type}: {kind}"


def _chain(start: str, end: str, count: int) -> list[Any]:
    names = [start, *(f"{end}_{at}" for at in range(count - 1)), end]
    return [helper.make_node("Neg", [one], [other]) for one, other in zip(names, names[1:], strict=False)]


def _control(chance: Chance, model: Any) -> str:
    """An output behind a loop, a branch, a scan or a function."""
    output = _output(chance, model)
    if output is None:
        return "nothing"
    kind = chance.choice(["Loop", "Loop", "If", "Scan", "function"])
    node, info = helper.make_node, helper.make_tensor_value_info
    if kind == "If":
        flag = _constant(model, np.array(chance.one_in(2)))

        def branch(inner: str, times: int) -> Any:
            made = node("Concat", [inner] * times, ["in_branch"], axis=-1)
            return helper.make_graph([made], "branch", [], [info("in_branch", TensorProto.FLOAT, None)])

        _behind(
            model,
            output,
            lambda inner, name: [node("If", [flag], [name], then_branch=branch(inner, 1), else_branch=branch(inner, 3))],
        )
        return f"{output.name}: If, declared {_declare(chance, output)}"
    if kind == "function":
        made = helper.make_function(
            "own", "Twice", ["x"], ["y"], [node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)]
        )
        model.functions.append(made)
        model.opset_import.append(helper.make_opsetid("own", 1))
        _behind(model, output, lambda inner, name: [node("Twice", [inner], [name], domain="own")])
        return f"{output.name}: a function"
    if kind == "Scan":
        body = helper.make_graph(
            [node("Identity", ["given"], ["made"])],
            "body",
            [info("given", TensorProto.FLOAT, None)],
            [info("made", TensorProto.FLOAT, None)],
        )
        _behind(model, output, lambda inner, name: [node("Scan", [inner], [name], body=body, num_scan_inputs=1)])
        return f"{output.name}: Scan"
    turns = chance.choice([0, 1, 3, 3, 1000, 2**62])
    count, going = _constant(model, np.array(turns)), _constant(model, np.array(True))
    body = helper.make_graph(
        [node("Identity", ["on"], ["still"]), node("Neg", ["x"], ["y"])],
        "body",
        [info("turn", TensorProto.INT64, []), info("on", TensorProto.BOOL, []), info("x", TensorProto.FLOAT, None)],
        [info("still", TensorProto.BOOL, []), info("y", TensorProto.FLOAT, None)],
    )
    _behind(model, output, lambda inner, name: [node("Loop", [count, going, inner], [name], body=body)])
    return f"{output.name}: a Loop of {turns} turns"


def _work(chance: Chance, model: Any) -> str:
    """Much memory, or an error when the graph runs."""
    output = _output(chance, model)
    if output is None:
        return "nothing"
    node = helper.make_node
    kind = chance.choice(["memory", "memory", "index", "division", "reshape"])

    def nodes(inner: str, name: str) -> list[Any]:
        if kind == "memory":
            shape = _constant(model, chance.choice([[2**40], [2**62], [2**33], [2**20, 2**20], [-1], [2**31]]))
            return [
                node("ConstantOfShape", [shape], [f"{name}_large"]),
                node("ReduceSum", [f"{name}_large"], [f"{name}_sum"], keepdims=0),
                node("Add", [inner, f"{name}_sum"], [name]),
            ]
        if kind == "index":
            return [node("Gather", [inner, _constant(model, chance.choice([[10**6], [-(10**6)], [2**62]]))], [name])]
        if kind == "reshape":
            return [node("Reshape", [inner, _constant(model, chance.choice([[7, 7], [0, 0, 0, 0], [-1, -1], [2**62]]))], [name])]
        return [node("Div", [inner, _constant(model, np.float32(0))], [name])]

    _behind(model, output, nodes)
    return f"{output.name}: {kind}, declared {_declare(chance, output)}"


def _model(chance: Chance, model: Any) -> str:
    kind = chance.choice(["opset", "ir", "domain", "no opset", "metadata", "sparse", "quantization", "training", "name", "no graph", "doc"])
    if kind == "opset":
        model.opset_import[0].version = chance.choice([0, 1, 7, 13, 21, 99, -1, 2**62])
    elif kind == "ir":
        model.ir_version = chance.choice([0, 1, 3, 11, 99, -1, 2**62])
    elif kind == "domain":
        model.opset_import.append(helper.make_opsetid(chance.choice(["nobody", "com.microsoft", "", "ai.onnx"]), chance.choice([1, 99])))
    elif kind == "no opset":
        del model.opset_import[:]
    elif kind == "metadata":
        entry = model.metadata_props.add()
        entry.key, entry.value = chance.choice(["ort.config", "a" * 1000, ""]), chance.choice(["{", '{"session_options": {"intra_op_num_threads": 99}}'])
    elif kind == "name":
        model.graph.name = chance.choice(["", "ü" * 1000])
    elif kind == "no graph":
        model.ClearField("graph")
    elif kind == "training":
        model.training_info.add()
    elif kind == "sparse":
        values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
        places = helper.make_tensor("places", TensorProto.INT64, [1], [chance.choice([0, 99, -1])])
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [3, 3]))
    else:
        model.doc_string = "x" * 1_000_000
    return f"model: {kind}"


def _info(chance: Chance, model: Any) -> str:
    output = _output(chance, model)
    return "nothing" if output is None else f"{output.name}: as it was, declared {_declare(chance, output)}"


_CHANGES: Final[list[tuple[_Change, int]]] = [
    (_shape_of_output, 12),
    (_type_of_output, 4),
    (_value_of_output, 4),
    (_outputs, 4),
    (_inputs, 3),
    (_initializers, 5),
    (_nodes, 4),
    (_control, 2),
    (_work, 2),
    (_model, 2),
    (_info, 2),
]
