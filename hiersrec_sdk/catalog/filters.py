"""Which items may be recommended, prepared once and used by many requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog.delta import NEW, Changes, Log, Place
from hiersrec_sdk.catalog.snapshot import UNKNOWN, Catalog
from hiersrec_sdk.errors import InvalidArgumentError, InvalidFilterError, UnknownCategoryError
from hiersrec_sdk.ranking import row_ranges


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """Items that may be recommended: made by :meth:`Recommender.filter`. Any number of threads may use it.

    Attributes:
        items: how many of the bundle's items may be recommended.
    """

    items: int
    _catalog: Catalog = field(repr=False)
    _bitmap: NDArray[np.uint64] = field(repr=False)  # one bit a row
    _eligible: NDArray[np.int64] = field(repr=False)  # rows of each leaf category that may be recommended
    _rule: _Rule = field(repr=False)
    _judged: list[tuple[Log | None, NDArray[np.bool]]] = field(
        repr=False
    )  # rows added since, of a log, judged by now

    def __len__(self) -> int:
        return self.items

    def allows(self, rows: NDArray[np.int64]) -> NDArray[np.bool]:
        """bool [len(rows)]: whether each row of the bundle's catalogue may be recommended."""
        return row_ranges.in_bitmap(self._bitmap, rows)

    def _allows_in(self, catalog: Catalog, rows: NDArray[np.int64]) -> NDArray[np.bool]:
        """The same of rows of a snapshot, added ones too."""
        changes = catalog.changes
        if changes is None:
            return self.allows(rows)
        beyond = rows >= changes.base_rows
        found = self.allows(np.where(beyond, 0, rows))
        found[beyond] = self._added(changes)[rows[beyond] - changes.base_rows]
        return found

    def _added(self, changes: Changes) -> NDArray[np.bool]:
        """bool [added rows of the snapshot]: whether each may be recommended. What an added row is never changes."""
        log, judged = self._judged[0]
        if log is not changes.log:  # it was made anew
            judged = np.empty(0, dtype=bool)
        if len(judged) < len(changes):
            judged = np.concatenate([judged, self._rule.allows(changes, len(judged))])
            self._judged[0] = changes.log, judged
        return judged[: len(changes)]


@dataclass(frozen=True)
class _Rule:
    """What a filter says, for rows that are added later. Categories are places (:mod:`hiersrec_sdk.catalog.delta`)."""

    base: _Rule | None
    allow: frozenset[Any] | None
    exclude: frozenset[Any]
    categories: frozenset[Place] | None
    exclude_categories: frozenset[Place]

    def allows(self, changes: Changes, first: int) -> NDArray[np.bool]:
        """bool: whether each added row from ``first`` on may be recommended."""
        log, count = changes.log, len(changes)
        found = np.ones(count, dtype=bool) if self.base is None else self.base.allows(changes, 0)
        if self.allow is not None:
            found &= self._marked(self.allow, changes)
        if self.exclude:
            found &= ~self._marked(self.exclude, changes)
        if self.categories is not None or self.exclude_categories:
            kinds = [
                (self.categories is None or bool(self.categories & where.places))
                and not self.exclude_categories & where.places
                for where in log.kinds
            ]
            found &= np.array(kinds, dtype=bool)[log.kind.view()[:count]] if count else found
        return found[first:]

    @staticmethod
    def _marked(ids: frozenset[Any], changes: Changes) -> NDArray[np.bool]:
        """bool [added rows]: whether the item of each is among ``ids``; by whichever are fewer."""
        count, log = len(changes), changes.log
        if len(ids) > count:
            return np.array([own in ids for own in log.ids[:count]], dtype=bool)
        rows = [row for own in ids for row in log.by_id.of(own) if row < count]
        found = np.zeros(count, dtype=bool)
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
    n = len(catalog.item_vectors)
    mask = np.zeros(n, dtype=bool)
    if base is None:
        mask[:] = True
    elif base._catalog is not catalog.base:
        raise InvalidFilterError("filter was made by another recommender: rows differ, make it with this one")
    else:
        mask[:] = np.unpackbits(base._bitmap.view(np.uint8), count=n, bitorder="little")
    allow, exclude = _as_list("allow", allow), _as_list("exclude", exclude)
    if allow is not None:
        mask &= _marked(n, rows_of(catalog.base, "allow", allow))
    if exclude is not None:
        mask[rows_of(catalog.base, "exclude", exclude)] = False
    only = None if categories is None else _places(catalog, "categories", categories)
    never = (
        frozenset()
        if exclude_categories is None
        else _places(catalog, "exclude_categories", exclude_categories)
    )
    if only is not None:
        mask &= _in_categories(catalog, only)
    if never:
        mask &= ~_in_categories(catalog, never)
    held = np.concatenate([[0], mask.cumsum()])
    leaves = catalog.ranges[-1]
    rule = _Rule(
        None if base is None else base._rule,
        None if allow is None else frozenset(allow),
        frozenset(exclude or ()),
        only,
        never,
    )
    eligible = held[leaves[:, 1]] - held[leaves[:, 0]]
    unjudged: list[tuple[Log | None, NDArray[np.bool]]] = [(None, np.empty(0, dtype=bool))]
    return Filter(int(held[-1]), catalog.base, row_ranges.as_bitmap(mask), eligible, rule, unjudged)


