"""The graph of a standalone model: own ids in, own ids out, the whole catalogue inside.

in   session        int64 or string [batch, length]  own ids, oldest first; ids that no item has are left out, wherever
                                                     they stand, so that any of them pads
in   k              int64 [1]                        how many items; above the number of items, all of them
out  items          own ids [batch, k]               best first; popular ones where a session holds no known id
out  scores         float32 [batch, k]               clicks where they are the popular ones
out  known          int64 [batch]                    how many ids of the session are known
out  categories     own ids [batch, c]               the c <= 5 most probable leaf categories
out  probabilities  float32 [batch, c]               of them; 0 where a session holds no known id

The bundle's ``model.onnx`` stands in it as it is, its names under ``encoder/``. Around it is what a ``Recommender``
does in mode "exact": ids to rows, the newest known ones, scores of all rows, what the wide part adds, the best k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hiersrec_export import IR_VERSION, OPSET
from hiersrec_sdk.catalog.snapshot import UNKNOWN, Catalog
from hiersrec_sdk.ranking.covisitation import DECAY, POPULARITIES, REACH
from hiersrec_sdk.ranking.covisitation import CovisitationScorer as Wide

ML_DOMAIN: Final = "ai.onnx.ml"
ML_OPSET: Final = 2  # the first whose LabelEncoder takes int64 keys
CATEGORIES_SHOWN: Final = 5  # as of Result.categories
_ENCODER: Final = "encoder/"

Ids = Sequence[int] | Sequence[str]
Operand = str | int | float | list[int] | NDArray[Any]  # a value of the graph by its name, or a constant


@dataclass(frozen=True)
class Tables:
    """What a standalone model holds of a catalogue of n items, in the order of its rows.

    Attributes:
        ids: own ids of the n items.
        outputs: float32 [n, d], what queries are compared with.
        inputs: float32 [n, d], what the encoder reads; the same array where the two are tied.
        bias: float32 [n], or None.
        clicks: int64 [n].
        category_ids: own ids of the leaf categories.
        wide: over the m rows of the click log, or None.
        in_log: int64 [n], the row in the click log of each item, or -1; None: it is the item's own.
        successors: int64 [m], the item of each row in the click log, or -1 where it is gone; None: it is the row's own.
    """

    ids: Ids
    outputs: NDArray[np.float32]
    inputs: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    clicks: NDArray[np.int64]
    category_ids: Ids
    wide: Wide | None
    in_log: NDArray[np.int64] | None = None
    successors: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, catalog: Catalog) -> Tables:
        """Of a catalogue as it is now: with changes, its rows are those that are items still, numbered anew."""
        leaves: Any = [catalog.category(-1, at).id for at in range(len(catalog.ranges[-1]))]
        every = np.arange(catalog.stop)
        changes = catalog.changes
        if changes is None:
            ids: Any = catalog.ids(every)
            return cls(
                ids,
                catalog.item_vectors,
                catalog.input_vectors,
                catalog.bias,
                catalog.clicks,
                leaves,
                catalog.wide,
            )
        n = changes.base_rows
        rows = np.sort(
            np.concatenate([np.setdiff1d(every[:n], changes.gone), n + np.flatnonzero(changes.alive)])
        )
        outputs, ids = catalog.vectors(rows), catalog.ids(rows)
        tied = catalog.input_vectors is catalog.item_vectors
        number = np.full(catalog.stop + 1, UNKNOWN)  # the last stands for the row -1
        number[rows] = np.arange(len(rows))
        origin = np.concatenate([every[:n], changes.origin])
        return cls(
            ids,
            outputs,
            outputs if tied else catalog.vectors(rows, inputs=True),
            catalog.biases(rows),
            catalog.clicks_of(rows),
            leaves,
            catalog.wide,
            origin[rows],
            number[changes.successors(every[:n])],
        )

    @property
    def strings(self) -> bool:
        return isinstance(self.ids[0], str)

    @property
    def padding(self) -> int | str:
        """An id that no item has, for the rest of shorter sessions: "" or the least int64, where they are free."""
        taken: set[Any] = set(self.ids)
        if self.strings:
            return next(text for at in range(len(taken) + 1) if (text := "-" * at) not in taken)
        return next(number for number in range(-(2**63), 2**63) if number not in taken)

    @property
    def nbytes(self) -> int:
        """About how many bytes a file of them takes."""
        arrays = [
            self.outputs,
            self.bias,
            self.clicks,
            self.clicks,
            self.clicks,
            self.in_log,
            self.successors,
        ]
        if self.inputs is not self.outputs:
            arrays.append(self.inputs)
        if self.wide is not None:
            arrays += self.wide.tables().values()
        texts = sum(len(own.encode()) + 4 if isinstance(own, str) else 10 for own in self.ids)
        return sum(array.nbytes for array in arrays if array is not None) + 2 * texts


class Nodes:
    """Nodes of a graph, a call for each: ``op.Add(x, 1)`` returns the name of the output, which may be given as
    ``name``; or a list of names where several ``outputs`` are asked for. Numbers and lists are constants: int64, or
    float32 where they are floats."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
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

    def table(self, name: str, values: NDArray[Any] | Ids) -> str:
        """The name of an initializer."""
        if not isinstance(values, np.ndarray) and isinstance(values[0], str):
            texts: list[Any] = [str(own).encode() for own in values]
            tensor = helper.make_tensor(name, TensorProto.STRING, [len(texts)], texts)
        else:
            tensor = numpy_helper.from_array(np.asarray(values, order="C"), name)
        self.initializers.append(tensor)
        return name


