"""What ``prepare`` once did without a word: options without effect, values that became others, names that collided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from hiersrec_sdk.errors import DataError, EmptyLogError, InvalidOptionError
from hiersrec_training.baselines import baseline, evaluate_baseline
from hiersrec_training.data.text_encoders import encode_texts
from tests.training.data.log_files import START, LogFiles

CLICKS = pl.DataFrame(
    {"session": ["a", "a", "b", "b"], "item": [7, 8, 7, 9], "time": [START, START + 1, START + 2, START + 3]}
)


@pytest.fixture
def logs(tmp_path: Path) -> LogFiles:
    return LogFiles(tmp_path)


def many(frame: pl.DataFrame, times: int = 6) -> pl.DataFrame:
    """The sessions of a log several times, each time as other ones, an hour apart."""
    return pl.concat(
        frame.with_columns(pl.col("session") + str(at), pl.col("time") + 3600 * at) for at in range(times)
    )


# --- text that is stored in another way


@pytest.mark.parametrize(
    "kind", [pl.Categorical(), pl.Enum(["x|y", "x", "7,8", "7,9"]), pl.Binary()], ids=str
)
@pytest.mark.parametrize("packed", [False, True])
def test_text_is_text_however_it_is_stored(logs: LogFiles, kind: Any, packed: bool) -> None:
    log = pl.DataFrame({"session": ["a", "b"], "item": ["7,8", "7,9"], "time": [START, START + 1]})
    items = pl.DataFrame({"item": ["7", "8", "9"], "kinds": ["x|y", "x", None]})
    sources: list[Any] = [
        log.with_columns(pl.col("item").cast(kind)),
        items.with_columns(pl.col("kinds").cast(kind)),
    ]
    if packed:
        paths = [logs.folder / "log.parquet", logs.folder / "items.parquet"]
        for frame, path in zip(sources, paths, strict=True):
            frame.write_parquet(path)
        sources = [*paths]
    data = logs.prepare(
        sources[0],
        items=sources[1],
        list_separator=",",
        category_columns=["kinds"],
        category_separator="|",
    )
    assert data.item_ids.to_list() == [7, 8, 9]
    assert len(data.train) == 2
    assert set(data.tree.ids[-1]) == {"x", "y", "unknown"}


def test_bytes_that_are_no_text_are_refused(logs: LogFiles) -> None:
    log = CLICKS.with_columns(item=pl.Series([b"\xff", b"a", b"b", b"c"]))
    with pytest.raises(DataError, match="holds Binary that is not UTF-8: item ids must be integers or text"):
        logs.prepare(log)


def test_fields_of_columns_with_points_and_of_arrays(logs: LogFiles) -> None:
    clicks = pl.Series([{"item": 7}, {"item": 8}, {"item": 7}, {"item": 9}])
    log = CLICKS.drop("item").with_columns(clicks.alias("my.ev"))
    assert logs.sessions(log, item_column="my.ev.item") == [[7, 8], [7, 9]]
    pairs = pl.Series([[{"item": 7}, {"item": 8}], [{"item": 7}, {"item": 9}]])
    arrays = pl.DataFrame({"session": ["a", "b"], "time": [START, START + 1]}).with_columns(
        pairs.cast(pl.Array(pl.Struct({"item": pl.Int64}), 2)).alias("events")
    )
    assert logs.sessions(arrays, item_column="events.item") == [[7, 8], [7, 9]]


def test_float_events_are_integers_where_they_are_whole(logs: LogFiles) -> None:
    log = many(CLICKS.with_columns(kind=pl.Series([1.0, 1.0, 2.5, 2.5])), 1)
    assert logs.sessions(log, event_column="kind", events=["1"]) == [[7, 8]]
    assert logs.sessions(log, event_column="kind", events=["2.5"]) == [[7, 9]]


def test_times_of_too_little_precision(logs: LogFiles) -> None:
    with pytest.raises(DataError, match="column 'time' holds Float32, which is exact to a minute or two"):
        logs.prepare(CLICKS.with_columns(pl.col("time").cast(pl.Float32)))


# --- options that cannot apply


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"separator": ";"}, "--separator"),
        ({"log_columns": ["session", "item", "time"]}, "--log-columns"),
        ({"quote": "'"}, "--quote"),
        ({"multiline": True}, "--multiline"),
        ({"comment": "#"}, "--comment"),
        ({"skip_malformed": True}, "--skip-malformed"),
        ({"item_separator": ";"}, "--item-separator"),
        ({"item_columns": ["item", "title"]}, "--item-columns"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "ndjson"])
def test_options_of_separated_text_are_refused_for_json(
    logs: LogFiles, options: dict[str, Any], name: str, suffix: str
) -> None:
    log, items = logs.folder / f"log.{suffix}", logs.folder / f"items.{suffix}"
    CLICKS.write_ndjson(log)
    pl.DataFrame({"item": [7, 8, 9], "title": ["a", "b", "c"]}).write_ndjson(items)
    with pytest.raises(InvalidOptionError, match=f"{name}: for text files with separators"):
        logs.prepare(log, items=items, **options)
    assert len(logs.prepare(log, items=items, encoding="ascii").train) == 2


def test_options_of_separated_text_beside_session_files_and_json(logs: LogFiles) -> None:
    log, items = logs.write("log.txt", "7 8\n7 9\n"), logs.folder / "items.jsonl"
    pl.DataFrame({"item": [7, 8, 9], "title": ["a", "b", "c"]}).write_ndjson(items)
    with pytest.raises(InvalidOptionError, match="one session a line, which has no --quote"):
        logs.prepare(log, items=items, quote="'")


# --- parts without rows, rows that differ, ids that were rounded


def test_several_parts_without_rows(logs: LogFiles) -> None:
    rows = [(session, item, START + item) for session in "ab" for item in (7, 8)]
    full = logs.csv("part-0.csv", rows)
    empty = [logs.csv(f"part-{number}.csv", []) for number in (1, 2, 3)]
    assert logs.sessions(*empty[:1], full, *empty[1:]) == [[7, 8], [7, 8]]
    copy = logs.csv("copy.csv", rows)
    with pytest.raises(DataError, match=f"one log was given twice: {full}, {copy} have the same content"):
        logs.prepare(full, *empty, copy)


def test_rows_of_one_item_that_differ_are_reported(logs: LogFiles) -> None:
    log = logs.csv(
        "log.csv", [("a", 7, START), ("a", 8, START + 1), ("b", 8, START + 2), ("b", 9, START + 3)]
    )
    table = [
        (7, "x", "kettle", 3),
        (7, "y", "kettle", 3),
        (8, "x", "cup", 1),
        (8, "x", "mug", 1),
        (9, "x", "jug", 2),
    ]
    table += [(10, "x", "pan", 1), (10, "x", "pot", 1)]  # not in the catalog
    items = logs.csv("items.csv", table, "item,kind,title,price")
    options: dict[str, Any] = {
        "title_column": "title",
        "number_columns": ["price"],
        "category_columns": ["kind"],
    }
    data = logs.prepare(log, items=items, **options)
    assert data.title.to_list() == ["kettle", "cup", "jug"]
    (line,) = [line for line in logs.report if line.startswith("differing")]
    assert line.split(maxsplit=1)[1] == (
        "1 items have several rows that differ in title: the first value counts, such as 8"
    )


def test_vectors_of_one_item_that_differ_are_reported(logs: LogFiles) -> None:
    items = logs.csv("items.csv", [(7,), (7,), (8,), (8,), (9,)], "item")
    np.save(logs.folder / "v.npy", np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 2]]))  # integers do too
    data = logs.prepare(CLICKS, items=items, item_vectors=logs.folder / "v.npy")
    assert data.vectors is not None
    assert data.vectors.tolist() == [[1, 0], [0, 1], [0, 2]]
    assert any("1 items have several rows that differ in vector" in line for line in logs.report)


@pytest.mark.parametrize("text", ["1.23457E+15", "1,2E+15", "4e+12"])
def test_ids_that_a_spreadsheet_has_rounded(logs: LogFiles, text: str) -> None:
    log = logs.csv(
        "log.tsv", [("a", 7, START), ("a", text, START + 1), ("b", text, START + 2), ("b", 9, START + 3)]
    )
    log.write_text(log.read_text().replace(",", "\t").replace(text.replace(",", "\t"), text))
    logs.prepare(log)
    (line,) = logs.warnings
    assert f"2 item ids of log.tsv look like numbers that a spreadsheet has rounded, such as {text}" in line
    logs.prepare(logs.csv("plain.csv", [("a", "1.5E-3", START), ("a", "E+1", START), ("a", "12E+1", START)]))
    assert not logs.warnings


# --- names of columns


def test_columns_may_have_any_name(logs: LogFiles) -> None:
    log = many(
        CLICKS.with_columns(
            price=pl.lit(1), price_later=pl.lit(2), at=pl.lit(3), key=pl.lit(4), span=pl.lit(5)
        )
    )
    names = ["price", "price_later", "at", "key", "span"]
    data = logs.prepare(log, number_columns=names, test_fraction=0.4)
    assert {name: set(values.tolist()) for name, values in data.numbers.items()} == dict(
        zip(names, ({1}, {2}, {3}, {4}, {5}), strict=True)
    )
    for name in ("users", "count", "user", "session"):
        renamed = CLICKS.rename({"session": name} if name != "session" else {}).with_columns(
            user_id=pl.lit("u")
        )
        assert len(logs.prepare(renamed, session_column=name).train) == 2
    lists = pl.DataFrame({"__number": ["a", "b"], "item": [[7, 8], [7, 9]], "time": [START, START + 1]})
    assert logs.sessions(lists, session_column="__number") == [[7, 8], [7, 9]]


# --- times


def test_times_that_the_zone_does_not_have(logs: LogFiles) -> None:
    rows = [("a", 7, "2024-03-31 01:30:00"), ("a", 8, "2024-03-31 02:30:00"), ("b", 8, "2024-04-01 10:00:00")]
    with pytest.raises(
        DataError, match=r"none in --time-zone Europe/Berlin, as clocks go forward.*02:30:00.*line 3"
    ):
        logs.prepare(logs.csv("log.csv", rows), time_zone="Europe/Berlin")
    rows += [
        (f"s{session}", item, f"2024-04-02 10:{session}:0{item}")
        for session in range(10, 20)
        for item in (1, 2)
    ]
    logs.prepare(logs.csv("long.csv", rows), time_zone="Europe/Berlin")
    (line,) = [line for line in logs.report if "clocks go forward" in line]
    assert line.split()[:2] == ["dropped", "1"]
    assert "--time-zone Europe/Berlin does not have" in line
    assert "02:30:00" in line
    assert not any("unreadable" in line for line in logs.report)
    dates = pl.DataFrame(rows, schema=["session", "item", "time"], orient="row").with_columns(
        pl.col("time").str.to_datetime()
    )
    logs.prepare(dates, time_zone="Europe/Berlin")
    assert any("clocks go forward" in line for line in logs.report)


# --- what is too wide, and what is empty


def test_vectors_that_are_too_wide() -> None:
    class Wide:
        def encode(self, texts: Any) -> Any:
            return np.zeros((len(texts), 65_537), np.float32)

    with pytest.raises(
        DataError, match="wide:it returned vectors of 65,537 numbers, of which a model reads 65,536"
    ):
        encode_texts(Wide(), "wide:it", pl.Series(["a text"]))


def test_a_baseline_is_not_measured_on_nothing(logs: LogFiles) -> None:
    data = logs.prepare(CLICKS)
    method = baseline("popular", data.train, data.items)
    with pytest.raises(EmptyLogError, match="the test split of the dataset has no session of two clicks"):
        evaluate_baseline(method, data.test, split="test")
