"""Ordinary logs that are easily misread: read right, or refused with the option that decides."""

from __future__ import annotations

import gzip
import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk.cli.main import main
from hiersrec_sdk.errors import DataError, EmptyLogError, InvalidOptionError, LeakError
from hiersrec_training.data import tables as tables_module
from hiersrec_training.data import text as text_module
from hiersrec_training.data.dataset import Dataset
from tests.training.data.log_files import START, LogFiles

Clicks = list[tuple[Any, Any, int]]  # session, item, second after START


class Log(LogFiles):
    """Log files, with what these tests ask of them."""

    def clicks(self, name: str, clicks: Clicks, header: str = "session,item,time") -> Path:
        """A csv of clicks, by seconds after START."""
        return self.csv(name, [(session, item, START + at) for session, item, at in clicks], header)

    def said(self, *parts: str) -> bool:
        """Whether a line of the report has all of these."""
        return any(all(part in line for part in parts) for line in self.report)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


# --- events or sessions


def test_event_options_do_not_go_with_session_files(log: Log) -> None:
    table = log.write("log.txt", f"visit\tsku\twhen\ns\ta\t{START}\ns\tb\t{START + 1}\n")
    columns: dict[str, Any] = {"session_column": "visit", "item_column": "sku", "time_column": "when"}
    names = "--session-column, --item-column, --time-column"
    message = rf"log\.txt is read as one session a line, .*{names}: .* --format events and --separator"
    with pytest.raises(InvalidOptionError, match=message):
        log.prepare(table, **columns)
    assert log.sessions(table, **columns, log_format="events", separator=r"\t") == [["a", "b"]]
    sessions = log.write("s.csv", "a b\nb a\n")
    with pytest.raises(InvalidOptionError, match="has no --line-id"):
        log.prepare(sessions, line_id=True)


@pytest.mark.parametrize(
    "option", ["user_column", "time_format", "since", "event_column", "log_columns", "session_gap"]
)
def test_any_event_option_is_refused_for_session_files(log: Log, option: str) -> None:
    value: Any = {
        "log_columns": ["a", "b"],
        "session_gap": 5.0,
        "since": "2024-01-01",
        "time_format": "%Y%m%d",
    }.get(option, "a")
    with pytest.raises(InvalidOptionError, match=f"--{option.replace('_', '-')}"):
        log.prepare(log.write("log.txt", "a b\nb a\n"), **{option: value})


@pytest.mark.parametrize("time", [str(START), str(START * 1000), "2024-01-31"])
def test_a_table_that_is_called_txt(log: Log, time: str) -> None:
    table = log.write("log.txt", f"session item time\n1 7 {time}\n1 8 {time}\n2 7 {time}\n")
    with pytest.raises(
        DataError,
        match=r"log\.txt is read as one session a line, .* looks like a table: .* 3 fields, one of them a time",
    ):
        log.prepare(table)
    assert len(log.sessions(table, log_format="sessions")) == 4


def test_sessions_whose_items_no_blank_separates(log: Log) -> None:
    file = log.write("log.txt", "1,2,3\n4,5\n1,5\n")
    with pytest.raises(
        DataError, match=r"log\.txt, line 1: most lines are one item, such as '1,2,3'; give --separator ','"
    ):
        log.prepare(file)
    assert log.sessions(file, separator=",") == [[1, 2, 3], [4, 5], [1, 5]]
    assert log.sessions(log.write("t.txt", "a\tb c\nb c\ta\n"), separator=r"\t") == [
        ["a", "b c"],
        ["b c", "a"],
    ]


def test_a_number_sign_is_data_unless_it_is_a_comment(log: Log) -> None:
    file = log.write("log.txt", "#1 #2\n#2 #1\n1 #1\n")
    assert log.sessions(file) == [["#1", "#2"], ["#2", "#1"], ["1", "#1"]]
    assert log.sessions(log.write("c.txt", "# hello\n1 2\n"), comment="#") == [[1, 2]]
    assert log.said("skipped", "1 comment lines of c.txt")
    items = log.write("items.csv", "item,category\n#1,#x\n#2,y\n1,y\n")
    tree = log.write("tree.csv", "category,parent\n#x,#top\ny,#top\n#top,\n")
    data = log.prepare(file, items=items, category_columns=["category"], category_tree=tree)
    assert "#x" in data.tree.ids[-1]


