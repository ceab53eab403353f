"""Graphs whose outputs are not what they must be: refused before anybody reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.encoders.onnx import BoundGraph, Graph, Values
from hiersrec_sdk.encoders.session_encoder import Encoded, OnnxSessionEncoder, Vectors
from hiersrec_sdk.errors import BundleCorruptError, CatalogChangeError
from tests.sdk.bundles import DIMENSION, SIZES, forge, make_shop
from tests.sdk.encoders.forged import Constants, files, model_of, node, with_output

SHOP = make_shop("int64", seed=1)
RIGHT = SHOP.files["model.onnx"]
INPUTS: Values = {
    "session_vectors": (np.float32, ("batch", "length", DIMENSION)),
    "session_lengths": (np.int64, ("batch",)),
}

# Names of outputs, the nodes that give them wrong, and how messages show what they are for a session of 3 items.
OF_ANOTHER_SHAPE: dict[str, tuple[str, Sequence[NodeProto], Constants, str, str]] = {
    "logits that are millions": (
        "category_logits",
        [node("Expand", ["zero_float", "many"], ["category_logits"])],
        {"zero_float": np.float32(0), "many": np.array([1, 5_000_000])},
        r"float32 \[1, 5000000\]",
        r"float32 \[1, 9\]",
    ),
    "logits that are fewer": (
        "category_logits_0",
        [node("Slice", ["right", "from", "to", "axis"], ["category_logits_0"])],
        {"from": np.array([0]), "to": np.array([1])},
        r"float32 \[1, 1\]",
        r"float32 \[1, 2\]",
    ),
    "a query that is narrow": (
        "item_query",
        [node("Slice", ["right", "from", "to", "axis"], ["item_query"])],
        {"from": np.array([0]), "to": np.array([2])},
        r"float32 \[1, 2\]",
        r"float32 \[1, 6\]",
    ),
    "an empty query": (
        "item_query",
        [node("Slice", ["right", "from", "from", "axis"], ["item_query"])],
        {"from": np.array([0])},
        r"float32 \[1, 0\]",
        r"float32 \[1, 6\]",
    ),
    "a query for nobody": (
        "item_query",
        [node("Slice", ["right", "from", "from", "first"], ["item_query"])],
        {"from": np.array([0]), "first": np.array([0])},
        r"float32 \[0, 6\]",
        r"float32 \[1, 6\]",
    ),
    "two queries": (
        "item_query",
        [node("Concat", ["right", "right"], ["item_query"], axis=0)],
        {},
        r"float32 \[2, 6\]",
        r"float32 \[1, 6\]",
    ),
    "short repeats": (
        "repeat_logits",
        [node("Slice", ["right", "from", "to", "axis"], ["repeat_logits"])],
        {"from": np.array([1]), "to": np.array([1000])},
        r"float32 \[1, 2\]",
        r"float32 \[1, 3\]",
    ),
}

NOT_FINITE = [
    (output, wrong)
    for output in ("category_logits", "category_logits_0", "item_query", "repeat_logits")
    for wrong in (np.nan, np.inf, -np.inf)
]


def rows(*given: int) -> NDArray[np.int64]:
    return np.array(given, dtype=np.int64)


class Table:
    """The shop's vectors, as the encoder reads them."""

    def __init__(self, vectors: NDArray[np.float32] = SHOP.vectors) -> None:
        self._vectors = vectors

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._vectors[rows]

    def vectors_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        out[:] = self._vectors[rows]


def encoder_of(model: bytes) -> OnnxSessionEncoder:
    return OnnxSessionEncoder(model, dimension=DIMENSION, categories=SIZES)


def encode_one(encoder: OnnxSessionEncoder, table: Vectors, rows: NDArray[np.int64]) -> Encoded:
    """What a call gets, whose memory the next one has."""
    found = encoder.encode_one(table, rows)
    encoder.reuse(found.buffers)
    return found


