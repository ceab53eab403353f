"""Tables and requests at random, and the answers of every backend to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.ranking import Codes, Found, Request, Table, available_backends, get_backend

NAMES = available_backends()
kernel: Any = import_module("hiersrec_sdk._kernel") if "c" in NAMES else None
ISAS: tuple[str, ...] = kernel.available_isas() if kernel else ()
needs_kernel = pytest.mark.skipif(kernel is None, reason="there is no compiled kernel here")

Floats = NDArray[np.float32]


def each_instruction_set() -> Iterator[str]:
    """Puts each in use, none without a kernel; at the end, the one that was."""
    if kernel is None:
        return
    before = kernel.isa()
    try:
        for isa in ISAS:
            assert kernel.use_isa(isa)
            yield isa
    finally:
        kernel.use_isa(before)


LARGEST_QUERY_CODE = 127 * 128
LARGEST_CODE = 126.999  # a row's largest value; then its scale, which is rounded up, is 1


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


def powers_of_ten(
    rng: np.random.Generator, shape: tuple[int, ...], low: float, high: float
) -> NDArray[np.float64]:
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
    elif kind == "clustered":  # what pruning is for: neighbors are alike, the first dimensions carry most
        centres = rng.standard_normal((n // 20 + 1, d))
        rows = (centres[np.sort(rng.integers(0, len(centres), n))] + 0.2 * normal) * 0.9 ** np.arange(d)
    elif kind == "norms":  # huge and tiny rows
        rows = normal * powers_of_ten(rng, (n, 1), -38, 30)
    elif kind == "values":  # huge and tiny values within a row: codes of most of them are 0
        rows = normal * powers_of_ten(rng, (n, d), -8, 2)
    elif kind == "denormal":
        rows = normal * powers_of_ten(rng, (n, 1), -45, -38)
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
        rows *= powers_of_ten(rng, (n, 1), -1, 1) if n % 2 else 1
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
        query = (query * powers_of_ten(rng, (1,), -45, 38)).clip(-3e38, 3e38)
    elif kind == "values":
        query *= powers_of_ten(rng, (d,), -8, 2)
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

    covisited = rows(8) if "covisited" in parts else None
    offsets = None
    if covisited is not None:
        offsets = rng.standard_normal(len(covisited)).astype(np.float32)
        if "special" in parts:
            offsets[rng.random(len(covisited)) < 0.3] = rng.choice([np.nan, np.inf, -np.inf])
    return Request(
        query=query_of(rng, kind, vectors),
        ranges=ranges,
        rest=rest,
        bitmap=bitmap_of(rng.random(n) < rng.choice([0.02, 0.5, 0.98])) if "bitmap" in parts else None,
        skipped=rows(9) if "skipped" in parts else None,
        covisited=covisited,
        offsets=offsets,
    )


def bias_of(rng: np.random.Generator, kind: str, n: int) -> Floats | None:
    if kind == "none":
        return None
    bias: NDArray[Any] = rng.standard_normal(n)
    bias = bias.round() if kind == "whole" else bias * powers_of_ten(rng, (1,), -3, 3)
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
    eights = -(-d // 8)
    ends = st.lists(st.integers(1, eights - 1).map(lambda end: 8 * end), unique=True, max_size=3).map(sorted)
    stages = draw(st.none() | (ends if eights > 1 else st.just([])))
    queries = ("normal", "whole", "zero", "row", "one", "ones", "scaled", "values") + ("special",) * special
    parts = st.sets(
        st.sampled_from(["whole", "rest", "bitmap", "skipped", "covisited"] + ["special"] * special)
    )
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
    """Equal rows and scores, to the last bit, by looking at as many rows."""
    assert found.scores.dtype == np.float32
    assert found.rows.dtype == np.int64
    np.testing.assert_array_equal(found.rows, right.rows, str(what))
    np.testing.assert_array_equal(found.scores.view(np.uint32), right.scores.view(np.uint32), str(what))
    assert found.rows_scored == right.rows_scored, what


def by_numpy(case: Case) -> list[Found]:
    """The answers of the definition."""
    table = case.table(codes=False)
    return get_backend("numpy").topk_many(table, case.requests, case.k, everything=case.everything)


def by_c(case: Case) -> Iterator[tuple[tuple[str, bool], list[Found]]]:
    """The answers of the C kernel, on every instruction set, with codes where the table can have them and without."""
    for codes in (False, True)[: 1 + case.has_codes]:
        table = case.table(codes)
        for isa in each_instruction_set():
            found = get_backend("c").topk_many(table, case.requests, case.k, everything=case.everything)
            yield (isa, codes), found


def check_all(case: Case) -> list[Found]:
    """The answers of the definition, once it is sure that they are everybody's."""
    right = by_numpy(case)
    table = case.table(codes=False)
    answers: list[tuple[object, list[Found]]] = []
    if "numba" in NAMES:
        numba = get_backend("numba")
        answers.append(("numba", numba.topk_many(table, case.requests, case.k, everything=case.everything)))
    for what, found in [*answers, *by_c(case)]:
        for one, other in zip(found, right, strict=True):
            assert_same(one, other, what)
    return right


def eligible(case: Case) -> list[int]:
    """Rows that may rank for the only request of ``case``."""
    (request,) = case.requests
    n = len(case.vectors)
    spans = [*request.ranges.tolist(), *([] if request.rest is None else request.rest.tolist())]
    rows = {row for start, stop in spans for row in range(start, stop)}
    if case.everything:
        rows = set(range(n))
    rows |= set([] if request.covisited is None else request.covisited.tolist())
    rows -= set([] if request.skipped is None else request.skipped.tolist())
    bitmap = request.bitmap
    return sorted(row for row in rows if bitmap is None or int(bitmap[row // 64]) >> row % 64 & 1)


def all_rows(vectors: NDArray[Any], query: Floats, k: int, **more: Any) -> Case:
    """One query over all rows."""
    request = Request(query, np.array([[0, len(vectors)]]))
    return Case(
        vectors, **{"bias": None, "stages": None, "requests": [request], "k": k, "everything": False, **more}
    )
