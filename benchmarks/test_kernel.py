"""Latency of the ranking kernel: one query, k = 20, d = 128, seeded random tables.

``exact`` scans the whole table, ``candidates`` 4 % of it in 20 scattered ranges.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from hiersrec_sdk.ranking import available_backends, get_backend

DIMENSION = 128
K = 20


@cache
def table(dtype: str, rows: int) -> dict[str, Any]:
    """Keyword arguments of ``topk``: a table and a query."""
    rng = np.random.default_rng(0)
    if dtype == "int8":
        return {
            "vectors": rng.integers(-127, 128, (rows, DIMENSION), np.int8),
            "query": rng.integers(-127, 128, DIMENSION, np.int8),
            "scales": np.full(rows, 0.01, np.float32),
            "query_scale": 0.01,
        }
    return {
        "vectors": rng.standard_normal((rows, DIMENSION), np.float32),
        "query": rng.standard_normal(DIMENSION, np.float32),
    }


def ranges(mode: str, rows: int) -> NDArray[np.int64]:
    if mode == "exact":
        return np.array([[0, rows]])
    length = rows // 500  # 20 of them are 4 %
    starts = np.random.default_rng(0).choice(rows // length, 20, replace=False) * length
    return np.sort(np.stack([starts, starts + length], axis=1), axis=0)


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("mode", ["candidates", "exact"])
@pytest.mark.parametrize("rows", [43_097, 1_000_000])
def test_topk(benchmark: BenchmarkFixture, rows: int, mode: str, dtype: str, backend: str) -> None:
    benchmark.group = f"kernel {dtype} {mode}, {rows:,} rows"
    topk: Callable[..., Any] = get_backend(backend).topk
    call = {**table(dtype, rows), "ranges": ranges(mode, rows), "k": K}
    scanned = int(np.diff(call["ranges"]).sum())
    benchmark.extra_info |= {
        "rows_scored": scanned,
        "bytes_read": scanned * call["vectors"].itemsize * DIMENSION,
    }

    rounds = 5 if scanned > 100_000 else 100
    scores, found = benchmark.pedantic(topk, kwargs=call, rounds=rounds, warmup_rounds=1)

    assert len(scores) == len(found) == K