def _as_list(name: str, ids: Iterable[Any] | None) -> list[Any] | None:
    if ids is None:
        return None
    if not _is_list(ids):
        raise InvalidFilterError(
            f"{name} is {ids!r}, of type {type(ids).__name__}; it must be a list of item ids"
        )
    found: list[Any] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    return found


def rows_of(catalog: Catalog, name: str, ids: Iterable[Any]) -> NDArray[np.int64]:
    """Rows of the items ``ids`` of the argument ``name``, without those that the catalogue lacks."""
    if not _is_list(ids):
        raise InvalidFilterError(
            f"{name} is {ids!r}, of type {type(ids).__name__}; it must be a list of item ids"
        )
    try:
        rows = catalog.rows(ids if isinstance(ids, np.ndarray) else list(ids))
    except InvalidArgumentError as error:
        raise type(error)(f"{name}: {error}") from error
    known: NDArray[np.int64] = rows[rows != UNKNOWN]
    return known


def _is_list(ids: Any) -> bool:
    if isinstance(ids, np.ndarray):
        return ids.ndim == 1
    return isinstance(ids, Iterable) and not isinstance(ids, str | bytes | Mapping)


def _marked(n: int, rows: NDArray[np.int64]) -> NDArray[np.bool]:
    mask = np.zeros(n, dtype=bool)
    mask[rows] = True
    return mask


def _places(catalog: Catalog, name: str, ids: Iterable[Any]) -> frozenset[Place]:
    if not _is_list(ids):
        raise InvalidFilterError(
            f"{name} is {ids!r}, of type {type(ids).__name__}; it must be a list of category ids"
        )
    new = {} if catalog.changes is None else catalog.changes.new_categories
    found: set[Place] = set()
    for own in ids:
        own = own.item() if isinstance(own, np.generic) else own
        places: list[Place] = [*catalog.find_category(own)]
        if isinstance(own, int | str) and own in new:
            places.append((NEW, own))
        if not places:
            raise UnknownCategoryError(
                f"{name}: there is no category {own!r} of type {type(own).__name__}; category ids of this catalogue "
                f"are {'whole numbers' if catalog.category_id_type == 'int64' else 'strings'}, such as "
                f"{catalog.category(-1, 0).id!r}"
            )
        found.update(places)
    return frozenset(found)


def _in_categories(catalog: Catalog, places: frozenset[Place]) -> NDArray[np.bool]:
    """bool [n]: whether each of the bundle's rows lies in one of the categories, or is listed in one."""
    mask = np.zeros(len(catalog.item_vectors), dtype=bool)
    for level, index in places:
        if level == NEW or isinstance(index, str):
            continue
        start, stop = catalog.ranges[level][index]
        mask[start:stop] = True
        below = np.array([index])
        for parents in catalog.parents[level + 1 :]:
            below = np.flatnonzero(np.isin(parents, below))
        mask[catalog.extra_rows(below)] = True
    return mask