def test_an_id_in_front_of_each_line(log: Log) -> None:
    file = log.write("log.txt", "".join(f"{user} a{user % 3} b c\n" for user in range(1, 9)))
    assert log.sessions(file)[0] == ["1", "a1", "b", "c"]
    assert log.said("warning", "the first field looks like the id", "--line-id")
    assert log.sessions(file, line_id=True)[0] == ["a1", "b", "c"]
    assert not log.said("warning")
    names = random.Random(0).sample(range(1000), 30)
    file = log.write("names.txt", "".join(f"u{name},b,c\n" for name in names))
    log.sessions(file, separator=",")
    assert log.said("warning", "--line-id")
    log.sessions(
        log.write(
            "plain.txt",
            "".join(f"{random.Random(line).randrange(9)} 3{' 4' * (line % 3)}\n" for line in range(30)),
        )
    )
    assert not log.said("warning")


# --- times


@pytest.mark.parametrize(
    ("times", "form"),
    [
        (["20240101", "20240214", "20240505"], "%Y%m%d"),
        (["20240101123000", "20240101123100", "20240505000000"], "%Y%m%d%H%M%S"),
        (["0101", "0214", "0505"], "%m%d"),
        (["45292", "45335.5", "45417"], "excel"),
        (["638396640000000000", "638434656000000000", "638504640000000000"], "ticks"),
        (["01/02/2024", "14/02/2024", "05/05/2024"], "%d/%m/%Y"),
    ],
)
def test_dates_in_other_forms(log: Log, times: list[str], form: str) -> None:
    rows = "".join(f"u,{item},{time}\n" for item, time in enumerate(times))
    file = log.write("log.csv", f"user,item,time\n{rows}u,9,{times[-1]}\n")
    with pytest.raises(DataError, match=r"log\.csv, line 2.*--time-format"):
        log.prepare(file)
    if form == "%Y%m%d%H%M%S":  # two clicks a minute apart, and two months later
        assert log.sessions(file, time_format=form) == [[0, 1], [2, 9]]
    else:
        assert log.sessions(file, time_format=form) == [[2, 9]]


def test_the_unit_is_found_file_by_file(log: Log) -> None:
    seconds = log.clicks("seconds.csv", [("a", 1, 0), ("a", 2, 10), ("b", 3, 100), ("b", 1, 5000)])
    rows = "".join(
        f"{session},{item},{(START + at) * 1000}\n" for session, item, at in [("c", 1, 50), ("c", 2, 60)]
    )
    milliseconds = log.write("milliseconds.csv", f"session,item,time\n{rows}")
    assert log.sessions(seconds, milliseconds) == [[1, 2], [1, 2], [3, 1]]
    assert log.said("Unix seconds")
    assert log.said("Unix milliseconds")
    mixed = log.write("mixed.csv", f"session,item,time\na,1,{START}\na,2,{START + 1}\n{rows}")
    message = (
        r"mixed\.csv, line 4: time 1706702450000 looks like Unix milliseconds, but 1706702400 in .*line 2"
    )
    with pytest.raises(DataError, match=message):
        log.prepare(mixed)


def test_clicks_of_the_future(log: Log) -> None:
    clicks: Clicks = [(f"s{day}", item, day * 86_400) for day in range(20) for item in (1, 2)]
    file = log.clicks("log.csv", [*clicks, ("x", 1, 2_300_000_000), ("x", 2, 2_300_000_001)])
    with pytest.raises(
        DataError, match=r"2 of 42 clicks are in the future, the last at 2096-.*log\.csv, line 43, .* --until"
    ):
        log.prepare(file, test_days=7)
    data = log.prepare(file, test_days=7, until="2024-02-19T12:00")
    assert (len(data.train), len(data.test)) == (12, 7)
    assert log.said("dropped", "4", "not before --until 2024-02-19T12:00", "log.csv, line")
    log.prepare(file, test_days=7, until="2200-01-01")
    assert log.said("warning", "1 sessions end 26,6", "days after all others, such as at 2096-")
    assert log.sessions(file, since="2024-02-18", until="2024-02-19T12:00") == [[1, 2]]


