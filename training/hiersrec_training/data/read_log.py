"""Click logs: events (one click a row) and sessions (one session a line), as sessions in order of time."""

from __future__ import annotations

import glob as globbing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from hiersrec_sdk.errors import DataError, EmptyLogError, InvalidOptionError, MissingColumnError
from hiersrec_training.data.clicks import ClickStore, Keys, LogSessions, Rules, Tally
from hiersrec_training.data.columns import Column
from hiersrec_training.data.descriptions import LatestDescriptions
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_items import item_rows, report_skipped
from hiersrec_training.data.report import FileReport, PrepareReport, span
from hiersrec_training.data.tables import Batch, Table, open_table, suffix_of, text_format, unescaped
from hiersrec_training.data.text import Skipped, check_is_text, count_lines, read_lines, utf8_copy
from hiersrec_training.data.times import TimeColumn, parse_moment

_OTHER_SEPARATORS: Final = ",;|\t"
_LIKE_TIME: Final = r"^1[0-9]{9}(\.\d+|\d{3})?$|^\d{4}-\d\d-\d\d"
_SAMPLE: Final = 1000  # lines of a session file that are looked at


T = TypeVar("T")


@dataclass(frozen=True)
class Log:
    """The sessions of a log.

    Attributes:
        sessions: in order of their last clicks, or of the log where there are no times; items are keys.
        items: the keys of all items clicked.
        descriptions: rows about its items, as an item table, where no item table was given; None without such columns.
    """

    sessions: LogSessions
    items: NDArray[np.int64]
    descriptions: pl.DataFrame | None = None

    @property
    def has_time(self) -> bool:
        return self.sessions.end is not None


