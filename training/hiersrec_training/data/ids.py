"""Ids stay the shop's own: whole numbers where every table has whole numbers, else strings."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from hiersrec_sdk.errors import DataError


def unify_ids(columns: Sequence[pl.Series], what: str) -> list[pl.Series]:
    """The columns with one id type: int64 where all of all of them are whole numbers, else string.

    Text counts as a whole number only where the number is written back as the same text: "007" stays "007".
    Nulls stay null; an empty string is null. Columns of nulls only are strings.

    Raises:
        DataError: a column of a type that cannot be an id, such as fractions.
    """
    columns = [_plain(column, what) for column in columns]
    if all(column.null_count() == len(column) for column in columns):
        return [column.cast(pl.String) for column in columns]
    whole = [_as_int(column) for column in columns]
    if all(column is not None for column in whole):
        return [column for column in whole if column is not None]
    return [column.cast(pl.String) for column in columns]


def _plain(column: pl.Series, what: str) -> pl.Series:
    """As Int64, UInt64 or String."""
    if column.dtype == pl.Null or column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        return column.set(column == "", None)
    if column.dtype == pl.UInt64:
        return column
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    if column.dtype.is_float():
        # a table with gaps often has whole numbers as floats
        column = column.fill_nan(None)
        if bool((column == column.round()).all()) and bool((column.abs() < 2**53).all()):
            return column.cast(pl.Int64)
    raise DataError(
        f"{what} ids of column {column.name!r} are {column.dtype}: whole numbers or strings can be ids"
    )


def _as_int(column: pl.Series) -> pl.Series | None:
    number = column.cast(pl.Int64, strict=False)
    same = (number.cast(pl.String) == column.cast(pl.String)).fill_null(False) | column.is_null()
    return number if bool(same.all()) else None
