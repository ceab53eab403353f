"""The reader of ONNX files: it accepts arithmetic alone, and sees in a file what the onnx package sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hiersrec_sdk import Recommender
from hiersrec_sdk.encoders.onnx_file import OPERATORS, check_graph
from hiersrec_sdk.encoders.session_encoder import OnnxSessionEncoder
from hiersrec_sdk.errors import BundleCorruptError
from tests.sdk.bundles import DIMENSION, SIZES, forge, make_shop
from tests.sdk.encoders.forged import files, with_output

SHOP = make_shop("int64", seed=1)
RIGHT = SHOP.files["model.onnx"]


def parsed() -> ModelProto:
    return onnx.load_from_string(RIGHT)


def branch() -> GraphProto:
    output = helper.make_tensor_value_info("inner", TensorProto.FLOAT, [])
    return helper.make_graph(
        [helper.make_node("Identity", ["item_query"], ["inner"])], "branch", [], [output]
    )


def external() -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(4, dtype=np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../secret"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def add_node(*arguments: Any, **attributes: Any) -> Callable[[ModelProto], object]:
    return lambda model: model.graph.node.append(helper.make_node(*arguments, **attributes))


def with_custom_domain(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node.append(helper.make_node("Add", ["one", "one"], ["two"], domain="com.microsoft"))


def with_function(model: ModelProto) -> None:
    body = [helper.make_node("Identity", ["a"], ["b"])]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "Add", ["a"], ["b"], body, imports))


def in_a_constant(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("ConstantOfShape", ["s"], ["c"], value=external()))


def divide(*nodes: NodeProto, **initializers: Any) -> Callable[[ModelProto], object]:
    """Add nodes, the last of which divides by their output ``d``."""

    def change(model: ModelProto) -> None:
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array(value), name) for name, value in initializers.items()
        )
        model.graph.node.extend(
            [*nodes, helper.make_node("Div", ["session_lengths", "d"], ["q"], name="half")]
        )

    return change


def defined_twice(model: ModelProto) -> None:
    for value in (np.float32(1), np.int64(-1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), "d"))


def two_axes(model: ModelProto) -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], axis=0)
    node.attribute.append(helper.make_attribute("axis", 1))
    model.graph.node.append(node)


REFUSED: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "if": (
        add_node("If", ["is_real"], ["x"], name="fork", then_branch=branch(), else_branch=branch()),
        r"node \d+, If 'fork', is of an operator",
    ),
    "loop": (add_node("Loop", ["n", "", "x"], ["y"], body=branch()), r"Loop '', is of an operator"),
    "scan": (add_node("Scan", ["x"], ["y"], body=branch(), num_scan_inputs=1), "Scan"),
    "subgraph of a known operator": (
        add_node("Add", ["a", "b"], ["y"], name="sum", body=branch()),
        r"node \d+, Add 'sum', has a subgraph",
    ),
    "subgraphs": (
        lambda model: model.graph.node[0].attribute.append(helper.make_attribute("bodies", [branch()])),
        "has subgraphs",
    ),
    "domain": (with_custom_domain, r"node \d+, Add '', is of the domain 'com.microsoft'"),
    "unknown operator": (add_node("Fetch", ["url"], ["y"]), "Fetch '', is of an operator"),
    "no operator": (lambda model: model.graph.node.append(NodeProto()), r"node \d+,  '', is of an operator"),
    "random": (add_node("RandomNormal", [], ["y"], shape=[2]), "RandomNormal"),
    "strings": (
        lambda model: model.graph.initializer.append(
            numpy_helper.from_array(np.array(["x"], dtype=object), "t")
        ),
        r"initializer \d+ has strings",
    ),
    "external weights": (
        lambda model: model.graph.initializer.append(external()),
        r"initializer \d+ has external data",
    ),
    "external constant": (in_a_constant, r"node \d+, ConstantOfShape '', has external data"),
    "place of data alone": (
        lambda model: setattr(model.graph.initializer[0], "data_location", TensorProto.EXTERNAL),
        "initializer 0 has a data location",
    ),
    "function": (with_function, "the file has functions"),
    "training": (lambda model: model.training_info.add(), "the file has training_info"),
    "settings": (
        lambda model: helper.set_model_props(model, {"ort_config": '{"session_options": {}}'}),
        "the file has metadata_props",
    ),
    "sparse": (lambda model: model.graph.sparse_initializer.add(), "the graph has sparse_initializer"),
    "quantization": (lambda model: model.graph.quantization_annotation.add(), "quantization_annotation"),
    "overload": (lambda model: setattr(model.graph.node[0], "overload", "other"), "node 0 has overload"),
    "reference": (
        lambda model: model.graph.node[0].attribute.add(ref_attr_name="outer"),
        "has a reference to an attribute",
    ),
    "no graph": (lambda model: model.ClearField("graph"), "it holds no graph"),
    "division by an integer": (divide(d=-1), r"node \d+, Div 'half', may divide integers"),
    "division by a computed integer": (
        divide(helper.make_node("Add", ["a", "a"], ["b"]), helper.make_node("Neg", ["b"], ["d"]), a=1),
        "Div 'half', may divide integers",
    ),
    "division by an integer from a float": (
        divide(helper.make_node("Cast", ["a"], ["d"], to=TensorProto.INT64), a=np.float32(1)),
        "Div 'half', may divide integers",
    ),
    "division by a shape": (
        divide(helper.make_node("Shape", ["a"], ["d"]), a=np.ones(3, np.float32)),
        "Div 'half', may divide integers",
    ),
    "division by integers of a shape": (
        divide(
            helper.make_node("ConstantOfShape", ["a"], ["d"], value=numpy_helper.from_array(np.array([-1]))),
            a=[1],
        ),
        "Div 'half', may divide integers",
    ),
    "two attributes of a name": (two_axes, "Softmax '', has two attributes of one name"),
    "lengths in the file": (
        lambda model: model.graph.initializer.append(
            numpy_helper.from_array(np.array([1]), "session_lengths")
        ),
        "it defines 'session_lengths' twice",
    ),
    "an initializer in place of an input": (
        lambda model: model.graph.initializer.append(numpy_helper.from_array(np.array(-1), "vectors")),
        "it defines 'vectors' twice",
    ),
    "two values of a name": (defined_twice, "it defines 'd' twice"),
    "a value in place of another": (
        divide(helper.make_node("Neg", ["session_lengths"], ["d"]), d=1.0),
        "it defines 'd' twice",
    ),
    "many nodes": (
        lambda model: model.graph.node.extend([model.graph.node[0]] * 20_000),
        "it has 20,0.. nodes; a graph may have 20,000",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_graph_may_hold(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    model = parsed()
    change(model)
    content = model.SerializeToString()
    with pytest.raises(BundleCorruptError, match=rf"^model\.onnx cannot be loaded: .*{message}"):
        check_graph(content, "model.onnx")
    path = forge(tmp_path / "bundle", SHOP.config, SHOP.tensors, files(SHOP, content))
    for verify in (True, False):
        with pytest.raises(BundleCorruptError, match=rf"^model\.onnx cannot be loaded: .*{message}"):
            Recommender.load(path, verify=verify)
    for other in ("item_encoder.onnx", "query_parts.onnx"):
        path = forge(tmp_path / other, SHOP.config, SHOP.tensors, {**SHOP.files, other: content})
        with pytest.raises(BundleCorruptError, match=rf"^{other} cannot be loaded: .*{message}"):
            Recommender.load(path)


def test_a_loop_without_end_is_not_run(tmp_path: Path) -> None:
    """2^62 turns: onnxruntime would be in the first call for ever."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["x"], ["same"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 6]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("same", TensorProto.FLOAT, ["b", 6]),
        ],
    )
    model = with_output(
        RIGHT,
        "item_query",
        [helper.make_node("Loop", ["turns", "", "right"], ["item_query"], body=body)],
        {"turns": np.array(2**62)},
        ("batch", 6),
    )
    path = forge(tmp_path / "bundle", SHOP.config, SHOP.tensors, files(SHOP, model))
    with pytest.raises(BundleCorruptError, match="Loop"):
        Recommender.load(path, verify=False)


