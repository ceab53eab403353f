"""Values of a column in its role: one rule for blanks, missing values and types, for logs, item tables and trees alike.

Blanks around a text are stripped. A value is missing where it is null, NaN, empty, or one of the texts of
``PrepareOptions.missing_texts``. Both are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from hiersrec_sdk.errors import DataError

# An integer as programs write those of a column with gaps; and what else begins with a fraction, as versions do.
_WHOLE = r"^(?:0|-?[1-9][0-9]{0,14})\.0$"
_FRACTION = r"^-?[0-9]+\.[0-9]"
_ROUNDED = r"^[0-9](?:[.,][0-9]+)?[eE]\+[0-9]+$"  # as spreadsheets write a long integer
_ODD_QUOTES = """^(?:="[^"]*"|'[^']*')$"""  # the first is how Excel keeps leading zeros
_INT_LIMITS = {pl.Float32: 2**24, pl.Float64: 2**53}  # floats above are no longer distinct integers
# White space, and characters without width that copying from pages leaves at the ends of a text.
BLANKS = (
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\u200b\u2060\ufeff"
)


class Missing:
    """Tells which values are missing: null, NaN, empty, or one of some texts, also where it is a number."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = pl.Series(["", *(text.strip() for text in texts)], dtype=pl.String)
        numbers, same = as_canonical_ints(self._texts)
        self._numbers = numbers.filter(same)
        self.has_numbers = len(self._numbers) > 0

    def holds(self, values: pl.Series) -> pl.Series:
        """bool: for each value, whether it is missing."""
        kind = values.dtype
        missing = values.is_null()
        if kind == pl.String:
            missing |= values.str.strip_chars(BLANKS).is_in(self._texts.implode())
        if kind.is_float():
            missing |= values.is_nan()
        if kind.is_numeric() and self.has_numbers:
            missing |= values.is_in(self._numbers.cast(kind, strict=False).drop_nulls().implode())
        return missing.fill_null(True)


class Column:
    """One column of one table in one role.

    Args:
        name: of the column.
        role: what its values are, in the plural, such as "item ids".
        option: that names it.
        table: name of the table, for messages.
        missing: texts that stand for a missing value.
    """

    def __init__(self, name: str, role: str, option: str, table: str, missing: Sequence[str]) -> None:
        self.name, self.role, self.option, self.table = name, role, option, table
        self.stripped = 0
        self.stripped_example = ""
        self.quoted = 0
        self.quoted_example = ""
        self.odd_quotes = 0
        self.odd_quotes_example = ""
        self.floats = 0
        self.floats_example = ""
        self.rounded = 0
        self.rounded_example = ""
        self.missing_texts: Counter[str] = Counter()
        self._missing = Missing(missing)

    def ids(self, values: pl.Series) -> pl.Series:
        """The values as ids: Int64 or String, null where missing. Texts such as "12.0" stay as they are: whether they
        are integers, all columns of the role decide together, in :func:`without_fractions`.

        Raises:
            DataError: values that cannot be ids, such as fractions, dates or lists.
        """
        values = self._plain(values)
        kind = values.dtype
        if kind == pl.String:
            rounded = values.str.contains(_ROUNDED).fill_null(False)
            if rounded.any():
                self.rounded += int(rounded.sum())
                self.rounded_example = self.rounded_example or str(values.filter(rounded)[0])
            odd = values.str.starts_with("'") | values.str.starts_with("=")  # much faster than the expression
            if odd.any() and (odd := values.str.contains(_ODD_QUOTES).fill_null(False)).any():
                self.odd_quotes += int(odd.sum())
                self.odd_quotes_example = self.odd_quotes_example or str(values.filter(odd)[0])
            return values
        if kind == pl.UInt64 or kind == pl.Int128:
            return values.cast(pl.String)
        if kind.is_integer():
            return values.cast(pl.Int64)
        if isinstance(kind, pl.Decimal):
            text = values.cast(pl.String).str.replace(r"\.0*$", "")
            number, same = as_canonical_ints(text)
            fraction = text.str.contains(".", literal=True).fill_null(False)
            if not fraction.any():
                return number if bool((same | text.is_null()).all()) else text
            raise self._no_ids("fractions", text.filter(fraction)[0])
        if kind.is_float():
            number = values.cast(pl.Float64).fill_nan(None)
            limit = _INT_LIMITS[pl.Float32 if kind == pl.Float32 else pl.Float64]
            whole = ((number == number.round()) & (number.abs() < limit)).fill_null(True)
            if whole.all():
                return number.cast(pl.Int64)
            what = (
                "fractions" if (number != number.round()).any() else "floats that are too large to be exact,"
            )
            raise self._no_ids(what, number.filter(~whole)[0])
        raise self._refused(kind, "integers or text")

    def _no_ids(self, what: str, example: Any) -> DataError:
        return DataError(
            f"{self.table}: column {self.name!r} holds {what} such as {example}: {self.role} must be integers or text; "
            f"name another column with {self.option}"
        )

    def whole_ids(self, values: pl.Series) -> pl.Series:
        """As :meth:`ids`, with "12.0" as "12" whatever stands beside it: for ids that are compared and never shown."""
        ids = self.ids(values)
        whole = _is_whole(ids)
        if not whole.any():
            return ids
        self.floats += int(whole.sum())
        self.floats_example = self.floats_example or str(ids.filter(whole)[0])
        return ids.zip_with(~whole, ids.str.strip_suffix(".0"))

    def integers(self, values: pl.Series) -> pl.Series:
        """The values as Int64, null where missing.

        Raises:
            DataError: values that are no integers.
        """
        values = self.whole_ids(values)
        number = values.cast(pl.Int64, strict=False)
        lost = number.is_null() & values.is_not_null()
        if lost.any():
            raise DataError(
                f"{self.table}: column {self.name!r} holds {values.filter(lost)[0]!r}: {self.role} must be integers; "
                f"name another column with {self.option}"
            )
        return number

    def texts(self, values: pl.Series) -> pl.Series:
        """The values as texts, null where missing; the parts of a list are joined by a space."""
        values = self._plain(values)
        kind = values.dtype
        if kind == pl.String:
            return values
        if isinstance(kind, pl.List | pl.Array) and isinstance(kind.inner, pl.String):
            joined = values.cast(pl.List(pl.String)).list.drop_nulls().list.join(" ")
            return self._clean(joined)
        if kind.is_float():  # 1.0 is 1, as programs write integers of a column with gaps
            number = values.fill_nan(None)
            return number.cast(pl.String).str.strip_suffix(".0")
        if kind.is_integer() or kind == pl.Boolean or isinstance(kind, pl.Decimal | pl.Date | pl.Datetime):
            return values.cast(pl.String)
        raise self._refused(kind, "text")

    def paths(self, values: pl.Series, separator: str) -> pl.Series:
        """As :meth:`texts`, of paths whose parts are between separators: a missing part is empty, and a path of such
        parts alone is missing."""
        paths = self.texts(values)
        parts = paths.str.split(separator).explode(empty_as_null=False, keep_nulls=False)
        missing = self._missing.holds(parts) & (parts != "")
        if not missing.any():
            return paths
        named = parts.filter(missing).str.strip_chars(BLANKS)
        self.missing_texts.update(named.filter(named != "").to_list())
        row = np.repeat(
            np.arange(len(paths)), paths.str.count_matches(separator, literal=True).fill_null(-1) + 1
        )
        kept = pl.DataFrame({"row": row, "part": parts.set(missing, "")}).group_by("row", maintain_order=True)
        path = pl.when((pl.col("part") != "").any()).then(pl.col("part").str.join(separator))
        joined = kept.agg(path.alias("path"))
        return paths.scatter(joined["row"], joined["path"])

    def numbers(self, values: pl.Series, decimal: str = ".") -> tuple[pl.Series, pl.Series]:
        """The values as Float64, null where missing or unreadable; and bool, which are unreadable.

        Args:
            values: of the column.
            decimal: "." or ",", the character before the decimals of a text; the other one separates thousands.
        """
        values = self._plain(values)
        kind = values.dtype
        if kind == pl.String:
            values = _plain_numbers(values, decimal)
        if not (kind == pl.String or kind.is_numeric() or kind == pl.Boolean):
            raise self._refused(kind, "numbers")
        number = values.cast(pl.Float64, strict=False)
        number = number.zip_with(number.is_finite().fill_null(False), pl.Series([None], dtype=pl.Float64))
        lost = number.is_null() & values.is_not_null()
        if kind.is_float():
            lost &= values.is_not_nan().fill_null(True)
        return number, lost

    def times(self, values: pl.Series) -> pl.Series:
        """The values as numbers, dates, datetimes or texts, null where missing."""
        values = self._plain(values)
        kind = values.dtype
        if kind == pl.Float64:
            return values.fill_nan(None)
        if isinstance(kind, pl.Decimal):
            return values.cast(pl.Float64)
        if kind.is_integer():
            return values.cast(pl.Int64, strict=False)
        if kind == pl.String or isinstance(kind, pl.Date | pl.Datetime):
            return values
        if kind == pl.Float32:
            raise DataError(
                f"{self.table}: column {self.name!r} holds Float32, which is exact to a minute or two for Unix times "
                "of today: write the times as integers or Float64"
            )
        raise self._refused(kind, "Unix times, dates with times, or text of a --time-format")

    def _plain(self, values: pl.Series) -> pl.Series:
        kind = values.dtype
        if kind == pl.Null:
            values = values.cast(pl.String)
        if kind.is_numeric() and self._missing.has_numbers:
            named = self._missing.holds(values) & values.is_not_null()
            if kind.is_float():
                named &= values.is_not_nan()
            self.missing_texts.update(values.filter(named).cast(pl.String).str.strip_suffix(".0").to_list())
            return values.set(named, None)
        return self._clean(values) if values.dtype == pl.String else values

    def _clean(self, values: pl.Series) -> pl.Series:
        stripped = values.str.strip_chars(BLANKS)
        changed = (stripped != values).fill_null(False)
        if changed.any():
            self.stripped += int(changed.sum())
            self.stripped_example = self.stripped_example or str(values.filter(changed)[0])
        quoted = stripped.str.starts_with('"').fill_null(False)
        if quoted.any():
            quoted &= (stripped.str.ends_with('"') & (stripped.str.len_bytes() > 1)).fill_null(False)
            self.quoted += int(quoted.sum())
            self.quoted_example = self.quoted_example or (
                str(stripped.filter(quoted)[0]) if quoted.any() else ""
            )
        missing = self._missing.holds(stripped)
        if missing.any():
            self.missing_texts.update(stripped.filter(missing & (stripped != "")).to_list())
        return stripped.set(missing, None)

    def _refused(self, kind: pl.DataType, wanted: str) -> DataError:
        inner = getattr(kind, "inner", kind)
        fields = (
            [f"{self.name}.{entry.name}" for entry in inner.fields] if isinstance(inner, pl.Struct) else []
        )
        other = f"one of {', '.join(fields)}" if fields else "another column"
        shown = f"{kind} that is not UTF-8" if kind == pl.Binary else str(kind)
        return DataError(
            f"{self.table}: column {self.name!r} holds {shown}: {self.role} must be {wanted}; name {other} with "
            f"{self.option}"
        )


def _plain_numbers(texts: pl.Series, decimal: str) -> pl.Series:
    """Numbers without separators of thousands, and with a point before the decimals."""
    thousands = "," if decimal == "." else "."
    point, comma = f"\\{decimal}", f"\\{thousands}"
    # both characters, or several groups: a lone group such as 1,249 might be a fraction
    grouped = texts.str.contains(f"^-?[0-9]{{1,3}}(?:{comma}[0-9]{{3}})+{point}[0-9]+$")
    grouped |= texts.str.contains(f"^-?[0-9]{{1,3}}(?:{comma}[0-9]{{3}}){{2,}}$")
    if decimal == ",":
        grouped |= texts.str.contains(f"^-?[0-9]{{1,3}}(?:{comma}[0-9]{{3}})+$")
    plain = texts.zip_with(~grouped.fill_null(False), texts.str.replace_all(thousands, "", literal=True))
    return plain.str.replace(",", ".", literal=True) if decimal == "," else plain


def split_cells(cells: pl.Series, separator: str) -> pl.Series:
    """The values in each cell, as lists: without brackets around all, and quotes around each."""
    text = cells.str.strip_chars()
    for opening, closing in ("[]", "()", "{}"):
        inner = text.str.slice(1).str.head(-1)
        is_pair = text.str.starts_with(opening) & text.str.ends_with(closing)
        is_pair &= ~inner.str.contains(opening, literal=True)  # (a)|(b) are two values in brackets
        text = text.zip_with(~is_pair.fill_null(False), inner)
    value = pl.element().str.strip_chars()
    for quote in "'\"":
        is_quoted = value.str.starts_with(quote) & value.str.ends_with(quote) & (value.str.len_chars() > 1)
        value = pl.when(is_quoted).then(value.str.strip_chars(quote)).otherwise(value)
    return text.str.split(separator).list.eval(value)


class Fractions(NamedTuple):
    """Ids of one role that are written as "12.0".

    Attributes:
        distinct: how many different ones, with one ``example``.
        other: an id with another fraction, such as "1.1": they stay as they are then. Empty where they are integers.
        both: how many of those that stay are there without ".0" too.
    """

    distinct: int = 0
    example: str = ""
    other: str = ""
    both: int = 0


def without_fractions(columns: Sequence[pl.Series]) -> tuple[list[pl.Series], Fractions]:
    """Ids of :meth:`Column.ids` with "12.0" as "12", unless any has another fraction: 1.0 beside 1.1 is a version.

    Args:
        columns: all of one role, of all logs and tables, so that an id means the same wherever it stands.
    """
    whole = [_is_whole(column) for column in columns]
    found = [column.filter(which) for column, which in zip(columns, whole, strict=True) if which.any()]
    if not found:
        return list(columns), Fractions()
    distinct = pl.concat(found).unique(maintain_order=True)
    other = next(filter(None, map(_other_fraction, columns, whole)), "")
    if other:
        plain = distinct.str.strip_suffix(".0")
        both = [plain.filter(plain.is_in(column.cast(pl.String).implode())) for column in columns]
        return list(columns), Fractions(len(distinct), distinct[0], other, pl.concat(both).n_unique())
    integers = [
        column.zip_with(~which, column.str.strip_suffix(".0")) if which.any() else column
        for column, which in zip(columns, whole, strict=True)
    ]
    return integers, Fractions(len(distinct), distinct[0])


def _other_fraction(ids: pl.Series, whole: pl.Series) -> str:
    """An id that begins with a fraction and is not ``whole``, or ""."""
    if ids.dtype != pl.String:
        return ""
    others = ids.filter(ids.str.contains(_FRACTION).fill_null(False) & ~whole)
    return str(others[0]) if len(others) else ""


def _is_whole(ids: pl.Series) -> pl.Series:
    """bool: which ids are written as "12.0"."""
    if ids.dtype != pl.String:
        return pl.repeat(False, len(ids), eager=True)
    is_float = ids.str.ends_with(".0").fill_null(False)  # much faster than the expression
    return ids.str.contains(_WHOLE).fill_null(False) if is_float.any() else is_float


def unify_ids(columns: Sequence[pl.Series]) -> list[pl.Series]:
    """Ids of :meth:`Column.ids` with one type: int64 where all values of all columns are integers, else string.

    Text counts as an integer only where the integer is written back as the same text: "007" stays "007". Columns of
    nulls only are strings.
    """
    if all(column.null_count() == len(column) for column in columns):
        return [column.cast(pl.String) for column in columns]
    whole = [_as_int(column) for column in columns]
    found = [column for column in whole if column is not None]
    return found if len(found) == len(whole) else [column.cast(pl.String) for column in columns]


def _as_int(column: pl.Series) -> pl.Series | None:
    if column.dtype == pl.Int64:
        return column
    number, same = as_canonical_ints(column)
    return number if bool((same | column.is_null()).all()) else None


def as_canonical_ints(texts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """The texts as Int64, and bool: which of them are integers that are written back as the same text."""
    number = texts.cast(pl.Int64, strict=False)
    return number, (number.cast(pl.String) == texts).fill_null(False)
