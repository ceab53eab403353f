"""Latency of the ranking kernel: k = 20, d = 128, random vectors whose variance falls along the axes.

``exact`` ranks the whole table, ``candidates`` ranges that hold 4 % of it, ``batch`` the whole table for 64
queries at once; each over float32 vectors alone and with their int8 codes, which change no result. Each round asks the
next query.
"""

from __future__ import annotations

from functools import cache
from itertools import cycle

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.vectors import Case, isotropic
from hiersrec_sdk.ranking import Codes, Request, Table, available_backends, get_backend
from hiersrec_sdk.ranking.row_ranges import complement

K = 20
SIZES = pytest.mark.parametrize("rows", [43_097, 1_000_000])
CODES = pytest.mark.parametrize("codes", [False, True], ids=["float32", "int8"])


@cache
def case(rows: int) -> Case:
    return isotropic(rows, 128, share=0.04, count=64, seed=0, falling=True)


@cache
def table(rows: int, codes: bool) -> Table:
    vectors = case(rows).vectors
    return Table(vectors, codes=Codes.of(vectors) if codes else None)


def requests(rows: int, exact: bool) -> list[Request]:
    asked = zip(case(rows).queries, case(rows).ranges, strict=True)
    return [Request(query, ranges, complement(ranges, rows) if exact else None) for query, ranges in asked]


@pytest.mark.parametrize("backend", available_backends())
@CODES
@pytest.mark.parametrize("mode", ["candidates", "exact"])
@SIZES
def test_search(benchmark: BenchmarkFixture, rows: int, mode: str, codes: bool, backend: str) -> None:
    benchmark.group = f"kernel {mode}, {rows:,} rows"
    search, ranked = get_backend(backend).search, table(rows, codes)
    asked = cycle(requests(rows, mode == "exact"))
    (example,) = search(ranked, [next(asked)], K)
    benchmark.extra_info |= {"rows_scored": example.rows_scored, "bytes_read": example.bytes_read}

    (found,) = benchmark.pedantic(
        lambda request: search(ranked, [request], K),
        setup=lambda: ((next(asked),), {}),
        rounds=100 if backend == "c" or example.rows_scored < 100_000 else 5,
        warmup_rounds=1,
    )

    assert len(found.scores) == len(found.rows) == K


@CODES
@SIZES
def test_search_of_a_batch(benchmark: BenchmarkFixture, rows: int, codes: bool) -> None:
    benchmark.group = f"kernel batch of 64, {rows:,} rows"
    search, ranked, asked = get_backend("c").search, table(rows, codes), requests(rows, exact=True)

    found = benchmark.pedantic(lambda: search(ranked, asked, K), rounds=5, warmup_rounds=1)

    assert [len(each.rows) for each in found] == [K] * len(asked)
