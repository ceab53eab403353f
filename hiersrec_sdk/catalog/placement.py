"""Where an item belongs in the category tree, worked out when it is added or moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from hiersrec_sdk.catalog.item import Item, fits_tables
from hiersrec_sdk.catalog.tree import CategoryTree, Node
from hiersrec_sdk.errors import CatalogChangeError

NEW: Final = -1
CategoryKey = tuple[int, int | str]
"""A category: (level, index) of the bundle's tree; (NEW, external id) of one that was created since."""

_NO_LEAF: Final = 1 << 40  # a number beyond every leaf category, new ones included


@dataclass(frozen=True)
class Placement:
    """Where an item of a delta segment belongs.

    Attributes:
        path: index of its category at each level of the bundle's tree, from the top as far as they are known.
        categories: every category that it lies in, at any level, those that list it in addition included.
        start, stop: it is a candidate where one of the leaf categories ``[start, stop)`` is taken.
        leaf: its leaf category; a number beyond the bundle's for a new category, or where it lies in no leaf.
        extra: leaf categories that list it in addition.
    """

    path: tuple[int, ...]
    categories: frozenset[CategoryKey]
    start: int
    stop: int
    leaf: int
    extra: tuple[int, ...] = ()

    def leaves(self) -> Iterator[int]:
        """All leaf categories that make it a candidate."""
        yield from range(self.start, self.stop)
        yield from self.extra

    def listed_also(self, tree: CategoryTree, leaves: tuple[int, ...]) -> Placement:
        """The same item, listed in some other ``leaves`` in addition."""
        keys = self.categories.union(*(placed(tree, (tree.depth - 1, leaf)).categories for leaf in leaves))
        return replace(self, categories=keys, extra=leaves)


def placed(tree: CategoryTree, node: Node) -> Placement:
    """The placement of an item in a category of the tree: it is reached through the leaves below."""
    level, index = node
    path = tree.path(node)
    start, stop = tree.leaves_below(node)
    leaf = _NO_LEAF + (level << 32) + index
    if stop - start == 1:  # the item lies in the only leaf below, and in all categories between
        path, leaf = tree.path((tree.depth - 1, start)), start
    return Placement(tuple(path), frozenset(enumerate(path)), start, stop, leaf)


def unplaced(tree: CategoryTree) -> Placement:
    """The placement of a new item without a category: the unknown one, else a candidate in every session."""
    unknown = tree.find("unknown") or tree.find(-1)
    if unknown:
        return placed(tree, unknown[-1])
    return Placement((), frozenset(), 0, len(tree.leaves), _NO_LEAF)


def placed_by_path(tree: CategoryTree, item: Item, created: dict[int | str, Placement]) -> Placement:
    """The placement of ``item`` by its category; a category that this creates is put into ``created``.

    Raises:
        CatalogChangeError: there is no such category, or several; or a new one cannot be created.
    """
    path: list[Any] = item.category if isinstance(item.category, list) else [item.category]
    if not path:
        raise CatalogChangeError(f"item {item.id!r}: its category is an empty path")
    nodes: list[Node] | None = None  # where the path so far may end; None: anywhere
    for at, category_id in enumerate(path):
        found = tree.find(category_id)
        fitting = [
            node for node in found if nodes is None or any(tree.is_below(node, above) for above in nodes)
        ]
        if not fitting:
            is_last = at == len(path) - 1
            if is_last and category_id in created and at == 0:
                return created[category_id]
            if is_last and nodes is not None and not found:
                parent = _deepest(tree, item, path[at - 1], nodes)
                return _placed_in_new(tree, item, category_id, parent, created)
            below = f" below {path[at - 1]!r}" if at else ""
            raise CatalogChangeError(
                f"item {item.id!r}: there is no category {category_id!r}{below}; category ids of this catalog are such "
                f"as {tree.category(-1, 0).id!r}; a new one must be the last of a path, below an existing one, with an "
                "id that no other category has"
            )
        nodes = fitting
    return placed(tree, _deepest(tree, item, path[-1], nodes or []))


def _deepest(tree: CategoryTree, item: Item, category_id: Any, nodes: list[Node]) -> Node:
    """The deepest of the nodes of one id along a branch, as a shallow branch repeats its id on the levels below."""
    known = sorted(nodes)
    if any(not tree.is_below(lower, upper) for upper, lower in pairwise(known)):
        raise CatalogChangeError(
            f"item {item.id!r}: category {category_id!r} stands in several places: give its whole path"
        )
    return known[-1]


def _placed_in_new(
    tree: CategoryTree, item: Item, category_id: Any, parent: Node, created: dict[int | str, Placement]
) -> Placement:
    """The placement in a category ``category_id`` that the bundle lacks, below ``parent``."""
    wanted = int if tree.id_type == "int64" else str
    if type(category_id) is not wanted or not fits_tables(category_id):
        raise CatalogChangeError(
            f"item {item.id!r}: category {category_id!r} is of another type than those of this catalog"
        )
    above = placed(tree, parent)
    made = replace(
        above,
        path=above.path[: parent[0] + 1],
        categories=above.categories | {(NEW, category_id)},
        leaf=len(tree.leaves) + len(created),
    )
    if created.setdefault(category_id, made).categories != made.categories:
        raise CatalogChangeError(f"item {item.id!r}: category {category_id!r} is known below another one")
    return created[category_id]