@pytest.mark.parametrize("case", OF_ANOTHER_SHAPE)
def test_an_output_of_another_shape(case: str, tmp_path: Path) -> None:
    output, nodes, constants, is_, must_be = OF_ANOTHER_SHAPE[case]
    model = with_output(RIGHT, output, nodes, constants)
    message = rf"^model\.onnx: output '{output}' is {is_}; it must be {must_be}$"
    encoder = encoder_of(model)
    for _ in range(3):
        with pytest.raises(BundleCorruptError, match=message):
            encode_one(encoder, Table(), rows(1, 2, 3))
        with pytest.raises(BundleCorruptError, match=message):
            encoder.encode(SHOP.vectors[:3][None], np.array([3]))
        with pytest.raises(BundleCorruptError, match=rf"^model\.onnx: output '{output}' is "):
            encoder.encode(np.stack([SHOP.vectors[:3], SHOP.vectors[3:6]]), np.array([3, 1]))
    path = forge(tmp_path / "bundle", SHOP.config, SHOP.tensors, files(SHOP, model))
    with pytest.raises(BundleCorruptError, match=rf"^model\.onnx: output '{output}' is "):
        Recommender.load(path)
    recommender = Recommender.load(path, verify=False)
    for _ in range(2):
        with pytest.raises(BundleCorruptError, match=rf"^model\.onnx: output '{output}' is "):
            recommender.recommend(SHOP.ids[:3])
        with pytest.raises(BundleCorruptError, match=rf"^model\.onnx: output '{output}' is "):
            recommender.recommend_many([SHOP.ids[:3], SHOP.ids[4:6]])


@pytest.mark.parametrize(("output", "wrong"), NOT_FINITE)
def test_an_output_that_is_not_finite(output: str, wrong: float, tmp_path: Path) -> None:
    model = with_output(
        RIGHT, output, [node("Add", ["right", "wrong"], [output])], {"wrong": np.float32(wrong)}
    )
    path = forge(tmp_path / "bundle", SHOP.config, SHOP.tensors, files(SHOP, model))
    message = rf"^model\.onnx: output '{output}' is not finite"
    with pytest.raises(BundleCorruptError, match=message):
        Recommender.load(path)
    recommender = Recommender.load(path, verify=False)
    for _ in range(3):
        with np.errstate(all="raise"), pytest.raises(BundleCorruptError, match=message):
            recommender.recommend(SHOP.ids[:3])


def test_a_shape_that_the_file_tells() -> None:
    model = with_output(
        RIGHT,
        "repeat_logits",
        [node("Identity", ["fixed"], ["repeat_logits"])],
        {"fixed": np.zeros((1, 2), dtype=np.float32)},
    )
    with pytest.raises(
        BundleCorruptError,
        match=r"output 'repeat_logits' is tensor\(float\) \[1, 2\]; it must be tensor\(float\) \['batch', 'length'\]",
    ):
        encoder_of(model)


def depending_on_the_vectors(nodes: Sequence[NodeProto], constants: Constants) -> bytes:
    """A graph whose query is made by ``nodes`` from "number": int64 [1], 8 times the sum of the session's first vector
    component, where that is a session of one item."""
    every = [
        node("Slice", ["right", "from", "one_more", "axis"], ["component"]),
        node("Cast", ["component"], ["as_integer"], to=TensorProto.INT64),
        node("Reshape", ["as_integer", "one_more"], ["number"]),
        *nodes,
    ]
    return with_output(
        RIGHT, "item_query", every, {"from": np.array([0]), "one_more": np.array([1]), **constants}
    )


def one_item(first: float) -> Table:
    vectors = np.zeros((2, DIMENSION), dtype=np.float32)
    vectors[1, 0] = first / 8
    return Table(vectors)


