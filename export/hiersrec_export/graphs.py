"""The model as ONNX graphs, none of which holds the catalog.

The bundle's vectors are rotated to the principal axes of the item table, and no score changes: a score is a dot
product, and ``(q R) · (v R) = q · v`` for an orthogonal R. Rotated, the first dimensions hold most of every score, so
that ranking can drop rows after reading a part of them. The graphs read and give rotated vectors.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from hiersrec_export import IR_VERSION, OPSET
from hiersrec_sdk.encoders.onnx_file import check_graph
from hiersrec_sdk.errors import BundleCorruptError, ExportError
from hiersrec_training.model import HierSRec

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


class Axes(nn.Module):
    """A rotation to ``axes`` float32 [d, d] and back; the identity where they are None."""

    back: Tensor
    axes: Tensor

    def __init__(self, axes: NDArray[np.float32] | None) -> None:
        super().__init__()
        self.identity = axes is None
        if axes is not None:
            # both ways, as constants that the runtime packs once: a transposed operand would cost in every call
            self.register_buffer("back", torch.from_numpy(axes.T.copy()))
            self.register_buffer("axes", torch.from_numpy(axes.copy()))

    def to_model(self, vectors: Tensor) -> Tensor:
        """Rotated vectors as the model knows them."""
        return vectors if self.identity else vectors @ self.back

    def to_bundle(self, vectors: Tensor) -> Tensor:
        """Vectors of the model, rotated."""
        return vectors if self.identity else vectors @ self.axes


class SessionGraph(nn.Module):
    """The session encoder as it is exported: the newest state only, with scale and temperature folded in.

    The session vectors it reads and the query it gives are in ``axes`` float32 [d, d]; None: those of the model.
    """

    def __init__(self, model: HierSRec, axes: NDArray[np.float32] | None = None) -> None:
        super().__init__()
        self.session = model.session
        self.scale = model.covisitation.scale
        self.rotation = Axes(axes)
        levels = len(model.session.category_head)
        higher = [f"category_logits_{level}" for level in range(levels - 1)]
        self.output_names = ["category_logits", *higher, "repeat_logits", "item_query"]

    def forward(self, session_vectors: Tensor, session_lengths: Tensor) -> tuple[Tensor, ...]:
        """Answer sessions.

        Args:
            session_vectors: float32 [B, T, d].
            session_lengths: int64 [B].

        Returns:
            Leaf logits; the other levels' logits, from the top on; repeat logits [B, T]; query [B, d].
        """
        states, sums = self.session.read(self.rotation.to_model(session_vectors))
        last = (session_lengths - 1).clamp_min(0)  # [B]
        newest = last[:, None, None].expand(-1, 1, states.shape[2])
        answer = self.session.answer(states.gather(1, newest)[:, 0], sums.gather(1, newest)[:, 0])
        distance = last[:, None] - torch.arange(session_vectors.shape[1], device=last.device)  # [B, T]
        repeats = answer.repeats.gather(1, distance.clamp(0, self.session.max_length - 1))
        repeats = repeats * (distance >= 0) * self.scale
        query = self.rotation.to_bundle(answer.query * self.scale)
        return (answer.category_logits[-1], *answer.category_logits[:-1], repeats, query)


class QueryPartsGraph(nn.Module):
    """The summands of the query of :class:`SessionGraph`, for explanations.

    They are the vectors of the session's items, each times a weight; the contribution of the state; and that of the
    category prediction. Vectors are in ``axes`` float32 [d, d]; None: those of the model.
    """

    def __init__(self, model: HierSRec, axes: NDArray[np.float32] | None = None) -> None:
        super().__init__()
        self.session = model.session
        self.scale = model.covisitation.scale
        self.rotation = Axes(axes)
        self.output_names = ["session_weights", "state_query", "category_query"]

    def forward(self, session_vectors: Tensor, session_lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From [B, T, d] and int64 [B]: weights [B, T], 0 at padding, and two queries [B, d]."""
        session, d = self.session, session_vectors.shape[2]
        session_vectors = self.rotation.to_model(session_vectors)
        states, weights = session.attend(session_vectors)
        newest = (session_lengths - 1).clamp_min(0)[:, None, None]
        state = states.gather(1, newest.expand(-1, 1, d))[:, 0]
        weights = weights.gather(1, newest.expand(-1, 1, weights.shape[2]))[:, 0]
        _, known = session.condition(state)
        gate = torch.sigmoid(session.item_gate(known))
        head = session.item_head
        from_state = gate * F.linear(state, head.weight[:, :d], head.bias)
        from_categories = torch.zeros_like(from_state)
        if known.shape[1] > d:
            from_categories = gate * F.linear(known[:, d:], head.weight[:, d:])
        query = (weights[:, None] @ session_vectors)[:, 0] + from_state + from_categories
        length = query.norm(dim=1, keepdim=True).clamp_min(1e-12)
        scale = self.scale / (length * session.temperature)  # [B, 1]
        return (
            weights * scale,
            self.rotation.to_bundle(from_state * scale),
            self.rotation.to_bundle(from_categories * scale),
        )


