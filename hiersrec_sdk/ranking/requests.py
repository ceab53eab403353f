"""What a ranking backend is asked: a table, and requests to it. All backends take these, so they are checked here."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.codes import BLOCK, Codes

MAX_DIMENSION: Final = 65_536

_FLOAT32, _FLOAT16, _INT64, _UINT64 = (np.dtype(name) for name in ("float32", "float16", "int64", "uint64"))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows that are ranked. Checked when it is made; may be read-only and memory-mapped.

    Attributes:
        vectors: float32 or float16 [n, d].
        bias: float32 [n] or None, added to the scores.
        codes: the int8 copy that makes ranking faster and changes no result, or None.

    Raises:
        TypeError: an argument is no array or of the wrong dtype.
        ValueError: a wrong shape or layout.
    """

    vectors: NDArray[Any]
    bias: NDArray[np.float32] | None = None
    codes: Codes | None = None
    native: Any = field(default=None, init=False, repr=False)  # what a backend makes of it, once

    def __post_init__(self) -> None:
        dtype = getattr(self.vectors, "dtype", None)
        if dtype != _FLOAT32 and dtype != _FLOAT16:
            raise TypeError(
                f"vectors: {_described(self.vectors)}; it must be an array of float32 or float16 [any, any]"
            )
        vectors = _array("vectors", self.vectors, dtype, (None, None))
        n, d = vectors.shape
        if n < 1 or not 1 <= d <= MAX_DIMENSION:
            raise ValueError(
                f"vectors: {_described(vectors)}; they must have at least one row, and 1 to {MAX_DIMENSION} dimensions"
            )
        object.__setattr__(self, "vectors", vectors)
        if self.bias is not None:
            bias = _array("bias", self.bias, _FLOAT32, (n,))
            if self.codes is not None and n % BLOCK:
                bias = np.concatenate([bias, np.zeros(-n % BLOCK, np.float32)])  # kernels read whole blocks
            object.__setattr__(self, "bias", bias)
        if self.codes is not None:
            if not isinstance(self.codes, Codes):
                raise TypeError(f"codes: {_described(self.codes)}; it must be Codes or None")
            self.codes.check(n, d)

    def __len__(self) -> int:
        return len(self.vectors)


class Request(NamedTuple):
    """One query and the rows that rank for it. A request that a backend's ``search`` gets has been checked.

    Attributes:
        query: float32 [d].
        ranges: int64 [m, 2], the ``[start, stop)`` of rows: within the table, disjoint. Scanned in this order: the more
            promising ones should come first.
        rest: int64 [r, 2], rising: further ranges, disjoint from those above too, scanned after them; or None.
        bitmap: uint64 [ceil(n / 64)]: row r may rank where ``bitmap[r // 64] >> (r % 64) & 1``; None: every row.
        skipped: int64 [s], rising: rows that do not rank, or None.
        covisited: int64 [o], rising: rows that rank whether or not a range holds them, or None.
        offsets: float32 [o], added to the scores of ``covisited``; None goes with None.
    """

    query: NDArray[np.float32]
    ranges: NDArray[np.int64]
    rest: NDArray[np.int64] | None = None
    bitmap: NDArray[np.uint64] | None = None
    skipped: NDArray[np.int64] | None = None
    covisited: NDArray[np.int64] | None = None
    offsets: NDArray[np.float32] | None = None

    def checked(self, table: Table) -> Request:
        """The request, once it is sure that kernels can trust it.

        Raises:
            TypeError: an argument is no array, or of the wrong dtype.
            ValueError: a wrong shape or layout, ranges or rows that leave the table, overlap or stand twice.
        """
        n, d = table.vectors.shape
        query = _array("query", self.query, _FLOAT32, (d,))
        ranges = _array("ranges", self.ranges, _INT64, (None, 2))
        rest = None if self.rest is None else _array("rest", self.rest, _INT64, (None, 2))
        _check_ranges(ranges if rest is None else np.concatenate([ranges, rest]), n)
        if rest is not None and (rest[1:, 0] < rest[:-1, 1]).any():
            raise ValueError("rest: the ranges must rise")
        bitmap = self.bitmap
        if bitmap is not None:
            words = -(-n // 64)
            bitmap = _array("bitmap", bitmap, _UINT64, (None,))
            if len(bitmap) < words:
                raise ValueError(
                    f"bitmap: {_described(bitmap)}; {n} rows need at least {words} words of 64 bits"
                )
        skipped = None if self.skipped is None else _rows("skipped", self.skipped, n)
        if (self.covisited is None) != (self.offsets is None):
            raise ValueError("covisited and offsets go together")
        covisited = None if self.covisited is None else _rows("covisited", self.covisited, n)
        offsets = None if covisited is None else _array("offsets", self.offsets, _FLOAT32, (len(covisited),))
        return Request(query, ranges, rest, bitmap, skipped, covisited, offsets)


class Found(NamedTuple):
    """The best rows of a request, by higher score, then lower row.

    Attributes:
        scores: float32 [count], count at most k; fewer where fewer rows can rank.
        rows: int64 [count].
        rows_scored: rows that were looked at, by their codes or their vectors.
        bytes_read: bytes of vectors, codes and biases that this took.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    rows_scored: int
    bytes_read: int


Search: TypeAlias = Callable[[Table, Sequence[Request], int], list[Found]]
"""The best ``k`` >= 1 of each request, checked before."""


def checked_k(k: SupportsIndex) -> int:
    """``k`` as an int.

    Raises:
        TypeError: no whole number.
        ValueError: negative.
    """
    if isinstance(k, bool | np.bool_):
        raise TypeError("k: bool; it must be a whole number of at least 0")
    try:
        count = operator.index(k)
    except TypeError:
        raise TypeError(f"k: {type(k).__name__}; it must be a whole number of at least 0") from None
    if count < 0:
        raise ValueError(f"k: {count}; it must be at least 0")
    return count


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


def _rows(name: str, value: Any, n: int) -> NDArray[np.int64]:
    rows = _array(name, value, _INT64, (None,))
    if len(rows) and not (rows[0] >= 0 and rows[-1] < n and (rows[1:] > rows[:-1]).all()):
        raise ValueError(f"{name}: rows must be distinct, rising, and in [0, {n})")
    return rows


def _check_ranges(ranges: NDArray[np.int64], n: int) -> None:
    """Raise unless the ranges lie in the table and do not overlap."""
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
