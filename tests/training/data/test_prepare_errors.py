"""Bad input to prepare: each its own error, naming the file and the cause."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from hiersrec_sdk.errors import (
    CategoryCycleError,
    DataError,
    EmptyLogError,
    InvalidOptionError,
    LeakError,
    MissingColumnError,
)
from hiersrec_training.data.prepare import PrepareOptions, prepare

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def run(log: Path | list[Path], **options: Any) -> None:
    options.setdefault("validation_fraction", 0.0)
    prepare(PrepareOptions(logs=[log] if isinstance(log, Path) else log, **options), lambda line: None)


EVENTS = "session,item,time\ns,1,1700000010\ns,2,1700000020\nt,2,1700000030\nt,1,1700000040\n"
MANY_ROWS = "session,item,time\n" + "".join(
    f"{row // 9},{row * 7919 % 1009},{1_700_000_000 + row}\n" for row in range(20_000)
)


# --- files


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv"):
        run(tmp_path / "nowhere.csv")
    with pytest.raises(
        DataError, match=r"is a folder: name its files, or give a pattern such as .* with --glob"
    ):
        run(tmp_path)


@pytest.mark.parametrize("name", ["log.csv.gz", "log.txt.gz"])
@pytest.mark.parametrize("damage", ["cut in half", "cut at the end", "altered", "cut in the header"])
def test_a_damaged_gzip_file(write: Write, name: str, damage: str) -> None:
    content = gzip.compress(MANY_ROWS.encode())
    if damage == "altered":
        middle = len(content) // 2
        content = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    else:
        content = content[
            : {"cut in half": len(content) // 2, "cut at the end": -6, "cut in the header": 9}[damage]
        ]
    with pytest.raises(DataError, match=rf"{name} cannot be read: \w+"):
        run(write(name, content))


@pytest.mark.parametrize("name", ["log.csv", "log.txt"])
def test_text_that_is_not_utf8(write: Write, name: str) -> None:
    text = "session item time\n1 a 3\n1 café 3\n1 thé 4\n".replace(" ", "," if name == "log.csv" else " ")
    message = rf"{name}, line 3: byte 0xe9 is not UTF-8 in '1.café.3'; .* --encoding cp1252"
    with pytest.raises(DataError, match=message):
        run(write(name, text.encode("latin-1")))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("image.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"),
        ("sheet.csv", b"PK\x03\x04\x14\0\x06\0\x08\0"),
        ("image.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"),
        ("utf16.csv", "session,item,time\n1,2,3\n".encode("utf-16")),
    ],
)
def test_a_file_that_is_no_text(write: Write, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match=rf"{name} is not UTF-8 text"):
        run(write(name, content))


def test_rows_that_do_not_fit_the_header(write: Write) -> None:
    message = r"log\.csv, line 6: 5 fields where the header has 3: 's,1,2,3,4'; .* --skip-malformed"
    with pytest.raises(DataError, match=message):
        run(write("log.csv", EVENTS + "s,1,2,3,4\n"))
    with pytest.raises(DataError, match=r"log\.csv, line 6: 2 fields where the header has 3: 's,1'"):
        run(write("log.csv", EVENTS + "s,1\n"))
    run(write("log.csv", EVENTS + "s,1,2,3,4\ns,1\n"), skip_malformed=True)


def test_a_file_that_is_no_parquet(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log\.parquet cannot be read: parquet"):
        run(write("log.parquet", EVENTS))
    whole = tmp_path / "whole.parquet"
    pl.DataFrame({"session": range(100), "item": range(100), "time": range(100)}).write_parquet(whole)
    with pytest.raises(DataError, match=r"half\.parquet cannot be read: parquet"):
        run(write("half.parquet", whole.read_bytes()[:-40]))


def test_a_file_of_an_unknown_kind(write: Write) -> None:
    with pytest.raises(DataError, match=r"log\.xlsx: the kind of a table is told by its name, \.csv, \.tsv"):
        run(write("log.xlsx", EVENTS))


def test_the_same_log_twice(write: Write) -> None:
    with pytest.raises(DataError, match="one log was given twice"):
        run([write("a.csv", EVENTS), write("b.csv", EVENTS)])


# --- columns


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (
            "session,item,when",
            {},
            r"has no column 'time'; its columns are session, item, when: .* --time-column",
        ),
        ("session,product,time", {}, r"has no column 'item'; .* --item-column"),
        ("visit,item,time", {}, r"has no column 'session' or 'user'; its columns are visit, item, time: .*"),
        ("visit,item,time", {"session_column": "id"}, r"has no column 'id'; .* --session-column"),
        ("visit,item,time", {"user_column": "id"}, r"has no column 'id'; .* --user-column"),
        ("session,item,time", {"event_column": "type"}, r"has no column 'type'; .* --event-column"),
        (
            "session,item,time",
            {"category_columns": ["c"]},
            r"has no column 'c'; .* --category-column, or .* --items",
        ),
    ],
)
def test_a_column_that_a_log_lacks(write: Write, header: str, options: dict[str, Any], message: str) -> None:
    log = write("log.csv", f"{header}\n1,2,1700000000\n1,3,1700000004\n")
    with pytest.raises(MissingColumnError, match=rf"log\.csv {message}"):
        run(log, **options)


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"item_id_column": "sku"}, "--item-id-column"),
        ({"category_columns": ["sku"]}, "--category-column"),
        ({"text_columns": ["sku"]}, "--text-column"),
        ({"title_column": "sku"}, "--title-column"),
        ({"number_columns": ["sku"]}, "--number-column"),
    ],
)
def test_a_column_that_the_item_table_lacks(write: Write, options: dict[str, Any], flag: str) -> None:
    items = write("items.csv", "item,name\n1,a\n2,b\n")
    with pytest.raises(
        MissingColumnError, match=rf"items\.csv has no column 'sku'; .* item, name: .* {flag}"
    ):
        run(write("log.csv", EVENTS), items=items, **options)


def test_names_for_a_headerless_table_must_fit(write: Write) -> None:
    items = write("items.csv", "1,a\n2,b\n")
    with pytest.raises(DataError, match=r"items\.csv has 2 columns in line 1, and --item-columns names 3"):
        run(write("log.csv", EVENTS), items=items, item_columns=["item", "name", "price"])


def test_columns_that_cannot_be_ids_or_times(write: Write, tmp_path: Path) -> None:
    frame = pl.DataFrame({"session": ["s", "s"], "item": [0.5, 1.5], "time": [1, 2]})
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"column 'item' holds fractions such as 0\.5: item ids must be"):
        run(tmp_path / "log.parquet")
    with pytest.raises(
        DataError,
        match=r"2 of 2 times of column 'time' .* such as 'yesterday', .*log\.csv, line 2: .* --time-format",
    ):
        run(write("log.csv", "session,item,time\ns,1,yesterday\ns,2,today\n"))


# --- nothing left


@pytest.mark.parametrize("name", ["log.csv", "log.txt", "log.csv.gz"])
@pytest.mark.parametrize("content", ["", "session,item,time\n"])
def test_an_empty_log(write: Write, name: str, content: str) -> None:
    if name.endswith("txt") and content:
        content = "# only a comment\n\n"
    path = write(name, gzip.compress(content.encode()) if name.endswith("gz") else content)
    with pytest.raises(EmptyLogError, match=name):
        run(path, comment="#")


def test_what_removed_everything_is_said(write: Write) -> None:
    log = write(
        "log.csv", "session,item,time,kind\ns,1,1700000010,view\ns,2,1700000020,view\nt,,1700000030,buy\n"
    )
    with pytest.raises(EmptyLogError) as error:
        run(log, event_column="kind", events=["purchase"])
    assert str(error.value) == (
        "no click is left of log.csv: 3 clicks read, 1 dropped (no item id), "
        "2 dropped (not of event type purchase, but view, buy)"
    )
    with pytest.raises(
        EmptyLogError, match=r"training split: 3 clicks read, .*sessions of fewer than 3 clicks"
    ):
        run(log, min_session_length=3)
    with pytest.raises(
        EmptyLogError, match=r"2 dropped \(on items of fewer than 2 clicks in the training split\)"
    ):
        run(log, min_item_support=2)


def test_nothing_left_to_test_on(write: Write) -> None:
    train, test = write("train.txt", "a b\nb a\n"), write("test.txt", "c d\n")
    with pytest.raises(
        EmptyLogError, match=r"test split: 6 clicks read, 2 dropped \(on items that the training split"
    ):
        run(train, test_log=test)
    with pytest.raises(EmptyLogError, match=r"--validation-fraction 0\.9 leaves none"):
        run(train, validation_fraction=0.9)


# --- items and categories


def test_a_log_and_a_table_of_different_ids(write: Write) -> None:
    items = write("items.csv", "item\nx1\nx2\n")
    with pytest.raises(
        DataError, match=r"no item of the log is in .*items\.csv: .* such as '1', the table such as 'x1'"
    ):
        run(write("log.csv", EVENTS), items=items)


def test_an_item_table_without_items(write: Write) -> None:
    with pytest.raises(DataError, match=r"items\.csv has no items"):
        run(write("log.csv", EVENTS), items=write("items.csv", "item,name\n"))
    with pytest.raises(DataError, match=r"nothing\.csv is empty"):
        run(write("log.csv", EVENTS), items=write("nothing.csv", ""))


def test_a_cycle_in_the_category_tree(write: Write) -> None:
    items = write("items.csv", "item,category\n1,7\n2,8\n")
    tree = write("tree.csv", "id,parent\n7,8\n8,9\n9,7\n")
    with pytest.raises(CategoryCycleError, match=r"tree\.csv: category 7 is its own ancestor: 7 → 8 → 9 → 7"):
        run(write("log.csv", EVENTS), items=items, category_columns=["category"], category_tree=tree)


def test_a_category_tree_of_one_column(write: Write) -> None:
    items = write("items.csv", "item,category\n1,7\n2,8\n")
    tree = write("tree.csv", "id\n7\n")
    with pytest.raises(DataError, match=r"tree\.csv has only the columns"):
        run(write("log.csv", EVENTS), items=items, category_columns=["category"], category_tree=tree)


# --- leaks


def test_the_training_log_as_test_log(write: Write) -> None:
    with pytest.raises(LeakError, match=r"the test log .*b\.csv is also a training log"):
        run(write("a.csv", EVENTS), test_log=write("b.csv", EVENTS))


def test_a_session_in_both_logs(write: Write) -> None:
    later = write(
        "later.csv", "session,item,time\nt,1,1700000050\nt,2,1700000060\nu,1,1700000070\nu,2,1700000080\n"
    )
    with pytest.raises(LeakError, match="1 sessions are in both the training and the test log, such as t"):
        run(write("log.csv", EVENTS), test_log=later)


def test_test_sessions_before_the_end_of_training(write: Write) -> None:
    early = write(
        "early.csv", "session,item,time\nu,1,1700000039\nu,2,1700000060\nv,1,1700000041\nv,2,1700000042\n"
    )
    with pytest.raises(
        LeakError, match="1 of 2 test sessions begin before the training log ends, 2023-11-14 22:14:00"
    ):
        run(write("log.csv", EVENTS), test_log=early)
    run(
        write("log.csv", EVENTS),
        test_log=write("late.csv", "session,item,time\nu,1,1700000040\nu,2,1700000060\n"),
    )


def test_test_sessions_copied_from_training(write: Write) -> None:
    train = write("train.txt", "1 2 3 4 5\n5 4 3 2 1 6\n1 2\n3 4\n")
    half = write("half.txt", "1 2 3 4 5\n5 4 3 2 1\n1 2\n3 4\n")  # short sessions recur by chance
    most = write("most.txt", "1 2 3 4 5\n5 4 3 2 1 6\n6 5 4 3 2\n1 3\n")
    run(train, test_log=half)
    with pytest.raises(
        LeakError, match="2 of the 3 test sessions of 5 clicks or more are in the training split too"
    ):
        run(train, test_log=most)
    with pytest.raises(LeakError, match="2 of the 2 test sessions"):
        run(write("log.txt", "1 2 3 4 5\n5 4 3 2 1\n" * 2), test_fraction=0.5)


# --- vectors


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), "must have one vector for each row of the item table, 2, .* got 3"),
        (np.zeros(2), r"must hold numbers \[rows, width\], got float64 \[2\]"),
        (np.zeros((2, 0)), r"got float64 \[2, 0\]"),
        (np.zeros((2, 4), bool), r"got bool \[2, 4\]"),
        (
            np.zeros((2, 65_537), np.float16),
            "holds vectors of 65,537 numbers, of which a model reads 65,536 at most",
        ),
        (np.array([["a"], ["b"]]), "got <U1"),
        (np.array([[None], [None]]), "is not a .npy file of numbers"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), r"row 1 \(counted from 0\) holds values that are not finite"),
        (np.array([[np.inf, 1.0], [1.0, 1.0]]), "row 0 .* not finite"),
        (np.array([[1.0, 1.0], [1e300, 1.0]]), "row 1 .* not finite"),
    ],
)
def test_vectors_that_do_not_fit(write: Write, tmp_path: Path, array: NDArray[Any], message: str) -> None:
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(DataError, match=rf"v\.npy.* ?{message}"):
        run(
            write("log.csv", EVENTS),
            items=write("items.csv", "item\n1\n2\n"),
            item_vectors=tmp_path / "v.npy",
        )


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00v\x00"])
def test_a_file_that_holds_no_array(write: Write, tmp_path: Path, content: bytes) -> None:
    table = write("items.csv", "item\n1\n2\n")
    with pytest.raises(DataError, match=r"v\.npy"):
        run(write("log.csv", EVENTS), items=table, item_vectors=write("v.npy", content))
    np.savez(tmp_path / "v.npz", a=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"v\.npz is not a \.npy file: it holds several arrays"):
        run(write("log.csv", EVENTS), items=table, item_vectors=tmp_path / "v.npz")
    with pytest.raises(DataError, match=r"there is no file .*missing\.npy"):
        run(write("log.csv", EVENTS), items=table, item_vectors=tmp_path / "missing.npy")


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_format": "rows"}, "--format must be one of auto, events, sessions, got 'rows'"),
        ({"time_unit": "h"}, "--time-unit must be one of auto, s, ms, us, ns, got 'h'"),
        ({"session_gap": 0}, "--session-gap must be minutes > 0 and below 1,000,000.0, got 0"),
        ({"min_item_support": 0}, "--min-item-support must be an integer ≥ 1, got 0"),
        ({"min_session_length": 1}, "--min-session-length must be an integer ≥ 2, got 1"),
        ({"validation_fraction": 1.0}, r"--validation-fraction must be in \[0, 1\), got 1.0"),
        ({"test_fraction": 1.5}, r"--test-fraction must be in \(0, 1\), got 1.5"),
        ({"test_days": -1}, "--test-days must be a number > 0 and below 1,000,000.0, got -1"),
        ({"test_days": 1, "test_fraction": 0.5}, "--test-days and --test-fraction do not go together"),
        ({"session_column": "", "user_column": "b"}, "--session-column '' makes each row a session"),
        ({"session_gap": 5.0}, "--session-gap cuts the clicks of a user: give a --user-column alone"),
        ({"item_column": "session"}, "column 'session' cannot be both the item and the session"),
        ({"time_column": "", "time_zone": "UTC"}, "--time-zone: the log has no times"),
        ({"events": "view"}, "--event must be a list, got str"),
        ({"min_item_support": 1.5}, "--min-item-support must be an integer, got float"),
        ({"events": ["view"]}, "--event needs an --event-column"),
        ({"item_vectors": Path("v.npy")}, "--item-vectors needs an item table: --items"),
        ({"text_encoder": "a:b"}, "--text-encoder needs a --text-column"),
        (
            {
                "items": Path("i.csv"),
                "text_columns": ["a"],
                "text_encoder": "a:b",
                "item_vectors": Path("v.npy"),
            },
            "--text-encoder and --item-vectors do not go together",
        ),
        ({"all_items": True}, "--all-items needs an item table: --items"),
        ({"category_tree": Path("tree.csv")}, "--category-tree needs a --category-column"),
        ({"category_path_separator": "."}, "--category-path-separator needs a --category-column"),
        (
            {"items": Path("i.csv"), "category_columns": ["a", "b"], "category_path_separator": "."},
            "goes with one --category-column",
        ),
        ({"separator": ";;", "quote": "'"}, "--quote goes with a separator of one character, not with ';;'"),
        ({"separator": "\n"}, r"a separator must be text within a line, got '\\n'"),
        ({"quote": '""'}, "--quote must be one character other than the separator, or none"),
        ({"quote": ","}, "--quote must be one character other than the separator, or none"),
        ({"encoding": "klingon"}, "--encoding 'klingon' is not known; examples: utf-8, latin-1"),
        ({"comment": ""}, "--comment must be a text"),
        ({"time_zone": "Mars/Base"}, "--time-zone must be the name of a time zone such as Europe/Berlin"),
        ({"time_unit": "s", "time_format": "%Y%m%d"}, "--time-unit and --time-format do not go together"),
        ({"time_format": "noon"}, "--time-format must be a format such as"),
        ({"time_format": "%H:%M"}, "--time-format '%H:%M' has no day"),
        ({"time_format": "%d.%m.%Y %Z"}, "names of zones .* are ambiguous"),
        ({"since": "soon"}, "--since must be a date such as 2024-01-31"),
        (
            {"since": "2024-02-01", "until": "2024-01-01"},
            "--since 2024-02-01 is not before --until 2024-01-01",
        ),
        ({"line_id": True}, "is read as one event a row, which has no --line-id"),
        ({"max_session_length": 1}, "--max-session-length must be an integer ≥ 2, got 1"),
        ({"min_session_length": 201}, "--min-session-length 201 is above --max-session-length 200"),
        (
            {"category_columns": ["a"], "category_separator": "|", "category_path_separator": "|"},
            "--category-separator and --category-path-separator must differ",
        ),
        ({"time_column": "", "user_column": "session"}, "cannot be cut by user without a --time-column"),
        ({"time_column": "", "test_days": 1}, "--test-days needs a log with times"),
        ({"shuffle_seed": 1}, "--shuffle-seed is for logs without times"),
    ],
)
def test_options_out_of_range(write: Write, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        run(write("log.csv", EVENTS), **options)


def test_no_log_and_logs_of_two_kinds(write: Write) -> None:
    with pytest.raises(InvalidOptionError, match="no log was given"):
        run([])
    with pytest.raises(InvalidOptionError, match="cannot be read together"):
        run([write("a.csv", EVENTS), write("b.txt", "1 2\n")])
