"""Copies and checks of small arrays: native ones as NumPy's, and no argument that reads or writes elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from hiersrec_sdk.ranking import small_arrays

TWINS = [
    (small_arrays.copy_rows, small_arrays.all_finite),
    (small_arrays._copy_rows, small_arrays._all_finite),
]
TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


@given(
    table=arrays.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5))),
    data=st.data(),
)
def test_rows_are_copied(table: NDArray[np.float32], data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(table) - 1), max_size=20)), dtype=np.int64)
    for copy_rows, _ in TWINS:
        out = np.full((len(rows), table.shape[1]), np.nan, np.float32)
        copy_rows(table, rows, out)
        np.testing.assert_array_equal(out, table[rows])


@given(values=arrays.arrays(np.float32, st.integers(0, 40)))
def test_what_is_not_finite_is_seen(values: NDArray[np.float32]) -> None:
    for _, all_finite in TWINS:
        assert all_finite(values) == bool(np.isfinite(values).all())


@pytest.mark.parametrize("row", [-1, 4, 2**62, -(2**62)])
def test_a_row_outside_of_the_table(row: int) -> None:
    for copy_rows, _ in TWINS:
        with pytest.raises(IndexError, match=r"not in \[0, 4\)"):
            copy_rows(TABLE, np.array([1, row]), np.empty((2, 3), np.float32))


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


ROWS = np.array([1, 2])
WRONG: list[tuple[Any, Any, Any]] = [
    (None, ROWS, np.empty((2, 3), np.float32)),
    (TABLE.astype(np.float64), ROWS, np.empty((2, 3), np.float32)),
    (TABLE[:, :2], ROWS, np.empty((2, 2), np.float32)),
    (TABLE[0], ROWS, np.empty((2, 3), np.float32)),
    (TABLE, [1, 2], np.empty((2, 3), np.float32)),
    (TABLE, ROWS.astype(np.int32), np.empty((2, 3), np.float32)),
    (TABLE, ROWS[:, None], np.empty((2, 3), np.float32)),
    (TABLE, ROWS, np.empty((1, 3), np.float32)),
    (TABLE, ROWS, np.empty((2, 4), np.float32)),
    (TABLE, ROWS, np.empty((2, 3), np.float64)),
    (TABLE, ROWS, np.empty((2, 6), np.float32)[:, ::2]),
    (TABLE, ROWS, read_only(np.empty((2, 3), np.float32))),
]


@pytest.mark.parametrize("asked", WRONG)
def test_the_kernel_refuses_what_does_not_fit(asked: tuple[Any, Any, Any]) -> None:
    kernel = pytest.importorskip("hiersrec_sdk._kernel", reason="the kernel is not compiled")
    with pytest.raises((TypeError, ValueError)):
        kernel.copy_rows(*asked)


@pytest.mark.parametrize("values", [None, [1.0], np.ones(3), np.ones((2, 2), np.float32)])
def test_the_kernel_checks_what_it_is_to_check(values: Any) -> None:
    kernel = pytest.importorskip("hiersrec_sdk._kernel", reason="the kernel is not compiled")
    with pytest.raises((TypeError, ValueError)):
        kernel.all_finite(values)