class ItemGraph(nn.Module):
    """The item encoder as it is exported: the unit vector of an item that training never saw, from metadata alone.

    Inputs are int64: ``category_path`` [n, L]; ``tokens`` [n, W] where the model reads text; ``number_bins`` [n, N]
    where it reads numbers; and float32 ``vectors`` [n, m] where it reads given vectors. Words are gathered and averaged
    here, where n is small, since ONNX has no embedding bag. The item's vector is in ``axes`` float32 [d, d]; None:
    those of the model.
    """

    def __init__(self, model: HierSRec, axes: NDArray[np.float32] | None = None) -> None:
        super().__init__()
        self.items = items = model.items
        self.rotation = Axes(axes)
        self.input_names = ["category_path"]
        self.input_names += ["tokens"] if items.token is not None else []
        self.input_names += ["number_bins"] if len(items.number) else []
        self.input_names += ["vectors"] if items.vector is not None else []

    def forward(self, category_path: Tensor, *rest: Tensor) -> Tensor:
        inputs = dict(zip(self.input_names, (category_path, *rest), strict=True))
        none = category_path.new_zeros(category_path.shape[0], 0)
        encoder = self.items
        x = encoder.from_bins(category_path, inputs.get("number_bins", none))
        if encoder.token is not None:
            tokens = inputs["tokens"]
            words = encoder.token.weight[tokens] * (tokens > 0)[..., None]  # [n, W, d]
            x = x + words.sum(1) / (tokens > 0).sum(1, keepdim=True).clamp_min(1)
        if encoder.vector is not None:
            x = x + encoder.vector(inputs["vectors"]) / encoder.vector_length
        return self.rotation.to_bundle(F.normalize(x, dim=1))


def session_graph(model: HierSRec, axes: NDArray[np.float32] | None = None) -> bytes:
    """Bytes of ``model.onnx``: session vectors and lengths in; category logits, repeat logits and item query out.

    Vectors are in ``axes`` float32 [d, d]; None: those of the model.
    """
    return _of_sessions(model, SessionGraph(model, axes))


def query_parts_graph(model: HierSRec, axes: NDArray[np.float32] | None = None) -> bytes:
    """Bytes of ``query_parts.onnx``: session vectors and lengths in, the summands of the item query out."""
    return _of_sessions(model, QueryPartsGraph(model, axes))


def item_graph(model: HierSRec, axes: NDArray[np.float32] | None = None) -> bytes:
    """Bytes of ``item_encoder.onnx``: category paths and metadata of items in, their vectors out."""
    graph = ItemGraph(model, axes).eval()
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


def _of_sessions(model: HierSRec, graph: SessionGraph | QueryPartsGraph) -> bytes:
    batch = Dim("batch")
    length = Dim("length", max=model.config.max_length)
    return _export(
        graph.eval(),
        (torch.zeros(3, min(7, model.config.max_length), model.config.dimension), torch.tensor([1, 1, 1])),
        {"session_vectors": {0: batch, 1: length}, "session_lengths": {0: batch}},
        graph.output_names,
    )


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
    content = bytes(proto.SerializeToString())
    try:
        check_graph(content, "the exported graph")
    except BundleCorruptError as error:
        raise ExportError(f"{error}. Does another version of PyTorch write it otherwise?") from error
    return content


def _as_arguments(shapes: list[dict[int, Dim]], graph: nn.Module) -> tuple[object, ...]:
    """In the form of the signature of ``forward``: a starred argument takes a tuple."""
    if isinstance(graph, ItemGraph) and len(shapes) > 1:
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