class LogReader:
    """Reads logs with the same keys for items and sessions.

    Args:
        options: of ``prepare``.
        report: takes the counts.
        work: folder for temporary files.
    """

    def __init__(self, options: PrepareOptions, report: PrepareReport, work: Path) -> None:
        self._options, self._report, self._work = options, report, work
        self._form = text_format(options)
        self.items, self.session_ids = Keys(), Keys()
        self._events: dict[str, int] = {}
        self._since = parse_moment(options.since, "--since", options.time_zone)
        self._until = parse_moment(options.until, "--until", options.time_zone)
        if self._since is not None and self._until is not None and self._since >= self._until:
            raise InvalidOptionError(f"--since {options.since} is not before --until {options.until}")

    def read(self, sources: Sequence[Any]) -> Log:
        """Read one log of one or several files.

        Raises:
            MissingColumnError: an event log lacks a column.
            EmptyLogError: no click is left.
            DataError: a file is missing, damaged, not of the format that its name says, or of two meanings.
            InvalidOptionError: options that this kind of log does not have.
        """
        formats = {self._format_of(source) for source in sources}
        if len(formats) > 1:
            raise InvalidOptionError(
                "event logs and session files cannot be read together: give --format, or one kind"
            )
        log_format = formats.pop()
        given = self._options.given_for(log_format)
        names = ", ".join(name_of(source) for source in sources)
        if given:
            other = "events" if log_format == "sessions" else "sessions"
            means = "one session a line" if log_format == "sessions" else "one event a row"
            hint = " and --separator, such as --separator '\\t'" if other == "events" else ""
            raise InvalidOptionError(
                f"{', '.join(given)} {'do' if len(given) > 1 else 'does'} not go with {names}, which is read as {means}: "
                f"leave {'them' if len(given) > 1 else 'it'} out, or give --format {other}{hint}"
            )
        log = self._read_sessions(sources) if log_format == "sessions" else self._read_events(sources)
        if not len(log.sessions):
            raise EmptyLogError(f"no click is left of {names}: {self._report.history()}")
        return log

    def _format_of(self, source: Any) -> str:
        if self._options.log_format != "auto":
            return self._options.log_format
        return (
            "sessions" if isinstance(source, str | Path) and suffix_of(Path(source)) == ".txt" else "events"
        )

    # --- session files

    def _read_sessions(self, sources: Sequence[Any]) -> Log:
        store = ClickStore(self._work)
        firsts = [0]
        for number, source in enumerate(sources):
            if not isinstance(source, str | Path):
                raise InvalidOptionError("--format sessions is for text files; a frame holds events")
            firsts.append(firsts[-1] + self._read_session_file(Path(source), number, firsts[-1], store))
        rules = self._rules(len(sources), False, None, firsts, [False] * len(sources))
        sessions, tally = store.sessions(rules)
        self._report_tally(tally, sources, lambda row: "")
        sessions = LogSessions(sessions.items, sessions.offsets, None, None, sessions.row, None)
        return Log(sessions, store.items)

    def _read_session_file(self, path: Path, number: int, first: int, store: ClickStore) -> int:
        """Add the clicks of one file; how many lines it has."""
        options, report = self._options, self._report
        skipped, item_column = Skipped(), Column("item", "item ids", "--missing", str(path), options.missing)
        separator = unescaped(options.separator)
        file = utf8_copy(path, self._form.encoding, self._work)
        check_is_text(file)
        clicks = lines = lost = 0
        for at, text in _progress(
            read_lines(path, file, self._form, skipped), count_lines(file), path.name, len
        ):
            if not lines:
                self._look_at(path, text.head(_SAMPLE))
            fields = text.str.extract_all(r"\S+") if separator is None else text.str.split(separator)
            if options.line_id:
                fields = fields.list.slice(1)
            items = fields.list.explode(empty_as_null=False, keep_nulls=False)
            lengths = fields.list.len().to_numpy().astype(np.int64)
            row = np.repeat(at + first, lengths)
            clicks, lines = clicks + len(items), int(at[-1])
            ids = item_column.ids(items)
            there = ids.is_not_null()
            lost += len(ids) - int(there.sum())
            row = row[there.to_numpy()]
            store.add(row, None, row * 1, self.items.encode(ids.filter(there)), number)
        report.file(FileReport(path.name, clicks))
        report.note("skipped", skipped.comments, f"comment lines of {path.name}")
        report.column(item_column, str(path))
        report.drop(lost, "no item id")
        return lines + 1

    def _look_at(self, path: Path, text: pl.Series) -> None:
        """Refuse, or warn of, a session file that looks like something else."""
        options = self._options
        fields = (
            text.str.extract_all(r"\S+") if options.separator is None else text.str.split(options.separator)
        )
        lengths = fields.list.len()
        found = [
            separator
            for separator in _OTHER_SEPARATORS
            if text.str.contains(separator, literal=True).sum() * 2 > len(text)
        ]
        if options.separator is None and (lengths == 1).sum() * 2 > len(text) and found:
            raise DataError(
                f"{path}: most lines are one item, such as {text[0]!r}; give --separator {found[0]!r} if that separates "
                "the items"
            )
        if (
            options.log_format == "auto"
            and len(text) > 1
            and 2 <= lengths[0] <= 20
            and lengths.n_unique() == 1
        ):
            rows = fields.slice(1).list.to_struct(upper_bound=int(lengths[0])).struct.unnest()
            times = [field for field in rows if field.str.contains(_LIKE_TIME).all()]
            if times:
                raise DataError(
                    f"{path} is read as one session a line, as its name ends in .txt, but looks like a table: every line "
                    f"has {lengths[0]} fields, one of them a time such as {times[0][0]}; give --format events and "
                    "--separator, or --format sessions"
                )
        if not options.line_id and len(text) >= 5:
            _warn_of_line_ids(fields, path, self._report)

    # --- event logs

    def _read_events(self, sources: Sequence[Any]) -> Log:
        options, report = self._options, self._report
        tables = [
            open_table(
                source,
                self._form,
                self._work,
                names=options.log_columns,
                names_option="--log-columns",
                given_separator=unescaped(options.separator),
                role=f"log {number + 1}",
                empty=EmptyLogError,
            )
            for number, source in enumerate(sources)
        ]
        reader = _EventColumns(tables[0], options)
        for table in tables:
            table.require(reader.wanted(table))
        store = ClickStore(self._work)
        about = (
            LatestDescriptions(reader.about, self.items, options.missing)
            if options.items is None and reader.about
            else None
        )
        forms: list[FileReport] = []
        firsts, backwards, ordered = [0], [], []
        for number, table in enumerate(tables):
            file = _EventFile(self, reader, table, number, firsts[-1], store, about)
            found, rows = file.read()
            forms.append(found)
            firsts.append(firsts[-1] + rows)
            backwards.append(found.order == "newest first")
            ordered.append(found.order in ("oldest first", "newest first"))
        self._warn_of_files(forms)
        gap = round(options.gap * 60e6) if reader.cut else None
        rules = self._rules(len(tables), reader.has_time, gap, firsts, backwards)
        sessions, tally = store.sessions(rules)
        if reader.cut:
            what = f"sessions by {reader.key} at gaps of {options.gap:g} minutes"
            report.line("cut", len(sessions), what)
        names = [Path(table.name).name for table in tables]
        if tally.apart * 2 > tally.shared and options.session_per_file is None:
            example = self.session_ids.decode(np.array([tally.example]))[0]
            far = "an hour or more apart" if reader.has_time else "and there are no times"
            raise DataError(
                f"{tally.shared:,} session ids are in several of the logs {', '.join(names)}, {far}, such as {example}: give "
                "--session-per-file if ids begin anew in each file, or --session-across-files if they are one session"
            )
        self._report_tally(tally, sources, lambda row: _place(tables, firsts, row))
        for table, is_ordered, tied in zip(tables, ordered, tally.tied.tolist(), strict=True):
            if tied and not is_ordered:
                report.warn(
                    f"{tied:,} clicks of {Path(table.name).name} have the same time as the click before them in their session, "
                    "and the file is not in order of time: these are taken in the order of the file"
                )
        rows = None
        if about is not None:
            ids, newest = about.rows()
            rows = item_rows(ids, newest, "the log", options, report)
        return Log(sessions, store.items, rows)

    def _rules(
        self, files: int, has_time: bool, gap: int | None, firsts: list[int], backwards: list[bool]
    ) -> Rules:
        options = self._options
        events = None
        if options.events:
            codes = [self._events[event] for event in options.events if event in self._events]
            events = np.array(codes, dtype=np.int32)
        return Rules(
            has_time=has_time,
            gap=gap,
            per_file=bool(options.session_per_file) and files > 1,
            reversed_files=np.array(backwards, dtype=bool),
            first_rows=np.array(firsts, dtype=np.int64),
            events=events,
            drop_repeats=options.drop_repeats,
            longest=options.max_session_length,
        )

    def _report_tally(self, tally: Tally, sources: Sequence[Any], place: Any) -> None:
        options, report = self._options, self._report
        if tally.other_events:
            known = ", ".join(event for event in self._events if event not in options.events)
            report.drop(tally.other_events, f"not of event type {', '.join(options.events)}, but {known}")
        if tally.repeats:
            what = "exact repeats of another click (same session, item, time and type)"
            if options.drop_repeats:
                report.drop(tally.repeats, what, place(tally.repeat_row))
            else:
                report.note(
                    "repeated",
                    tally.repeats,
                    f"{what}, kept; --drop-repeats drops them",
                    place(tally.repeat_row),
                )
                if tally.repeats * 100 > report.read:
                    report.warn(
                        f"{tally.repeats / max(1, report.read):.0%} of the clicks are exact repeats of others"
                    )
        if tally.cut_sessions:
            report.drop(
                tally.cut_clicks,
                f"the oldest of {tally.cut_sessions:,} sessions of more than {options.max_session_length} clicks, the longest "
                f"{tally.longest:,} (--max-session-length)",
            )
        if tally.days:
            report.note("long", tally.days, "sessions of one id that last a day or more")

    def _warn_of_files(self, forms: list[FileReport]) -> None:
        """Warn where files differ in a way that suggests that one of them was misread."""
        timed = [found for found in forms if found.times and found.first and found.last]
        zones = {" without a zone" in str(found.times) for found in timed if "date" in str(found.times)}
        if len(zones) > 1 and self._options.time_zone is None:
            names = [found.name for found in timed if " without a zone" in str(found.times)]
            self._report.warn(
                f"times of {', '.join(names)} have no zone and are taken as UTC, those of other logs have one: give "
                "--time-zone if that is wrong"
            )
        rates = []
        for found in timed:
            length = (np.datetime64(str(found.last)) - np.datetime64(str(found.first))).astype(float)
            if found.rows >= 1000 and length > 0:
                rates.append((found.rows / length, found.name))
        if rates and max(rates)[0] > 10 * min(rates)[0]:
            self._report.warn(
                f"{max(rates)[1]} has {max(rates)[0] / min(rates)[0]:.0f} times the clicks an hour of {min(rates)[1]}"
            )


