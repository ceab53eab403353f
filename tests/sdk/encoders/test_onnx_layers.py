"""The layers whose uses onnxruntime does not check enough: only those that are exported are let through to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from hiersrec_sdk.encoders.onnx_file import OPERATORS, check_graph
from hiersrec_sdk.encoders.session_encoder import OnnxSessionEncoder
from hiersrec_sdk.errors import BundleCorruptError
from tests.sdk.bundles import DIMENSION, SIZES, make_shop

RIGHT = make_shop("int64", seed=1).files["model.onnx"]


def of_opset(*opsets: tuple[str, int]) -> Callable[[ModelProto], object]:
    def change(model: ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets)

    return change


def attention(
    inputs: Sequence[str] = ("q", "k", "v", "mask"),
    outputs: Sequence[str] = ("mixed",),
    axis: int = -1,
    num_outputs: int = 3,
    **attributes: Any,
) -> Callable[[ModelProto], object]:
    """Add attention as it is exported, but for what is given; an attribute of None is left out."""
    heads: dict[str, Any] = {"q_num_heads": 2, "kv_num_heads": 2, **attributes}

    def change(model: ModelProto) -> None:
        thirds, given = ["q", "k", "v"], {name: value for name, value in heads.items() if value is not None}
        model.graph.node.extend(
            [
                helper.make_node("Split", ["session_vectors"], thirds, axis=axis, num_outputs=num_outputs),
                helper.make_node("Attention", inputs, outputs, name="heads", **given),
            ]
        )

    return change


def newest(
    *nodes: NodeProto,
    states: str = "session_vectors",
    places: str = "found places",
    table: Any = ((0,), (0,), (1,)),
    attributes: Mapping[str, Any] | None = None,
    **initializers: Any,
) -> Callable[[ModelProto], object]:
    """Take the newest click's state from ``states``, which ``nodes`` make, at ``places`` from a ``table`` by length."""

    def change(model: ModelProto) -> None:
        for name, value in {"table": table, **initializers}.items():
            model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
        model.graph.node.extend(
            [helper.make_node("Gather", ["table", "session_lengths"], ["found places"]), *nodes]
        )
        found = {"batch_dims": 1} if attributes is None else attributes
        model.graph.node.append(
            helper.make_node("GatherND", [states, places], ["state"], name="pick", **found)
        )

    return change


def made(operator: str, *inputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, ["made"], **attributes)


HEADS = "Attention 'heads', must have q_num_heads and kv_num_heads, both the same from 1 to 65,536"
THIRDS = "Attention 'heads', must read the three outputs of one Split"
NEWEST = "GatherND 'pick', must have batch_dims 1, and take a click"

