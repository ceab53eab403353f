"""Why an item has the score that it has after a session: the score's parts, and what they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.schema import QUERY_PARTS
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.encoders.session_encoder import Encoded, load_graph
from hiersrec_sdk.ranking import row_ranges


@dataclass(frozen=True, slots=True)
class ScoreParts:
    """What a score is the sum of.

    Attributes:
        session: of the encoder's query, what comes from the state of the session; all of it where the bundle was
            exported without ``query_parts.onnx``.
        category_conditioning: what comes from the category prediction that was handed on.
        own_items: what comes from the weighted sum of the session's own item vectors.
        repeat: the logit of an item that the session holds.
        links: the wide part's boost of an item that was clicked near the session's items before, or that it holds.
        bias: of the item, whatever the session.
    """

    session: float
    category_conditioning: float
    own_items: float
    repeat: float
    links: float
    bias: float


@dataclass(frozen=True, slots=True)
class Click:
    """One click of the session, and its share of :attr:`ScoreParts.own_items`."""

    item: int | str
    title: str | None
    share: float


@dataclass(frozen=True, slots=True)
class CategoryOfItem:
    """A category that the item lies in.

    Attributes:
        category: the shop's own id.
        level: 0 is the top.
        name: readable name, or None.
        probability: that the next click lies in it, by the category head.
        place: 1 for the most probable category of its level.
        of: how many categories the level has.
    """

    category: int | str
    level: int
    name: str | None
    probability: float
    place: int
    of: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why ``item`` has its score after a session. ``print()`` shows it.

    Attributes:
        item: the shop's own id.
        title: its title, or None.
        score: the sum of ``parts``, up to rounding.
        place: 1 for the item of the highest score of all items.
        candidate: whether it is ranked with the bundle's own share of candidates.
        parts: what the score is the sum of.
        clicks: the session's newest known items, the one that weighed most first; empty where the bundle was exported
            without ``query_parts.onnx``.
        categories: the item's category at each level, the top first.
    """

    item: int | str
    title: str | None
    score: float
    place: int
    candidate: bool
    parts: ScoreParts
    clicks: tuple[Click, ...]
    categories: tuple[CategoryOfItem, ...]

    def __str__(self) -> str:
        lines = [
            f"{_named(self.item, self.title)}: score {self.score:.4f}, place {self.place:,}"
            f"{'' if self.candidate else ', no candidate'}"
        ]
        for name in ScoreParts.__slots__:
            value = getattr(self.parts, name)
            if value:
                lines.append(f"  {value:+9.4f}  {_MEANINGS[name]}")
        for click in self.clicks:
            lines.append(f"    {click.share:+9.4f}  by the click on {_named(click.item, click.title)}")
        for category in self.categories:
            lines.append(
                f"  {100 * category.probability:7.2f} %  {_named(category.category, category.name)}, place "
                f"{category.place:,} of {category.of:,} categories of level {category.level}"
            )
        return "\n".join(lines)


_MEANINGS = {
    "session": "the session",
    "category_conditioning": "the category prediction handed on",
    "own_items": "likeness to the session's own items",
    "repeat": "it was clicked in this session",
    "links": "clicked near these items before",
    "bias": "how popular it is of late",
}


def _named(own: int | str, name: str | None) -> str:
    return str(own) if name is None or name == str(own) else f"{own} ({name})"


class QueryParts(NamedTuple):
    """``session_weights`` float32 [length], ``state`` and ``category_conditioning`` float32 [d]: the query is the sum of the session's
    vectors times the weights and the two."""

    session_weights: NDArray[np.float32]
    state: NDArray[np.float32]
    category_conditioning: NDArray[np.float32]


def explained(
    catalog: Catalog,
    row: int,
    session: NDArray[np.int64],
    encoded: Encoded,
    linked: NDArray[np.int64],
    boosts: NDArray[np.float32],
    candidates: row_ranges.Ranges,
    parts: QueryParts | None,
) -> Explanation:
    """The explanation of the item in ``row`` after ``session`` int64 [length] of rows, the only one of ``encoded``."""
    query, at_row = encoded.item_query[0], np.array([row])
    vector, bias = catalog.vectors(at_row)[0], catalog.biases(at_row)[0]
    scores = catalog.scores(query)
    scores[linked] += boosts
    boost = float(boosts[linked == row].sum())
    repeats = encoded.repeat_logits
    own, sums = catalog.backend.session_items(session, None if repeats is None else repeats[0])
    repeat = float(sums[own == row].sum())
    clicks: tuple[Click, ...] = ()
    if parts is not None:
        shares = parts.session_weights * (catalog.vectors(session, inputs=True) @ vector)
        order = np.argsort(-shares, kind="stable")
        rows = session[order]
        each = zip(catalog.ids(rows), rows.tolist(), shares[order].tolist(), strict=True)
        clicks = tuple(Click(own_id, catalog.title(clicked), share) for own_id, clicked, share in each)
    path = []
    for level, logits in enumerate(encoded.category_logits):
        at = int(catalog.categories_of(at_row, level)[0])
        if not 0 <= at < len(catalog.ranges[level]):  # a new category: the model knows those above it alone
            continue
        category, share = catalog.category(level, at), softmax(logits[0])
        place = 1 + int(np.count_nonzero(share > share[at]))
        path.append(CategoryOfItem(category.id, level, category.name, float(share[at]), place, len(share)))
    return Explanation(
        item=catalog.ids(at_row)[0],
        title=catalog.title(row),
        score=float(scores[row]),
        place=1 + int(np.count_nonzero(scores > scores[row])),
        candidate=bool(row_ranges.contains(candidates, at_row)[0]),
        parts=ScoreParts(
            session=float(vector @ (query if parts is None else parts.state)),
            category_conditioning=0.0 if parts is None else float(vector @ parts.category_conditioning),
            own_items=sum(click.share for click in clicks),
            repeat=repeat,
            links=boost - repeat,
            bias=float(bias),
        ),
        clicks=clicks,
        categories=tuple(path),
    )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """float64 [n], summing to 1, of float32 [n]."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    shares: NDArray[np.float64] = exponentials / exponentials.sum()
    return shares


class PartsGraph:
    """``query_parts.onnx`` of a bundle. Any number of threads may call it."""

    def __init__(self, content: bytes, providers: Sequence[str]) -> None:
        self._session: Any = load_graph(content, QUERY_PARTS, providers, 1)

    def __call__(self, vectors: NDArray[np.float32]) -> QueryParts:
        """Of one session: ``vectors`` float32 [length, d]."""
        feeds = {"session_vectors": vectors[None], "session_lengths": np.array([len(vectors)])}
        names = ["session_weights", "state_query", "category_query"]
        return QueryParts(*(value[0] for value in self._session.run(names, feeds)))
