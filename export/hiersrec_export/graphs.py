"""The model as ONNX graphs, none of which holds the catalog.

The bundle's vectors are rotated to the principal axes of the item table, and no score changes: a score is a dot
product, and ``(q R) · (v R) = q · v`` for an orthogonal R. Rotated, the first dimensions hold most of every score, so
that ranking can drop rows after reading a part of them. The graphs read and give rotated vectors.

The graphs are written here node by node, not traced. For one session a node costs half a microsecond whatever it does,
and what a tracer writes computes positions, masks and shapes anew in every call: these are tables here, and what can be
folded into weights is. The parity check compares every graph with the model before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from hiersrec_export import IR_VERSION, OPSET
from hiersrec_export.nodes import Nodes
from hiersrec_training.model import Block, HierSRec

Weights = NDArray[np.float64]  # folded in float64, rounded once
Shape = list[str | int]

_NEVER = -1e9  # a logit of what must have no weight
_CHUNK = 65_536  # rows at a time: the work is done in float64, whose copy of a whole table would be large


def principal_axes(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Orthogonal float32 [d, d] whose columns are the principal axes of ``vectors`` float32 [n, d].

    They are the eigenvectors of the second moment ``V^T V``, by falling eigenvalue. It is not centred, because dot
    products are not. A table of fewer than d rows leaves some axes open: they complete the basis. The largest component
    of every axis is positive, the first of those that tie, so that equal tables have equal axes.
    """
    d = vectors.shape[1]
    moment = np.zeros((d, d))
    for start in range(0, len(vectors), _CHUNK):
        chunk = vectors[start : start + _CHUNK].astype(np.float64)
        moment += chunk.T @ chunk
    _, found = np.linalg.eigh(moment)  # by rising eigenvalue; orthonormal whatever the rank
    axes: NDArray[np.float64] = found[:, ::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(d)]
    return np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0), dtype=np.float32)


