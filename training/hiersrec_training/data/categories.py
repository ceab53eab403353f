"""The category of every item, from the item table or the log; and the :class:`CategoryTree` of equal depth.

A category is known by its path, a tuple of ids from the top; ``()`` is the unknown category. Paths that end early are
padded with their last id, so that the items of an inner node get a leaf below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import CategoryCycleError, DataError
from hiersrec_training.data.columns import unify_ids
from hiersrec_training.data.dataset import CategoryTree
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_items import CATEGORY
from hiersrec_training.data.report import PrepareReport

CategoryId = int | str
CategoryPath = tuple[CategoryId, ...]

UNKNOWN_INT = -1
UNKNOWN_STRING = "unknown"


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
        rows: the item table, if there is one.
        parents: ``child`` and ``parent`` of the category tree, if there is one.
        catalog: ids of the items, in order of their indices.

    Raises:
        CategoryCycleError: the category tree has a cycle.
        DataError: the category tree is not a tree, or cannot be read.
    """
    code = pl.DataFrame({"item": catalog}).with_row_index("code")
    placements = _placements(rows, code, options)
    keys = placements.columns[1:]
    placements, path_of, unknown = _path_reader(placements, keys, parents, options)
    distinct = placements.select(keys).unique(maintain_order=True).with_row_index("key")
    paths = [path_of(row[1:]) for row in distinct.rows()]
    paths = [() if path[:1] == (unknown,) else path for path in paths]
    placements = placements.join(distinct, on=keys, nulls_equal=True, maintain_order="left")
    found = np.array([path != () for path in paths], dtype=bool)[placements["key"].to_numpy()]
    placed = placements.filter(pl.Series(found, dtype=pl.Boolean))
    without = code.height - placed["code"].n_unique()

    separator = options.category_path_separator
    built = build_categories(
        [path for path in paths if path] + ([()] if without else []),
        unknown,
        (lambda category: str(category).rsplit(separator, 1)[-1]) if separator else None,
    )
    leaf = np.array([built.leaf.get(path, -1) for path in paths], dtype=np.int32)
    leaves = placed.select("code", leaf=pl.Series(leaf[placed["key"].to_numpy()]))
    leaves = leaves.unique(maintain_order=True).group_by("code", maintain_order=True).agg("leaf")
    listed = code.join(leaves, on="code", how="left", maintain_order="left")["leaf"]
    category = listed.list.first().fill_null(built.leaf.get((), -1)).to_numpy().astype(np.int32)
    extra = listed.list.slice(1).fill_null([]).to_list()

    if rows is not None:
        absent = code.height - code.join(rows, on="item", how="semi").height
        _count(absent, f"items that {_name(options.items)} lacks", report)
    if without:
        named = placements.filter(pl.any_horizontal(pl.col(keys).is_not_null()))["code"].n_unique()
        lost = named - placed["code"].n_unique()
        _count(lost, f"items whose category {_name(options.category_tree)} lacks", report)
        _count(without, "items in the unknown category, among them those without any category", report)
    return ItemCategories(built.tree, category, extra, _level_names(built, options))


def _placements(rows: pl.DataFrame | None, code: pl.DataFrame, options: PrepareOptions) -> pl.DataFrame:
    """A row for each time a source places an item: ``code`` and ``category:0``, …"""
    if rows is not None and options.category_columns:
        source = rows.select(
            "item", *(f"{CATEGORY}{level}" for level in range(len(options.category_columns)))
        )
    else:
        source = code.select("item", pl.lit(None, pl.String).alias(f"{CATEGORY}0"))
    return source.join(code, on="item", maintain_order="left").select("code", pl.exclude("code", "item"))


def _path_reader(
    placements: pl.DataFrame, keys: list[str], edges: pl.DataFrame | None, options: PrepareOptions
) -> tuple[pl.DataFrame, Callable[[tuple[Any, ...]], CategoryPath], CategoryId]:
    """``placements`` with category ids of one type; a function from a row of them to its path; the unknown id."""
    separator = options.category_path_separator
    if separator is not None:
        placements = placements.with_columns(pl.col(keys[0]).cast(pl.String))
        return placements, lambda row: prefix_path(row[0] or "", separator), UNKNOWN_STRING
    columns = [placements[key] for key in keys]
    if edges is None:
        columns = unify_ids(columns)
        return placements.with_columns(columns), level_path, _unknown(columns)
    columns = unify_ids([*columns, edges["child"], edges["parent"]])
    pairs = [pair for pair in zip(columns[-2], columns[-1], strict=True) if pair[0] is not None]
    parents = ParentTable(pairs, str(options.category_tree))
    return placements.with_columns(columns[:-2]), lambda row: parents.path(row[0]), _unknown(columns)


