"""Time formats: which of them a zone holds for, and times without a year around New Year."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_sdk.errors import DataError
from hiersrec_training.data.time_formats import YearlessTimes, counts_in_utc, has_year
from hiersrec_training.data.times import TimeColumn
from tests.training.data.log_files import START, LogFiles


@pytest.fixture
def shop(tmp_path: Path) -> LogFiles:
    return LogFiles(tmp_path)


NOON = START * 10**6  # 2024-01-31 12:00 UTC
FILETIME = (START + 11_644_473_600) * 10**7
TICKS = (START + 62_135_596_800) * 10**7


# --- zones


@pytest.mark.parametrize(
    ("value", "form", "zoned"),
    [
        (45_322.5, "excel", False),
        (TICKS, "ticks", False),
        (FILETIME, "filetime", None),
        (str(START), "%s", None),
        ("2024-01-31 12:00", "%Y-%m-%d %H:%M", False),
        ("2024-01-31 13:00 +0100", "%Y-%m-%d %H:%M %z", True),
    ],
)
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_a_zone_holds_for_what_a_clock_on_the_wall_shows(
    value: Any, form: str, zoned: bool | None, zone: str | None
) -> None:
    column = TimeColumn(lambda row: f"line {row}", form=form, zone=zone)
    found = column.read(pl.Series([value]), np.array([2]))
    column.check()
    hour = 3_600_000_000 if zoned is False and zone == "Europe/Berlin" else 0
    assert found.to_list() == [NOON - hour]
    assert column.form is not None
    assert column.form.zoned is zoned
    said = column.form.describe(zone)
    assert said == f"format {form}" + (f" without a zone, taken as {zone or 'UTC'}" if zoned is False else "")


@pytest.mark.parametrize(
    ("times", "form", "warns"),
    [((45_322.5, 45_322.6), "excel", False), ((FILETIME, FILETIME + 10), "filetime", True)],
)
def test_a_zone_without_effect_is_warned_of(shop: LogFiles, times: Any, form: str, warns: bool) -> None:
    log = shop.csv("log.csv", [("s", item, time) for item, time in zip("ab", times, strict=True)])
    data = shop.prepare(log, time_format=form, time_zone="Europe/Berlin")
    assert data.train.time is not None
    assert any("--time-zone Europe/Berlin has no effect" in line for line in shop.warnings) == warns
    assert ("2024-01-31 11:00:00" in data.settings["report"]["files"][0]["first"]) != warns


# --- New Year


def days(first: date, count: int) -> list[str]:
    return [f"{first + timedelta(days=day):%m%d}" for day in range(count)]


def clicks(of: list[str]) -> list[tuple[Any, ...]]:
    return [(f"{at} {day}", item, day) for at, day in enumerate(of) for item in (at % 5, at % 3 + 5)]


@pytest.mark.parametrize("way", ["in order", "newest first", "shuffled", "two logs", "test log"])
def test_days_around_new_year(shop: LogFiles, way: str) -> None:
    both = days(date(2024, 12, 28), 7)
    options: dict[str, Any] = {"time_format": "%m%d"}
    logs = [clicks(both)]
    if way == "newest first":
        logs = [clicks(both[::-1])]
    elif way == "shuffled":
        random.Random(0).shuffle(logs[0])
    elif way in ("two logs", "test log"):
        logs = [clicks(both[:4]), clicks(both[4:])]
    paths = [shop.csv(f"{number}.csv", rows) for number, rows in enumerate(logs)]
    if way == "test log":
        options["test_log"] = paths.pop()
    with pytest.raises(
        DataError,
        match=r"csv: the times have no year and seem to span New Year, as there are clicks until 3 January and from "
        r"28 December on, and none between: give times with a year, such as .* another --time-column",
    ):
        shop.prepare(*paths, **options)
    year = [(*row, 2024 if str(row[2])[0] == "1" else 2025) for row in clicks(both)]
    log = shop.csv("year.csv", year, "session,item,day,year")
    data = shop.prepare(log, time_column=["year", "day"], time_format="%Y %m%d", test_days=1.5)
    assert (len(data.train), len(data.test)) == (5, 2)


@pytest.mark.parametrize("newest_first", [False, True])
def test_nearly_a_year_in_order_over_new_year(shop: LogFiles, newest_first: bool) -> None:
    rows = clicks(days(date(2024, 3, 1), 360))
    log = shop.csv("log.csv", rows[::-1] if newest_first else rows)
    with pytest.raises(DataError, match="in order of time, but for one step back of half a year or more"):
        shop.prepare(log, time_format="%m%d")
    parts = [shop.csv(f"part-{at}.csv", rows[at : at + 100]) for at in range(0, len(rows), 100)]
    with pytest.raises(DataError, match=r"part-0\.csv, .*: the times have no year"):
        shop.prepare(*parts, time_format="%m%d")


@given(st.dates(date(2024, 1, 1), date(2024, 12, 31)), st.integers(1, 366), st.randoms(use_true_random=False))
def test_a_log_within_a_year_is_not_refused(first: date, count: int, order: random.Random) -> None:
    start = int(datetime(2000, first.month, first.day, tzinfo=UTC).timestamp()) * 10**6
    count = min(count, (date(2024, 12, 31) - first).days + 1)
    times = start + 86_400_000_000 * np.arange(count)
    shuffled = times.tolist()
    order.shuffle(shuffled)
    for each in (
        times,
        times[::-1],
        np.array(shuffled[: count // 2]) if count >= 330 else np.array(shuffled),
    ):
        found = YearlessTimes()
        for part in np.array_split(each, 3):
            found.note(part)
        found.check("log.csv")


def test_months_apart_within_a_year(shop: LogFiles) -> None:
    log = shop.csv("log.csv", clicks([*days(date(2024, 2, 3), 40), *days(date(2024, 9, 20), 90)]))
    assert len(shop.prepare(log, time_format="%m%d").train) == 130


@pytest.mark.parametrize(
    "form", ["%Y", "%y", "%G", "%s", "%F", "%c", "%D", "%x", "excel", "ticks", "filetime"]
)
def test_formats_with_a_year(form: str) -> None:
    assert has_year(form)
    assert counts_in_utc(form) == (form in ("%s", "filetime"))
    assert not has_year("%d.%m. %H:%M")
