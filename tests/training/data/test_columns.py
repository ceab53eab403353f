"""Every role with every type of column, from Parquet, Arrow and pandas: a value, or an error of ours."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_sdk.errors import DataError, HierSRecError, InvalidOptionError
from hiersrec_training.data.columns import Column, unify_ids
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.data.options import MISSING_TEXTS
from hiersrec_training.data.prepare import PrepareOptions, prepare

T = 1_706_702_400  # 2024-01-31 12:00:00 UTC
WHEN = datetime(2024, 1, 31, 12)
TYPES: dict[str, pl.Series] = {
    "int8": pl.Series([1, 2, 1, 3], dtype=pl.Int8),
    "int16": pl.Series([1, 2, 1, 3], dtype=pl.Int16),
    "int32": pl.Series([T, T + 1, T, T + 2], dtype=pl.Int32),
    "int64": pl.Series([T, T + 1, T, T + 2], dtype=pl.Int64),
    "int128": pl.Series([1, 2, 1, 3], dtype=pl.Int128),
    "uint8": pl.Series([1, 2, 1, 3], dtype=pl.UInt8),
    "uint16": pl.Series([1, 2, 1, 3], dtype=pl.UInt16),
    "uint32": pl.Series([T, T + 1, T, T + 2], dtype=pl.UInt32),
    "uint64": pl.Series([2**63 + 1, 2, 1, 3], dtype=pl.UInt64),
    "float32": pl.Series([1.0, 2.0, 1.0, None], dtype=pl.Float32),
    "float64": pl.Series([T + 0.5, T + 1.5, float("nan"), T + 2.0]),
    "infinite": pl.Series([float("inf"), float("-inf"), 1.0, 2.0]),
    "decimal": pl.Series([decimal.Decimal("1.50"), decimal.Decimal("2.00"), None, decimal.Decimal("3.00")]),
    "bool": pl.Series([True, False, True, None]),
    "string": pl.Series(["a", "b ", " a", "NULL"]),
    "digits": pl.Series([str(T), str(T + 1), str(T), str(T + 2)]),
    "iso": pl.Series(["2024-01-31", "2024-01-31", "2024-02-01", None]),
    "categorical": pl.Series(["a", "b", "a", None], dtype=pl.Categorical),
    "enum": pl.Series(["a", "b", "a", "b"], dtype=pl.Enum(["a", "b"])),
    "binary": pl.Series([b"a", b"b", b"a", None]),
    "date": pl.Series([date(2024, 1, 31), date(2024, 1, 31), date(2024, 2, 1), None]),
    "datetime_ms": pl.Series([WHEN, WHEN, WHEN, None]).cast(pl.Datetime("ms")),
    "datetime_ns": pl.Series([WHEN, WHEN, WHEN, WHEN]).cast(pl.Datetime("ns")),
    "datetime_utc": pl.Series([WHEN.replace(tzinfo=UTC)] * 4),
    "datetime_tokyo": pl.Series([WHEN] * 4).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"),
    "time": pl.Series([time(12, 0), time(12, 1), time(12, 2), None]),
    "duration": pl.Series([timedelta(seconds=1)] * 4),
    "list_string": pl.Series([["a", "b"], ["b"], [], None]),
    "list_int": pl.Series([[1, 2], [2], [], None]),
    "list_list": pl.Series([[["a"]], [["b"]], [], None]),
    "array": pl.Series([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=pl.Array(pl.Int64, 2)),
    "struct": pl.Series([{"x": 1}, {"x": 2}, {"x": 1}, {"x": 3}]),
    "list_struct": pl.Series([[{"x": 1}], [{"x": 2}], [], None]),
    "null": pl.Series([None] * 4, dtype=pl.Null),
    "object": pl.Series([1, "a", None, 2.5], dtype=pl.Object),
}
ROLES = (
    *("session_column", "user_column", "item_column", "time_column", "event_column"),
    *(
        "item_id_column",
        "category",
        "two_levels",
        "fallback_category_column",
        "text",
        "title_column",
        "number",
    ),
    *("tree_child_column", "tree_parent_column", "log_category", "log_title"),
)


def prepared(role: str, values: pl.Series, folder: Path, *, as_file: bool) -> Dataset:
    """Prepare a log, a table and a tree, with ``values`` as the column in this role."""
    log = pl.DataFrame(
        {
            "session": [1, 1, 2, 2],
            "user": [1, 1, 2, 2],
            "item": ["a", "b", "a", "c"],
            "time": [T, T + 1, T + 2, T + 3],
        }
    )
    items = pl.DataFrame(
        {"item": ["a", "b", "c", "d"], "category": ["x", "y", "z", None], "top": ["p", "p", "q", "q"]}
    )
    tree = pl.DataFrame({"child": ["x", "y", "z", "p"], "parent": ["p", "p", "p", None]})
    options: dict[str, Any] = {"validation_fraction": 0, "session_column": "session", "allow_copies": True}
    odd = values.alias("odd")
    if role in ("session_column", "user_column", "item_column", "time_column", "event_column"):
        log = log.with_columns(odd)
        options[role] = "odd"
        if role == "user_column":
            del options["session_column"]
    elif role.startswith("log_"):
        log = log.with_columns(odd)
        options |= {"category_columns": ["odd"]} if role == "log_category" else {"title_column": "odd"}
    elif role.startswith("tree_"):
        tree = tree.with_columns(odd)
        options |= {"items": items, "category_columns": ["category"], "category_tree": tree, role: "odd"}
        if role == "tree_parent_column":
            options["tree_child_column"] = "child"
    else:
        items = items.with_columns(odd)
        columns: dict[str, dict[str, Any]] = {
            "category": {"category_columns": ["odd"]},
            "two_levels": {"category_columns": ["top", "odd"]},
            "fallback_category_column": {"category_columns": ["category"], "fallback_category_column": "odd"},
            "text": {"text_columns": ["odd"]},
            "number": {"number_columns": ["odd"]},
        }
        options |= {"items": items, **columns.get(role, {role: "odd"})}
    if as_file:
        for name, frame in (("log", log), ("items", items), ("category_tree", tree)):
            frame.write_parquet(folder / f"{name}.parquet")
            if name in options:
                options[name] = folder / f"{name}.parquet"
    logs = [folder / "log.parquet" if as_file else log]
    return prepare(PrepareOptions(logs=logs, **options), lambda line: None)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("name", "as_file"),
    [(name, as_file) for name in TYPES for as_file in (True, False) if not as_file or name != "object"],
)
@pytest.mark.slow
def test_a_value_or_an_error_of_ours(tmp_path: Path, role: str, name: str, as_file: bool) -> None:
    try:
        data = prepared(role, TYPES[name], tmp_path, as_file=as_file)
    except HierSRecError as error:
        message = str(error)
        assert message
        assert "polars" not in message.lower()
    else:
        data.save(tmp_path / "data")
        assert Dataset.load(tmp_path / "data").items == data.items


def column(missing: Any = MISSING_TEXTS) -> Column:
    return Column("sku", "item ids", "--item-column", "log.parquet", missing)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (TYPES["int8"], [1, 2, 1, 3]),
        (TYPES["uint64"], [str(2**63 + 1), "2", "1", "3"]),
        (TYPES["int128"], ["1", "2", "1", "3"]),
        (TYPES["float32"], [1, 2, 1, None]),
        (pl.Series([decimal.Decimal("7.00"), None]), [7, None]),
        (TYPES["string"], ["a", "b", "a", None]),
        (TYPES["null"], [None] * 4),
        (
            pl.Series(
                ["nan", "NaN", "None", "NULL", "null", r"\N", "NA", "N/A", "n/a", "<NA>", "", "  ", "\t"]
            ),
            [None] * 13,
        ),
        (pl.Series(["Nan", "none of these", "NAH", "-", "0"]), ["Nan", "none of these", "NAH", "-", "0"]),
        (pl.Series(["A", "A ", " A", "\u00a0A"]), ["A"] * 4),
    ],
)
def test_ids(values: pl.Series, found: list[Any]) -> None:
    assert column().ids(values).to_list() == found


def test_what_was_changed_is_counted() -> None:
    read = column()
    read.ids(pl.Series(["A ", "b", "NULL", " NULL"]))
    read.ids(pl.Series(["c ", "nan"]))
    assert (read.stripped, read.stripped_example) == (3, "A ")
    assert dict(read.missing_texts) == {"NULL": 2, "nan": 1}
    assert column(["-"]).ids(pl.Series(["NULL", "-", ""])).to_list() == ["NULL", None, None]


@pytest.mark.parametrize("name", ["binary", "date", "time", "duration", "list_string", "struct", "bool"])
def test_types_that_are_no_ids(name: str) -> None:
    with pytest.raises(
        DataError, match=r"log\.parquet: column 'sku' holds .*: item ids must be .* --item-column"
    ):
        column().ids(TYPES[name])


def test_texts() -> None:
    assert column().texts(TYPES["list_string"]).to_list() == ["a b", "b", None, None]
    assert column().texts(pl.Series([1.5, float("nan")])).to_list() == ["1.5", None]
    assert column().texts(TYPES["bool"]).to_list() == ["true", "false", "true", None]


@given(
    st.lists(
        st.none() | st.integers(-(2**63), 2**63 - 1) | st.sampled_from(["007", "+1", "1.0", "a", "1e3"]),
        min_size=1,
    )
)
def test_one_type_of_ids(values: list[Any]) -> None:
    texts = pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)
    (found,) = unify_ids([texts])
    integral = all(value is None or isinstance(value, int) for value in values) and any(
        value is not None for value in values
    )
    assert found.to_list() == (values if integral else texts.to_list())


# --- frames of other libraries


@pytest.mark.parametrize(
    "convert", [lambda f: f, lambda f: f.lazy(), lambda f: f.to_arrow(), lambda f: f.to_pandas()]
)
def test_logs_and_tables_may_be_frames(convert: Callable[[pl.DataFrame], Any]) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("pandas")
    log = pl.DataFrame({"session": ["s", "s", "t", "t"], "item": [1, 2, 2, 3], "time": [WHEN] * 4})
    items = pl.DataFrame({"item": [1, 2, 3], "category": ["x", None, "y"], "price": [1.5, None, 2.0]})
    about: dict[str, Any] = {"category_columns": ["category"], "number_columns": ["price"]}
    options = PrepareOptions(logs=[convert(log)], items=convert(items), validation_fraction=0, **about)
    data = prepare(options, lambda line: None)
    assert data.item_ids.to_list() == [1, 2, 3]
    assert data.train.items.tolist() == [0, 1, 1, 2]
    assert data.settings["options"]["logs"] == ["frame"]
    assert data.settings["report"]["files"][0]["name"] == "log 1"


def test_what_is_no_frame() -> None:
    for source in (3, object(), {"session": [1, 2], "item": [3]}):
        with pytest.raises(
            DataError, match="log 1 must be the path of a file or a Polars, pandas or Arrow table"
        ):
            prepare(PrepareOptions(logs=[source]), lambda line: None)
    for one in ("log.csv", Path("log.csv"), pl.DataFrame({"session": [1]})):
        logs: Any = one
        with pytest.raises(InvalidOptionError, match="logs must be a list of paths or tables, got"):
            prepare(PrepareOptions(logs=logs), lambda line: None)
    with pytest.raises(InvalidOptionError, match="--format sessions is for text files"):
        prepare(PrepareOptions(logs=[pl.DataFrame()], log_format="sessions"), lambda line: None)
