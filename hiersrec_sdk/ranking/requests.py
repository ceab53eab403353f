"""The question to a backend: a table, and requests to it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.arrays import FLOAT32, INT64, UINT64, array_of, described
from hiersrec_sdk.ranking.codes import Codes
from hiersrec_sdk.shown import shown

MAX_DIMENSION: Final = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows that are ranked. Checked when it is made; may be read-only and memory-mapped.

    Attributes:
        vectors: float32 [n, d].
        bias: float32 [n] or None, added to the scores.
        codes: the int8 copy that makes ranking faster and changes no result, or None.
        prepared: what the backend has made of it, once it has. A weak reference to the table would run code when it
            dies, in which the error of a signal handler is lost.

    Raises:
        TypeError: an argument is not an array, or of the wrong dtype.
        ValueError: a wrong shape or layout.
    """

    vectors: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    codes: Codes | None = None
    prepared: list[Any] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        n, d = array_of("vectors", self.vectors, FLOAT32, (None, None)).shape
        if n < 1 or not 1 <= d <= MAX_DIMENSION:
            raise ValueError(
                f"vectors must have at least one row and 1 to {MAX_DIMENSION} dimensions, "
                f"got {described(self.vectors)}"
            )
        if self.bias is not None:
            array_of("bias", self.bias, FLOAT32, (n,))
        if self.codes is not None:
            if not isinstance(self.codes, Codes):
                raise TypeError(f"codes must be Codes or None, got {described(self.codes)}")
            self.codes.check(n, d)

    def __len__(self) -> int:
        return len(self.vectors)


class Request(NamedTuple):
    """One query and the rows that rank for it.

    Every backend's ``search`` raises what :meth:`within` raises. It trusts ranges to be disjoint, and the rest to rise:
    otherwise its results are wrong, and no more than that.

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

    def within(self, table: Table) -> Request:
        """The request, once it is certain that it stays within the table and its own arrays.

        Raises:
            TypeError: an argument is not an array, or of the wrong dtype.
            ValueError: a wrong shape or layout, ranges or rows that leave the table, rows that repeat or do not rise.
        """
        n, d = table.vectors.shape
        query = array_of("query", self.query, FLOAT32, (d,))
        ranges = array_of("ranges", self.ranges, INT64, (None, 2))
        _check_ranges("ranges", ranges, n)
        rest = None if self.rest is None else array_of("rest", self.rest, INT64, (None, 2))
        if rest is not None:
            _check_ranges("rest", rest, n)
        bitmap = self.bitmap
        if bitmap is not None:
            words = -(-n // 64)
            bitmap = array_of("bitmap", bitmap, UINT64, (None,))
            if len(bitmap) < words:
                raise ValueError(
                    f"bitmap must have at least {words} words of 64 bits for {n} rows, got {described(bitmap)}"
                )
        skipped = None if self.skipped is None else _rows("skipped", self.skipped, n)
        if (self.covisited is None) != (self.offsets is None):
            raise ValueError("covisited and offsets go together: give both, or neither")
        covisited = None if self.covisited is None else _rows("covisited", self.covisited, n)
        offsets = None if covisited is None else array_of("offsets", self.offsets, FLOAT32, (len(covisited),))
        return Request(query, ranges, rest, bitmap, skipped, covisited, offsets)

    def checked(self, table: Table) -> Request:
        """The request, once it is certain that its results are right.

        Raises:
            TypeError: an argument is not an array, or of the wrong dtype.
            ValueError: a wrong shape or layout, ranges or rows that leave the table, overlap or repeat.
        """
        request = self.within(table)
        ranges, rest = request.ranges, request.rest
        _check_disjoint(ranges if rest is None else np.concatenate([ranges, rest]))
        if rest is not None and (rest[1:, 0] < rest[:-1, 1]).any():
            raise ValueError("rest: ranges must rise")
        return request


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
"""The best ``k`` >= 1 of each request. Raises what :meth:`Request.within` raises, and likewise where ``k`` is wrong."""


def checked_k(k: SupportsIndex, least: int = 0) -> int:
    """``k`` as an int.

    Raises:
        TypeError: not an integer.
        ValueError: below ``least``.
    """
    if isinstance(k, bool | np.bool_):
        raise TypeError(f"k must be an integer ≥ {least}, got {shown(k)}")
    try:
        count = operator.index(k)
    except TypeError:
        raise TypeError(f"k must be an integer ≥ {least}, got {shown(k)}") from None
    if count < least:
        raise ValueError(f"k must be an integer ≥ {least}, got {shown(count)}")
    return count


def _rows(name: str, value: Any, n: int) -> NDArray[np.int64]:
    rows = array_of(name, value, INT64, (None,))
    if len(rows) and not (rows[0] >= 0 and rows[-1] < n and (rows[1:] > rows[:-1]).all()):
        raise ValueError(f"{name}: rows must be distinct, rising, and in [0, {n})")
    return rows


def _check_ranges(name: str, ranges: NDArray[np.int64], n: int) -> None:
    """Raise unless the ranges lie in the table."""
    wrong = (ranges[:, 0] < 0) | (ranges[:, 0] > ranges[:, 1]) | (ranges[:, 1] > n)
    if wrong.any():
        start, stop = ranges[int(wrong.argmax())]
        raise ValueError(
            f"{name} must have 0 <= start <= stop <= {n}, the rows of the table, got [{start}, {stop})"
        )


def _check_disjoint(ranges: NDArray[np.int64]) -> None:
    """Raise if ranges overlap."""
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    ranges = ranges[np.argsort(ranges[:, 0])]
    clash = ranges[1:, 0] < ranges[:-1, 1]
    if clash.any():
        (start, stop), (other, end) = ranges[int(clash.argmax()) :][:2]
        raise ValueError(f"ranges must be disjoint, got [{start}, {stop}) and [{other}, {end})")