class _EventColumns:
    """Which columns of an event log have which role."""

    def __init__(self, table: Table, options: PrepareOptions) -> None:
        self.key, self.cut = _session_key(table, options)
        self.item = options.item_column or "item"
        self.times = options.time_columns
        self.event = options.event_column
        self.about = options.item_description_columns if options.items is None else []
        if self.cut and not self.times:
            raise InvalidOptionError(
                "sessions cannot be cut by user without a --time-column; give a --session-column"
            )

    @property
    def has_time(self) -> bool:
        return bool(self.times)

    def wanted(self, table: Table) -> dict[str, str]:
        """The columns of ``table`` that are needed, each with the option that names it."""
        wanted = {}
        if self.key is not None:
            wanted[self.key] = "--user-column" if self.cut else "--session-column"
        wanted[self.item] = "--item-column"
        wanted |= dict.fromkeys(self.times, "--time-column ('' for a log without times)")
        if self.event is not None:
            wanted[self.event] = "--event-column"
        for column in self.about:
            wanted.setdefault(column, "the option for this column of items")
        return wanted


def _session_key(table: Table, options: PrepareOptions) -> tuple[str | None, bool]:
    """The column that tells the sessions, None where each row is one; and whether they must be cut out of it."""
    if options.session_column is not None:
        return options.session_column, False
    if options.user_column is not None:
        return options.user_column, True
    for column, cut in (("session", False), ("user", True)):
        if column in table.columns:
            return column, cut
    if options.list_separator is not None or table.is_list(options.item_column or "item"):
        return None, False
    raise MissingColumnError(
        f"{table.name} has no column 'session' or 'user'; its columns are {', '.join(table.columns)}: name the right one "
        "with --session-column or --user-column, or the columns of a log without a header with --log-columns"
    )


