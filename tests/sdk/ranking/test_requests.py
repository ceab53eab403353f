"""Tables and requests as arrays: mapped, shared by threads, wrong."""

from __future__ import annotations

import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiersrec_sdk.ranking import Codes, Request, Table, get_backend
from hiersrec_sdk.ranking.requests import MAX_DIMENSION
from hiersrec_sdk.ranking.row_ranges import complement
from tests.sdk.ranking.cases import (
    NAMES,
    assert_same,
    bitmap_of,
)


@pytest.mark.parametrize("offset", [0, 4, 64])
def test_memory_mapped_read_only_tables(offset: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((1_500, 45)).astype(np.float32)
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
    query, ranges, bitmap, skipped, covisited, offsets = arguments
    request = Request(query, ranges, None, bitmap, skipped, covisited, offsets)
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


THREADED = [("c", False), ("c", True), ("numba", False)]  # those that give up the GIL


@pytest.mark.parametrize(("name", "codes"), [(name, codes) for name, codes in THREADED if name in NAMES])
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
    ({"vectors": [[1.0]]}, TypeError, "vectors must be .*, got list"),
    (
        {"vectors": np.ones((70, 4))},
        TypeError,
        r"vectors must be an array of float32 \[any, any\], got float64 \[70, 4\]",
    ),
    ({"vectors": np.ones((70, 4), np.int8)}, TypeError, r"vectors must be .*, got int8 \[70, 4\]"),
    ({"vectors": VECTORS.astype(">f4")}, TypeError, "vectors must be .*, got >f4"),
    ({"vectors": np.ones(4, np.float32)}, ValueError, r"vectors must be .*, got float32 \[4\]"),
    ({"vectors": np.ones((70, 0), np.float32)}, ValueError, "1 to 65536 dimensions"),
    ({"vectors": np.ones((0, 4), np.float32)}, ValueError, "at least one row"),
    ({"vectors": np.ones((1, MAX_DIMENSION + 1), np.float32)}, ValueError, "1 to 65536 dimensions"),
    ({"vectors": np.ones((70, 8), np.float32)[:, ::2]}, ValueError, "vectors must be C-contiguous"),
    ({"vectors": np.ones((4, 70), np.float32).T}, ValueError, "vectors must be C-contiguous"),
    ({"bias": np.ones(69, np.float32)}, ValueError, r"bias must be .*float32 \[70\], got float32 \[69\]"),
    ({"bias": np.ones(70)}, TypeError, r"bias must be .*, got float64 \[70\]"),
    ({"bias": [1.0] * 70}, TypeError, "bias must be .*, got list"),
]


@pytest.mark.parametrize(("changes", "error", "message"), TABLE_FAULTS)
def test_a_wrong_table_is_refused(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Table(**{"vectors": VECTORS, **changes})


FAULTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": np.ones(4, np.int8)}, TypeError, r"query must be .*float32 \[4\], got int8 \[4\]"),
    ({"query": [1.0] * 4}, TypeError, "query must be .*, got list"),
    ({"query": np.ones(5, np.float32)}, ValueError, r"query must be .*float32 \[4\], got float32 \[5\]"),
    (
        {"query": np.ones((1, 4), np.float32)},
        ValueError,
        r"query must be .*float32 \[4\], got float32 \[1, 4\]",
    ),
    ({"query": np.ones(8, np.float32)[::2]}, ValueError, "query must be C-contiguous"),
    (
        {"bitmap": np.ones(1, np.uint64)},
        ValueError,
        r"bitmap must have at least 2 words of 64 bits for 70 rows, got uint64 \[1\]",
    ),
    ({"bitmap": np.ones(2, np.int64)}, TypeError, r"bitmap must be .*, got int64 \[2\]"),
    ({"ranges": [(0, 70)]}, TypeError, "ranges must be .*, got list"),
    ({"ranges": np.array([[0, 70]], np.int32)}, TypeError, r"ranges must be .*, got int32 \[1, 2\]"),
    ({"ranges": np.array([0, 70])}, ValueError, r"ranges must be .*int64 \[any, 2\], got int64 \[2\]"),
    ({"ranges": np.array([[0, 71]])}, ValueError, r"ranges must have .* <= 70, .*got \[0, 71\)"),
    ({"ranges": np.array([[-1, 5]])}, ValueError, r"\[-1, 5\)"),
    ({"ranges": np.array([[1, 2], [9, 5]])}, ValueError, r"\[9, 5\)"),
    ({"ranges": np.array([[71, 71]])}, ValueError, r"\[71, 71\)"),
    ({"ranges": np.array([[0, 2**63 - 1]])}, ValueError, "ranges must have"),
    (
        {"ranges": np.array([[30, 50], [0, 31]])},
        ValueError,
        r"ranges must be disjoint, got \[0, 31\) and \[30, 50\)",
    ),
    ({"ranges": np.array([[0, 5], [0, 5]])}, ValueError, "disjoint"),
    ({"rest": np.array([[5, 9]], np.int32)}, TypeError, r"rest must be .*, got int32 \[1, 2\]"),
    ({"rest": np.array([[5, 71]])}, ValueError, r"rest must have .*, got \[5, 71\)"),
    ({"rest": np.array([[2, 9]])}, ValueError, r"disjoint, got \[0, 3\) and \[2, 9\)"),
    ({"rest": np.array([[20, 30], [5, 9]])}, ValueError, "rest: ranges must rise"),
    ({"skipped": np.array([1, 1])}, ValueError, r"skipped: rows must be distinct, rising, and in \[0, 70\)"),
    ({"skipped": np.array([70])}, ValueError, "skipped: rows must be distinct"),
    ({"skipped": np.array([-1])}, ValueError, "skipped: rows must be distinct"),
    ({"skipped": np.array([1.0])}, TypeError, r"skipped must be .*, got float64 \[1\]"),
    (
        {"covisited": np.array([2, 1]), "offsets": np.ones(2, np.float32)},
        ValueError,
        "covisited: rows must be distinct, rising",
    ),
    ({"covisited": np.array([1])}, ValueError, "covisited and offsets go together"),
    ({"offsets": np.ones(1, np.float32)}, ValueError, "covisited and offsets go together"),
    (
        {"covisited": np.array([1]), "offsets": np.ones(2, np.float32)},
        ValueError,
        r"offsets must be .*float32 \[1\], got float32 \[2\]",
    ),
    (
        {"covisited": np.array([1]), "offsets": np.ones(1)},
        TypeError,
        r"offsets must be .*, got float64 \[1\]",
    ),
    ({"k": -1}, ValueError, "k must be an integer ≥ 0, got -1"),
    ({"k": 1.0}, TypeError, r"k must be an integer ≥ 0, got 1\.0"),
    ({"k": True}, TypeError, "k must be an integer ≥ 0, got True"),
    ({"k": "3"}, TypeError, "k must be an integer ≥ 0, got '3'"),
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