def rotate(vectors: NDArray[np.float32], axes: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """``vectors`` float32 [n, d] in the ``axes`` [d, d], each value rounded once; as they are where axes is None."""
    if axes is None:
        return vectors
    rotated = np.empty_like(vectors)
    exact = axes.astype(np.float64)
    for start in range(0, len(vectors), _CHUNK):
        rotated[start : start + _CHUNK] = vectors[start : start + _CHUNK] @ exact
    return rotated


def session_graph(model: HierSRec, axes: NDArray[np.float32] | None = None) -> bytes:
    """Bytes of ``model.onnx``: the session encoder for the newest click, with scale and temperature folded in.

    In: ``session_vectors`` float32 [batch, length, d], ``session_lengths`` int64 [batch]. Out, all float32:
    ``category_logits`` [batch, leaves] and ``category_logits_<level>`` of the levels above, ``repeat_logits``
    [batch, length], ``item_query`` [batch, d]. Vectors are in ``axes`` float32 [d, d]; None: those of the model.
    """
    op, session, sizes = Nodes(), model.session, model.shape.categories
    rotation, scale = _axes(model, axes), _weights(model.covisitation.scale)
    names = [*(f"category_logits_{level}" for level in range(len(sizes) - 1)), "category_logits"]
    read = _read(op, model, rotation)
    known = _conditioned(op, model, read.state, names)
    sums = op.Squeeze(op.MatMul(op.Transpose(read.weights, perm=[0, 2, 1]), "session_vectors"), [1])
    added = op.Mul(_gate(op, model, known), _linear(op, known, session.item_head))
    # of length 1, times scale over temperature; the root of a mean takes another factor
    d = model.config.dimension
    factor = _float(np.broadcast_to(scale / session.temperature / d**0.5, d))
    query = op.Gemm(added, _float(rotation), sums)
    op.RMSNormalization(query, factor, axis=-1, epsilon=1e-24 / d, name="item_query")
    # a column of zeros for places behind the session
    weight, bias = _weights(session.repeat_head.weight) * scale, _weights(session.repeat_head.bias) * scale
    repeats = op.Gemm(read.state, _float(np.pad(weight.T, ((0, 0), (0, 1)))), _float(np.append(bias, 0)))
    op.GatherElements(repeats, read.places, axis=1, name="repeat_logits")
    outputs: dict[str, Shape] = {names[-1]: ["batch", sizes[-1]]}
    outputs |= {name: ["batch", size] for name, size in zip(names[:-1], sizes[:-1], strict=True)}
    outputs |= {"repeat_logits": ["batch", "length"], "item_query": ["batch", d]}
    return _of_sessions(op, model, outputs)


def query_parts_graph(model: HierSRec, axes: NDArray[np.float32] | None = None) -> bytes:
    """Bytes of ``query_parts.onnx``: the summands of the query of :func:`session_graph`, for explanations.

    Out, float32: ``session_weights`` [batch, length], 0 at padding, what the vectors of the session's items are
    multiplied with; ``state_query`` and ``category_query`` [batch, d], what the state and the category predictions add.
    """
    op, session, d = Nodes(), model.session, model.config.dimension
    rotation = _axes(model, axes)
    read = _read(op, model, rotation)
    known = _conditioned(op, model, read.state)
    gate, head = _gate(op, model, known), session.item_head
    weight = _weights(head.weight).T
    from_state = op.MatMul(
        op.Mul(gate, op.Gemm(read.state, _float(weight[:d]), _float(_weights(head.bias)))), _float(rotation)
    )
    from_categories = op.Mul(from_state, 0.0)
    if len(weight) > d:
        predicted = op.Slice(known, [d], [len(weight)], [1])
        from_categories = op.MatMul(op.Mul(gate, op.MatMul(predicted, _float(weight[d:]))), _float(rotation))
    sums = op.Squeeze(op.MatMul(op.Transpose(read.weights, perm=[0, 2, 1]), "session_vectors"), [1])
    query = op.Add(op.Add(sums, from_state), from_categories)
    length = op.Max(op.ReduceL2(query, [1], keepdims=1), 1e-12)
    scale = op.Div(_float(_weights(model.covisitation.scale) / session.temperature), length)  # [batch, 1]
    op.Mul(op.Squeeze(read.weights, [2]), scale, name="session_weights")
    op.Mul(from_state, scale, name="state_query")
    op.Mul(from_categories, scale, name="category_query")
    return _of_sessions(
        op,
        model,
        {"session_weights": ["batch", "length"], "state_query": ["batch", d], "category_query": ["batch", d]},
    )


def item_graph(model: HierSRec, axes: NDArray[np.float32] | None = None) -> bytes:
    """Bytes of ``item_encoder.onnx``: the unit vector of an item that training never saw, from metadata alone.

    In, int64: ``category_path`` [items, L]; ``tokens`` [items, words] where the model reads text; ``number_bins``
    [items, N] where it reads numbers; and float32 ``vectors`` [items, m] where it reads given vectors. Out:
    ``item_vectors`` float32 [items, d], in ``axes`` float32 [d, d]; None: those of the model.
    """
    op, items, shape = Nodes(), model.items, model.shape
    d, levels = model.config.dimension, len(shape.categories)
    inputs: dict[str, tuple[int, Shape]] = {"category_path": (TensorProto.INT64, ["items", levels])}
    terms = _looked_up(op, "category_path", items.category)
    if items.token is not None:
        inputs["tokens"] = TensorProto.INT64, ["items", "words"]
        table = _weights(items.token.weight)
        table[0] = 0  # of padding
        words = op.ReduceSum(op.Gather(_float(table), "tokens"), [1], keepdims=0)
        are_words = op.Cast(op.Greater("tokens", 0), to=TensorProto.FLOAT)
        terms.append(op.Div(words, op.Max(op.ReduceSum(are_words, [1], keepdims=1), 1.0)))
    if len(items.number):
        inputs["number_bins"] = TensorProto.INT64, ["items", len(items.number)]
        terms += _looked_up(op, "number_bins", items.number)
    if items.vector is not None:
        inputs["vectors"] = TensorProto.FLOAT, ["items", shape.vectors]
        terms.append(op.MatMul("vectors", _float(_weights(items.vector.weight).T / items.vector_length)))
    if not terms:  # the model reads ids alone
        terms = [op.MatMul(op.Cast("category_path", to=TensorProto.FLOAT), np.zeros((levels, d), np.float32))]
    total = terms[0]
    for term in terms[1:]:
        total = op.Add(total, term)
    total = op.MatMul(total, _float(_axes(model, axes)))
    length = op.Max(op.ReduceL2(total, [1], keepdims=1), 1e-12)
    op.Div(total, length, name="item_vectors")
    return _bytes(op, inputs, {"item_vectors": ["items", d]})


class _Read(NamedTuple):
    """What the heads read of sessions.

    Attributes:
        state: [batch, d], of the newest click.
        weights: [batch, length, 1], of the clicks in the sum of their vectors; 0 behind the newest.
        places: int64 [batch, length], the distance of each click to the newest; ``max_length`` behind it.
    """

    state: str
    weights: str
    places: str


def _read(op: Nodes, model: HierSRec, rotation: Weights) -> _Read:
    session, most = model.session, model.config.max_length
    x = op.MatMul("session_vectors", _float(rotation.T * model.config.dimension**0.5))
    for block in session.blocks:
        assert isinstance(block, Block)
        x = _block(op, block, x)
    states = _norm(op, session.norm, x)
    # By length: the place of the newest click, and the distances to it.
    newest = np.maximum(np.arange(most + 1) - 1, 0)[:, None]
    distance = newest - np.arange(most)
    length = op.Shape("session_vectors", start=1, end=2)
    places = op.Gather(np.where(distance < 0, most, distance), "session_lengths")
    places = op.Slice(places, [0], length, [1])
    state = op.GatherND(states, op.Gather(newest, "session_lengths"), batch_dims=1)
    # Without the bias of ``weigh``, which all clicks have.
    by_distance = op.Gather(_float(np.append(_weights(session.weigh_distance), _NEVER)[:, None]), places)
    logits = op.Add(op.MatMul(states, _float(_weights(session.weigh.weight).T)), by_distance)
    return _Read(state, op.Softmax(logits, axis=1), places)


def _block(op: Nodes, block: Block, x: str) -> str:
    """One Transformer layer: [batch, length, d] to the same."""
    x = op.Add(x, _attention(op, block, _norm(op, block.norm_attention, x)))
    widen, _, narrow = block.mlp
    return str(op.Add(x, _linear(op, op.Gelu(_linear(op, _norm(op, block.norm_mlp, x), widen)), narrow)))


def _attention(op: Nodes, block: Block, x: str) -> str:
    """Attention of each click to itself and those before it: [batch, length, d] to the same.

    The bias of the keys adds the same to all scores of a click, and is left out; that of the values passes through, as
    weights sum to 1, into the bias of the last layer. The heads' biases by distance are a table, with the mask in it.
    """
    attention, most = block.attention, block.attention.distance.shape[1]
    weight, bias = _weights(attention.qkv.weight).T, _weights(attention.qkv.bias)
    d, heads = len(weight), attention.heads
    only_queries = np.pad(bias[:d], (0, 2 * d))
    qkv = op.Add(op.MatMul(x, _float(weight)), _float(only_queries))
    queries, keys, values = op.Split(qkv, outputs=3, num_outputs=3, axis=-1)
    distance = np.subtract.outer(np.arange(most), np.arange(most))
    table = np.where(distance < 0, _NEVER, _weights(attention.distance)[:, np.maximum(distance, 0)])
    length = op.Shape("session_vectors", start=1, end=2)
    by_distance = op.Slice(_float(table[None]), [0, 0], op.Concat(length, length, axis=0), [2, 3])
    mixed = op.Attention(queries, keys, values, by_distance, q_num_heads=heads, kv_num_heads=heads)
    op.shapes[mixed] = ["batch", "length", d]  # which lets onnxruntime fuse what follows
    out = _weights(attention.out.weight)
    return str(
        op.Add(op.MatMul(mixed, _float(out.T)), _float(_weights(attention.out.bias) + out @ bias[2 * d :]))
    )


def _conditioned(op: Nodes, model: HierSRec, state: str, names: Sequence[str] | None = None) -> str:
    """The state with the category predictions that the item head reads, [batch, d · (1 + levels)].

    The logits of the levels bear the ``names``, from the top level on.
    """
    session, known = model.session, state
    for level, head in enumerate(session.category_head):
        if names is None and str(level) not in session.category_conditioning:
            continue
        logits = _linear(op, known, head, names[level] if names else "")
        if str(level) in session.category_conditioning:
            weight = _weights(session.category_conditioning[str(level)].weight)
            known = op.Concat(known, op.MatMul(op.Softmax(logits, axis=-1), _float(weight.T)), axis=-1)
    return known


def _gate(op: Nodes, model: HierSRec, known: str) -> str:
    return str(op.Sigmoid(_linear(op, known, model.session.item_gate)))


def _linear(op: Nodes, x: str, layer: nn.Module, name: str = "") -> str:
    weight = _float(_weights(layer.weight).T)
    bias = _float(_weights(layer.bias))
    return str(op.Add(op.MatMul(x, weight), bias, name=name))


def _norm(op: Nodes, norm: nn.Module, x: str) -> str:
    weight, bias = _float(_weights(norm.weight)), _float(_weights(norm.bias))
    return str(op.LayerNormalization(x, weight, bias, axis=-1, epsilon=norm.eps))


def _looked_up(op: Nodes, name: str, tables: nn.ModuleList) -> list[str]:
    """The rows [items, d] of each of the ``tables`` at a column of the input ``name``."""
    return [
        op.Gather(_float(_weights(table.weight)), op.Gather(name, column, axis=1))
        for column, table in enumerate(tables)
    ]


def _axes(model: HierSRec, axes: NDArray[np.float32] | None) -> Weights:
    return np.eye(model.config.dimension) if axes is None else axes.astype(np.float64)


def _weights(tensor: Any) -> Weights:
    assert isinstance(tensor, Tensor)
    return tensor.detach().cpu().numpy().astype(np.float64)


def _float(weights: Weights) -> NDArray[np.float32]:
    return weights.astype(np.float32)


def _of_sessions(op: Nodes, model: HierSRec, outputs: Mapping[str, Shape]) -> bytes:
    d = model.config.dimension
    inputs: dict[str, tuple[int, Shape]] = {
        "session_vectors": (TensorProto.FLOAT, ["batch", "length", d]),
        "session_lengths": (TensorProto.INT64, ["batch"]),
    }
    return _bytes(op, inputs, outputs)


def _bytes(op: Nodes, inputs: Mapping[str, tuple[int, Shape]], outputs: Mapping[str, Shape]) -> bytes:
    """The graph of the nodes ``op``; its outputs are float32."""
    graph = helper.make_graph(
        op.nodes,
        "hiersrec",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        op.initializers,
        value_info=[
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in op.shapes.items()
        ],
    )
    opset = helper.make_opsetid("", OPSET)
    proto = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())
