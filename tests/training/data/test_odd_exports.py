"""Logs as systems export them: what stands for nothing, columns of users, trees, encodings, dates that cannot be."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from click.testing import CliRunner

from hiersrec_sdk.cli.main import main
from hiersrec_sdk.errors import DataError, EmptyLogError, InvalidOptionError, MissingColumnError
from hiersrec_training.data.dataset import Dataset
from tests.training.data.log_files import START, LogFiles

ROWS = [("s", "a", START), ("s", "b", START + 1), ("t", "a", START + 60), ("t", "c", START + 61)]
CLICKS = pl.DataFrame(ROWS, schema=["session", "item", "time"], orient="row")
SESSIONS = [["a", "b"], ["a", "c"]]


@pytest.fixture
def logs(tmp_path: Path) -> LogFiles:
    return LogFiles(tmp_path)


def paths_of(logs: LogFiles, items: Any, log: Any = CLICKS, **options: Any) -> dict[Any, Any]:
    """The category path of every item, without the repetition of its last id."""
    data = logs.prepare(log, items=items, **options)
    index = data.tree.paths()
    found = {}
    for item, leaf in zip(data.item_ids, data.category, strict=True):
        path = [data.tree.ids[level][at] for level, at in enumerate(index[leaf])]
        while len(path) > 1 and path[-1] == path[-2]:
            path.pop()
        found[item] = tuple(path)
    return found


# --- categories


@pytest.mark.parametrize("seed", range(3))
def test_levels_of_a_log_come_from_one_row(logs: LogFiles, seed: int) -> None:
    rows = pl.DataFrame(
        {
            "session": ["s", "s", "t", "t", "u", "u"],
            "item": ["a", "b", "a", "b", "a", "b"],
            "time": [START + at for at in range(6)],
            "one": ["Men", "Men", "Women", "Sale", "NULL", None],
            "two": ["Shoes", "Shoes", "Dresses", "", None, None],
            "three": ["Boots", "Boots", None, None, " ", ""],
        }
    )
    shuffled = rows.sample(fraction=1, shuffle=True, seed=seed)
    columns = ["one", "two", "three"]
    assert paths_of(logs, None, shuffled, category_columns=columns) == {
        "a": ("Women", "Dresses"),
        "b": ("Sale",),
    }
    early = paths_of(logs, None, rows, category_columns=columns, test_fraction=0.6)
    assert early == dict.fromkeys("ab", ("Men", "Shoes", "Boots"))


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["Men > Shoes", "Men > NULL > NULL", "NULL > NULL"], [("Men", "Shoes"), ("Men",), ("unknown",)]),
        (["Men >\xa0> Shirts", "NULL > Men", "N/A"], [("Men", "Men", "Shirts"), ("Men",), ("unknown",)]),
    ],
)
def test_parts_of_paths_are_missing_as_other_values_are(
    logs: LogFiles, cells: list[str], expected: list[Any]
) -> None:
    items = pl.DataFrame({"item": ["a", "b", "c"], "path": cells})
    options = {"category_columns": ["path"], "category_path_separator": ">"}
    assert list(paths_of(logs, items, **options).values()) == expected
    assert any(line.startswith("missing") and "written as NULL" in line for line in logs.report)
    kept = paths_of(logs, items, **options, default_missing=False)
    assert any("NULL" in path for path in kept.values())
    backed = items.with_columns(other=pl.lit("Rest"))
    assert paths_of(logs, backed, **options, fallback_category_column="other")["c"] == ("Rest",)


@pytest.mark.parametrize(
    ("option", "column"),
    [("category_path_separator", "Men > Shoes"), ("category_separator", "Comedy|Drama")],
)
def test_a_separator_that_is_nowhere_warns(logs: LogFiles, option: str, column: str) -> None:
    items = pl.DataFrame({"item": ["a", "b", "c"], "kind": ["Men", column, "Men"]})
    logs.prepare(CLICKS, items=items, category_columns=["kind"], **{option: "/"})
    flag = f"--{option.replace('_', '-')}"
    assert any(
        f"{flag} '/' is in none of the categories in kind, such as '{column}'" in w for w in logs.warnings
    )
    logs.prepare(CLICKS, items=items, category_columns=["kind"], **{option: column[-6]})
    assert not any("is in none" in warning for warning in logs.warnings)


def test_a_list_separator_that_is_nowhere_warns(logs: LogFiles) -> None:
    logs.prepare(CLICKS, list_separator="|")
    assert any(
        "--list-separator '|' is in none of the cells of 'item', such as 'a'" in w for w in logs.warnings
    )


def test_a_separator_that_is_in_no_line_warns(logs: LogFiles) -> None:
    with pytest.raises(EmptyLogError):
        logs.prepare(logs.write("log.txt", "a,b\nb,a\n"), separator=";")
    assert any("such as 'a,b': none holds --separator ';'" in warning for warning in logs.warnings)


def test_lists_of_categories_are_several_or_a_path(logs: LogFiles) -> None:
    lists = [["Men", "Shoes"], ["Men", None, "NULL"], [" Women ", "Shoes"]]
    items = pl.DataFrame({"item": ["a", "b", "c"], "kind": lists})
    data = logs.prepare(CLICKS, items=items, category_columns=["kind"])
    assert data.tree.depth == 1
    assert any(line.startswith("lists") and "--category-list-is-path" in line for line in logs.report)
    options: dict[str, Any] = {"category_columns": ["kind"], "category_list_is_path": True}
    expected = {"a": ("Men", "Shoes"), "b": ("Men",), "c": ("Women", "Shoes")}
    assert paths_of(logs, items, **options) == expected
    several = items.with_columns(kind=pl.Series([[each, ["Sale"]] for each in lists]))
    assert paths_of(logs, several, **options) == expected
    assert paths_of(logs, None, CLICKS.join(items, on="item"), **options) == expected
    with pytest.raises(InvalidOptionError, match="holds String: --category-list-is-path is for lists"):
        logs.prepare(CLICKS, items=items.with_columns(kind=pl.lit("x")), **options)


@pytest.mark.parametrize("root", ["0", "-1", "top"])
def test_a_root_that_is_no_category(logs: LogFiles, root: str) -> None:
    items = pl.DataFrame({"item": ["a", "b", "c"], "kind": ["31", "2", None]})
    tree = pl.DataFrame({"id": ["1", "2", "31"], "parent": [root, root, "1"]})
    options: dict[str, Any] = {"category_columns": ["kind"], "category_tree": tree}
    with_root = paths_of(logs, items, **options)
    assert len(with_root[next(iter(with_root))]) == 3
    (warning,) = logs.warnings
    assert "is above all categories of the table" in warning
    assert f"--tree-root {root} leaves it out" in warning
    own_row = pl.concat([tree, pl.DataFrame({"id": [root], "parent": [None]}, schema=tree.schema)])
    for each in (tree, own_row):
        found = paths_of(logs, items, **options | {"category_tree": each}, tree_root=root)
        assert [[str(id_) for id_ in path] for path in found.values()][:2] == [["1", "31"], ["2"]]
        assert not logs.warnings
    logs.prepare(CLICKS, items=items, **options, tree_root="9")
    assert any("--tree-root 9 is the parent of no category" in warning for warning in logs.warnings)
    with pytest.raises(InvalidOptionError, match="--tree-root needs a --category-tree"):
        logs.prepare(CLICKS, tree_root="0")


def test_a_category_that_is_its_own_parent_is_at_the_top(logs: LogFiles) -> None:
    items = pl.DataFrame({"item": ["a", "b", "c"], "kind": [31, 2, 1]})
    tree = pl.DataFrame({"id": [1, 2, 31], "parent": [1, 2, 1]})
    found = paths_of(logs, items, category_columns=["kind"], category_tree=tree)
    assert found == {"a": (1, 31), "b": (2,), "c": (1,)}


# --- sessions and users


@pytest.mark.parametrize(
    "name",
    [
        *(
            "user_pseudo_id",
            "client_id",
            "clientId",
            "anonymous_id",
            "anonymousId",
            "fullVisitorId",
            "visitorId",
        ),
        *("idVisitor", "domain_userid", "cookie_id", "device_id", "uid", "User ID", "VISITOR", "distinct_id"),
    ],
)
def test_ids_that_begin_anew_for_each_user(logs: LogFiles, name: str) -> None:
    rows = [(visit, user, f"{user}{visit}{k}", START) for user in "xyz" for visit in (1, 2) for k in range(2)]
    log = pl.DataFrame(rows, schema=["session", name, "item", "time"], orient="row")
    with pytest.raises(DataError, match=f"give --user-column {name} beside --session-column session if ids"):
        logs.prepare(log)
    logs.prepare(log, session_column="session")
    assert any("belong to several users" in warning for warning in logs.warnings)
    nested = log.select("session", "item", "time", pl.struct(pl.col(name).alias("id")).alias("user"))
    with pytest.raises(DataError, match=r"give --user-column user\.id beside"):
        logs.prepare(nested)


@pytest.mark.parametrize("name", ["id", "sku_id", "event_id", "uuid", "idaction", "u"])
def test_other_ids_are_no_users(logs: LogFiles, name: str) -> None:
    log = CLICKS.with_columns(pl.Series(["1", "2", "3", "4"]).alias(name))
    assert logs.sessions(log) == SESSIONS


def test_a_session_with_a_large_share_of_the_clicks_warns(logs: LogFiles) -> None:
    rows = [("(not set)" if n % 2 else f"s{n % 40}", f"i{n % 7}", START + n) for n in range(400)]
    log = pl.DataFrame(rows, schema=["session", "item", "time"], orient="row")
    logs.prepare(log)
    expected = (
        "session '(not set)' has 50% of the clicks: is it a bot, or does it stand for no session? --missing"
    )
    assert any(expected in warning for warning in logs.warnings)
    logs.prepare(log, missing=["(not set)"])
    assert not any("of the clicks" in warning for warning in logs.warnings)


def test_types_of_event_are_listed(logs: LogFiles) -> None:
    log = CLICKS.with_columns(kind=pl.Series(["view", "view", "cart", "view"]))
    logs.prepare(log, event_column="kind")
    (line,) = [line for line in logs.report if line.startswith("events")]
    assert line.endswith("2 types of event, all kept (--event keeps some alone): view 3, cart 1")
    logs.prepare(log, event_column="kind", events=["view", "cart"])
    assert not any(line.startswith("events") for line in logs.report)


@pytest.mark.parametrize(("column", "option"), [("Session", "session"), ("USER", "user")])
def test_a_column_in_other_case_is_named(logs: LogFiles, column: str, option: str) -> None:
    with pytest.raises(MissingColumnError, match=f": give --{option}-column {column}"):
        logs.prepare(CLICKS.rename({"session": column}))


# --- missing values


def test_missing_texts_add_to_the_defaults(logs: LogFiles) -> None:
    items = ["a", "NULL", "-", "b"]
    log = pl.DataFrame({"session": ["s"] * 4, "item": items, "time": range(START, START + 4)})
    assert logs.sessions(log, missing=["-"]) == [["a", "b"]]
    assert any(line.endswith("written as NULL (--no-default-missing keeps it)") for line in logs.report)
    assert any(line.endswith("written as -") for line in logs.report)
    assert logs.sessions(log, missing=["-"], default_missing=False) == [["a", "NULL", "b"]]
    assert logs.sessions(log, default_missing=False) == [items]


@pytest.mark.parametrize("kind", [pl.Int64, pl.Int8, pl.UInt8, pl.Float64, pl.Decimal(38, 0), pl.String])
def test_numbers_may_be_missing(logs: LogFiles, kind: Any) -> None:
    items = pl.Series([7, 0, 8, 0, 7, 9], dtype=pl.Int64).cast(kind)
    log = pl.DataFrame({"session": ["s"] * 3 + ["t"] * 3, "item": items, "time": range(START, START + 6)})
    assert logs.sessions(log, missing=["0"]) == [[7, 8], [7, 9]]
    assert any(line.startswith("missing") and "written as 0" in line for line in logs.report)


# --- times


@pytest.mark.parametrize(
    ("value", "options", "hint"),
    [
        ("1970-01-01T00:00:00", {}, "--missing '1970-01-01T00:00:00' if it stands for no time"),
        ("0001-01-01 00:00:00", {}, "--missing"),
        ("01.01.1970", {"time_format": "%d.%m.%Y"}, "--missing '01.01.1970'"),
    ],
)
def test_dates_before_1995_are_refused(logs: LogFiles, value: str, options: Any, hint: str) -> None:
    good = "31.01.2024" if options.get("time_format") else "2024-01-31T12:00:00"
    log = logs.csv("log.csv", [("s", "z", value), ("s", "a", good), ("s", "b", good)])
    with pytest.raises(DataError, match=r"1 of 3 clicks are before 1995: .*log.csv, line 2, time") as refused:
        logs.prepare(log, **options)
    assert hint in str(refused.value)
    assert logs.sessions(log, **options, missing=[value]) == [["a", "b"]]
    assert logs.sessions(log, **options, since="1995-01-01") == [["a", "b"]]
    assert logs.sessions(log, **options, since="0001-01-01") == [["z", "a", "b"]]


@pytest.mark.parametrize("kind", [pl.Datetime("ns"), pl.Datetime("us", "UTC"), pl.Date])
def test_a_column_of_1970_is_refused(logs: LogFiles, kind: Any) -> None:
    days = pl.Series([datetime(1970, 1, 20, tzinfo=UTC)] * 4).dt.replace_time_zone(None)
    times = days.dt.replace_time_zone("UTC") if getattr(kind, "time_zone", None) else days.cast(kind)
    with pytest.raises(
        DataError, match=r"4 of 4 clicks are before 1995: .* if its unit was read wrong, --since"
    ):
        logs.prepare(CLICKS.with_columns(time=times))


def test_one_zero_among_unix_times(logs: LogFiles) -> None:
    log = logs.csv("log.csv", [("s", "z", 0), *ROWS])
    with pytest.raises(
        DataError, match=r"time 0 is in doubt: .* give --missing 0 if it stands for no time, or"
    ):
        logs.prepare(log)
    assert logs.sessions(log, missing=["0"]) == SESSIONS


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("%Y%m%dT%H%M%SZ", "20240131T120000Z"),
        ("%d.%m.%Y %H:%M GMT", "31.01.2024 12:00 GMT"),
        ("%d.%m.%Y %H:%M:%S (UTC)", "31.01.2024 12:00:00 (UTC)"),
        ("%d.%m.%Y %H:%MUTC", "31.01.2024 12:00UTC"),
    ],
)
def test_a_format_that_ends_in_utc_is_in_utc(logs: LogFiles, form: str, value: str) -> None:
    log = CLICKS.with_columns(time=pl.lit(value))
    data = logs.prepare(log, time_format=form, time_zone="Europe/Berlin")
    assert data.train.time is not None
    assert data.train.time.tolist() == [START, START]
    assert any("--time-zone Europe/Berlin has no effect" in warning for warning in logs.warnings)


def test_an_offset_in_a_format_is_refused(logs: LogFiles) -> None:
    with pytest.raises(InvalidOptionError, match="ends in an offset from UTC: write %z for it"):
        logs.prepare(CLICKS, time_format="%Y-%m-%d %H:%M:%S +01:00")


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_days_without_a_time_of_day_do_not_warn_of_full_hours(logs: LogFiles, zone: str | None) -> None:
    log = CLICKS.rename({"session": "user"})
    days = pl.Series(["2024-01-31", "2024-01-31", "2024-07-01", "2024-07-01"])
    assert logs.sessions(log.with_columns(time=days), time_zone=zone) == SESSIONS
    assert not logs.warnings
    logs.prepare(log.with_columns(time=days + " 10:00"), time_zone=zone)
    assert any("are on the full hour" in warning for warning in logs.warnings)


# --- frames and types


def test_pandas_columns_of_texts_and_nothing(logs: LogFiles) -> None:
    frame = CLICKS.to_pandas()
    frame["other"] = pd.Series(["x", float("nan"), 7, None], dtype=object)
    frame["kind"] = pd.Series(["x", float("nan"), None, pd.NA], dtype=object)
    assert logs.sessions(frame) == SESSIONS
    assert logs.prepare(frame, category_columns=["kind"]).tree.ids == [["x", "unknown"]]
    with pytest.raises(
        DataError, match=r"log 1: column 'other' cannot be read: .*; give its values one type"
    ):
        logs.prepare(frame, category_columns=["other"])


def test_long_decimals_are_exact_ids(logs: LogFiles) -> None:
    long = [Decimal(1234567890123456789 + at) for at in (0, 0, 1, 1)]
    for scale, most in ((0, 10**30), (2, 10**25)):
        log = CLICKS.with_columns(session=pl.Series(long, dtype=pl.Decimal(38, scale)))
        assert logs.sessions(log) == SESSIONS
        items = pl.Series(
            [Decimal(7), Decimal(most), Decimal(7), Decimal(most + 1)], dtype=pl.Decimal(38, scale)
        )
        assert logs.sessions(CLICKS.with_columns(item=items)) == [["7", str(most)], ["7", str(most + 1)]]
    half = pl.Series([Decimal("7.5")] * 4, dtype=pl.Decimal(38, 2))
    with pytest.raises(DataError, match=r"column 'item' holds fractions such as 7\.50"):
        logs.prepare(CLICKS.with_columns(item=half))


# --- text


def test_windows_text(logs: LogFiles) -> None:
    text = "session,item,time\n" + "".join(f"s,{item},{START}\n" for item in ("café", "10€", "b"))
    log = logs.write("log.csv", text.encode("cp1252"))
    with pytest.raises(DataError, match="name the encoding of the file, such as --encoding cp1252"):
        logs.prepare(log)
    assert logs.sessions(log, encoding="cp1252") == [["café", "10€", "b"]]
    assert not logs.warnings
    logs.prepare(log, encoding="latin-1")
    (warning,) = logs.warnings
    assert (
        "log.csv holds byte 0x80, which is no letter in latin-1: give --encoding cp1252 (Windows)" in warning
    )


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(logs: LogFiles, name: str, encoding: str) -> None:
    csv = CLICKS.write_csv() if name.endswith("csv") else CLICKS.write_ndjson()
    log = logs.write(name, csv.encode(encoding))
    for given in ("utf-8", "latin-1"):
        with pytest.raises(DataError, match=f"{name} is not UTF-8 text: .* give --encoding {encoding}"):
            logs.prepare(log, encoding=given)
    with pytest.raises(DataError, match=f"{name}.*give --encoding utf-16-le, or utf-16-be"):
        logs.prepare(log, encoding="utf-16")
    assert logs.sessions(log, encoding=encoding) == SESSIONS


def test_blanks_around_quotes(logs: LogFiles) -> None:
    rows = "".join(f' "{session}" , "{item}" ,{time} \n' for session, item, time in ROWS)
    assert logs.sessions(logs.write("log.csv", f'"session" , "item" , "time"\n{rows}')) == SESSIONS
    hard = (
        f'"session" ,"item", "time" ,"x, ""y"""\n"s" , "a "" , b" ,{START},1\ns, "b, c" ,{START}, "1, 2" \n'
    )
    assert logs.sessions(logs.write("log.csv", hard)) == [['a " , b', "b, c"]]