FLOATS: dict[str, list[NodeProto]] = {
    "cast": [helper.make_node("Cast", ["session_lengths"], ["d"], to=TensorProto.FLOAT)],
    "function": [helper.make_node("Sigmoid", ["x"], ["d"])],
    "passed on": [
        helper.make_node("Add", ["x", "unit"], ["y"]),
        helper.make_node("Max", ["y", "z"], ["greatest"]),
        helper.make_node("Gather", ["greatest", "at"], ["d"]),
    ],
    "input": [helper.make_node("ReduceL2", ["vectors"], ["d"])],
    "zeros": [helper.make_node("ConstantOfShape", ["at"], ["d"])],
}


@pytest.mark.parametrize("case", FLOATS)
def test_floats_may_be_divided(case: str) -> None:
    model = parsed()
    divide(*FLOATS[case], unit=np.float32(1), at=[0])(model)
    assert check_graph(model.SerializeToString(), "model.onnx")[-1] == "Div"


def test_another_format_that_onnxruntime_knows() -> None:
    """A file that begins like its own format, and is ONNX for this reader, is loaded as ONNX or not at all."""
    model = parsed()
    model.ir_version = 10
    model.ClearField("producer_version")
    model.producer_name = "ORTM" + "x" * 14
    content = model.SerializeToString()
    assert content[4:8] == b"ORTM"
    assert check_graph(content, "model.onnx")
    OnnxSessionEncoder(content, dimension=DIMENSION, categories=SIZES)


