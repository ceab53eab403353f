"""Session files: one session a line, the oldest click first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from hiersrec_sdk.errors import DataError
from hiersrec_training.data.clicks import ClickStore, Keys
from hiersrec_training.data.columns import Column
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.progress import progress
from hiersrec_training.data.report import FileReport, PrepareReport
from hiersrec_training.data.tables import text_format, unescaped
from hiersrec_training.data.text import Skipped, check_is_text, count_lines, read_lines, utf8_copy

_LIKE_TIME: Final = r"^1[0-9]{9}(\.\d+|\d{3})?$|^\d{4}-\d\d-\d\d"
_OTHER_SEPARATORS: Final = ",;|\t"
_HEADER: Final = (
    *("user", "user_id", "userid", "session", "session_id", "sessionid"),
    *("item", "item_id", "itemid", "items"),
)
_SAMPLE: Final = 1000  # lines that are looked at


class SessionFile:
    """Reads one session file into the store.

    Args:
        path: of the file.
        number: of the file among the logs.
        first: the row of its first line.
        options: of ``prepare``.
        report: takes counts and warnings.
        work: folder for a copy of the file.
    """

    def __init__(
        self, path: Path, number: int, first: int, options: PrepareOptions, report: PrepareReport, work: Path
    ) -> None:
        self._path, self._number, self._first = path, number, first
        self._options, self._report, self._work = options, report, work
        self._separator = unescaped(options.separator)

    def read(self, items: Keys, store: ClickStore) -> int:
        """Add all clicks; how many lines there are."""
        path, form = self._path, text_format(self._options, self._report.warn)
        file = utf8_copy(path, form, self._work)
        check_is_text(path, file)
        skipped = Skipped()
        column = Column("", "item ids", "--missing", str(path), self._options.missing_texts)
        clicks = last = lost = 0
        lines = read_lines(path, file, form)
        for batch in progress(
            lines, lambda: count_lines(file), f"reading {path.name}", lambda each: len(each.numbers)
        ):
            numbers, text, _ = batch.data(skipped)
            if not len(text):
                continue
            if not last:
                self._look_at(text.head(_SAMPLE))
            fields = self._fields(text)
            if self._options.line_id:
                fields = fields.list.slice(1)
            rows = np.repeat(numbers + self._first, fields.list.len().to_numpy())
            ids = column.ids(fields.explode(empty_as_null=False, keep_nulls=False))
            there = ids.is_not_null()
            clicks, last, lost = clicks + len(ids), int(numbers[-1]), lost + ids.null_count()
            rows = rows[there.to_numpy()]
            store.add(rows, None, rows, items.encode(ids.filter(there)), self._number)
        report = self._report
        report.file(FileReport(path.name, clicks))
        report.skipped(path.name, skipped, clicks)
        report.column(column, path.name)
        report.drop(lost, "no item id")
        return last + 1

    def _fields(self, text: pl.Series) -> pl.Series:
        """The fields of each line, as lists."""
        separator = self._separator
        return text.str.extract_all(r"\S+") if separator is None else text.str.split(separator)

    def _look_at(self, text: pl.Series) -> None:
        """Refuse, or warn of, lines that look like something else than sessions of item ids."""
        fields, options, path = self._fields(text), self._options, self._path
        lengths = fields.list.len()
        if self._separator is None and (lengths == 1).sum() * 2 > len(text):
            for separator in _OTHER_SEPARATORS:
                if _most(text.str.contains(separator, literal=True)):
                    raise DataError(
                        f"{path}, line 1: most lines are one item, such as {text[0]!r}; give --separator {separator!r} "
                        "to separate the items, or --separator ' ' if they are one item"
                    )
        width = int(lengths[0])
        if len(text) > 2 and 2 <= width <= 20 and lengths.n_unique() == 1:
            columns = fields.slice(1).list.to_array(width).arr.to_struct().struct.unnest()
            times = [column for column in columns if column.str.contains(_LIKE_TIME).all()]
            if times and options.log_format == "auto":
                raise DataError(
                    f"{path} is read as one session a line, as its name ends in .txt, but looks like a table: every "
                    f"line has {width} fields, one of them a time such as {times[0][0]}; give --format events and "
                    "--separator, or --format sessions"
                )
        for seems, what in self._suspicions(text, fields):
            if seems:
                self._report.warn(f"lines of {path.name}, such as {text[0][:60]!r}: {what}")
                return

    def _suspicions(self, text: pl.Series, fields: pl.Series) -> Iterator[tuple[bool, str]]:
        """What lines may be instead of sessions of item ids, the surest first."""
        first, last = fields.list.first(), fields.list.last()
        others = fields.list.slice(1).explode(empty_as_null=False, keep_nulls=False)
        every = fields.explode(empty_as_null=False, keep_nulls=False)
        yield (
            self._separator is not None and _width(fields) == 1,
            f"none holds --separator {self._separator!r}",
        )
        if not self._options.line_id:
            yield (
                _most(first.str.ends_with(":")),
                "they begin with an id and a colon; --line-id leaves it out",
            )
        for opening, closing in ("[]", "{}", "()"):
            yield (
                _most(text.str.starts_with(opening) & text.str.ends_with(closing)),
                "they are lists in brackets; name the file .jsonl if they are JSON objects, or take the brackets off",
            )
        yield _most(text.str.starts_with('"')), "ids are in quotes, which are part of them here"
        yield (
            _most(first.str.ends_with(",") | first.str.ends_with(";")),
            "ids end with a separator; give --separator",
        )
        for separator in _OTHER_SEPARATORS:
            shown = "a tab" if separator == "\t" else repr(separator)
            yield (
                separator != self._separator
                and _most(text.str.contains(separator, literal=True))
                and _width(fields) > 1,
                f"ids contain {shown}, such as {_holding(every, separator)!r}; give --separator if that separates them",
            )
        yield (
            _most(every.str.contains(r"^.+:1[0-9]{9}")),
            "ids have times behind a colon, which are part of them here",
        )
        yield _most(last.is_in(["-1", "-2"])), "they end with -1 or -2, which are items here"
        for end, where in ((first, "begin"), (last, "end")):
            yield (
                _most(end.slice(1).str.contains(_LIKE_TIME)),
                f"they {where} with a time, which is an item here; give --format events if this is a table",
            )
        number = first.cast(pl.Int64, strict=False)
        steps = number.diff().drop_nulls()
        is_known = int(first.is_in(others.implode()).sum()) * 2 > len(first)  # they are items too
        counts_up = number.null_count() == 0 and len(text) >= 5 and number.n_unique() > 2
        counts_up = counts_up and bool((steps > 0).all() or ((steps >= 0).all() and not is_known))
        is_alone = (
            len(first) >= 20 and first.n_unique() * 3 > len(first) and not first.is_in(others.implode()).any()
        )
        lengths = fields.list.len()
        is_table = len(text) >= 10 and lengths.n_unique() == 1 and 2 < lengths[0] <= 8
        if not self._options.line_id:
            yield (
                len(others) > 0 and (counts_up or is_alone),
                f"the first field looks like the id of a session or user, such as {first[0]}; --line-id leaves it out",
            )
        yield (
            self._options.log_format == "auto" and is_table,
            f"all have {lengths[0]} fields; give --format events if this is a table, or --format sessions",
        )
        yield (
            bool(fields.head(1).explode().str.to_lowercase().is_in(_HEADER).any()),
            "the first looks like the header of a table; it is a session here",
        )


def _width(fields: pl.Series) -> int:
    """The largest number of fields of a line."""
    return int(str(fields.list.len().max() or 0))


def _holding(ids: pl.Series, separator: str) -> str:
    found = ids.filter(ids.str.contains(separator, literal=True))
    return str(found[0]) if len(found) else ""


def _most(holds: pl.Series) -> bool:
    """Whether it holds for more than half."""
    return int(holds.sum()) * 2 > len(holds)