def _unknown(columns: list[pl.Series]) -> CategoryId:
    return UNKNOWN_INT if columns[0].dtype == pl.Int64 else UNKNOWN_STRING


def _level_names(built: BuiltTree, options: PrepareOptions) -> list[str]:
    columns = list(options.category_columns) or ["category"]
    if options.category_path_separator or options.category_tree is not None:
        return [f"level_{level + 1}" for level in range(built.tree.depth)]
    return columns[built.dropped :][: built.tree.depth]


def _count(items: int, what: str, report: PrepareReport) -> None:
    if items:
        report.line("unknown", items, what)


def _name(table: Any) -> str:
    return Path(table).name if isinstance(table, str | Path) else "the table"


def level_path(levels: Iterable[CategoryId | None]) -> CategoryPath:
    """The path in a row with one column a level. It ends at the first null."""
    return tuple(level for level in takewhile(lambda level: level is not None, levels) if level is not None)


def prefix_path(path: str, separator: str) -> CategoryPath:
    """The path ("a", "a.b", "a.b.c") of "a.b.c": an id that holds its ancestors is unique."""
    parts = [part.strip() for part in path.split(separator) if part.strip()]
    return tuple(separator.join(parts[: depth + 1]) for depth in range(len(parts)))


class ParentTable:
    """A tree, given as pairs of child and parent.

    Raises:
        CategoryCycleError: a category is its own ancestor; the message names the cycle.
        DataError: a category has two parents.
    """

    def __init__(self, rows: Iterable[tuple[CategoryId, CategoryId | None]], where: str) -> None:
        self._parents: dict[CategoryId, CategoryId | None] = {}
        for child, parent in rows:
            if child in self._parents and self._parents[child] != parent:
                raise DataError(
                    f"{where}: category {child} has two parents, {self._parents[child]} and {parent}"
                )
            self._parents[child] = parent
        for parent in list(self._parents.values()):
            if parent is not None:
                self._parents.setdefault(parent, None)  # a parent without a row is at the top
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
    """``tree``; ``leaf``: leaf index of every path it was built from; ``dropped``: levels that held one category."""

    tree: CategoryTree
    leaf: dict[CategoryPath, int]
    dropped: int


def build_categories(
    paths: Iterable[CategoryPath], unknown: CategoryId, name: Callable[[CategoryId], str] | None = None
) -> BuiltTree:
    """The tree of exactly these paths, each level in depth-first order, the unknown category last.

    A top level that all paths share says nothing and is dropped. Where an id has two parents (Men/Shirts and
    Women/Shirts), every id becomes its whole path, joined by "/".

    Args:
        unknown: the id of the unknown category at every level.
        name: readable name of a category id, where there is one.
    """
    full = set(paths)
    known = full - {()}
    dropped = 0
    while known and min(map(len, known)) > dropped + 1 and len({path[: dropped + 1] for path in known}) == 1:
        dropped += 1
    depth = max((len(path) - dropped for path in known), default=1)

    def pad(path: CategoryPath) -> CategoryPath:
        kept = path[dropped:] or (unknown,)
        return kept + kept[-1:] * (depth - len(kept))

    padded = {path: pad(path) for path in full}
    leaves = sorted(set(padded.values()), key=lambda path: (path[0] == unknown, path))
    levels = [list(dict.fromkeys(path[: level + 1] for path in leaves)) for level in range(depth)]
    parents = [np.full(len(levels[0]), -1, np.int32)]
    for above, level in pairwise(levels):
        index = {path: i for i, path in enumerate(above)}
        parents.append(np.array([index[path[:-1]] for path in level], dtype=np.int32))

    ids: list[list[CategoryId]] = [[path[-1] for path in level] for level in levels]
    names = [[name(category) for category in level] for level in ids] if name else None
    if any(_repeated(level) for level in ids):
        names = [[str(category) for category in level] for level in ids]
        ids = [[_joined(path, unknown) for path in level] for level in levels]
    row = {path: i for i, path in enumerate(leaves)}
    leaf = {path: row[whole] for path, whole in padded.items()}
    return BuiltTree(CategoryTree(ids, parents, names), leaf, dropped)


def _joined(path: CategoryPath, unknown: CategoryId) -> str:
    """The path as one id, without its padding."""
    while len(path) > 1 and path[-1] == path[-2]:
        path = path[:-1]
    return UNKNOWN_STRING if path == (unknown,) else "/".join(map(str, path))


def _repeated(ids: Sequence[CategoryId]) -> bool:
    return any(count > 1 for count in Counter(ids).values())
