"""The model as ONNX graphs, none of which holds the catalogue."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from hiersrec_export import IR_VERSION, OPSET
from hiersrec_export.rotation import RotatedItems, RotatedParts, RotatedSession
from hiersrec_training.model import HierSRec, ItemGraph, QueryParts, ServingGraph


def session_graph(model: HierSRec, axes: NDArray[np.float32] | None = None) -> bytes:
    """``model.onnx``: session vectors and lengths in, category logits, repeat logits and item query out.

    ``axes`` float32 [d, d]: the session vectors stand in them, and the query is given in them. None: as trained.
    """
    serving = ServingGraph(model).eval()
    return _of_sessions(model, serving if axes is None else RotatedSession(serving, axes).eval())


def parts_graph(model: HierSRec, axes: NDArray[np.float32] | None = None) -> bytes:
    """``query_parts.onnx``: session vectors and lengths in, what the item query is the sum of out, in ``axes``."""
    parts = QueryParts(model).eval()
    return _of_sessions(model, parts if axes is None else RotatedParts(parts, axes).eval())


def _of_sessions(model: HierSRec, graph: ServingGraph | RotatedSession | QueryParts | RotatedParts) -> bytes:
    batch = Dim("batch")
    length = Dim("length", max=model.config.max_length)
    return _export(
        graph,
        (torch.zeros(3, min(7, model.config.max_length), model.config.dimension), torch.tensor([1, 1, 1])),
        {"session_vectors": {0: batch, 1: length}, "session_lengths": {0: batch}},
        graph.output_names,
    )


def item_graph(model: HierSRec, axes: NDArray[np.float32] | None = None) -> bytes:
    """``item_encoder.onnx``: category path and metadata of items in, their vectors out, in ``axes`` as above."""
    bare = ItemGraph(model.items).eval()
    graph = bare if axes is None else RotatedItems(bare, axes).eval()
    shape = model.shape
    widths = {"category_path": len(shape.categories), "tokens": 5, "number_bins": len(shape.numbers)}
    given = {name: torch.zeros(3, width, dtype=torch.int64) for name, width in widths.items()}
    given["vectors"] = torch.zeros(3, shape.vectors)
    items = Dim("items")
    shapes = {name: {0: items} for name in graph.input_names}
    if "tokens" in shapes:
        shapes["tokens"] = {0: items, 1: Dim("words")}
    inputs = tuple(given[name] for name in graph.input_names)
    return _export(graph, inputs, shapes, ["item_vectors"])


def _export(
    graph: nn.Module, inputs: tuple[Tensor, ...], shapes: dict[str, dict[int, Dim]], output_names: list[str]
) -> bytes:
    """ONNX bytes of ``graph``; the inputs bear the names and the dynamic axes of ``shapes``, in their order."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of packages that are not installed
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                graph,
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(shapes),
                output_names=output_names,
                dynamic_shapes=_as_arguments(list(shapes.values()), graph),
                verbose=False,
            )
    finally:
        log.setLevel(level)
    assert program is not None
    proto = program.model_proto
    proto.ir_version = IR_VERSION
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def _as_arguments(shapes: list[dict[int, Dim]], graph: nn.Module) -> tuple[object, ...]:
    """In the form of the signature of ``forward``: a starred argument takes a tuple."""
    if isinstance(graph, ItemGraph | RotatedItems) and len(shapes) > 1:
        return (shapes[0], tuple(shapes[1:]))
    return tuple(shapes)


def _strip(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they name files of the machine that exported."""
    proto.doc_string = ""
    del proto.metadata_props[:]
    for part in (proto.graph, *proto.functions):
        if isinstance(part, onnx.GraphProto):
            part.doc_string = ""
            for value in (*part.input, *part.output, *part.initializer):
                value.doc_string = ""
                del value.metadata_props[:]
        del part.metadata_props[:]
        for value in part.value_info:
            del value.metadata_props[:]
        for node in part.node:
            node.doc_string = ""
            del node.metadata_props[:]
