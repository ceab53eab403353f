"""Times of every form, against Python's own datetime; and those that are refused."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk.errors import DataError, InvalidOptionError
from hiersrec_training.data.time_formats import checked_format
from hiersrec_training.data.times import TimeColumn, parse_moment

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def place(row: int) -> str:
    return f"log.csv, line {row}"


def read(values: list[Any] | pl.Series, **settings: Any) -> list[int | None]:
    """The times of a file with these values, in microseconds; rows count from 2, as below a header."""
    series = values if isinstance(values, pl.Series) else pl.Series(values)
    column = TimeColumn(place, **settings)
    found = column.read(series, np.arange(2, 2 + len(series)))
    column.check()
    return found.to_list()


def micros(moment: datetime) -> int:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // MICROSECOND


NOON = micros(datetime(2024, 1, 31, 12, 0))


@pytest.mark.parametrize(
    "value",
    [
        "1706702400",
        "1706702400.0",
        "1706702400.",
        "+1706702400",
        "1706702400000",
        "1706702400000000",
        "1706702400000000000",
        "2024-01-31 12:00:00",
        "2024-01-31T12:00:00",
        "2024-01-31T12:00",
        "2024-01-31 12:00",
        "2024-01-31 12:00:00.000",
        "2024-01-31 12:00:00,000000000",
        "2024-01-31T12:00:00Z",
        "2024-01-31T12:00Z",
        "2024-01-31 12:00:00 UTC",
        "2024-01-31 12:00:00 GMT",
        "2024-01-31T14:00+02:00",
        "2024-01-31T14:00:00+0200",
        "2024-01-31 14:00:00 +02:00",
        "2024-01-31T06:30:00.000-05:30",
        "2024-01-31T14:00:00+02",
        "2024/01/31 12:00:00",
        "2024/1/31 12:00",
        "2024-1-31  12:00",
    ],
)
def test_a_time_as_text(value: str) -> None:
    assert read([value]) == [NOON]


moments = st.datetimes(datetime(1995, 1, 2), datetime(2026, 1, 1))


@given(st.lists(moments, min_size=1, max_size=5), st.sampled_from(["s", "ms", "us", "ns"]), st.booleans())
def test_the_unit_of_unix_times_is_told_by_their_size(
    times: list[datetime], unit: str, as_text: bool
) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    numbers = [micros(moment) * per_second // 10**6 for moment in times]
    expected = [number * 10**6 // per_second for number in numbers]
    values = pl.Series([str(number) for number in numbers] if as_text else numbers)
    refused = None
    try:
        assert read(values) == expected
    except DataError as error:  # seconds that could be dates in digits
        refused = str(error)
    if refused is not None:
        assert "is in doubt" in refused
        assert unit == "s"
        assert len(set(numbers)) > 2
    assert read(values, unit=unit) == expected


@given(
    st.lists(moments, min_size=1, max_size=4),
    st.sampled_from([" ", "T"]),
    st.sampled_from(["auto", "minutes", "seconds", "milliseconds", "microseconds"]),
    st.sampled_from(["", "Z", "+00:00", "+02:00", "-0530", "+13"]),
)
def test_iso_dates_as_python_writes_them(
    times: list[datetime], separator: str, precision: str, zone: str
) -> None:
    offset = {"+02:00": 120, "-0530": -330, "+13": 780}.get(zone, 0)
    values = [moment.isoformat(separator, precision) + zone for moment in times]
    expected = [
        micros(datetime.fromisoformat(moment.isoformat(" ", precision))) - offset * 60 * 10**6
        for moment in times
    ]
    assert read(values) == expected


FORMATS = [
    "%d.%m.%Y %H:%M:%S",
    "%m/%d/%y %I:%M %p",
    "%Y%m%d%H%M%S",
    "%Y%m%d",
    "%Y%m%d%H",
    "%b %d %Y %H:%M:%S.%f",
    "%j %Y",
]


@given(st.lists(moments, min_size=1, max_size=4), st.sampled_from(FORMATS))
def test_a_time_format_reads_as_python_does(times: list[datetime], form: str) -> None:
    values = [moment.strftime(form) for moment in times]
    expected = [micros(datetime.strptime(value, form)) for value in values]
    assert read(values, form=form) == expected
    if values[0].isdigit():
        assert read(pl.Series([int(value) for value in values]), form=form) == expected


@given(st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2026, 1, 1)), min_size=1, max_size=4))
def test_counts_of_other_systems(times: list[datetime]) -> None:
    seconds = [moment.replace(microsecond=0) for moment in times]
    expected = [micros(moment) for moment in seconds]
    days = [(moment - datetime(1899, 12, 30)) / timedelta(days=1) for moment in seconds]
    found = read(pl.Series(days), form="excel")
    assert [round((value or 0) / 10**6) for value in found] == [value // 10**6 for value in expected]
    ticks = [(moment - datetime(1, 1, 1)) // MICROSECOND * 10 for moment in seconds]
    assert read([str(tick) for tick in ticks], form="ticks") == expected
    filetimes = [(moment - datetime(1601, 1, 1)) // MICROSECOND * 10 for moment in seconds]
    assert read(pl.Series(filetimes), form="filetime") == expected


def test_months_and_days_without_a_year() -> None:
    found = read(["0229", "0511", "1112"], form="%m%d")
    assert found == sorted(found, key=lambda value: value or 0)
    assert None not in found
    assert read(pl.Series([229, 511, 1112]), form="%m%d") == found


@given(st.lists(moments, min_size=1, max_size=4))
def test_times_without_a_zone_are_in_the_zone_that_is_named(times: list[datetime]) -> None:
    zone = ZoneInfo("Europe/Berlin")
    local = [moment.replace(hour=12) for moment in times]  # no clock is changed at noon
    expected = [micros(moment.replace(tzinfo=zone)) for moment in local]
    assert read([str(moment) for moment in local], zone="Europe/Berlin") == expected
    assert read(pl.Series(local), zone="Europe/Berlin") == expected
    assert (
        read(
            [f"{moment:%d.%m.%Y %H:%M:%S.%f}" for moment in local],
            form="%d.%m.%Y %H:%M:%S.%f",
            zone="Europe/Berlin",
        )
        == expected
    )


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_columns_of_datetimes(unit: Any, zone: str | None) -> None:
    values = pl.Series([datetime(2024, 1, 31, 12)]).cast(pl.Datetime(unit))
    if zone is not None:
        values = values.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    assert read(values) == [NOON]


# --- in doubt


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (20240101, "as Unix seconds it would be 1970-08-23 06:15:01; give --time-format %Y%m%d"),
        (20240101123000, "--time-format %Y%m%d%H%M%S"),
        (202401011230, "--time-format %Y%m%d%H%M"),
        (202401, "--time-format %Y%m"),
        (511, "--time-unit s"),
        (1231, "--time-format %m%d"),
        (45292, "--time-format excel"),
        (45292.52, "--time-format excel"),
        (638396640000000000, "--time-format ticks"),
        (133485408000000000, "--time-format filetime"),
        (0, "--time-unit s"),
        (-1, "--time-unit s"),
        (7, "--time-unit s"),
        (727_401_600, "1993"),  # seconds since 2001
        (5e12, "--time-unit"),
        (1e30, "--time-unit"),
    ],
)
@pytest.mark.parametrize("as_text", [True, False])
def test_a_number_in_doubt(value: float, hint: str, as_text: bool) -> None:
    if as_text and value == 1e30:
        return  # not written in digits: unreadable
    text = f"{value:.0f}" if value in (5e12,) else str(value)
    with pytest.raises(DataError, match=r"line 2: time .* is in doubt") as error:
        read([text if as_text else value])
    assert hint in str(error.value)


def test_dates_in_digits_that_look_like_seconds() -> None:
    dates = [f"{datetime(2023, 5, 6) + timedelta(minutes=97 * row):%y%m%d%H%M}" for row in range(50)]
    with pytest.raises(
        DataError, match=r"as all of the first 50 times may; give --time-unit s or --time-format %y"
    ):
        read(dates)
    assert read(dates, form="%y%m%d%H%M")[0] == micros(datetime(2023, 5, 6))
    hours = [f"{datetime(2026, 5, 6) + timedelta(hours=row):%Y%m%d%H}" for row in range(50)]
    with pytest.raises(DataError, match=r"in the future, .* --until .*--time-format %Y%m%d%H"):
        read(hours)


@pytest.mark.parametrize(
    ("values", "first", "second"),
    [
        (["1706702400", "1706702400000"], "Unix seconds", "Unix milliseconds"),
        (["1706702400000", "1706702400"], "Unix milliseconds", "Unix seconds"),
        (["1706702400000000", "1706702400"], "Unix microseconds", "Unix seconds"),
        (["1706702400", "2024-01-31"], "Unix seconds", "ISO dates"),
        (["2024-01-31", "2024-01-31T12:00:00Z"], " zone", " has "),
        (["2024-01-31T12:00+01:00", "2024-01-31 12:00"], " zone", " has "),
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_two_forms_in_one_file(values: list[str], first: str, second: str, apart: bool) -> None:
    column = TimeColumn(place)
    with pytest.raises(
        DataError,
        match=r"one file must have one form of time|--time-zone says which zone those without are in",
    ) as error:
        if apart:
            for row, value in enumerate(values):
                column.read(pl.Series([value]), np.array([row + 2]))
        else:
            column.read(pl.Series(values), np.array([2, 3]))
    assert all(text in str(error.value) for text in (first, second, *values, "line 2", "line 3"))


def test_a_zone_for_those_without_lets_both_be_read() -> None:
    found = read(["2024-01-31T12:00:00Z", "2024-01-31 13:00"], zone="Europe/Berlin")
    assert found == [NOON, NOON]


def test_numbers_as_they_are() -> None:
    assert read([0, 1, 10**10], unit="s", accepts_future=True) == [0, 10**6, 10**16]
    assert read(["5", None, "7"], unit="ms") == [5000, None, 7000]


def test_the_future() -> None:
    year = datetime.now(UTC).year + 60
    with pytest.raises(
        DataError, match=rf"1 of 2 clicks are in the future, the last at {year}-01-01 .*line 3, .* --until"
    ):
        read(["2024-01-31", f"{year}-01-01"])
    assert read(["2024-01-31", f"{year}-01-01"], accepts_future=True)[1] == micros(datetime(year, 1, 1))
    tonight = datetime.now(UTC) + timedelta(hours=12)
    assert read([f"{tonight:%Y-%m-%d %H:%M:%S}"]) == [micros(tonight.replace(microsecond=0))]


def test_unreadable_times() -> None:
    column = TimeColumn(place)
    values = pl.Series(["2024-01-31"] * 99 + ["soon", None])
    found = column.read(values, np.arange(2, 103))
    column.check()
    assert found.null_count() == 2
    assert (column.unreadable, column.unreadable_example) == (1, "'soon', log.csv, line 101")
    for value in (
        "31.01.2024 12:00",
        "01/31/2024",
        "2024-13-01",
        "2024-02-30",
        "1.7e9",
        "inf",
        "\uff12024-01-01",
    ):
        with pytest.raises(
            DataError, match=r"1 of 1 times of column .time. cannot be read, such as .* --time-format"
        ):
            read([value])


@pytest.mark.parametrize("form", ["noon", "%H:%M", "%d.%m.%Y %Z", "%d.%m.%Y %S%f"])
def test_formats_that_cannot_be_used(form: str) -> None:
    with pytest.raises(InvalidOptionError, match="--time-format"):
        checked_format(form)


@settings(max_examples=300)
@given(
    st.text("0123456789-/:.,TZ +eUG", max_size=26)
    | st.text(max_size=12)
    | st.from_regex(r"[0-9]{1,20}", fullmatch=True)
)
def test_any_text_is_a_time_or_an_error_of_ours(value: str) -> None:
    with contextlib.suppress(DataError):
        read(pl.Series([value.strip() or None] * 3, dtype=pl.String), accepts_future=True)


@settings(max_examples=100)
@given(st.text("%YmdHMSfzZyIpbBaAjUWVsGgucCxXDFTRrnteklPE.-:/ #0", max_size=8))
def test_any_format_is_used_or_refused(form: str) -> None:
    with contextlib.suppress(DataError, InvalidOptionError):
        read(["2024-01-31 12:00", "20240131"], form=form, accepts_future=True)


def test_moments_of_options() -> None:
    assert parse_moment(None, "--since", None) is None
    assert parse_moment("2024-01-31T12:00", "--since", None) == NOON
    assert parse_moment("2024-01-31 12:00", "--since", "Europe/Berlin") == NOON - 3600 * 10**6
    assert parse_moment("2024-01-31T12:00Z", "--since", "Europe/Berlin") == NOON
    moment = datetime(2024, 1, 31, 12, tzinfo=timezone(timedelta(hours=3)))
    assert parse_moment(moment.isoformat(), "--until", None) == micros(moment)
