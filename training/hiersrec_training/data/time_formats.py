"""Times of a --time-format: text of a format, and counts of Excel, .NET and Windows."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError, InvalidOptionError

_DAY: Final = 86_400_000_000  # microseconds

# Counts from another day, as microseconds since 1970: file times in UTC, the others as the clock on the wall shows it.
_EPOCHS: Final[dict[str, Callable[[pl.Series], pl.Series]]] = {
    "excel": lambda v: ((v.cast(pl.Float64) - 25_569) * _DAY).round().cast(pl.Int64),
    "ticks": lambda v: (v.cast(pl.Int64) - 621_355_968_000_000_000) // 10,
    "filetime": lambda v: (v.cast(pl.Int64) - 116_444_736_000_000_000) // 10,
}
_LIMITS: Final = {"excel": 1e7, "ticks": 1 << 62, "filetime": 1 << 62}
_DIGIT: Final = "%[YymdHMS]"
# Numbers that are times of another kind: (digits, format).
_DIGITS: Final = {
    3: "%m%d",
    4: "%m%d",
    6: "%Y%m",
    8: "%Y%m%d",
    10: "%Y%m%d%H",
    12: "%Y%m%d%H%M",
    14: "%Y%m%d%H%M%S",
}
_DAYS: Final = 366  # of the year 2000, in which times without a year are put
_FIRST_DAY: Final = 10_957  # of that year, in days since 1970
_NEAR: Final = 31  # days from the end of a year
_QUIET: Final = 90  # days without a click, between the end of a log and its beginning
_HALF_YEAR: Final = 180 * _DAY
_MANY: Final = 30  # steps that tell in which order of time a log is


def checked_format(form: str | None) -> str | None:
    """The format in the words of Polars.

    Raises:
        InvalidOptionError: it has no date, or parts that Polars would read otherwise than Python.
    """
    if form is None or form in _EPOCHS:
        return form
    directives = re.findall(r"%[-:.#]*[a-zA-Z]", form)
    if not directives:
        raise InvalidOptionError(
            f"--time-format must be a format such as '%d.%m.%Y %H:%M', or {', '.join(_EPOCHS)}; got {form!r}"
        )
    if "%Z" in directives:
        raise InvalidOptionError(
            "--time-format: names of zones (%Z) are ambiguous; write them as plain text, and give --time-zone"
        )
    form = form.replace(".%f", "%.f")
    if "%f" in re.findall(r"%[a-zA-Z]", form):
        raise InvalidOptionError(
            "--time-format: %f (fractions of a second) must follow a point, as in %S.%f; for others say %3f or %6f"
        )
    if re.search(r"[+-][0-9]{2}:?[0-9]{2}$", form):
        raise InvalidOptionError(f"--time-format {form!r} ends in an offset from UTC: write %z for it")
    if not re.search(r"%[-]?[dejFcDxs]|%U|%W|%V", form):
        raise InvalidOptionError(f"--time-format {form!r} has no day")
    return form


def counts_in_utc(form: str) -> bool:
    """Whether times of a format of :func:`checked_format` are counts in UTC, for which a zone means nothing."""
    return form == "filetime" or "%s" in form


def says_utc(form: str) -> bool:
    """Whether a format of :func:`checked_format` ends in a text that means UTC."""
    return re.search(r"(?:^|[^A-Za-z]|%[-:.#]*[A-Za-z])(?:Z|GMT|UTC)\)?$", form) is not None


def has_year(form: str) -> bool:
    """Whether times of a format of :func:`checked_format` say their year."""
    return form in _EPOCHS or re.search(r"%[YyGsFcDx]", form) is not None


def read_format(values: pl.Series, form: str, given: str, column: str) -> pl.Series:
    """Times of a format as Datetime, with a zone where they say it.

    Args:
        values: of the column ``column``.
        form: of :func:`checked_format`, which made it of ``given``. Times without a year are put in the year 2000,
            which has a 29 February.

    Raises:
        DataError: datetimes in place of numbers.
        InvalidOptionError: Polars cannot use the format.
    """
    if form in _EPOCHS:
        if values.dtype.is_temporal():
            raise DataError(f"column {column!r} holds {values.dtype}, not numbers of --time-format {form}")
        number = values.cast(pl.Int64 if form != "excel" else pl.Float64, strict=False)
        inside = (number.abs() < _LIMITS[form]).fill_null(False)
        return _EPOCHS[form](number.set(~inside, None)).cast(pl.Datetime("us"))
    text = with_zeros(values, form)
    if re.search(f"({_DIGIT}){{2}}", form):
        # digits next to each other have no other end than their number
        exact = re.sub(
            r"%Y", "[0-9]{4}", re.sub(r"%[ymdHMS]", "[0-9]{2}", re.escape(form).replace("\\%", "%"))
        )
        exact = re.sub(r"%[-.:#]*[A-Za-z]", ".+?", exact.replace("%\\.f", "[.0-9]*"))
        text = text.set(~text.str.contains(f"^{exact}$").fill_null(True), None)
    if "%H" in form and "%M" not in form:  # chrono wants minutes beside hours
        text, form = text + "|00", form + "|%M"
    if not has_year(form):
        text, form = "2000|" + text, "%Y|" + form
    try:
        found = text.str.to_datetime(form, time_unit="us", strict=False)
    except pl.exceptions.PolarsError as error:
        raise InvalidOptionError(
            f"--time-format {given!r} cannot be used: {str(error).splitlines()[0]}"
        ) from None
    # two digits of a year are not those of a year in the first century
    return found.set((found.dt.year() < 1000).fill_null(False), None)


def with_zeros(values: pl.Series, form: str) -> pl.Series:
    """Values as text, with the leading zeros that a format of digits asks for and that numbers have lost."""
    if values.dtype == pl.String:
        text = values
    elif values.dtype.is_temporal():
        return values.cast(pl.String)
    else:
        text = values.cast(pl.Int64, strict=False).cast(pl.String)
    rest = re.sub(r"%Y", "0000", form)
    rest = re.sub(r"%[ymdHMS]", "00", rest)
    return text.str.zfill(len(rest)) if rest.strip("0") == "" else text


def format_of_digits(text: str) -> str:
    """The format that the digits of a date may have, or ""."""
    form = _DIGITS.get(len(text.partition(".")[0]), "")
    if not form:
        return ""
    try:
        text = text.zfill(4)
        found = datetime.strptime(
            ("2000" if "%Y" not in form else "") + text, form if "%Y" in form else "%Y" + form
        )
    except ValueError:
        return ""
    return form if 1990 <= found.year < 2100 else ""


class YearlessTimes:
    """Notices logs whose times have no year, and which seem to span New Year, so that January would come first."""

    def __init__(self) -> None:
        self._has_click = np.zeros(_DAYS, bool)
        self._ups = self._downs = 0  # steps between neighbors
        self._half_ups = self._half_downs = 0  # those of half a year or more
        self._last: int | None = None

    def note(self, times: NDArray[np.int64]) -> None:
        """Look at some times of the logs, in microseconds, in the order of the rows."""
        if not len(times):
            return
        self._has_click[np.clip(times // _DAY - _FIRST_DAY, 0, _DAYS - 1)] = True
        steps = np.diff(times, prepend=times[0] if self._last is None else self._last)
        half_ups, half_downs = int((steps > _HALF_YEAR).sum()), int((steps < -_HALF_YEAR).sum())
        self._ups += int((steps > 0).sum()) - half_ups
        self._downs += int((steps < 0).sum()) - half_downs
        self._half_ups += half_ups
        self._half_downs += half_downs
        self._last = int(times[-1])

    def check(self, names: str) -> None:
        """Raise :class:`DataError` where the logs ``names`` seem to span New Year."""
        days = np.flatnonzero(self._has_click)
        if not len(days):
            return
        why = ""
        at = int(np.diff(days).argmax()) if len(days) > 1 else 0
        if days[0] < _NEAR and days[-1] >= _DAYS - _NEAR and days[at + 1] - days[at] > _QUIET:
            why = (
                f"there are clicks until {_day(days[at])} and from {_day(days[at + 1])} on, and none between"
            )
        elif self._falls_once():
            why = "they are in order of time, but for one step back of half a year or more"
        if why:
            raise DataError(
                f"{names}: the times have no year and seem to span New Year, as {why}: give times with a year, such as "
                "a column of years as another --time-column"
            )

    def _falls_once(self) -> bool:
        """Whether one step goes back half a year or more, in a log that is in order of time otherwise."""
        for ups, downs, half in (
            (self._ups, self._downs, (self._half_ups, self._half_downs)),
            (self._downs, self._ups, (self._half_downs, self._half_ups)),  # the newest first
        ):
            if ups >= _MANY and ups > 99 * downs and half == (0, 1):
                return True
        return False


def _day(number: np.int64) -> str:
    """A day of the year, such as "3 January"."""
    day = date(2000, 1, 1) + timedelta(days=int(number))
    return f"{day.day} {day:%B}"
