"""Explanations and traces: both watch the pipeline that answers calls, step by step."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import CategoryPath
from hiersrec_sdk.encoders.query_parts import QueryParts, QueryPartsGraph
from hiersrec_sdk.encoders.session_encoder import Encoded
from hiersrec_sdk.errors import UnknownItemError
from hiersrec_sdk.pipeline import KnownSession, Pipeline
from hiersrec_sdk.plan import Plan
from hiersrec_sdk.ranking import row_ranges
from hiersrec_sdk.results import Ranked, Result, candidate_ranges


@dataclass(frozen=True, slots=True)
class ScoreParts:
    """The parts of a score; they sum to it.

    Attributes:
        session: from the state of the session; the whole query if the bundle has no ``query_parts.onnx``.
        category_conditioning: from the category prediction, on which the item head is conditioned.
        session_items: from the weighted sum of the session's own item vectors.
        repeat: the logit of an item that the session holds.
        covisitation: the co-visitation scorer's offset of an item that was clicked near the session's items before, or
            that the session holds.
        item_bias: of the item, whatever the session.
    """

    session: float
    category_conditioning: float
    session_items: float
    repeat: float
    covisitation: float
    item_bias: float


@dataclass(frozen=True, slots=True)
class Click:
    """One click of the session, and its share of :attr:`ScoreParts.session_items`."""

    item: int | str
    title: str | None
    share: float


@dataclass(frozen=True, slots=True)
class CategoryOfItem:
    """A category that the item lies in.

    Attributes:
        category: its external id, which other categories may have too.
        path: the ids from the top level down to it, without the repeats that pad a shallow branch.
        label: its id where no other category has it, else its path as a JSON array.
        level: 0 is the top.
        probability: that the next click lies in it, by the category head.
        rank: 1 for the most probable category of its level.
        of: how many categories the level has.
    """

    category: int | str
    path: CategoryPath
    label: str
    level: int
    probability: float
    rank: int
    of: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why ``item`` has its score after a session. ``print()`` shows it.

    Attributes:
        item: its external id.
        title: its title, or None.
        score: the sum of ``parts``, up to rounding.
        rank: 1 for the item of the highest score of all items; scores that differ by rounding alone may share one.
        candidate: whether it is ranked with the bundle's own candidate share.
        parts: the parts of the score.
        clicks: the session's newest known items, the one that weighed most first; empty if the bundle has no
            ``query_parts.onnx``.
        categories: the item's category at each level, the top first.
    """

    item: int | str
    title: str | None
    score: float
    rank: int
    candidate: bool
    parts: ScoreParts
    clicks: tuple[Click, ...]
    categories: tuple[CategoryOfItem, ...]

    def __str__(self) -> str:
        lines = [
            f"{_named(self.item, self.title)}: score {self.score:.4f}, rank {self.rank:,}"
            f"{'' if self.candidate else ', not a candidate'}"
        ]
        for name in ScoreParts.__slots__:
            value = getattr(self.parts, name)
            if value:
                lines.append(f"  {value:+9.4f}  {_MEANINGS[name]}")
            if name == "session_items":
                for click in self.clicks:
                    lines.append(
                        f"    {click.share:+9.4f}  by the click on {_named(click.item, click.title)}"
                    )
        for category in self.categories:
            lines.append(
                f"  {100 * category.probability:7.2f} %  {category.label}, rank {category.rank:,}"
                f" of {category.of:,} categories of level {category.level}"
            )
        return "\n".join(lines)


_MEANINGS: Final = {
    "session": "the session",
    "category_conditioning": "the predicted category",
    "session_items": "similarity to the session's own items",
    "repeat": "clicked in this session",
    "covisitation": "clicked near these items before",
    "item_bias": "the item's own bias",
}


def _named(item_id: int | str, name: str | None) -> str:
    return str(item_id) if name is None or name == str(item_id) else f"{item_id} ({name})"


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """The values of every step of one call, in their order. ``print()`` shows it.

    Attributes:
        rows: int64 [length], the catalog rows of the newest known items, which the encoder read.
        unknown_ids: how many ids of the session the catalog lacks.
        session_vectors: float32 [length, d], read by the encoder.
        category_logits: for each level, the top first, float32 [categories].
        repeat_logits: float32 [length], or None if the model has none.
        item_query: float32 [d].
        ranges: int64 [m, 2], rows ``[start, stop)`` of the candidates, the most probable categories first.
        covisited: int64 [n], rows that rank whatever the candidates are: the session's own and those co-visited.
        offsets: float32 [n], score offsets of these rows.
        best: int64 [results], the rows that were recommended, best first.
        scores: float32 [results].
        result: the answer.
        seconds: of each step: "look up", "encode", "choose", "rank".
    """

    rows: NDArray[np.int64]
    unknown_ids: int
    session_vectors: NDArray[np.float32]
    category_logits: tuple[NDArray[np.float32], ...]
    repeat_logits: NDArray[np.float32] | None
    item_query: NDArray[np.float32]
    ranges: NDArray[np.int64]
    covisited: NDArray[np.int64]
    offsets: NDArray[np.float32]
    best: NDArray[np.int64]
    scores: NDArray[np.float32]
    result: Result
    seconds: dict[str, float]

    def __str__(self) -> str:
        lines = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "seconds":
                value = ", ".join(f"{step} {1e6 * took:.0f} µs" for step, took in value.items())
            lines.append(f"{field.name:<16} {_shown(value)}")
        return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "; ".join(map(_shown, value))
    if isinstance(value, np.ndarray):
        text = np.array2string(value, precision=4, threshold=12, edgeitems=3, separator=" ").replace("\n", "")
        return f"{value.dtype} {list(value.shape)} {text}"
    return str(value)


