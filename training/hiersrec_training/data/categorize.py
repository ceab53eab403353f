"""The category of every item of the catalogue, from the item table or the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_training.data.categories import (
    UNKNOWN_INT,
    UNKNOWN_STRING,
    Categories,
    Id,
    ParentTable,
    Path,
    build_categories,
    level_path,
    prefix_path,
)
from hiersrec_training.data.dataset import CategoryTree
from hiersrec_training.data.ids import unify_ids
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_items import CATEGORY, read_parents
from hiersrec_training.data.report import PrepareReport


@dataclass(frozen=True)
class ItemCategories:
    """``category`` int32 [items]: leaf index of each item; ``extra``: the other leaves that list it; ``levels``: the
    name of each level, the top one first."""

    tree: CategoryTree
    category: NDArray[np.int32]
    extra: list[list[int]]
    levels: list[str]


def categorize(
    rows: pl.DataFrame | None,
    training: pl.DataFrame,
    code: pl.DataFrame,
    options: PrepareOptions,
    journal: PrepareReport,
) -> ItemCategories:
    """Give every item its category; those of which none is known go to the unknown category and are counted.

    Args:
        rows: the item table, if there is one.
        training: clicks of the training part.
        code: ``item`` and ``code`` (item index) of the catalogue.

    Raises:
        CategoryCycleError: the category tree has a cycle.
        DataError: the category tree is not a tree, or cannot be read.
    """
    said = _said_of_items(rows, training, code, options)
    keys = said.columns[1:]
    said, path_of, unknown = _path_reader(said, keys, options)
    distinct = said.select(keys).unique(maintain_order=True).with_row_index("key")
    paths = [path_of(row[1:]) for row in distinct.rows()]
    paths = [() if path[:1] == (unknown,) else path for path in paths]
    said = said.join(distinct, on=keys, nulls_equal=True, maintain_order="left")
    found = np.array([path != () for path in paths], dtype=bool)[said["key"].to_numpy()]
    placed = said.filter(pl.Series(found, dtype=pl.Boolean))
    without = code.height - placed["code"].n_unique()

    separator = options.category_path_separator
    built = build_categories(
        [path for path in paths if path] + ([()] if without else []),
        unknown,
        (lambda own: str(own).rsplit(separator, 1)[-1]) if separator else None,
    )
    leaf = np.array([built.leaf.get(path, -1) for path in paths], dtype=np.int32)
    leaves = placed.select("code", leaf=pl.Series(leaf[placed["key"].to_numpy()]))
    leaves = leaves.unique(maintain_order=True).group_by("code", maintain_order=True).agg("leaf")
    listed = code.join(leaves, on="code", how="left", maintain_order="left")["leaf"]
    category = listed.list.first().fill_null(built.leaf.get((), -1)).to_numpy().astype(np.int32)
    extra = listed.list.slice(1).fill_null([]).to_list()

    if rows is not None:
        absent = code.height - code.join(rows, on="item", how="semi").height
        _count(absent, f"items that {_name(options.items)} lacks", journal)
    if without:
        named = said.filter(pl.any_horizontal(pl.col(keys).is_not_null()))["code"].n_unique()
        lost = named - placed["code"].n_unique()
        _count(lost, f"items whose category {_name(options.category_tree)} lacks", journal)
        _count(without, "items in the unknown category, these and those without any", journal)
    return ItemCategories(built.tree, category, extra, _level_names(built, options))


def _said_of_items(
    rows: pl.DataFrame | None, training: pl.DataFrame, code: pl.DataFrame, options: PrepareOptions
) -> pl.DataFrame:
    """``code`` and ``category:0``, …: a row for each time a source places an item."""
    if options.log_category_column is not None:
        # an item that moved is where it was last
        latest = (
            training.filter(pl.col("category").is_not_null()).reverse().unique("item", maintain_order=True)
        )
        source = latest.select("item", pl.col("category").alias(f"{CATEGORY}0"))
    elif rows is not None and options.category_columns:
        source = rows.select(
            "item", *(f"{CATEGORY}{level}" for level in range(len(options.category_columns)))
        )
    else:
        source = code.select("item", pl.lit(None, pl.String).alias(f"{CATEGORY}0"))
    return source.join(code, on="item", maintain_order="left").select("code", pl.exclude("code", "item"))


def _path_reader(
    said: pl.DataFrame, keys: list[str], options: PrepareOptions
) -> tuple[pl.DataFrame, Callable[[tuple[Any, ...]], Path], Id]:
    """``said`` with category ids of one type, how a row of them becomes a path, and the unknown category's id."""
    separator = options.category_path_separator
    if separator is not None:
        said = said.with_columns(pl.col(keys[0]).cast(pl.String))
        return said, lambda row: prefix_path(row[0] or "", separator), UNKNOWN_STRING
    columns = [said[key] for key in keys]
    if options.category_tree is None:
        columns = unify_ids(columns, "category")
        return said.with_columns(columns), level_path, _unknown(columns)
    links = read_parents(options)
    columns = unify_ids([*columns, links["child"], links["parent"]], "category")
    pairs = [pair for pair in zip(columns[-2], columns[-1], strict=True) if pair[0] is not None]
    parents = ParentTable(pairs, str(options.category_tree))
    return said.with_columns(columns[:-2]), lambda row: parents.path(row[0]), _unknown(columns)


def _unknown(columns: list[pl.Series]) -> Id:
    return UNKNOWN_INT if columns[0].dtype == pl.Int64 else UNKNOWN_STRING


def _level_names(built: Categories, options: PrepareOptions) -> list[str]:
    columns = list(options.category_columns) or [options.log_category_column or "category"]
    if options.category_path_separator or options.category_tree:
        return [f"level_{level + 1}" for level in range(built.tree.depth)]
    return columns[built.dropped :][: built.tree.depth]


def _count(items: int, what: str, journal: PrepareReport) -> None:
    if items:
        journal.line("unknown", items, what)


def _name(path: FilePath | None) -> str:
    return path.name if path is not None else "the table"
