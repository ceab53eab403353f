"""The category tree: every category, at any level, is one contiguous range of the bundle's rows.

A category is named by its external id where that is unambiguous, else by its path: the ids from the top level down. One
function, :func:`resolve`, says which category a name means.

All branches are of one depth: a shallow one repeats its last id on the levels below. A path leaves these repeats out.
"""

from __future__ import annotations

import difflib
import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.arguments import integer_of
from hiersrec_sdk.catalog.ids import IdTable, id_table
from hiersrec_sdk.catalog.item import fits_tables
from hiersrec_sdk.errors import AmbiguousCategoryError, UnknownCategoryError
from hiersrec_sdk.forks import cached_property
from hiersrec_sdk.id_lists import plain_id
from hiersrec_sdk.shown import shown

if TYPE_CHECKING:
    from hiersrec_sdk.catalog.placement import Placement

NEW: Final = -1
Node = tuple[int, int]
"""A category: (level, index within the level) of the bundle's tree; (NEW, number) of one created since."""
CategoryPath = tuple[int | str, ...]
"""External ids from the top level down."""
CategoryName = int | str | Sequence[int | str]
"""The external id of a category, or its path."""
UNKNOWN_IDS: Final[dict[str, int | str]] = {"int64": -1, "string": "unknown"}
"""The id of the category of items without one, by the type of category ids; it is at the top level."""

_SHOWN: Final = 4  # paths in a message
_WRITTEN: Final = 100  # ids or characters of a path that is written as it is
_ALIKE: Final = 200  # characters of an id that are compared
_COMPARED: Final = 10_000  # ids that are searched for one that is spelled alike


@dataclass(frozen=True)
class Category:
    """A category of the tree.

    Attributes:
        id: its external id, which other categories may have too.
        path: the ids from the top level down to it, without the repeats that pad a shallow branch.
        level: 0 is the top.
        index: its position within the level, in a depth-first walk.
        parent: index of its parent in the level above; -1 at the top.
        start, stop: its rows are ``[start, stop)``.
    """

    id: int | str
    path: CategoryPath
    level: int
    index: int
    parent: int
    start: int
    stop: int


class NewCategories:
    """Categories that were created since the export, each below one of the bundle's, by their numbers.

    Snapshots share it. Whoever adds to it makes a copy first.

    Attributes:
        parents: of each, the category of the bundle that it lies below.
        ids: of each, its external id.
    """

    def __init__(self, categories: Iterable[tuple[Node, int | str]] = ()) -> None:
        self.parents: list[Node] = []
        self.ids: list[int | str] = []
        self._numbers: dict[int | str, tuple[int, ...]] = {}
        self._is_shared = False  # with those that this is a copy of
        for parent, category_id in categories:
            self.add(parent, category_id)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, parent: Node, category_id: int | str) -> int:
        """Create a category; returns its number."""
        if self._is_shared:
            self.parents, self.ids, self._numbers = [*self.parents], [*self.ids], {**self._numbers}
            self._is_shared = False
        number = len(self)
        self.parents.append(parent)
        self.ids.append(category_id)
        self._numbers[category_id] = (*self.find(category_id), number)
        return number

    def copy(self) -> NewCategories:
        """These categories, to add others. It takes no time until one is added, as it seldom is."""
        made = NewCategories()
        made.parents, made.ids, made._numbers = self.parents, self.ids, self._numbers
        made._is_shared = True
        return made

    def find(self, category_id: int | str) -> Sequence[int]:
        """The numbers of the categories with this id."""
        return self._numbers.get(category_id, ())


