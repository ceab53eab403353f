"""The recommender against a plain re-implementation, and what it makes of every bad input."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

import hiersrec_sdk.plan
from hiersrec_sdk import CategoryHit, Filter, Hit, Recommender, Result, errors, search
from hiersrec_sdk.encoders import session_encoder
from hiersrec_sdk.encoders.runtime import import_onnxruntime
from hiersrec_sdk.encoders.session_encoder import Encoded, OnnxSessionEncoder
from hiersrec_sdk.options import Mode
from hiersrec_sdk.ranking import available_backends, kernel_file
from tests.sdk.bundles import DIMENSION, ITEMS, MAX_LENGTH, SIZES, Shop, forge, graph, make_shop

# Shops by name: with everything optional and without, with codes and without, with ids of both types.
SHOPS = {
    "full": make_shop("string"),
    "bare": make_shop("int64", seed=1, full=False),
    "coded": make_shop("int64", seed=2, stages=[]),
    "covisited": make_shop("string", seed=4, covisitation=True),
    "large": make_shop("string", seed=3, times=30, dimension=20, stages=[8, 16], covisitation=True),
}
BACKENDS = (available_backends()[0], "numpy")  # the best that is here, and the definition


@pytest.fixture(autouse=True, scope="module")
def small_parts() -> Iterator[None]:
    """A thread ranks its part of a small catalog too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_PART_ROWS", 8)
        yield


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles by shop."""
    folder = tmp_path_factory.mktemp("bundles")
    return {name: shop.write(folder / name) for name, shop in SHOPS.items()}


@pytest.fixture(scope="module")
def loaded(paths: dict[str, Path]) -> dict[tuple[str, str], Recommender]:
    """Recommenders by shop and ranking backend."""
    return {
        (name, backend): Recommender.load(path, backend=backend)
        for name, path in paths.items()
        for backend in BACKENDS
    }


@pytest.fixture(scope="module")
def full(loaded: dict[tuple[str, str], Recommender]) -> Recommender:
    return loaded["full", BACKENDS[0]]


@dataclass(frozen=True)
class Asked:
    """The arguments of a call, but for the session; ``prepared`` are those of the filter that it brings along."""

    k: int
    mode: Any = "candidates"
    candidates: Any = None
    include_session_categories: bool = False
    prepared: dict[str, list[Any]] | None = None
    restricted: dict[str, list[Any]] = field(default_factory=dict)
    exclude_seen: bool = False
    max_per_category: int | None = None
    threads: int = 1

    def options(self, recommender: Recommender) -> dict[str, Any]:
        return {
            "k": self.k,
            "mode": self.mode,
            "candidates": self.candidates,
            "include_session_categories": self.include_session_categories,
            "filter": None if self.prepared is None else recommender.filter(**self.prepared),
            **self.restricted,
            "exclude_seen": self.exclude_seen,
            "max_per_category": self.max_per_category,
            "threads": self.threads,
        }


@dataclass(frozen=True)
class Answer:
    """What :func:`expected` says."""

    items: list[Any]
    scores: list[float]
    mode: str
    candidates: list[int]  # rows
    scored: int
    unknown: int
    path: list[tuple[int, float]]
    leaves: list[tuple[int, float]]


def allowed(shop: Shop, asked: Asked, *, but: str = "") -> set[int]:
    """Rows that the filters of ``asked`` let through, but for the argument ``but`` of the call itself."""
    rows = set(range(shop.items))
    of_the_call = [(name, ids) for name, ids in asked.restricted.items() if name != but]
    for name, ids in [*(asked.prepared or {}).items(), *of_the_call]:
        if name in ("allow", "exclude"):
            named = {row for row, own in enumerate(shop.ids) if own in set(ids)}
        else:
            named = set().union(*(shop.rows_of_category(own) for own in ids))
        rows = rows & named if name in ("allow", "categories") else rows - named
    return rows


def within_limit(shop: Shop, rows: list[int], limit: int | None) -> list[int]:
    """``rows``, best first, without those that come after ``limit`` others of the same leaf category."""
    seen: Counter[int] = Counter()
    kept = []
    for row in rows:
        leaf = shop.leaf_of(row)
        seen[leaf] += 1
        if limit is None or seen[leaf] <= limit:
            kept.append(row)
    return kept


def expected(shop: Shop, session: list[Any], asked: Asked) -> Answer:
    """What the recommender has to say, in plain Python: every candidate scored and sorted."""
    row_of = {own: row for row, own in enumerate(shop.ids)}
    known = [row_of[own] for own in session if own in row_of]
    unknown = len(session) - len(known)
    rows = known[-MAX_LENGTH:]
    may = allowed(shop, asked)
    k = min(asked.k, shop.items)
    if not rows:
        popular = sorted(may, key=lambda row: (-int(shop.clicks[row]), row))
        popular = within_limit(shop, popular, asked.max_per_category)[:k]
        scores = [float(shop.clicks[row]) for row in popular]
        return Answer([shop.ids[row] for row in popular], scores, "popular", [], 0, unknown, [], [])

    inputs = shop.vectors.astype(float)
    total = inputs[rows].sum(axis=0)
    logits = [total @ weights.astype(float) for weights in shop.weights]
    softmax = [np.exp(level - level.max()) / np.exp(level - level.max()).sum() for level in logits]
    order = sorted(range(SIZES[-1]), key=lambda leaf: (-logits[-1][leaf], leaf))
    may_not = {row for row, own in enumerate(shop.ids) if own in set(asked.restricted.get("exclude", []))}
    if asked.exclude_seen:
        may_not |= set(known)
    if asked.mode == "exact":
        candidates = set(range(shop.items))
    else:
        # Of each category count as many items as may be recommended, and ask for more where the session's own may not
        # be, of whatever category.
        counts = [len(may & {*range(*span)}) for span in shop.ranges[-1]]
        if asked.max_per_category is not None:
            counts = [min(count, asked.max_per_category) for count in counts]
        share, top_p = asked.candidates or 0.3, 0.0
        if asked.candidates == "auto":
            budgets = shop.config["calibration"]
            share, top_p = (
                0,
                (budgets["session_categories"] if asked.include_session_categories else budgets)["top_p"],
            )
        newest_first = rows[::-1] if asked.include_session_categories else []
        first = list(dict.fromkeys(shop.leaf_of(row) for row in newest_first))
        taken: list[int] = []
        for leaf in [*first, *(leaf for leaf in order if leaf not in first)]:
            reached = sum(softmax[-1][at] for at in taken)
            if top_p:
                assume(abs(reached - top_p) > 1e-5)  # the last bits of a softmax may differ
            if (
                taken
                and len(taken) >= len(first)
                and sum(shop.leaf_sizes[at] for at in taken) >= max(math.ceil(share * shop.items), k)
                and sum(counts[at] for at in taken) >= k + (len(set(known)) if asked.exclude_seen else 0)
                and reached >= top_p
            ):
                break
            taken.append(leaf)
        candidates = {
            row for leaf in taken for row in [*range(*shop.ranges[-1][leaf]), *shop.extra.get(leaf, [])]
        }

    looked_at = candidates & allowed(shop, asked, but="exclude")
    offsets = offsets_of(shop, rows)
    always = set(rows) | set(offsets)  # whatever the candidates are
    looked_at |= always & may - may_not
    scores_of = {row: float(8 * total @ shop.vectors[row].astype(float)) for row in looked_at}
    for row in looked_at:
        if shop.bias is not None:
            scores_of[row] += float(shop.bias[row])
        if shop.repeats is not None:
            scores_of[row] += rows.count(row) * float(inputs[row] @ shop.repeats.astype(float))
        scores_of[row] += offsets.get(row, 0.0)
    best = sorted((looked_at & may) - may_not, key=lambda row: (-scores_of[row], row))
    best = within_limit(shop, best, asked.max_per_category)[:k]
    return Answer(
        items=[shop.ids[row] for row in best],
        scores=[scores_of[row] for row in best],
        mode=asked.mode,
        candidates=sorted(candidates | always),
        scored=len(looked_at),
        unknown=unknown,
        path=[(int(level.argmax()), float(level.max())) for level in softmax],
        leaves=[(leaf, float(softmax[-1][leaf])) for leaf in order[:5]],
    )


def offsets_of(shop: Shop, rows: list[int]) -> dict[int, float]:
    """The score offsets of the rows that are co-visited with a session."""
    if shop.covisitation is None:
        return {}
    links = shop.covisitation.counts
    covisited = set(rows)
    for row in rows[-8:]:
        covisited |= set(links.rows[links.offsets[row] : links.offsets[row + 1]].tolist())
    offsets = {}
    for row in covisited:
        hidden = links.popularity[row] @ shop.covisitation.hidden_weight[:5] + shop.covisitation.hidden_bias
        offsets[row] = float(
            np.maximum(hidden, 0) @ shop.covisitation.weight[:-1] + shop.covisitation.weight[-1]
        )
    return offsets


def possible(shop: Shop, session: list[Any], asked: Asked) -> int:
    """How many items the answer has to have: k, as long as so many may be recommended."""
    may = allowed(shop, asked)
    if asked.exclude_seen:
        may -= {row for row, own in enumerate(shop.ids) if own in set(session)}
    return min(asked.k, len(within_limit(shop, sorted(may), asked.max_per_category)))


def rows_in(result: Result) -> list[int]:
    ranges = result.ranges
    assert ranges.dtype == np.int64
    assert (ranges[:, 0] < ranges[:, 1]).all()
    assert (ranges[:-1, 1] < ranges[1:, 0]).all()  # sorted, and neighbors that touch are one
    return [row for start, stop in ranges.tolist() for row in range(start, stop)]


def check(shop: Shop, result: Result, want: Answer) -> None:
    assert list(result.items) == want.items
    assert result.scores.dtype == np.float32
    assert result.scores.tolist() == want.scores
    assert result.mode == want.mode
    assert result.unknown_ids == want.unknown
    assert rows_in(result) == want.candidates
    assert result.rows_scored == want.scored
    assert len(result) == len(want.items)
    for hits, right in ((result.category_path, want.path), (result.categories, want.leaves)):
        assert [hit.index for hit in hits] == [index for index, _ in right]
        assert [hit.probability for hit in hits] == pytest.approx(
            [chance for _, chance in right], rel=1e-5, abs=1e-30
        )
    assert [hit.level for hit in result.category_path] == list(range(len(want.path)))


def check_bytes(shop: Shop, result: Result) -> None:
    """Without filters and codes: what every row that was looked at takes."""
    row_bytes = 4 * (DIMENSION + (shop.bias is not None))
    # the C kernel reads the session's own and covisited items apart from the ranges that hold them
    apart = MAX_LENGTH if shop.covisitation is None else MAX_LENGTH * 4
    assert 0 <= result.bytes_read - result.rows_scored * row_bytes <= apart * row_bytes


def sessions(shop: Shop, max_size: int = MAX_LENGTH + 4) -> st.SearchStrategy[list[Any]]:
    few = st.sampled_from(shop.ids[:4])  # so that items stand in a session more than once
    return st.lists(st.sampled_from(shop.ids) | few | st.just(shop.stranger), max_size=max_size)


@st.composite
def restrictions(draw: st.DrawFn, shop: Shop) -> dict[str, list[Any]]:
    """Arguments of a filter, some left out."""
    categories = st.lists(st.sampled_from([own for level in shop.category_ids for own in level]), max_size=4)
    some = st.lists(st.sampled_from(shop.ids) | st.just(shop.stranger), max_size=30)

    def most(ids: list[Any]) -> list[Any]:
        return [own for own in shop.ids if own not in set(ids)]

    drawn: dict[str, list[Any]] = {}
    for name, ids in (
        ("allow", some | some.map(most)),
        ("exclude", some | some.map(most) if shop.items == ITEMS else some),
        ("categories", categories.filter(len)),
        ("exclude_categories", categories),
    ):
        if draw(st.integers(0, 3)) == 0:
            drawn[name] = draw(ids)
    return drawn


names = st.sampled_from(sorted(SHOPS))
ks = st.integers(1, 12) | st.integers(1, ITEMS + 5)
modes = st.sampled_from(["candidates", "exact"])
shares = st.none() | st.floats(0, 1, exclude_min=True)


@st.composite
def questions(draw: st.DrawFn, shop: Shop) -> Asked:
    return Asked(
        k=draw(ks),
        mode=draw(modes),
        candidates=draw(shares if shop.top_p is None else shares | st.just("auto")),
        include_session_categories=draw(st.booleans()),
        prepared=draw(st.none() | restrictions(shop)),
        restricted=draw(restrictions(shop)),
        exclude_seen=draw(st.booleans()),
        max_per_category=draw(st.none() | st.integers(1, 5)),
        threads=draw(st.sampled_from([1, 1, 2, 3])),
    )


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=names, backend=st.sampled_from(BACKENDS), k=ks, mode=modes, share=shares)
def test_against_a_plain_implementation(
    data: st.DataObject,
    name: str,
    backend: str,
    k: int,
    mode: Any,
    share: float | None,
    loaded: dict[tuple[str, str], Recommender],
) -> None:
    shop = SHOPS[name]
    session = data.draw(sessions(shop))
    result = loaded[name, backend].recommend(session, k, mode=mode, candidates=share)
    check(shop, result, expected(shop, session, Asked(k, mode, share)))
    if shop.stages is None:
        check_bytes(shop, result)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), name=names, backend=st.sampled_from(BACKENDS))
def test_filters_and_budgets_against_a_plain_implementation(
    data: st.DataObject, name: str, backend: str, loaded: dict[tuple[str, str], Recommender]
) -> None:
    shop, recommender = SHOPS[name], loaded[name, backend]
    session, asked = data.draw(sessions(shop)), data.draw(questions(shop))
    result = recommender.recommend(session, **asked.options(recommender))
    check(shop, result, expected(shop, session, asked))
    assert len(result) == possible(shop, session, asked)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), name=names, backend=st.sampled_from(BACKENDS), batch_size=st.integers(1, 9))
def test_many_sessions_are_answered_as_one_by_one(
    data: st.DataObject,
    name: str,
    backend: str,
    batch_size: int,
    loaded: dict[tuple[str, str], Recommender],
) -> None:
    shop, recommender = SHOPS[name], loaded[name, backend]
    asked = data.draw(questions(shop))
    many = data.draw(st.lists(sessions(shop), max_size=12))
    results = recommender.recommend_many(many, batch_size=batch_size, **asked.options(recommender))
    assert len(results) == len(many)
    for session, result in zip(many, results, strict=True):
        check(shop, result, expected(shop, session, asked))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=ks, share=st.floats(0, 1, exclude_min=True))
def test_candidates_are_a_part_of_exact(data: st.DataObject, k: int, share: float, full: Recommender) -> None:
    session = data.draw(sessions(SHOPS["full"]))
    some = full.recommend(session, k, candidates=share)
    every = full.recommend(session, ITEMS, mode="exact")
    score_of = dict(zip(every.items, every.scores.tolist(), strict=True))
    assert every.rows_scored in (ITEMS, 0)
    assert len(every) == ITEMS
    assert all(score_of[item] == score for item, score in zip(some.items, some.scores.tolist(), strict=True))
    # Of the rows that were scored, the best are the best of `exact`, in the same order.
    if some.mode == "candidates":
        scored = set(full.catalog.ids(np.array(rows_in(some))))
        assert [item for item in every.items if item in scored][:k] == list(some.items)
        assert len(some) == min(k, ITEMS)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), k=ks)
def test_all_of_the_catalog_as_candidates_is_exact(data: st.DataObject, k: int, full: Recommender) -> None:
    session = data.draw(sessions(SHOPS["full"]))
    every = full.recommend(session, k, mode="exact")
    some = full.recommend(session, k, candidates=1)
    assert every.items == some.items
    assert every.scores.tolist() == some.scores.tolist()


def test_a_budget_that_is_met_exactly(full: Recommender) -> None:
    # The category that reaches the budget is the last: one more row would take another one.
    session = SHOPS["full"].ids[20:22]
    leaf = full.recommend(session, 1, candidates=1e-9).categories[0]
    start, stop = full.catalog.tree.ranges[-1][leaf.index].tolist()
    just = full.recommend(session, 1, candidates=(stop - start) / ITEMS)
    more = full.recommend(session, 1, candidates=(stop - start + 1) / ITEMS)
    assert just.rows_scored < more.rows_scored


def test_hits_and_categories(full: Recommender) -> None:
    shop = SHOPS["full"]
    assert shop.titles is not None
    result = full.recommend(shop.ids[5:8], 4)
    hits = list(result)
    for hit, item, score in zip(hits, result.items, result.scores, strict=True):
        assert hit == Hit(item, float(score), shop.titles[shop.ids.index(item)] or None)
        assert type(hit.score) is float
    assert {type(hit.title) for hit in full.recommend(shop.ids[5:8], ITEMS)} == {str, type(None)}
    assert [hit.level for hit in result.categories] == [2] * 5
    first = result.categories[0]
    assert first == result.category_path[-1]
    assert first == CategoryHit(
        f"2/{first.index}", shop.category_paths[2, first.index], first.probability, 2, first.index
    )
    for level, category in enumerate(result.category_path):
        assert category.path == shop.category_paths[level, category.index]
    assert "items=" in repr(result)
    assert "catalog" not in repr(result)


def test_a_result_is_indexed_as_a_tuple_of_hits(full: Recommender) -> None:
    result = full.recommend(["0"], 4)
    hits = tuple(result)
    assert [result[at] for at in range(-4, 4)] == [*hits, *hits]
    assert result[np.int64(1)] == hits[1]
    assert type(result[0].score) is float
    for part in (slice(2), slice(1, 99), slice(None, None, -1), slice(4, None)):
        assert result[part] == hits[part]
    for beyond in (4, -5):
        with pytest.raises(IndexError):
            result[beyond]


def test_results_cannot_be_changed(full: Recommender) -> None:
    result: Any = full.recommend(["0"])
    with pytest.raises(AttributeError):
        result.items = ()


def test_defaults(full: Recommender) -> None:
    assert len(full.recommend(["0"])) == 20
    assert full.recommend(["0"]).mode == "candidates"
    default, named = (
        full.recommend(["0"], 1),
        full.recommend(["0"], 1, candidates=full.config["candidate_share"]),
    )
    assert default.rows_scored == named.rows_scored
    assert full.providers == ("cpu",)
    assert full.backend == BACKENDS[0]
    assert full.config["metrics"] == {"recall@20": 0.5}
    shown = f"<Recommender: 60 items, 9 categories, providers cpu, backend {BACKENDS[0]}"
    assert repr(full).startswith(shown)


def test_only_the_last_known_items_count(full: Recommender) -> None:
    ids = SHOPS["full"].ids
    window = ids[10 : 10 + MAX_LENGTH]
    alone = full.recommend(window, 9)
    for session in (ids[:5] + window, [*ids[:5], "?", *window, "?", "?"], ids[30:] * 40 + window):
        longer = full.recommend(session, 9)
        assert longer.items == alone.items
        assert longer.scores.tolist() == alone.scores.tolist()
        assert longer.unknown_ids == session.count("?")


def test_own_items_are_always_scored(full: Recommender) -> None:
    for own in SHOPS["full"].ids:
        row = full.catalog.rows([own])[0]
        assert row in rows_in(full.recommend([own], 1, candidates=1e-9))


@pytest.mark.parametrize("session", [[], ["?"], ["?", "??"], (), np.array([], dtype=str), iter(())])
def test_popular_items_where_nothing_is_known(session: Any, full: Recommender) -> None:
    result = full.recommend(session, 3)
    assert result.mode == "popular"
    assert len(result) == len(list(result)) == 3
    assert result.rows_scored == result.bytes_read == 0
    assert result.categories == result.category_path == ()
    assert result.ranges.shape == (0, 2)


@pytest.mark.parametrize("k", [ITEMS, ITEMS + 1, 10**20, np.int64(500)])
@pytest.mark.parametrize("session", [["0"], []])
def test_k_above_the_catalog_gives_the_catalog(k: int, session: list[str], full: Recommender) -> None:
    assert sorted(full.recommend(session, k).items) == sorted(SHOPS["full"].ids)
    assert sorted(full.recommend(session, k, mode="exact").items) == sorted(SHOPS["full"].ids)


@pytest.mark.parametrize(
    "kind",
    [list, tuple, np.array, iter, lambda ids: np.array(ids, dtype=object), lambda ids: (own for own in ids)],
)
def test_kinds_of_sessions(
    kind: Callable[[list[Any]], Any], loaded: dict[tuple[str, str], Recommender]
) -> None:
    for name, shop in SHOPS.items():
        ids = shop.ids[3:6]
        want = loaded[name, BACKENDS[0]].recommend(ids, 5)
        assert loaded[name, BACKENDS[0]].recommend(kind(ids), 5).items == want.items
        assert loaded[name, BACKENDS[0]].recommend_many(iter([kind(ids)]), 5)[0].items == want.items


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"session": "shoe-17"},
        errors.InvalidSessionError,
        "session must be a list of item ids, oldest first, got 'shoe-17', of type str",
    ),
    (
        {"session": b"shoe"},
        errors.InvalidSessionError,
        "session must be a list of item ids, oldest first, got b'shoe', of type bytes",
    ),
    (
        {"session": {"a": 1}},
        errors.InvalidSessionError,
        "session must be a list of item ids, oldest first, got {'a': 1}, of type dict",
    ),
    (
        {"session": {"a"}},
        errors.InvalidSessionError,
        "session must be a list of item ids, oldest first, got {'a'}, of type set",
    ),
    (
        {"session": frozenset()},
        errors.InvalidSessionError,
        "session must be a list of item ids, oldest first, got frozenset(), of type frozenset",
    ),
    (
        {"session": None},
        errors.InvalidSessionError,
        "session must be a list of item ids, oldest first, got None",
    ),
    (
        {"session": 17},
        errors.InvalidSessionError,
        "session must be a list of item ids, oldest first, got 17, of type int",
    ),
    (
        {"session": np.zeros((2, 2))},
        errors.InvalidSessionError,
        "session must be a list of item ids, oldest first, got an array of float64 [2, 2]",
    ),
    (
        {"session": np.array("a")},
        errors.InvalidSessionError,
        "session must be a list of item ids, oldest first, got an array of <U1 []",
    ),
    (
        {"session": ["0", 17]},
        errors.InvalidItemIdError,
        "item id at position 1 is 17, of type int; the ids of this",
    ),
    (
        {"session": ["0", None]},
        errors.InvalidItemIdError,
        "item id at position 1 is None; the ids of this catalog are",
    ),
    (
        {"session": [["0"]]},
        errors.InvalidItemIdError,
        "item id at position 0 is ['0'], of type list; the ids",
    ),
    ({"session": [math.nan]}, errors.NaNItemIdError, "item id at position 0 is NaN, a missing value"),
    (
        {"session": ["0", "hat-1"], "on_unknown": "error"},
        errors.UnknownItemError,
        "item id 'hat-1' at position 1 is not in the catalog; on_unknown='skip' leaves such ids out",
    ),
    ({"k": 0}, errors.InvalidKError, "k must be an integer ≥ 1, got 0"),
    ({"k": -3}, errors.InvalidKError, "k must be an integer ≥ 1, got -3"),
    ({"k": 2.0}, errors.InvalidKError, "k must be an integer ≥ 1, got 2.0"),
    ({"k": True}, errors.InvalidKError, "k must be an integer ≥ 1, got True"),
    ({"k": "5"}, errors.InvalidKError, "k must be an integer ≥ 1, got '5'"),
    ({"k": None}, errors.InvalidKError, "k must be an integer ≥ 1, got None"),
    (
        {"mode": "fast"},
        errors.InvalidModeError,
        "mode must be 'candidates', 'exact' or 'auto', got 'fast'",
    ),
    ({"mode": None}, errors.InvalidModeError, "mode must be 'candidates', 'exact' or 'auto', got None"),
    (
        {"candidates": 0},
        errors.InvalidCandidatesError,
        "candidates must be a number in (0, 1], or 'auto', got 0",
    ),
    (
        {"candidates": 1.01},
        errors.InvalidCandidatesError,
        "candidates must be a number in (0, 1], or 'auto', got 1.01",
    ),
    (
        {"candidates": -0.5},
        errors.InvalidCandidatesError,
        "candidates must be a number in (0, 1], or 'auto', got -0.5",
    ),
    (
        {"candidates": math.nan},
        errors.InvalidCandidatesError,
        "candidates must be a number in (0, 1], or 'auto', got nan",
    ),
    (
        {"candidates": True},
        errors.InvalidCandidatesError,
        "candidates must be a number in (0, 1], or 'auto', got True",
    ),
    (
        {"candidates": "0.04"},
        errors.InvalidCandidatesError,
        "candidates must be a number in (0, 1], or 'auto', got '0.04'",
    ),
    (
        {"candidates": "AUTO"},
        errors.InvalidCandidatesError,
        "candidates must be a number in (0, 1], or 'auto', got 'AUTO'",
    ),
    (
        {"candidates": [0.1]},
        errors.InvalidCandidatesError,
        "candidates must be a number in (0, 1], or 'auto', got [0.1]",
    ),
    (
        {"on_unknown": "ignore"},
        errors.InvalidOnUnknownError,
        "on_unknown must be 'skip' or 'error', got 'ignore'",
    ),
    (
        {"on_unknown": ["skip"]},
        errors.InvalidOnUnknownError,
        "on_unknown must be 'skip' or 'error', got ['skip']",
    ),
    (
        {"mode": ["exact"]},
        errors.InvalidModeError,
        "mode must be 'candidates', 'exact' or 'auto', got ['exact']",
    ),
    ({"exclude_seen": "no"}, errors.InvalidExcludeSeenError, "exclude_seen must be True or False, got 'no'"),
    ({"exclude_seen": None}, errors.InvalidExcludeSeenError, "exclude_seen must be True or False, got None"),
    (
        {"include_session_categories": 2},
        errors.InvalidIncludeSessionCategoriesError,
        "include_session_categories must be True or False, got 2",
    ),
    (
        {"threads": 0},
        errors.InvalidThreadsError,
        "threads must be an integer from 1 to 256, or 'auto', got 0",
    ),
    (
        {"threads": 1.0},
        errors.InvalidThreadsError,
        "threads must be an integer from 1 to 256, or 'auto', got 1.0",
    ),
    (
        {"threads": True},
        errors.InvalidThreadsError,
        "threads must be an integer from 1 to 256, or 'auto', got True",
    ),
    (
        {"threads": None},
        errors.InvalidThreadsError,
        "threads must be an integer from 1 to 256, or 'auto', got None",
    ),
    (
        {"max_per_category": 0},
        errors.InvalidMaxPerCategoryError,
        "max_per_category must be an integer ≥ 1, or None, got 0",
    ),
    (
        {"max_per_category": 2.0},
        errors.InvalidMaxPerCategoryError,
        "max_per_category must be an integer ≥ 1, or None, got 2.0",
    ),
    (
        {"max_per_category": True},
        errors.InvalidMaxPerCategoryError,
        "max_per_category must be an integer ≥ 1, or None, got True",
    ),
    (
        {"filter": ["0"]},
        errors.InvalidFilterError,
        "filter must come from Recommender.filter(), or be None, got ['0']",
    ),
    (
        {"allow": "shoe-17"},
        errors.InvalidFilterError,
        "allow must be a list of item ids, got 'shoe-17', of type str",
    ),
    (
        {"exclude": b"shoe"},
        errors.InvalidFilterError,
        "exclude must be a list of item ids, got b'shoe', of type bytes",
    ),
    ({"exclude": 5}, errors.InvalidFilterError, "exclude must be a list of item ids, got 5, of type int"),
    (
        {"categories": "0/0"},
        errors.InvalidFilterError,
        "categories must be a list of category ids, got '0/0', of type str",
    ),
    (
        {"exclude_categories": {"0/0": 1}},
        errors.InvalidFilterError,
        "exclude_categories must be a list of category ids, got {'0/0': 1}, of type dict",
    ),
    (
        {"categories": ["0/0", "shoes"]},
        errors.UnknownCategoryError,
        "categories: there is no category 'shoes' of type str; category ids of this catalog are strings, such as "
        "'2/0'",
    ),
    (
        {"categories": [7]},
        errors.UnknownCategoryError,
        "categories: there is no category 7 of type int; category",
    ),
    (
        {"exclude_categories": [None]},
        errors.UnknownCategoryError,
        "exclude_categories: there is no category None",
    ),
    (
        {"allow": ["0", 5]},
        errors.InvalidItemIdError,
        "allow: item id at position 1 is 5, of type int; the ids of this catalog are strings",
    ),
    (
        {"exclude": [math.nan]},
        errors.NaNItemIdError,
        "exclude: item id at position 0 is NaN, a missing value",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_input(
    arguments: dict[str, Any], error: type[Exception], message: str, full: Recommender
) -> None:
    assert issubclass(error, errors.InvalidArgumentError)
    session = arguments.get("session", ["0"])
    options = {name: value for name, value in arguments.items() if name != "session"}
    with pytest.raises(error, match=re.escape(message)) as caught:
        full.recommend(session, **options)
    assert type(caught.value) is error
    assert str(caught.value).startswith(message)
    with pytest.raises(error, match=re.escape(message)):
        full.recommend_many([["0"], session], **options)
    if "session" in arguments:
        with pytest.raises(error, match=f"^session 1: {re.escape(message)}"):
            full.recommend_many([["0"], session], **options)


@pytest.mark.parametrize(
    ("good", "bad", "error"),
    [
        ({"k": 1}, {"k": True}, errors.InvalidKError),
        ({"k": 2}, {"k": 2.0}, errors.InvalidKError),
        ({"candidates": 1}, {"candidates": True}, errors.InvalidOptionError),
        ({"threads": 1}, {"threads": True}, errors.InvalidOptionError),
        ({"threads": 2}, {"threads": 2.0}, errors.InvalidOptionError),
        ({"max_per_category": 1}, {"max_per_category": True}, errors.InvalidOptionError),
        ({"max_per_category": 2}, {"max_per_category": 2.0}, errors.InvalidOptionError),
    ],
)
def test_what_equals_a_good_argument_is_still_a_bad_one(
    good: dict[str, Any], bad: dict[str, Any], error: type[Exception], full: Recommender
) -> None:
    for _ in range(2):  # arguments that have been checked are remembered
        full.recommend(["0"], **good)
        with pytest.raises(error):
            full.recommend(["0"], **bad)


def test_candidates_auto_needs_a_budget_that_was_measured(loaded: dict[tuple[str, str], Recommender]) -> None:
    bare = loaded["bare", BACKENDS[0]]
    for call in (bare.recommend, bare.recommend_many):
        with pytest.raises(
            errors.InvalidOptionError, match="candidates is 'auto', but this bundle was exported without"
        ):
            call([], candidates="auto")


def test_mode_auto_is_exact_where_that_is_cheap(
    monkeypatch: pytest.MonkeyPatch, loaded: dict[tuple[str, str], Recommender]
) -> None:
    for (name, backend), recommender in loaded.items():
        shop = SHOPS[name]
        few = recommender.filter(allow=shop.ids[5:10])
        session = shop.ids[40:43]
        # 4 MiB are more than these catalogs have
        assert recommender.recommend(session, 3, mode="auto").mode == "exact"
        assert recommender.recommend(session, 3, mode="auto", filter=few).mode == "exact"
        with monkeypatch.context() as patch:
            patch.setattr(hiersrec_sdk.plan, "_AUTO_BYTES", 0)
            recommender._planner.forget()
            for share in (1e-9, 0.5, 1):
                asked = Asked(3, "auto", share)
                result = recommender.recommend(session, **asked.options(recommender))
                check(shop, result, expected(shop, session, replace(asked, mode=result.mode)))
            if shop.stages is None and backend == "numpy":  # which reads as much in either way
                assert recommender.recommend(session, 1, mode="auto", candidates=1).mode == "exact"
            assert recommender.recommend(session, 1, mode="auto", candidates=1e-9).mode == "candidates"
            # what a filter leaves is soon read
            assert recommender.recommend(session, 1, mode="auto", candidates=0.5, filter=few).mode == "exact"
            (many,) = recommender.recommend_many([session], 1, mode="auto", candidates=1e-9)
            assert many.mode == "candidates"
        recommender._planner.forget()


@pytest.mark.parametrize("kind", [list, tuple, set, iter, np.array, lambda ids: (own for own in ids)])
@pytest.mark.parametrize("few", [1_024, 2])
def test_kinds_of_filters(
    kind: Callable[[list[Any]], Any],
    few: int,
    monkeypatch: pytest.MonkeyPatch,
    loaded: dict[tuple[str, str], Recommender],
) -> None:
    # more than that are excluded in another way
    monkeypatch.setattr(hiersrec_sdk.plan, "SKIPPED_SINGLY", few)
    for name, shop in SHOPS.items():
        recommender = loaded[name, BACKENDS[0]]
        for restricted in (
            {"allow": shop.ids[:40]},
            {"exclude": shop.ids[:40]},
            {"categories": [shop.category_ids[0][1], shop.category_ids[2][4]]},
            {"exclude_categories": [shop.category_ids[1][2], shop.category_ids[2][0]]},
        ):
            asked = Asked(30, "exact", restricted=restricted)
            want = expected(shop, shop.ids[3:6], asked)
            given = {own: kind(ids) for own, ids in restricted.items()}
            result = recommender.recommend(shop.ids[3:6], 30, mode="exact", **given)
            assert (list(result.items), result.scores.tolist()) == (want.items, want.scores)
            prepared = recommender.filter(**{own: kind(ids) for own, ids in restricted.items()})
            assert (
                recommender.recommend(shop.ids[3:6], 30, mode="exact", filter=prepared).items == result.items
            )


def test_many_excluded_items_beside_a_filter(
    monkeypatch: pytest.MonkeyPatch, loaded: dict[tuple[str, str], Recommender]
) -> None:
    monkeypatch.setattr(hiersrec_sdk.plan, "SKIPPED_SINGLY", 2)
    for (name, _), recommender in loaded.items():
        shop = SHOPS[name]
        for mode in ("candidates", "exact"):
            asked = Asked(
                50,
                mode,
                prepared={"exclude": shop.ids[30:]},
                restricted={"exclude": [*shop.ids[:25], shop.stranger]},
            )
            for session in (shop.ids[1:3], []):
                result = recommender.recommend(session, **asked.options(recommender))
                assert sorted(result.items) == sorted(shop.ids[25:30])


def test_a_filter_of_another_recommender(paths: dict[str, Path], full: Recommender) -> None:
    other = Recommender.load(paths["full"])
    restricted: list[dict[str, Any]] = [{}, {"exclude": ["0"]}, {"allow": ["0"]}]
    for more in restricted:
        with pytest.raises(errors.InvalidFilterError, match="filter was made by another recommender"):
            full.recommend(["0"], filter=other.filter(), **more)


def test_nothing_may_be_recommended(loaded: dict[tuple[str, str], Recommender]) -> None:
    for (name, _), recommender in loaded.items():
        shop = SHOPS[name]
        for session in ([], shop.ids[:2]):
            for mode in get_args(Mode):
                restricted: list[dict[str, Any]] = [
                    {"allow": []},
                    {"allow": [shop.stranger]},
                    {"exclude": shop.ids},
                    {"categories": []},
                ]
                for options in restricted:
                    result = recommender.recommend(session, 5, mode=mode, **options)
                    assert result.items == ()
                    assert result.scores.tolist() == []
    # An empty list of what to leave out leaves nothing out.
    assert len(loaded["full", BACKENDS[0]].recommend(["0"], 5, exclude=[], exclude_categories=[])) == 5


def test_a_limit_for_every_category(full: Recommender) -> None:
    shop = SHOPS["full"]
    for mode in ("candidates", "exact"):
        for limit in (1, 2, 3):
            result = full.recommend(["0"], 60, mode=mode, max_per_category=limit)
            leaves = Counter(shop.leaf_of(row) for row in full.catalog.rows(list(result.items)).tolist())
            assert leaves == {leaf: min(limit, size) for leaf, size in enumerate(shop.leaf_sizes) if size}


def test_categories_of_the_session(full: Recommender) -> None:
    shop = SHOPS["full"]
    for own in shop.ids:
        result = full.recommend([own], 1, candidates=1e-9, include_session_categories=True)
        start, stop = shop.ranges[-1][shop.leaf_of(shop.ids.index(own))]
        assert set(range(start, stop)) <= set(rows_in(result))
        # What is said of the categories stays the model's.
        assert result.categories == full.recommend([own], 1).categories


@pytest.mark.parametrize("sessions", ["shoe-17", b"x", {"a": ["0"]}, None, 5])
def test_no_list_of_sessions(sessions: Any, full: Recommender) -> None:
    with pytest.raises(errors.InvalidSessionError, match=r"^sessions must be a list of sessions, got "):
        full.recommend_many(sessions)


def test_repr_says_what_ranks(loaded: dict[tuple[str, str], Recommender]) -> None:
    missing = "" if kernel_file() else ", no compiled kernel"
    for (_, backend), recommender in loaded.items():
        assert repr(recommender).endswith(f" categories, providers cpu, backend {backend}{missing}>")


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None])
def test_bad_batch_size(batch_size: Any, full: Recommender) -> None:
    with pytest.raises(errors.InvalidBatchSizeError, match="batch_size must be an integer ≥ 1, got "):
        full.recommend_many([["0"]], batch_size=batch_size)


@pytest.mark.parametrize("ids", [["0", "shoe-17"], [17, 40], np.array([17, 40])])
def test_a_flat_list_of_ids_is_no_list_of_sessions(ids: Any, full: Recommender) -> None:
    with pytest.raises(
        errors.InvalidSessionError,
        match=r"^session 0: session must be .*of type .*; for one session use recommend\(\)$",
    ):
        full.recommend_many(ids)
    with pytest.raises(errors.InvalidSessionError) as caught:  # a list of sessions, one of them no list
        full.recommend_many([["0"], "shoe-17"])
    assert "recommend()" not in str(caught.value)


def test_sixteen_threads(full: Recommender) -> None:
    random = np.random.default_rng(0)
    ids = np.array(SHOPS["full"].ids)
    many = [ids[random.integers(0, ITEMS, random.integers(1, 9))].tolist() for _ in range(400)]
    alone = [full.recommend(session, 9) for session in many]
    full.catalog.base.tables.__dict__.pop("popular", None)  # computed when it is first asked for
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(lambda session: full.recommend(session, 9), many))
            popular = list(pool.map(lambda _: full.recommend([], 9).items, range(16)))
    finally:
        sys.setswitchinterval(interval)
    for one, other in zip(alone, together, strict=True):
        assert one.items == other.items
        assert one.scores.tolist() == other.scores.tolist()
        assert one.ranges.tolist() == other.ranges.tolist()
    assert len(set(popular)) == 1


def test_threads_share_a_filter(loaded: dict[tuple[str, str], Recommender]) -> None:
    random = np.random.default_rng(1)
    for name in ("full", "large"):
        shop, recommender = SHOPS[name], loaded[name, BACKENDS[0]]
        shared = recommender.filter(exclude=shop.ids[::2])
        many = [
            [shop.ids[at] for at in random.integers(0, shop.items, random.integers(1, 9))] for _ in range(100)
        ]

        def answer(
            session: list[Any],
            mode: Any = "exact",
            recommender: Recommender = recommender,
            shared: Filter = shared,
        ) -> tuple[Any, ...]:
            return recommender.recommend(
                session, 9, mode=mode, filter=shared, exclude_seen=True, threads=2
            ).items

        alone = [answer(session) for session in many]
        assert not {own for items in alone for own in items} & set(shop.ids[::2])
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(answer, many))
        assert together == alone


@pytest.mark.parametrize("name", sorted(SHOPS))
def test_threads_change_nothing(name: str, loaded: dict[tuple[str, str], Recommender]) -> None:
    shop = SHOPS[name]
    random = np.random.default_rng(2)
    many = [[shop.ids[at] for at in random.integers(0, shop.items, random.integers(0, 9))] for _ in range(40)]
    for backend in BACKENDS:
        recommender = loaded[name, backend]
        exact: dict[str, Any] = {"mode": "exact"}
        for options in ({}, exact, {**exact, "exclude": shop.ids[:9], "exclude_seen": True}):
            one = recommender.recommend_many(many, 9, batch_size=4, **options)
            two = recommender.recommend_many(many, 9, batch_size=4, threads=3, **options)
            each = [recommender.recommend(session, 9, threads=5, **options) for session in many]
            for results in zip(one, two, each, strict=True):
                assert len({result.items for result in results}) == 1
                assert len({tuple(result.scores.tolist()) for result in results}) == 1
                assert len({result.rows_scored for result in results}) == 1


def test_providers(tmp_path: Path) -> None:
    path = SHOPS["bare"].write(tmp_path / "bundle")
    with pytest.raises(errors.ProviderError, match="provider 'tpu' is unknown; there are 'cpu', 'cuda'"):
        Recommender.load(path, providers=("tpu",))
    with pytest.raises(
        errors.InvalidProvidersError,
        match=r"providers must be a list of names such as \('cpu',\), got 'cpu'",
    ):
        Recommender.load(path, providers="cpu")
    with pytest.raises(errors.InvalidProvidersError, match="providers must be a list of names"):
        Recommender.load(path, providers=())
    with pytest.raises(errors.BackendError, match="'fortran' is not available"):
        Recommender.load(path, backend="fortran")
    no_counts: list[Any] = [0, 1.5, True, 257, 10**6, 10**5000, "2", None]
    for threads in no_counts:
        with pytest.raises(
            errors.InvalidThreadsError, match="threads must be an integer from 1 to 256, or 'auto', got "
        ):
            Recommender.load(path, threads=threads)


def test_a_provider_that_is_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = SHOPS["bare"].write(tmp_path / "bundle")
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    onnxruntime = import_onnxruntime()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cpu])
    with pytest.raises(
        errors.ProviderError, match=r"'cuda' .*is not in the onnxruntime installed here.*hiersrec-sdk\[gpu\]"
    ):
        Recommender.load(path, providers=("cuda", "cpu"))
    # An onnxruntime that knows CUDA goes on without it, with no more than a warning, where it does not start.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [cuda, cpu])
    monkeypatch.setattr(onnxruntime, "InferenceSession", partial(on_cpu, onnxruntime.InferenceSession))
    with pytest.raises(errors.ProviderError, match=r"'cuda' .*did not start: "):
        Recommender.load(path, providers=("cuda",))
    assert Recommender.load(path).providers == ("cpu",)


def on_cpu(session: Any, model: Any, options: Any, providers: list[str], **settings: Any) -> Any:
    return session(model, options, ["CPUExecutionProvider"], **settings)


def test_onnxruntime_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = SHOPS["bare"].write(tmp_path / "bundle")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'hiersrec-sdk\[cpu\]'"):
        Recommender.load(path)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'hiersrec-sdk\[gpu\]'"):
        Recommender.load(path, providers=("cuda",))


def changed_graph(change: Callable[[onnx.GraphProto], object]) -> bytes:
    model = onnx.load_from_string(graph(SHOPS["bare"].weights, None))
    change(model.graph)
    return bytes(model.SerializeToString())


def narrow_batch(found: onnx.GraphProto) -> None:
    dimension = found.input[0].type.tensor_type.shape.dim[0]
    dimension.ClearField("dim_param")
    dimension.dim_value = 1


def double_query(found: onnx.GraphProto) -> None:
    node = onnx.helper.make_node("Cast", ["item_query"], ["wide"], to=TensorProto.DOUBLE)
    found.node.append(node)
    found.output.pop()
    found.output.append(onnx.helper.make_tensor_value_info("wide", TensorProto.DOUBLE, ["batch", DIMENSION]))


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        (b"", "cannot be loaded"),
        (b"\x80\x04K\x01.", "cannot be loaded"),
        (
            changed_graph(lambda found: found.output.pop(0)),
            "output 'category_logits_0' is missing; the graph has",
        ),
        (changed_graph(lambda found: found.output.pop(2)), "output 'category_logits' is missing"),
        (changed_graph(double_query), "output 'item_query' is missing; .* wide"),
        (graph(SHOPS["bare"].weights[:2], None), "output 'category_logits_1' is missing"),
        (
            graph([*SHOPS["bare"].weights[:2], SHOPS["bare"].weights[2][:, 1:]], None),
            r"output 'category_logits' is tensor\(float\) \['batch', 8\]; it must be tensor\(float\) \['batch', 9\]",
        ),
        (
            graph([weights[1:] for weights in SHOPS["bare"].weights], None),
            r"input 'session_vectors' is tensor\(float\) \['batch', 'length', 5\]; it must be .* 6\]",
        ),
        (changed_graph(narrow_batch), r"input 'session_vectors' is tensor\(float\) \[1, "),
    ],
)
def test_a_graph_that_does_not_keep_the_contract(model: bytes, cause: str, tmp_path: Path) -> None:
    shop = SHOPS["bare"]
    path = forge(tmp_path / "bundle", shop.config, shop.tensors, {"model.onnx": model})
    with pytest.raises(errors.BundleCorruptError, match=rf"model\.onnx.*{cause}"):
        Recommender.load(path)


def test_an_encoder_from_bytes() -> None:
    shop = SHOPS["full"]
    encoder = OnnxSessionEncoder(shop.files["model.onnx"], dimension=DIMENSION, categories=SIZES, threads=2)
    vectors = shop.vectors[None, :4]
    encoded = encoder.encode(vectors, np.array([3]))
    total = vectors[0, :3].sum(axis=0)
    assert encoded.item_query.tolist() == [(8 * total).tolist()]
    assert [logits.shape for logits in encoded.category_logits] == [(1, size) for size in SIZES]
    assert encoded.category_logits[-1][0].tolist() == (total @ shop.weights[-1]).tolist()
    assert encoded.repeat_logits is not None
    assert encoded.repeat_logits.shape == (1, 4)
    assert encoded.repeat_logits[0, 3] == 0


def copied(encoded: Encoded) -> list[list[Any]]:
    """What the graph said, in arrays of its own."""
    repeats = [] if encoded.repeat_logits is None else [encoded.repeat_logits]
    return [array.tolist() for array in (*encoded.category_logits, encoded.item_query, *repeats)]


@pytest.mark.parametrize("name", ["full", "bare"])
def test_one_session_is_encoded_as_a_batch_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = SHOPS[name]
    random = np.random.default_rng(0)
    table = shop.vectors.copy()
    table.flags.writeable = False
    encoder = OnnxSessionEncoder(shop.files["model.onnx"], dimension=DIMENSION, categories=SIZES)

    class Table:
        def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return table[rows]

        def vectors_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
            table.take(rows, axis=0, out=out, mode="clip")

    def is_same(length: int, encoder: OnnxSessionEncoder = encoder) -> bool:
        rows = random.integers(0, ITEMS, length)
        right = encoder.encode(table[rows][None], np.array([length]))
        found = encoder.encode_one(Table(), rows)
        assert found.item_query.shape == right.item_query.shape
        assert (found.repeat_logits is None) == (shop.repeats is None)
        nested = encoder.encode_one(Table(), rows[::-1])  # in a signal handler, say
        is_right = copied(found) == copied(right)
        encoder.reuse(nested.buffers)
        encoder.reuse(found.buffers)
        return is_right

    lengths = [*range(1, 40), *range(1, 40), 300, 1, 300]
    assert all(map(is_same, lengths))  # the second time with buffers that are there
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_same, lengths * 3))
    monkeypatch.setattr(session_encoder, "_MOST_BUFFERS", 2)  # and with buffers that make room for others
    fresh = OnnxSessionEncoder(shop.files["model.onnx"], dimension=DIMENSION, categories=SIZES)
    assert all(is_same(length, fresh) for length in (1, 2, 3, 1, 2, 3, 3, 2, 1))


def test_an_answer_outlives_the_next_call(full: Recommender) -> None:
    first = full.recommend(["0"], 9)
    before = (
        first.items,
        first.scores.tolist(),
        first.categories,
        first.category_path,
        first.ranges.tolist(),
    )
    for own in SHOPS["full"].ids:
        full.recommend([own], 9)
    assert before == (
        first.items,
        first.scores.tolist(),
        first.categories,
        first.category_path,
        first.ranges.tolist(),
    )
