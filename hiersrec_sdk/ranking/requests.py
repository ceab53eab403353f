"""The question to a backend: a table, and requests to it. All backends take these, so they are checked here."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.codes import Codes

MAX_DIMENSION: Final = 65_536

_FLOAT32, _INT64, _UINT64 = (np.dtype(name) for name in ("float32", "int64", "uint64"))


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Table:
    """The rows that are ranked. Checked when it is made; may be read-only and memory-mapped.

    Attributes:
        vectors: float32 [n, d].
        bias: float32 [n] or None, added to the scores.
        codes: the int8 copy that makes ranking faster and changes no result, or None.

    Raises:
        TypeError: an argument is not an array, or of the wrong dtype.
        ValueError: a wrong shape or layout.
    """

    vectors: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    codes: Codes | None = None

    def __post_init__(self) -> None:
        n, d = _array("vectors", self.vectors, _FLOAT32, (None, None)).shape
        if n < 1 or not 1 <= d <= MAX_DIMENSION:
            raise ValueError(
                f"vectors must have at least one row and 1 to {MAX_DIMENSION} dimensions, "
                f"got {_described(self.vectors)}"
            )
        if self.bias is not None:
            _array("bias", self.bias, _FLOAT32, (n,))
        if self.codes is not None:
            if not isinstance(self.codes, Codes):
                raise TypeError(f"codes must be Codes or None, got {_described(self.codes)}")
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
        covisited: int64 [c], rising: rows that rank whether or not a range holds them, or None.
        offsets: float32 [c], added to the scores of ``covisited``; None goes with None.
    """

    query: NDArray[np.float32]
    ranges: NDArray[np.int64]
    rest: NDArray[np.int64] | None = None
    bitmap: NDArray[np.uint64] | None = None
    skipped: NDArray[np.int64] | None = None
    covisited: NDArray[np.int64] | None = None
    offsets: NDArray[np.float32] | None = None

    def checked(self, table: Table) -> Request:
        """The request, once it is certain that a kernel can trust it.

        Raises:
            TypeError: an argument is not an array, or of the wrong dtype.
            ValueError: a wrong shape or layout, ranges or rows that leave the table, overlap or repeat.
        """
        n, d = table.vectors.shape
        query = _array("query", self.query, _FLOAT32, (d,))
        ranges = _array("ranges", self.ranges, _INT64, (None, 2))
        rest = None if self.rest is None else _array("rest", self.rest, _INT64, (None, 2))
        _check_ranges(ranges if rest is None else np.concatenate([ranges, rest]), n)
        if rest is not None and (rest[1:, 0] < rest[:-1, 1]).any():
            raise ValueError("rest: ranges must rise")
        bitmap = self.bitmap
        if bitmap is not None:
            words = -(-n // 64)
            bitmap = _array("bitmap", bitmap, _UINT64, (None,))
            if len(bitmap) < words:
                raise ValueError(
                    f"bitmap must have at least {words} words of 64 bits for {n} rows, got {_described(bitmap)}"
                )
        skipped = None if self.skipped is None else _rows("skipped", self.skipped, n)
        if (self.covisited is None) != (self.offsets is None):
            raise ValueError("covisited and offsets go together: give both, or neither")
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
        TypeError: not an integer.
        ValueError: negative.
    """
    if isinstance(k, bool | np.bool_):
        raise TypeError(f"k must be an integer ≥ 0, got {k!r}")
    try:
        count = operator.index(k)
    except TypeError:
        raise TypeError(f"k must be an integer ≥ 0, got {k!r}") from None
    if count < 0:
        raise ValueError(f"k must be an integer ≥ 0, got {count}")
    return count


def _array(name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """``value`` as a plain ndarray over the same memory; None in ``shape`` is any length."""
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        raise TypeError(f"{name} must be {_wanted(dtype, shape)}, got {_described(value)}")
    if value.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(value.shape, shape, strict=True)
    ):
        raise ValueError(f"{name} must be {_wanted(dtype, shape)}, got {_described(value)}")
    if not (value.flags.c_contiguous and value.flags.aligned):
        raise ValueError(f"{name} must be C-contiguous and aligned; pass np.ascontiguousarray({name})")
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
            f"ranges must have 0 <= start <= stop <= {n}, the rows of the table, got [{start}, {stop})"
        )
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    ranges = ranges[np.argsort(ranges[:, 0])]
    clash = ranges[1:, 0] < ranges[:-1, 1]
    if clash.any():
        (start, stop), (other, end) = ranges[int(clash.argmax()) :][:2]
        raise ValueError(f"ranges must be disjoint, got [{start}, {stop}) and [{other}, {end})")
