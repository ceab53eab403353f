"""What a log says about its items: the newest value, but nothing that only the test split says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_training.data import descriptions as descriptions_module
from hiersrec_training.data.descriptions import LatestDescriptions
from tests.training.data.log_files import START, LogFiles

DAY = 86_400


@pytest.fixture
def shop(tmp_path: Path) -> LogFiles:
    return LogFiles(tmp_path)


def rows_of_shop() -> list[tuple[Any, ...]]:
    """Twenty sessions, and four ten days later with other prices and categories."""
    rows: list[tuple[Any, ...]] = []
    for session in range(24):
        at, late = START + 3600 * session + 10 * DAY * (session >= 20), session >= 20
        rows += [(session, "a", at, 99 if late else 10, "New" if late else "Old")]
        rows += [
            (session, "b", at + 9, 20, "" if session < 20 else "Late"),
            (session, "c", at + 18, "", "Old"),
        ]
    return rows


@pytest.mark.parametrize("way", ["oldest first", "newest first", "by item", "without times"])
@pytest.mark.parametrize("split", [{"test_days": 1}, {"test_fraction": 1 / 6}])
def test_nothing_is_learned_of_the_test_split(shop: LogFiles, way: str, split: dict[str, Any]) -> None:
    rows = rows_of_shop()
    options: dict[str, Any] = {"number_columns": ["price"], "category_columns": ["c"], **split}
    if way == "newest first":
        rows = rows[::-1]
    elif way == "by item":
        rows = sorted(rows, key=lambda row: str(row[1]))
    elif way == "without times":
        if "test_days" in split:
            return
        options["time_column"] = ""
    log = shop.csv("log.csv", rows, "session,item,time,price,c")
    data = shop.prepare(log, **options)
    assert len(data.test) == 4
    assert data.item_ids.to_list() == ["a", "b", "c"]
    np.testing.assert_array_equal(data.numbers["price"], [10, 20, np.nan])
    assert data.tree.ids == [["Old", "unknown"]]
    assert data.category.tolist() == [0, 1, 0]
    what = "2 items that the log describes otherwise after the training split: the older values count"
    assert any(line.startswith("older") and what in line for line in shop.report)
    # without a split of the log, the newest values count
    newest = shop.prepare(log, **{name: value for name, value in options.items() if name not in split})
    assert newest.tree.ids == [["Late", "New", "Old"]]
    assert not any(line.startswith("older") for line in shop.report)


def test_a_long_session_of_the_test_split_hides_nothing(shop: LogFiles) -> None:
    """The moment is the last click of the training split, not the first of the test split."""
    rows = [*rows_of_shop(), ("bot", "c", START, 1, "Old"), ("bot", "c", START + 30 * DAY, 2, "New")]
    log = shop.csv("log.csv", rows, "session,item,time,price,c")
    data = shop.prepare(log, number_columns=["price"], test_days=1)
    assert len(data.train) == 24
    assert data.numbers["price"].tolist() == [99, 20, 1]


def test_a_test_log_and_a_shuffled_log_are_read_as_before(shop: LogFiles) -> None:
    rows = rows_of_shop()
    log = shop.csv("log.csv", rows[:60], "session,item,time,price,c")
    later = shop.csv("later.csv", rows[60:], "session,item,time,price,c")
    assert shop.prepare(log, test_log=later, category_columns=["c"]).tree.ids == [["Old", "unknown"]]
    every = shop.csv("every.csv", rows, "session,item,time,price,c")
    options: dict[str, Any] = {
        "time_column": "",
        "shuffle_seed": 1,
        "test_fraction": 0.2,
        "allow_copies": True,
    }
    assert shop.prepare(every, category_columns=["c"], **options).tree.ids == [["Late", "New", "Old"]]


def test_lists_of_categories(shop: LogFiles) -> None:
    frame = pl.DataFrame(
        {
            "session": [at // 2 for at in range(20)],
            "item": ["a", "b"] * 10,
            "time": [START + at for at in range(20)],
            "c": [["x", "y"], ["y"]] * 9 + [["z"], None],
        }
    )
    data = shop.prepare(frame, category_columns=["c"], test_fraction=0.1, allow_copies=True)
    assert data.tree.ids == [["x", "y"]]
    assert data.extra_categories == [[1], []]


values = st.none() | st.sampled_from("xyz")


@given(
    st.lists(st.tuples(st.integers(0, 2), values, st.none() | st.integers(0, 1)), min_size=1, max_size=40),
    st.integers(-1, 40),
    st.integers(1, 9),
    st.sampled_from([2, 8, 4_000_000]),
)
def test_the_newest_value_of_any_moment(
    rows: list[tuple[int, str | None, int | None]], until: int, batch: int, room: int
) -> None:
    """As plain Python says; with too little room it may be an older one, but never one of later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descriptions_module, "_MANY", room)
        told = LatestDescriptions(["c", "n"], [], keeps_older=True)
        for at in range(0, len(rows), batch):
            part = rows[at : at + batch]
            frame = pl.DataFrame(part, schema={"key": pl.Int64, "c": pl.String, "n": pl.Int64}, orient="row")
            numbers = np.arange(at, at + len(part))
            told.add(frame["key"].to_numpy(), numbers, numbers, frame.select("c", "n"), "log")
        keys, ids = np.arange(3), pl.Series(["k0", "k1", "k2"])
        for moment in (until, None):
            found_ids, newest, _ = told.rows(keys, ids, moment)
            found = dict(zip(found_ids, newest.rows(), strict=True))
            for key in range(3):
                known = [row[1:] for row in rows[: None if moment is None else moment + 1] if row[0] == key]
                for column in (0, 1):
                    given = [row[column] for row in known if row[column] is not None]
                    value = found.get(f"k{key}", (None, None))[column]
                    if moment is None or room > 8:
                        assert value == (given[-1] if given else None)
                    else:
                        assert value in (*given, None)


def test_all_that_is_kept_of_a_log_that_changes_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions_module, "_MANY", 1000)
    told = LatestDescriptions(["n"], [], keeps_older=True)
    for first in range(0, 100_000, 500):
        at = np.arange(first, first + 500)
        told.add(at % 3, at, at, pl.DataFrame({"n": at}), "log")
    assert sum(part.height for part in told._parts) <= 1500
    ids, newest, changed = told.rows(np.arange(3), pl.Series([0, 1, 2]), 50_000)
    assert changed == 3
    assert all(45_000 <= value <= 50_000 for value in newest["n"])
    assert ids.to_list() == [0, 1, 2] or sorted(ids) == [0, 1, 2]
