"""JSON whose values have several shapes; fields at any depth; columns of logs that hold different things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hiersrec_sdk.errors import DataError
from hiersrec_training.data import json_shapes
from tests.training.data.log_files import START, LogFiles


@pytest.fixture
def logs(tmp_path: Path) -> LogFiles:
    return LogFiles(tmp_path)


def lines(*rows: dict[str, Any], **more: list[Any]) -> str:
    """JSON lines of two sessions: items a, b and a, c, unless told otherwise."""
    whole: list[dict[str, Any]] = [
        {"session": session, "item": item, "time": START + at}
        for at, (session, item) in enumerate(zip("sstt", "abac", strict=True))
    ]
    for at, row in enumerate(rows):
        whole[at] |= row
    for name, values in more.items():
        for row, value in zip(whole, values, strict=True):
            row[name] = value
    return "".join(json.dumps(row) + "\n" for row in whole)


@pytest.mark.parametrize(
    ("values", "place", "what"),
    [
        (
            ["a", ["b", "c"], "d", "e"],
            "line 2",
            'is a list, \\["b", "c"\\], and text in other rows: write .* lists',
        ),
        ([["a"], "b", ["c"], ["d"]], "line [12]", "is (?:a list|text), .*, and (?:text|a list)"),
        (["a", {"id": "b"}, "c", "d"], "line 2", 'is an object, {"id": "b"}, and text .* such as item.id'),
        ([1, [2], 3, 4], "line 2", "is a list, \\[2\\], and a number in other rows"),
        ([1, {"id": 2}, 3, 4], "line 2", "is an object"),
        ([["a"], ["b", {"id": 1}], ["c"], ["d"]], "line 2", 'is an object, {"id": 1}, and text'),
    ],
)
@pytest.mark.parametrize("as_array", [False, True])
def test_items_of_several_shapes_are_refused(
    logs: LogFiles, values: list[Any], place: str, what: str, as_array: bool
) -> None:
    text = lines(item=values)
    if as_array:
        text, place = f"[{','.join(text.splitlines())}]", place.replace("line", "object")
    with pytest.raises(DataError, match=f"log.json, {place}: 'item' {what}"):
        logs.prepare(logs.write("log.json", text))


def test_categories_and_nested_items_of_several_shapes_are_refused(logs: LogFiles) -> None:
    log = logs.write("log.jsonl", lines())
    table = [{"item": "a", "kind": "Men"}, {"item": "b", "kind": ["Men", "Sale"]}]
    items = logs.write("items.jsonl", "\n".join(map(json.dumps, table)))
    with pytest.raises(DataError, match=r"items.jsonl, line 2: 'kind' is a list"):
        logs.prepare(log, items=items, category_columns=["kind"])
    nested = lines(events=[{"sku": "a"}, {"sku": ["b"]}, {"sku": "a"}, {"sku": "b"}])
    with pytest.raises(DataError, match=r"line 2: 'events.sku' is a list"):
        logs.prepare(logs.write("nested.jsonl", nested), item_column="events.sku")


def test_texts_that_look_like_json_are_texts(logs: LogFiles) -> None:
    names = ["[a]", "{b}", "[a]", '["c"]']
    assert logs.sessions(logs.write("log.jsonl", lines(item=names))) == [names[:2], names[2:]]


@pytest.mark.parametrize("half", ["a\ud83d", "a\0"])
def test_half_a_character_is_refused(logs: LogFiles, half: str) -> None:
    with pytest.raises(DataError, match=r"log.jsonl, line 2: 'item' holds \"a.*half of a character"):
        logs.prepare(logs.write("log.jsonl", lines(item=["a", half, "b", "c"])))


@pytest.mark.parametrize(
    ("values", "unusable"),
    [
        ([{"k": 1}, [], None, {}], "meta"),
        ([float("nan"), 1.0, float("inf"), None], ""),
        ([1, True, 2, 3], "meta"),
        ([{"k": {"l": 1}}, {"k": {"l": [1]}}, {"k": None}, {}], "meta.k.l"),
        ([[1], [[1]], [], None], "meta"),
        ([{"a": [{"x": 1}]}, {"a": [{"x": {}}]}, {}, {}], "meta.a.x"),
    ],
)
@pytest.mark.parametrize("as_array", [False, True])
def test_other_fields_may_have_any_shape(
    logs: LogFiles, values: list[Any], unusable: str, as_array: bool
) -> None:
    text = lines(meta=values)
    path = logs.write("log.json", f"[{','.join(text.splitlines())}]" if as_array else text)
    assert logs.sessions(path) == [["a", "b"], ["a", "c"]]
    if unusable:
        with pytest.raises(DataError, match=f"log.json, .* 2: '{unusable}' is .* in other rows: write all"):
            logs.prepare(path, item_column=unusable)


@pytest.mark.parametrize(
    ("first", "then"),
    [("Men", ["Men", "Sale"]), (["Men"], "Men"), ("Men", {"id": 7}), ([1], [{"id": 1}]), ({"id": 1}, 1)],
)
def test_a_column_of_other_kind_in_the_next_log_is_refused(logs: LogFiles, first: Any, then: Any) -> None:
    january = logs.write("january.jsonl", lines(kind=[first] * 4))
    february = logs.write("february.jsonl", lines(session=["u", "u", "v", "v"], kind=[then] * 4))
    with pytest.raises(
        DataError, match=r"february.jsonl: column 'kind' holds .* in .*january.jsonl: write it"
    ):
        logs.prepare(january, february, category_columns=["kind"])


def test_numbers_and_texts_of_two_logs_go_together(logs: LogFiles) -> None:
    january = logs.write("january.jsonl", lines(kind=[1, 2, 1, 3]))
    february = logs.write("february.jsonl", lines(session=["u", "u", "v", "v"], kind=["x", "2", "x", "3"]))
    assert logs.prepare(january, february, category_columns=["kind"]).tree.ids == [["2", "3", "x"]]


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda value: {"$date": {"$numberLong": str(value * 1000)}}, "time.$date.$numberLong"),
        (lambda value: {"a": {"b": {"c.d": value}}}, "time.a.b.c.d"),
    ],
)
def test_fields_at_any_depth(logs: LogFiles, wrap: Any, name: str) -> None:
    path = logs.write("log.jsonl", lines(time=[wrap(START + at) for at in range(4)]))
    assert logs.sessions(path, time_column=name) == [["a", "b"], ["a", "c"]]
    outer = name.partition(".")[0]
    with pytest.raises(DataError, match=r"name one of time\.") as refused:
        logs.prepare(path, time_column=outer)
    assert outer in str(refused.value)


def test_fields_in_lists_at_any_depth(logs: LogFiles) -> None:
    rows = [{"t": START, "p": {"products": [{"sku": {"id": sku}} for sku in skus]}} for skus in ("ab", "ac")]
    path = logs.write("log.jsonl", "\n".join(map(json.dumps, rows)))
    options = {"item_column": "p.products.sku.id", "time_column": "t", "session_column": ""}
    assert logs.sessions(path, **options) == [["a", "b"], ["a", "c"]]
    frame = pl.DataFrame(rows, schema_overrides={"t": pl.Int64})
    assert logs.sessions(frame, **options) == [["a", "b"], ["a", "c"]]


def test_packed_by_zstandard(logs: LogFiles) -> None:
    plain = logs.write("log.jsonl", lines(item=["é", "b", "é", "c"]))
    packed = logs.folder / "packed.jsonl.zst"
    frame = pl.DataFrame({"line": plain.read_text().splitlines()})
    frame.write_csv(packed, include_header=False, quote_style="never", compression="zstd", separator="\t")
    assert logs.sessions(packed) == [["é", "b"], ["é", "c"]]


@pytest.mark.parametrize("block", [2, 7, 50])
def test_arrays_are_read_block_by_block(logs: LogFiles, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(json_shapes, "_BLOCK", block)
    rows = json.loads(f"[{','.join(lines(meta=[{}, [], 'x', 1]).splitlines())}]")
    path = logs.write("log.json", "\n" + json.dumps(rows, indent=1))
    assert logs.sessions(path) == [["a", "b"], ["a", "c"]]
    with pytest.raises(DataError, match=r"log.json, object 2: 'meta' is a list, \[\], and an object"):
        logs.prepare(path, item_column="meta")
    for damaged in (json.dumps(rows)[:-1], json.dumps(rows)[:-30]):
        with pytest.raises(DataError, match=r"log\.json is not JSON: .* line [0-9]+ column"):
            logs.prepare(logs.write("log.json", damaged))
