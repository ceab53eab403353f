"""From an item table to filters: a name of a category means the items that a plain reading of the table says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_export.export import catalog_tables
from hiersrec_sdk.bundle.folder import Bundle
from hiersrec_sdk.catalog.filters import prepare
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import parse_name
from hiersrec_sdk.errors import AmbiguousCategoryError, UnknownCategoryError
from hiersrec_training.data.categories import categorize
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.report import PrepareReport

CategoryPath = tuple[Any, ...]
ITEMS = 6
COLUMNS = ["top", "middle", "low", "lower"]


def catalog_of(rows: list[tuple[Any, ...]]) -> Catalog:
    """The catalog of ITEMS items, by ``rows`` of item and levels."""
    width = len(rows[0]) - 1
    frame = pl.DataFrame(
        rows, schema=["item", *(f"category:{level}" for level in range(width))], orient="row"
    )
    options = PrepareOptions(logs=[Path("log")], items=Path("items"), category_columns=COLUMNS[:width])
    ids = pl.Series(range(ITEMS), dtype=pl.Int64)
    found = categorize(frame.cast({"item": pl.Int64}), None, ids, options, PrepareReport(lambda line: None))
    nothing = Sessions(np.empty(0, np.int32), np.zeros(1, np.int64))
    none = pl.Series([None] * ITEMS, dtype=pl.String)
    clicks = np.zeros(ITEMS, np.int64)
    data = Dataset(
        ids, found.category, found.extra, clicks, none, none, {}, found.tree, nothing, nothing, nothing
    )
    strings = isinstance(found.tree.ids[0][0], str)
    config = {
        "levels": found.levels,
        "item_id_type": "int64",
        "category_id_type": "string" if strings else "int64",
    }
    return Catalog.of(Bundle(Path("nowhere"), config, catalog_tables(data, np.zeros((ITEMS, 2), np.float32))))


def whole_paths(rows: list[tuple[Any, ...]]) -> dict[int, set[CategoryPath]]:
    """The padded paths of each item, as the documentation has them."""
    paths: dict[int, set[CategoryPath]] = {item: set() for item in range(ITEMS)}
    for item, *levels in rows:
        filled = list(levels)
        while filled and filled[-1] is None:
            filled.pop()
        for level in range(1, len(filled)):
            filled[level] = filled[level - 1] if filled[level] is None else filled[level]
        for level in reversed(range(len(filled) - 1)):
            filled[level] = filled[level + 1] if filled[level] is None else filled[level]
        if filled:
            paths[item].add(tuple(filled))
    unknown: Any = -1 if all(isinstance(own, int | None) for row in rows for own in row) else "unknown"
    if not any(paths.values()):
        unknown = "unknown"
    depth = max((len(path) for found in paths.values() for path in found), default=1)
    padded = {
        item: {(*path, *path[-1:] * (depth - len(path))) for path in found} for item, found in paths.items()
    }
    return {item: found or {(unknown,) * depth} for item, found in padded.items()}


def meant(categories: set[CategoryPath], name: Any) -> set[CategoryPath]:
    """The categories, by whole paths, that ``name`` may mean."""
    if not isinstance(name, tuple):
        return {path for path in categories if path[-1] == name and name not in path[:-1]}
    if name in categories:
        return {name}
    alike = {path for path in categories if fits(runs(path), runs(name))}
    return {path for path in alike if path[:-1] not in alike}


def runs(path: CategoryPath) -> list[tuple[Any, int]]:
    return [(own, len([*group])) for own, group in groupby(path)]


def fits(path: list[tuple[Any, int]], name: list[tuple[Any, int]]) -> bool:
    return [own for own, _ in path] == [own for own, _ in name] and all(
        have >= want for (_, have), (_, want) in zip(path, name, strict=True)
    )


def prefixes(path: CategoryPath) -> Iterator[CategoryPath]:
    return (path[: length + 1] for length in range(len(path)))


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    levels = draw(st.integers(1, 4))
    kinds: list[list[Any]] = [[1, 2, 3], ["a", "b", "c"], ["[1]", '["a"]', "a/b"]]
    ids = st.sampled_from(draw(st.sampled_from(kinds)))
    row = st.tuples(st.integers(0, ITEMS - 1), *[st.none() | ids] * levels)
    rows = draw(st.lists(row, min_size=1, max_size=10))
    if draw(st.booleans()):  # a top that all share
        rows = [(item, rows[0][1], *rest) for item, _, *rest in rows]
    return rows


@settings(max_examples=300, deadline=None)
@given(rows=tables(), data=st.data())
@pytest.mark.slow
def test_a_name_means_the_items_of_the_table(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    catalog, paths = catalog_of(rows), whole_paths(rows)
    categories = {above for found in paths.values() for path in found for above in prefixes(path)}
    own_ids = {path[-1] for path in categories}
    invented = data.draw(
        st.lists(st.lists(st.sampled_from([*own_ids]), min_size=1, max_size=4).map(tuple), max_size=5)
    )
    without = {tuple(own for own, _ in runs(path)) for path in categories}
    for name in {*own_ids, *categories, *without, *invented}:
        found = meant(categories, name)
        if not found:
            with pytest.raises(UnknownCategoryError):
                catalog.find_category(name)
            continue
        if len(found) > 1:
            with pytest.raises(AmbiguousCategoryError, match=rf"^{len(found)} categories are called"):
                catalog.find_category(name)
            continue
        (category,) = found
        rows_allowed = prepare(catalog, categories=[name]).allows(np.arange(ITEMS))
        assert set(np.array(catalog.ids(np.arange(ITEMS)))[rows_allowed].tolist()) == {
            item
            for item, of_item in paths.items()
            if any(path[: len(category)] == category for path in of_item)
        }
        level, index = catalog.find_category(name)
        assert level == len(category) - 1
        shown = catalog.category(level, index)
        assert shown.id == category[-1]
        assert shown.path == category[: len(shown.path)]
        assert meant(categories, shown.path) == {shown.path}  # the topmost of its repeats
        label = catalog.category_label(shown.path)
        assert catalog.find_category(parse_name(label, catalog.category_id_type)) == catalog.find_category(
            shown.path
        )
        assert label == str(shown.id) or json.loads(label) == list(shown.path)
