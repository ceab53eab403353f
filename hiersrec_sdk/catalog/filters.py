"""Which items may be recommended, prepared once and used by many requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.arguments import checked_rows
from hiersrec_sdk.catalog.delta import DeltaColumns, DeltaSegment
from hiersrec_sdk.catalog.segment import Bitmap
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import NEW, CategoryTree, Node
from hiersrec_sdk.errors import (
    AmbiguousCategoryError,
    InvalidArgumentError,
    InvalidFilterError,
    UnknownCategoryError,
)
from hiersrec_sdk.id_lists import listed, plain_id
from hiersrec_sdk.ranking import row_ranges
from hiersrec_sdk.ranking.backend import UNKNOWN

FindRows: TypeAlias = Callable[[Sequence[Any] | NDArray[Any]], NDArray[np.int64]]


class _Judged:
    """Delta rows that a filter has judged by now; what a delta row is never changes."""

    def __init__(self) -> None:
        self.state: tuple[DeltaColumns | None, NDArray[np.bool]] = (None, np.empty(0, dtype=bool))


@dataclass(frozen=True, eq=False, slots=True)
class Filter:
    """The items that may be recommended: made by :meth:`Recommender.filter`. Any number of threads may use it.

    It knows categories and ids, not rows: items that are added or moved later are judged by it too.

    Attributes:
        items: how many of the bundle's items may be recommended.
        tree: the category tree of the catalog that it was made for.
        bitmap: a bit for each of the bundle's rows.
        eligible: int64 [leaf categories], the bundle's rows of each that may be recommended.
    """

    items: int
    tree: CategoryTree = field(repr=False)
    bitmap: Bitmap = field(repr=False)
    eligible: NDArray[np.int64] = field(repr=False)
    _rule: _Rule = field(repr=False)
    _judged: _Judged = field(repr=False, default_factory=_Judged)

    def __len__(self) -> int:
        return self.items

    def __copy__(self) -> Filter:
        return self  # it never changes, and is of one catalog

    def __deepcopy__(self, memo: object) -> Filter:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a filter is of the recommender that made it: send what it was made of, and call Recommender.filter() there"
        )

    def allows(self, rows: NDArray[np.int64]) -> NDArray[np.bool]:
        """bool [len(rows)]: whether each of the bundle's rows may be recommended.

        Raises:
            InvalidRowError: a row that the bundle does not have.
        """
        return row_ranges.in_bitmap(self.bitmap, checked_rows(rows, int(self.tree.leaves[-1, 1])))

    def allows_delta(self, delta: DeltaSegment) -> NDArray[np.bool]:
        """bool [delta rows]: whether each may be recommended."""
        columns, judged = self._judged.state
        if columns is not delta.columns:  # which were compacted
            judged = np.empty(0, dtype=bool)
        if len(judged) < len(delta):
            judged = np.concatenate([judged, self._rule.allows(delta, len(judged))])
            self._judged.state = delta.columns, judged
        return judged[: len(delta)]


@dataclass(frozen=True)
class _Rule:
    """What a filter says, by ids and categories: for rows that are added later."""

    base: _Rule | None
    allow: frozenset[Any] | None
    exclude: frozenset[Any]
    categories: frozenset[Node] | None
    exclude_categories: frozenset[Node]

    def allows(self, delta: DeltaSegment, first: int) -> NDArray[np.bool]:
        """bool: whether each delta row from ``first`` on may be recommended."""
        columns, count = delta.columns, len(delta)
        found = np.ones(count - first, dtype=bool) if self.base is None else self.base.allows(delta, first)
        if self.allow is not None:
            found &= self._marked(self.allow, delta, first)
        if self.exclude:
            found &= ~self._marked(self.exclude, delta, first)
        if self.categories is not None or self.exclude_categories:
            each = [
                (self.categories is None or bool(self.categories & placement.categories))
                and not self.exclude_categories & placement.categories
                for placement in columns.placements
            ]
            if len(found):
                found &= np.array(each, dtype=bool)[columns.placement_id.view()[first:count]]
        return found

    @staticmethod
    def _marked(ids: frozenset[Any], delta: DeltaSegment, first: int) -> NDArray[np.bool]:
        """bool: whether the item of each delta row from ``first`` on is among ``ids``; by whichever are fewer."""
        columns, count = delta.columns, len(delta)
        if len(ids) > count - first:
            return np.array([item_id in ids for item_id in columns.ids[first:count]], dtype=bool)
        rows = [row - first for item_id in ids for row in columns.by_id.of(item_id) if first <= row < count]
        found = np.zeros(count - first, dtype=bool)
        found[rows] = True
        return found


def prepare(
    catalog: Catalog,
    base: Filter | None = None,
    *,
    allow: Iterable[Any] | None = None,
    exclude: Iterable[Any] | None = None,
    categories: Iterable[Any] | None = None,
    exclude_categories: Iterable[Any] | None = None,
) -> Filter:
    """The filter of all of these together; None does not restrict. See :meth:`Recommender.filter`."""
    tree, index, n = catalog.tree, catalog.base.tables.index, len(catalog.base)
    mask = np.ones(n, dtype=bool)
    if base is not None:
        check_same_catalog(base, catalog)
        mask[:] = np.unpackbits(base.bitmap.view(np.uint8), count=n, bitorder="little")
    allow = None if allow is None else list_of_ids("allow", allow)
    exclude = None if exclude is None else list_of_ids("exclude", exclude)
    if allow is not None:
        mask &= _marked(n, _rows_of(index.find, "allow", allow))
    if exclude is not None:
        mask[_rows_of(index.find, "exclude", exclude)] = False
    only = None if categories is None else _nodes(catalog, "categories", categories)
    never = (
        frozenset()
        if exclude_categories is None
        else _nodes(catalog, "exclude_categories", exclude_categories)
    )
    if only is not None:
        mask &= _in_categories(catalog, only)
    if never:
        mask &= ~_in_categories(catalog, never)
    held = np.concatenate([[0], mask.cumsum()])
    rule = _Rule(
        None if base is None else base._rule,
        None if allow is None else _set_of(allow),
        frozenset() if exclude is None else _set_of(exclude),
        only,
        never,
    )
    eligible = held[tree.leaves[:, 1]] - held[tree.leaves[:, 0]]
    return Filter(int(held[-1]), tree, row_ranges.as_bitmap(mask), eligible, rule)


def check_same_catalog(chosen: Filter, catalog: Catalog) -> None:
    """Raise :class:`InvalidFilterError` where the filter was made for another recommender's catalog."""
    if chosen.tree is not catalog.tree:
        raise InvalidFilterError("filter was made by another recommender: rows differ, make it with this one")