@pytest.mark.parametrize("order", ["newest first", "by session", "oldest first"])
def test_equal_times_in_any_order_of_the_rows(log: Log, order: str) -> None:
    clicks: Clicks = [
        (session, item, 1000 * session + item // 3) for session in range(5) for item in range(8)
    ]
    if order == "newest first":
        clicks = clicks[::-1]
    elif order == "by session":
        clicks = [
            click for session in (3, 1, 4, 0, 2) for click in clicks[session * 8 : session * 8 + 8][::-1]
        ]
    assert log.sessions(log.clicks("log.csv", clicks)) == [list(range(8))] * 5
    assert log.said("reversed", "newest to the oldest") == (order != "oldest first")


def test_equal_times_in_no_order(log: Log) -> None:
    clicks: Clicks = [("a", 1, 5), ("a", 2, 9), ("a", 3, 5), ("a", 4, 9), ("a", 5, 1), ("a", 6, 7)]
    assert log.sessions(log.clicks("log.csv", clicks)) == [[5, 1, 3, 6, 2, 4]]
    assert log.said("warning", "2 clicks of log.csv have the time of the click before", "in no order of time")


def test_date_and_time_of_day_in_two_columns(log: Log) -> None:
    file = log.write("log.csv", "session,item,day,clock\ns,2,2024-01-31,13:00\ns,1,2024-01-31,12:30\n")
    assert log.sessions(file, time_column=["day", "clock"]) == [[1, 2]]
    frame = pl.DataFrame(
        {"session": [1, 1], "item": [2, 1], "when": [datetime(2024, 1, 31, 13), datetime(2024, 1, 31, 12)]}
    )
    frame = frame.select("session", "item", day=pl.col("when").dt.date(), clock=pl.col("when").dt.time())
    assert log.sessions(frame, time_column=["day", "clock"]) == [[1, 2]]
    german = log.write("de.csv", "session;item;day;clock\ns;2;31.01.2024;13.00\ns;1;31.01.2024;12.30\n")
    options: dict[str, Any] = {"separator": ";", "time_column": ["day", "clock"]}
    assert log.sessions(german, **options, time_format="%d.%m.%Y %H.%M") == [[1, 2]]


def test_two_logs_with_and_without_a_zone(log: Log) -> None:
    naive = pl.DataFrame({"session": [1, 1], "item": [1, 2], "time": [datetime(2024, 1, 31, 12)] * 2})
    zoned = pl.DataFrame(
        {"session": [2, 2], "item": [1, 2], "time": [datetime(2024, 1, 31, 12, tzinfo=UTC)] * 2}
    )
    assert len(log.sessions(naive, zoned)) == 2
    assert log.said("warning", "times of log 1 have no zone", "--time-zone")
    log.sessions(naive, zoned, time_zone="Asia/Tokyo")
    assert not log.said("warning")


# --- ids


@pytest.mark.parametrize("text", ["nan", "None", "NULL", r"\N", "NaN", ""])
def test_missing_values_are_missing_in_every_role(log: Log, text: str) -> None:
    file = log.write(
        "log.csv",
        f"session,item,time\ns,a,{START}\ns,{text},{START + 1}\ns,b,{START + 2}\n{text},a,{START + 3}\ns,a,{text}\n"
        + "".join(f"t,b,{START + at}\n" for at in range(5, 15)),
    )
    items = log.write("items.csv", f"item,category,title\na,{text},{text}\n{text},x,y\nb,x,B\n")
    data = log.prepare(
        file, items=items, category_columns=["category"], title_column="title", text_columns=["title"]
    )
    assert data.item_ids.to_list() == ["a", "b"]
    assert data.settings["report"]["clicks_dropped"] == {"no item id": 1, "no session id": 1, "no time": 1}
    assert data.tree.ids == [["x", "unknown"]]
    assert data.title.to_list() == data.text.to_list() == [None, "B"]
    assert log.said("dropped", "1 rows of items.csv: no item id", "items.csv, line 3")
    if text:
        assert log.said("missing", f"1 item ids of log.csv written as {text} (--no-default-missing keeps it)")
    kept = log.prepare(file, default_missing=False)
    assert kept.item_ids.to_list() == ["a", "b"] if not text else sorted(["a", "b", text])


def test_blanks_around_values_are_stripped(log: Log) -> None:
    file = log.write("log.csv", f"session, item ,time\ns ,A, {START}\ns,A ,{START + 1} \n s, B,{START + 2}\n")
    items = log.write("items.csv", "item,category\nA ,x\n B,x \n")
    data = log.prepare(file, items=items, category_columns=["category"])
    assert data.item_ids.to_list() == ["A", "B"]
    assert data.train.items.tolist() == [0, 0, 1]
    assert data.tree.ids == [["x"]]
    assert log.said("stripped", "2 item ids of log.csv of blanks around them, such as 'A '")


def test_ids_that_begin_anew_in_each_log(log: Log) -> None:
    days = []
    for day in (1, 2):
        starts = [(session, day * 86_400 + 600 * session) for session in range(4)]
        clicks = [(session, 10 * day + at, start + at) for session, start in starts for at in (1, 2)]
        days.append(log.clicks(f"day{day}.csv", clicks))
    with pytest.raises(
        DataError,
        match=r"4 session ids are in several logs, an hour or more apart, such as .: give --session-per-file",
    ):
        log.prepare(*days)
    assert sorted(log.sessions(*days, session_per_file=True)) == [[11, 12]] * 4 + [[21, 22]] * 4
    assert log.sessions(*days, session_per_file=False) == [[11, 12, 21, 22]] * 4
    without_times = {"time_column": ""}
    with pytest.raises(DataError, match=r"4 session ids are in several logs, which have no times"):
        log.prepare(*days, **without_times)
    # a session over midnight is one
    first = log.clicks("a.csv", [("x", 1, 0), ("y", 1, 5), ("y", 2, 6)])
    second = log.clicks("b.csv", [("x", 2, 60), ("z", 1, 70), ("z", 2, 80)])
    assert [1, 2] in log.sessions(first, second)
    assert len(log.sessions(first, second)) == 3


def test_the_test_log_has_ids_of_its_own(log: Log) -> None:
    first = log.clicks("a.csv", [(1, 1, 0), (1, 2, 5), (2, 1, 7), (2, 2, 8)])
    second = log.clicks("b.csv", [(1, 1, 10), (1, 2, 11), (3, 2, 12), (3, 1, 13)])
    with pytest.raises(LeakError, match=r"1 sessions are in both .* --session-per-file"):
        log.prepare(first, test_log=second)
    assert len(log.prepare(first, test_log=second, session_per_file=True).test) == 2


# --- repeats, bots, funnels


def test_repeats_are_counted(log: Log) -> None:
    clicks: Clicks = [
        ("a", 1, 0),
        ("a", 2, 1),
        ("a", 1, 1),
        ("a", 2, 1),
        ("a", 1, 2),
        ("b", 1, 0),
        ("b", 1, 1),
    ]
    file = log.clicks("log.csv", clicks)
    assert log.sessions(file) == [[1, 1], [1, 2, 1, 2, 1]]
    assert log.said("repeated", "1 clicks that repeat another", "log.csv, line 5")
    assert log.said("warning", "of the clicks repeat another")
    assert log.sessions(file, drop_repeats=True) == [[1, 1], [1, 2, 1, 1]]
    assert log.said("dropped", "1 clicks: that repeat another")
    events = log.write(
        "e.csv", f"session,item,time,kind\ns,1,{START},view\ns,1,{START},buy\ns,1,{START},buy\n"
    )
    assert log.sessions(events, event_column="kind", drop_repeats=True) == [[1, 1]]


def test_one_file_in_two_packings(log: Log) -> None:
    content = f"session,item,time\na,1,{START}\na,2,{START + 1}\n"
    plain, packed = log.write("base.csv", content), log.write("base.csv.gz", gzip.compress(content.encode()))
    with pytest.raises(DataError, match=f"one log was given twice: {plain}, {packed} have the same content"):
        log.prepare(plain, packed)
    copy = log.write("copy.csv", content.replace("session", "session").replace("\na", "\n a"))
    assert log.sessions(plain, copy, drop_repeats=True) == [[1, 2]]
    log.sessions(plain, copy)
    assert log.said("repeated", "2 clicks")


def test_a_bot(log: Log) -> None:
    clicks: Clicks = [("bot", at % 1000, at) for at in range(20_000)]
    clicks += [(f"s{session}", item, session * 100 + item) for session in range(50) for item in range(4)]
    file = log.clicks("log.csv", clicks)
    sessions = log.sessions(file)
    assert max(map(len, sessions)) == 200
    assert [session for session in sessions if len(session) == 200] == [
        [at % 1000 for at in range(19_800, 20_000)]
    ]
    assert log.said(
        "dropped",
        "19,800 clicks: the oldest of 1 sessions longer than --max-session-length 200, the longest of 20,000",
    )
    assert max(map(len, log.sessions(file, max_session_length=30_000))) == 20_000


def test_a_funnel_of_few_pages(log: Log) -> None:
    file = log.write("log.txt", "1 2 3 4 5\n" * 20 + "5 4 3 2 1\n")
    with pytest.raises(LeakError, match="click by click; give --allow-copies"):
        log.prepare(file, test_fraction=0.3)
    assert len(log.prepare(file, test_fraction=0.3, allow_copies=True).test) == 6


# --- logs of other shapes


def test_sessions_in_list_columns(log: Log) -> None:
    frame = pl.DataFrame({"session": ["a", "b"], "item": [[1, 2], [2, 3, 1]], "time": [START, START + 9]})
    assert log.sessions(frame) == [[1, 2], [2, 3, 1]]
    frame.write_parquet(log.folder / "log.parquet")
    assert log.sessions(log.folder / "log.parquet") == [[1, 2], [2, 3, 1]]
    no_ids = frame.drop("session").with_columns(
        time=pl.Series([[START + 5, START], [START, START + 2, START + 1]])
    )
    assert log.sessions(no_ids) == [[2, 1, 3], [2, 1]]
    with pytest.raises(DataError, match="log 1, row 1: 2 values in 'item', but 3 in 'time'"):
        log.prepare(no_ids.with_columns(time=pl.Series([[START] * 3, [START] * 3])))
    assert log.sessions(frame.select("item"), time_column="") == [[1, 2], [2, 3, 1]]


def test_json_lines(log: Log) -> None:
    events = [
        {"session": s, "item": i, "time": START + t}
        for s, i, t in [("a", 1, 0), ("b", 1, 1), ("a", 2, 2), ("b", 3, 3)]
    ]
    file = log.write("log.jsonl", "\n".join(map(json.dumps, events)))
    assert log.sessions(file) == [[1, 2], [1, 3]]
    nested = [{"id": 7, "events": [{"aid": 1, "ts": START * 1000}, {"aid": 2, "ts": START * 1000 + 5}]}]
    file = log.write("otto.jsonl", "\n".join(map(json.dumps, nested)))
    assert log.sessions(file, session_column="id", item_column="events.aid", time_column="events.ts") == [
        [1, 2]
    ]
    with pytest.raises(DataError, match=r"bad\.jsonl, line 1: .* is not JSON"):
        log.prepare(log.write("bad.jsonl", '{"session": 1\nnope\n'))
    with pytest.raises(EmptyLogError, match=r"empty\.jsonl is empty"):
        log.prepare(log.write("empty.jsonl", ""))


def test_sessions_in_a_cell(log: Log) -> None:
    file = log.write("log.csv", 'items,locale\n"[1, 2, 3]",DE\n"[2, 1]",UK\n')
    assert log.sessions(file, item_column="items", list_separator=",", time_column="") == [[1, 2, 3], [2, 1]]
    file = log.write("m2.csv", "prev_items,locale\n'B09' 'B10',DE\n")
    assert log.sessions(file, item_column="prev_items", list_separator=" ", time_column="") == [
        ["B09", "B10"]
    ]


def test_a_log_without_header(log: Log) -> None:
    file = log.write("log.csv", f"s,{START},1\ns,{START + 1},2\n")
    with pytest.raises(
        DataError, match=r"has no column 'session' or 'user'; its columns are s, .*--log-columns"
    ):
        log.prepare(file)
    assert log.sessions(file, log_columns=["session", "time", "item"]) == [[1, 2]]


def test_items_described_by_the_log(log: Log) -> None:
    file = log.write(
        "log.csv",
        "session,item,time,cat,brand,price,name\n"
        f"s,1,{START},a.b,acme,5,One\ns,2,{START + 1},a.c,,7,Two\n"
        f"t,1,{START + 9},,acme,6,NULL\nt,3,{START + 8},,zig,x,\n",
    )
    data = log.prepare(
        file,
        category_columns=["cat"],
        category_path_separator=".",
        text_columns=["brand", "name"],
        title_column="name",
        number_columns=["price"],
    )
    assert data.text.to_list() == ["acme One", "Two", "zig"]
    assert data.title.to_list() == ["One", "Two", None]
    assert data.numbers["price"][:2].tolist() == [6.0, 7.0]
    assert data.category.tolist() == [0, 1, 2]
    assert log.said("unreadable", "1 values of price, taken as missing, such as 'x'")


def test_several_categories_in_a_cell_and_a_fallback(log: Log) -> None:
    file = log.write("log.txt", "1 2 3 4\n4 3 2 1\n")
    items = log.write(
        "items.csv", "item,genres,kind\n1,Action|Comedy,film\n2,Comedy,film\n3,,book\n4,NULL,\n"
    )
    options: dict[str, Any] = {"items": items, "category_columns": ["genres"], "category_separator": "|"}
    data = log.prepare(file, **options, fallback_category_column="kind")
    assert data.tree.ids == [["Action", "Comedy", "book", "unknown"]]
    assert data.category.tolist() == [0, 1, 2, 3]
    assert data.extra_categories == [[1], [], [], []]
    lists = pl.DataFrame({"item": [1, 2, 3, 4], "genres": [["Action", "Comedy"], ["Comedy"], [], None]})
    again = log.prepare(file, items=lists, category_columns=["genres"])
    assert again.tree.ids == [["Action", "Comedy", "unknown"]]
    assert again.extra_categories == [[1], [], [], []]


def test_patterns_only_on_request(log: Log) -> None:
    for day in (1, 2):
        log.clicks(f"day{day}.csv", [(day, 1, day), (day, 2, day + 1)])
    literal = log.clicks("day[1].csv", [("x", 3, 0), ("x", 4, 1)])
    assert log.sessions(literal) == [[3, 4]]
    pattern = log.folder / "day?.csv"
    with pytest.raises(DataError, match="there is no file"):
        log.prepare(pattern)
    assert log.sessions(pattern, glob=True) == [[1, 2], [1, 2]]
    with pytest.raises(DataError, match="no file matches"):
        log.prepare(log.folder / "night*.csv", glob=True)


def test_folders_with_brackets(log: Log) -> None:
    file = log.write("log.txt", "1 2 3\n")
    log.prepare(file).save(log.folder / "data1")
    log.prepare(log.write("other.txt", "7 8\n")).save(log.folder / "data[1]")
    assert Dataset.load(log.folder / "data[1]").item_ids.to_list() == [7, 8]


# --- the report


def test_the_report_of_a_file(log: Log) -> None:
    file = log.clicks(
        "log.csv", [("a", 1, 0), ("a", 2, 30), ("a", 3, 60), ("b", 1, 10), ("b", "", 11), ("c", 2, 90)]
    )
    data = log.prepare(file)
    assert data.settings["report"]["files"] == [
        {
            "name": "log.csv",
            "rows": 6,
            "first": "2024-01-31 12:00:00",
            "last": "2024-01-31 12:01:30",
            "times": "Unix seconds",
            "order": "oldest first",
            "sessions": 3,
            "median_length": 1.0,
            "longest": 3,
            "repeats": 0,
            "tied": 0,
        }
    ]
    assert log.said("from 2024-01-31 12:00:00 to 2024-01-31 12:01:30 UTC, Unix seconds")
    assert log.said("formed", "3 sessions of log.csv, the median of 1 clicks, the longest of 3")
    assert data.settings["report"]["examples"] == {"clicks: no item id": f"{file}, line 6"}


def test_logs_of_very_different_rates(log: Log) -> None:
    slow = log.clicks("slow.csv", [(at, at % 7, at * 1000) for at in range(1000) for _ in (0, 1)])
    fast = log.clicks("fast.csv", [(5000 + at, at % 7, 2_000_000 + at) for at in range(1000) for _ in (0, 1)])
    log.prepare(slow, fast)
    assert log.said("warning", "fast.csv has 1,000 times as many clicks an hour as slow.csv")


def test_more_days_of_test_than_the_log_has(log: Log) -> None:
    file = log.clicks("log.csv", [("a", 1, 0), ("a", 2, 86_400)])
    with pytest.raises(
        EmptyLogError, match=r"--test-days 7 leaves no session .* covers 1 days, from 2024-01-31 12:00:00 to"
    ):
        log.prepare(file, test_days=7)


# --- against a plain reading


clicks_of_a_log = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 40)), min_size=2, max_size=40
)