@pytest.mark.parametrize(
    ("form", "hint"),
    [('="00{}"', "export them without the formula"), ("'{}'", '--quote "\'" takes them off')],
)
def test_other_quotes_are_noticed(logs: LogFiles, form: str, hint: str) -> None:
    log = logs.csv("log.csv", [(session, form.format(item), time) for session, item, time in ROWS])
    logs.prepare(log)
    (warning,) = logs.warnings
    assert f"4 item ids of log.csv are in quotes, such as {form.format('a')}" in warning
    assert hint in warning


# --- the command line


def test_options_on_the_command_line(logs: LogFiles) -> None:
    log = logs.csv("log.csv", [("s", "-", START), ("s", "NULL", START + 1), *ROWS])
    rows = [("-", ["Men"]), ("NULL", ["Men"]), ("a", ["Men", "Shoes"]), ("b", ["Men"]), ("c", ["Sale"])]
    logs.write("items.jsonl", pl.DataFrame(rows, schema=["item", "kind"], orient="row").write_ndjson())
    logs.write("tree.csv", "id,parent\nMen,-1\nSale,-1\n")
    path = ["--items", "items.jsonl", "--category-column", "kind", "--category-list-is-path"]
    tree = [
        "--items",
        "flat.csv",
        "--category-column",
        "kind",
        "--category-tree",
        "tree.csv",
        "--tree-root",
        "-1",
    ]
    logs.write("flat.csv", "item,kind\na,Men\nb,Sale\n")
    for given, items, ids in (
        (["--missing", "-", "--no-default-missing", *path], ["NULL", "a", "b", "c"], [["Men", "Sale"]]),
        (["--missing", "-", *path], ["a", "b", "c"], [["Men", "Sale"]]),
        (["--missing", "-", *tree], ["a", "b", "c"], [["Men", "Sale", "unknown"]]),
    ):
        out = logs.folder / str(len(list(logs.folder.iterdir())))
        words = [str(logs.folder / word) if "." in word else word for word in given]
        result = CliRunner().invoke(
            main, ["prepare", str(log), *words, "--validation-fraction", "0", "--out", str(out)]
        )
        assert result.exit_code == 0, result.output
        data = Dataset.load(out)
        assert data.item_ids.to_list() == items
        assert data.tree.ids[:1] == ids


def test_a_log_is_no_dataset(logs: LogFiles) -> None:
    log = logs.csv("log.csv", ROWS)
    with pytest.raises(
        DataError, match=r"log\.csv is a file, not the folder of a dataset: hiersrec prepare makes"
    ):
        Dataset.load(log)
