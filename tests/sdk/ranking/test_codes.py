"""The int8 codes of a table, and the integer dot products of a query's codes with them."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.ranking import Codes, Table
from hiersrec_sdk.ranking.requests import MAX_DIMENSION
from tests.sdk.ranking.cases import (
    KINDS,
    LARGEST_CODE,
    LARGEST_QUERY_CODE,
    Case,
    all_rows,
    cases,
    check_all,
    each_instruction_set,
    kernel,
    needs_kernel,
)


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
    scales, suffix_norms = from_bfloat(codes.scales), from_bfloat(codes.suffix_norms)
    assert not scales[n:].any()
    assert not suffix_norms[:, n:].any()

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
    assert_just_above(codes.quantization_errors[0], longest(unread))
    for stage, end in enumerate(codes.stage_ends.tolist()):
        assert_just_above(codes.quantization_errors[1 + stage], longest(errors[:, :end]))
        if stage < len(suffix_norms):
            lengths = np.array([longest(row[None, end:]) for row in rows])
            assert (suffix_norms[stage, :n] >= lengths).all()
            assert (suffix_norms[stage, :n] <= lengths * above + 2.0**-133).all()
    assert_just_above(codes.max_norm[0], longest(rows))


def prepare(table: Table) -> Any:
    """The table as the C kernel knows it."""
    return import_module("hiersrec_sdk.ranking.c_backend").prepare(table)


def longest(rows: NDArray[Any]) -> float:
    return math.sqrt(max(math.fsum(np.square(row)) for row in rows))


def assert_just_above(bound: np.float32, value: float) -> None:
    assert value <= bound <= value * (1 + 1e-6) + 1e-44


@needs_kernel
@settings(max_examples=100, deadline=None)
@given(case=cases(kinds=KINDS[:-1], rows=st.integers(1, 70)))
def test_integer_dots_are_exact_on_every_instruction_set(case: Case) -> None:
    (n, d), query = case.vectors.shape, case.requests[0].query
    table = case.table(codes=True)
    assert table.codes is not None
    whole = decoded(table.codes, n, d)
    for _ in each_instruction_set():
        found = kernel.integer_dots(prepare(table), query)
        largest, length = np.abs(query).max(), math.sqrt(np.square(query.astype(float)).sum())
        holds = largest >= 1e-30 and length <= 1e30 and length * float(table.codes.max_norm[0]) <= 1e37
        assert (found is not None) == holds
        if found is None:
            continue
        query_codes, dots = found
        assert np.abs(query_codes).max() == LARGEST_QUERY_CODE
        step = float(largest) / LARGEST_QUERY_CODE
        assert np.abs(query.astype(float) / step - query_codes[:d]).max() <= 0.5 + 1e-9
        assert not query_codes[d:].any()
        assert dots.tolist() == (whole @ query_codes.astype(np.int64)).tolist()


@needs_kernel
@pytest.mark.parametrize("sign", [1, -1])
def test_integer_dots_of_the_largest_codes_do_not_overflow(sign: int) -> None:
    vectors = np.full((17, MAX_DIMENSION), LARGEST_CODE, np.float32)
    vectors[1::2] *= -1
    query = np.full(MAX_DIMENSION, sign, np.float32)
    table = Table(vectors, codes=Codes.of(vectors, [8, 32_768]))
    for _ in each_instruction_set():
        found = kernel.integer_dots(prepare(table), query)
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
    with pytest.raises(ValueError, match=r"vectors must be \[n, d\], both at least 1, got \[20\]"):
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
        "suffix_norms": codes.suffix_norms[:1],
        "quantization_errors": codes.quantization_errors * np.float32(np.nan),
        "stage_ends": codes.stage_ends + 8,
        "max_norm": codes.max_norm.astype(np.float64),
    }
    for name, value in faults.items():
        with pytest.raises(ValueError, match=name):
            Table(vectors, codes=replace(codes, **{name: value}))
    for shape in ((40, 70), (20, 73)):
        with pytest.raises(ValueError, match=r"codes is uint8 \[2304\], not uint8 \["):
            Table(np.ones(shape, np.float32), codes=codes)
    wrong: Any = codes.tables()
    with pytest.raises(TypeError, match="codes must be Codes or None, got dict"):
        Table(vectors, codes=wrong)
