"""The ranking backends: bit for bit the same, on every instruction set, with codes and without: csrc/topk.h."""

from __future__ import annotations

import doctest
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import hiersrec_sdk.ranking
from hiersrec_sdk import _kernel
from hiersrec_sdk.errors import BackendError
from hiersrec_sdk.ranking import Codes, Found, Request, Table, available_backends, get_backend
from hiersrec_sdk.ranking.c_backend import native
from hiersrec_sdk.ranking.requests import MAX_DIMENSION
from hiersrec_sdk.ranking.row_ranges import complement

NAMES = ("c", "numba", "numpy")
ISAS = _kernel.available_isas()
LARGEST_QUERY_CODE = 127 * 128
LARGEST_CODE = 126.999  # a row's largest value; then its scale, which is rounded up, is 1

Floats = NDArray[np.float32]


@pytest.fixture(autouse=True)
def same_instruction_set_afterwards() -> Iterator[None]:
    before = _kernel.isa()
    yield
    _kernel.use_isa(before)


# ---- what is asked, at random ----


@dataclass(frozen=True)
class Case:
    """A table, where the stages of its codes end (None: where they do by default), and requests to it."""

    vectors: NDArray[Any]
    bias: Floats | None
    stages: list[int] | None
    requests: list[Request]
    k: int
    everything: bool

    def table(self, codes: bool) -> Table:
        return Table(self.vectors, self.bias, Codes.of(self.vectors, self.stages) if codes else None)

    @property
    def has_codes(self) -> bool:
        return bool(np.isfinite(self.vectors).all())


