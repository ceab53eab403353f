"""The category tree: every category, at any level, is one contiguous range of the bundle's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.catalog.ids import IdTable, id_table

Node = tuple[int, int]
"""A category of the tree: (level, index within the level)."""


@dataclass(frozen=True)
class Category:
    """A category of the tree.

    Attributes:
        id: its external id.
        level: 0 is the top.
        index: its position within the level, in a depth-first walk.
        parent: index of its parent in the level above; -1 at the top.
        name: readable name, or None.
        start, stop: its rows are ``[start, stop)``.
    """

    id: int | str
    level: int
    index: int
    parent: int
    name: str | None
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class CategoryTree:
    """The levels of categories of a bundle, the top level first. It never changes.

    Attributes:
        ranges: for each level int64 [categories, 2], the rows ``[start, stop)`` of each category.
        parents: for each level int32 [categories], the index of the parent in the level above.
        ids: for each level the external ids.
        names: for each level the readable names, or None.
        id_type: "int64" or "string".
    """

    ranges: tuple[NDArray[np.int64], ...]
    parents: tuple[NDArray[np.int32], ...]
    ids: tuple[IdTable, ...]
    names: tuple[StringTable | None, ...]
    id_type: str

    @classmethod
    def from_tables(cls, tables: Mapping[str, NDArray[Any]], levels: int, id_type: str) -> CategoryTree:
        """The tree in the tables of a bundle."""
        every = range(levels)
        return cls(
            ranges=tuple(tables[f"category_ranges.{level}"] for level in every),
            parents=tuple(tables[f"category_parents.{level}"] for level in every),
            ids=tuple(id_table(tables, f"category_ids.{level}") for level in every),
            names=tuple(StringTable.from_tables(tables, f"category_names.{level}") for level in every),
            id_type=id_type,
        )

    @property
    def depth(self) -> int:
        """How many levels there are."""
        return len(self.ranges)

    @property
    def leaves(self) -> NDArray[np.int64]:
        """int64 [leaf categories, 2]: the rows of each leaf category."""
        return self.ranges[-1]

    def category(self, level: int, index: int) -> Category:
        """The category ``index`` of ``level``; negative levels count from the leaves, as in a list."""
        level = range(self.depth)[level]
        index = range(len(self.ranges[level]))[index]
        names = self.names[level]
        start, stop = self.ranges[level][index].tolist()
        return Category(
            id=self.ids[level].take(np.array([index]))[0],
            level=level,
            index=index,
            parent=int(self.parents[level][index]),
            name=names[index] if names is not None else None,
            start=start,
            stop=stop,
        )

    def find(self, category_id: Any) -> Sequence[Node]:
        """(level, index) of every category with this external id; a shallow branch repeats its id below."""
        is_id = type(category_id) is int or isinstance(category_id, str | np.integer)
        return self._nodes.get(category_id, []) if is_id else []

    @cached_property
    def _nodes(self) -> dict[Any, list[Node]]:
        nodes: dict[Any, list[Node]] = {}
        for level, ids in enumerate(self.ids):
            for index, category_id in enumerate(ids.take(np.arange(len(self.ranges[level])))):
                nodes.setdefault(category_id, []).append((level, index))
        return nodes

    def leaf_of(self, rows: NDArray[np.int64], level: int = -1) -> NDArray[np.int64]:
        """int64 [len(rows)]: the category of ``level`` that each of the bundle's rows lies in."""
        return self.ranges[level][:, 1].searchsorted(rows, side="right")

    def leaves_below(self, node: Node) -> tuple[int, int]:
        """The range ``[start, stop)`` of leaf categories below a category, itself at the leaf level."""
        level, index = node
        start, stop = index, index + 1
        for parents in self.parents[level + 1 :]:
            start, stop = (int(edge) for edge in np.searchsorted(parents, [start, stop]))
        return start, stop

    def path(self, node: Node) -> list[int]:
        """Index of the category at each level from the top down to ``node``."""
        level, index = node
        path = [index]
        for at in range(level, 0, -1):
            path.insert(0, int(self.parents[at][path[0]]))
        return path

    def paths(self, leaves: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [len(leaves), levels]: the path to each leaf category."""
        path = [leaves]
        for parents in self.parents[:0:-1]:
            path.append(parents[path[-1]].astype(np.int64))
        return np.stack(path[::-1], axis=1)

    def is_below(self, node: Node, above: Node) -> bool:
        """Whether ``node`` lies below ``above``, at a deeper level."""
        (level, index), (upper, parent) = node, above
        if level <= upper:
            return False
        for at in range(level, upper, -1):
            index = int(self.parents[at][index])
        return index == parent