@pytest.mark.parametrize("number", [0, 1, 3, 5, 7, 1000, 10**7])
def test_a_shape_that_depends_on_the_values(number: int) -> None:
    """Right in the first calls, when buffers are bound, and wrong in a later one."""
    model = depending_on_the_vectors(
        [
            node("Concat", ["one_more", "number"], ["made shape"], axis=0),
            node("ConstantOfShape", ["made shape"], ["item_query"]),
        ],
        {},
    )
    encoder = encoder_of(model)
    for _ in range(3):
        assert encode_one(encoder, one_item(DIMENSION), rows(1)).item_query.tolist() == [[0] * DIMENSION]
    for _ in range(3):
        with pytest.raises(
            BundleCorruptError,
            match=rf"^model\.onnx: output 'item_query' is float32 \[1, {number}\]; it must be float32 \[1, 6\]",
        ):
            encode_one(encoder, one_item(number), rows(1))
        assert encode_one(encoder, one_item(DIMENSION), rows(1)).item_query.tolist() == [[0] * DIMENSION]


def test_values_that_depend_on_the_values() -> None:
    model = depending_on_the_vectors(
        [
            node("Cast", ["number"], ["as_float"], to=TensorProto.FLOAT),
            node("Div", ["number 1", "as_float"], ["quotient"]),
            node("Add", ["right", "quotient"], ["item_query"]),
        ],
        {"number 1": np.float32(1)},
    )
    encoder = encoder_of(model)
    for _ in range(3):
        assert encode_one(encoder, one_item(1), rows(1)).item_query[0, 0] == 2
        with pytest.raises(BundleCorruptError, match=r"output 'item_query' is not finite"):
            encode_one(encoder, one_item(0), rows(1))


def test_finite_values_whose_squares_are_not() -> None:
    model = with_output(
        RIGHT, "item_query", [node("Mul", ["right", "much"], ["item_query"])], {"much": np.float32(1e30)}
    )
    encoder = encoder_of(model)
    with np.errstate(all="raise"):
        for _ in range(3):
            assert np.isfinite(encode_one(encoder, Table(), rows(1, 2)).item_query).all()


def test_memory_that_nobody_has() -> None:
    model = depending_on_the_vectors(
        [
            node("Concat", ["number", "number", "number", "number"], ["made shape"], axis=0),
            node("ConstantOfShape", ["made shape"], ["huge"]),
            node("ReduceSum", ["huge"], ["sum"], keepdims=0),
            node("Add", ["right", "sum"], ["item_query"]),
        ],
        {},
    )
    encoder = encoder_of(model)
    for _ in range(3):
        assert encode_one(encoder, one_item(1), rows(1)).item_query[0, 0] == 1
    for number in (40_000, 2**31, 2**40, -1):
        with pytest.raises(BundleCorruptError, match=r"^model\.onnx failed to run: "):
            encode_one(encoder, one_item(number), rows(1))


def test_more_outputs_than_blas_sums_on_one_thread() -> None:
    """Outputs are checked in several pieces; a value that is not finite shows in any of them."""
    width = 30_000
    model = with_output(
        RIGHT,
        "item_query",
        [node("Expand", ["zero_float", "made shape"], ["item_query"])],
        {"zero_float": np.float32(np.nan), "made shape": np.array([1, width])},
    )
    graph = Graph(model, "model.onnx", inputs=INPUTS, outputs={"item_query": (np.float32, ("batch", width))})
    feeds = {"session_vectors": np.zeros((1, 2, DIMENSION), np.float32), "session_lengths": np.array([2])}
    bound = BoundGraph(graph, feeds)
    with pytest.raises(BundleCorruptError, match="not finite"):
        bound.run()


