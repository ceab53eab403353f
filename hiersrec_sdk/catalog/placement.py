"""Where an item belongs in the category tree, worked out when it is added or moved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hiersrec_sdk.catalog.item import Item, fits_tables
from hiersrec_sdk.catalog.tree import NEW, UNKNOWN_IDS, CategoryTree, NewCategories, Node, named, resolve
from hiersrec_sdk.errors import (
    AmbiguousCategoryError,
    CatalogChangeError,
    UnknownCategoryError,
)
from hiersrec_sdk.shown import shown

NO_LEAF: Final = 1 << 40  # a number beyond every leaf category, new ones included


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
    categories: frozenset[Node]
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


def no_leaf(path: Sequence[int]) -> int:
    """What stands for the leaf category of items that lie in none: a number for each ``path``, () among them."""
    return NO_LEAF + (len(path) << 32) + (path[-1] if path else 0)


def placed(tree: CategoryTree, node: Node) -> Placement:
    """The placement of an item in a category of the tree: it is reached through the leaves below."""
    path = tree.path(node)
    start, stop = tree.leaves_below(node)
    leaf = no_leaf(path)
    if stop - start == 1:  # the item lies in the only leaf below, and in all categories between
        path, leaf = tree.path((tree.depth - 1, start)), start
    return Placement(tuple(path), frozenset(enumerate(path)), start, stop, leaf)


def unplaced(tree: CategoryTree) -> Placement:
    """The placement of a new item without a category: the unknown one, else a candidate in every session."""
    unknown = tree.find_path([UNKNOWN_IDS[tree.id_type]])
    if unknown:
        return placed(tree, tree.lowest_repeat(unknown[0]))
    return Placement((), frozenset(), 0, len(tree.leaves), no_leaf(()))


def placed_by_name(tree: CategoryTree, item: Item, created: NewCategories) -> Placement:
    """The placement of ``item`` by its category; one that this creates is added to ``created``.

    Raises:
        UnknownCategoryError: there is no such category, and no parent for a new one.
        AmbiguousCategoryError: several categories have this id.
        CatalogChangeError: no bundle could hold a new category of this id.
    """
    known = tree.placements if not len(created) else {}  # a new category can change what a name means
    found = known.get(item.category)
    if found is not None:
        return found
    try:
        node = _resolved_or_created(tree, item, created)
    except (AmbiguousCategoryError, UnknownCategoryError) as error:
        raise type(error)(f"item {shown(item.id)}: {error}") from None
    if node[0] == NEW:
        return placed_in_new(tree, created, node[1])
    found = known[item.category] = placed(tree, tree.lowest_repeat(node))
    return found


def placed_in_new(tree: CategoryTree, created: NewCategories, number: int) -> Placement:
    """The placement of an item in a category that was created since the export: it is reached through the parent."""
    parent = created.parents[number]
    above = placed(tree, parent)
    path = above.path[: parent[0] + 1]
    categories = frozenset([*enumerate(path), (NEW, number)])
    return replace(above, path=path, categories=categories, leaf=len(tree.leaves) + number)


def _resolved_or_created(tree: CategoryTree, item: Item, created: NewCategories) -> Node:
    path = item.category if isinstance(item.category, tuple) else ()
    # No error is made and caught here: a time limit that comes while its message is written would be lost.
    if len(path) < 2 or named(tree, created, path):
        return resolve(tree, created, item.category)
    if not named(tree, NewCategories(), path[:-1]):
        try:
            return resolve(tree, created, path)
        except UnknownCategoryError as error:
            raise UnknownCategoryError(
                f"{error}; a new category must be the last of a path, below one that the model was trained with"
            ) from None
    parent = resolve(tree, NewCategories(), path[:-1])
    wanted = int if tree.id_type == "int64" else str
    if type(path[-1]) is not wanted:
        raise CatalogChangeError(
            f"item {shown(item.id)}: category {shown(path[-1])} is of another type than those of this catalog"
        )
    if not fits_tables(path[-1]):
        raise CatalogChangeError(
            f"item {shown(item.id)}: category {shown(path[-1])} must be an int64 or UTF-8 text"
        )
    return NEW, created.add(parent, path[-1])
