"""Ids written as "12.0": one meaning, whatever shares their batch, file or table."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_training.data import tables as tables_module
from hiersrec_training.data import text as text_module
from hiersrec_training.data.columns import Column, Fractions, without_fractions
from tests.training.data.log_files import START, LogFiles


@pytest.fixture
def shop(tmp_path: Path) -> LogFiles:
    return LogFiles(tmp_path)


def ids(*values: Any) -> pl.Series:
    return pl.Series(values, dtype=pl.String)


written = st.none() | st.sampled_from(
    ["12", "12.0", "13.0", "-7.0", "a", "1.1", "1.0-beta", "007", "-0.0", "0.0"]
)


@given(st.lists(written), st.lists(st.integers(0, 9), max_size=4))
def test_an_id_means_the_same_however_the_columns_are_cut(values: list[str | None], cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    parts = [ids(*values[a:b]) for a, b in pairwise(edges)]
    together = [value for part in without_fractions(parts)[0] for value in part]
    versions = any(value in ("1.1", "1.0-beta", "-0.0") for value in values)
    whole = {"12.0": "12", "13.0": "13", "-7.0": "-7", "0.0": "0"}
    assert together == (values if versions else [whole.get(value or "", value) for value in values])


def test_what_is_said_of_fractions() -> None:
    assert without_fractions([ids("a", "12"), pl.Series([3])])[1] == Fractions()
    assert without_fractions([ids("12.0", "12.0"), ids("13.0", "x")])[1] == Fractions(2, "12.0")
    kept = without_fractions([ids("1.0", "2.0"), pl.Series([1, 1]), ids("1.1")])[1]
    assert kept == Fractions(2, "1.0", other="1.1", both=1)


def test_ids_that_are_only_compared_go_value_by_value() -> None:
    column = Column("session", "session ids", "--session-column", "log.csv", [])
    assert column.whole_ids(ids("7.0", "7.1", "x", None, "8")).to_list() == ["7", "7.1", "x", None, "8"]
    assert (column.floats, column.floats_example) == (1, "7.0")


# --- logs


def test_an_item_of_two_logs_and_a_table(shop: LogFiles) -> None:
    monday = shop.csv("mon.csv", [(1, "12.0", START), (1, "13.0", START + 1), (1, "", START + 2)])
    tuesday = shop.csv("tue.csv", [(8, "12.0", START + 9), (8, 13, START + 10), (8, "gift-card", START + 11)])
    items = shop.csv("items.csv", [("12.0", "kettle"), (13, "pot"), ("gift-card", "card")], "item,name")
    data = shop.prepare(monday, tuesday, items=items, title_column="name")
    assert dict(zip(data.item_ids, data.title, strict=True)) == {
        "12": "kettle",
        "13": "pot",
        "gift-card": "card",
    }
    assert [data.train[index].tolist() for index in range(2)] == [[0, 1], [0, 1, 2]]
    assert any("2 different item ids written as fractions, taken as integers" in line for line in shop.report)
    whole = shop.prepare(
        monday,
        items=shop.csv("whole.csv", [("12.0", "kettle"), (13, "pot")], "item,name"),
        title_column="name",
    )
    assert whole.item_ids.to_list() == [12, 13]


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_a_log_of_several_batches(shop: LogFiles, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(text_module, "BATCH", batch)
    monkeypatch.setattr(tables_module, "BATCH", batch)
    rows = [
        (f"{at // 4}.0" if at % 2 else at // 4, f"{at % 3}.0" if at < 8 else at % 3, START + at)
        for at in range(16)
    ]
    log = shop.csv("log.csv", [*rows, ("x", "card", START + 20), ("x", "0.0", START + 21)])
    sessions = [[str(at % 3) for at in range(first, first + 4)] for first in (0, 4, 8, 12)]
    assert shop.sessions(log) == [*sessions, ["card", "0"]]
    text = shop.write("log.txt", "12.0 13.0\n12 card\n13.0 12.0\n")
    assert shop.sessions(text) == [["12", "13"], ["12", "card"], ["13", "12"]]


def test_sessions_and_users_of_two_logs(shop: LogFiles) -> None:
    first = shop.csv("a.csv", [("1.0", "a", START), ("2.0", "b", START + 1), ("2.0", "c", START + 2)])
    second = shop.csv("b.csv", [("1", "b", START + 9), ("x", "a", START + 9), ("x", "b", START + 10)])
    assert shop.sessions(first, second) == [["b", "c"], ["a", "b"], ["a", "b"]]
    users = "user,item,time"
    rows = [("1.0", "a", START), ("1", "b", START + 1), ("x", "a", START + 9), ("x", "b", START + 10)]
    assert shop.sessions(shop.csv("c.csv", rows, users)) == [["a", "b"], ["a", "b"]]


def test_versions_in_a_log_or_the_table_stay_as_they_are(shop: LogFiles) -> None:
    log = shop.csv("log.csv", [("s", "1.0", START), ("s", "2.0", START + 1)])
    more = shop.csv("more.csv", [("t", "1", START + 5), ("t", "1.0", START + 6)])
    items = shop.csv("items.csv", [("1.0", "A"), ("2.0", "B"), ("1.1", "C")], "item,name")
    data = shop.prepare(log, more, items=items, title_column="name")
    assert data.item_ids.to_list() == ["1", "1.0", "2.0"]
    assert data.title.to_list() == [None, "A", "B"]
    assert any(
        "2 different item ids written as fractions that stay so, as 1.1 does" in line for line in shop.report
    )
    assert any("1 item ids are there with and without .0" in line for line in shop.warnings)


def test_versions_in_the_test_log_alone(shop: LogFiles) -> None:
    log = shop.csv("log.csv", [("s", "1.0", START), ("s", "2.0", START + 1)])
    later = shop.csv("later.csv", [("t", "1.0", START + 5), ("t", "2.0", START + 6), ("t", "1.1", START + 7)])
    assert shop.prepare(log, test_log=later).item_ids.to_list() == ["1.0", "2.0"]


@pytest.mark.parametrize(
    ("last", "levels"),
    [("x", [["5"], ["7", "x"]]), ("7.5", [["5.0"], ["7.0", "7.5"]]), ("8.0", [[5], [7, 8]])],
)
def test_category_ids_of_all_levels(shop: LogFiles, last: str, levels: list[list[Any]]) -> None:
    log = shop.csv("log.csv", [("s", "a", START), ("s", "b", START + 1)])
    items = shop.csv("items.csv", [("a", "5.0", "7.0"), ("b", "5.0", last)], "item,top,leaf")
    data = shop.prepare(log, items=items, category_columns=["top", "leaf"])
    assert data.tree.ids == levels


def test_category_ids_of_table_and_tree(shop: LogFiles) -> None:
    log = shop.csv("log.csv", [("s", "a", START), ("s", "b", START + 1)])
    items = shop.csv("items.csv", [("a", "31.0"), ("b", "sale")], "item,c")
    tree = shop.csv("tree.csv", [("31", "1.0"), ("1", ""), ("sale", "1")], "c,parent")
    data = shop.prepare(log, items=items, category_columns=["c"], category_tree=tree)
    assert data.tree.ids == [["1"], ["31", "sale"]]


def test_what_a_log_says_of_one_item_in_two_spellings(shop: LogFiles) -> None:
    rows = [("s", "12.0", START, "old"), ("s", "x", START + 1, "x"), ("s", "12", START + 2, "new")]
    data = shop.prepare(shop.csv("log.csv", rows, "session,item,time,c"), category_columns=["c"])
    assert data.item_ids.to_list() == ["12", "x"]
    assert [data.tree.ids[-1][leaf] for leaf in data.category] == ["new", "x"]
    assert not any(data.extra_categories)
