"""The category of every item, and the :class:`CategoryTree` of equal depth.

A category is known by its path, a tuple of ids from the top; ``()`` is the unknown category. Ids stay those of the
shop, each at its own level, and may repeat below different parents. Paths that end early are padded with their last id,
so that the items of an inner node get a leaf below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import and_
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.catalog.tree import UNKNOWN_IDS, CategoryPath
from hiersrec_sdk.errors import CategoryCycleError, DataError
from hiersrec_training.data.columns import unify_ids, without_fractions
from hiersrec_training.data.dataset import CategoryTree
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_items import CATEGORY
from hiersrec_training.data.report import PrepareReport
from hiersrec_training.data.tables import unescaped

CategoryId = int | str

# what the rows of an item say of its category, the best last
_ABSENT, _EMPTY, _LOST, _UNKNOWN, _PLACED = range(5)


@dataclass(frozen=True)
class ItemCategories:
    """The categories of all items.

    ``category`` int32 [items]: leaf index of each item; ``extra``: the other leaves that list it; ``levels``: the name
    of each level, the top one first.
    """

    tree: CategoryTree
    category: NDArray[np.int32]
    extra: list[list[int]]
    levels: list[str]


def categorize(
    rows: pl.DataFrame | None,
    parents: pl.DataFrame | None,
    catalog: pl.Series,
    options: PrepareOptions,
    report: PrepareReport,
) -> ItemCategories:
    """Give every item its category. Items without one go to the unknown category and are counted.

    Args:
        rows: ``item`` and ``category:0``, … from the top level down, integers or strings, null where missing. Of
            several rows of an item, the first with a category has its main one. None: there is no table.
        parents: ``child`` and ``parent`` of the category tree, if there is one.
        catalog: the items.

    Raises:
        CategoryCycleError: the category tree has a cycle.
        DataError: the category tree is not a tree, or cannot be read.
    """
    rows = _with_categories(rows, catalog)
    keys = rows.columns[1:]
    rows, path_of, unknown = _path_reader(rows, keys, parents, options, report)
    code = pl.DataFrame({"item": catalog}).with_row_index("code")  # index of the item
    placements = rows.join(code, on="item", maintain_order="left").select("code", *keys)
    distinct = placements.select(keys).unique(maintain_order=True).with_row_index("key")
    values = distinct.select(keys).rows()
    paths = [path_of(row) for row in values]
    kinds = np.array([_kind(*each, unknown) for each in zip(values, paths, strict=True)], dtype=np.int8)
    placements = placements.join(distinct, on=keys, nulls_equal=True, maintain_order="left")
    placements = placements.with_columns(kind=kinds[placements["key"].to_numpy()])
    placed = placements.filter(pl.col("kind") == _PLACED)
    best = np.full(len(catalog), _ABSENT, dtype=np.int8)  # of each item
    np.maximum.at(best, placements["code"].to_numpy(), placements["kind"].to_numpy())

    known = [path for path, kind in zip(paths, kinds, strict=True) if kind == _PLACED]
    built = build_categories(known if (best == _PLACED).all() else [*known, ()], unknown)
    leaf = np.array([built.leaf.get(path, -1) for path in paths], dtype=np.int32)
    leaves = placed.select("code", leaf=pl.Series(leaf[placed["key"].to_numpy()]))
    leaves = leaves.unique(maintain_order=True).group_by("code", maintain_order=True).agg("leaf")
    listed = code.join(leaves, on="code", how="left", maintain_order="left")["leaf"]
    category = listed.list.first().fill_null(built.leaf.get((), -1)).to_numpy().astype(np.int32)
    extra = listed.list.slice(1).fill_null([]).to_list()
    _report_unknown(best, placements, catalog, unknown, options, report)
    if options.category_columns:
        _warn_of_one(category, built.tree, report)
    return ItemCategories(built.tree, category, extra, _level_names(built.tree.depth, options))


def _with_categories(rows: pl.DataFrame | None, catalog: pl.Series) -> pl.DataFrame:
    """``item`` and ``category:0``, … of ``rows``; one column of nulls where there is none."""
    if rows is None:
        rows = pl.DataFrame({"item": catalog.clear()})
    keys = [name for name in rows.columns if name.startswith(CATEGORY)]
    if not keys:
        return rows.select("item", pl.lit(None, pl.String).alias(f"{CATEGORY}0"))
    return rows.select("item", *keys)


def _path_reader(
    rows: pl.DataFrame,
    keys: list[str],
    edges: pl.DataFrame | None,
    options: PrepareOptions,
    report: PrepareReport,
) -> tuple[pl.DataFrame, Callable[[tuple[Any, ...]], CategoryPath], CategoryId]:
    """``rows`` with category ids of one type; a function from their ids to the path; the unknown id."""
    separator = unescaped(options.path_separator)
    if separator is not None:
        rows = rows.with_columns(pl.col(keys[0]).cast(pl.String))
        return rows, lambda row: split_path(row[0] or "", separator), UNKNOWN_IDS["string"]
    names = _columns(options)
    columns = [rows[key].alias(name) for key, name in zip(keys, names, strict=False)]
    others = [] if edges is None else [edges["child"], edges["parent"]]
    plain, fractions = without_fractions([*columns, *others])
    report.fractions(fractions, "category ids")
    unified = unify_ids(plain)
    rows = rows.with_columns(column.alias(key) for column, key in zip(unified, keys, strict=False))
    unknown = UNKNOWN_IDS["int64" if unified[0].dtype == pl.Int64 else "string"]
    if edges is None:
        return rows, level_path, unknown
    pairs = [pair for pair in zip(unified[-2], unified[-1], strict=True) if pair[0] is not None]
    parents = ParentTable(pairs, str(options.category_tree), options.tree_root)
    _report_root(parents, options, report)
    return rows, lambda row: parents.path(row[0]), unknown


def _report_root(parents: ParentTable, options: PrepareOptions, report: PrepareReport) -> None:
    """Warn of an id without a row that is above all categories, and of a --tree-root that is above none."""
    table = _name(options.category_tree)
    if options.tree_root is not None and not parents.has_root:
        report.warn(f"--tree-root {options.tree_root} is the parent of no category in {table}")
    if parents.above_all is not None:
        report.warn(
            f"{parents.above_all!r} is above all categories of {table}, which has no row for it: if it is no category, "
            f"--tree-root {parents.above_all} leaves it out"
        )


def _kind(values: tuple[Any, ...], path: CategoryPath, unknown: CategoryId) -> int:
    if all(value in (None, "") for value in values):
        return _EMPTY
    if not path:
        return _LOST
    return _UNKNOWN if set(path) == {unknown} else _PLACED


def _columns(options: PrepareOptions) -> list[str]:
    return list(options.category_columns) or ["category"]


def _name(table: Any) -> str:
    return Path(table).name if isinstance(table, str | Path) else "the table"


def _level_names(depth: int, options: PrepareOptions) -> list[str]:
    if options.path_separator or options.category_tree is not None:
        return [f"level_{level + 1}" for level in range(depth)]
    return _columns(options)[:depth]


def _report_unknown(
    best: NDArray[np.int8],
    placements: pl.DataFrame,
    catalog: pl.Series,
    unknown: CategoryId,
    options: PrepareOptions,
    report: PrepareReport,
) -> None:
    """Count the items of the unknown category, by cause, each with an example."""
    without = int((best != _PLACED).sum())
    if not without:
        return
    if not options.category_columns:
        report.line(
            "unknown", without, f"items, all in the category {unknown!r}: no --category-column was given"
        )
        return
    columns = _columns(options)
    named = ", ".join(columns)
    absent = "" if options.items is None else f"items that {_name(options.items)} lacks"
    empty = f"items without a value in {named}"
    lost = f"items whose {columns[0]} holds separators alone"
    if options.category_tree is not None:
        lost = f"items whose {columns[0]} {_name(options.category_tree)} lacks"
    called = f"items with {unknown!r} alone in {named}, which is the id of the unknown category"
    for kind, what in ((_ABSENT, absent or empty), (_EMPTY, empty), (_LOST, lost), (_UNKNOWN, called)):
        items = best == kind
        if not what or not items.any():
            continue
        example = catalog[int(items.argmax())]
        if kind == _LOST:
            row = placements.filter(pl.col("kind") == _LOST, pl.Series(items).gather(placements["code"])).row(
                0
            )
            example = row[1]
        report.note("unknown", int(items.sum()), what, repr(example))
    share = without / len(catalog)
    report.line(
        "unknown", without, f"items in the unknown category, {unknown!r}, in all, {share:.1%} of the items"
    )


def _warn_of_one(category: NDArray[np.int32], tree: CategoryTree, report: PrepareReport) -> None:
    """Warn where nearly all items are in one category, so that the others say little."""
    sizes = np.bincount(category, minlength=tree.sizes[-1])
    largest = int(sizes.argmax())
    share = sizes[largest] / len(category)
    if share > 0.9 and len(category) >= 10:
        report.warn(
            f"{share:.1%} of the items are in one category, {tree.ids[-1][largest]!r}: is it the right column?"
        )


def level_path(levels: Iterable[CategoryId | None]) -> CategoryPath:
    """The path in a row with one column a level. An empty level takes the id above it, at the top the first below."""
    filled = list(levels)
    while filled and filled[-1] is None:
        filled.pop()
    last = next((level for level in filled if level is not None), None)
    path: list[CategoryId] = []
    for level in filled:
        last = last if level is None else level
        assert last is not None
        path.append(last)
    return tuple(path)


def split_path(text: str, separator: str) -> CategoryPath:
    """The path ("a", "b", "c") of "a.b.c". Separators at its ends do not count."""
    parts = [part.strip() or None for part in text.split(separator)]
    while parts and parts[0] is None:
        parts.pop(0)
    return level_path(parts)


class ParentTable:
    """A tree, given as pairs of child and parent. A category that is its own parent is at the top.

    Args:
        rows: the pairs.
        where: the name of the table, for messages.
        root: the id above all categories, which is none itself; None where those at the top have no parent.

    Attributes:
        has_root: whether ``root`` is the parent of any.
        above_all: the one id at the top, where it has no row of its own.

    Raises:
        CategoryCycleError: a category is its own ancestor; the message names the cycle.
        DataError: a category has two parents.
    """

    def __init__(
        self, rows: Iterable[tuple[CategoryId, CategoryId | None]], where: str, root: str | None = None
    ) -> None:
        self._parents: dict[CategoryId, CategoryId | None] = {}
        self.has_root = False
        for child, named in rows:
            is_root = root is not None and str(named) == root.strip()
            self.has_root |= is_root
            if root is not None and str(child) == root.strip():
                continue
            parent = None if is_root or named == child else named
            if child in self._parents and self._parents[child] != parent:
                raise DataError(
                    f"{where}: category {child} has two parents, {self._parents[child]} and {parent}"
                )
            self._parents[child] = parent
        has_top = None in self._parents.values()
        above = [parent for parent in self._parents.values() if parent is not None]
        without_row = list(dict.fromkeys(parent for parent in above if parent not in self._parents))
        self._parents |= dict.fromkeys(without_row)  # a parent without a row is at the top
        self.above_all = without_row[0] if len(without_row) == 1 and not has_top else None
        self._refuse_cycles(where)

    def path(self, category: CategoryId) -> CategoryPath:
        """The path from the top down to ``category``; () where the table lacks it."""
        up = []
        node: CategoryId | None = category if category in self._parents else None
        while node is not None:
            up.append(node)
            node = self._parents[node]
        return tuple(reversed(up))

    def _refuse_cycles(self, where: str) -> None:
        safe: set[CategoryId] = set()
        for start in self._parents:
            trail: dict[CategoryId, None] = {}  # an ordered set
            node: CategoryId | None = start
            while node is not None and node not in safe:
                if node in trail:
                    nodes = list(trail)
                    cycle = [*nodes[nodes.index(node) :], node]
                    raise CategoryCycleError(
                        f"{where}: category {node} is its own ancestor: {' → '.join(map(str, cycle))}"
                    )
                trail[node] = None
                node = self._parents[node]
            safe.update(trail)


@dataclass(frozen=True)
class BuiltTree:
    """``tree``; ``leaf``: leaf index of every path that it was built from."""

    tree: CategoryTree
    leaf: dict[CategoryPath, int]


def build_categories(paths: Iterable[CategoryPath], unknown: CategoryId) -> BuiltTree:
    """The tree of exactly these paths, each level in depth-first order, the unknown category last.

    Args:
        unknown: the id of the unknown category at every level.
    """
    full = set(paths)
    depth = max((len(path) for path in full), default=0) or 1

    def pad(path: CategoryPath) -> CategoryPath:
        kept = path or (unknown,)
        return kept + kept[-1:] * (depth - len(kept))

    padded = {path: pad(path) for path in full}

    def unknown_last(path: CategoryPath) -> list[tuple[bool, CategoryId]]:
        is_unknown = accumulate((own == unknown for own in path), and_)
        return [*zip(is_unknown, path, strict=True)]

    leaves = sorted(set(padded.values()), key=unknown_last)
    levels = [list(dict.fromkeys(path[: level + 1] for path in leaves)) for level in range(depth)]
    parents = [np.full(len(levels[0]), -1, np.int32)]
    for above, level in pairwise(levels):
        index = {path: i for i, path in enumerate(above)}
        parents.append(np.array([index[path[:-1]] for path in level], dtype=np.int32))
    ids: list[list[CategoryId]] = [[path[-1] for path in level] for level in levels]
    row = {path: i for i, path in enumerate(leaves)}
    leaf = {path: row[whole] for path, whole in padded.items()}
    return BuiltTree(CategoryTree(ids, parents), leaf)
