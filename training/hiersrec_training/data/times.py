"""Times of a log, as microseconds since 1970 in UTC. What form they have is found file by file, and never guessed:

numbers     Unix times in seconds, milliseconds, microseconds or nanoseconds. Between 1995 and 2100 the four cannot be
            confused. Other numbers need --time-unit or --time-format
texts       ISO 8601: 2024-01-31, 2024-01-31 23:59, 2024-01-31T23:59:58.123Z, ... +01:00; also 2024/01/31. Others need
            --time-format
columns     of dates or datetimes, with or without a time zone

A file has one form: two units, numbers beside dates, or times with and without a zone are an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import date as day
from datetime import time as time_of_day
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError, InvalidOptionError
from hiersrec_training.data.time_formats import (
    checked_format,
    counts_in_utc,
    format_of_digits,
    has_year,
    read_format,
    says_utc,
)

SECOND: Final = 1_000_000  # microseconds
DAY: Final = 86_400 * SECOND
_UNITS: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_NAMES: Final = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_FIRST, _LAST = 788_918_400, 4_102_444_800  # 1995 and 2100, in seconds

# Formats that are tried in turn, and whether they have a zone.
_ISO: Final = (
    ("%Y-%m-%d %H:%M:%S%.f", False),
    ("%Y-%m-%dT%H:%M:%S%.f", False),
    ("%Y-%m-%d %H:%M:%S%.f UTC", True),
    ("%Y-%m-%dT%H:%M:%S%.fZ", True),
    ("%Y-%m-%dT%H:%M:%S%.f%:z", True),
    ("%Y-%m-%d", False),
)
_ANY_ISO: Final = (
    r"^(?<year>[0-9]{4})(?<sep>[-/])(?<month>[0-9]{1,2})[-/](?<day>[0-9]{1,2})"
    r"(?:(?:T| +)(?<hour>[0-9]{1,2}):(?<minute>[0-9]{2})(?::(?<second>[0-9]{2})(?:[.,](?<fraction>[0-9]{1,9}))?)?"
    r" ?(?<zone>Z|z|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?)?$"
)

# Dates in digits that may look like Unix times.
_SHORT_DATES: Final = ("%y%m%d%H%M", "%m%d%y%H%M", "%d%m%y%H%M", "%y%m%d%H%M%S")


@dataclass(frozen=True)
class Form:
    """What the times of a file are: a name for people, and whether they have a time zone."""

    name: str
    zoned: bool | None = None  # None: counts, which are in UTC

    def describe(self, zone: str | None) -> str:
        """The form for the report, with how times without a zone were taken."""
        return f"{self.name} without a zone, taken as {zone or 'UTC'}" if self.zoned is False else self.name


class TimeColumn:
    """Reads the times of one file, batch by batch.

    Args:
        place: gives the place of a row number, for messages.
        column: its name, for messages.
        unit: of Unix times, s, ms, us or ns; "auto" tells it by their size.
        form: format of times that are neither Unix times nor ISO dates.
        zone: of times without one; UTC by default.
        accepts_future, accepts_past: times later than tomorrow, and dates before 1995, are no error.

    Attributes:
        form: what the times were found to be; None before the first.
        unreadable: how many values were not, with one example in ``unreadable_example``.
        twice: how many are in the hour that comes twice when clocks go back.
    """

    def __init__(
        self,
        place: Callable[[int], str],
        *,
        column: str = "time",
        unit: str = "auto",
        form: str | None = None,
        zone: str | None = None,
        accepts_future: bool = False,
        accepts_past: bool = False,
    ) -> None:
        self._column = column
        self._place, self._unit = place, unit
        self._accepts_future, self._accepts_past = accepts_future, accepts_past
        self._zone = checked_zone(zone)
        self._format_name, self._format = form, checked_format(form)
        self.form: Form | None = None
        self._example = ("", 0)  # value and row of the first time
        self._read = 0
        self.unreadable = 0
        self.unreadable_example = ""
        self.skipped = 0
        self.skipped_example = ""
        self._gone = pl.Series([], dtype=pl.Boolean)  # which values of the newest batch were skipped
        self.twice = 0
        self._past = 0
        self._earliest = (0, "", 0, False)  # of the first past time; whether it is text
        self._future = 0
        self._latest = (0, "", 0)  # microseconds, value and row of the latest future time
        self._tomorrow = int((datetime.now(UTC) + timedelta(days=1)).timestamp()) * SECOND

    def read(self, values: pl.Series, numbers: NDArray[np.int64]) -> pl.Series:
        """Microseconds, Int64, null where a value is missing or unreadable.

        Args:
            values: of :meth:`~hiersrec_training.data.columns.Column.times`.
            numbers: of their rows.

        Raises:
            DataError: times of several forms, or of a form that is in doubt.
        """
        there = values.is_not_null()
        self._gone = pl.repeat(False, len(values), eager=True)
        if self._format is not None:
            time = self._by_format(values, self._format, there, numbers)
        elif values.dtype.is_temporal():
            time = self._from_column(values, there, numbers)
        elif values.dtype == pl.String:
            time = self._from_text(values, there, numbers)
        else:
            time = self._from_numbers(values, there, numbers)
        self._read += int(there.sum())
        lost = time.is_null() & there
        if lost.any():
            unreadable, skipped = lost & ~self._gone, lost & self._gone
            self.unreadable += int(unreadable.sum())
            self.skipped += int(skipped.sum())
            self.unreadable_example = self.unreadable_example or self._first(unreadable, values, numbers)
            self.skipped_example = self.skipped_example or self._first(skipped, values, numbers)
        past = (time < _FIRST * SECOND).fill_null(False)
        if past.any():
            row = int(past.arg_max() or 0)
            if not self._past:
                shown, is_text = _shown(values[row]), values.dtype == pl.String
                self._earliest = int(time[row]), shown, int(numbers[row]), is_text
            self._past += int(past.sum())
        future = (time > self._tomorrow).fill_null(False)
        if future.any():
            self._future += int(future.sum())
            row = int(time.fill_null(0).arg_max() or 0)
            if int(time[row]) > self._latest[0]:
                self._latest = int(time[row]), str(values[row]), int(numbers[row])
        return time

    def _first(self, which: pl.Series, values: pl.Series, numbers: NDArray[np.int64]) -> str:
        """The first of some values, and where it is; empty where there is none."""
        if not which.any():
            return ""
        row = int(which.arg_max() or 0)
        value = values[row]
        shown = str(value) if isinstance(value, datetime) else repr(value)
        return f"{shown}, {self._place(int(numbers[row]))}"

    def check(self) -> None:
        """Raise :class:`DataError` where most times of the file cannot be read, or some lie in the future."""
        if self.unreadable * 10 > self._read:
            hint = (
                "times are Unix times or ISO dates such as 2016-05-09 12:30:00; for others give --time-format, such as "
                "'%d.%m.%Y %H:%M'"
            )
            if self._format is not None:
                hint = f"they do not match --time-format {self._format_name!r} to the last character"
            raise DataError(
                f"{self.unreadable:,} of {self._read:,} times of column {self._column!r} cannot be read, such as "
                f"{self.unreadable_example}: {hint}"
            )
        if self.skipped * 10 > self._read:
            raise DataError(
                f"{self.skipped:,} of {self._read:,} times of column {self._column!r} are none in --time-zone "
                f"{self._zone}, as clocks go forward then, such as {self.skipped_example}: name the zone that they "
                "are in"
            )
        if self._past and not self._accepts_past and self._unit == "auto":
            time, value, row, is_text = self._earliest
            ways = ["--since 1995-01-01 leaves them out", "an earlier --since keeps them"]
            if is_text:
                ways.insert(0, f"--missing '{value}' if it stands for no time")
            if self._past == self._read:
                ways.insert(0, "write the column again if its unit was read wrong")
            raise DataError(
                f"{self._past:,} of {self._read:,} clicks are before 1995: {self._place(row)}, time {value} of column "
                f"{self._column!r} read as {date(time)}; {', '.join(ways)}"
            )
        if self._future and not self._accepts_future:
            time, value, row = self._latest
            digits = format_of_digits(value)
            hint = f"; if it is a date written in digits, give --time-format {digits}" if digits else ""
            raise DataError(
                f"{self._future:,} of {self._read:,} clicks are in the future, the last at {date(time)}: "
                f"{self._place(row)}, time {value} read as {self.form.name if self.form else ''}; --until "
                f"{date(self._tomorrow)[:10]} leaves later clicks out, a later --until keeps them{hint}"
            )

    def are_midnights(self, times: NDArray[np.int64]) -> bool:
        """Whether all of these times are at midnight, in the zone of times without one."""
        if self._zone is None or (self.form is not None and self.form.zoned is not False):
            return not bool((times % DAY).any())
        local = pl.Series(times).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(self._zone)
        return bool((local.dt.time() == time_of_day(0)).all())

    def _seen(self, form: Form, values: pl.Series, where: pl.Series, numbers: NDArray[np.int64]) -> None:
        """Note the form of the values ``where``; refuse a second one."""
        if not where.any():
            return
        row = int(where.arg_max() or 0)
        if self.form is None:
            self.form, self._example = form, (_shown(values[row]), int(numbers[row]))
            return
        same_name = form.name == self.form.name
        if same_name and (form.zoned == self.form.zoned or self._zone is not None):
            return
        value, first = self._example
        here, there = (
            f"{self._place(int(numbers[row]))}: time {_shown(values[row])}",
            f"{value} in {self._place(first)}",
        )
        if same_name:
            raise DataError(
                f"{here} has {'a' if form.zoned else 'no'} zone, but {there} has {'none' if form.zoned else 'one'}: "
                "--time-zone says which zone those without are in"
            )
        raise DataError(
            f"{here} looks like {form.name}, but {there} like {self.form.name}: one file must have one form of time; "
            "bring them into one form, or split the file"
        )

    def _from_column(self, values: pl.Series, there: pl.Series, numbers: NDArray[np.int64]) -> pl.Series:
        zoned = isinstance(values.dtype, pl.Datetime) and values.dtype.time_zone is not None
        self._seen(Form("dates" if values.dtype == pl.Date else "datetimes", zoned), values, there, numbers)
        if zoned:
            return values.dt.epoch("us")
        return self._to_utc(values.cast(pl.Datetime("us")))

    def _to_utc(self, naive: pl.Series) -> pl.Series:
        """Microseconds of datetimes without a zone; of an hour that comes twice, the first."""
        if self._zone is None:
            return naive.dt.epoch("us")
        first = naive.dt.replace_time_zone(self._zone, ambiguous="earliest", non_existent="null")
        last = naive.dt.replace_time_zone(self._zone, ambiguous="latest", non_existent="null")
        self.twice += int((first != last).sum())
        self._gone |= naive.is_not_null() & first.is_null()
        return first.dt.epoch("us")

    def _from_text(self, values: pl.Series, there: pl.Series, numbers: NDArray[np.int64]) -> pl.Series:
        number = values.cast(pl.Int64, strict=False)
        if number.null_count() < len(number) and self._unit == "auto":
            padded = values.str.contains("^0[0-9]").fill_null(False)
            if padded.any():
                row = int(padded.arg_max() or 0)
                raise DataError(self._implausible(str(values[row]), int(numbers[row])))
        if number.null_count() == values.null_count():
            return self._from_numbers(number, there, numbers)
        if self._unit != "auto":
            row = int((number.is_null() & there).arg_max() or 0)
            if not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]*)?", str(values[row])):
                raise DataError(
                    f"{self._place(int(numbers[row]))}: time {values[row]} is no number, as --time-unit {self._unit} "
                    "says; leave --time-unit out for dates"
                )
        if number.null_count() == len(number):  # the usual case of dates: no regular expression
            time = self._from_dates(values, there, numbers)
            if time.null_count() == values.null_count():
                return time
            rest = time.is_null() & there
        else:
            time = pl.Series([None] * len(values), dtype=pl.Int64)
            rest = there
        digits = rest & values.str.contains(r"^[+-]?[0-9]+(\.[0-9]*)?$").fill_null(False)
        if digits.any():
            exact = values.set(~digits, None).cast(pl.Float64, strict=False)
            time = time.zip_with(~digits, self._from_numbers(exact, digits, numbers))
            rest &= ~digits
            if rest.any():
                time = time.zip_with(~rest, self._from_dates(values.set(~rest, None), rest, numbers))
        return time

    def _from_numbers(self, values: pl.Series, there: pl.Series, numbers: NDArray[np.int64]) -> pl.Series:
        unit = self._unit
        if unit != "auto":
            self._seen(Form(f"Unix {_NAMES[unit]}"), values, there, numbers)
            return _scaled(values, unit)
        time = pl.Series([None] * len(values), dtype=pl.Int64)
        known = ~there
        for name, factor in _UNITS.items():
            # compared as integers: nanoseconds are beyond the precision of floats
            inside = ((values >= _FIRST * factor) & (values < _LAST * factor)).fill_null(False)
            if not inside.any():
                continue
            self._refuse_digits(values.filter(inside), numbers[inside.to_numpy()])
            self._seen(Form(f"Unix {_NAMES[name]}"), values, inside, numbers)
            time = time.zip_with(~inside, _scaled(values, name))
            known |= inside
        if not known.all():
            row = int((~known).arg_max() or 0)
            value = values[row]
            raise DataError(self._implausible(_shown(value), int(numbers[row])))
        return time

    def _implausible(self, text: str, number: int) -> str:
        value = float(text)
        reading = "it is no Unix time since 1995 in any unit"
        if text[0] == "0" and len(text) > 1 and text[1] != ".":
            reading = "it begins with a zero, which a Unix time does not"
        elif abs(value) < _FIRST:
            reading = f"as Unix seconds it would be {date(int(value * SECOND))}"
        ways = []
        if 20_000 <= value < 80_000:
            ways.append("--time-format excel for days since 1900")
        if 6.2e17 <= value < 6.6e17:
            ways.append("--time-format ticks for .NET ticks")
        if 1.2e17 <= value < 1.5e17:
            ways.append("--time-format filetime for Windows file times")
        digits = format_of_digits(text)
        if digits:
            ways.append(f"--time-format {digits} for a date in digits")
        if self.form is not None:
            ways.append(f"--missing {text} if it stands for no time")
        ways.append("--time-unit s (ms, us, ns) to take numbers as they are")
        return f"{self._place(number)}: time {text} is in doubt: {reading}; give {', or '.join(ways)}"

    def _refuse_digits(self, values: pl.Series, numbers: NDArray[np.int64]) -> None:
        """Refuse the first numbers of a file if all of them would do as dates in digits, such as 2401311230."""
        if self.form is not None or len(values) < 3:
            return
        text = values.head(10_000).cast(pl.Int64).cast(pl.String)
        for form in _SHORT_DATES:
            width = len(form)
            if not (text.str.len_bytes() == width).all() or text.n_unique() < 3:
                continue
            as_date = text.str.to_datetime(form, strict=False)
            if as_date.null_count() == 0:
                raise DataError(
                    f"{self._place(int(numbers[0]))}: time {text[0]} is in doubt: it may be a Unix time, or the date "
                    f"{as_date[0]}, as all of the first {len(text):,} times may; give --time-unit s or --time-format "
                    f"{form}"
                )

    def _from_dates(self, values: pl.Series, there: pl.Series, numbers: NDArray[np.int64]) -> pl.Series:
        time = pl.Series([None] * len(values), dtype=pl.Int64)
        left = there
        for form, zoned in _ISO:
            if not left.any():
                return time
            found = values.str.to_datetime(form, time_unit="us", strict=False)
            good = found.is_not_null() & left
            if not good.any():
                continue
            self._seen(Form("ISO dates", zoned), values, good, numbers)
            time = time.zip_with(~good, found.dt.epoch("us") if zoned else self._to_utc(found))
            left &= ~good
        if left.any():
            time = time.zip_with(~left, self._any_iso(values, left, numbers))
        return time

    def _any_iso(self, values: pl.Series, left: pl.Series, numbers: NDArray[np.int64]) -> pl.Series:
        """The rarer forms: without seconds, one digit a month, slashes, a comma, a short zone."""
        part = values.set(~left, None).str.extract_groups(_ANY_ISO).struct.unnest()
        clock = pl.concat_str(
            *(
                "year",
                pl.lit("-"),
                pl.col("month").str.zfill(2),
                pl.lit("-"),
                pl.col("day").str.zfill(2),
                pl.lit(" "),
            ),
            *(
                pl.col("hour").fill_null("00").str.zfill(2),
                pl.lit(":"),
                pl.col("minute").fill_null("00"),
                pl.lit(":"),
            ),
            *(pl.col("second").fill_null("00"), pl.lit("."), pl.col("fraction").fill_null("0")),
        )
        form = "%Y-%m-%d %H:%M:%S%.f"
        found = part.select("zone", time=clock.str.to_datetime(form, time_unit="us", strict=False))
        zone = found["zone"]
        zoned = zone.is_not_null() & found["time"].is_not_null()
        naive = zone.is_null() & found["time"].is_not_null()
        self._seen(Form("ISO dates", True), values, zoned, numbers)
        self._seen(Form("ISO dates", False), values, naive, numbers)
        sign = pl.when(pl.col("zone").str.starts_with("-")).then(-1).otherwise(1)
        hours = pl.col("zone").str.extract(r"^[+-]([0-9]{2})").cast(pl.Int64).fill_null(0)
        minutes = pl.col("zone").str.extract(r"([0-9]{2})$").cast(pl.Int64).fill_null(0)
        minutes = pl.when(pl.col("zone").str.len_bytes() > 3).then(minutes).otherwise(0)
        offset = found.select(offset=(sign * (hours * 60 + minutes) * 60 * SECOND).fill_null(0))["offset"]
        local = found["time"].dt.epoch("us")
        return (local - offset).zip_with(zoned, self._to_utc(found["time"].set(zoned, None)))

    def _by_format(
        self, values: pl.Series, form: str, there: pl.Series, numbers: NDArray[np.int64]
    ) -> pl.Series:
        found = read_format(values, form, str(self._format_name), self._column)
        zoned = None if counts_in_utc(form) else getattr(found.dtype, "time_zone", None) is not None
        zoned = True if says_utc(form) else zoned
        self._seen(Form(f"format {self._format_name}", zoned), values, there, numbers)
        return self._to_utc(found) if zoned is False else found.dt.epoch("us")

    @property
    def is_yearless(self) -> bool:
        """Whether the format has no year."""
        return self._format is not None and not has_year(self._format)


def _shown(value: Any) -> str:
    """A value as it stands in the file: a whole number without decimals."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def parse_moment(moment: str | day | None, option: str, zone: str | None) -> int | None:
    """The microseconds of a date or time given to ``option``.

    Raises:
        InvalidOptionError: not an ISO date.
    """
    if moment is None:
        return None
    text = moment.isoformat() if isinstance(moment, day) else moment
    try:
        found = datetime.fromisoformat(text.strip())
    except (ValueError, AttributeError):
        raise InvalidOptionError(
            f"{option} must be a date such as 2024-01-31 or a time such as 2024-01-31T12:30, got {text!r}"
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=ZoneInfo(checked_zone(zone) or "UTC"))
    return round(found.timestamp() * SECOND)


