"""One checked request to a ranking backend: which rows to score against which query.

All backends take a :class:`Scan`, so what may go in is checked in this one place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

# The longest int8 vector whose dot product fits an int32 whatever its values (csrc/topk.h).
MAX_INT8_DIMENSION = 131_071

_FLOAT32, _INT8, _INT64, _UINT64 = (np.dtype(name) for name in ("float32", "int8", "int64", "uint64"))


@dataclass(frozen=True, slots=True)
class Scan:
    """A request that has been checked: kernels trust it.

    ``vectors`` float32 or int8 [n, d]; ``query`` [d] of the same dtype; ``ranges`` int64 [m, 2]; ``k`` at most the
    number of rows in the ranges, and at least 1 where a kernel sees it; ``scales`` float32 [n] with int8, else None;
    ``bias`` float32 [n] or None; ``bitmap`` uint64 [at least ceil(n / 64)] or None. Every array is C-contiguous,
    aligned, and a plain ndarray.
    """

    vectors: NDArray[Any]
    query: NDArray[Any]
    ranges: NDArray[np.int64]
    k: int
    scales: NDArray[np.float32] | None
    query_scale: np.float32
    bias: NDArray[np.float32] | None
    bitmap: NDArray[np.uint64] | None
    deny: bool


Kernel: TypeAlias = Callable[[Scan], tuple[NDArray[np.float32], NDArray[np.int64]]]
"""Scores and rows of the best ``scan.k``, by higher score, then lower row; fewer where fewer can rank."""


def checked_scan(
    vectors: Any,
    query: Any,
    ranges: Any,
    k: SupportsIndex,
    *,
    scales: Any = None,
    query_scale: float = 1.0,
    bias: Any = None,
    bitmap: Any = None,
    deny: bool = False,
) -> Scan:
    """A :class:`Scan` of these arguments.

    Raises:
        TypeError: an argument is no array, of the wrong dtype, or no whole number.
        ValueError: a wrong shape or layout, ranges that leave the table or overlap, a negative ``k``.
    """
    dtype = getattr(vectors, "dtype", None)
    if dtype != _FLOAT32 and dtype != _INT8:
        raise TypeError(f"vectors: {_described(vectors)}; it must be an array of float32 or int8 [any, any]")
    vectors = _array("vectors", vectors, dtype, (None, None))
    n, dimension = vectors.shape
    if dimension < 1:
        raise ValueError(f"vectors: {_described(vectors)}; they must have at least one dimension")
    query = _array("query", query, dtype, (dimension,))
    if not isinstance(query_scale, float | int | np.floating):
        raise TypeError(f"query_scale: {_described(query_scale)}; it must be a number")
    if dtype == _INT8:
        if dimension > MAX_INT8_DIMENSION:
            raise ValueError(
                f"vectors: {_described(vectors)}; int8 vectors may have {MAX_INT8_DIMENSION} dimensions, "
                "so that a dot product fits an int32"
            )
        scales = _array("scales", scales, _FLOAT32, (n,))
    elif scales is not None or query_scale != 1.0:
        raise ValueError("scales and query_scale are for int8 vectors; these are float32")
    if bias is not None:
        bias = _array("bias", bias, _FLOAT32, (n,))
    if bitmap is not None:
        words = -(-n // 64)
        bitmap = _array("bitmap", bitmap, _UINT64, (None,))
        if len(bitmap) < words:
            raise ValueError(f"bitmap: {_described(bitmap)}; {n} rows need at least {words} words of 64 bits")
    ranges = _array("ranges", ranges, _INT64, (None, 2))
    return Scan(
        vectors,
        query,
        ranges,
        min(_count(k), _rows_in(ranges, n)),
        scales,
        np.float32(query_scale),
        bias,
        bitmap,
        bool(deny),
    )


def _array(name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """``value`` as a plain ndarray over the same memory; None in ``shape`` is any length."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        raise TypeError(f"{name}: {_described(value)}; it must be {_wanted(dtype, shape)}")
    if value.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(value.shape, shape, strict=True)
    ):
        raise ValueError(f"{name}: {_described(value)}; it must be {_wanted(dtype, shape)}")
    if not (value.flags.c_contiguous and value.flags.aligned):
        raise ValueError(f"{name} is not C-contiguous and aligned; pass np.ascontiguousarray({name})")
    return np.asarray(value)


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def _wanted(dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> str:
    lengths = ", ".join("any" if length is None else str(length) for length in shape)
    return f"an array of {dtype} [{lengths}]"


def _count(k: SupportsIndex) -> int:
    if isinstance(k, bool | np.bool_):
        raise TypeError("k: bool; it must be a whole number of at least 0")
    try:
        count = operator.index(k)
    except TypeError:
        raise TypeError(f"k: {type(k).__name__}; it must be a whole number of at least 0") from None
    if count < 0:
        raise ValueError(f"k: {count}; it must be at least 0")
    return count


def _rows_in(ranges: NDArray[np.int64], n: int) -> int:
    """How many rows the ranges hold, once it is sure that they lie in the table and do not overlap."""
    if len(ranges) == 0:
        return 0
    bounds = ranges.ravel()
    in_order = bounds[0] >= 0 and bounds[-1] <= n and (bounds[1:] >= bounds[:-1]).all()
    if not in_order:  # wrong, or merely in another order
        _check_ranges(ranges, n)
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def _check_ranges(ranges: NDArray[np.int64], n: int) -> None:
    wrong = (ranges[:, 0] < 0) | (ranges[:, 0] > ranges[:, 1]) | (ranges[:, 1] > n)
    if wrong.any():
        start, stop = ranges[int(wrong.argmax())]
        raise ValueError(
            f"ranges: [{start}, {stop}); each must have 0 <= start <= stop <= {n}, the rows of the table"
        )
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    ranges = ranges[np.argsort(ranges[:, 0])]
    clash = ranges[1:, 0] < ranges[:-1, 1]
    if clash.any():
        (start, stop), (other, end) = ranges[int(clash.argmax()) :][:2]
        raise ValueError(f"ranges: [{start}, {stop}) and [{other}, {end}) overlap; they must be disjoint")
