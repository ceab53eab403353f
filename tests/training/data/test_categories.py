"""Category trees: equal depth, depth-first order, the unknown category, cycles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_sdk.errors import CategoryCycleError, DataError
from hiersrec_training.data.categories import (
    UNKNOWN_INT,
    UNKNOWN_STRING,
    CategoryPath,
    ParentTable,
    build_categories,
    level_path,
    prefix_path,
)

# ids differ from level to level, as in a real tree; the last letter tells the branch
paths_of_a_tree = st.lists(
    st.lists(st.integers(0, 3), max_size=4).map(
        lambda branches: tuple("".join(map(str, branches[: depth + 1])) for depth in range(len(branches)))
    ),
    min_size=1,
    max_size=20,
)


@given(paths_of_a_tree)
def test_every_category_covers_one_range_of_leaves(paths: list[CategoryPath]) -> None:
    built = build_categories(paths, UNKNOWN_STRING)
    tree = built.tree
    tree.check()
    ancestors = tree.paths()
    for level, size in enumerate(tree.sizes):
        column = ancestors[:, level]
        assert sorted(set(column.tolist())) == list(range(size))  # no category without a leaf
        assert np.all(np.diff(column) >= 0)


@given(paths_of_a_tree)
def test_every_path_leads_back_to_its_ids(paths: list[CategoryPath]) -> None:
    built = build_categories(paths, UNKNOWN_STRING)
    ancestors = built.tree.paths()
    for path in paths:
        indices = ancestors[built.leaf[path]]
        ids = [built.tree.ids[level][index] for level, index in enumerate(indices)]
        expected = list(path[built.dropped :]) or [UNKNOWN_STRING]
        assert ids[: len(expected)] == expected
        assert ids[len(expected) :] == expected[-1:] * (len(ids) - len(expected))  # padded with the last
    assert len(set(built.leaf.values())) == len(set(paths))


def test_a_short_path_gets_a_leaf_that_repeats_it() -> None:
    built = build_categories([(1,), (1, 10), (1, 10, 100), (2, 20)], UNKNOWN_INT)
    assert built.tree.ids == [[1, 2], [1, 10, 20], [1, 10, 100, 20]]
    assert [built.leaf[path] for path in [(1,), (1, 10), (1, 10, 100), (2, 20)]] == [0, 1, 2, 3]


def test_the_unknown_category_is_last_at_every_level() -> None:
    built = build_categories([(5, 50), (), (7, 60)], UNKNOWN_INT)
    assert built.tree.ids == [[5, 7, -1], [50, 60, -1]]
    assert built.leaf[()] == 2
    assert build_categories([()], UNKNOWN_STRING).tree.ids == [["unknown"]]


def test_a_root_that_all_share_is_dropped_but_never_the_last_level() -> None:
    built = build_categories([("all", "a", "x"), ("all", "b", "y"), ()], UNKNOWN_STRING)
    assert built.dropped == 1
    assert built.tree.ids == [["a", "b", "unknown"], ["x", "y", "unknown"]]
    assert build_categories([("all", "a")], UNKNOWN_STRING).tree.ids == [["a"]]
    on_the_root = build_categories([("all",), ("all", "a")], UNKNOWN_STRING)
    assert on_the_root.tree.ids == [["all"], ["a", "all"]]


def test_an_id_under_two_parents_becomes_its_path() -> None:
    built = build_categories([("Men", "Shirts"), ("Women", "Shirts"), ("Women",), ()], UNKNOWN_STRING)
    assert built.tree.ids == [
        ["Men", "Women", "unknown"],
        ["Men/Shirts", "Women/Shirts", "Women", "unknown"],
    ]
    assert built.tree.names == [["Men", "Women", "unknown"], ["Shirts", "Shirts", "Women", "unknown"]]


def test_a_level_that_repeats_the_one_above_stays_in_order() -> None:
    built = build_categories([("a",), ("a", "0"), ("a", "a", "b"), ("a", "a")], UNKNOWN_STRING)
    built.tree.check()
    assert built.leaf["a",] == built.leaf["a", "a"] != built.leaf["a", "a", "b"]


def test_paths_from_columns_and_from_text() -> None:
    assert level_path(("a", "b", None)) == ("a", "b")
    assert level_path((None, "b")) == ()
    assert level_path((3, None, 5)) == (3,)
    assert prefix_path("a.b.c", ".") == ("a", "a.b", "a.b.c")
    assert prefix_path("Home > Kitchen", ">") == ("Home", "Home>Kitchen")
    assert prefix_path("", ".") == ()


def test_a_parent_table_gives_the_way_from_the_top() -> None:
    parents = ParentTable([(3, 2), (2, 1), (9, None), (3, 2)], "tree.csv")
    assert parents.path(3) == (1, 2, 3)  # 1 has no row of its own
    assert parents.path(9) == (9,)
    assert parents.path(4) == ()


@pytest.mark.parametrize(
    ("rows", "cycle"),
    [([("a", "a")], "a → a"), ([("x", "a"), ("a", "b"), ("b", "c"), ("c", "a")], "a → b → c → a")],
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