def date(microseconds: int) -> str:
    """A time for people to read, in UTC."""
    try:
        return str(np.datetime64(microseconds, "us").astype("datetime64[s]")).replace("T", " ")
    except (OverflowError, ValueError):
        return f"{microseconds} µs"


def checked_zone(name: str | None) -> str | None:
    """The zone; raise :class:`InvalidOptionError` where there is none of this name."""
    if name is None:
        return None
    try:
        ZoneInfo(name)
        pl.Series([datetime(2024, 1, 1)]).dt.replace_time_zone(name)
    except (KeyError, ValueError, OSError, pl.exceptions.PolarsError):
        raise InvalidOptionError(
            f"--time-zone must be the name of a time zone such as Europe/Berlin or UTC, got {name!r}"
        ) from None
    return name


def _scaled(values: pl.Series, unit: str) -> pl.Series:
    """Unix times as microseconds."""
    factor = _UNITS[unit]
    if values.dtype.is_integer():
        values = values.cast(pl.Int64, strict=False)
        most = (1 << 62) // max(1, SECOND // factor)
        values = values.set((values.abs() > most).fill_null(False), None)
        return values * (SECOND // factor) if factor <= SECOND else values // (factor // SECOND)
    return (values.cast(pl.Float64) * (SECOND / factor)).round().cast(pl.Int64, strict=False)