@given(
    values=st.lists(st.floats(width=32), min_size=1, max_size=60),
    at=st.integers(0, 20_000),
)
def test_any_value_that_is_not_finite_is_seen(values: list[float], at: int) -> None:
    width = 20_000
    model = with_output(
        RIGHT,
        "item_query",
        [node("Expand", ["zero_float", "made shape"], ["item_query"])],
        {"zero_float": np.float32(0), "made shape": np.array([1, width])},
    )
    outputs: Values = {
        "item_query": (np.float32, ("batch", width)),
        "category_logits_0": (np.float32, ("batch", SIZES[0])),
    }
    graph = Graph(model, "model.onnx", inputs=INPUTS, outputs=outputs)
    feeds = {"session_vectors": np.zeros((1, 2, DIMENSION), np.float32), "session_lengths": np.array([2])}
    bound = BoundGraph(graph, feeds)
    some = np.array(values, dtype=np.float32)

    def write(binding: object) -> None:
        bound.outputs["item_query"][:] = 0
        bound.outputs["category_logits_0"][:] = some[-1]
        bound.outputs["item_query"][0, at : at + len(some)] = some[: max(0, width - at)]

    bound._run = write
    written = np.append(some[: max(0, width - at)], some[-1])
    if np.isfinite(written).all():
        with np.errstate(all="raise"):
            bound.run()
    else:
        with pytest.raises(BundleCorruptError, match="not finite"):
            bound.run()


def test_what_a_run_does_not_write_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """No operator is known that leaves an output unwritten; if one does, what the last call wrote is no answer."""
    encoder = encoder_of(RIGHT)
    for _ in range(2):
        encode_one(encoder, Table(), rows(1))
    bound = encoder._graph.local.buffers[1].graph
    for output in bound.outputs.values():
        assert np.isfinite(output).all()
    monkeypatch.setattr(bound, "_run", lambda binding: None)
    with pytest.raises(BundleCorruptError, match="not finite"):
        encode_one(encoder, Table(), rows(1))


def test_an_output_that_is_no_tensor() -> None:
    forged = onnx.load_from_string(
        with_output(RIGHT, "item_query", [node("Identity", ["right"], ["item_query"])])
    )
    sequence = helper.make_tensor_sequence_value_info("item_query", TensorProto.FLOAT, None)
    forged.graph.output[-1].CopyFrom(sequence)
    with pytest.raises(BundleCorruptError, match=r"^model\.onnx"):
        encoder_of(forged.SerializeToString())


def query_parts(shape: Sequence[int], value: float) -> bytes:
    """A graph that gives the same for every part."""
    names = ["session_weights", "state_query", "category_query"]
    nodes = [node("Expand", ["value", "made shape"], [name]) for name in names]
    return model_of(
        nodes,
        {"value": np.float32(value), "made shape": np.array(shape)},
        inputs={
            "session_vectors": (TensorProto.FLOAT, ["batch", "length", DIMENSION]),
            "session_lengths": (TensorProto.INT64, ["batch"]),
        },
        outputs={name: (TensorProto.FLOAT, ["a", "b"]) for name in names},
    )


@pytest.mark.parametrize(
    ("shape", "value", "message"),
    [
        ([1, 5], 0, r"output 'session_weights' is float32 \[1, 5\]; it must be float32 \[1, 3\]"),
        ([1, 3], 0, r"output 'state_query' is float32 \[1, 3\]; it must be float32 \[1, 6\]"),
        ([1, 0], 0, r"output 'session_weights' is float32 \[1, 0\]"),
    ],
)
def test_query_parts(shape: Sequence[int], value: float, message: str, tmp_path: Path) -> None:
    parts = {"query_parts.onnx": query_parts(shape, value)}
    recommender = Recommender.load(forge(tmp_path / "b", SHOP.config, SHOP.tensors, SHOP.files | parts))
    with pytest.raises(BundleCorruptError, match=rf"^query_parts\.onnx: {message}"):
        recommender.explain(SHOP.ids[:3], SHOP.ids[5])


def test_query_parts_that_are_not_finite(tmp_path: Path) -> None:
    parts = {"query_parts.onnx": query_parts([1, DIMENSION], np.nan)}
    recommender = Recommender.load(forge(tmp_path / "b", SHOP.config, SHOP.tensors, SHOP.files | parts))
    with pytest.raises(
        BundleCorruptError, match=r"^query_parts\.onnx: output 'session_weights' is not finite"
    ):
        recommender.explain(SHOP.ids[:DIMENSION], SHOP.ids[5])


