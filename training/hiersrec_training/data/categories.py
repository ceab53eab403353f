"""From what a shop says of its categories to a :class:`CategoryTree` of equal depth.

A category is known by its path, a tuple of ids from the top; ``()`` is the unknown category. Paths that end early are
padded with their last id, so that an item on an inner node sits on a leaf of its own below that node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np

from hiersrec_sdk.errors import CategoryCycleError, DataError
from hiersrec_training.data.dataset import CategoryTree

Id = int | str
Path = tuple[Id, ...]

UNKNOWN_INT = -1
UNKNOWN_STRING = "unknown"


def level_path(levels: Iterable[Id | None]) -> Path:
    """The path of a row with one column a level; it ends at the first null."""
    return tuple(level for level in takewhile(lambda level: level is not None, levels) if level is not None)


def prefix_path(path: str, separator: str) -> Path:
    """The path of "a.b.c" is ("a", "a.b", "a.b.c"): an id that holds its ancestors is unique."""
    parts = [part.strip() for part in path.split(separator) if part.strip()]
    return tuple(separator.join(parts[: depth + 1]) for depth in range(len(parts)))


class ParentTable:
    """A tree given as child and parent.

    Raises:
        CategoryCycleError: a category is its own ancestor; the message names the cycle.
        DataError: a category has two parents.
    """

    def __init__(self, rows: Iterable[tuple[Id, Id | None]], where: str) -> None:
        self._parents: dict[Id, Id | None] = {}
        for child, parent in rows:
            if child in self._parents and self._parents[child] != parent:
                raise DataError(
                    f"{where}: category {child} has two parents, {self._parents[child]} and {parent}"
                )
            self._parents[child] = parent
        for parent in list(self._parents.values()):
            if parent is not None:
                self._parents.setdefault(parent, None)  # a parent without a row of its own is at the top
        self._refuse_cycles(where)

    def path(self, category: Id) -> Path:
        """From the top down to ``category``; () where the table lacks it."""
        up = []
        node: Id | None = category if category in self._parents else None
        while node is not None:
            up.append(node)
            node = self._parents[node]
        return tuple(reversed(up))

    def _refuse_cycles(self, where: str) -> None:
        safe: set[Id] = set()
        for start in self._parents:
            trail: dict[Id, None] = {}  # an ordered set
            node: Id | None = start
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
class Categories:
    """``tree``; ``leaf``: leaf index of every path it was built from; ``dropped``: levels that held one category."""

    tree: CategoryTree
    leaf: dict[Path, int]
    dropped: int


def build_categories(
    paths: Iterable[Path], unknown: Id, name: Callable[[Id], str] | None = None
) -> Categories:
    """The tree of exactly these paths, each level in depth-first order, the unknown category last.

    A top level that all paths share tells nothing and is dropped. Where an id stands under two parents (levels such as
    Men/Shirts and Women/Shirts), every id becomes its whole path, joined by "/".

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

    def pad(path: Path) -> Path:
        kept = path[dropped:] or (unknown,)
        return kept + kept[-1:] * (depth - len(kept))

    padded = {path: pad(path) for path in full}
    leaves = sorted(set(padded.values()), key=lambda path: (path[0] == unknown, path))
    levels = [list(dict.fromkeys(path[: level + 1] for path in leaves)) for level in range(depth)]
    parents = [np.full(len(levels[0]), -1, np.int32)]
    for above, level in pairwise(levels):
        index = {path: i for i, path in enumerate(above)}
        parents.append(np.array([index[path[:-1]] for path in level], dtype=np.int32))

    ids: list[list[Id]] = [[path[-1] for path in level] for level in levels]
    names = [[name(own) for own in level] for level in ids] if name else None
    if any(_repeated(level) for level in ids):
        names = [[str(own) for own in level] for level in ids]
        ids = [[_joined(path, unknown) for path in level] for level in levels]
    row = {path: i for i, path in enumerate(leaves)}
    leaf = {path: row[whole] for path, whole in padded.items()}
    return Categories(CategoryTree(ids, parents, names), leaf, dropped)


def _joined(path: Path, unknown: Id) -> str:
    """The path as one id, without its padding."""
    while len(path) > 1 and path[-1] == path[-2]:
        path = path[:-1]
    return UNKNOWN_STRING if path == (unknown,) else "/".join(map(str, path))


def _repeated(ids: Sequence[Id]) -> bool:
    return any(count > 1 for count in Counter(ids).values())
