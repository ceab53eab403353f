"""The ranking backends: bit for bit the same, and what csrc/topk.h says."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys
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
from hiersrec_sdk.errors import BackendError
from hiersrec_sdk.ranking import available_backends, get_backend, quantize_query, quantize_rows
from hiersrec_sdk.ranking.scan import MAX_INT8_DIMENSION

NAMES = ("c", "numba", "numpy")
Ranked = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class Request:
    """The arguments of one call of ``topk``."""

    vectors: NDArray[Any]
    query: NDArray[Any]
    ranges: NDArray[np.int64]
    k: int
    scales: NDArray[np.float32] | None = None
    query_scale: float = 1.0
    bias: NDArray[np.float32] | None = None
    bitmap: NDArray[np.uint64] | None = None
    deny: bool = False

    def rank(self, backend: str) -> Ranked:
        return get_backend(backend).topk(**vars(self))

    def rank_by_all(self) -> Ranked:
        """The answer of every backend, once it is sure that they are one."""
        first, *others = (self.rank(name) for name in NAMES)
        for scores, rows in others:
            np.testing.assert_array_equal(rows, first[1])
            np.testing.assert_array_equal(scores.view(np.uint32), first[0].view(np.uint32))
        return first


def bitmap_of(listed: NDArray[np.bool_]) -> NDArray[np.uint64]:
    padded = np.zeros(-(-len(listed) // 64) * 64, np.bool_)
    padded[: len(listed)] = listed
    return np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64)


def values(rng: np.random.Generator, kind: str, shape: int | tuple[int, ...]) -> NDArray[np.float32]:
    """float32 values: ``few`` whole numbers (many ties, exact sums), ``normal``, or with ``special`` ones."""
    if kind == "few":
        return rng.integers(-2, 3, shape).astype(np.float32)
    drawn = rng.standard_normal(shape, dtype=np.float32)
    if kind == "special":
        special = np.array([np.nan, np.inf, -np.inf, -0.0, 3e38, -3e38, 1e-45], np.float32)
        place = rng.random(shape) < 0.02
        drawn[place] = rng.choice(special, int(place.sum()))
    return drawn


@st.composite
def requests(draw: st.DrawFn, kinds: tuple[str, ...] = ("few", "normal", "special")) -> Request:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(kinds))
    n = draw(st.integers(0, 200))
    dimension = draw(st.integers(1, 70))
    cuts = np.sort(rng.integers(0, n + 1, 2 * draw(st.integers(0, 8))))
    request = Request(
        vectors=values(rng, kind, (n, dimension)),
        query=values(rng, kind, dimension),
        ranges=rng.permutation(cuts.reshape(-1, 2)),
        k=draw(st.one_of(st.integers(0, 5), st.integers(0, n + 5))),
        bias=values(rng, draw(st.sampled_from(kinds)), n) if draw(st.booleans()) else None,
        bitmap=bitmap_of(rng.random(n) < rng.random()) if draw(st.booleans()) else None,
        deny=draw(st.booleans()),
    )
    if draw(st.booleans()):
        low, high = draw(st.sampled_from([(-128, 128), (-1, 2), (-128, -127), (127, 128)]))
        return replace(
            request,
            vectors=rng.integers(low, high, (n, dimension), np.int8),
            query=rng.integers(low, high, dimension, np.int8),
            scales=np.ones(n, np.float32) if kind == "few" else values(rng, kind, n),
            query_scale=1.0 if kind == "few" else float(rng.standard_normal(dtype=np.float32)),
        )
    return request


def in_ranges(request: Request) -> list[int]:
    return [row for start, stop in request.ranges for row in range(start, stop)]


def is_listed(request: Request, row: int) -> bool:
    return request.bitmap is None or bool(int(request.bitmap[row // 64]) >> row % 64 & 1) != request.deny


def test_every_backend_is_here() -> None:
    assert available_backends() == NAMES


@settings(max_examples=400, deadline=None)
@given(requests())
def test_backends_agree_bit_for_bit(request: Request) -> None:
    scores, rows = request.rank_by_all()

    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    assert len(scores) == len(rows) <= request.k
    assert not np.isnan(scores).any()
    pairs = [(-score, row) for score, row in zip(scores.tolist(), rows.tolist(), strict=True)]
    assert pairs == sorted(set(pairs))
    assert set(rows.tolist()) <= {row for row in in_ranges(request) if is_listed(request, row)}


@settings(max_examples=200, deadline=None)
@given(requests(kinds=("few",)))
def test_it_is_the_sort_by_score_then_row(request: Request) -> None:
    """Whole numbers have no rounding, so plain Python integers are the oracle."""
    vectors, query = request.vectors.astype(int).tolist(), request.query.astype(int).tolist()
    bias = [0] * len(vectors) if request.bias is None else request.bias.astype(int).tolist()
    best = sorted(
        (-sum(q * v for q, v in zip(query, vectors[row], strict=True)) - bias[row], row)
        for row in in_ranges(request)
        if is_listed(request, row)
    )[: request.k]

    scores, rows = request.rank_by_all()

    assert rows.tolist() == [row for _, row in best]
    assert scores.tolist() == [-negative for negative, _ in best]


@pytest.mark.parametrize("dimension", [1, 7, 15, 16, 17, 31, 33, 64, 70, 128, 131])
def test_float32_sums_in_sixteen_lanes(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    vectors, query = values(rng, "normal", (40, dimension)), values(rng, "normal", dimension)
    expected = []
    for vector in vectors:
        lanes = [np.float32(0)] * 16
        for i in range(dimension):
            lanes[i % 16] = np.float32(lanes[i % 16] + np.float32(query[i] * vector[i]))
        for half in (8, 4, 2, 1):
            lanes = [np.float32(lanes[j] + lanes[j + half]) for j in range(half)]
        expected.append(lanes[0])

    scores, rows = Request(vectors, query, np.array([[0, 40]]), 40).rank_by_all()

    np.testing.assert_array_equal(scores, np.array(expected)[rows])


def test_many_ties_among_many_rows() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 3, (30_000, 2)).astype(np.float32)
    query = np.array([1, 1], np.float32)
    order = np.argsort(-vectors.sum(axis=1), kind="stable")
    for k in (1, 20, 5_000, 30_000):
        _, rows = Request(vectors, query, np.array([[20_000, 30_000], [0, 20_000]]), k).rank_by_all()
        np.testing.assert_array_equal(rows, order[:k])


def test_nan_never_ranks_and_infinities_do() -> None:
    vectors = np.array([[math.nan], [1], [math.inf], [-math.inf], [0], [math.nan]], np.float32)
    scores, rows = Request(vectors, np.array([2], np.float32), np.array([[0, 6]]), 6).rank_by_all()
    assert rows.tolist() == [2, 1, 4, 3]
    assert scores.tolist() == [math.inf, 2, 0, -math.inf]

    bias = np.array([0, math.nan, -math.inf, 0, -math.inf, 0], np.float32)  # inf - inf is NaN
    scores, rows = Request(vectors, np.array([2], np.float32), np.array([[0, 6]]), 6, bias=bias).rank_by_all()
    assert rows.tolist() == [3, 4]


def test_minus_zero_equals_zero() -> None:
    vectors = np.array([[0], [1], [0]], np.int8)
    scales = np.array([-1, -1, 1], np.float32)  # row 0 scores -0.0, row 2 0.0
    scores, rows = Request(vectors, np.array([1], np.int8), np.array([[0, 3]]), 3, scales).rank_by_all()
    assert rows.tolist() == [0, 2, 1]
    assert np.signbit(scores).tolist() == [True, False, True]


def test_int8_extremes_are_exact() -> None:
    vectors = np.full((3, MAX_INT8_DIMENSION), -128, np.int8)
    vectors[1] = 127
    ones = np.ones(3, np.float32)
    scores, rows = Request(vectors, vectors[0], np.array([[0, 3]]), 3, ones).rank_by_all()
    assert rows.tolist() == [0, 2, 1]
    exact = [128 * 128 * MAX_INT8_DIMENSION, 128 * 128 * MAX_INT8_DIMENSION, -128 * 127 * MAX_INT8_DIMENSION]
    np.testing.assert_array_equal(scores, np.array(exact, np.int32).astype(np.float32))


def test_allow_and_deny_split_the_rows() -> None:
    rng = np.random.default_rng(3)
    vectors, query = values(rng, "normal", (130, 5)), values(rng, "normal", 5)
    listed = rng.random(130) < 0.5
    everything = Request(vectors, query, np.array([[0, 130]]), 130)
    allowed = replace(everything, bitmap=bitmap_of(listed)).rank_by_all()[1]
    denied = replace(everything, bitmap=bitmap_of(listed), deny=True).rank_by_all()[1]
    assert sorted(allowed.tolist()) == np.flatnonzero(listed).tolist()
    assert sorted(denied.tolist()) == np.flatnonzero(~listed).tolist()


def test_empty_tables_and_ranges() -> None:
    query = np.ones(3, np.float32)
    some = np.ones((9, 3), np.float32)
    for vectors, ranges in [
        (some[:0], np.empty((0, 2), np.int64)),
        (some[:0], np.array([[0, 0]])),
        (some, np.empty((0, 2), np.int64)),
        (some, np.array([[9, 9], [4, 4]])),
    ]:
        scores, rows = Request(vectors, query, ranges, 5).rank_by_all()
        assert scores.shape == rows.shape == (0,)
        assert scores.dtype == np.float32
        assert rows.dtype == np.int64
    # An empty range inside another one overlaps nothing.
    assert len(Request(some, query, np.array([[0, 9], [4, 4]]), 5).rank_by_all()[1]) == 5


@pytest.mark.parametrize("offset", [0, 4, 64])
def test_memory_mapped_read_only_tables(tmp_path: Path, offset: int) -> None:
    rng = np.random.default_rng(1)
    vectors = values(rng, "normal", (500, 24))
    codes, scales = quantize_rows(vectors)
    query = values(rng, "normal", 24)
    query_codes, query_scale = quantize_query(query)
    ranges = np.array([[300, 400], [10, 200]])

    def mapped(table: NDArray[Any]) -> NDArray[Any]:
        path = tmp_path / f"{table.dtype}-{table.ndim}"
        path.write_bytes(bytes(offset) + table.tobytes())
        return np.memmap(path, table.dtype, "r", offset, table.shape)

    ranges.flags.writeable = False
    query.flags.writeable = False
    for in_memory, on_disk in [
        (Request(vectors, query, ranges, 20), Request(mapped(vectors), query, ranges, 20)),
        (
            Request(codes, query_codes, ranges, 20, scales, query_scale),
            Request(mapped(codes), query_codes, ranges, 20, mapped(scales), query_scale),
        ),
    ]:
        for ours, theirs in zip(on_disk.rank_by_all(), in_memory.rank_by_all(), strict=True):
            assert type(ours) is np.ndarray
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_disturb_each_other(name: str) -> None:
    rng = np.random.default_rng(5)
    vectors = values(rng, "normal", (3_000, 32))
    calls = [Request(vectors, values(rng, "normal", 32), np.array([[0, 3_000]]), 50) for _ in range(32)]
    alone = [call.rank(name)[1].tolist() for call in calls]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda call: call.rank(name)[1].tolist(), calls))
    assert together == alone


GOOD = Request(np.ones((70, 4), np.float32), np.ones(4, np.float32), np.array([[0, 70]]), 3)
GOOD_INT8 = Request(
    np.ones((70, 4), np.int8), np.ones(4, np.int8), np.array([[0, 70]]), 3, np.ones(70, np.float32)
)


def but(request: Request, **changes: Any) -> Request:
    """``request`` with arguments that may be of a wrong type."""
    return replace(request, **changes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (but(GOOD, vectors=[[1.0]]), TypeError, "vectors: list"),
        (but(GOOD, vectors=np.ones((70, 4))), TypeError, r"vectors: float64 \[70, 4\].*float32 or int8"),
        (but(GOOD, vectors=np.ones(4, np.float32)), ValueError, r"vectors: float32 \[4\]"),
        (but(GOOD, vectors=np.ones((70, 0), np.float32)), ValueError, "at least one dimension"),
        (
            but(GOOD, vectors=np.ones((70, 8), np.float32)[:, ::2]),
            ValueError,
            "vectors is not C-contiguous",
        ),
        (but(GOOD, vectors=np.ones((4, 70), np.float32).T), ValueError, "vectors is not C-contiguous"),
        (but(GOOD, vectors=GOOD.vectors.astype(">f4")), TypeError, "vectors: >f4"),
        (but(GOOD, query=np.ones(4, np.int8)), TypeError, r"query: int8 \[4\].*float32 \[4\]"),
        (but(GOOD, query=np.ones(5, np.float32)), ValueError, r"query: float32 \[5\].*float32 \[4\]"),
        (but(GOOD, query=np.ones(8, np.float32)[::2]), ValueError, "query is not C-contiguous"),
        (but(GOOD, scales=np.ones(70, np.float32)), ValueError, "for int8 vectors"),
        (but(GOOD, query_scale=0.5), ValueError, "for int8 vectors"),
        (but(GOOD, bias=np.ones(69, np.float32)), ValueError, r"bias: float32 \[69\].*float32 \[70\]"),
        (but(GOOD, bias=np.ones(70)), TypeError, r"bias: float64 \[70\]"),
        (but(GOOD, bitmap=np.ones(1, np.uint64)), ValueError, "70 rows need at least 2 words"),
        (but(GOOD, bitmap=np.ones(2, np.int64)), TypeError, r"bitmap: int64 \[2\]"),
        (but(GOOD, ranges=[(0, 70)]), TypeError, "ranges: list"),
        (but(GOOD, ranges=np.array([[0, 70]], np.int32)), TypeError, r"ranges: int32 \[1, 2\]"),
        (but(GOOD, ranges=np.array([0, 70])), ValueError, r"ranges: int64 \[2\].*int64 \[any, 2\]"),
        (but(GOOD, ranges=np.array([[0, 71]])), ValueError, r"\[0, 71\); each must have .* <= 70"),
        (but(GOOD, ranges=np.array([[-1, 5]])), ValueError, r"\[-1, 5\)"),
        (but(GOOD, ranges=np.array([[1, 2], [9, 5]])), ValueError, r"\[9, 5\)"),
        (but(GOOD, ranges=np.array([[71, 71]])), ValueError, r"\[71, 71\)"),
        (but(GOOD, ranges=np.array([[0, 2**63 - 1]])), ValueError, "each must have"),
        (
            but(GOOD, ranges=np.array([[30, 50], [0, 31]])),
            ValueError,
            r"\[0, 31\) and \[30, 50\) overlap",
        ),
        (but(GOOD, ranges=np.array([[0, 5], [0, 5]])), ValueError, "overlap"),
        (but(GOOD, k=-1), ValueError, "k: -1; it must be at least 0"),
        (but(GOOD, k=1.0), TypeError, "k: float"),
        (but(GOOD, k=True), TypeError, "k: bool"),
        (but(GOOD_INT8, scales=None), TypeError, r"scales: NoneType; .*float32 \[70\]"),
        (but(GOOD_INT8, scales=np.ones(1, np.float32)), ValueError, r"scales: float32 \[1\]"),
        (but(GOOD_INT8, query=np.ones(4, np.float32)), TypeError, r"query: float32 \[4\].*int8 \[4\]"),
        (but(GOOD_INT8, query_scale="1"), TypeError, "query_scale: str; it must be a number"),
        (
            but(
                GOOD_INT8,
                vectors=np.ones((70, MAX_INT8_DIMENSION + 1), np.int8),
                query=np.ones(MAX_INT8_DIMENSION + 1, np.int8),
            ),
            ValueError,
            "may have 131071 dimensions",
        ),
    ],
)
def test_wrong_input_is_refused(name: str, request_: Request, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        request_.rank(name)


def test_numpy_integers_are_whole_numbers() -> None:
    assert len(but(GOOD, k=np.int32(3)).rank_by_all()[1]) == 3


def test_an_unknown_backend_is_an_error_that_names_the_others() -> None:
    with pytest.raises(BackendError, match="'cuda' is not available here; available: c, numba, numpy"):
        get_backend("cuda")


def test_the_best_backend_is_the_default() -> None:
    assert get_backend().name == "c"


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


def test_naming_the_backends_does_not_import_numba() -> None:
    code = (
        "import sys; from hiersrec_sdk.ranking import available_backends, get_backend; "
        "assert 'numba' in available_backends(); get_backend('c'); assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([1e-45, 1e-30, 1.0, 1e30]))
def test_quantisation_is_off_by_half_a_step_at_most(seed: int, dimension: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((5, dimension)) * size).astype(np.float32)
    vectors[2] = 0

    codes, scales = quantize_rows(vectors)

    assert codes.dtype == np.int8
    assert scales.dtype == np.float32
    assert codes[2].tolist() == [0] * dimension
    assert scales[2] == 0
    largest = np.abs(vectors).max(axis=1)
    assert np.abs(codes.astype(int)).max(axis=1).tolist() == [127 if value > 0 else 0 for value in largest]
    exact = largest.astype(np.float64)[:, None] / 127
    assert (np.abs(codes * exact - vectors) <= exact * 0.5001).all()
    for vector, row_codes, row_scale in zip(vectors, codes, scales, strict=True):
        query_codes, query_scale = quantize_query(vector)
        np.testing.assert_array_equal(query_codes, row_codes)
        assert query_scale == row_scale


def test_quantised_scores_are_near_the_real_ones() -> None:
    rng = np.random.default_rng(7)
    vectors, query = values(rng, "normal", (200, 64)), values(rng, "normal", 64)
    codes, scales = quantize_rows(vectors)
    query_codes, query_scale = quantize_query(query)
    scores, rows = Request(codes, query_codes, np.array([[0, 200]]), 200, scales, query_scale).rank_by_all()
    np.testing.assert_allclose(scores, (vectors @ query)[rows], atol=0.5)


def test_quantisation_refuses_what_codes_cannot_hold() -> None:
    vectors = np.ones((4, 2), np.float32)
    for value in (math.nan, math.inf):
        vectors[3, 1] = value
        with pytest.raises(ValueError, match="row 3 has a NaN or an infinity"):
            quantize_rows(vectors)
    with pytest.raises(ValueError, match=r"query: \[4, 2\]; it must be \[d\]"):
        quantize_query(vectors)
    with pytest.raises(ValueError, match=r"vectors: \[2\]; they must be \[n, d\]"):
        quantize_rows(vectors[0])


def test_the_example_of_the_docstring_is_true() -> None:
    results = doctest.testmod(hiersrec_sdk.ranking)
    assert results.attempted
    assert not results.failed
