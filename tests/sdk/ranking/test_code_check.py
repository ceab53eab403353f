"""Codes that are checked: right ones pass, wrong ones do not, and what passes never loses a result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.ranking import Codes, Table, available_backends, get_backend
from hiersrec_sdk.ranking.code_check import _in_c, check_rows, first_wrong_row
from hiersrec_sdk.ranking.codes import from_bfloat

SPECIAL = [0.0, -0.0, 1e-45, -1e-40, 1.2e-38, 1e30, -3e38]
FIELDS = ("codes", "scales", "suffix_norms", "quantization_errors", "max_norm")


@st.composite
def coded(draw: st.DrawFn) -> tuple[NDArray[np.float32], Codes]:
    """Vectors of all kinds, and their codes."""
    n, d = draw(st.integers(1, 40)), draw(st.integers(1, 44))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    vectors = (random.standard_normal((n, d)) * 2.0 ** random.integers(-8, 8, (n, 1))).astype(np.float32)
    if draw(st.booleans()):  # small multiples of 1/8, whose errors are 0 at times
        vectors = (random.integers(-8, 9, (n, d)) / 8).astype(np.float32)
    for _ in range(draw(st.integers(0, 5))):
        vectors[random.integers(n), random.integers(d)] = draw(st.sampled_from(SPECIAL))
    if draw(st.booleans()):
        vectors[random.integers(n)] = 0
    padded = d + -d % 8
    stages = sorted(draw(st.sets(st.integers(1, 5).map(lambda at: 8 * at), max_size=3)))
    return vectors, Codes.of(vectors, [end for end in stages if end < padded])


def altered(codes: Codes, name: str, at: int, value: int) -> Codes:
    """The codes with one byte of a table changed."""
    table = getattr(codes, name).copy()
    content = table.reshape(-1).view(np.uint8)
    content[at % len(content)] = value
    return replace(codes, **{name: table})


def first_wrong(codes: Codes, vectors: NDArray[np.float32]) -> int:
    """By NumPy, and the same by C."""
    found = first_wrong_row(codes, vectors, 0, len(vectors))
    if "c" in available_backends():
        in_c = _in_c(codes, vectors)
        assert in_c is not None
        assert in_c(0, len(vectors)) == found
    return found


@settings(deadline=None)
@given(coded())
def test_the_codes_of_the_vectors_pass(both: tuple[NDArray[np.float32], Codes]) -> None:
    vectors, codes = both
    assert first_wrong(codes, vectors) == -1
    check_rows(codes, vectors)


@settings(deadline=None, max_examples=300)
@given(coded(), st.sampled_from(FIELDS), st.integers(0, 2**20), st.integers(0, 255), st.integers(0, 2**32))
def test_what_passes_loses_no_result(
    both: tuple[NDArray[np.float32], Codes], name: str, at: int, value: int, seed: int
) -> None:
    vectors, codes = both
    if not getattr(codes, name).size:
        return
    codes = altered(codes, name, at, value)
    try:
        codes.check(*vectors.shape)
        with np.errstate(all="ignore"):
            check_rows(codes, vectors)
    except ValueError:
        return
    assert first_wrong(codes, vectors) == -1
    if "c" not in available_backends():
        return
    query = np.random.default_rng(seed).standard_normal((vectors.shape[1],)).astype(np.float32)
    k = min(5, len(vectors))
    nothing = np.empty((0, 2), np.int64)
    for ranges in (nothing, np.array([[0, 1]])):
        found = get_backend("c").topk(Table(vectors, None, codes), query, ranges, k, everything=True)
        plain = get_backend("numpy").topk(Table(vectors), query, ranges, k, everything=True)
        assert found.rows.tolist() == plain.rows.tolist()
        assert found.scores.tobytes() == plain.scores.tobytes()


VECTORS = np.random.default_rng(0).standard_normal((70, 20)).astype(np.float32)
CODES = Codes.of(VECTORS, [8, 16])


def smaller(table: NDArray[Any], at: Any) -> NDArray[Any]:
    """bfloat16 or float32, 5 % smaller at a position."""
    wide: NDArray[np.float32] = table.copy() if table.dtype == np.float32 else from_bfloat(table)
    wide[at] *= np.float32(0.95)
    return wide if table.dtype == np.float32 else np.ascontiguousarray(wide.view(np.uint16)[..., 1::2])


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("scales", 33),
        ("suffix_norms", (0, 69)),
        ("suffix_norms", (1, 0)),
        *(("quantization_errors", at) for at in range(4)),
        ("max_norm", 0),
    ],
)
def test_a_bound_that_is_too_small(name: str, at: Any) -> None:
    wrong = replace(CODES, **{name: smaller(getattr(CODES, name), at)})
    with pytest.raises(ValueError, match=r"those of row \d+ do not bound its vector"):
        check_rows(wrong, VECTORS)
    if isinstance(at, tuple):
        assert first_wrong(wrong, VECTORS) == at[1]


@pytest.mark.parametrize("row", [0, 15, 16, 69])
@pytest.mark.parametrize("dimension", [0, 5, 8, 19])
def test_a_vector_of_another_row(row: int, dimension: int) -> None:
    vectors = VECTORS.copy()
    vectors[row, dimension] += 1
    assert first_wrong(CODES, vectors) == row
    vectors[row, dimension] = np.nan
    assert first_wrong(CODES, vectors) == row


@pytest.mark.parametrize("leading", [0x7F80, 0xFF80, 0x7FC0, 0xBF80, 0])  # inf, -inf, NaN, -1, 0
def test_a_scale_that_is_none(leading: int) -> None:
    scales = CODES.scales.copy()
    scales[40] = leading
    assert first_wrong(replace(CODES, scales=scales), VECTORS) == 40
    scales = CODES.scales.copy()
    scales[75] = leading  # padding
    if leading:
        with pytest.raises(ValueError, match="padding has scales that are not 0"):
            check_rows(replace(CODES, scales=scales), VECTORS)