def standalone_graph(encoder: onnx.ModelProto, tables: Tables, max_length: int) -> onnx.ModelProto:
    """The model; ``encoder`` is the bundle's ``model.onnx``, of which the newest ``max_length`` items count."""
    if next(one.version for one in encoder.opset_import if not one.domain) < OPSET:
        encoder = onnx.version_converter.convert_version(encoder, OPSET)
    encoder = onnx.compose.add_prefix(encoder, _ENCODER)
    inner = encoder.graph
    op, n = Nodes(), len(tables.ids)
    own = TensorProto.STRING if tables.strings else TensorProto.INT64
    of_category = TensorProto.STRING if isinstance(tables.category_ids[0], str) else TensorProto.INT64

    keys = {"keys_strings" if tables.strings else "keys_int64s": list(tables.ids)}
    found = op.LabelEncoder(
        "session", domain=ML_DOMAIN, **keys, values_int64s=list(range(n)), default_int64=UNKNOWN
    )
    is_known = op.GreaterOrEqual(found, 0)
    count = op.ReduceSum(op.Cast(is_known, to=TensorProto.INT64), [1], keepdims=0, name="known")
    rows, lengths = _newest(op, found, is_known, max_length)
    some_known = op.Unsqueeze(op.Greater(count, 0), [1])

    outputs = op.table("item_vectors", tables.outputs)
    tied = tables.inputs is tables.outputs
    inputs = outputs if tied else op.table("input_vectors", tables.inputs)
    op.Gather(inputs, rows, name=f"{_ENCODER}session_vectors")
    op.Identity(lengths, name=f"{_ENCODER}session_lengths")
    before = len(op.nodes)

    # The table stands on the left: as the right factor onnxruntime would keep a packed copy of it in memory. A Gemm
    # that also adds the bias would be several times slower for one session.
    scores = op.Transpose(op.Gemm(outputs, f"{_ENCODER}item_query", transB=1), perm=[1, 0])
    if tables.bias is not None:
        scores = op.Add(scores, op.table("bias", tables.bias))
    repeats = any(one.name == f"{_ENCODER}repeat_logits" for one in inner.output)
    scores = _boosted(op, scores, rows, lengths, repeats, tables, max_length)

    most = op.Min("k", n)
    best, places = op.TopK(scores, most, outputs=2)
    popular = np.argsort(-tables.clicks, kind="stable")
    popular_rows = op.Slice(op.table("popular", popular), [0], most)
    clicks = op.Slice(op.table("popular.clicks", tables.clicks[popular].astype(np.float32)), [0], most)
    op.Gather(op.table("item_ids", tables.ids), op.Where(some_known, places, popular_rows), name="items")
    op.Where(some_known, best, clicks, name="scores")

    leaves = len(tables.category_ids)
    chances = op.Softmax(f"{_ENCODER}category_logits", axis=-1)
    shares, leaf = op.TopK(chances, [min(CATEGORIES_SHOWN, leaves)], outputs=2)
    op.Gather(op.table("category_ids", tables.category_ids), leaf, name="categories")
    op.Mul(shares, op.Cast(some_known, to=TensorProto.FLOAT), name="probabilities")

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*op.nodes[:before], *inner.node, *op.nodes[before:]],
        "recommender",
        [value("session", own, ["batch", "length"]), value("k", TensorProto.INT64, [1])],
        [
            value("items", own, ["batch", "best"]),
            value("scores", TensorProto.FLOAT, ["batch", "best"]),
            value("known", TensorProto.INT64, ["batch"]),
            value("categories", of_category, ["batch", min(CATEGORIES_SHOWN, leaves)]),
            value("probabilities", TensorProto.FLOAT, ["batch", min(CATEGORIES_SHOWN, leaves)]),
        ],
        [*inner.initializer, *op.initializers],
    )
    return helper.make_model(
        graph,
        opset_imports=[*encoder.opset_import, helper.make_opsetid(ML_DOMAIN, ML_OPSET)],
        functions=encoder.functions,
        ir_version=max(IR_VERSION, encoder.ir_version),
    )