class _EventFile:
    """Reads one event log into the store, batch by batch."""

    def __init__(
        self,
        log: LogReader,
        columns: _EventColumns,
        table: Table,
        number: int,
        first: int,
        store: ClickStore,
        about: LatestDescriptions | None,
    ) -> None:
        options = log._options
        self._log, self._columns, self._table, self._number, self._first = log, columns, table, number, first
        self._store, self._about, self._options = store, about, options

        def column(name: str, role: str, option: str) -> Column:
            return Column(name, role, option, table.name, options.missing)

        key = columns.key or ""
        self._key = column(
            key,
            "user ids" if columns.cut else "session ids",
            "--user-column" if columns.cut else "--session-column",
        )
        self._item = column(columns.item, "item ids", "--item-column")
        self._times = [column(name, "times", "--time-column") for name in columns.times]
        self._event = column(columns.event or "", "types of event", "--event-column")
        self._time = TimeColumn(options, table.place)
        self._ups = self._downs = self._session_ups = self._session_downs = 0
        self._span: tuple[int, int] | None = None
        self._rows = 0
        self._dropped: dict[str, tuple[int, str]] = {}

    def read(self) -> tuple[FileReport, int]:
        """Read the file: its report, and how many row numbers it takes."""
        last = 0
        wanted = list(self._columns.wanted(self._table))
        batches = self._table.batches(wanted)
        for batch in _progress(
            batches, self._table.size(), Path(self._table.name).name, lambda b: len(b.numbers)
        ):
            last = int(batch.numbers[-1]) if len(batch.numbers) else last
            self._add(_exploded(batch, self._columns, self._options))
        return self._report(), last + 1

    def _add(self, batch: Batch) -> None:
        columns = self._columns
        numbers, frame = batch
        self._rows += len(numbers)
        item = self._item.ids(frame[columns.item])
        keep = self._keep(pl.Series(np.ones(len(numbers), bool)), item.is_not_null(), "no item id", numbers)
        if columns.key is None:
            key: pl.Series | None = None
        else:
            key = self._key.ids(frame[columns.key])
            keep = self._keep(
                keep, key.is_not_null(), f"no {'user' if columns.cut else 'session'} id", numbers
            )
        time = None
        if self._times:
            values = self._joined_times(frame)
            keep = self._keep(keep, values.is_not_null(), "no time", numbers)
            time = self._time.read(values.set(~keep, None), numbers)
            keep = keep & time.is_not_null()  # unreadable ones are counted by the column
            keep = self._within(keep, time, numbers)
        event = None
        if columns.event is not None:
            event = self._codes(self._event.texts(frame[columns.event]))
        if not keep.all():
            mask = keep.to_numpy()
            item, numbers, frame = item.filter(keep), numbers[mask], frame.filter(keep)
            key = None if key is None else key.filter(keep)
            time = None if time is None else time.filter(keep)
            event = None if event is None else event[mask]
        rows = numbers + self._first
        keys = rows if key is None else self._log.session_ids.encode(key)
        items = self._log.items.encode(item)
        times = None if time is None else time.to_numpy()
        if times is not None and len(times):
            self._note_order(keys, times)
        self._store.add(keys, times, rows, items, self._number, event)
        if self._about is not None:
            self._about.add(items, times, rows, frame)

    def _joined_times(self, frame: pl.DataFrame) -> pl.Series:
        """The values of the time column, or of several joined by a space."""
        parts = [
            column.times(frame[column.name])
            if len(self._times) == 1
            else column.texts(_as_text(frame[column.name]))
            for column in self._times
        ]
        if len(parts) == 1:
            return parts[0]
        return pl.DataFrame({str(i): part for i, part in enumerate(parts)}).select(
            pl.concat_str(pl.all(), separator=" ").alias("time")
        )["time"]

    def _keep(self, keep: pl.Series, good: pl.Series, why: str, numbers: NDArray[np.int64]) -> pl.Series:
        """Count the rows that are dropped for a reason."""
        lost = keep & ~good
        if lost.any():
            count, example = self._dropped.get(why, (0, ""))
            example = example or self._table.place(int(numbers[int(lost.arg_max() or 0)]))
            self._dropped[why] = count + int(lost.sum()), example
        return keep & good

    def _within(self, keep: pl.Series, time: pl.Series, numbers: NDArray[np.int64]) -> pl.Series:
        options, since, until = self._options, self._log._since, self._log._until
        if since is not None:
            keep = self._keep(
                keep, (time >= since).fill_null(True), f"before --since {options.since}", numbers
            )
        if until is not None:
            keep = self._keep(
                keep, (time < until).fill_null(True), f"not before --until {options.until}", numbers
            )
        return keep

    def _codes(self, events: pl.Series) -> NDArray[np.int32]:
        """A number for each type of event."""
        known = self._log._events
        distinct = events.unique().to_list()
        for event in distinct:
            known.setdefault("(missing)" if event is None else event, len(known))
        codes = {event: known["(missing)" if event is None else event] for event in distinct}
        return events.replace_strict(codes, return_dtype=pl.Int32).to_numpy()

    def _note_order(self, keys: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        first, last = int(times.min()), int(times.max())
        self._span = (
            (first, last) if self._span is None else (min(first, self._span[0]), max(last, self._span[1]))
        )
        steps = np.diff(times)
        self._ups += int((steps > 0).sum())
        self._downs += int((steps < 0).sum())
        steps = steps[keys[1:] == keys[:-1]]
        self._session_ups += int((steps > 0).sum())
        self._session_downs += int((steps < 0).sum())

    def _order(self) -> str:
        """In which order the rows of the file are: judged by neighbours of one session where there are any."""
        if self._ups + self._downs == 0 or not self._downs:
            return "oldest first"
        if not self._ups:
            return "newest first"
        ups, downs = self._session_ups, self._session_downs
        if ups + downs and downs >= 9 * ups:
            return "newest first"
        if ups + downs and ups >= 9 * downs and ups + downs > 0.01 * self._rows:
            return "oldest first"
        if self._downs >= 99 * self._ups:
            return "newest first"
        return "oldest first" if self._ups >= 99 * self._downs else "mixed order"

    def _report(self) -> FileReport:
        log_report, name = self._log._report, Path(self._table.name).name
        self._time.check()
        found = FileReport(name, self._rows)
        if self._span is not None:
            found.first, found.last = span(*self._span)
            found.order = self._order()
            form = self._time.form
            zone = self._options.time_zone
            if form is not None:
                naive = f" without a zone, taken as {zone or 'UTC'}" if form.zoned is False else ""
                found.times = form.name + naive
        log_report.file(found)
        if found.order == "newest first":
            log_report.line(
                "reversed", found.rows, f"clicks of {name}, which is in order from the newest to the oldest"
            )
        report_skipped(self._table, log_report)
        for column in (self._key, self._item, *self._times, self._event):
            log_report.column(column, self._table.name)
        for why, (count, example) in self._dropped.items():
            log_report.drop(count, why, example)
        if self._time.unreadable:
            log_report.drop(self._time.unreadable, "unreadable time", self._time.unreadable_example)
        return found


def _exploded(batch: Batch, columns: _EventColumns, options: PrepareOptions) -> Batch:
    """The rows with one item each, where a cell holds the items of a whole session."""
    frame = batch.frame
    if options.list_separator is not None:
        text = frame[columns.item].cast(pl.String).str.strip_chars_start("[(").str.strip_chars_end(")]")
        frame = frame.with_columns(text.str.split(options.list_separator).alias(columns.item))
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List | pl.Array)]
    if columns.item not in lists:
        return batch
    names = [name for name in lists if name in (columns.item, columns.event, *columns.times)]
    frame = frame.with_columns(pl.col(name).cast(pl.List(frame.schema[name].inner)) for name in names)  # type: ignore[union-attr]
    lengths = frame.select(pl.col(name).list.len().fill_null(0) for name in names)
    for name in names[1:]:
        unequal = lengths[name] != lengths[names[0]]
        if unequal.any():
            row = int(unequal.arg_max() or 0)
            raise DataError(
                f"row {batch.numbers[row]}: {lengths[names[0]][row]} values in {names[0]!r} and {lengths[name][row]} in {name!r}"
            )
    numbers = pl.Series("__number", batch.numbers)
    frame = frame.with_columns(numbers).explode(names, empty_as_null=False, keep_nulls=False)
    return Batch(frame["__number"].to_numpy(), frame.drop("__number"))


