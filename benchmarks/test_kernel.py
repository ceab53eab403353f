"""Latency of the ranking kernel: k = 20, d = 128, seeded tables like a trained one.

``exact`` ranks the whole table, ``candidates`` the categories that hold 4 % of it, ``batch`` the whole table for 64
queries at once; each over float32 vectors alone and with their int8 codes, which change no result. Each round asks the
next query.
"""

from __future__ import annotations

from functools import cache
from itertools import cycle

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.peers.hiersrec import aligned_codes
from benchmarks.vectors import Case, clustered
from hiersrec_sdk.ranking import Request, Table, available_backends, get_backend

DIMENSION = 128
K = 20
QUERIES = 64


@cache
def case(rows: int) -> Case:
    return clustered(rows, DIMENSION, share=0.04, count=QUERIES, seed=0)


@cache
def table(rows: int, codes: bool) -> Table:
    vectors = case(rows).vectors
    return Table(vectors, codes=aligned_codes(vectors) if codes else None)


def requests(rows: int) -> list[Request]:
    return [Request(query, own) for query, own in zip(case(rows).queries, case(rows).ranges, strict=True)]


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("codes", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("mode", ["candidates", "exact"])
@pytest.mark.parametrize("rows", [43_097, 1_000_000])
def test_topk(benchmark: BenchmarkFixture, rows: int, mode: str, codes: bool, backend: str) -> None:
    benchmark.group = f"kernel {mode}, {rows:,} rows"
    ranking, ranked, everything = get_backend(backend), table(rows, codes), mode == "exact"
    asked = cycle(requests(rows))
    (example,) = ranking.topk_many(ranked, [next(asked)], K, everything=everything)
    benchmark.extra_info |= {"rows_scored": example.rows_scored, "bytes_read": example.bytes_read}

    rounds = 100 if backend == "c" or example.rows_scored < 100_000 else 5
    (found,) = benchmark.pedantic(
        lambda request: ranking.topk_many(ranked, [request], K, everything=everything),
        setup=lambda: ((next(asked),), {}),
        rounds=rounds,
        warmup_rounds=1,
    )

    assert len(found.scores) == len(found.rows) == K


@pytest.mark.parametrize("codes", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("rows", [43_097, 1_000_000])
def test_topk_many(benchmark: BenchmarkFixture, rows: int, codes: bool) -> None:
    benchmark.group = f"kernel batch of {QUERIES}, {rows:,} rows"
    ranking, ranked, asked = get_backend("c"), table(rows, codes), requests(rows)

    found = benchmark.pedantic(
        lambda: ranking.topk_many(ranked, asked, K, everything=True), rounds=5, warmup_rounds=1
    )

    assert [len(own.rows) for own in found] == [K] * QUERIES
