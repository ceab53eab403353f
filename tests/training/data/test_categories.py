"""Category trees: the shop's ids at their levels, equal depth, depth-first order, the unknown category, cycles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk.catalog.tree import CategoryPath
from hiersrec_sdk.errors import CategoryCycleError, DataError
from hiersrec_training.data.categories import (
    ItemCategories,
    ParentTable,
    build_categories,
    categorize,
    level_path,
    split_path,
)
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.report import PrepareReport

CATALOG = [f"i{number}" for number in range(5)]

# few ids, so that they stand below several parents, and along one branch
paths_of_a_tree = st.lists(
    st.lists(st.sampled_from(["a", "b", "unknown"]), max_size=4).map(tuple), max_size=20
)


def placed(
    rows: list[tuple[Any, ...]] | None,
    report: list[str] | None = None,
    parents: pl.DataFrame | None = None,
    **options: Any,
) -> ItemCategories:
    """The categories of CATALOG by ``rows`` of item and levels, and the ``parents`` of a category tree."""
    frame = None
    if rows is not None:
        width = len(rows[0]) - 1 if rows else 1
        frame = pl.DataFrame(
            rows, schema=["item", *(f"category:{level}" for level in range(width))], orient="row"
        )
        frame = frame.cast({"item": pl.String})
        options.setdefault("category_columns", ["top", "middle", "low", "lower"][:width])
        options.setdefault("items", Path("items.csv"))
    asked = PrepareOptions(logs=[Path("log.csv")], **options)
    lines = [] if report is None else report
    return categorize(frame, parents, pl.Series(CATALOG), asked, PrepareReport(lines.append))


def paths_in(found: ItemCategories) -> list[list[tuple[Any, ...]]]:
    """The whole paths of each item, its main category first."""
    ancestors = found.tree.paths()
    named = [tuple(found.tree.ids[level][at] for level, at in enumerate(path)) for path in ancestors]
    return [
        [named[leaf] for leaf in (main, *extra)]
        for main, extra in zip(found.category.tolist(), found.extra, strict=True)
    ]


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    levels = draw(st.integers(1, 4))
    kinds: list[list[Any]] = [[1, 2, -1], ["a", "b", "unknown"], ["x", "007", "A b"]]
    ids = st.sampled_from(draw(st.sampled_from(kinds)))
    row = st.tuples(st.sampled_from([*CATALOG, "stranger"]), *[st.none() | ids] * levels)
    return draw(st.lists(row, min_size=1, max_size=12))


@settings(max_examples=300, deadline=None)
@given(rows=tables())
@pytest.mark.slow
def test_every_item_lies_where_its_rows_say(rows: list[tuple[Any, ...]]) -> None:
    found = placed(rows)
    found.tree.check()
    types = {type(own) for _, *levels in rows for own in levels if own is not None}
    unknown: Any = -1 if types == {int} else "unknown"
    wanted: dict[str, list[tuple[Any, ...]]] = {item: [] for item in CATALOG}
    for item, *levels in rows:
        there = [at for at, own in enumerate(levels) if own is not None]
        if item in wanted and there:
            # an empty level is the nearest above, or the first; nothing stands below the last
            above = [
                max((at for at in there if at <= level), default=there[0]) for level in range(there[-1] + 1)
            ]
            path = tuple(levels[at] for at in above)
            if set(path) != {unknown}:
                wanted[item].append(path)
    whole = [path for paths in wanted.values() for path in paths]
    depth = max(map(len, whole), default=1)
    assert found.tree.depth == depth
    assert found.levels == ["top", "middle", "low", "lower"][:depth]
    padded = [
        [*dict.fromkeys((*path, *path[-1:] * (depth - len(path))) for path in paths)] or [(unknown,) * depth]
        for paths in wanted.values()
    ]
    assert paths_in(found) == padded
    if (unknown,) * depth in [path for paths in padded for path in paths]:
        assert [ids[-1] for ids in found.tree.ids] == [unknown] * depth  # the last of every level


@given(paths_of_a_tree)
def test_every_category_covers_one_range_of_leaves(paths: list[CategoryPath]) -> None:
    built = build_categories([*paths, ()], "unknown")
    tree = built.tree
    tree.check()
    ancestors = tree.paths()
    seen = set()
    for level, size in enumerate(tree.sizes):
        column = ancestors[:, level]
        assert sorted(set(column.tolist())) == list(range(size))  # no category without a leaf
        assert np.all(np.diff(column) >= 0)
        seen |= {
            (level, *(tree.ids[at][index] for at, index in enumerate(path[: level + 1])))
            for path in ancestors
        }
    assert len(seen) == sum(tree.sizes)  # no path is that of two categories
    for path in paths:
        ids = tuple(tree.ids[level][index] for level, index in enumerate(ancestors[built.leaf[path]]))
        whole = path or ("unknown",)
        assert ids == whole + whole[-1:] * (tree.depth - len(whole))


def test_a_short_path_gets_a_leaf_that_repeats_it() -> None:
    built = build_categories([(1,), (1, 10), (1, 10, 100), (2, 20)], -1)
    assert built.tree.ids == [[1, 2], [1, 10, 20], [1, 10, 100, 20]]
    assert [built.leaf[path] for path in [(1,), (1, 10), (1, 10, 100), (2, 20)]] == [0, 1, 2, 3]


def test_the_unknown_category_is_last_at_every_level() -> None:
    built = build_categories([(5, 50), (), (7, 60)], -1)
    assert built.tree.ids == [[5, 7, -1], [50, 60, -1]]
    assert built.leaf[()] == 2
    assert build_categories([()], "unknown").tree.ids == [["unknown"]]
    below = build_categories([("unknown", "x"), (), ("unknown", "z"), ("a",)], "unknown")
    assert below.tree.ids == [["a", "unknown"], ["a", "x", "z", "unknown"]]


def test_a_top_level_that_all_share_is_kept() -> None:
    tree = build_categories([("all", "a", "x"), ("all", "b", "y")], "unknown").tree
    assert tree.ids == [["all"], ["a", "b"], ["x", "y"]]


def test_an_id_under_two_parents_keeps_its_name() -> None:
    built = build_categories([("Men", "Shirts"), ("Women", "Shirts"), ("Women",), ()], "unknown")
    assert built.tree.ids == [["Men", "Women", "unknown"], ["Shirts", "Shirts", "Women", "unknown"]]


def test_categories_whose_joined_ids_are_alike() -> None:
    found = placed([("i0", "A/B", "C"), ("i1", "A", "B/C"), ("i2", "A", "B/C")])
    assert paths_in(found)[:3] == [[("A/B", "C")], [("A", "B/C")], [("A", "B/C")]]


def test_a_level_that_repeats_the_one_above_stays_in_order() -> None:
    built = build_categories([("a",), ("a", "0"), ("a", "a", "b"), ("a", "a")], "unknown")
    built.tree.check()
    assert built.leaf["a",] == built.leaf["a", "a"] != built.leaf["a", "a", "b"]


def test_paths_from_columns_and_from_text() -> None:
    assert level_path(("a", "b", None)) == ("a", "b")
    assert level_path((None, "b")) == ("b", "b")
    assert level_path((3, None, 5)) == (3, 3, 5)
    assert level_path((None, None)) == ()
    assert split_path("a.b.c", ".") == ("a", "b", "c")
    assert split_path("Home > Kitchen", ">") == ("Home", "Kitchen")
    assert split_path("/Home/Kitchen/", "/") == ("Home", "Kitchen")
    assert split_path("Home// Kitchen", "/") == ("Home", "Home", "Kitchen")
    assert split_path("", ".") == split_path(" . ", ".") == ()


@pytest.mark.parametrize(
    ("rows", "options", "lines"),
    [
        (None, {}, ["5 items, all in the category 'unknown': no --category-column was given"]),
        (
            [("i0", None, "a"), ("i1", None, None), ("i2", "unknown", "unknown"), ("i4", "b", "a")],
            {},
            [
                "1 items that items.csv lacks, such as 'i3'",
                "1 items without a value in top, middle, such as 'i1'",
                "1 items with 'unknown' alone in top, middle, which is the id of the unknown category, such as 'i2'",
                "3 items in the unknown category, 'unknown', in all, 60.0% of the items",
            ],
        ),
        (
            [("i0", "."), ("i0", "a.b"), ("i1", ".."), ("i2", "x"), ("i3", None), ("i4", "")],
            {"category_columns": ["code"], "category_path_separator": "."},
            [
                "2 items without a value in code, such as 'i3'",
                "1 items whose code holds separators alone, such as '..'",
                "3 items in the unknown category, 'unknown', in all, 60.0% of the items",
            ],
        ),
        ([(item, 1) for item in CATALOG], {}, []),
    ],
)
def test_what_is_said_of_items_without_a_category(
    rows: list[tuple[Any, ...]] | None, options: dict[str, Any], lines: list[str]
) -> None:
    report: list[str] = []
    placed(rows, report, **options)
    assert [line.removeprefix("unknown").strip() for line in report] == lines


def test_a_category_that_the_tree_lacks_is_shown() -> None:
    parents = pl.DataFrame({"child": [10], "parent": [1]})
    report: list[str] = []
    rows = [("i0", 10), ("i1", 77), ("i1", 10), ("i2", 99), ("i3", 1), ("i4", 10)]
    found = placed(rows, report, parents, category_columns=["cat"], category_tree=Path("tree.csv"))
    assert paths_in(found)[:4] == [[(1, 10)], [(1, 10)], [(-1, -1)], [(1, 1)]]
    assert [" ".join(line.split()) for line in report] == [
        "warning 1 is above all categories of tree.csv, which has no row for it: if it is no category, --tree-root 1 "
        "leaves it out",
        "unknown 1 items whose cat tree.csv lacks, such as 99",
        "unknown 1 items in the unknown category, -1, in all, 20.0% of the items",
    ]


def test_a_parent_table_gives_the_way_from_the_top() -> None:
    parents = ParentTable([(3, 2), (2, 1), (9, None), (3, 2)], "tree.csv")
    assert parents.path(3) == (1, 2, 3)  # 1 has no row of its own
    assert parents.path(9) == (9,)
    assert parents.path(4) == ()


@pytest.mark.parametrize(
    ("rows", "cycle"),
    [
        ([("a", "b"), ("b", "a")], "a → b → a"),
        ([("x", "a"), ("a", "b"), ("b", "c"), ("c", "a")], "a → b → c → a"),
    ],
)
def test_a_cycle_is_named(rows: list[tuple[str, str]], cycle: str) -> None:
    with pytest.raises(CategoryCycleError, match=rf"tree\.csv: category a is its own ancestor: {cycle}"):
        ParentTable(rows, "tree.csv")


def test_a_category_with_two_parents() -> None:
    with pytest.raises(DataError, match=r"tree\.csv: category 5 has two parents, 1 and 2"):
        ParentTable([(5, 1), (5, 2)], "tree.csv")


@given(st.integers(1, 3000))
def test_a_deep_chain_is_no_cycle(depth: int) -> None:
    parents = ParentTable([(node, node + 1) for node in range(depth)], "tree.csv")
    assert parents.path(0) == tuple(range(depth, -1, -1))