def test_fields_that_come_twice() -> None:
    """Where protocol buffers would merge, or take the last value, the file is refused."""
    half = ModelProto(graph=GraphProto(node=[helper.make_node("If", ["x"], ["y"])]))
    for content in (RIGHT + half.SerializeToString(), half.SerializeToString() + RIGHT):
        assert any(node.op_type == "If" for node in onnx.load_from_string(content).graph.node)
        with pytest.raises(BundleCorruptError, match="damaged at its field graph"):
            check_graph(content, "model.onnx")
    name = helper.make_node("Add", ["x", "x"], ["y"]).SerializeToString()
    twice = message(7, message(1, name + message(4, b"If")))
    assert onnx.load_from_string(twice).graph.node[0].op_type == "If"
    with pytest.raises(BundleCorruptError, match="node 0 is damaged at its field op_type"):
        check_graph(twice, "model.onnx")


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it holds no graph"),
        (b"\x80" * 20, "a number in it does not end"),
        (b"\x80", "a number in it does not end"),
        (b"\x00", "has the field 0"),
        (b"\xf8\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01", "has the field "),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "truncated at its field graph"),
        (b"\x3a\x05abc", "truncated at its field graph"),
        (b"\x3b", "damaged at its field graph"),  # a group
        (b"\x3d\x00\x00\x00\x00", "damaged at its field graph"),
        (b"\x08", "a number in it does not end"),
        (b"\x08\x0a\x08\x0a", "damaged at its field ir_version"),
        (b"MZ\x90\x00", "has the field 9"),
        (b"PK\x03\x04", "has the field 10"),
        (message(7, b"") * 2, "damaged at its field graph"),
        (message(7, message(1, message(5, b"\x15\x00\x00"))), "node 0,  '', is of an operator"),
        (
            message(7, message(1, message(4, b"Add") + message(5, b"\x15\x00\x00"))),
            "truncated at its field f",
        ),
    ],
)
def test_files_that_are_damaged(content: bytes, cause: str) -> None:
    with pytest.raises(BundleCorruptError, match=rf"^x\.onnx cannot be loaded: .*{cause}"):
        check_graph(content, "x.onnx")


@pytest.mark.parametrize("field", range(1, 40))
def test_deep_nesting(field: int) -> None:
    """Refused by this reader, or by onnxruntime where it reads what is opaque here, such as types."""
    content = b""
    for _ in range(5_000):
        content = message(field, content)
    for nested in (content, message(7, content), message(7, message(1, message(4, b"Add") + content))):
        with pytest.raises(BundleCorruptError):
            OnnxSessionEncoder(nested, dimension=DIMENSION, categories=SIZES)


@pytest.mark.slow
def test_the_work_of_reading_is_bounded() -> None:
    inputs = message(1, message(4, b"Add") + b"\x0a\x00" * 400_000)
    numbers = message(1, message(4, b"Add") + message(5, b"\x40\x01" * 400_000))
    types = message(13, b"") * 400_000
    for content in (inputs, numbers, types):
        with pytest.raises(BundleCorruptError, match="more than 300,000 fields"):
            check_graph(message(7, content), "x.onnx")
    lengths = message(5, message(1, b"\x01" * 400_000))
    with pytest.raises(BundleCorruptError, match="a tensor of more than 100 bytes of dims"):
        check_graph(message(7, lengths), "x.onnx")


# Models of every kind of field, of which some are refused.

names = st.text(max_size=3)
operators = st.sampled_from(
    ["Add", "Concat", "Gather", "Mul", "Softmax", "Split", "If", "Loop", "Resize", "", "add"]
)
small_arrays = st.sampled_from(
    [np.zeros(3, np.float32), np.array([1, 2]), np.array(True), np.zeros((0, 2)), np.array(5, np.uint64)]
)


@st.composite
def tensors(draw: st.DrawFn) -> TensorProto:
    array = draw(small_arrays)
    kind = draw(st.sampled_from(["raw"] * 6 + ["typed", "typed", "external"]))
    if kind == "raw":
        return numpy_helper.from_array(array, draw(names))
    if kind == "external":
        return external()
    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor(draw(names), dtype, array.shape, array.flatten().tolist())