def wide(rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> NDArray[np.float64]:
    """Powers of ten."""
    powers: NDArray[np.float64] = 10 ** rng.uniform(low, high, shape)
    return powers


def table_of(rng: np.random.Generator, kind: str, n: int, d: int) -> Floats:
    """Rows float32 [n, d] of a kind that is hard to rank by codes, or easy to get wrong."""
    normal = rng.standard_normal((n, d))
    rows: NDArray[Any]
    if kind == "whole":  # many ties, exact sums
        rows = np.rint(normal)
    elif kind == "isotropic":
        rows = normal
    elif kind == "clustered":  # what pruning is for: neighbours are alike, the first dimensions carry most
        centres = rng.standard_normal((n // 20 + 1, d))
        rows = (centres[np.sort(rng.integers(0, len(centres), n))] + 0.2 * normal) * 0.9 ** np.arange(d)
    elif kind == "norms":  # huge and tiny rows
        rows = normal * wide(rng, (n, 1), -38, 30)
    elif kind == "values":  # huge and tiny values within a row: codes of most of them are 0
        rows = normal * wide(rng, (n, d), -8, 2)
    elif kind == "denormal":
        rows = normal * wide(rng, (n, 1), -45, -38)
    elif kind == "near":  # rows that differ in the last bits of a few values
        rows = np.repeat(normal[:1], n, axis=0)
        steps = rng.integers(-2, 3, (n, d), np.int32) * (rng.random((n, d)) < 0.2)
        rows = (rows.astype(np.float32).view(np.int32) + steps).view(np.float32)
    elif kind == "equal":
        rows = normal[rng.integers(0, min(n, 3), n)]
    elif kind == "zero":
        rows = normal * (rng.random((n, 1)) < 0.3)
    elif kind == "edge":  # every value lies as far from its code as can be, and on one side: bounds are tight
        rows = rng.integers(-126, 126, (n, d)) + 0.4999
        rows[:, 0] = LARGEST_CODE
        rows *= wide(rng, (n, 1), -1, 1) if n % 2 else 1
    else:
        assert kind == "special"
        special = np.array([np.nan, np.inf, -np.inf, -0.0, 3e38, -3e38, 1e-45])
        rows = np.where(rng.random((n, d)) < 0.02, rng.choice(special, (n, d)), normal)
    return rows.astype(np.float32)


KINDS = (
    "whole",
    "isotropic",
    "clustered",
    "norms",
    "values",
    "denormal",
    "near",
    "equal",
    "zero",
    "edge",
    "special",
)


def query_of(rng: np.random.Generator, kind: str, vectors: NDArray[Any]) -> Floats:
    d = vectors.shape[1]
    query: NDArray[Any] = rng.standard_normal(vectors.shape[1:])
    if kind == "whole":
        query = query.round()
    elif kind == "zero":
        query *= 0
    elif kind == "row":  # the session's taste is an item
        query = vectors[rng.integers(len(vectors))]
    elif kind == "one":
        query = np.arange(d) == rng.integers(d)
    elif kind == "ones":
        query = np.ones(d)
    elif kind == "scaled":  # from where codes cannot hold it to where sums overflow
        query = (query * wide(rng, (1,), -45, 38)).clip(-3e38, 3e38)
    elif kind == "values":
        query *= wide(rng, (d,), -8, 2)
    elif kind == "special":
        query[rng.integers(d)] = rng.choice([np.nan, np.inf, -np.inf])
    return query.astype(np.float32)


def bitmap_of(listed: NDArray[np.bool]) -> NDArray[np.uint64]:
    padded = np.zeros(-(-len(listed) // 64) * 64, np.bool)
    padded[: len(listed)] = listed
    return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)


def request_of(rng: np.random.Generator, vectors: NDArray[Any], kind: str, parts: set[str]) -> Request:
    """A request with those of ``parts`` that may be left out."""
    n = len(vectors)
    cuts = np.sort(rng.integers(0, n + 1, 2 * rng.integers(0, 9)))
    ranges, rest = rng.permutation(cuts.reshape(-1, 2)), None
    if "whole" in parts:
        ranges = np.array([[0, n]])
    if "rest" in parts:
        rest, ranges = np.sort(ranges[::2], axis=0), np.ascontiguousarray(ranges[1::2])

    def rows(most: int) -> NDArray[np.int64]:
        return np.unique(rng.integers(0, n, rng.integers(0, most)))

    own = rows(8) if "own" in parts else None
    boosts = None
    if own is not None:
        boosts = rng.standard_normal(len(own)).astype(np.float32)
        if "special" in parts:
            boosts[rng.random(len(own)) < 0.3] = rng.choice([np.nan, np.inf, -np.inf])
    return Request(
        query=query_of(rng, kind, vectors),
        ranges=ranges,
        rest=rest,
        bitmap=bitmap_of(rng.random(n) < rng.choice([0.02, 0.5, 0.98])) if "bitmap" in parts else None,
        skipped=rows(9) if "skipped" in parts else None,
        own=own,
        boosts=boosts,
    )


def bias_of(rng: np.random.Generator, kind: str, n: int) -> Floats | None:
    if kind == "none":
        return None
    bias: NDArray[Any] = rng.standard_normal(n)
    bias = bias.round() if kind == "whole" else bias * wide(rng, (1,), -3, 3)
    if kind == "special":
        bias[rng.random(n) < rng.choice([0.01, 0.3])] = rng.choice([np.nan, np.inf, -np.inf])
    return bias.astype(np.float32)


# around blocks, tiles and what is pending; where there is more than one tile, pruning begins
ROWS = st.integers(1, 600) | st.sampled_from([1_023, 1_025, 1_500, 3_000])


@st.composite
def cases(
    draw: st.DrawFn,
    kinds: tuple[str, ...] = KINDS,
    requests: int = 1,
    special: bool = True,
    rows: st.SearchStrategy[int] = ROWS,
) -> Case:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(rows)
    d = draw(st.integers(1, 140) | st.sampled_from([260, 271, 512]))
    vectors: NDArray[Any] = table_of(rng, draw(st.sampled_from(kinds)), n, d)
    if draw(st.booleans()):
        vectors = vectors.clip(-6e4, 6e4).astype(np.float16)
    eights = -(-d // 8)
    ends = st.lists(st.integers(1, eights - 1).map(lambda end: 8 * end), unique=True, max_size=3).map(sorted)
    stages = draw(st.none() | (ends if eights > 1 else st.just([])))
    queries = ("normal", "whole", "zero", "row", "one", "ones", "scaled", "values") + ("special",) * special
    parts = st.sets(st.sampled_from(["whole", "rest", "bitmap", "skipped", "own"] + ["special"] * special))
    count = draw(st.integers(1, requests))
    asked = [request_of(rng, vectors, draw(st.sampled_from(queries)), draw(parts)) for _ in range(count)]
    return Case(
        vectors=vectors,
        bias=bias_of(rng, draw(st.sampled_from(["none", "whole", "normal"] + ["special"] * special)), n),
        stages=stages,
        requests=asked,
        k=draw(st.integers(1, 30) | st.integers(1, n + 5)),
        everything=draw(st.booleans()),
    )


def assert_same(found: Found, right: Found, what: object) -> None:
    """The same rows and scores, to the last bit, by looking at the same rows."""
    assert found.scores.dtype == np.float32
    assert found.rows.dtype == np.int64
    np.testing.assert_array_equal(found.rows, right.rows, str(what))
    np.testing.assert_array_equal(found.scores.view(np.uint32), right.scores.view(np.uint32), str(what))
    assert found.rows_scored == right.rows_scored, what


def by_numpy(case: Case) -> list[Found]:
    """What the definition says."""
    table = case.table(codes=False)
    return get_backend("numpy").topk_many(table, case.requests, case.k, everything=case.everything)


def by_c(case: Case) -> Iterator[tuple[tuple[str, bool], list[Found]]]:
    """What the C kernel says, on every instruction set, with codes where the table can have them and without."""
    for codes in (False, True)[: 1 + case.has_codes]:
        table = case.table(codes)
        for isa in ISAS:
            assert _kernel.use_isa(isa)
            found = get_backend("c").topk_many(table, case.requests, case.k, everything=case.everything)
            yield (isa, codes), found


def check_all(case: Case) -> list[Found]:
    """The answers of the definition, once it is sure that they are everybody's."""
    right = by_numpy(case)
    table = case.table(codes=False)
    answers = [
        ("numba", get_backend("numba").topk_many(table, case.requests, case.k, everything=case.everything))
    ]
    for what, found in [*answers, *by_c(case)]:
        for one, other in zip(found, right, strict=True):
            assert_same(one, other, what)
    return right


# ---- the same on every path ----


def test_every_backend_is_here() -> None:
    assert available_backends() == NAMES
    assert ISAS[-1] == "scalar"


@settings(max_examples=400, deadline=None)
@given(cases())
def test_every_path_gives_the_same_bits(case: Case) -> None:
    (found,) = check_all(case)

    assert len(found.scores) == len(found.rows) <= case.k
    assert not np.isnan(found.scores).any()
    pairs = [(-score, row) for score, row in zip(found.scores.tolist(), found.rows.tolist(), strict=True)]
    assert pairs == sorted(set(pairs))
    assert set(found.rows.tolist()) <= set(eligible(case))


TIGHT = ("rows", "leading", "tails", "query", "coarse query", "rounding", "denormal", "overflow")


def tight(rng: np.random.Generator, kind: str, n: int, d: int) -> tuple[Floats, Floats]:
    """Rows float32 [n, d] and a query float32 [d]: scores that use up all that one term of their bounds allows."""
    signs = rng.choice([-1, 1], d)
    rows: NDArray[Any]
    query: NDArray[Any]
    agree = np.where(
        rng.random((n, d)) < rng.uniform(0, 0.1), -signs, signs
    )  # most values with the query's sign
    step = 1 / LARGEST_QUERY_CODE
    rows, query = LARGEST_CODE * agree, 1.0 * signs  # nearly exact as codes, both of them
    if kind == "rows":  # values as far from their codes as can be
        rows = rng.integers(-126, 126, (n, d)) + 0.499 * agree
        rows[:, 0] = LARGEST_CODE
    elif kind == "leading":  # codes as far from their leading bits as can be
        rows = 16.0 * rng.integers(1, 15, (n, d)) + np.where(agree > 0, 15, 0) - 128
        rows[:, 0] = LARGEST_CODE
    elif kind == "tails":  # dimensions that later stages read are parallel to the query's
        query = rng.standard_normal(d)
        query[0] = 4
        rows = query * rng.uniform(0, 1, (n, 1))
        rows[:, : d // 2] = 0
    elif kind in ("query", "coarse query"):  # the query's values are
        query = signs * step * (rng.integers(0, 9, d) + 0.499)
        if kind == "coarse query":
            query = signs * step * (128 * rng.integers(0, 9, d) + 63)
        query[0], rows[:, 0] = signs[0], 0
    elif kind == "rounding":  # sums that are rounded up, again and again
        rows = signs * rng.uniform(1, 1 + 1e-5, (n, 1))
    elif kind == "denormal":  # products that are
        rows = 2.0**-149 * rng.integers(0, 2, (n, d)) * signs
        query = 0.51 * signs
    else:
        assert kind == "overflow"  # sums that do, though the score is a small one
        rows = rng.standard_normal((n, d)) * 1e30
        query = rng.standard_normal(d) * wide(rng, (1,), 7, 9.5)
    return rows.astype(np.float32), query.astype(np.float32)


def before_others(first: NDArray[Any], others: NDArray[Any], query: Floats, k: int, **more: Any) -> Case:
    """``first`` stand behind ``others`` but are scored before them, so that the others' bounds meet their threshold."""
    vectors = np.concatenate([others, first])
    request = Request(query, np.array([[len(others), len(vectors)]]))
    return all_rows(vectors, query, k, requests=[request], everything=True, **more)


SIZES = st.tuples(st.integers(1, 300), st.integers(2, 140) | st.sampled_from([512, 1_000]), st.just(1))
SHARED = 2_048  # a multiple of the rows whose first stage several requests go over together
SHARED_SIZES = st.tuples(st.just(SHARED), st.integers(25, 32), st.integers(2, 3))


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(TIGHT),
    size=SIZES | SHARED_SIZES,
    k=st.integers(1, 8),
)
def test_no_bound_is_a_bit_too_tight(seed: int, kind: str, size: tuple[int, int, int], k: int) -> None:
    n, d, copies = size
    rng = np.random.default_rng(seed)
    rows, query = tight(rng, kind, n, d)
    (best,) = by_numpy(all_rows(rows, query, k))
    score = best.scores[rng.integers(len(best.scores))] if len(best.scores) else np.float32(1)
    # k rows of one value, which codes hold, score a few units in the last place less than one of the k best.
    for _ in range(rng.integers(1, 6)):
        score = np.nextafter(score, np.float32(-np.inf))
    first = np.zeros((k, d), np.float32)
    at = int(np.abs(query).argmax())
    first[:, at] = np.clip(score / float(query[at]), -3e38, 3e38)
    stages = [end for end in (8 * np.unique(rng.integers(1, d // 8 + 2, 3))).tolist() if end < d]
    case = before_others(first, rows, query, k, stages=stages if copies == 1 else None)
    check_all(replace(case, requests=case.requests * copies))


@settings(max_examples=60, deadline=None)
@given(
    cases(
        kinds=("near", "edge", "equal", "clustered", "norms"), special=False, rows=st.integers(1_000, 4_000)
    )
)
def test_tables_of_many_tiles(case: Case) -> None:
    check_all(replace(case, everything=True, k=min(case.k, 40)))


@settings(max_examples=60, deadline=None)
@given(cases(requests=6))
def test_many_requests_are_answered_as_one_by_one(case: Case) -> None:
    right = check_all(case)
    for request, found in zip(case.requests, right, strict=True):
        for _, (alone,) in by_c(replace(case, requests=[request])):
            assert_same(alone, found, request)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["clustered", "values", "norms", "edge", "near", "equal"]),
    n=st.integers(1_100, 3_000) | st.integers(70, 180).map(lambda blocks: 16 * blocks),
    d=st.integers(25, 140),
    count=st.integers(2, 8),
    k=st.integers(1, 20),
    data=st.data(),
)
def test_what_requests_share(
    seed: int, kind: str, n: int, d: int, count: int, k: int, data: st.DataObject
) -> None:
    """Requests that know their threshold go over the first stage of the other rows together."""
    rng = np.random.default_rng(seed)
    others = table_of(rng, kind, n, d)
    edges = rng.permutation([0, 15, 16, 511, 512, 1_023, 1_024, n - 17, n - 16, n - 1])[
        :5
    ]  # of what is shared, of all
    others[edges] = others[rng.integers(n)]
    first = others[rng.integers(0, n, SHARED)]
    queries = []
    for _ in range(count):
        query = others[edges[0] if data.draw(st.booleans()) else rng.integers(n)]
        (best,) = by_numpy(all_rows(others, query, 2 * k))
        first[rng.choice(SHARED, k, replace=False)] = others[
            best.rows[-k:]
        ]  # better ones are still to be found
        queries.append(query)
    vectors = np.concatenate([first, others])
    ranges = np.array([[0, SHARED]])
    requests = []
    for query in queries:
        request = request_of(
            rng, vectors, "row", data.draw(st.sets(st.sampled_from(["bitmap", "skipped", "own"])))
        )
        rest = complement(ranges, len(vectors))
        if data.draw(st.integers(0, 3)) == 0:  # with a gap
            start, stop = np.sort(rng.integers(SHARED, len(vectors) + 1, 2))
            rest = complement(np.array([[0, SHARED], [start, stop]]), len(vectors))
        requests.append(request._replace(query=query, ranges=ranges, rest=rest))
    bias = bias_of(rng, data.draw(st.sampled_from(["none", "normal"])), len(vectors))
    stages = data.draw(st.sampled_from([None, [], [32]]) if d > 32 else st.none())
    check_all(Case(vectors, bias, stages, requests, k, everything=False))


@pytest.mark.parametrize("blocks", [1, 2, 3, 31, 32, 33, 65])
def test_the_last_blocks_of_what_requests_share(blocks: int) -> None:
    n = SHARED + 16 * blocks
    vectors = table_of(np.random.default_rng(blocks), "clustered", n, 48)
    requests = [Request(vectors[-row], np.array([[0, SHARED]])) for row in (1, 5, 16)]
    check_all(Case(vectors, None, None, requests, 3, everything=True))


@settings(max_examples=30, deadline=None)
@given(case=cases(requests=1, special=False), seed=st.integers(0, 99))
def test_a_full_list_of_pending_rows(case: Case, seed: int) -> None:
    """Rows that come in rising order of score: each is better than all before, so that every one stays pending."""
    rng = np.random.default_rng(seed)
    n, d = 4_000, 24
    vectors = np.sort(rng.standard_normal(n))[:, None] * np.linspace(1, 0.5, d) + 1e-3 * rng.standard_normal(
        (n, d)
    )
    request = Request(np.ones(d, np.float32), np.array([[0, n]]))
    check_all(replace(case, vectors=vectors.astype(np.float32), bias=None, stages=None, requests=[request]))


def eligible(case: Case) -> list[int]:
    """Rows that may rank for the only request of ``case``."""
    (request,) = case.requests
    n = len(case.vectors)
    spans = [*request.ranges.tolist(), *([] if request.rest is None else request.rest.tolist())]
    rows = {row for start, stop in spans for row in range(start, stop)}
    if case.everything:
        rows = set(range(n))
    rows |= set([] if request.own is None else request.own.tolist())
    rows -= set([] if request.skipped is None else request.skipped.tolist())
    bitmap = request.bitmap
    return sorted(row for row in rows if bitmap is None or int(bitmap[row // 64]) >> row % 64 & 1)


@settings(max_examples=200, deadline=None)
@given(cases(kinds=("whole",), special=False, rows=st.integers(1, 200)))
def test_it_is_the_sort_by_score_then_row(case: Case) -> None:
    """Whole numbers have no rounding, so plain Python integers are the oracle."""
    rng = np.random.default_rng(len(case.vectors))
    request = case.requests[0]._replace(
        query=np.rint(rng.standard_normal(case.vectors.shape[1])).astype(np.float32)
    )
    if request.own is not None:
        request = request._replace(boosts=rng.integers(-5, 5, len(request.own)).astype(np.float32))
    bias = None if case.bias is None else np.rint(case.bias)
    case = replace(case, requests=[request], bias=bias)
    boosts: dict[int, float] = {}
    if request.own is not None and request.boosts is not None:
        boosts = dict(zip(request.own.tolist(), request.boosts.tolist(), strict=True))

    def score(row: int) -> int:
        dot = sum(int(q) * int(v) for q, v in zip(request.query, case.vectors[row], strict=True))
        return dot + int(0 if bias is None else bias[row]) + int(boosts.get(row, 0))

    best = sorted((-score(row), row) for row in eligible(case))[: case.k]

    (found,) = check_all(case)

    assert found.rows.tolist() == [row for _, row in best]
    assert found.scores.tolist() == [-negative for negative, _ in best]


def all_rows(vectors: NDArray[Any], query: Floats, k: int, **more: Any) -> Case:
    """One query over all rows."""
    request = Request(query, np.array([[0, len(vectors)]]))
    return Case(
        vectors, **{"bias": None, "stages": None, "requests": [request], "k": k, "everything": False, **more}
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dimension", [1, 7, 15, 16, 17, 31, 33, 64, 70, 128, 131])
def test_float32_sums_in_sixteen_lanes(dimension: int, dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(dimension)
    vectors = rng.standard_normal((40, dimension)).astype(dtype)
    query = rng.standard_normal(dimension).astype(np.float32)
    expected = []
    for vector in vectors.astype(np.float32):
        lanes = [np.float32(0)] * 16
        for i in range(dimension):
            lanes[i % 16] = np.float32(lanes[i % 16] + np.float32(query[i] * vector[i]))
        for half in (8, 4, 2, 1):
            lanes = [np.float32(lanes[j] + lanes[j + half]) for j in range(half)]
        expected.append(lanes[0])

    (found,) = check_all(all_rows(vectors, query, 40))

    np.testing.assert_array_equal(found.scores, np.array(expected)[found.rows])


def test_every_float16_is_converted_exactly() -> None:
    vectors = np.arange(65_536, dtype=np.uint16).view(np.float16).reshape(-1, 1)
    (found,) = check_all(all_rows(vectors, np.ones(1, np.float32), 65_536))
    numbers = vectors[:, 0].astype(np.float64)
    order = np.lexsort((np.arange(65_536), -numbers))
    np.testing.assert_array_equal(found.rows, order[~np.isnan(numbers[order])])
    np.testing.assert_array_equal(found.scores, numbers[found.rows])


def test_many_ties_among_many_rows() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 3, (30_000, 2)).astype(np.float32)
    order = np.argsort(-vectors.sum(axis=1), kind="stable")
    request = Request(np.ones(2, np.float32), np.array([[20_000, 30_000], [0, 20_000]]))
    for k in (1, 20, 5_000, 30_000):
        (found,) = check_all(all_rows(vectors, request.query, k, requests=[request]))
        np.testing.assert_array_equal(found.rows, order[:k])


def test_nan_never_ranks_and_infinities_do() -> None:
    query = np.array([2], np.float32)
    vectors = np.array([[math.nan], [1], [math.inf], [-math.inf], [0], [math.nan]], np.float32)
    (found,) = check_all(all_rows(vectors, query, 6))
    assert found.rows.tolist() == [2, 1, 4, 3]
    assert found.scores.tolist() == [math.inf, 2, 0, -math.inf]

    bias = np.array([0, math.nan, -math.inf, 0, -math.inf, 0], np.float32)  # inf - inf is NaN
    (found,) = check_all(all_rows(vectors, query, 6, bias=bias))
    assert found.rows.tolist() == [3, 4]

    bias = np.array([math.nan, 1, math.inf, -math.inf, math.nan, math.inf], np.float32)
    (found,) = check_all(all_rows(np.zeros((6, 1), np.float32), query, 6, bias=bias))
    assert found.rows.tolist() == [2, 5, 1, 3]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(10, 60), share=st.floats(0.1, 0.9))
def test_rows_whose_bias_is_nan_hide_no_others(seed: int, k: int, share: float) -> None:
    # Their bounds are NaN, which has no place in an order of bounds.
    rng = np.random.default_rng(seed)
    vectors, query = (
        rng.standard_normal((600, 128)).astype(np.float32),
        rng.standard_normal(128).astype(np.float32),
    )
    bias = np.where(rng.random(600) < share, np.nan, 0.1 * rng.standard_normal(600)).astype(np.float32)
    check_all(all_rows(vectors, query, k, bias=bias))


def test_nothing_to_rank() -> None:
    query, vectors = np.ones(3, np.float32), np.ones((9, 3), np.float32)
    table = Table(vectors, codes=Codes.of(vectors))
    for name in NAMES:
        topk = get_backend(name).topk
        for ranges in (np.empty((0, 2), np.int64), np.array([[9, 9], [4, 4]])):
            found = topk(table, query, ranges, 5)
            assert found.scores.shape == found.rows.shape == (0,)
            assert found.scores.dtype == np.float32
            assert found.rows.dtype == np.int64
            assert found[2:] == (0, 0)
            assert len(topk(table, query, ranges, 5, everything=True).rows) == 5
        assert topk(table, query, np.array([[0, 9]]), 0)[2:] == (0, 0)
        assert get_backend(name).topk_many(table, [], 5) == []
        # An empty range inside another one overlaps nothing.
        assert len(topk(table, query, np.array([[0, 9], [4, 4]]), 5, everything=True).rows) == 5
        none = np.empty(0, np.int64)
        found = topk(
            table, query, np.array([[0, 9]]), 99, skipped=none, own=none, boosts=np.empty(0, np.float32)
        )
        assert found.rows.tolist() == list(range(9))


def test_own_rows_rank_once_and_with_their_boost() -> None:
    vectors = np.arange(40, dtype=np.float32)[:, None]
    own, boosts = np.array([3, 8, 20]), np.array([100, 7.5, math.nan], np.float32)
    request = Request(np.ones(1, np.float32), np.array([[5, 10]]), own=own, boosts=boosts)
    (found,) = check_all(all_rows(vectors, request.query, 9, requests=[request]))
    assert found.rows.tolist() == [3, 8, 9, 7, 6, 5]
    assert found.scores.tolist() == [103, 15.5, 9, 7, 6, 5]
    assert found.rows_scored == 7

    request = request._replace(skipped=np.array([3, 9]), bitmap=bitmap_of(np.arange(40) != 8))
    (found,) = check_all(all_rows(vectors, request.query, 9, requests=[request]))
    assert found.rows.tolist() == [7, 6, 5]
    assert found.rows_scored == 5  # 9 was looked at, 8 was not


# ---- what is read ----


def bytes_by(case: Case) -> dict[tuple[str, bool], int]:
    right = by_numpy(case)[0]
    read = {}
    for what, (found,) in by_c(case):
        assert_same(found, right, what)
        read[what] = found.bytes_read
    return read


def clustered(n: int, d: int) -> tuple[Floats, Floats]:
    """Rows in clusters that stand together, along axes of falling weight, and a query from one of the clusters."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((n // 100, d)) * 0.95 ** np.arange(d)
    members = np.repeat(np.arange(len(centres)), 100)
    vectors = centres[members] + 0.3 * rng.standard_normal((n, d)) * 0.95 ** np.arange(d)
    return vectors.astype(np.float32), centres[len(centres) // 2].astype(np.float32)


def test_without_codes_every_row_is_read_once() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float16):
        vectors = rng.standard_normal((500, 24)).astype(dtype)
        request = Request(vectors[0].astype(np.float32), np.array([[100, 300]]))
        for bias in (None, np.ones(500, np.float32)):
            case = all_rows(vectors, request.query, 5, bias=bias, requests=[request])
            row = vectors[0].nbytes + (0 if bias is None else 4)
            assert by_numpy(case)[0].bytes_read == 200 * row
            for (_, codes), (found,) in by_c(case):
                assert found.rows_scored == 200
                assert codes or found.bytes_read == 200 * row


def test_bounds_spare_most_of_the_reading() -> None:
    n, d = 20_000, 128
    vectors, query = clustered(n, d)
    everything = bytes_by(all_rows(vectors, query, 20))
    first = n // 2 // 100 * 100
    request = Request(
        query, np.array([[first, first + 100]])
    )  # the best cluster first: a threshold for the rest
    guided = bytes_by(all_rows(vectors, query, 20, requests=[request], everything=True))
    for isa in ISAS:
        assert everything[isa, False] == vectors.nbytes
        assert everything[isa, True] < vectors.nbytes / 6  # the codes alone, unpruned, are a quarter
        assert guided[isa, True] <= everything[isa, True]
        assert guided[isa, True] < vectors.nbytes / 8


def test_where_bounds_do_not_help_they_cost_little() -> None:
    n, d = 20_000, 128
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n, d)).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    for query in rng.standard_normal((5, d)).astype(np.float32):
        for own_bias, scan in ((None, n * (d + 2)), (bias, n * (d + 6))):
            for (_, codes), read in bytes_by(all_rows(vectors, query, 20, bias=own_bias)).items():
                assert not codes or read <= 1.15 * scan


# ---- codes ----


def decoded(codes: Codes, n: int, d: int) -> NDArray[np.int64]:
    """int64 [rows and dimensions with their padding]: the codes, found as csrc/topk.h says."""
    blocks = -(-n // 16)
    stored = np.zeros((16 * blocks, d + -d % 8), np.int64)
    at = begin = 0
    for stage, end in enumerate(codes.stage_ends.tolist()):
        for block in range(blocks if stage else 0):
            for g in range((end - begin) // 4):
                for j in range(16):
                    for i in range(4):
                        stored[16 * block + j, begin + 4 * g + i] = codes.codes[at + 64 * g + 4 * j + i]
            at += 16 * (end - begin)
        for leading in () if stage else (True, False):
            for block in range(blocks):
                for p in range(end // 8):
                    for j in range(16):
                        for i in range(4):
                            byte = int(codes.codes[at + 64 * p + 4 * j + i])
                            stored[16 * block + j, 8 * p + i] |= byte % 16 << 4 * leading
                            stored[16 * block + j, 8 * p + 4 + i] |= byte // 16 << 4 * leading
                at += 8 * end
        begin = end
    assert at == len(codes.codes)
    return stored - 128


def from_bfloat(leading: NDArray[np.uint16]) -> NDArray[np.float64]:
    return (leading.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@settings(max_examples=100, deadline=None)
@given(case=cases(kinds=KINDS[:-1], special=False, rows=st.integers(1, 70)))
def test_codes_keep_their_promises(case: Case) -> None:
    n, d = case.vectors.shape
    codes = Codes.of(case.vectors, case.stages)
    codes.check(n, d)
    padded = d + -d % 8
    assert codes.stage_ends[-1] == padded
    assert case.stages is None or codes.stage_ends[:-1].tolist() == case.stages
    whole = decoded(codes, n, d)
    assert not whole[n:].any()
    assert not whole[:, d:].any()
    assert np.abs(whole).max() <= 127
    scales, tails = from_bfloat(codes.scales), from_bfloat(codes.tails)
    assert not scales[n:].any()
    assert not tails[:, n:].any()

    rows = np.zeros((n, padded))
    rows[:, :d] = case.vectors
    scales = scales[:n, None]
    assert ((scales > 0) == (rows != 0).any(axis=1, keepdims=True)).all()
    largest = np.abs(rows).max(axis=1, keepdims=True)
    above = 1 + 2**-7  # a bfloat16 has 8 bits; the smallest above 0 is 2^-133
    assert (scales <= largest / 127 * above + 2.0**-133).all()
    exact = np.divide(rows, scales, out=np.zeros_like(rows), where=scales > 0)
    errors = exact - whole[:n]
    assert np.abs(errors).max() <= 0.5

    first = codes.stage_ends[0]
    leading = (whole[:n, :first] + 128) // 16 * 16 + 8 - 128
    unread = np.where(scales > 0, exact[:, :first] - leading, 0)[
        :, :d
    ]  # by the leading bits; a row of zeros is known
    assert_just_above(codes.residuals[0], longest(unread))
    for stage, end in enumerate(codes.stage_ends.tolist()):
        assert_just_above(codes.residuals[1 + stage], longest(errors[:, :end]))
        if stage < len(tails):
            lengths = np.array([longest(row[None, end:]) for row in rows])
            assert (tails[stage, :n] >= lengths).all()
            assert (tails[stage, :n] <= lengths * above + 2.0**-133).all()
    assert_just_above(codes.largest[0], longest(rows))


def longest(rows: NDArray[Any]) -> float:
    return math.sqrt(max(math.fsum(np.square(row)) for row in rows))


def assert_just_above(bound: np.float32, value: float) -> None:
    assert value <= bound <= value * (1 + 1e-6) + 1e-44


@settings(max_examples=100, deadline=None)
@given(case=cases(kinds=KINDS[:-1], rows=st.integers(1, 70)))
def test_integer_dots_are_exact_on_every_instruction_set(case: Case) -> None:
    (n, d), query = case.vectors.shape, case.requests[0].query
    table = case.table(codes=True)
    assert table.codes is not None
    whole = decoded(table.codes, n, d)
    for isa in ISAS:
        assert _kernel.use_isa(isa)
        found = _kernel.dots(native(table), query)
        largest, length = np.abs(query).max(), math.sqrt(np.square(query.astype(float)).sum())
        holds = largest >= 1e-30 and length <= 1e30 and length * float(table.codes.largest[0]) <= 1e37
        assert (found is not None) == holds
        if found is None:
            continue
        query_codes, dots = found
        assert np.abs(query_codes).max() == LARGEST_QUERY_CODE
        step = float(largest) / LARGEST_QUERY_CODE
        assert np.abs(query.astype(float) / step - query_codes[:d]).max() <= 0.5 + 1e-9
        assert not query_codes[d:].any()
        assert dots.tolist() == (whole @ query_codes.astype(np.int64)).tolist()


@pytest.mark.parametrize("sign", [1, -1])
def test_integer_dots_of_the_largest_codes_do_not_overflow(sign: int) -> None:
    vectors = np.full((17, MAX_DIMENSION), LARGEST_CODE, np.float32)
    vectors[1::2] *= -1
    query = np.full(MAX_DIMENSION, sign, np.float32)
    table = Table(vectors, codes=Codes.of(vectors, [8, 32_768]))
    for isa in ISAS:
        assert _kernel.use_isa(isa)
        found = _kernel.dots(native(table), query)
        assert found is not None
        exact = sign * 127 * LARGEST_QUERY_CODE * MAX_DIMENSION
        assert found[1][:17].tolist() == [exact, -exact] * 8 + [exact]
    check_all(all_rows(vectors, query, 5, stages=[8, 32_768]))


def test_codes_refuse_what_they_cannot_hold() -> None:
    vectors = np.ones((4, 20), np.float32)
    for value in (math.nan, math.inf):
        vectors[3, 1] = value
        with pytest.raises(ValueError, match="row 3 has a NaN or an infinity"):
            Codes.of(vectors)
    with pytest.raises(ValueError, match=r"vectors: \[20\]; they must be \[n, d\]"):
        Codes.of(vectors[0])
    for shape in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="both at least 1"):
            Codes.of(np.ones(shape, np.float32))
    for stages in ([0], [24], [32], [4], [16, 8], [8, 8], [-8], [8, 12]):
        with pytest.raises(ValueError, match="at most 3 rising multiples of 8 below 24"):
            Codes.of(vectors[:3], stages)
    with pytest.raises(ValueError, match="at most 3 rising"):
        Codes.of(np.ones((3, 64), np.float32), [8, 16, 24, 32])
    assert Codes.of(vectors[:3], []).stage_ends.tolist() == [24]


def test_codes_round_trip_as_tables_of_a_bundle() -> None:
    codes = Codes.of(np.random.default_rng(0).standard_normal((20, 70)).astype(np.float32))
    tables = codes.tables()
    assert sorted(tables) == sorted(Codes.names(tables))
    assert "codes" in tables
    assert codes.nbytes == sum(table.nbytes for table in tables.values())
    again = Codes.from_tables({**tables, "other": np.zeros(1)})
    assert again is not None
    assert all(np.array_equal(again.tables()[name], table) for name, table in tables.items())
    assert Codes.from_tables({"other": np.zeros(1)}) is None
    assert Codes.names({"other": np.zeros(1)}) == []


def test_tables_whose_codes_are_not_theirs_are_refused() -> None:
    vectors = np.ones((20, 70), np.float32)
    codes = Codes.of(vectors)
    faults: dict[str, Any] = {
        "codes": codes.codes[:-1],
        "scales": codes.scales[:20],
        "tails": codes.tails[:1],
        "residuals": codes.residuals * np.float32(np.nan),
        "stage_ends": codes.stage_ends + 8,
        "largest": codes.largest.astype(np.float64),
    }
    for name, value in faults.items():
        with pytest.raises(ValueError, match=name):
            Table(vectors, codes=replace(codes, **{name: value}))
    for shape in ((40, 70), (20, 73)):
        with pytest.raises(ValueError, match=r"codes is uint8 \[2304\], not uint8 \["):
            Table(np.ones(shape, np.float32), codes=codes)
    wrong: Any = codes.tables()
    with pytest.raises(TypeError, match="codes: dict; it must be Codes or None"):
        Table(vectors, codes=wrong)


# ---- arrays, threads, arguments ----


@pytest.mark.parametrize("offset", [0, 4, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_mapped_read_only_tables(dtype: type[np.floating], offset: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((1_500, 45)).astype(dtype)
    bias = rng.standard_normal(1_500).astype(np.float32)
    codes = Codes.of(vectors)
    paths = iter(range(99))

    def mapped(table: NDArray[Any]) -> NDArray[Any]:
        path, start = tmp_path / str(next(paths)), math.lcm(offset, table.itemsize)
        path.write_bytes(bytes(start) + table.tobytes())
        return np.memmap(path, table.dtype, "r", start, table.shape)

    on_disk = Codes.from_tables({name: mapped(table) for name, table in codes.tables().items()})
    arguments = [
        rng.standard_normal(45).astype(np.float32),
        np.array([[300, 1_400], [10, 200]]),
        bitmap_of(rng.random(1_500) < 0.5),
        np.array([11, 12]),
        np.array([5, 310]),
        np.ones(2, np.float32),
    ]
    for array in arguments:
        array.flags.writeable = False
    query, ranges, bitmap, skipped, own, boosts = arguments
    request = Request(query, ranges, None, bitmap, skipped, own, boosts)
    for name in NAMES:
        backend = get_backend(name)
        (right,) = backend.topk_many(Table(vectors, bias, codes), [request], 20)
        for table in (Table(mapped(vectors), mapped(bias), on_disk), Table(mapped(vectors), mapped(bias))):
            (found,) = backend.topk_many(table, [request], 20)
            assert [type(found.rows), type(found.scores)] == [np.ndarray, np.ndarray]
            assert_same(found, right, name)


@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_disturb_each_other(name: str) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((3_000, 32)).astype(np.float32)
    queries = rng.standard_normal((32, 32)).astype(np.float32)
    codes, ranges = Codes.of(vectors), np.array([[0, 3_000]])
    alone = [get_backend(name).topk(Table(vectors), query, ranges, 50).rows.tolist() for query in queries]
    table = Table(vectors, codes=codes)  # what the kernel makes of it once is made by all threads at once
    with ThreadPoolExecutor(8) as pool:
        backend = get_backend(name)
        together = list(pool.map(lambda query: backend.topk(table, query, ranges, 50).rows.tolist(), queries))
    assert together == alone


@pytest.mark.parametrize(("name", "codes"), [("c", False), ("c", True), ("numba", False)])
def test_other_threads_run_meanwhile(name: str, codes: bool) -> None:
    vectors = np.random.default_rng(0).standard_normal((200_000, 16)).astype(np.float32)
    table = Table(vectors, codes=Codes.of(vectors) if codes else None)
    backend, query, ranges = get_backend(name), np.ones(16, np.float32), np.array([[0, len(vectors)]])

    def is_interrupted() -> bool:
        begins, seen = threading.Event(), threading.Event()

        def other() -> None:
            begins.wait()
            seen.set()

        thread = threading.Thread(target=other)
        thread.start()
        begins.set()
        for _ in range(5):
            backend.topk(table, query, ranges, 5_000)
        ran = seen.is_set()
        thread.join()
        return ran

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1_000)  # from now on a thread runs only where another one gives up the GIL
    try:
        assert any(is_interrupted() for _ in range(100))
    finally:
        sys.setswitchinterval(interval)


VECTORS = np.ones((70, 4), np.float32)
TABLE_FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"vectors": [[1.0]]}, TypeError, "vectors: list"),
    ({"vectors": np.ones((70, 4))}, TypeError, r"vectors: float64 \[70, 4\].*float32 or float16"),
    ({"vectors": np.ones((70, 4), np.int8)}, TypeError, r"vectors: int8 \[70, 4\].*float32 or float16"),
    ({"vectors": VECTORS.astype(">f4")}, TypeError, "vectors: >f4"),
    ({"vectors": np.ones(4, np.float32)}, ValueError, r"vectors: float32 \[4\]"),
    ({"vectors": np.ones((70, 0), np.float32)}, ValueError, "1 to 65536 dimensions"),
    ({"vectors": np.ones((0, 4), np.float32)}, ValueError, "at least one row"),
    ({"vectors": np.ones((1, MAX_DIMENSION + 1), np.float16)}, ValueError, "1 to 65536 dimensions"),
    ({"vectors": np.ones((70, 8), np.float32)[:, ::2]}, ValueError, "vectors is not C-contiguous"),
    ({"vectors": np.ones((4, 70), np.float32).T}, ValueError, "vectors is not C-contiguous"),
    ({"bias": np.ones(69, np.float32)}, ValueError, r"bias: float32 \[69\].*float32 \[70\]"),
    ({"bias": np.ones(70)}, TypeError, r"bias: float64 \[70\]"),
    ({"bias": [1.0] * 70}, TypeError, "bias: list"),
]


@pytest.mark.parametrize(("changes", "error", "message"), TABLE_FAULTS)
def test_a_wrong_table_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Table(**{"vectors": VECTORS, **changes})


FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": np.ones(4, np.int8)}, TypeError, r"query: int8 \[4\].*float32 \[4\]"),
    ({"query": [1.0] * 4}, TypeError, "query: list"),
    ({"query": np.ones(5, np.float32)}, ValueError, r"query: float32 \[5\].*float32 \[4\]"),
    ({"query": np.ones((1, 4), np.float32)}, ValueError, r"query: float32 \[1, 4\].*float32 \[4\]"),
    ({"query": np.ones(8, np.float32)[::2]}, ValueError, "query is not C-contiguous"),
    ({"bitmap": np.ones(1, np.uint64)}, ValueError, "70 rows need at least 2 words"),
    ({"bitmap": np.ones(2, np.int64)}, TypeError, r"bitmap: int64 \[2\]"),
    ({"ranges": [(0, 70)]}, TypeError, "ranges: list"),
    ({"ranges": np.array([[0, 70]], np.int32)}, TypeError, r"ranges: int32 \[1, 2\]"),
    ({"ranges": np.array([0, 70])}, ValueError, r"ranges: int64 \[2\].*int64 \[any, 2\]"),
    ({"ranges": np.array([[0, 71]])}, ValueError, r"\[0, 71\); each must have .* <= 70"),
    ({"ranges": np.array([[-1, 5]])}, ValueError, r"\[-1, 5\)"),
    ({"ranges": np.array([[1, 2], [9, 5]])}, ValueError, r"\[9, 5\)"),
    ({"ranges": np.array([[71, 71]])}, ValueError, r"\[71, 71\)"),
    ({"ranges": np.array([[0, 2**63 - 1]])}, ValueError, "each must have"),
    ({"ranges": np.array([[30, 50], [0, 31]])}, ValueError, r"\[0, 31\) and \[30, 50\) overlap"),
    ({"ranges": np.array([[0, 5], [0, 5]])}, ValueError, "overlap"),
    ({"rest": np.array([[5, 9]], np.int32)}, TypeError, r"rest: int32 \[1, 2\]"),
    ({"rest": np.array([[5, 71]])}, ValueError, r"\[5, 71\); each must have"),
    ({"rest": np.array([[2, 9]])}, ValueError, r"\[0, 3\) and \[2, 9\) overlap"),
    ({"rest": np.array([[20, 30], [5, 9]])}, ValueError, "rest: the ranges must rise"),
    ({"skipped": np.array([1, 1])}, ValueError, r"skipped: rows must be distinct, rising, and in \[0, 70\)"),
    ({"skipped": np.array([70])}, ValueError, "skipped: rows must be distinct"),
    ({"skipped": np.array([-1])}, ValueError, "skipped: rows must be distinct"),
    ({"skipped": np.array([1.0])}, TypeError, r"skipped: float64 \[1\]"),
    (
        {"own": np.array([2, 1]), "boosts": np.ones(2, np.float32)},
        ValueError,
        "own: rows must be distinct, rising",
    ),
    ({"own": np.array([1])}, ValueError, "own and boosts go together"),
    ({"boosts": np.ones(1, np.float32)}, ValueError, "own and boosts go together"),
    (
        {"own": np.array([1]), "boosts": np.ones(2, np.float32)},
        ValueError,
        r"boosts: float32 \[2\].*float32 \[1\]",
    ),
    ({"own": np.array([1]), "boosts": np.ones(1)}, TypeError, r"boosts: float64 \[1\]"),
    ({"k": -1}, ValueError, "k: -1; it must be at least 0"),
    ({"k": 1.0}, TypeError, "k: float"),
    ({"k": True}, TypeError, "k: bool"),
    ({"k": "3"}, TypeError, "k: str"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("changes", "error", "message"), FAULTS)
def test_wrong_input_is_refused(
    name: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "query": np.ones(4, np.float32),
        "ranges": np.array([[0, 3]]),
        "k": 3,
        **changes,
    }
    k = arguments.pop("k")
    table = Table(VECTORS, codes=Codes.of(VECTORS))
    with pytest.raises(error, match=message):
        get_backend(name).topk_many(table, [Request(**arguments)], k)
    if "rest" not in changes:
        with pytest.raises(error, match=message):
            get_backend(name).topk(table, k=k, **arguments)


def test_numpy_integers_are_whole_numbers() -> None:
    k: Any = np.int32(3)
    for name in NAMES:
        assert len(get_backend(name).topk(Table(VECTORS), VECTORS[0], np.array([[0, 70]]), k).rows) == 3


def test_everything_is_the_ranges_and_what_they_leave() -> None:
    vectors = np.random.default_rng(2).standard_normal((100, 4)).astype(np.float32)
    ranges = np.array([[40, 60], [0, 10], [99, 99]])
    for name in NAMES:
        topk = get_backend(name).topk
        everything = topk(Table(vectors), vectors[3], ranges, 100, everything=True)
        assert_same(everything, topk(Table(vectors), vectors[3], np.array([[0, 100]]), 100), name)
        request = Request(vectors[3], ranges, complement(ranges, 100))
        assert_same(get_backend(name).topk_many(Table(vectors), [request], 100)[0], everything, name)


# ---- backends and instruction sets ----


def test_an_unknown_backend_is_an_error_that_names_the_others() -> None:
    with pytest.raises(BackendError, match="'cuda' is not available here; available: c, numba, numpy"):
        get_backend("cuda")


def test_the_best_backend_is_the_default() -> None:
    assert get_backend().name == "c"
    assert repr(get_backend()) == "<ranking backend 'c'>"


def test_without_the_extension_the_others_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hiersrec_sdk._kernel", None)
    assert available_backends() == ("numba", "numpy")
    assert get_backend().name == "numba"
    with pytest.raises(BackendError, match="'c' is not available here; available: numba, numpy"):
        get_backend("c")


def test_a_numba_that_does_not_load_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hiersrec_sdk.ranking.numba_backend", raising=False)
    monkeypatch.setattr(hiersrec_sdk.ranking, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(BackendError, match="'numba' cannot be loaded"):
        get_backend("numba")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_naming_the_backends_does_not_import_numba() -> None:
    done = python(
        "import sys; from hiersrec_sdk.ranking import available_backends, get_backend; "
        "assert 'numba' in available_backends(); get_backend('c'); assert 'numba' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_the_best_instruction_set_is_the_default() -> None:
    done = python("from hiersrec_sdk import _kernel; print(_kernel.isa())")
    assert done.stdout.split() == [ISAS[0]], done.stderr
    assert not _kernel.use_isa("mmx")
    assert not _kernel.use_isa("")
    for isa in ISAS:
        assert _kernel.use_isa(isa)
        assert _kernel.isa() == isa


def test_the_environment_forces_an_instruction_set() -> None:
    code = (
        "from hiersrec_sdk import _kernel; from hiersrec_sdk.ranking import get_backend; "
        "get_backend('c'); print(_kernel.isa())"
    )
    for isa in ISAS:
        assert python(code, HIERSREC_ISA=isa).stdout.split() == [isa]
    wrong = python(code, HIERSREC_ISA="mmx")
    assert wrong.returncode == 1
    assert f"HIERSREC_ISA is 'mmx'; this processor has {', '.join(ISAS)}" in wrong.stderr
    assert python(code, HIERSREC_ISA="").stdout.split() == [ISAS[0]]


def test_the_example_of_the_docstring_is_true() -> None:
    results = doctest.testmod(hiersrec_sdk.ranking)
    assert results.attempted
    assert not results.failed