def list_of_ids(name: str, ids: Any, of: str = "item ids") -> Sequence[Any] | NDArray[Any]:
    """The ids that the argument ``name`` lists, in any order.

    Raises:
        InvalidFilterError: it is not a list of ids.
    """
    return listed(name, ids, InvalidFilterError, of, ordered=False)


def rows_of(catalog: Catalog, name: str, ids: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Rows of the items ``ids`` of the argument ``name``, without those that the catalog lacks."""
    return _rows_of(catalog.rows, name, ids)


def _rows_of(find: FindRows, name: str, ids: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    try:
        rows = find(ids)
    except InvalidArgumentError as error:
        raise type(error)(f"{name}: {error}") from error
    known: NDArray[np.int64] = rows[rows != UNKNOWN]
    return known


def _set_of(ids: Sequence[Any] | NDArray[Any]) -> frozenset[Any]:
    return frozenset(ids.tolist() if isinstance(ids, np.ndarray) else map(plain_id, ids))


def _marked(n: int, rows: NDArray[np.int64]) -> NDArray[np.bool]:
    mask = np.zeros(n, dtype=bool)
    mask[rows] = True
    return mask


def _nodes(catalog: Catalog, argument: str, names: Iterable[Any]) -> frozenset[Node]:
    try:
        return frozenset(catalog.find_category(name) for name in list_of_ids(argument, names, "category ids"))
    except (AmbiguousCategoryError, UnknownCategoryError) as error:
        raise type(error)(f"{argument}: {error}") from None


def _in_categories(catalog: Catalog, nodes: frozenset[Node]) -> NDArray[np.bool]:
    """bool [n]: whether each of the bundle's rows lies in one of the categories, or is listed in one."""
    tree, mask = catalog.tree, np.zeros(len(catalog.base), dtype=bool)
    for level, index in nodes:
        if level == NEW:
            continue
        start, stop = tree.ranges[level][index]
        mask[start:stop] = True
        mask[catalog.base.tables.extra_of(np.arange(*tree.leaves_below((level, index))))] = True
    return mask