attribute_values = st.one_of(
    st.floats(width=32, allow_nan=False),
    st.integers(-(2**63), 2**63 - 1),
    st.binary(max_size=3),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3),
    tensors(),
    st.builds(branch),
    st.lists(st.binary(min_size=1, max_size=2), min_size=1, max_size=2),
)


OPSETS = [helper.make_opsetid("", 17)]


@st.composite
def models(draw: st.DrawFn) -> ModelProto:
    nodes = []
    for number, operator in enumerate(draw(st.lists(operators, max_size=5))):
        attributes = draw(st.dictionaries(st.sampled_from("abc"), attribute_values, max_size=2))
        domain = draw(st.sampled_from([""] * 8 + ["ai.onnx", "com.microsoft"]))
        inputs = draw(st.lists(names, max_size=2))
        output = draw(st.sampled_from([f"y{number}"] * 8 + ["y", ""]))
        nodes.append(
            helper.make_node(operator, inputs, [output], name=draw(names), domain=domain, **attributes)
        )
    graph = helper.make_graph(
        nodes,
        draw(names),
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
        draw(st.lists(tensors(), max_size=3)),
        doc_string=draw(names),
    )
    return helper.make_model(
        graph,
        producer_name=draw(names),
        ir_version=draw(st.sampled_from([*range(8, 12)] * 8 + [3, 12])),
        opset_imports=draw(st.sampled_from([OPSETS, OPSETS, OPSETS, OPSETS[:0], OPSETS * 2])),
    )


def is_arithmetic(model: ModelProto) -> bool:
    """What the reader has to accept, by the onnx package."""
    every = list(model.graph.initializer)
    values = [tensor.name for tensor in every]
    values += [name for node in model.graph.node for name in node.output]
    values = [name for name in values if name]
    if len(set(values)) < len(values):
        return False
    if model.ir_version not in range(8, 12):
        return False
    opsets = [(each.domain, each.version) for each in model.opset_import]
    if opsets not in [[("", version)] for version in range(17, 24)]:
        return False
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs or attribute.strings:
                return False
            every += [attribute.t] if attribute.HasField("t") else []
    in_file = not any(tensor.external_data or tensor.HasField("data_location") for tensor in every)
    return in_file and all(node.op_type in OPERATORS and not node.domain for node in model.graph.node)


@settings(max_examples=300)
@given(models())
def test_the_reader_agrees_with_the_onnx_package(model: ModelProto) -> None:
    content = model.SerializeToString()
    if is_arithmetic(model):
        assert check_graph(content, "x.onnx") == [node.op_type for node in model.graph.node]
    else:
        with pytest.raises(BundleCorruptError, match=r"^x\.onnx cannot be loaded: "):
            check_graph(content, "x.onnx")


def views(content: bytes) -> Iterator[ModelProto]:
    """What the onnx package makes of a file: none, if it cannot read it."""
    try:
        yield onnx.load_from_string(content)
    except Exception:
        return


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from([RIGHT, SMALL, SMALL])))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        change = draw(st.sampled_from(["flip", "insert", "delete", "repeat", "cut"]))
        if change == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=4))
        elif change == "delete":
            del content[at : at + draw(st.integers(1, 8))]
        elif change == "repeat":
            content[at:at] = content[at : at + draw(st.integers(1, 60))]
        elif change == "cut":
            del content[at:]
    return bytes(content)


SMALL = helper.make_model(
    helper.make_graph(
        [
            helper.make_node("Add", ["x", "w"], ["z"], name="sum"),
            helper.make_node("Softmax", ["z"], ["y"], axis=-1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.ones(2, dtype=np.float32), "w")],
    ),
    ir_version=10,
    opset_imports=OPSETS,
).SerializeToString()


@settings(max_examples=2_000)
@given(mutated())
@example(RIGHT)
@example(SMALL)
def test_mutated_files_are_refused_or_read_as_the_onnx_package_reads_them(content: bytes) -> None:
    try:
        found = check_graph(content, "x.onnx")
    except BundleCorruptError:
        return
    for model in views(content):
        assert found == [node.op_type for node in model.graph.node]
        assert is_arithmetic(model)
        assert not model.functions
        assert not model.training_info
        assert not model.graph.sparse_initializer
        for node in model.graph.node:
            kinds = {attribute.type for attribute in node.attribute if attribute.HasField("t")}
            assert AttributeProto.GRAPH not in kinds
