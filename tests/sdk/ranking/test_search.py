"""Search: every backend gives the same bits, on every instruction set, with codes and without (csrc/topk.h)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.ranking import Codes, Request, Table, get_backend
from hiersrec_sdk.ranking.row_ranges import complement
from tests.sdk.ranking.cases import (
    ISAS,
    LARGEST_CODE,
    LARGEST_QUERY_CODE,
    NAMES,
    Case,
    Floats,
    all_rows,
    assert_same,
    bias_of,
    bitmap_of,
    by_c,
    by_numpy,
    cases,
    check_all,
    eligible,
    powers_of_ten,
    request_of,
    table_of,
)


@settings(max_examples=400, deadline=None)
@given(cases())
def test_every_path_gives_the_same_bits(case: Case) -> None:
    (found,) = check_all(case)

    assert len(found.scores) == len(found.rows) <= case.k
    assert not np.isnan(found.scores).any()
    pairs = [(-score, row) for score, row in zip(found.scores.tolist(), found.rows.tolist(), strict=True)]
    assert pairs == sorted(set(pairs))
    assert set(found.rows.tolist()) <= set(eligible(case))


TIGHT = ("rows", "leading", "suffix_norms", "query", "coarse query", "rounding", "denormal", "overflow")


def tight(rng: np.random.Generator, kind: str, n: int, d: int) -> tuple[Floats, Floats]:
    """Rows float32 [n, d] and a query float32 [d]: scores that use up all that one term of their bounds allows."""
    signs = rng.choice([-1, 1], d)
    rows: NDArray[Any]
    query: NDArray[Any]
    # most values with the query's sign
    agree = np.where(rng.random((n, d)) < rng.uniform(0, 0.1), -signs, signs)
    step = 1 / LARGEST_QUERY_CODE
    rows, query = LARGEST_CODE * agree, 1.0 * signs  # nearly exact as codes, both of them
    if kind == "rows":  # values as far from their codes as can be
        rows = rng.integers(-126, 126, (n, d)) + 0.499 * agree
        rows[:, 0] = LARGEST_CODE
    elif kind == "leading":  # codes as far from their leading bits as can be
        rows = 16.0 * rng.integers(1, 15, (n, d)) + np.where(agree > 0, 15, 0) - 128
        rows[:, 0] = LARGEST_CODE
    elif kind == "suffix_norms":  # dimensions that later stages read are parallel to the query's
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
        query = rng.standard_normal(d) * powers_of_ten(rng, (1,), 7, 9.5)
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
@pytest.mark.slow
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
@pytest.mark.slow
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
            rng, vectors, "row", data.draw(st.sets(st.sampled_from(["bitmap", "skipped", "covisited"])))
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
def test_a_full_list_of_survivors(case: Case, seed: int) -> None:
    """Rows that come in rising order of score: each is better than all before, so that every one survives."""
    rng = np.random.default_rng(seed)
    n, d = 4_000, 24
    vectors = np.sort(rng.standard_normal(n))[:, None] * np.linspace(1, 0.5, d) + 1e-3 * rng.standard_normal(
        (n, d)
    )
    request = Request(np.ones(d, np.float32), np.array([[0, n]]))
    check_all(replace(case, vectors=vectors.astype(np.float32), bias=None, stages=None, requests=[request]))


@settings(max_examples=200, deadline=None)
@given(cases(kinds=("whole",), special=False, rows=st.integers(1, 200)))
def test_it_is_the_sort_by_score_then_row(case: Case) -> None:
    """Whole numbers have no rounding, so plain Python integers are the oracle."""
    rng = np.random.default_rng(len(case.vectors))
    request = case.requests[0]._replace(
        query=np.rint(rng.standard_normal(case.vectors.shape[1])).astype(np.float32)
    )
    if request.covisited is not None:
        request = request._replace(offsets=rng.integers(-5, 5, len(request.covisited)).astype(np.float32))
    bias = None if case.bias is None else np.rint(case.bias)
    case = replace(case, requests=[request], bias=bias)
    offsets: dict[int, float] = {}
    if request.covisited is not None and request.offsets is not None:
        offsets = dict(zip(request.covisited.tolist(), request.offsets.tolist(), strict=True))

    def score(row: int) -> int:
        dot = sum(int(q) * int(v) for q, v in zip(request.query, case.vectors[row], strict=True))
        return dot + int(0 if bias is None else bias[row]) + int(offsets.get(row, 0))

    best = sorted((-score(row), row) for row in eligible(case))[: case.k]

    (found,) = check_all(case)

    assert found.rows.tolist() == [row for _, row in best]
    assert found.scores.tolist() == [-negative for negative, _ in best]


@pytest.mark.parametrize("dimension", [1, 7, 15, 16, 17, 31, 33, 64, 70, 128, 131])
def test_float32_sums_in_sixteen_lanes(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    vectors = rng.standard_normal((40, dimension)).astype(np.float32)
    query = rng.standard_normal(dimension).astype(np.float32)
    expected = []
    for vector in vectors:
        lanes = [np.float32(0)] * 16
        for i in range(dimension):
            lanes[i % 16] = np.float32(lanes[i % 16] + np.float32(query[i] * vector[i]))
        for half in (8, 4, 2, 1):
            lanes = [np.float32(lanes[j] + lanes[j + half]) for j in range(half)]
        expected.append(lanes[0])

    (found,) = check_all(all_rows(vectors, query, 40))

    np.testing.assert_array_equal(found.scores, np.array(expected)[found.rows])


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
            table,
            query,
            np.array([[0, 9]]),
            99,
            skipped=none,
            covisited=none,
            offsets=np.empty(0, np.float32),
        )
        assert found.rows.tolist() == list(range(9))


def test_covisited_rows_rank_once_and_with_their_offset() -> None:
    vectors = np.arange(40, dtype=np.float32)[:, None]
    covisited, offsets = np.array([3, 8, 20]), np.array([100, 7.5, math.nan], np.float32)
    request = Request(np.ones(1, np.float32), np.array([[5, 10]]), covisited=covisited, offsets=offsets)
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
    vectors = rng.standard_normal((500, 24)).astype(np.float32)
    request = Request(vectors[0], np.array([[100, 300]]))
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
    # the best cluster first: a threshold for the rest
    request = Request(query, np.array([[first, first + 100]]))
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