def _newest(op: Nodes, rows: str, kept: str, most: int) -> tuple[str, str]:
    """Of ``rows`` int64 [batch, length] the newest ``most`` that are ``kept``, moved to the front, padded with row 0;
    and how many they are, int64 [batch]. Where there are none, row 0 stands for one."""
    kept_whole = op.Cast(kept, to=TensorProto.INT64)
    counts = op.ReduceSum(kept_whole, [1], keepdims=1)
    lengths = op.Min(counts, most)
    slots = op.Sub(op.CumSum(kept_whole, 1), op.Add(op.Sub(counts, lengths), 1))
    session, places = _places(op, op.And(kept, op.GreaterOrEqual(slots, 0)))
    lengths = op.Max(op.Squeeze(lengths, [1]), 1)
    shape = op.Concat(op.Shape(rows, start=0, end=1), op.ReduceMax(lengths, keepdims=1), axis=0)
    targets = op.Concat(op.Unsqueeze(session, [1]), op.Unsqueeze(op.GatherND(slots, places), [1]), axis=1)
    return op.ScatterND(op.Expand(0, shape), targets, op.GatherND(rows, places)), lengths


def _places(op: Nodes, mask: str) -> tuple[str, str]:
    """Of each place that is true: its session int64 [m], and its session and position int64 [m, 2]."""
    found = op.NonZero(mask)
    return op.Gather(found, 0), op.Transpose(found, perm=[1, 0])


def _positions(op: Nodes, rows: str) -> str:
    """int64 [length] of ``rows`` [batch, length]."""
    return str(op.Range(0, op.Squeeze(op.Shape(rows, start=1, end=2)), 1))


def _real(op: Nodes, rows: str, lengths: str) -> str:
    """bool [batch, length]: which of ``rows`` are no padding."""
    return str(op.Less(_positions(op, rows), op.Unsqueeze(lengths, [1])))


def _boosted(
    op: Nodes, scores: str, rows: str, lengths: str, repeats: bool, tables: Tables, max_length: int
) -> str:
    """``scores`` float32 [batch, n] with what is added to those of the sessions' own and linked items."""
    keys, boosts = [], []
    if repeats:
        session, places = _places(op, _real(op, rows, lengths))
        keys.append(op.Add(op.Mul(session, len(tables.ids)), op.GatherND(rows, places)))
        boosts.append(op.GatherND(f"{_ENCODER}repeat_logits", places))
    if tables.wide is not None:
        linked = _linked(op, rows, lengths, tables.wide, tables, max_length)
        keys.append(linked[0])
        boosts.append(linked[1])
    if not keys:
        return scores
    # Not ScatterND, which in onnxruntime adds in several threads at once.
    flat = op.ScatterElements(
        op.Reshape(scores, [-1]), op.Concat(*keys, axis=0), op.Concat(*boosts, axis=0), reduction="add"
    )
    return str(op.Reshape(flat, op.Shape(scores)))