def _as_text(values: pl.Series) -> pl.Series:
    """Dates and times of day, in columns of their own, as text."""
    return values.cast(pl.String) if values.dtype.is_temporal() else values


def _warn_of_line_ids(fields: pl.Series, path: Path, report: PrepareReport) -> None:
    """Warn where the first field of each line looks like the id of a session or user."""
    first = fields.list.first()
    others = fields.list.slice(1).list.explode(empty_as_null=False, keep_nulls=False)
    number = first.cast(pl.Int64, strict=False)
    counts_up = number.null_count() == 0 and bool((number.diff().drop_nulls() > 0).all())
    alone = len(first) >= 20 and first.n_unique() == len(first) and not first.is_in(others.implode()).any()
    if len(others) and (counts_up or alone):
        report.warn(
            f"the first field of each line of {path.name} looks like an id of the session or user, such as {first[0]}, {first[1]}, "
            f"{first[2]}: give --line-id if it is one"
        )


def _progress(batches: Iterable[T], total: int, name: str, size: Any) -> Iterator[T]:
    """The batches, with a progress bar on a terminal."""
    with tqdm(
        total=total or None, desc=f"reading {name}", unit=" rows", unit_scale=True, disable=None, leave=False
    ) as bar:
        for batch in batches:
            yield batch
            bar.update(size(batch))


def _place(tables: list[Table], firsts: list[int], row: int) -> str:
    for table, (first, after) in zip(tables, pairwise(firsts), strict=True):
        if first <= row < after:
            return table.place(row - first)
    return ""


def expanded(sources: Sequence[Any], is_pattern: bool) -> list[Any]:
    """The logs; the files of each pattern, in order of their names, if they are patterns.

    Raises:
        DataError: a pattern that no file matches.
    """
    if not is_pattern:
        return list(sources)
    found: list[Any] = []
    for source in sources:
        files = sorted(globbing.glob(str(source), recursive=True))
        if not files:
            raise DataError(f"no file matches {source}")
        found += [Path(file) for file in files if Path(file).is_file()]
    return found


def name_of(source: Any) -> str:
    """The name of a log, for people."""
    return Path(source).name if isinstance(source, str | Path) else "the frame"
