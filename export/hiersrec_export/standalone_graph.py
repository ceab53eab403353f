"""The graph of a standalone model: external ids in, external ids out, the whole catalog inside.

in   session        int64 or string [batch, length]  external ids, oldest first; unknown ids are left out, wherever they
                                                     are, so that any of them is padding
in   k              int64 [1]                        how many items; above the number of items, all of them
out  items          external ids [batch, k]          best first; popular ones where a session holds no known id
out  scores         float32 [batch, k]               clicks where they are the popular ones
out  known          int64 [batch]                    how many ids of the session are known
out  categories     external ids [batch, c]          the c <= 5 most probable leaf categories
out  probabilities  float32 [batch, c]               of them; 0 where a session holds no known id

The bundle's ``model.onnx`` is in it unchanged, its names under ``encoder/``. Around it are the steps of a
``Recommender`` in mode "exact": ids to rows, the newest known ones, scores of all rows, score offsets of co-visited
items, the best k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hiersrec_export import IR_VERSION, OPSET
from hiersrec_export.nodes import Nodes
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.ranking.backend import UNKNOWN
from hiersrec_sdk.ranking.covisitation import DECAY, POPULARITIES, REACH, CovisitationScorer

ML_DOMAIN: Final = "ai.onnx.ml"
ML_OPSET: Final = 2  # the first whose LabelEncoder takes int64 keys
CATEGORIES_SHOWN: Final = 5  # as of Result.categories
_ENCODER: Final = "encoder/"

Ids = Sequence[int] | Sequence[str]


@dataclass(frozen=True)
class Tables:
    """The tables of a standalone model: a catalog of n items, in the order of its rows.

    Attributes:
        ids: external ids of the items.
        item_vectors: float32 [n, d], read by the encoder and compared with its queries.
        item_bias: float32 [n], or None.
        clicks: int64 [n].
        category_ids: external ids of the leaf categories.
        covisitation: over the m rows that were counted, or None.
        counted: int64 [n], the counted row of each item, or -1; None where it is the item's row.
        successors: int64 [m], the item of each counted row, or -1 where it was deleted; None where it is the same row.
    """

    ids: Ids
    item_vectors: NDArray[np.float32]
    item_bias: NDArray[np.float32] | None
    clicks: NDArray[np.int64]
    category_ids: Ids
    covisitation: CovisitationScorer | None
    counted: NDArray[np.int64] | None = None
    successors: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, catalog: Catalog) -> Tables:
        """The tables of a snapshot: of the rows that are items, numbered anew."""
        rows, base_rows = catalog.live_rows(), np.arange(len(catalog.base))
        number = np.full(catalog.stop + 1, UNKNOWN)  # the last stands for the row -1
        number[rows] = np.arange(len(rows))
        changed = catalog.has_changes
        leaves: Any = catalog.tree.ids[-1].take(np.arange(len(catalog.tree.leaves)))
        ids: Any = catalog.ids(rows)
        has_bias = changed or catalog.base.tables.item_bias is not None
        return cls(
            ids=ids,
            item_vectors=catalog.vectors(rows) if changed else catalog.base.table.vectors,
            item_bias=catalog.biases(rows) if has_bias else None,
            clicks=catalog.clicks_of(rows),
            category_ids=leaves,
            covisitation=catalog.covisitation,
            counted=catalog.origins(rows) if changed else None,
            successors=number[catalog.current_rows(base_rows)] if changed else None,
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
        arrays = [self.item_vectors, self.item_bias, *[self.clicks] * 3, self.counted, self.successors]
        if self.covisitation is not None:
            arrays += self.covisitation.tables().values()
        texts = sum(len(id_.encode()) + 4 if isinstance(id_, str) else 10 for id_ in self.ids)
        return sum(array.nbytes for array in arrays if array is not None) + 2 * texts


def standalone_graph(encoder: onnx.ModelProto, tables: Tables, max_length: int) -> onnx.ModelProto:
    """The standalone model around ``encoder``, the bundle's ``model.onnx``; the newest ``max_length`` items count."""
    if next(one.version for one in encoder.opset_import if not one.domain) < OPSET:
        encoder = onnx.version_converter.convert_version(encoder, OPSET)
    encoder = onnx.compose.add_prefix(encoder, _ENCODER)
    inner = encoder.graph
    op, n = Nodes(), len(tables.ids)
    of_item = TensorProto.STRING if tables.strings else TensorProto.INT64
    of_category = TensorProto.STRING if isinstance(tables.category_ids[0], str) else TensorProto.INT64

    keys = {"keys_strings" if tables.strings else "keys_int64s": list(tables.ids)}
    found = op.LabelEncoder(
        "session", domain=ML_DOMAIN, **keys, values_int64s=list(range(n)), default_int64=UNKNOWN
    )
    is_known = op.GreaterOrEqual(found, 0)
    count = op.ReduceSum(op.Cast(is_known, to=TensorProto.INT64), [1], keepdims=0, name="known")
    rows, lengths = _newest(op, found, is_known, max_length)
    some_known = op.Unsqueeze(op.Greater(count, 0), [1])

    vectors = op.table("item_vectors", tables.item_vectors)
    op.Gather(vectors, rows, name=f"{_ENCODER}session_vectors")
    op.Identity(lengths, name=f"{_ENCODER}session_lengths")
    before = len(op.nodes)

    # The table is on the left: as the right factor onnxruntime would keep a packed copy of it in memory. A Gemm
    # that also adds the bias would be several times slower for one session.
    scores = op.Transpose(op.Gemm(vectors, f"{_ENCODER}item_query", transB=1), perm=[1, 0])
    if tables.item_bias is not None:
        scores = op.Add(scores, op.table("item_bias", tables.item_bias))
    repeats = any(one.name == f"{_ENCODER}repeat_logits" for one in inner.output)
    scores = _with_offsets(op, scores, rows, lengths, repeats, tables, max_length)

    most = op.Min("k", n)
    best, best_rows = op.TopK(scores, most, outputs=2)
    popular = np.argsort(-tables.clicks, kind="stable")
    popular_rows = op.Slice(op.table("popular", popular), [0], most)
    clicks = op.Slice(op.table("popular.clicks", tables.clicks[popular].astype(np.float32)), [0], most)
    op.Gather(op.table("item_ids", tables.ids), op.Where(some_known, best_rows, popular_rows), name="items")
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
        [value("session", of_item, ["batch", "length"]), value("k", TensorProto.INT64, [1])],
        [
            value("items", of_item, ["batch", "best"]),
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
    """The newest ``most`` of ``rows`` int64 [batch, length] that are ``kept``, moved to the front, padded with row 0.

    And how many they are, int64 [batch]. Where there are none, row 0 stands for one.
    """
    kept_whole = op.Cast(kept, to=TensorProto.INT64)
    counts = op.ReduceSum(kept_whole, [1], keepdims=1)
    lengths = op.Min(counts, most)
    slots = op.Sub(op.CumSum(kept_whole, 1), op.Add(op.Sub(counts, lengths), 1))
    session, at = _positions_of(op, op.And(kept, op.GreaterOrEqual(slots, 0)))
    lengths = op.Max(op.Squeeze(lengths, [1]), 1)
    shape = op.Concat(op.Shape(rows, start=0, end=1), op.ReduceMax(lengths, keepdims=1), axis=0)
    targets = op.Concat(op.Unsqueeze(session, [1]), op.Unsqueeze(op.GatherND(slots, at), [1]), axis=1)
    return op.ScatterND(op.Expand(0, shape), targets, op.GatherND(rows, at)), lengths


def _positions_of(op: Nodes, mask: str) -> tuple[str, str]:
    """The session of each true value int64 [m]; and its session and position int64 [m, 2]."""
    found = op.NonZero(mask)
    return op.Gather(found, 0), op.Transpose(found, perm=[1, 0])


def _positions(op: Nodes, rows: str) -> str:
    """Positions int64 [length] in ``rows`` [batch, length]."""
    return str(op.Range(0, op.Squeeze(op.Shape(rows, start=1, end=2)), 1))


def _real(op: Nodes, rows: str, lengths: str) -> str:
    """Which of ``rows`` are not padding: bool [batch, length]."""
    return str(op.Less(_positions(op, rows), op.Unsqueeze(lengths, [1])))


def _with_offsets(
    op: Nodes, scores: str, rows: str, lengths: str, repeats: bool, tables: Tables, max_length: int
) -> str:
    """``scores`` float32 [batch, n] plus the score offsets of the sessions' items and of co-visited items."""
    keys, offsets = [], []
    if repeats:
        session, at = _positions_of(op, _real(op, rows, lengths))
        keys.append(op.Add(op.Mul(session, len(tables.ids)), op.GatherND(rows, at)))
        offsets.append(op.GatherND(f"{_ENCODER}repeat_logits", at))
    if tables.covisitation is not None:
        covisited = _covisited(op, rows, lengths, tables.covisitation, tables, max_length)
        keys.append(covisited[0])
        offsets.append(covisited[1])
    if not keys:
        return scores
    # Not ScatterND, which in onnxruntime adds in several threads at once.
    flat = op.ScatterElements(
        op.Reshape(scores, [-1]), op.Concat(*keys, axis=0), op.Concat(*offsets, axis=0), reduction="add"
    )
    return str(op.Reshape(flat, op.Shape(scores)))


def _covisited(
    op: Nodes, rows: str, lengths: str, scorer: CovisitationScorer, tables: Tables, max_length: int
) -> tuple[str, str]:
    """The co-visited items of all sessions: int64 [covisited], session · n + row; and their score offsets float32.

    The scorer's rows are the counted ones. They differ from those of the items where the catalog has changed.
    """
    if tables.counted is not None:
        counted = op.Gather(op.table("covisitation.counted", tables.counted), rows)
        is_counted = op.And(_real(op, rows, lengths), op.GreaterOrEqual(counted, 0))
        has_counted = op.ReduceMax(op.Cast(is_counted, to=TensorProto.INT64), [1], keepdims=0)
        rows, lengths = _newest(op, counted, is_counted, max_length)
    m = len(scorer.counts.popularity)
    popularity = op.table("covisitation.popularity", scorer.counts.popularity)
    real = _real(op, rows, lengths)
    # [batch, length]; 0: the newest
    ages = op.Sub(op.Unsqueeze(op.Sub(lengths, 1), [1]), _positions(op, rows))
    edge_keys, edge_counts = _edges(op, rows, real, ages, scorer)
    click_keys, of_click, of_session = _clicks(op, rows, lengths, real, ages, m, popularity)

    keys, _, key_of, _ = op.Unique(op.Concat(edge_keys, click_keys, axis=0), sorted=1, outputs=4)
    edges = op.Shape(edge_keys)
    session = op.Div(keys, m)
    row = op.Sub(keys, op.Mul(session, m))
    counts = _summed(op, [0, 0, 0, 0, 0], keys, op.Slice(key_of, [0], edges), edge_counts)
    of_click = _summed(op, [0, 0, 0, -1], keys, op.Slice(key_of, edges, op.Shape(key_of)), of_click)
    of_item = op.Concat(op.Gather(popularity, row), op.Log(op.Add(counts, 1.0)), of_click, axis=1)

    # The features are in another order than in CovisitationCounts.features: those of a whole session apart.
    weight = op.table("covisitation.item_weight", scorer.hidden_weight[[*range(13), 15]])
    shared = op.table("covisitation.session_weight", scorer.hidden_weight[[13, 14, 16, 17]])
    of_session = op.Gemm(of_session, shared, op.table("covisitation.hidden_bias", scorer.hidden_bias))
    hidden = op.Relu(op.Add(op.MatMul(of_item, weight), op.Gather(of_session, session)))
    offsets = op.Gemm(
        hidden,
        op.table("covisitation.weight", scorer.weight[:-1, None]),
        op.table("covisitation.bias", scorer.weight[-1:]),
    )
    offsets = op.Squeeze(offsets, [1])
    if tables.successors is None:
        return keys, offsets
    row = op.Gather(op.table("covisitation.successors", tables.successors), row)
    kept = op.And(op.GreaterOrEqual(row, 0), op.Greater(op.Gather(has_counted, session), 0))
    keys = op.Add(op.Mul(session, len(tables.ids)), row)
    return op.Compress(keys, kept), op.Compress(offsets, kept)


def _edges(op: Nodes, rows: str, real: str, ages: str, scorer: CovisitationScorer) -> tuple[str, str]:
    """The neighbors of the sessions' newest clicks: keys int64 [edges], session · m + row; and float32 [edges, 5].

    Those are weighted clicks after and before, and the three counts of the newest click alone.
    """
    covisits = scorer.counts
    session, at = _positions_of(op, op.And(real, op.Less(ages, REACH)))
    row, age = op.GatherND(rows, at), op.GatherND(ages, at)
    offsets = op.table("covisitation.offsets", covisits.offsets)
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
    neighbor = op.Cast(op.Gather(op.table("covisitation.rows", covisits.rows), edge), to=TensorProto.INT64)
    keys = op.Add(op.Gather(op.Mul(session, len(covisits.popularity)), click), neighbor)
    clicks = op.Cast(op.Gather(op.table("covisitation.counts", covisits.counts), edge), to=TensorProto.FLOAT)
    factors = np.zeros((REACH, 5), dtype=np.float32)  # by age
    factors[:, :2] = DECAY ** np.arange(REACH)[:, None]
    factors[0, 2:] = 1
    values = op.Mul(op.Gather(clicks, [0, 1, 0, 1, 2], axis=1), op.Gather(factors, op.Gather(age, click)))
    return keys, values


def _clicks(
    op: Nodes, rows: str, lengths: str, real: str, ages: str, m: int, popularity: str
) -> tuple[str, str, str]:
    """The rows of the sessions, each once.

    Returns:
        Keys int64 [rows], session · m + row; float32 [rows, 4]: log(1 + clicks), those directly after and before the
        newest item, and 1 + log(1 + age of the newest); float32 [batch, 4], features of the session.
    """
    newest = op.GatherElements(rows, op.Unsqueeze(op.Sub(lengths, 1), [1]), axis=1)
    is_newest = op.Cast(op.And(op.Equal(rows, newest), real), to=TensorProto.FLOAT)
    after = op.Pad(is_newest, [0, 1, 0, -1])  # shifted by one
    before = op.Pad(is_newest, [0, -1, 0, 1])
    whole = op.Cast(real, to=TensorProto.FLOAT)
    counted = op.Concat(*(op.Unsqueeze(one, [2]) for one in (whole, after, before)), axis=2)
    same = op.And(op.Equal(op.Unsqueeze(rows, [2]), op.Unsqueeze(rows, [1])), op.Unsqueeze(real, [1]))
    same = op.Cast(same, to=TensorProto.FLOAT)  # [batch, length, length]
    counts = op.MatMul(same, counted)
    later = op.ReduceSum(op.Trilu(same, 1, upper=1), [2], keepdims=0)
    is_last = op.And(real, op.Equal(later, 0.0))
    session, at = _positions_of(op, is_last)
    keys = op.Add(op.Mul(session, m), op.GatherND(rows, at))
    since = op.Log(op.Add(op.Cast(op.GatherND(ages, at), to=TensorProto.FLOAT), 1.0))
    of_click = op.Concat(
        op.Log(op.Add(op.GatherND(counts, at), 1.0)), op.Unsqueeze(op.Add(since, 1.0), [1]), axis=1
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
    return keys, of_click, of_session


def _summed(op: Nodes, initial: list[float], keys: str, index: str, values: str) -> str:
    """float32 [keys, width]: ``initial`` plus the ``values`` [m, width] at each ``index`` int64 [m]."""
    start = np.array(initial, dtype=np.float32)
    table = op.Expand(start, op.Concat(op.Shape(keys), [len(initial)], axis=0))
    rows = op.Expand(op.Unsqueeze(index, [1]), op.Shape(values))
    return str(op.ScatterElements(table, rows, values, axis=0, reduction="add"))
