"""From logs and tables to a data set: every form of input, the filters, the split, and what is counted."""

from __future__ import annotations

import gzip
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk.errors import EmptyLogError
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.data.options import MISSING_TEXTS
from hiersrec_training.data.prepare import PrepareOptions, prepare

START = 1_462_788_000  # 2016-05-09 10:00:00 UTC
EVENTS = [  # session, item, time: sessions interleaved, rows out of order
    ("b", "shoe", START + 200),
    ("a", "hat", START),
    ("a", "shoe", START + 100),
    ("b", "hat", START + 150),
    ("a", "coat", START + 50),
    ("c", "coat", START + 120),
    ("c", "hat", START + 130),
]


def write_csv(path: Path, rows: Sequence[Sequence[object]], header: str = "", separator: str = ",") -> Path:
    lines = [header] if header else []
    lines += [separator.join("" if value is None else str(value) for value in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def quietly(logs: Path | Sequence[Path], report: list[str] | None = None, **options: Any) -> Dataset:
    """Prepare without a validation split, unless told otherwise."""
    lines = [] if report is None else report
    options.setdefault("validation_fraction", 0.0)
    return prepare(PrepareOptions(logs=[logs] if isinstance(logs, Path) else logs, **options), lines.append)


def named(data: Dataset, sessions: Sessions) -> list[list[Any]]:
    """Sessions as external ids."""
    ids = data.item_ids.to_list()
    return [[ids[item] for item in sessions[index]] for index in range(len(sessions))]


def trained(log: Path, **options: Any) -> list[list[Any]]:
    """The training sessions of a log."""
    data = quietly(log, **options)
    return named(data, data.train)


def leaf_of(data: Dataset, item: object) -> int | str:
    return path_of(data, item)[-1]


def path_of(data: Dataset, item: object) -> list[int | str]:
    indices = data.tree.paths()[data.category[data.item_ids.to_list().index(item)]]
    return [data.tree.ids[level][index] for level, index in enumerate(indices)]


def counted(data: Dataset) -> int:
    """Clicks in the splits and clicks reported as dropped."""
    kept = sum(len(part.items) for part in (data.train, data.validation, data.test))
    dropped: dict[str, int] = data.settings["report"]["clicks_dropped"]
    return kept + sum(dropped.values())


# --- event logs


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.tsv", "log.tsv.gz", "log.parquet", "LOG.CSV"])
def test_events_of_every_kind_of_file(tmp_path: Path, name: str) -> None:
    frame = pl.DataFrame(EVENTS, schema=["session", "item", "time"], orient="row")
    path = tmp_path / name
    if name.endswith("parquet"):
        frame.write_parquet(path)
    else:
        text = frame.write_csv(separator="\t" if "tsv" in name else ",").encode()
        path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    data = quietly(path)
    # in order of the sessions' last clicks: a at 100, c at 130, b at 200
    assert named(data, data.train) == [["hat", "coat", "shoe"], ["coat", "hat"], ["hat", "shoe"]]
    assert data.train.time is not None
    assert data.train.time.tolist() == [START + 100, START + 130, START + 200]
    assert data.item_ids.to_list() == ["coat", "hat", "shoe"]
    assert data.clicks.tolist() == [2, 3, 2]


def test_several_logs_are_one(tmp_path: Path) -> None:
    parts = [
        write_csv(tmp_path / f"day{day}.csv", EVENTS[slice(*cut)], "session,item,time")
        for day, cut in enumerate([(0, 3), (3, None)])
    ]
    data = quietly(parts)
    assert named(data, data.train) == [["hat", "coat", "shoe"], ["coat", "hat"], ["hat", "shoe"]]
    assert [file["name"] for file in data.settings["files"]["logs"]] == ["day0.csv", "day1.csv"]


def test_own_column_names_and_separator(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", EVENTS, "SessionId;ItemId;Time", ";")
    data = quietly(log, separator=";", session_column="SessionId", item_column="ItemId", time_column="Time")
    assert len(data.train) == 3


def test_a_log_without_time_is_in_order_of_its_rows(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", [row[:2] for row in EVENTS], "session,item")
    data = quietly(log, time_column="")
    assert named(data, data.train) == [["shoe", "hat"], ["hat", "shoe", "coat"], ["coat", "hat"]]
    assert data.train.time is None


def test_users_are_cut_at_gaps(tmp_path: Path) -> None:
    rows = [
        ("u", item, START + 60 * minute)
        for item, minute in [(1, 0), (2, 30), (3, 61), (4, 62), (5, 200), (6, 201)]
    ]
    log = write_csv(
        tmp_path / "log.csv", [*rows, ("v", 1, START + 30), ("v", 2, START + 31)], "user,item,time"
    )
    report: list[str] = []
    data = quietly(log, report)
    assert named(data, data.train) == [[1, 2], [1, 2], [3, 4], [5, 6]]  # a gap of 30 minutes is not above 30
    assert any("4 sessions by user at gaps of 30 minutes" in line for line in report)
    assert trained(log, session_gap=31)[1] == [1, 2, 3, 4]


def test_events_to_keep_are_chosen_after_sessions_are_cut(tmp_path: Path) -> None:
    rows = [
        ("u", item, START + at, kind)
        for item, at, kind in [(1, 0, "view"), (1, 1500, "cart"), (2, 3000, "view"), (3, 3001, "buy")]
    ]
    log = write_csv(tmp_path / "log.csv", rows, "user,item,time,kind")
    report: list[str] = []
    data = quietly(log, report, event_column="kind", events=["view"])
    assert named(data, data.train) == [[1, 2]]
    assert any("not of event type view, but cart, buy" in line for line in report)
    assert trained(log, event_column="kind", events=["view", "buy"]) == [[1, 2, 3]]


SECOND = START


@pytest.mark.parametrize(
    "times",
    [
        [SECOND, SECOND + 1],
        [f"{SECOND}.25", f"{SECOND + 1}.75"],
        [SECOND * 1000, SECOND * 1000 + 1000],
        [SECOND * 10**6, SECOND * 10**6 + 10**6],
        [SECOND * 10**9, SECOND * 10**9 + 10**9],
        ["2016-05-09 10:00:00", "2016-05-09 10:00:01"],
        ["2016-05-09T10:00:00.123Z", "2016-05-09T10:00:01.5Z"],
        ["2016-05-09 10:00:00 UTC", "2016-05-09 10:00:01 UTC"],
        ["2016-05-09T12:00:00+02:00", "2016-05-09T05:00:01-0500"],
        [datetime(2016, 5, 9, 10, 0, 0), datetime(2016, 5, 9, 10, 0, 1)],
        [datetime(2016, 5, 9, 10, 0, 0, tzinfo=UTC), datetime(2016, 5, 9, 10, 0, 1, tzinfo=UTC)],
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_times_of_every_form(tmp_path: Path, times: list[Any], suffix: str) -> None:
    frame = pl.DataFrame({"session": ["s", "s"], "item": ["later", "sooner"], "time": times[::-1]})
    path = tmp_path / f"log.{suffix}"
    if suffix == "csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    data = quietly(path)
    assert named(data, data.train) == [["sooner", "later"]]
    assert data.train.time is not None
    assert data.train.time.tolist() == [SECOND + 1]


def test_days_without_a_time_of_day(tmp_path: Path) -> None:
    log = write_csv(
        tmp_path / "log.csv", [("s", 1, "2016-05-10"), ("s", 2, "2016-05-09")], "session,item,time"
    )
    assert trained(log) == [[2, 1]]
    pl.DataFrame(
        {"session": [1, 1], "item": [1, 2], "time": [date(2016, 5, 10), date(2016, 5, 9)]}
    ).write_parquet(tmp_path / "log.parquet")
    assert trained(tmp_path / "log.parquet") == [[2, 1]]


def test_a_unit_of_time_by_option(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", [("u", 1, 0), ("u", 2, 1_000_000)], "user,item,time")
    assert trained(log, time_unit="ms") == [[1, 2]]
    with pytest.raises(EmptyLogError, match="sessions of fewer than 2 clicks"):
        quietly(log, time_unit="s")


def test_rows_without_item_session_or_time_are_counted(tmp_path: Path) -> None:
    rows = [
        ("s", "", START + 1),
        ("", "a", START + 1),
        ("s", "a", ""),
        ("s", "a", "soon"),
        ("s", "a", START + 5),
        ("s", "b", START + 6),
        *(("s", "b", START + 7 + at) for at in range(10)),
        ('""', "b", START + 7),
    ]
    log = write_csv(tmp_path / "log.csv", rows, "session,item,time")
    with log.open("a") as file:
        file.write("\n")  # a blank line at the end is no row
    data = quietly(log)
    assert named(data, data.train) == [["a", *["b"] * 11]]
    assert data.settings["report"]["clicks_dropped"] == {
        "no item id": 1,
        "no session id": 2,
        "no time": 1,
        "unreadable time": 1,
    }
    examples = data.settings["report"]["examples"]
    assert examples["clicks: no item id"] == f"{log}, line 2"
    assert examples["clicks: unreadable time"] == f"'soon', {log}, line 5"
    assert data.settings["report"]["clicks_read"] == counted(data) == 17


# --- session files


def test_session_files(tmp_path: Path) -> None:
    text = "\ufeff# the header\r\n1 2  3\r\n\r\n4\t5 \r\n# in between\r\n3 3\r\n"
    (tmp_path / "log.txt").write_bytes(text.encode())
    (tmp_path / "log.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("log.txt", "log.txt.gz"):
        data = quietly(tmp_path / name, comment="#")
        assert named(data, data.train) == [[1, 2, 3], [4, 5], [3, 3]]
        assert data.item_ids.dtype == pl.Int64
        assert data.train.time is None


def test_session_files_with_a_separator(tmp_path: Path) -> None:
    (tmp_path / "paths.tsv").write_text("New York;;Rome\nRome;New York; Oslo\n")
    data = quietly(tmp_path / "paths.tsv", log_format="sessions", separator=";")
    assert named(data, data.train) == [["New York", "Rome"], ["Rome", "New York", "Oslo"]]
    assert data.settings["report"]["clicks_dropped"] == {"no item id": 1}


# --- ids


def test_ids_are_whole_numbers_only_where_all_tables_agree(tmp_path: Path) -> None:
    log = write_csv(tmp_path / "log.csv", [(1, 12, START), (1, 7, START + 1)], "session,item,time")
    ints = write_csv(tmp_path / "ints.csv", [(7, "x"), (12, "y")], "item,category")
    mixed = write_csv(tmp_path / "mixed.csv", [("7", "x"), ("12", "y"), ("A1", "y")], "item,category")
    assert quietly(log, items=ints, category_columns=["category"]).item_ids.to_list() == [7, 12]
    data = quietly(log, items=mixed, category_columns=["category"])
    assert data.item_ids.to_list() == ["12", "7"]
    assert leaf_of(data, "7") == "x"


@pytest.mark.parametrize("odd", ["007", "+7", "7.50", "-0", "9223372036854775808", "1e3"])
def test_numbers_that_would_not_come_back_stay_text(tmp_path: Path, odd: str) -> None:
    log = write_csv(tmp_path / "log.csv", [(1, 3, START), (1, odd, START + 1)], "session,item,time")
    assert quietly(log).item_ids.to_list() == sorted(["3", odd])


def test_whole_numbers_stored_as_floats(tmp_path: Path) -> None:
    times = [START, START + 1, START + 2]
    frame = pl.DataFrame({"session": [1.0, 1, 1], "item": [5.0, float("nan"), 6], "time": times})
    frame.write_parquet(tmp_path / "log.parquet")
    data = quietly(tmp_path / "log.parquet")
    assert data.item_ids.to_list() == [5, 6]
    assert data.settings["report"]["clicks_dropped"] == {"no item id": 1}


def test_whole_numbers_above_int64_are_strings(tmp_path: Path) -> None:
    items = pl.Series([5, 2**63], dtype=pl.UInt64)
    frame = pl.DataFrame({"session": [1, 1], "item": items, "time": [START, START + 1]})
    frame.write_parquet(tmp_path / "log.parquet")
    assert quietly(tmp_path / "log.parquet").item_ids.to_list() == ["5", str(2**63)]


plain_text = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"), exclude_characters='",\ufeff'),
    min_size=1,
).filter(lambda text: text not in MISSING_TEXTS and text == text.strip())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2) | st.lists(plain_text, min_size=2))
def test_ids_come_back_as_they_were(session: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = write_csv(
            Path(folder) / "log.csv",
            [("s", item, START + at) for at, item in enumerate(session)],
            "session,item,time",
        )
        data = quietly(log, max_session_length=len(session) + 1)
        data.save(Path(folder) / "data")
        again = Dataset.load(Path(folder) / "data")
    integral = all(isinstance(item, int) or item == str(_as_int(item)) for item in session)
    expected = [int(item) for item in session] if integral else session
    assert named(again, again.train) == [expected]
    assert again.item_ids.to_list() == sorted(set(expected))


def _as_int(text: str) -> int | None:
    try:
        number = int(text)
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None


# --- item tables


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "log.csv", EVENTS, "session,item,time")


def test_no_item_table_means_one_unknown_category(log: Path) -> None:
    data = quietly(log)
    assert data.tree.ids == [["unknown"]]
    assert data.settings["levels"] == ["category"]
    assert data.title.null_count() == data.text.null_count() == 3


def test_texts_titles_and_numbers(tmp_path: Path, log: Path) -> None:
    rows = [
        ("hat", "straw", "summer", 5.5, "1e3"),
        ("shoe", None, "black", None, "n/a"),
        ("coat", " ", None, "inf", 2),
    ]
    table = write_csv(tmp_path / "items.tsv", rows, "id\tname\tabout\tprice\tsize", "\t")
    report: list[str] = []
    data = quietly(
        log,
        report,
        items=table,
        item_id_column="id",
        text_columns=["name", "about"],
        title_column="name",
        number_columns=["price", "size"],
    )
    assert data.item_ids.to_list() == ["coat", "hat", "shoe"]
    assert data.text.to_list() == [None, "straw summer", "black"]
    assert data.title.to_list() == [None, "straw", None]
    np.testing.assert_array_equal(data.numbers["price"], [np.nan, 5.5, np.nan])
    np.testing.assert_array_equal(data.numbers["size"], [2.0, 1000.0, np.nan])
    unreadable = [line.split(maxsplit=1)[1] for line in report if line.startswith("unreadable")]
    assert unreadable == ["1 values of price, taken as missing, such as 'inf'"]
    assert any("numbers in size of items.tsv written as n/a" in line for line in report)


def test_url_encoded_titles(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("%C3%85land_Islands Rome\n")
    table = write_csv(tmp_path / "items.csv", [["%C3%85land_Islands"], ["Rome"]], "item")
    data = quietly(
        tmp_path / "log.txt", items=table, title_column="item", text_columns=["item"], url_decode=True
    )
    assert data.title.to_list() == data.text.to_list() == ["Åland Islands", "Rome"]
    assert data.item_ids.to_list() == ["%C3%85land_Islands", "Rome"]


def test_parquet_item_table(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("1 2 3\n")
    frame = pl.DataFrame({"item": [1, 2, 3], "category": [10.0, np.nan, 20.0], "price": [1.5, np.nan, None]})
    frame.write_parquet(tmp_path / "items.parquet")
    data = quietly(
        tmp_path / "log.txt",
        items=tmp_path / "items.parquet",
        category_columns=["category"],
        number_columns=["price"],
    )
    assert data.tree.ids == [[10, 20, -1]]
    assert data.category.tolist() == [0, 2, 1]
    np.testing.assert_array_equal(data.numbers["price"], [1.5, np.nan, np.nan])


def test_of_several_rows_the_first_value_counts(tmp_path: Path, log: Path) -> None:
    rows = [
        ("hat", None, None),
        ("shoe", "red", 1),
        ("hat", "straw", 5),
        ("hat", "felt", 6),
        ("coat", None, None),
    ]
    table = write_csv(tmp_path / "items.csv", rows, "item,name,price")
    data = quietly(log, items=table, text_columns=["name"], title_column="name", number_columns=["price"])
    assert data.title.to_list() == data.text.to_list() == [None, "straw", "red"]
    np.testing.assert_array_equal(data.numbers["price"], [np.nan, 5.0, 1.0])


def test_vectors_stand_in_the_order_of_the_item_table(tmp_path: Path, log: Path) -> None:
    rows = [("hat",), ("shoe",), ("hat",), ("",), ("coat",), ("sock",)]
    table = write_csv(tmp_path / "items.csv", [(*row, 1) for row in rows], "item,price")
    nan = np.nan
    vectors = np.array([[nan, nan], [2, 3], [4, 5], [6, 7], [nan, nan], [8, 9]])
    np.save(tmp_path / "vectors.npy", vectors)
    report: list[str] = []
    data = quietly(log, report, items=table, item_vectors=tmp_path / "vectors.npy")
    assert data.item_ids.to_list() == ["coat", "hat", "shoe"]
    assert data.vectors is not None
    assert data.vectors.dtype == np.float32
    assert data.vectors.tolist() == [[0, 0], [4, 5], [2, 3]]  # zeros: none is known
    assert any(line.endswith("2 items with a vector of 2 numbers") for line in report)
    assert data.settings["files"]["item_vectors"][0]["name"] == "vectors.npy"
    assert quietly(log, items=table).vectors is None


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_every_item_gets_the_vector_of_its_row(draw: st.DataObject) -> None:
    names = draw.draw(st.permutations([f"i{number}" for number in range(8)]))
    dtype = draw.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    vectors = np.random.default_rng(draw.draw(st.integers(0, 9))).standard_normal((8, 3)).astype(dtype)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log.txt").write_text("i0 i1 i2 i3\ni4 i5 i6\n")
        np.save(folder / "v.npy", vectors)
        table = write_csv(folder / "items.csv", [(item,) for item in names], "item")
        data = quietly(folder / "log.txt", items=table, item_vectors=folder / "v.npy", all_items=True)
    assert data.vectors is not None
    wanted = [vectors[names.index(item)] for item in data.item_ids]
    np.testing.assert_array_equal(data.vectors, np.array(wanted, np.float32))


def test_a_headerless_table_below_comments_with_several_categories(tmp_path: Path, log: Path) -> None:
    table = tmp_path / "categories.tsv"
    table.write_text(
        "# item\tpath\n#\n\nhat\tall.wear.head\nhat\tall.summer\n# later\nshoe\tall.wear.feet\nhat\tall.wear.head\n"
        "ghost\tall.none\n"
    )
    report: list[str] = []
    data = quietly(
        log,
        report,
        items=table,
        item_columns=["item", "path"],
        comment="#",
        category_columns=["path"],
        category_path_separator=".",
    )
    assert path_of(data, "hat") == ["all", "wear", "head"]
    assert path_of(data, "shoe") == ["all", "wear", "feet"]
    assert path_of(data, "coat") == ["unknown", "unknown", "unknown"]
    summer = data.tree.ids[-1].index("summer")
    assert data.extra_categories == [[], [summer], []]
    assert data.settings["levels"] == ["level_1", "level_2", "level_3"]
    assert any(
        line.startswith("unknown") and line.endswith("1 items that categories.tsv lacks, such as 'coat'")
        for line in report
    )


def test_category_levels(tmp_path: Path, log: Path) -> None:
    rows = [("hat", 1, 10), ("shoe", 2, 20), ("coat", 2, None)]
    table = write_csv(tmp_path / "items.csv", rows, "item,department,category")
    data = quietly(log, items=table, category_columns=["department", "category"])
    assert data.tree.ids == [[1, 2], [10, 2, 20]]
    assert path_of(data, "coat") == [2, 2]
    assert data.settings["levels"] == ["department", "category"]


def test_a_category_tree(tmp_path: Path, log: Path) -> None:
    table = write_csv(tmp_path / "items.csv", [("hat", 11), ("shoe", 2), ("coat", 99)], "item,category")
    tree = write_csv(tmp_path / "tree.csv", [(11, 1), (2, None), (12, 2), (1, None)], "categoryid,parentid")
    report: list[str] = []
    data = quietly(log, report, items=table, category_columns=["category"], category_tree=tree)
    assert path_of(data, "hat") == [1, 11]
    assert path_of(data, "shoe") == [2, 2]
    assert path_of(data, "coat") == [-1, -1]
    assert any("items whose category tree.csv lacks" in line for line in report)

    swapped = write_csv(tmp_path / "swapped.csv", [(1, 11), ("", 2), ("", 1)], "up,down")
    again = quietly(
        log,
        items=table,
        category_columns=["category"],
        category_tree=swapped,
        tree_child_column="down",
        tree_parent_column="up",
    )
    assert again.tree.ids == data.tree.ids


def test_a_category_that_is_called_unknown_is_the_unknown_one(tmp_path: Path, log: Path) -> None:
    table = write_csv(tmp_path / "items.csv", [("hat", "unknown"), ("shoe", "feet")], "item,category")
    data = quietly(log, items=table, category_columns=["category"])
    assert data.tree.ids == [["feet", "unknown"]]
    assert leaf_of(data, "hat") == leaf_of(data, "coat") == "unknown"
    rows = [("hat", "unknown"), ("hat", "head"), ("shoe", "feet"), ("coat", "feet")]
    table = write_csv(tmp_path / "more.csv", rows, "item,category")
    data = quietly(log, items=table, category_columns=["category"])
    assert leaf_of(data, "hat") == "head"
    assert data.extra_categories == [[], [], []]


def test_the_category_of_a_log_is_the_last_one(tmp_path: Path) -> None:
    rows = [
        ("s", "hat", START, "old"),
        ("s", "shoe", START + 1, "feet"),
        ("t", "hat", START + 2, "new"),
        ("t", "coat", START + 3, None),
    ]
    log = write_csv(tmp_path / "log.csv", rows, "session,item,time,cat")
    data = quietly(log, category_columns=["cat"])
    assert [leaf_of(data, item) for item in ("hat", "shoe", "coat")] == ["new", "feet", "unknown"]
    assert data.tree.ids == [["feet", "new", "unknown"]]
    assert data.settings["levels"] == ["cat"]


def test_all_items_keeps_what_nobody_clicked(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("a b\nb a\n")
    (tmp_path / "later.txt").write_text("a new b\nnew other\na gone\n")
    table = write_csv(tmp_path / "items.csv", [("new",), ("a",), ("b",), ("other",)], "item")
    data = quietly(tmp_path / "log.txt", items=table, test_log=tmp_path / "later.txt", all_items=True)
    assert data.item_ids.to_list() == ["a", "b", "new", "other"]
    assert data.clicks.tolist() == [2, 2, 0, 0]
    assert named(data, data.test) == [["a", "new", "b"], ["new", "other"]]

    usual = quietly(tmp_path / "log.txt", items=table, test_log=tmp_path / "later.txt")
    assert usual.item_ids.to_list() == ["a", "b"]
    assert named(usual, usual.test) == [["a", "b"]]
    assert usual.settings["report"]["clicks_dropped"] == {
        "on items that the training split lacks, test split": 4,
        "in sessions of fewer than 2 clicks, test split": 1,
    }


# --- filters and split


def test_support_and_length_hold_together(tmp_path: Path) -> None:
    # without the rare item r the session "a r" is too short, and then b is too rare
    (tmp_path / "log.txt").write_text("x y\nx y\nb r\nx b y\nx y x\n")
    data = quietly(tmp_path / "log.txt", min_item_support=2)
    assert data.item_ids.to_list() == ["x", "y"]
    assert named(data, data.train) == [["x", "y"], ["x", "y"], ["x", "y"], ["x", "y", "x"]]
    assert trained(tmp_path / "log.txt", min_session_length=3) == [["x", "b", "y"], ["x", "y", "x"]]


def test_support_counts_the_training_part_only(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("a b\na b\nc a\nb c a\n")
    data = quietly(tmp_path / "log.txt", min_item_support=2, test_fraction=0.25)
    assert data.item_ids.to_list() == ["a", "b"]  # c has two clicks, one of them in the test split


def test_the_last_days_are_the_test_part(tmp_path: Path) -> None:
    day = 86_400
    times = {
        "a": (0, 5),
        "at the boundary": (5, 2 * day),
        "b": (2 * day - 5, 2 * day + 5),
        "c": (3 * day, 3 * day),
    }
    rows = [(session, item, START + at) for session, both in times.items() for item, at in enumerate(both)]
    log = write_csv(tmp_path / "log.csv", rows, "session,item,time")
    data = quietly(log, test_days=1)
    assert data.train.time is not None
    assert data.test.time is not None
    assert data.train.time.tolist() == [START + 5, START + 2 * day]
    assert data.test.time.tolist() == [
        START + 2 * day + 5,
        START + 3 * day,
    ]  # a session goes by its last click
    shorter = quietly(log, test_days=0.5).test.time
    assert shorter is not None
    assert shorter.tolist() == [START + 3 * day]


def test_shuffled_split_of_sessions_without_order(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("".join(f"{i} {i + 1}\n" for i in range(0, 200, 2)) + "0 " * 200 + "\n")
    parts = []
    for seed in (None, 0, 0, 1):
        data = quietly(tmp_path / "log.txt", shuffle_seed=seed, validation_fraction=0.5)
        parts.append(named(data, data.validation))
    assert parts[1] == parts[2]
    assert parts[0] != parts[1] != parts[3]
    assert all(b == a + 1 or a == 0 for a, b, *_ in parts[1])  # clicks keep their order


short_sessions = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=4), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(
    sessions=short_sessions,
    support=st.integers(1, 4),
    shortest=st.integers(2, 3),
    test_fraction=st.sampled_from([None, 0.2, 0.5]),
    validation_fraction=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_parts_hold_what_a_plain_reading_gives(
    sessions: list[list[int]],
    support: int,
    shortest: int,
    test_fraction: float | None,
    validation_fraction: float,
) -> None:
    long = [session for session in sessions if len(session) >= shortest]
    cut = len(long) - round(test_fraction * len(long)) if test_fraction else len(long)
    training, test = long[:cut], long[cut:]
    while True:
        clicks = Counter(item for session in training for item in session)
        kept = [[item for item in session if clicks[item] >= support] for session in training]
        kept = [session for session in kept if len(session) >= shortest]
        if kept == training:
            break
        training = kept
    test = [[item for item in session if item in clicks] for session in test]
    test = [session for session in test if len(session) >= shortest]
    validation_from = len(training) - round(validation_fraction * len(training))

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        log.write_text("".join(" ".join(map(str, session)) + "\n" for session in sessions))
        options: dict[str, Any] = {
            "min_item_support": support,
            "min_session_length": shortest,
            "test_fraction": test_fraction,
            "validation_fraction": validation_fraction,
        }
        if not training or not validation_from or (test_fraction and not test):
            with pytest.raises(EmptyLogError):
                quietly(log, **options)
            return
        data = quietly(log, **options)
    assert named(data, data.train) == training[:validation_from]
    assert named(data, data.validation) == training[validation_from:]
    assert named(data, data.test) == test
    assert data.item_ids.to_list() == sorted(clicks)
    assert data.clicks.tolist() == [clicks[item] for item in sorted(clicks)]
    assert counted(data) == data.settings["report"]["clicks_read"] == sum(map(len, sessions))


def test_the_report_says_what_was_kept(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("a b c\na\nb c\na b\nc a b\n")
    report: list[str] = []
    data = quietly(tmp_path / "log.txt", report, validation_fraction=0.34, test_fraction=0.25)
    assert data.counts == {
        "items": 3,
        "categories": [1],
        "train_sessions": 2,
        "validation_sessions": 1,
        "test_sessions": 1,
        "train_examples": 3,
        "validation_examples": 1,
        "test_examples": 2,
    }
    assert [" ".join(line.split()) for line in report] == [
        "read 11 clicks of log.txt",
        "formed 5 sessions of log.txt, the median of 2 clicks, the longest of 3",
        "dropped 1 clicks: in sessions of fewer than 2 clicks, all splits",
        "unknown 3 items, all in the category 'unknown': no --category-column was given",
        "items 3 in the catalog",
        "categories 1 in category",
        "training 4 training examples of 3 sessions, of them",
        "1 validation examples of the last 1 sessions",
        "test 2 test examples of 1 sessions",
    ]


def test_settings_name_files_but_not_folders(tmp_path: Path, log: Path) -> None:
    table = write_csv(tmp_path / "items.csv", [("hat",), ("shoe",)], "item")
    quietly(log, items=table).save(tmp_path / "data")
    text = (tmp_path / "data" / "dataset.json").read_text()
    assert str(tmp_path) not in text
    about = Dataset.load(tmp_path / "data").settings
    assert about["options"]["items"] == "items.csv"
    assert about["options"]["session_gap"] == 30.0
    assert len(about["files"]["items"][0]["sha256"]) == 64


# --- real logs


def test_diginetica_has_the_counts_of_the_literature(shared_data: Path) -> None:
    folder = shared_data / "diginetica"
    report: list[str] = []
    options = PrepareOptions(
        logs=[folder / "train_sessions.txt"],
        test_log=folder / "test_sessions.txt",
        items=folder / "items.csv",
        item_id_column="item",
        category_columns=["category"],
        text_columns=["name_tokens"],
    )
    data = prepare(options, report.append)
    assert data.items == 43_097
    assert data.train.example_count + data.validation.example_count == 719_470
    assert data.test.example_count == 60_858
    assert data.tree.sizes == [995]
    printed = "\n".join(report)
    assert "43,097" in printed
    assert "719,470 training examples" in printed
    assert "60,858 test examples" in printed


def test_retailrocket_is_cut_like_its_publishers_cut_it(shared_data: Path) -> None:
    folder = shared_data / "retailrocket"
    events = folder / "events_2015-09-10_to_18.csv.gz"
    usual: dict[str, Any] = {
        "item_column": "ItemId",
        "time_column": "Time",
        "event_column": "Type",
        "events": ["view"],
        "category_columns": ["CatId"],
        "category_tree": folder / "category_tree.csv",
    }
    by_gap = quietly(events, **usual, user_column="UserId")
    by_id = quietly(events, **usual, session_column="SessionId")
    assert len(by_gap.train) == 13_887
    assert sorted(map(tuple, named(by_gap, by_gap.train))) == sorted(map(tuple, named(by_id, by_id.train)))
    assert by_gap.tree.depth == 6
    assert by_gap.tree.sizes[0] == 21


def test_wikispeedia_paths_and_categories(shared_data: Path) -> None:
    folder = shared_data / "wikispeedia"
    data = quietly(
        folder / "paths_finished.tsv",
        log_format="sessions",
        separator=";",
        items=folder / "categories.tsv",
        item_columns=["article", "path"],
        comment="#",
        item_id_column="article",
        category_columns=["path"],
        category_path_separator=".",
        title_column="article",
        url_decode=True,
        shuffle_seed=0,
        test_fraction=0.1,
    )
    assert (
        len(data.train)
        + len(data.test)
        + data.settings["report"]["clicks_dropped"]["in sessions of fewer than 2 clicks, all splits"]
        == 51_312
    )
    assert [root for root in data.tree.ids[0] if root != "unknown"] == ["subject"]
    assert len([topic for topic in data.tree.ids[1] if topic != "unknown"]) == 15
    assert sum(map(bool, data.extra_categories)) > 100
    assert data.title[0] == "€2 commemorative coins"