def item_encoder(nodes: Sequence[NodeProto], constants: Constants) -> bytes:
    return model_of(
        nodes,
        constants,
        inputs={"category_path": (TensorProto.INT64, ["items", len(SIZES)])},
        outputs={"item_vectors": (TensorProto.FLOAT, ["a", "b"])},
    )


# An item's vector: the index of its leaf category, in every dimension.
LEAF = [
    node("Slice", ["category_path", "from", "to", "axis"], ["leaf"]),
    node("Cast", ["leaf"], ["number"], to=TensorProto.FLOAT),
]
ENDS = {"from": np.array([2]), "to": np.array([3]), "axis": np.array([1])}


def with_item_encoder(path: Path, nodes: Sequence[NodeProto], constants: Constants) -> Recommender:
    encoder = {"item_encoder.onnx": item_encoder([*LEAF, *nodes], {**ENDS, **constants})}
    return Recommender.load(forge(path, SHOP.config, SHOP.tensors, SHOP.files | encoder))


def items(recommender: Recommender, *leaves: int) -> list[Item]:
    names = [recommender.catalog.current.category(2, leaf).path for leaf in leaves]
    return [Item(70_000 + at, name) for at, name in enumerate(names)]


def test_an_item_encoder_that_is_right(tmp_path: Path) -> None:
    recommender = with_item_encoder(
        tmp_path / "b", [node("MatMul", ["number", "ones"], ["item_vectors"])], {"ones": np.ones((1, 6), "f")}
    )
    recommender.catalog.upsert(items(recommender, 4, 7))
    found = recommender.catalog.current.vectors(recommender.catalog.current.rows([70_000, 70_001]))
    assert found.tolist() == [[4] * 6, [7] * 6]


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        (
            [node("Expand", ["number", "made shape"], ["item_vectors"])],
            {"made shape": np.array([2, 5])},
            r"output 'item_vectors' is float32 \[2, 5\]; it must be float32 \[2, 6\]",
        ),
        (
            [node("Expand", ["number", "made shape"], ["item_vectors"])],
            {"made shape": np.array([2, 6_000_000])},
            r"output 'item_vectors' is float32 \[2, 6000000\]",
        ),
        (
            [node("Transpose", ["number"], ["item_vectors"])],
            {},
            r"output 'item_vectors' is float32 \[1, 2\]",
        ),
    ],
)
def test_an_item_encoder_of_another_shape(
    nodes: Sequence[NodeProto], constants: Constants, message: str, tmp_path: Path
) -> None:
    recommender = with_item_encoder(tmp_path / "b", nodes, constants)
    before = recommender.catalog.current
    with pytest.raises(BundleCorruptError, match=rf"^item_encoder\.onnx: {message}"):
        recommender.catalog.upsert(items(recommender, 4, 7))
    assert recommender.catalog.current is before


def test_an_item_encoder_that_gives_no_numbers(tmp_path: Path) -> None:
    """The vector of the item in leaf category 5 is not finite; the other one's is."""
    constants = {"ones": np.ones((1, 6), np.float32), "one": np.float32(1), "minus five": np.float32(-5)}
    nodes = [
        node("Add", ["number", "minus five"], ["difference"]),
        node("Div", ["one", "difference"], ["inverse"]),
        node("MatMul", ["inverse", "ones"], ["item_vectors"]),
    ]
    recommender = with_item_encoder(tmp_path / "b", nodes, constants)
    before, given = recommender.catalog.current, items(recommender, 4, 5)
    with pytest.raises(
        CatalogChangeError, match=r"^item 70001: item_encoder\.onnx gives it a vector that is not"
    ):
        recommender.catalog.upsert(given)
    assert recommender.catalog.current is before
    assert recommender.catalog.upsert(given[:1]) == 1
    recommender.save(tmp_path / "saved")
    Recommender.load(tmp_path / "saved").recommend([70_000])


