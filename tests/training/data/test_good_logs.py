"""Ordinary logs that the checks for strange ones must not trip over, and values that no check foresaw."""

from __future__ import annotations

import random
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hiersrec_sdk.errors import DataError, HierSRecError, InvalidOptionError
from hiersrec_training.data import text as text_module
from tests.training.data.log_files import START, LogFiles

PAIR = [("s", "a", START), ("s", "b", START + 1)]
Sessions = list[list[Any]]


class Shop(LogFiles):
    """Log files, with what these tests ask of them."""

    def categories(self, *logs: Any, **options: Any) -> dict[Any, list[str]]:
        """The path of the main category of every item."""
        data = self.prepare(*logs, **options)
        tree, found = data.tree, {}
        for item, leaf in zip(data.item_ids, data.category, strict=True):
            path, node = [], int(leaf)
            for level in reversed(range(tree.depth)):
                path.append(str(tree.ids[level][node]))
                node = int(tree.parents[level][node])
            found[item] = path[::-1]
        return found


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


# --- what no check foresaw


@pytest.mark.parametrize("cell", ["7", "", '""'])
def test_a_short_cell_among_cells_of_lists(shop: Shop, cell: str) -> None:
    rows = [(1, "10|20", START), (2, cell, START + 60), (3, "20|10", START + 90)]
    assert shop.sessions(shop.csv("log.csv", rows), list_separator="|") == [[10, 20], [20, 10]]


@pytest.mark.parametrize("cell", ["(x)|(y)", "[x]|[y]", "{x}|{y}"])
def test_a_list_of_items_in_brackets(shop: Shop, cell: str) -> None:
    first, last = cell.split("|")
    assert shop.sessions(shop.csv("log.csv", [(1, cell, START)]), list_separator="|") == [[first, last]]


@pytest.mark.parametrize("name", ["log.txt", "log.jsonl"])
@pytest.mark.parametrize("encoding", ["latin_l", "", "rot13", "hex"])
def test_an_encoding_that_there_is_not(shop: Shop, name: str, encoding: str) -> None:
    log = shop.write(
        name, "a b\nb a\n" if name.endswith("txt") else '{"session":1,"item":"a","time":1706702400}\n'
    )
    with pytest.raises(InvalidOptionError, match="--encoding"):
        shop.prepare(log, encoding=encoding)


def test_a_zone_that_only_the_system_knows(shop: Shop) -> None:
    log = shop.csv("log.csv", [("s", "a", "2024-01-01 12:00:00"), ("s", "b", "2024-01-01 12:01:00")])
    with pytest.raises(HierSRecError, match="--time-zone"):
        shop.prepare(log, time_zone="Factory")


def test_a_frame_beside_patterns(shop: Shop) -> None:
    frame = pl.DataFrame({"session": [1, 1], "item": ["a", "b"], "time": [START, START + 1]})
    shop.csv("log.csv", PAIR)
    assert shop.sessions(frame, str(shop.folder / "*.csv"), glob=True) == [["a", "b"], ["a", "b"]]