@settings(max_examples=80, deadline=None)
@given(
    rows=clicks_of_a_log,
    by_user=st.booleans(),
    batch=st.sampled_from([1, 3, 500_000]),
    kind=st.sampled_from(["csv", "tsv", "parquet", "jsonl", "frame"]),
    letters=st.booleans(),
)
def test_sessions_as_plain_python_forms_them(
    tmp_path_factory: pytest.TempPathFactory,
    rows: Clicks,
    by_user: bool,
    batch: int,
    kind: str,
    letters: bool,
) -> None:
    rows = sorted(rows, key=lambda row: row[2])
    if letters:
        rows = [(f"u{key}" if key % 2 else f"{key}", item, minute) for key, item, minute in rows]
    who = "user" if by_user else "session"
    frame = pl.DataFrame(
        {
            who: [key for key, _, _ in rows],
            "item": [item for _, item, _ in rows],
            "time": [START + 60 * minute for _, _, minute in rows],
        }
    )
    expected = []
    for key in {key for key, _, _ in rows}:
        own = [
            (START + 60 * minute, position, item)
            for position, (k, item, minute) in enumerate(rows)
            if k == key
        ]
        session: list[Any] = []
        for time, position, item in own:
            if session and by_user and time - session[-1][0] > 5 * 60:
                expected.append(session)
                session = []
            session.append((time, position, item))
        expected.append(session)
    expected.sort(key=lambda session: (session[-1][0], session[0][1]))
    wanted = [[item for _, _, item in session] for session in expected if len(session) > 1]

    log = Log(tmp_path_factory.mktemp("log"))
    source: Any = log.folder / f"log.{kind}"
    if kind in ("csv", "tsv"):
        frame.write_csv(source, separator="," if kind == "csv" else "\t")
    elif kind == "parquet":
        frame.write_parquet(source)
    elif kind == "jsonl":
        frame.write_ndjson(source)
    else:
        source = frame
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "BATCH", batch)
        patch.setattr(tables_module, "BATCH", batch)
        if not wanted:
            with pytest.raises(EmptyLogError):
                log.sessions(source, session_gap=5.0 if by_user else None)
            return
        assert log.sessions(source, session_gap=5.0 if by_user else None) == wanted


