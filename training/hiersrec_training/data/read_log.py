"""Click logs: events (one click a row) and sessions (one session a line), as clicks in order of session and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from hiersrec_sdk.errors import DataError, EmptyLogError, InvalidOptionError, MissingColumnError
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_table import Table, leading_lines, open_table, reading, suffix_of
from hiersrec_training.data.report import PrepareReport

_MICROSECONDS = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}


@dataclass(frozen=True)
class Log:
    """The clicks of a log.

    ``clicks``: ``session`` (from 0, in order of the sessions' last clicks, or of the log where there is no time),
    ``item`` (as read), ``time`` (microseconds, int64, or null), ``category`` (as read; null where not asked for);
    in order of session and time. ``session_ids``: the sessions' external ids, as strings, where it has some.
    """

    clicks: pl.DataFrame
    session_ids: pl.Series | None = None

    @property
    def has_time(self) -> bool:
        return self.clicks["time"].null_count() < self.clicks.height


def read_log(paths: Sequence[Path], options: PrepareOptions, report: PrepareReport) -> Log:
    """Read one log of one or several files.

    Raises:
        MissingColumnError: an event log lacks a column.
        EmptyLogError: no click is left.
        DataError: a file is missing, damaged, or not of the format that its name says.
    """
    formats = {_format_of(path, options) for path in paths}
    if len(formats) > 1:
        raise InvalidOptionError(
            "event logs and session files cannot be read together: give --format, or one kind"
        )
    read = _read_sessions if formats == {"sessions"} else _read_events
    log = read(paths, options, report)
    if log.clicks.is_empty():
        raise EmptyLogError(f"no click is left of {_names(paths)}: {report.history()}")
    return log


def _format_of(path: Path, options: PrepareOptions) -> str:
    if options.log_format != "auto":
        return options.log_format
    return "sessions" if suffix_of(path) == ".txt" else "events"


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _read_sessions(paths: Sequence[Path], options: PrepareOptions, report: PrepareReport) -> Log:
    lines = []
    for path in paths:
        leading_lines(path)  # checks that it is text
        with reading(path):
            lines.append(pl.scan_lines(path, glob=False).collect()["line"])
    line = pl.col("line").str.strip_prefix("\ufeff").str.strip_chars()
    item = line.str.extract_all(r"\S+") if options.separator is None else line.str.split(options.separator)
    clicks = (
        pl.DataFrame({"line": pl.concat(lines)})
        .lazy()
        .filter(line != "", ~line.str.starts_with("#"))
        .select(item.alias("item"))
        .with_row_index("session")
        .explode("item")
        .with_columns(pl.col("item").str.strip_chars())
        .with_columns(time=pl.lit(None, pl.Int64), category=pl.lit(None, pl.String))
        .collect()
    )
    report.read_clicks(clicks.height, _names(paths))
    blank = (clicks["item"] == "").fill_null(True)
    report.drop(int(blank.sum()), "no item id")
    return Log(_number_sessions(clicks.filter(~blank)))


def _read_events(paths: Sequence[Path], options: PrepareOptions, report: PrepareReport) -> Log:
    tables = [open_table(path, options.separator, empty=EmptyLogError) for path in paths]
    key, cut = _session_key(tables[0], options)
    roles = {"session": (key, "--user-column" if cut else "--session-column")}
    roles["item"] = (options.item_column, "--item-column")
    if options.time_column:
        roles["time"] = (options.time_column, "--time-column ('' for a log without times)")
    elif cut:
        raise InvalidOptionError(
            "sessions cannot be cut by user without a --time-column; give a --session-column"
        )
    if options.event_column is not None:
        roles["event"] = (options.event_column, "--event-column")
    if options.log_category_column is not None:
        roles["category"] = (options.log_category_column, "--log-category-column")
    wanted = dict(roles.values())
    frames = [table.read(wanted) for table in tables]
    together = pl.concat(frames, how="vertical_relaxed")
    events = together.select(pl.col(column).alias(role) for role, (column, _) in roles.items())
    report.read_clicks(events.height, _names(paths))

    events = _drop_missing(events, "item", "no item id", report)
    events = _drop_missing(events, "session", f"no {'user' if cut else 'session'} id", report)
    if "time" in events.columns:
        events = _drop_missing(events, "time", "no time", report)
        time, unreadable = _parse_time(events["time"], options.time_unit, _names(paths))
        events = events.with_columns(time)
        if unreadable:
            events = _drop_missing(events, "time", f"unreadable time, such as {unreadable!r}", report)
    else:
        events = events.with_columns(time=pl.lit(None, pl.Int64))
    if "category" not in events.columns:
        events = events.with_columns(category=pl.lit(None, pl.String))
    if cut:  # before events are chosen: a purchase keeps a visit together as much as a view does
        events = _cut_at_gaps(events, options.session_gap)
        sessions = events["session"].n_unique()
        report.line("cut", sessions, f"sessions by {key} at gaps of {options.session_gap:g} minutes")
    events = _keep_events(events, options, report)
    clicks = _number_sessions(events.select("session", "item", "time", "category"))
    if cut:
        return Log(clicks.drop("key"))
    session_ids = clicks.unique("session", keep="first", maintain_order=True)["key"].cast(pl.String)
    return Log(clicks.drop("key"), session_ids)


def _session_key(table: Table, options: PrepareOptions) -> tuple[str, bool]:
    """The column that tells the sessions, and whether they must be cut out of it."""
    if options.session_column is not None:
        return options.session_column, False
    if options.user_column is not None:
        return options.user_column, True
    for column, cut in (("session", False), ("user", True)):
        if column in table.columns:
            return column, cut
    raise MissingColumnError(
        f"{table.path} has no column 'session' or 'user'; its columns are {', '.join(table.columns)}: "
        "name the right one with --session-column or --user-column"
    )


def _drop_missing(events: pl.DataFrame, column: str, why: str, report: PrepareReport) -> pl.DataFrame:
    values = events[column]
    missing = values.is_null()
    if values.dtype == pl.String:
        missing |= (values == "").fill_null(False)
    elif values.dtype.is_float():
        missing |= values.is_nan().fill_null(False)
    report.drop(int(missing.sum()), why)
    return events.filter(~missing) if missing.any() else events


def _keep_events(events: pl.DataFrame, options: PrepareOptions, report: PrepareReport) -> pl.DataFrame:
    if not options.events:
        return events
    kinds = events["event"].cast(pl.String)
    keep = kinds.is_in(list(options.events)).fill_null(False)
    others = kinds.filter(~keep).value_counts(sort=True).head(5).rows()
    examples = ", ".join(f"{kind} {count:,}" for kind, count in others)
    report.drop(int((~keep).sum()), f"not of event type {', '.join(options.events)}, but {examples}")
    return events.filter(keep)


def _cut_at_gaps(events: pl.DataFrame, minutes: float) -> pl.DataFrame:
    """Replace ``session`` by a number for each user and stretch without a gap above ``minutes``."""
    events = events.sort("session", "time", maintain_order=True)
    new = (pl.col("session") != pl.col("session").shift()) | (pl.col("time").diff() > minutes * 60e6)
    return events.with_columns(session=new.fill_null(True).cum_sum())


def _number_sessions(clicks: pl.DataFrame) -> pl.DataFrame:
    """Sessions numbered from 0 in order of their last clicks, clicks in order of time; the former id in ``key``."""
    clicks = clicks.rename({"session": "key"}).with_row_index("row")
    sessions = (
        clicks.group_by("key")
        .agg(end=pl.col("time").max(), first=pl.col("row").min())
        .sort("end", "first")
        .with_row_index("session")
        .select("key", "session")
    )
    return clicks.join(sessions, on="key").sort("session", "time", "row").drop("row")


def _parse_time(values: pl.Series, unit: str, where: str) -> tuple[pl.Series, str | None]:
    """Microseconds since 1970 (int64; null where unreadable) and the first unreadable value.

    Raises:
        DataError: no value can be read as a time.
    """
    if values.dtype.is_temporal():
        if isinstance(values.dtype, pl.Datetime) and values.dtype.time_zone:
            values = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return values.cast(pl.Datetime("us")).dt.epoch("us").alias("time"), None
    number = values.cast(pl.Float64, strict=False)
    factor = _MICROSECONDS[_guess_unit(number) if unit == "auto" else unit]
    time = (number * factor).round().cast(pl.Int64, strict=False)
    if time.null_count():
        time = time.zip_with(time.is_not_null(), _parse_dates(values.cast(pl.String)))
    unreadable = values.filter(time.is_null()).cast(pl.String)
    if len(unreadable) and len(unreadable) == len(values):
        raise DataError(
            f"{where}: times must be Unix times or ISO dates such as 2016-05-09 12:30:00, got {unreadable[0]!r}"
        )
    return time.alias("time"), unreadable[0] if len(unreadable) else None


def _guess_unit(number: pl.Series) -> str:
    """The unit of Unix times. Those of the last fifty years have 9 or 10 digits in seconds, 3 more a finer unit."""
    largest = number.filter(number.is_finite()).abs().to_numpy().max(initial=0.0)
    return next((unit for unit, limit in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if largest < limit), "ns")


def _parse_dates(text: pl.Series) -> pl.Series:
    """ISO dates, with or without time and zone; without a zone they are UTC."""
    plain = (
        text.str.strip_chars().str.replace(r"^(\d{4}-\d\d-\d\d)T", "$1 ").str.replace(r" ?(Z|UTC|GMT)$", "")
    )
    column = pl.col("time")
    formats = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
    naive = [column.str.to_datetime(form, time_unit="us", strict=False) for form in formats]
    zoned = column.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%#z", time_unit="us", strict=False)
    parsed = pl.coalesce(*naive, zoned.dt.replace_time_zone(None)).dt.epoch("us")
    return plain.alias("time").to_frame().select(parsed)["time"]