REFUSED: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "heads that are none": (attention(q_num_heads=0, kv_num_heads=0), HEADS),
    "heads for keys that are none": (attention(kv_num_heads=0), HEADS),
    "heads below none": (attention(q_num_heads=-1, kv_num_heads=-1), HEADS),
    "heads that 32 bits cut to none": (attention(q_num_heads=2**32, kv_num_heads=2**32), HEADS),
    "fewer heads for keys": (attention(kv_num_heads=1), HEADS),
    "heads of fractions": (attention(q_num_heads=2.0, kv_num_heads=2.0), HEADS),
    "no heads": (attention(q_num_heads=None, kv_num_heads=None), HEADS),
    "attention that looks on": (attention(is_causal=1), HEADS),
    "keys of another split": (attention(inputs=["q", "session_vectors", "v"]), THIRDS),
    "keys and values exchanged": (attention(inputs=["q", "v", "k"]), THIRDS),
    "no keys": (attention(inputs=["q"]), THIRDS),
    "keys from before": (attention(inputs=["q", "k", "v", "mask", "old keys", "old values"]), THIRDS),
    "keys of fewer clicks": (attention(axis=1), THIRDS),
    "a split in two": (attention(num_outputs=2), THIRDS),
    "keys for later": (attention(outputs=["mixed", "keys", "values"]), THIRDS),
    "no batch of places": (newest(attributes={}), NEWEST),
    "two axes of batches": (newest(attributes={"batch_dims": 2}), NEWEST),
    "places of another batch": (newest(places="table"), NEWEST),
    "places of several clicks": (newest(table=[[0, 0], [0, 1]]), NEWEST),
    "places without their axis": (newest(table=[0, 0, 1]), NEWEST),
    "places along another axis": (
        newest(helper.make_node("Gather", ["table", "session_lengths"], ["p"], axis=1), places="p"),
        NEWEST,
    ),
    "states of nothing": (newest(states="table"), NEWEST),
    "states of two batches": (
        newest(made("Concat", "session_vectors", "session_vectors", axis=0), states="made"),
        NEWEST,
    ),
    "states added to batches": (
        newest(made("Add", "session_vectors", "more"), states="made", more=np.zeros((3, 1, 1), np.float32)),
        NEWEST,
    ),
    "states times batches": (
        newest(
            made("MatMul", "session_vectors", "more"), states="made", more=np.zeros((3, 6, 6), np.float32)
        ),
        NEWEST,
    ),
    "states times a vector": (
        newest(made("MatMul", "session_vectors", "more"), states="made", more=np.zeros(6, np.float32)),
        NEWEST,
    ),
    "a part of the states": (
        newest(made("Slice", "session_vectors", "more", "more"), states="made", more=[0]),
        NEWEST,
    ),
    "a split of the batch": (
        newest(made("Split", "session_vectors", num_outputs=1, axis=0), states="made"),
        NEWEST,
    ),
    "statistics of the states": (
        newest(
            helper.make_node("LayerNormalization", ["session_vectors", "more"], ["y", "made"], axis=0),
            states="made",
            more=1.0,
        ),
        NEWEST,
    ),
    "no opset": (of_opset(), "it has no opset; it must have ONNX's own opset alone, from 17 to 23"),
    "an old opset": (of_opset(("", 16)), "it has opset 16 of ''; it must have"),
    "a new opset": (of_opset(("", 24)), "it has opset 24 of ''; it must have"),
    "an opset twice": (of_opset(("", 17), ("", 20)), "it has opset 17 of '', opset 20 of ''; it must have"),
    "another opset": (of_opset(("com.microsoft", 17)), "it has opset 17 of 'com.microsoft'; it must have"),
    "an old format": (
        lambda model: setattr(model, "ir_version", 3),
        "it is of the IR version 3; it must be from 8 to 11",
    ),
    "no format": (lambda model: model.ClearField("ir_version"), "it is of the IR version None; it must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_uses_that_are_not_exported(case: str) -> None:
    change, message = REFUSED[case]
    model = onnx.load_from_string(RIGHT)
    change(model)
    with pytest.raises(BundleCorruptError, match=rf"^model\.onnx cannot be loaded: .*{message}"):
        OnnxSessionEncoder(model.SerializeToString(), dimension=DIMENSION, categories=SIZES)


LAYERS: dict[str, Callable[[ModelProto], object]] = {
    "attention": attention(),
    "attention without a mask": attention(inputs=["q", "k", "v"]),
    "the newest": newest(),
    "the newest of layers": newest(
        helper.make_node("MatMul", ["session_vectors", "weight"], ["wide"]),
        helper.make_node("Add", ["wide", "bias"], ["biased"]),
        helper.make_node("Split", ["biased"], ["q", "k", "v"], axis=-1, num_outputs=3),
        helper.make_node("Attention", ["q", "k", "v"], ["mixed"], q_num_heads=2, kv_num_heads=2),
        helper.make_node("Gelu", ["mixed"], ["bent"]),
        helper.make_node("Add", ["session_vectors", "bent"], ["sum"]),
        made("LayerNormalization", "sum", "bias", axis=-1),
        states="made",
        weight=np.zeros((6, 18), np.float32),
        bias=np.zeros(18, np.float32),
    ),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers_that_fit(case: str) -> None:
    model = onnx.load_from_string(RIGHT)
    LAYERS[case](model)
    assert check_graph(model.SerializeToString(), "model.onnx")[-1] in ("Attention", "GatherND")


def test_the_documentation_lists_the_operators() -> None:
    page = Path(__file__).parents[3] / "docs/bundle_format.md"
    if not page.parent.is_dir():
        pytest.skip("needs the documentation, which is in the checkout")
    rows = [line for line in page.read_text("utf-8").splitlines() if line.startswith("  | ")]
    assert {operator for row in rows for operator in re.findall("`([A-Za-z0-9]+)`", row)} == OPERATORS


def test_exported_graphs_are_read(tiny_bundle: Path) -> None:
    for name in ("model.onnx", "item_encoder.onnx", "query_parts.onnx"):
        content = (tiny_bundle / name).read_bytes()
        right = [node.op_type for node in onnx.load_from_string(content).graph.node]
        assert check_graph(content, name) == right
        assert len(right) > 10