def test_an_item_encoder_with_other_inputs(tmp_path: Path) -> None:
    for name, dtype, shape, message in (
        ("weights", TensorProto.FLOAT, ["items"], "input 'weights' must not be there"),
        ("tokens", TensorProto.INT64, ["items", "words"], "input 'tokens' must not be there"),
    ):
        model = model_of(
            [node("Expand", ["zero", "made shape"], ["item_vectors"])],
            {"zero": np.float32(0), "made shape": np.array([1, 6])},
            inputs={"category_path": (TensorProto.INT64, ["items", 3]), name: (dtype, shape)},
            outputs={"item_vectors": (TensorProto.FLOAT, ["a", "b"])},
        )
        encoder = {"item_encoder.onnx": model}
        path = forge(tmp_path / name, SHOP.config, SHOP.tensors, SHOP.files | encoder)
        recommender = Recommender.load(path)
        with pytest.raises(BundleCorruptError, match=rf"^item_encoder\.onnx: {message}"):
            recommender.catalog.upsert(items(recommender, 4))


def copies(source: str, target: str) -> dict[str, list[NodeProto]]:
    """Ways to give the array [batch, 6] ``source`` under another name, which onnxruntime may take for one array."""
    return {
        "Identity": [node("Identity", [source], [target])],
        "Reshape": [node("Reshape", [source, "any by 6"], [target])],
        "Squeeze": [
            node("Unsqueeze", [source, "2"], [f"{target} 3"]),
            node("Squeeze", [f"{target} 3", "2"], [target]),
        ],
        "Add": [node("Add", [source, "no number"], [target])],
        "Concat": [node("Concat", [source], [target], axis=1)],
        "Slice": [node("Slice", [source, "0", "much", "axis"], [target])],
        "Split": [node("Split", [source, "6"], [target], axis=1)],
        "Transpose": [node("Transpose", [source], [target], perm=[0, 1])],
        "Expand": [node("Expand", [source, "1 by 1"], [target])],
        "Max": [node("Max", [source], [target])],
    }


@pytest.mark.parametrize("in_a_row", [True, False])
@pytest.mark.parametrize("second", copies("", ""))
@pytest.mark.parametrize("first", copies("", ""))
def test_bound_outputs_are_those_of_a_plain_run(first: str, second: str, in_a_row: bool) -> None:
    names = ("item_query", "state_query")
    nodes = [
        node("ReduceSum", ["session_vectors", "axis"], ["total"], keepdims=0),
        *copies("total", names[0])[first],
        *copies(names[0] if in_a_row else "total", names[1])[second],
    ]
    integers = {
        "axis": [1],
        "any by 6": [-1, 6],
        "2": [2],
        "0": [0],
        "much": [100],
        "6": [6],
        "1 by 1": [1, 1],
    }
    constants = {name: np.array(value) for name, value in integers.items()}
    model = model_of(
        nodes,
        {**constants, "no number": np.float32(0)},
        inputs={"session_vectors": (TensorProto.FLOAT, ["batch", "length", DIMENSION])},
        outputs={name: (TensorProto.FLOAT, ["batch", DIMENSION]) for name in names},
        hidden=False,
    )
    inputs: Values = {"session_vectors": INPUTS["session_vectors"]}
    graph = Graph(
        model, "x.onnx", inputs=inputs, outputs=dict.fromkeys(names, (np.float32, ("batch", DIMENSION)))
    )
    vectors = np.zeros((1, 3, DIMENSION), dtype=np.float32)
    bound = BoundGraph(graph, {"session_vectors": vectors})
    for start in range(3):
        vectors[0] = SHOP.vectors[start : start + 3]
        bound.run()
        right = graph.run({"session_vectors": vectors.copy()})
        assert {name: array.tolist() for name, array in bound.outputs.items()} == {
            name: array.tolist() for name, array in right.items()
        }