def test_an_encrypted_zip(shop: Shop) -> None:
    path = shop.folder / "log.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("log.csv", "session,item,time\n")
    raw = bytearray(path.read_bytes())
    raw[6] |= 1
    raw[raw.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(HierSRecError, match=r"log\.csv\.zip"):
        shop.prepare(path)


def test_ids_that_begin_anew_for_each_user_of_the_second_log(shop: Shop) -> None:
    first = shop.csv("first.csv", [("x", "a", START), ("x", "b", START + 1)])
    rows = [
        (user, 1, item, START + 9000 * user + at) for user in range(1, 5) for at, item in enumerate("abc")
    ]
    second = shop.csv("second.csv", rows, "user,session,item,time")
    with pytest.raises(HierSRecError, match="--user-column"):
        shop.prepare(first, second)


# --- ordinary logs, refused or warned of


def test_a_visitor_who_logs_in_within_a_session(shop: Shop) -> None:
    rows: list[tuple[Any, ...]] = []
    for number in range(20):
        rows += [
            (number, "", "a", START + 1000 * number),
            (number, f"u{number}", "b", START + 1000 * number + 5),
        ]
    assert len(shop.sessions(shop.csv("log.csv", rows, "session,user,item,time"))) == 20
    assert not shop.warnings


@pytest.mark.parametrize("item", ["item-{}", "/product/{}", "product:{}"])
def test_ids_with_a_word_in_them(shop: Shop, item: str) -> None:
    lines = [(1, 2), (3, 1, 2), (2, 3)]
    text = "".join(" ".join(item.format(number) for number in line) + "\n" for line in lines)
    shop.prepare(shop.write("log.txt", text))
    assert not shop.warnings


def test_pairs_of_ids_of_ten_digits(shop: Shop) -> None:
    log = shop.write("log.txt", "1000000001 1000000002\n1000000003 1000000001\n")
    assert len(shop.sessions(log)) == 2


def test_a_title_in_quotes_of_its_own(shop: Shop) -> None:
    items = shop.write("items.csv", 'item,title\na,"""Heroes"""\nb,plain\n')
    data = shop.prepare(shop.csv("log.csv", PAIR), items=items, title_column="title")
    assert data.title.to_list() == ['"Heroes"', "plain"]
    assert not shop.warnings


def test_a_zone_for_since_alone(shop: Shop) -> None:
    log = shop.csv(
        "log.csv", [("s", "z", 1_704_065_400), ("s", "a", 1_704_069_000), ("s", "b", 1_704_069_009)]
    )
    assert shop.sessions(log, time_zone="Europe/Berlin", since="2024-01-01T01:00") == [["a", "b"]]
    assert not shop.warnings


# --- values that are changed


def test_versions_are_no_integers(shop: Shop) -> None:
    log = shop.csv("log.csv", [("s", "a", START), ("s", "b", START + 1)])
    items = shop.write("items.csv", "item,category\na,1.0\nb,1.1\n")
    options: dict[str, Any] = {"items": items, "category_columns": ["category"]}
    assert shop.categories(log, **options, category_path_separator=".") == {"a": ["1", "0"], "b": ["1", "1"]}
    assert shop.categories(log, **options) == {"a": ["1.0"], "b": ["1.1"]}


def test_categories_in_a_cell_as_programs_write_lists(shop: Shop) -> None:
    items = shop.write("items.csv", "item;category\na;['x', 'y']\nb;['z']\n")
    found = shop.categories(
        shop.csv("log.csv", PAIR),
        items=items,
        item_separator=";",
        category_columns=["category"],
        category_separator=",",
    )
    assert found == {"a": ["x"], "b": ["z"]}


def test_the_fallback_is_for_items_without_a_category(shop: Shop) -> None:
    items = shop.write("items.csv", "item,category,other\na,,F\na,x,\nb,y,F\n")
    found = shop.categories(
        shop.csv("log.csv", PAIR),
        items=items,
        category_columns=["category"],
        fallback_category_column="other",
    )
    assert found == {"a": ["x"], "b": ["y"]}


def test_a_list_twice_with_an_item_twice(shop: Shop) -> None:
    log = pl.DataFrame({"session": [1, 1], "item": [["a", "a"]] * 2, "time": [START] * 2})
    assert shop.sessions(log, drop_repeats=True) == [["a", "a"]]


@pytest.mark.parametrize("batch", [1, 2, 1000])
@pytest.mark.parametrize("at", [0, 7])
def test_a_row_with_one_time_too_few_is_named(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, batch: int, at: int
) -> None:
    monkeypatch.setattr(text_module, "BATCH", batch)
    cells = [("a|b|c", "|".join(str(START + 9 * row + step) for step in range(3))) for row in range(9)]
    good = shop.csv("good.csv", cells, "item,time")
    assert shop.sessions(good, list_separator="|") == [["a", "b", "c"]] * 9
    cells[at] = cells[at][0], f"{START}|{START + 1}"
    log = shop.csv("log.csv", cells, "item,time")
    if at or batch > 2:
        with pytest.raises(DataError, match=rf"log\.csv, line {at + 2}: 3 values in 'item', but 2 in 'time'"):
            shop.prepare(log, list_separator="|")
    else:  # the first batch decides, and says nothing in favor of lists
        with pytest.raises(DataError, match=r"log\.csv, line 2|times of column 'time' cannot be read"):
            shop.prepare(log, list_separator="|")


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_one_time_for_a_whole_cell(shop: Shop, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Though it holds the separator, and as many parts as most rows have items."""
    monkeypatch.setattr(text_module, "BATCH", batch)
    cells = ["a b c", "a", "a b", "b a", "c b", "a c"]
    log = shop.csv(
        "log.csv", [(cell, f"2024-01-31 12:00:0{at}") for at, cell in enumerate(cells)], "item,time"
    )
    assert shop.sessions(log, list_separator=" ") == [cell.split() for cell in cells if len(cell) > 1]
    one = shop.csv("one.csv", [(cell, START + at) for at, cell in enumerate(["a", "b", *cells])], "item,time")
    assert shop.sessions(one, list_separator=" ") == [cell.split() for cell in cells if len(cell) > 1]


# --- what holds


@pytest.mark.parametrize("seed", range(12))
def test_lists_as_plain_python_reads_them(shop: Shop, seed: int) -> None:
    """Rows of lists in several files of different orders, with times, types of event and a longest session."""
    rng = random.Random(seed)
    own_times, longest = rng.random() < 0.5, rng.choice([200, 3])
    logs, truth = [], []
    since = START + rng.randint(0, 15_000)
    for number in range(2):
        rows: list[tuple[str, list[str], list[int], list[str]]] = []
        for line in range(12):
            first, length = START + 100_000 * number + 1000 * line, rng.randint(1, 5)
            times = (
                sorted(first + rng.randint(0, 5) for _ in range(length)) if own_times else [first] * length
            )
            items = [rng.choice(["a", "b", "007", "7"]) for _ in range(length)]
            rows.append((f"{number}-{line}", items, times, [rng.choice(["view", "cart"]) for _ in items]))
            kept = zip(*rows[-1][1:], strict=True)
            truth.append([item for item, at, event in kept if at >= since and event == "view"][-longest:])
        rows = rows if rng.random() < 0.5 else rows[::-1]
        columns = dict(
            zip(("session", "item", "time", "event"), map(list, zip(*rows, strict=True)), strict=True)
        )
        if not own_times:
            columns["time"] = [times[0] for times in columns["time"]]
        logs.append(pl.DataFrame(columns))
    found = shop.sessions(
        *logs,
        event_column="event",
        events=["view"],
        max_session_length=longest,
        since=datetime.fromtimestamp(since, UTC),
    )
    assert found == [session for session in truth if len(session) >= 2]