class _Watched:
    """The steps of one session's answer, as the pipeline tells them."""

    def __init__(self, pipeline: Pipeline, ids: Any, plan: Plan) -> None:
        self.steps: dict[str, Any] = {}
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()
        self.result = pipeline.answer(ids, plan, watch=self._watch)
        if "encode" not in self.steps:
            raise UnknownItemError("no item of the session is in the catalog: the answer is popular items")

    def _watch(self, step: str, value: Any) -> None:
        now = time.perf_counter()
        self.steps[step], self.seconds[step] = value, now - self._since
        self._since = now

    @property
    def session(self) -> KnownSession:
        session: KnownSession = self.steps["look up"]
        return session

    @property
    def encoded(self) -> Encoded:
        encoded: Encoded = self.steps["encode"]
        return encoded

    @property
    def ranked(self) -> Ranked:
        ranked: Ranked = self.steps["choose"]
        return ranked


def trace(pipeline: Pipeline, ids: Any, plan: Plan) -> Trace:
    """The trace of one call: see :meth:`Recommender.trace`."""
    watched = _Watched(pipeline, ids, plan)
    encoded, ranked = watched.encoded, watched.ranked
    repeats = encoded.repeat_logits
    first_rows, ranges = plan.catalog.first_rows, ranked.ranges
    parts = [first + each for first, each in zip(first_rows, ranges, strict=True) if each is not None]
    return Trace(
        rows=watched.session.rows,
        unknown_ids=watched.session.unknown_ids,
        session_vectors=plan.catalog.vectors(watched.session.rows),
        category_logits=tuple(level[0].copy() for level in encoded.category_logits),
        repeat_logits=None if repeats is None else repeats[0].copy(),
        item_query=encoded.item_query[0].copy(),
        ranges=np.concatenate(parts),
        covisited=ranked.covisited,
        offsets=ranked.offsets,
        best=watched.result._rows,
        scores=watched.result.scores,
        result=watched.result,
        seconds=watched.seconds,
    )


def explain(pipeline: Pipeline, query_parts: QueryPartsGraph, ids: Any, row: int, plan: Plan) -> Explanation:
    """The explanation of the item in ``row`` after a session: see :meth:`Recommender.explain`."""
    watched, catalog = _Watched(pipeline, ids, plan), plan.catalog
    session, ranked = watched.session.rows, watched.ranked
    parts = query_parts(catalog.vectors(session))
    encoded, at_row = watched.encoded, np.array([row])
    query, vector = encoded.item_query[0], catalog.vectors(at_row)[0]
    scores = catalog.scores(query)
    scores[ranked.covisited] += ranked.offsets
    offset = float(ranked.offsets[ranked.covisited == row].sum())
    repeats = encoded.repeat_logits
    repeat = 0.0 if repeats is None else float(repeats[0][: len(session)][session == row].sum())
    clicks = _clicks(catalog, session, vector, parts)
    could_rank = candidate_ranges(catalog.first_rows, ranked)
    return Explanation(
        item=catalog.ids(at_row)[0],
        title=catalog.title(row),
        score=float(scores[row]),
        rank=1 + int(np.count_nonzero(scores > scores[row])),
        candidate=bool(row_ranges.contains(could_rank, at_row)[0]),
        parts=ScoreParts(
            session=float(vector @ (query if parts is None else parts.state)),
            category_conditioning=0.0 if parts is None else float(vector @ parts.category),
            session_items=sum(click.share for click in clicks),
            repeat=repeat,
            covisitation=offset - repeat,
            item_bias=float(catalog.biases(at_row)[0]),
        ),
        clicks=clicks,
        categories=_categories(catalog, at_row, encoded),
    )


def _clicks(
    catalog: Catalog, session: NDArray[np.int64], vector: NDArray[np.float32], parts: QueryParts | None
) -> tuple[Click, ...]:
    if parts is None:
        return ()
    shares = parts.session_weights * (catalog.vectors(session) @ vector)
    order = np.argsort(-shares, kind="stable")
    rows = session[order]
    each = zip(catalog.ids(rows), rows.tolist(), shares[order].tolist(), strict=True)
    return tuple(Click(item_id, catalog.title(row), share) for item_id, row, share in each)


def _categories(catalog: Catalog, at_row: NDArray[np.int64], encoded: Encoded) -> tuple[CategoryOfItem, ...]:
    path = []
    for level, logits in enumerate(encoded.category_logits):
        index = int(catalog.categories_of(at_row, level)[0])
        if not 0 <= index < len(logits[0]):  # a new category: the model knows those above it alone
            continue
        category, share = catalog.category(level, index), softmax(logits[0])
        rank = 1 + int(np.count_nonzero(share > share[index]))
        label = catalog.category_label(category.path)
        path.append(
            CategoryOfItem(category.id, category.path, label, level, float(share[index]), rank, len(share))
        )
    return tuple(path)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 [n], summing to 1, of float32 [n]."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    shares: NDArray[np.float64] = exponentials / exponentials.sum()
    return shares
