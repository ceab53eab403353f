"""Logs of the kinds that are easily misread: read as meant, refused by an error of ours, or warned of.

Where more than one answer would be honest, the test takes each of them. It never takes a wrong reading without a word.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from hiersrec_sdk.cli.main import main
from hiersrec_sdk.errors import DataError, HierSRecError, InvalidArgumentError, InvalidOptionError
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.prepare import prepare
from tests.training.data.log_files import START, LogFiles

Sessions = list[list[Any]]


class Shop(LogFiles):
    """Log files, with what these tests ask of them."""

    def parquet(self, name: str, columns: Any) -> Path:
        path = self.folder / name
        pl.DataFrame(columns).write_parquet(path)
        return path

    @property
    def warned(self) -> bool:
        return bool(self.warnings)

    def is_honest(self, right: Sessions | None, *logs: Any, **options: Any) -> bool:
        """Whether the logs are read as ``right``, refused, or read otherwise with a warning."""
        try:
            found = self.sessions(*logs, **options)
        except HierSRecError as error:
            return "\n" not in str(error)
        return found == right or self.warned

    def command(self, *arguments: Any) -> str:
        """The error of ``hiersrec prepare``: one line, with nothing written."""
        out = self.folder / "out"
        result = CliRunner().invoke(main, ["prepare", "--out", str(out), *map(str, arguments)])
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == 1
        assert not out.exists()
        last = result.output.splitlines()[-1]
        assert last.startswith("Error: ")
        return last


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


PAIR = [("s", "a", START), ("s", "b", START + 1)]
LISTS = {"item": [["a", "b"], ["c", "a"]], "time": [START, START + 60]}


# --- lists: what stands beside each item


def test_categories_beside_the_items_of_a_list(shop: Shop) -> None:
    log = shop.parquet("log.parquet", LISTS | {"c": [["A", "B"], ["C", "A"]]})
    data = shop.prepare(log, category_columns=["c"])
    leaves = [data.tree.ids[-1][leaf] for leaf in data.category]
    assert dict(zip(data.item_ids, leaves, strict=True)) == {"a": "A", "b": "B", "c": "C"}
    assert not any(data.extra_categories)


def test_fields_of_the_structs_that_hold_the_items(shop: Shop) -> None:
    clicks = [{"id": "a", "title": "one", "price": 1.5}, {"id": "b", "title": "two", "price": 2.5}]
    log = shop.write("log.jsonl", json.dumps({"clicks": clicks, "time": START}) + "\n")
    data = shop.prepare(
        log, item_column="clicks.id", title_column="clicks.title", number_columns=["clicks.price"]
    )
    assert data.title.to_list() == ["one", "two"]
    assert data.numbers["clicks.price"].tolist() == [1.5, 2.5]


def test_categories_in_a_cell_beside_a_cell_of_items(shop: Shop) -> None:
    log = shop.csv("log.csv", [(1, "a b", START, "A B"), (2, "b a", START + 1, "B A")], "session,item,time,c")
    try:
        data = shop.prepare(log, list_separator=" ", category_columns=["c"])
    except HierSRecError:
        return
    leaves = [data.tree.ids[-1][leaf] for leaf in data.category]
    assert leaves == ["A", "B"]


def test_an_item_twice_in_a_list_is_no_repeat(shop: Shop) -> None:
    log = shop.parquet("log.parquet", {"item": [["a", "b", "a"]], "time": [START]})
    assert shop.sessions(log) == [["a", "b", "a"]]
    assert not shop.warned
    assert shop.is_honest([["a", "b", "a"]], log, drop_repeats=True)


@pytest.mark.parametrize("cell", ["['a', 'b']", '["a", "b"]', "{a,b}", "(a,b)", "[a,b]"])
def test_lists_in_a_cell_as_programs_write_them(shop: Shop, cell: str) -> None:
    log = shop.write("log.csv", f"session;item;time\n1;{cell};{START}\n")
    assert shop.is_honest([["a", "b"]], log, separator=";", list_separator=",", quote="none")


def test_brackets_of_an_item_are_no_brackets_of_the_list(shop: Shop) -> None:
    log = shop.csv("log.csv", [(1, "hat|shirt (blue)", START), (2, "(new) hat|hat", START + 1)])
    assert shop.sessions(log, list_separator="|") == [["hat", "shirt (blue)"], ["(new) hat", "hat"]]


# --- session files that hold more than items


def lines(number: int, line: Callable[[int], str]) -> str:
    return "".join(line(k) + "\n" for k in range(number))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lines(6, lambda k: f"a:{START + k} b:{START + k + 1}"), id="item and time"),
        pytest.param(
            lines(30, lambda k: f"{START + k % 3} " + "a b c d"[: 3 + 2 * (k % 3)]), id="time first"
        ),
        pytest.param(lines(30, lambda k: "a b c d"[: 3 + 2 * (k % 3)] + f" {START + k}"), id="time last"),
        pytest.param("user item rating\n" + lines(9, lambda k: f"{k // 3} {k % 3} 5"), id="a table"),
        pytest.param(lines(12, lambda k: f"{k // 3}\t{k % 5}\t4\t{880_000_000 + k}"), id="old times"),
        pytest.param(lines(40, lambda k: f"u{k // 2} a{k % 3} b{k % 4}"), id="users with several lines"),
        pytest.param(lines(9, lambda k: f"{k}: a{k % 3} b{k % 4}"), id="id and colon"),
        pytest.param(lines(6, lambda k: "[1, 2, 3]"), id="JSON arrays"),
        pytest.param(lines(6, lambda k: "1, 2, 3"), id="commas and blanks"),
        pytest.param(lines(6, lambda k: '"red shoe" "blue shoe"'), id="quotes"),
        pytest.param(lines(6, lambda k: "1 -1 2 -1 3 -1 -2"), id="SPMF"),
    ],
)
def test_session_files_that_hold_more_than_items(shop: Shop, content: str) -> None:
    assert shop.is_honest(None, shop.write("log.txt", content))


@pytest.mark.parametrize(
    "options",
    [
        {"category_columns": ["c"]},
        {"title_column": "c"},
        {"text_columns": ["c"]},
        {"number_columns": ["c"]},
        {"quote": '"'},
        {"skip_malformed": True},
    ],
)
def test_session_files_have_no_columns_and_no_quotes(shop: Shop, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        shop.prepare(shop.write("log.txt", "a b c\nb c\n"), **options)


# --- ids that begin anew, and logs that are read twice


def test_ids_that_begin_anew_within_an_hour(shop: Shop) -> None:
    first = shop.csv("a.csv", [(k, f"a{j}", START + k * 60 + j) for k in range(9) for j in range(2)])
    later = shop.csv("b.csv", [(k, f"b{j}", START + 1200 + k * 60 + j) for k in range(9) for j in range(2)])
    assert shop.is_honest(None, first, later)


def test_ids_of_which_a_third_begin_anew_the_next_day(shop: Shop) -> None:
    first = shop.csv("a.csv", [(k, f"a{j}", START + k * 60 + j) for k in range(9) for j in range(2)])
    gap = [90_000 if k < 3 else 600 for k in range(9)]
    later = shop.csv("b.csv", [(k, f"b{j}", START + gap[k] + k * 60 + j) for k in range(9) for j in range(2)])
    assert shop.is_honest(None, first, later)


def test_session_numbers_that_begin_anew_for_each_user(shop: Shop) -> None:
    rows = [
        (user, session, f"{user}{session}{j}", START + 300 * number + 3600 * session + j)
        for number, user in enumerate("AB")
        for session in (1, 2)
        for j in range(2)
    ]
    log = shop.csv("log.csv", rows, "user,session,item,time")
    right = [["A10", "A11"], ["B10", "B11"], ["A20", "A21"], ["B20", "B21"]]
    assert shop.is_honest(right, log)


def test_sessions_that_are_in_two_files(shop: Shop) -> None:
    one = shop.write("a.txt", "a b c\nd a\n")
    assert shop.is_honest([["a", "b", "c"], ["d", "a"]], one, shop.write("b.txt", "a b c\r\nd a\r\n"))
    lists = shop.parquet("a.parquet", LISTS)
    other = shop.folder / "b.jsonl"
    pl.DataFrame(LISTS).write_ndjson(other)
    assert shop.is_honest([["a", "b"], ["c", "a"]], lists, other)


def test_a_test_log_of_short_sessions_that_is_the_log(shop: Shop) -> None:
    log = shop.write("a.txt", "a b c\nd a b\nc b a\n")
    assert shop.is_honest(None, log, test_log=shop.write("b.txt", "a b c\r\nd a b\r\nc b a\r\n"))


# --- ids that are written in two ways


@pytest.mark.parametrize("mark", ["\u200b", "\ufeff", "\u2060"])
def test_blanks_without_width(shop: Shop, mark: str) -> None:
    log = shop.csv("log.csv", [("s", "a", START), ("s", f"a{mark}", START + 1), ("s", mark, START + 2)])
    assert shop.is_honest([["a", "a"]], log)


def test_two_files_with_byte_order_marks_in_one(shop: Shop) -> None:
    rows = f"s,a,{START}\ns,b,{START + 1}\n"
    log = shop.write("log.csv", f"\ufeffsession,item,time\n{rows}\ufefft,a,{START + 2}\nt,b,{START + 3}\n")
    assert shop.is_honest([["a", "b"], ["a", "b"]], log)


def test_integers_that_pandas_wrote_as_floats(shop: Shop) -> None:
    first = shop.csv("a.csv", [("s", "12", START), ("s", "13", START + 1)])
    later = shop.csv("b.csv", [("t", "12.0", START + 9), ("t", "13.0", START + 10)])
    assert shop.is_honest([[12, 13], [12, 13]], first, later)
    items = shop.csv("items.csv", [("12.0", "A"), ("13", "B")], "item,c")
    try:
        data = shop.prepare(first, items=items, category_columns=["c"])
    except HierSRecError:
        return
    assert data.tree.sizes[-1] == 2


def test_quotes_around_some_ids_of_a_tsv(shop: Shop) -> None:
    log = shop.write("log.tsv", f'session\titem\ttime\ns\t"a"\t{START}\ns\ta\t{START + 1}\n')
    assert shop.is_honest([["a", "a"]], log)


def test_a_quote_that_swallows_rows_of_a_tsv_with_quotes(shop: Shop) -> None:
    log = shop.csv("log.csv", [("s", k, START + k) for k in range(5)])
    items = shop.write("items.tsv", 'item\tt\n0\t"quoted"\n1\t"open mug\n2\tred\n3\tpot"\n4\tx\n')
    try:
        data = shop.prepare(log, items=items, title_column="t", quote='"')
    except DataError:
        return
    assert shop.warned or "red" in data.title.to_list()


def test_the_encoding_of_the_log_is_not_that_of_the_items(shop: Shop) -> None:
    log = shop.write("log.csv", f"session,item,time,x\ns,a,{START},é\ns,b,{START + 1},é\n".encode("latin-1"))
    items = shop.write("items.csv", "item,t\na,Café\nb,Tea\n")
    try:
        data = shop.prepare(log, items=items, title_column="t", encoding="latin-1")
    except HierSRecError:
        return
    assert shop.warned or data.title.to_list() == ["Café", "Tea"]


# --- times


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(["1031240905", "1031240910", "1031241300", "1101240807"], id="%m%d%y%H%M"),
        pytest.param(["0801011230", "0801011231", "0801021230", "0801021231"], id="%y%m%d%H%M of 2008"),
    ],
)
def test_dates_in_digits_that_would_do_as_seconds(shop: Shop, times: list[str]) -> None:
    log = shop.csv("log.csv", [(k // 2, "ab"[k % 2], time) for k, time in enumerate(times)])
    with pytest.raises(DataError, match="in doubt"):
        shop.prepare(log)


def test_clicks_in_the_hour_that_comes_twice(shop: Shop) -> None:
    """02:50 in summer time is twenty minutes before 02:10 in winter time."""
    log = shop.csv("log.csv", [("s", "a", "2024-10-27 02:50:00"), ("s", "b", "2024-10-27 02:10:00")])
    try:
        shop.prepare(log, time_zone="Europe/Berlin")
    except DataError:
        return
    assert any("twice" in line or "ambiguous" in line for line in shop.report)


def test_a_time_of_day_in_digits_without_its_zeros(shop: Shop) -> None:
    """13005 is 01:30:05, as in a column of integers."""
    rows = [("s", "b", 20240131, 120000), ("s", "a", 20240131, 13005)]
    log = shop.csv("log.csv", rows, "session,item,date,clock")
    columns: dict[str, Any] = {"time_column": ["date", "clock"], "time_format": "%Y%m%d %H%M%S"}
    assert shop.is_honest([["a", "b"]], log, **columns)


@pytest.mark.parametrize("value", ["1e300", str(START)])
def test_numbers_that_are_no_days_of_excel(shop: Shop, value: str) -> None:
    log = shop.csv("log.csv", [("s", "a", value), ("s", "b", value)])
    with pytest.raises(DataError):
        shop.prepare(log, time_format="excel")


def test_numbers_that_are_no_seconds(shop: Shop) -> None:
    log = shop.csv("log.csv", [("s", "a", 9 * 10**18), ("s", "b", 9 * 10**18 + 1)])
    with pytest.raises(DataError):
        shop.prepare(log, time_unit="s")


def test_large_integers_order_clicks(shop: Shop) -> None:
    """Ids of events that tell the order, of 19 digits."""
    order = [1_751_234_567_890_123_456 + k for k in (2, 1, 0)]
    log = shop.parquet(
        "l.parquet", {"session": [1] * 3, "item": ["c", "b", "a"], "time": [START] * 3, "o": order}
    )
    assert shop.sessions(log, order_column="o") == [["a", "b", "c"]]


# --- what the log says about items


def test_the_newest_value_of_a_log_that_goes_from_new_to_old(shop: Shop) -> None:
    rows: list[tuple[Any, ...]] = [("s", "a", START, "new"), ("s", "b", START, "x"), ("s", "a", START, "old")]
    rows += [(k, "ab"[j], START - 86_400 * k, "older") for k in range(1, 9) for j in range(2)]
    data = shop.prepare(shop.csv("log.csv", rows, "session,item,time,t"), title_column="t")
    assert any(line.startswith("reversed") for line in shop.report)
    assert data.title.to_list() == ["new", "x"]


# --- categories


def test_a_tree_with_names_between_child_and_parent(shop: Shop) -> None:
    log = shop.csv("log.csv", [("s", "a", START, "x"), ("s", "b", START + 1, "y")], "session,item,time,c")
    tree = shop.csv("tree.csv", [("x", "Shoes", "A"), ("y", "Hats", "A")], "id,name,parent")
    try:
        data = shop.prepare(log, category_columns=["c"], category_tree=tree)
    except HierSRecError:
        return
    assert shop.warned or data.tree.ids[0] == ["A"]


def test_several_categories_in_a_fallback_cell(shop: Shop) -> None:
    log = shop.csv("log.csv", PAIR)
    items = shop.csv("items.csv", [("a", "X", ""), ("b", "", "Y|Z")], "item,c,f")
    data = shop.prepare(
        log, items=items, category_columns=["c"], fallback_category_column="f", category_separator="|"
    )
    assert "Y|Z" not in data.tree.ids[0]


@pytest.mark.parametrize("known", [100, 99, 1])
def test_one_category_with_nearly_all_items(shop: Shop, known: int) -> None:
    """All items, all but one, or all without a category but one."""
    items = [(k, "X" if k < known else "Y" * (known > 1)) for k in range(100)]
    log = shop.csv("log.csv", [(k // 5, k, START + k) for k in range(100)])
    shop.prepare(log, items=shop.csv("items.csv", items, "item,c"), category_columns=["c"])
    assert shop.warned


@pytest.mark.parametrize("name", ["category_separator", "category_path_separator", "list_separator"])
def test_an_empty_separator(shop: Shop, name: str) -> None:
    log = shop.csv("log.csv", [("s", "a", START, "AB"), ("s", "b", START + 1, "AC")], "session,item,time,c")
    options = {} if name == "list_separator" else {"category_columns": ["c"]}
    with pytest.raises(InvalidOptionError):
        shop.prepare(log, **options, **{name: ""})


def test_a_tab_as_separator_within_a_cell(shop: Shop) -> None:
    rows = [("s", "a", START, "X\tY"), ("s", "b", START + 1, "X")]
    log = shop.csv("log.csv", rows, "session,item,time,c")
    data = shop.prepare(log, category_columns=["c"], category_separator=r"\t")
    assert data.tree.ids[0] == ["X", "Y"]


# --- options without an effect


@pytest.mark.parametrize(
    "options",
    [
        {"log_columns": ["item", "session", "time"]},
        {"separator": ";"},
        {"quote": "'"},
        {"comment": "#"},
        {"encoding": "latin-1"},
        {"skip_malformed": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_text_files_do_not_go_with_parquet(shop: Shop, options: dict[str, Any]) -> None:
    columns = {"session": ["s", "s"], "item": ["a", "b"], "time": [START, START + 1]}
    assert shop.is_honest(None, shop.parquet("log.parquet", columns), **options)
    assert shop.is_honest(None, pl.DataFrame(columns), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"session_gap": 5.0},
        {"url_decode": True},
        {"item_id_column": "sku"},
        {"tree_child_column": "c"},
        {"tree_parent_column": "c"},
        {"time_column": "", "since": "2030-01-01"},
        {"time_column": "", "until": "1990-01-01"},
        {"time_column": "", "time_format": "%d.%m.%Y"},
        {"time_column": "", "time_unit": "ms"},
        {"time_column": "", "time_zone": "Europe/Berlin"},
        {"time_column": "", "drop_repeats": True},
        {"item_column": "session"},
        {"session_column": "", "user_column": "session"},
        {"event_column": "item", "events": ["a", "b", "purchase"]},
    ],
    ids=lambda options: " ".join(options),
)
def test_options_that_would_have_no_effect(shop: Shop, options: dict[str, Any]) -> None:
    assert shop.is_honest(None, shop.csv("log.csv", PAIR), **options)


@pytest.mark.parametrize("option", [{"time_unit": "ms"}, {"time_unit": "s"}])
def test_a_unit_for_times_that_are_no_numbers(shop: Shop, option: dict[str, Any]) -> None:
    log = shop.csv("log.csv", [("s", "a", "2024-01-31 12:00"), ("s", "b", "2024-01-31 12:01")])
    assert shop.is_honest(None, log, **option)


# --- options of a wrong kind


@pytest.mark.parametrize(
    "option",
    [
        {"test_days": float("inf")},
        {"test_days": 1e300},
        {"user_column": "session", "session_gap": float("inf")},
        {"time_column": "", "shuffle_seed": -1},
        {"encoding": "rot13"},
        {"encoding": "hex"},
        {"test_days": "7"},
        {"min_session_length": "2"},
        {"item_vectors": np.zeros((2, 2)), "items": pl.DataFrame({"item": ["a", "b"]})},
    ],
    ids=lambda option: " ".join(f"{name}={value!r}"[:24] for name, value in option.items()),
)
def test_an_option_of_a_wrong_kind(shop: Shop, option: dict[str, Any]) -> None:
    with pytest.raises((InvalidArgumentError, DataError)):
        shop.prepare(shop.csv("log.csv", PAIR), **option)


def test_a_text_where_several_are_asked_for(shop: Shop) -> None:
    """It is one of them, or an error, but not its letters."""
    log = shop.csv(
        "log.csv", [("s", "N", START, "view"), ("s", "b", START + 1, "review")], "session,item,time,e"
    )
    assert shop.is_honest([["N", "b"]], log, missing="NULL")
    assert shop.is_honest(None, log, event_column="e", events="review")


@pytest.mark.parametrize(
    "option", [{"since": datetime(2024, 1, 1)}, {"since": date(2024, 1, 1)}], ids=["datetime", "date"]
)
def test_a_datetime_is_a_moment_or_refused(shop: Shop, option: dict[str, Any]) -> None:
    assert shop.is_honest([["a", "b"]], shop.csv("log.csv", PAIR), **option)


@pytest.mark.parametrize("kind", ["path", "text", "frame"])
def test_one_log_without_a_list_around_it(shop: Shop, kind: str) -> None:
    path = shop.csv("log.csv", PAIR)
    log: Any = {"path": path, "text": str(path), "frame": pl.read_csv(path)}[kind]
    try:
        data = prepare(PrepareOptions(logs=log, validation_fraction=0), shop.report.append)
    except InvalidOptionError:
        return
    assert data.item_ids.to_list() == ["a", "b"]


def test_vectors_may_be_a_path_as_text(shop: Shop) -> None:
    np.save(shop.folder / "v.npy", np.ones((2, 3), np.float32))
    items = pl.DataFrame({"item": ["a", "b"]})
    file: Any = str(shop.folder / "v.npy")
    data = shop.prepare(shop.csv("log.csv", PAIR), items=items, item_vectors=file)
    assert data.vectors is not None


# --- types that have no meaning in a role


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([["a"], ["b"]], {"item_column": "c", "list_separator": ","}),
        ([timedelta(1)] * 2, {"item_column": "c", "list_separator": ","}),
        ([timedelta(1)] * 2, {"time_column": ["c", "time"]}),
        ([datetime(2024, 1, 1)] * 2, {"time_column": "c", "time_format": "excel"}),
        ([float("inf"), 1.0], {"time_column": "c", "time_format": "excel"}),
    ],
)
def test_a_type_without_a_meaning(shop: Shop, values: list[Any], options: dict[str, Any]) -> None:
    log = {"session": ["s", "s"], "item": ["a", "b"], "time": [START, START + 1], "c": values}
    with pytest.raises(HierSRecError):
        shop.prepare(shop.parquet("log.parquet", log), **options)


# --- messages


def test_a_log_with_another_separator(shop: Shop) -> None:
    assert "--separator" in shop.command(shop.write("log.csv", f"session;item;time\ns;a;{START}\n"))


def test_a_tsv_with_quotes_around_every_field(shop: Shop) -> None:
    log = shop.write("log.tsv", f'"session"\t"item"\t"time"\n"s"\t"a"\t"{START}"\n')
    assert "--quote" in shop.command(log)


@pytest.mark.parametrize("name", ["items.dat", "items.csv"])
def test_an_item_table_with_another_separator(shop: Shop, name: str) -> None:
    items = shop.write(name, "item;c\na;x\n")
    log = shop.csv("log.csv", PAIR)
    assert "--item-separator" in shop.command(log, "--items", items, "--category-column", "c")


def test_messages_about_json_lines_name_the_line(shop: Shop) -> None:
    good = json.dumps({"session": "s", "item": "a", "time": START}) + "\n"
    bad = shop.write("log.jsonl", f"{good}{good}oops\n{good}")
    assert "line 3" in shop.command(bad)
    latin = shop.write("latin.jsonl", (good + good.replace('"a"', '"é"')).encode("latin-1"))
    assert "--encoding" in shop.command(latin)


def test_a_header_with_a_line_break_in_it(shop: Shop) -> None:
    """A file whose lines end with CR, except the last."""
    log = shop.write("log.csv", f"session,item,time\rs,a,{START}\rs,b,{START + 1}\n")
    result = CliRunner().invoke(main, ["prepare", "--out", str(shop.folder / "out"), str(log)])
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1


def test_a_fraction_that_leaves_no_test_session(shop: Shop) -> None:
    log = shop.csv("log.csv", [(k // 2, "ab"[k % 2], START + k) for k in range(40)])
    assert "--test-fraction" in shop.command(log, "--test-fraction", "0.01")


def test_a_file_whose_name_is_not_utf8(shop: Shop) -> None:
    path = Path(str(shop.folder) + "/log\udcff.csv")
    try:
        path.write_text(f"session,item,time\ns,a,{START}\ns,b,{START + 1}\n")
    except (OSError, UnicodeError):
        pytest.skip("this file system has names in UTF-8 only")
    assert shop.is_honest([["a", "b"]], path)