def _linked(
    op: Nodes, rows: str, lengths: str, wide: Wide, tables: Tables, max_length: int
) -> tuple[str, str]:
    """What ``Wide.boosts`` gives, for all sessions at once: int64 [linked], session · n + row, and boosts float32.

    It counts in rows of the click log, which are those of the items but where the catalogue has changed.
    """
    if tables.in_log is not None:
        logged = op.Gather(op.table("covisitation.in_log", tables.in_log), rows)
        in_log = op.And(_real(op, rows, lengths), op.GreaterOrEqual(logged, 0))
        is_linked = op.ReduceMax(op.Cast(in_log, to=TensorProto.INT64), [1], keepdims=0)
        rows, lengths = _newest(op, logged, in_log, max_length)
    m = len(wide.counts.popularity)
    popularity = op.table("covisitation.popularity", wide.counts.popularity)
    real = _real(op, rows, lengths)
    ages = op.Sub(
        op.Unsqueeze(op.Sub(lengths, 1), [1]), _positions(op, rows)
    )  # [batch, length]; 0: the newest
    edge_keys, edge_counts = _edges(op, rows, real, ages, wide)
    click_keys, own, of_session = _clicks(op, rows, lengths, real, ages, m, popularity)

    keys, _, place, _ = op.Unique(op.Concat(edge_keys, click_keys, axis=0), sorted=1, outputs=4)
    edges = op.Shape(edge_keys)
    session = op.Div(keys, m)
    row = op.Sub(keys, op.Mul(session, m))
    counts = _summed(op, [0, 0, 0, 0, 0], keys, op.Slice(place, [0], edges), edge_counts)
    own = _summed(op, [0, 0, 0, -1], keys, op.Slice(place, edges, op.Shape(place)), own)
    of_item = op.Concat(op.Gather(popularity, row), op.Log(op.Add(counts, 1.0)), own, axis=1)

    # The features stand in another order than in Links.features: those of a whole session apart.
    weight = op.table("covisitation.item_weight", wide.hidden_weight[[*range(13), 15]])
    shared = op.table("covisitation.session_weight", wide.hidden_weight[[13, 14, 16, 17]])
    of_session = op.Gemm(of_session, shared, op.table("covisitation.hidden_bias", wide.hidden_bias))
    hidden = op.Relu(op.Add(op.MatMul(of_item, weight), op.Gather(of_session, session)))
    boosts = op.Gemm(
        hidden,
        op.table("covisitation.weight", wide.weight[:-1, None]),
        op.table("covisitation.bias", wide.weight[-1:]),
    )
    boosts = op.Squeeze(boosts, [1])
    if tables.successors is None:
        return keys, boosts
    row = op.Gather(op.table("covisitation.successors", tables.successors), row)
    kept = op.And(op.GreaterOrEqual(row, 0), op.Greater(op.Gather(is_linked, session), 0))
    keys = op.Add(op.Mul(session, len(tables.ids)), row)
    return op.Compress(keys, kept), op.Compress(boosts, kept)