@dataclass(frozen=True, eq=False)
class CategoryTree:
    """The levels of categories of a bundle, the top level first. It never changes.

    Attributes:
        ranges: for each level int64 [categories, 2], the rows ``[start, stop)`` of each category.
        parents: for each level int32 [categories], the index of the parent in the level above.
        ids: for each level the external ids.
        id_type: "int64" or "string".
    """

    ranges: tuple[NDArray[np.int64], ...]
    parents: tuple[NDArray[np.int32], ...]
    ids: tuple[IdTable, ...]
    id_type: str

    @classmethod
    def from_tables(cls, tables: Mapping[str, NDArray[Any]], levels: int, id_type: str) -> CategoryTree:
        """The tree in the tables of a bundle."""
        every = range(levels)
        return cls(
            ranges=tuple(tables[f"category_ranges.{level}"] for level in every),
            parents=tuple(tables[f"category_parents.{level}"] for level in every),
            ids=tuple(id_table(tables, f"category_ids.{level}") for level in every),
            id_type=id_type,
        )

    @cached_property
    def placements(self) -> dict[Any, Placement]:
        """Where an item belongs, by the name of its category, as far as that was asked."""
        return {}

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
        start, stop = self.ranges[level][index].tolist()
        path = self.id_path((level, index))
        return Category(
            id=path[-1],
            path=path,
            level=level,
            index=index,
            parent=int(self.parents[level][index]),
            start=start,
            stop=stop,
        )

    def find(self, category_id: int | str) -> list[Node]:
        """Every category with this id that is not below another of the same id, as repeats of a shallow branch are."""
        nodes = self._nodes.get(category_id, [])
        known = set(nodes)
        return [node for node in nodes if known.isdisjoint(enumerate(self.path(node)[:-1]))]

    def find_path(self, path: Sequence[Any]) -> list[Node]:
        """The category of a path. Where there is none of exactly these ids: those that differ by repeats alone.

        A shop that leaves a level between two others empty has such repeats within a path: Men, Men, Shirts.
        """
        found: list[Node] = []
        for position, category_id in enumerate(path):
            begin = self._nodes_between(category_id, (0, 0), (1, 0)) if position == 0 else []
            begin += [child for node in found for child in self._children(node, category_id)]
            found = list(dict.fromkeys(begin))
            for node in found:  # it grows by the repeats below
                found += [child for child in self._children(node, category_id) if child not in found]
        exact = [node for node in found if node[0] == len(path) - 1]
        return exact or [node for node in found if self._parent(node) not in found]

    def lowest_repeat(self, node: Node) -> Node:
        """Where the items of a category lie that are in none of the others below it."""
        category_id = self.id_of(node)
        while below := self._children(node, category_id):
            node = below[0]
        return node

    def _children(self, node: Node, category_id: int | str) -> list[Node]:
        """The categories with this id that ``node`` is the parent of."""
        level, index = node[0] + 1, node[1]
        if level == self.depth:
            return []
        start, stop = np.searchsorted(self.parents[level], [index, index + 1]).tolist()
        return self._nodes_between(category_id, (level, start), (level, stop))

    def _nodes_between(self, category_id: int | str, start: Node, stop: Node) -> list[Node]:
        nodes = self._nodes.get(category_id, [])
        return nodes[bisect_left(nodes, start) : bisect_left(nodes, stop)]

    def _parent(self, node: Node) -> Node:
        return node[0] - 1, int(self.parents[node[0]][node[1]])

    def id_of(self, node: Node) -> int | str:
        """External id of a category."""
        level, index = node
        return self.ids[level].take(np.array([index]))[0]

    @property
    def every_id(self) -> Iterable[int | str]:
        """The distinct ids, those of the top level first."""
        return self._nodes

    @cached_property
    def _nodes(self) -> dict[int | str, list[Node]]:
        nodes: dict[int | str, list[Node]] = {}
        for level, ids in enumerate(self.ids):
            every: Sequence[int | str] = ids.take(np.arange(len(self.ranges[level])))
            for index, category_id in enumerate(every):
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

    def id_path(self, node: Node) -> CategoryPath:
        """External ids from the top down to ``node``, without the repeats at the end of a shallow branch."""
        ids = [self.id_of(above) for above in enumerate(self.path(node))]
        while len(ids) > 1 and ids[-1] == ids[-2]:
            ids.pop()
        return tuple(ids)

    def paths(self, leaves: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [len(leaves), levels]: the path to each leaf category."""
        path = [leaves]
        for parents in self.parents[:0:-1]:
            path.append(parents[path[-1]].astype(np.int64))
        return np.stack(path[::-1], axis=1)


def resolve(tree: CategoryTree, created: NewCategories, name: Any) -> Node:
    """The category that ``name`` means: the external id of one, or its path, a tuple or list of ids from the top down.

    An id that repeats along one branch means the topmost category of them.

    Raises:
        UnknownCategoryError: there is no such category.
        AmbiguousCategoryError: several categories have this id.
    """
    found = named(tree, created, name)
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousCategoryError(
            f"{len(found)} categories are called {_shown(name)}; give the path of one: {_listed(tree, created, found)}"
        )
    raise UnknownCategoryError(_unknown(tree, created, name))


def named(tree: CategoryTree, created: NewCategories, name: Any) -> list[Node]:
    """All categories that ``name`` may mean, see :func:`resolve`."""
    if _is_path(name):
        path = [plain_id(each) for each in name]
        return [] if None in path else _find_path(tree, created, path)
    category_id = plain_id(name)
    return [] if category_id is None else _find(tree, created, category_id)


def label(tree: CategoryTree, created: NewCategories, path: CategoryPath) -> str:
    """How text names the category of ``path``, so that the command line reads it back: its id, or its path as JSON."""
    text = str(path[-1])
    unique = _find(tree, created, path[-1]) == _find_path(tree, created, path)
    return text if unique and parse_name(text, tree.id_type) == path[-1] else written(path)


def parse_name(text: str, id_type: str) -> CategoryName:
    """The name in a text: a path where it is a JSON array of ids, else an id.

    Raises:
        UnknownCategoryError: ids are integers, and it is neither one nor an array of them.
    """
    try:
        path = json.loads(text) if text.startswith("[") else None
    except (ValueError, RecursionError):
        path = None
    wanted = int if id_type == "int64" else str
    if isinstance(path, list) and all(type(each) is wanted for each in path):
        return tuple(path)
    if id_type == "string":
        return text
    category_id = integer_of(text)
    if category_id is None:
        raise UnknownCategoryError(
            f"category ids of this catalog are integers, and a path is a JSON array of them, got {shown(text)}"
        )
    return category_id


def written(path: Sequence[int | str]) -> str:
    """The path as a JSON array, which is a list in Python too."""
    return json.dumps(list(path), ensure_ascii=not all(map(fits_tables, path)))  # what UTF-8 lacks is escaped


def created_path(tree: CategoryTree, created: NewCategories, number: int) -> CategoryPath:
    """External ids from the top down to a category that was created since the export."""
    parent = created.parents[number]
    return (*(tree.id_of(above) for above in enumerate(tree.path(parent))), created.ids[number])


def _is_path(name: Any) -> bool:
    return isinstance(name, tuple | list) or (isinstance(name, np.ndarray) and name.ndim == 1)


def _bare(name: Any) -> Any:
    """The name without NumPy's types."""
    return name.tolist() if isinstance(name, np.generic | np.ndarray) else name


def _shown(name: Any) -> str:
    """The name as messages show it: a path as those that they list."""
    path = [plain_id(each) for each in islice(name, _WRITTEN)] if _is_path(name) else [None]
    ids = [each for each in path if isinstance(each, str) or (each is not None and fits_tables(each))]
    text = written(ids)
    return text if len(ids) == len(path) < _WRITTEN >= len(text) else shown(_bare(name))


def _find(tree: CategoryTree, created: NewCategories, category_id: int | str) -> list[Node]:
    numbers = [
        number
        for number in created.find(category_id)
        if category_id not in created_path(tree, created, number)[:-1]
    ]
    return tree.find(category_id) + [(NEW, number) for number in numbers]


def _find_path(tree: CategoryTree, created: NewCategories, path: Sequence[Any]) -> list[Node]:
    found = tree.find_path(path)
    if found or len(path) < 2 or not created.find(path[-1]):
        return found
    above = tree.find_path(path[:-1])
    return [(NEW, number) for number in created.find(path[-1]) if created.parents[number] in above]


def _listed(tree: CategoryTree, created: NewCategories, nodes: Sequence[Node]) -> str:
    paths = [
        created_path(tree, created, index) if level == NEW else tree.id_path((level, index))
        for level, index in nodes[:_SHOWN]
    ]
    more = f", or one of {len(nodes) - _SHOWN} others" if len(nodes) > _SHOWN else ""
    return " or ".join(map(written, paths)) + more


def _unknown(tree: CategoryTree, created: NewCategories, name: Any) -> str:
    """Why there is no such category, and which there are."""
    example = tree.category(-1, 0).id
    kind = "integers" if tree.id_type == "int64" else "strings"
    of_type = "" if _is_path(name) else f" of type {type(_bare(name)).__name__}"
    message = (
        f"there is no category {_shown(name)}{of_type}; category ids of this catalog are {kind}, "
        f"such as {shown(example)}"
    )
    wrong = plain_id(name)
    if _is_path(name):  # the first id that leads nowhere
        ids = [plain_id(each) for each in name]
        wrong = next((own for at, own in enumerate(ids) if not tree.find_path(ids[: at + 1])), None)
    if wrong is None:
        return message
    elsewhere = _find(tree, created, wrong)
    if elsewhere:
        return f"{message}; {shown(wrong)} stands at {_listed(tree, created, elsewhere)}"
    some = [each for each in islice(tree.every_id, _COMPARED) if isinstance(each, str)]
    alike = difflib.get_close_matches(shown(wrong) if isinstance(wrong, int) else wrong[:_ALIKE], some)
    return f"{message}; spelled alike: {', '.join(map(repr, alike))}" if alike else message