# --- the command line


def test_help_suffices(log: Log) -> None:
    help_text = " ".join(CliRunner().invoke(main, ["prepare", "--help"]).output.split())
    for option in (
        "--time-format",
        "--log-columns",
        "--quote",
        "--encoding",
        "--comment",
        "--session-per-file",
        "--until",
    ):
        assert option in help_text
    for form in ("2024-01-31T23:59:58+01:00", "excel", "ISO 8601", "Unix times"):
        assert form in help_text


def test_an_error_is_one_line_and_nothing_is_written(log: Log) -> None:
    file = log.write("log.csv", "session,item,time\na,1,20240101\na,2,20240102\n")
    arguments = ["prepare", str(file), "--out", str(log.folder / "data")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "line 2: time 20240101 is in doubt" in result.output
    assert result.output.count("\n") == 1
    assert not (log.folder / "data").exists()
    result = CliRunner().invoke(main, [*arguments, "--time-format", "%Y%m%d"])
    assert result.exit_code == 0, result.output
    assert (
        "from 2024-01-01 00:00:00 to 2024-01-02 00:00:00 UTC, format %Y%m%d without a zone, taken as UTC"
        in result.output
    )


def test_two_columns_of_time_on_the_command_line(log: Log) -> None:
    file = log.write("log.csv", "session,item,day,clock\ns,2,2024-01-31,13:00\ns,1,2024-01-31,12:30\n")
    options = [
        "--time-column",
        "day",
        "--time-column",
        "clock",
        "--missing",
        "-",
        "--out",
        str(log.folder / "data"),
    ]
    result = CliRunner().invoke(main, ["prepare", str(file), *options])
    assert result.exit_code == 0, result.output
    assert Dataset.load(log.folder / "data").train.items.tolist() == [0, 1]


def test_a_shop_of_a_year(log: Log) -> None:
    """Nothing is set aside of a clean log."""
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [
        f"s{day},{random.Random(3 * day + item).randrange(50)},{moment + timedelta(days=day, minutes=item)}"
        for day in range(366)
        for item in range(3)
    ]
    data = log.prepare(log.write("log.csv", "session,item,time\n" + "\n".join(rows)), test_days=30)
    assert data.settings["report"]["clicks_dropped"] == {}
    assert data.settings["report"]["warnings"] == []
    assert (len(data.train), len(data.test)) == (336, 30)


def test_a_column_that_orders_equal_times(log: Log) -> None:
    rows = [
        ("a", 3, "2024-01-31", 9),
        ("a", 1, "2024-01-31", -2),
        ("a", 2, "2024-01-31", 7),
        ("a", 0, "2024-01-30", 99),
    ]
    frame = pl.DataFrame(rows, schema=["session", "item", "time", "offset"], orient="row")
    assert log.sessions(frame, order_column="offset") == [[0, 1, 2, 3]]
    assert log.sessions(frame, order_column="offset", time_column="") == [[1, 2, 3, 0]]
    missing = frame.with_columns(offset=pl.Series([9, None, 7, 99]))
    assert log.sessions(missing, order_column="offset") == [[0, 2, 3]]
    assert log.said("dropped", "1 clicks: no number that orders it")


def test_a_shuffled_file_is_in_no_order_of_time(log: Log) -> None:
    clicks: Clicks = [(at % 40, at % 7, at // 3) for at in range(600)]
    random.Random(1).shuffle(clicks)
    log.prepare(log.clicks("log.csv", clicks))
    assert log.said("in no order of time")
    assert not log.said("reversed")


def test_rows_of_lists_with_equal_ids(log: Log) -> None:
    frame = pl.DataFrame(
        {"session": [1, 1, 2], "item": [[1, 2], [3, 4], [5, 6]], "time": [START, START + 9, START + 20]}
    )
    assert log.sessions(frame) == [[1, 2, 3, 4], [5, 6]]
    assert log.said(
        "warning", "3 rows of log 1 hold lists, with 2 different session ids", "--session-column ''"
    )
    assert log.sessions(frame, session_column="") == [[1, 2], [3, 4], [5, 6]]
    assert not log.said("warning")


def test_a_json_array_and_packed_json(log: Log) -> None:
    events = [{"session": "a", "item": item, "time": START + item} for item in (1, 2)]
    lines = "\n".join(map(json.dumps, events)).encode()
    for name, content in (
        ("array.json", json.dumps(events, indent=1).encode()),
        ("lines.json", lines),
        ("lines.json.gz", gzip.compress(lines)),
        ("utf16.jsonl", lines.decode().encode("utf-16")),
    ):
        encoding = "utf-16" if "utf16" in name else "utf-8"
        assert log.sessions(log.write(name, content), encoding=encoding) == [[1, 2]], name


def test_structs_name_their_fields(log: Log) -> None:
    frame = pl.DataFrame({"session": [1], "events": [[{"aid": 1, "ts": START}]]})
    with pytest.raises(
        DataError, match=r"column 'events' holds .*; name one of events\.aid, events\.ts with --item-column"
    ):
        log.prepare(frame, item_column="events", time_column="events.ts")


def test_one_category_with_nearly_all_items(log: Log) -> None:
    file = log.write("log.txt", " ".join(map(str, range(40))) + "\n")
    items = log.write(
        "items.csv", "item,kind\n" + "".join(f"{item},{'x' if item else 'y'}\n" for item in range(40))
    )
    log.prepare(file, items=items, category_columns=["kind"])
    assert log.said("warning", "97.5% of the items are in one category, 'x'")


def test_numbers_with_a_comma(log: Log) -> None:
    file = log.write("log.txt", "1 2 3 4\n")
    items = log.write("items.csv", "item;price\n1;1.249,50\n2;9,90\n3;2.000\n4;-5\n")
    options: dict[str, Any] = {"items": items, "item_separator": ";", "number_columns": ["price"]}
    data = log.prepare(file, **options, decimal=",")
    assert data.numbers["price"].tolist() == [1249.5, 9.9, 2000.0, -5.0]
    assert not log.said("warning")
    log.prepare(file, **options)
    assert log.said(
        "warning", "2 of 4 values of price cannot be read as numbers, such as '1.249,50'; --decimal ,"
    )
    english = log.write("en.csv", 'item,price\n1,"1,249.50"\n2,"1,234,567"\n3,9.90\n4,"1,5"\n')
    found = log.prepare(file, items=english, number_columns=["price"]).numbers["price"]
    assert found[:3].tolist() == [1249.5, 1234567.0, 9.9]
    thousands = log.write("th.csv", "item,price\n1,1.249\n2,2.000\n3,3.500\n4,7\n")
    log.prepare(file, items=thousands, number_columns=["price"])
    assert log.said("warning", "three digits after it", "--decimal ,")


def test_a_user_that_stands_for_many(log: Log) -> None:
    clicks: Clicks = [("-" if at % 3 == 0 else f"u{at % 40}", at % 7, at * 6) for at in range(600)]
    file = log.clicks("log.csv", clicks, "user,item,time")
    log.prepare(file)
    assert log.said("warning", "user '-' has 33% of the clicks", "--missing '-' leaves it out")
    log.prepare(file, missing=["-"])
    assert not log.said("warning")


def test_times_on_the_full_hour(log: Log) -> None:
    clicks: Clicks = [(f"u{user}", item, item * 3600) for user in range(9) for item in range(3)]
    file = log.clicks("log.csv", clicks, "user,item,time")
    with pytest.raises(EmptyLogError):
        log.prepare(file)
    assert log.said("warning", "all times of log.csv are on the full hour", "--session-gap 61")
    assert len(log.sessions(file, session_gap=61.0)) == 9


def test_a_column_in_another_case_or_deeper(log: Log) -> None:
    frame = pl.DataFrame({"SESSION_ID": [1], "events": [[{"item_id": 1, "ts": START}]]})
    with pytest.raises(DataError, match=r"no column 'session_id' \(is it 'SESSION_ID'\?\)"):
        log.prepare(frame, session_column="session_id", item_column="events.item_id", time_column="events.ts")
    with pytest.raises(DataError, match=r"no column 'item_id' \(is it 'events\.item_id'\?\)"):
        log.prepare(frame, session_column="SESSION_ID", item_column="item_id", time_column="events.ts")


def test_a_user_that_is_missing_is_not_another_one(log: Log) -> None:
    file = log.write(
        "log.csv",
        f"session,user,item,time\n1,a,1,{START}\n1,\\N,2,{START + 1}\n2,b,1,{START + 2}\n2,b,2,{START + 3}\n",
    )
    assert log.sessions(file) == [[1, 2], [1, 2]]
    again = log.write(
        "again.csv",
        f"session,user,item,time\n1,a,1,{START}\n1,b,2,{START + 1}\n1,a,2,{START + 2}\n1,b,1,{START + 3}\n",
    )
    with pytest.raises(
        DataError, match=r"1 session ids of .*again\.csv belong to several users .* --user-column user beside"
    ):
        log.prepare(again)
    assert log.sessions(again, session_column="session", user_column="user") == [[1, 2], [2, 1]]


def test_folders_of_parts(log: Log) -> None:
    folder = log.folder / "parts"
    folder.mkdir()
    for part in (2, 10, 1):
        log.clicks(f"parts/part-{part}.csv", [(part, part, 0), (part, 0, 1)])
    (folder / "_SUCCESS").write_text("")
    with pytest.raises(DataError, match=r"parts is a folder: .* with --glob"):
        log.prepare(folder)
    log.prepare(folder / "*", glob=True)
    assert [found["name"] for found in log.prepare(folder / "*", glob=True).settings["report"]["files"]] == [
        "part-1.csv",
        "part-2.csv",
        "part-10.csv",
    ]