def _edges(op: Nodes, rows: str, real: str, ages: str, wide: Wide) -> tuple[str, str]:
    """The neighbours of the sessions' newest clicks: keys int64 [edges], session · m + row, and float32 [edges, 5]:
    weighted clicks after and before, and those three of the newest click alone."""
    links = wide.counts
    session, places = _places(op, op.And(real, op.Less(ages, REACH)))
    row, age = op.GatherND(rows, places), op.GatherND(ages, places)
    offsets = op.table("covisitation.offsets", links.offsets)
    starts = op.Gather(offsets, row)
    counts = op.Sub(op.Gather(offsets, op.Add(row, 1)), starts)
    begins = op.Sub(op.CumSum(counts, 0), counts)
    total = op.ReduceSum(counts, keepdims=1)
    # The click of each edge: how many begin at or before it, less one.
    marks = op.ScatterElements(
        op.Expand(0, op.Add(total, 1)), begins, op.Expand(1, op.Shape(begins)), reduction="add"
    )
    click = op.Sub(op.Slice(op.CumSum(marks, 0), [0], total), 1)
    edge = op.Add(op.Gather(op.Sub(starts, begins), click), op.Range(0, op.Squeeze(total), 1))
    neighbour = op.Cast(op.Gather(op.table("covisitation.rows", links.rows), edge), to=TensorProto.INT64)
    keys = op.Add(op.Gather(op.Mul(session, len(links.popularity)), click), neighbour)
    clicks = op.Cast(op.Gather(op.table("covisitation.counts", links.counts), edge), to=TensorProto.FLOAT)
    factors = np.zeros((REACH, 5), dtype=np.float32)  # by age
    factors[:, :2] = DECAY ** np.arange(REACH)[:, None]
    factors[0, 2:] = 1
    values = op.Mul(op.Gather(clicks, [0, 1, 0, 1, 2], axis=1), op.Gather(factors, op.Gather(age, click)))
    return keys, values


def _clicks(
    op: Nodes, rows: str, lengths: str, real: str, ages: str, m: int, popularity: str
) -> tuple[str, str, str]:
    """The sessions' own rows, each once.

    Returns:
        Keys int64 [own], session · m + row; float32 [own, 4]: log(1 + clicks), those directly after and before the
        newest item, and 1 + log(1 + age of the newest); float32 [batch, 4], features of the session.
    """
    newest = op.GatherElements(rows, op.Unsqueeze(op.Sub(lengths, 1), [1]), axis=1)
    is_newest = op.Cast(op.And(op.Equal(rows, newest), real), to=TensorProto.FLOAT)
    after = op.Pad(is_newest, [0, 1, 0, -1])  # shifted by a place
    before = op.Pad(is_newest, [0, -1, 0, 1])
    whole = op.Cast(real, to=TensorProto.FLOAT)
    counted = op.Concat(*(op.Unsqueeze(one, [2]) for one in (whole, after, before)), axis=2)
    same = op.And(op.Equal(op.Unsqueeze(rows, [2]), op.Unsqueeze(rows, [1])), op.Unsqueeze(real, [1]))
    same = op.Cast(same, to=TensorProto.FLOAT)  # [batch, length, length]
    counts = op.MatMul(same, counted)
    later = op.ReduceSum(op.Trilu(same, 1, upper=1), [2], keepdims=0)
    is_last = op.And(real, op.Equal(later, 0.0))
    session, places = _places(op, is_last)
    keys = op.Add(op.Mul(session, m), op.GatherND(rows, places))
    since = op.Log(op.Add(op.Cast(op.GatherND(ages, places), to=TensorProto.FLOAT), 1.0))
    own = op.Concat(
        op.Log(op.Add(op.GatherND(counts, places), 1.0)), op.Unsqueeze(op.Add(since, 1.0), [1]), axis=1
    )
    length = op.Unsqueeze(op.Cast(lengths, to=TensorProto.FLOAT), [1])
    distinct = op.ReduceSum(op.Cast(is_last, to=TensorProto.FLOAT), [1], keepdims=1)
    of_session = op.Concat(
        op.Log(op.Add(length, 1.0)),
        op.Log(op.ReduceSum(is_newest, [1], keepdims=1)),  # of 1 + how often it was clicked before
        op.Div(distinct, length),
        op.Gather(op.Gather(popularity, op.Squeeze(newest, [1])), [POPULARITIES - 1], axis=1),
        axis=1,
    )
    return keys, own, of_session


def _summed(op: Nodes, initial: list[float], keys: str, places: str, values: str) -> str:
    """float32 [keys, width]: ``initial`` plus the ``values`` [m, width] at each of the ``places`` int64 [m]."""
    start = np.array(initial, dtype=np.float32)
    table = op.Expand(start, op.Concat(op.Shape(keys), [len(initial)], axis=0))
    index = op.Expand(op.Unsqueeze(places, [1]), op.Shape(values))
    return str(op.ScatterElements(table, index, values, axis=0, reduction="add"))
