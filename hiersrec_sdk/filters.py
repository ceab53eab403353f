"""Which items may be recommended, prepared once and used by many requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog import UNKNOWN, Catalog
from hiersrec_sdk.errors import FilterError, InputError, UnknownCategoryError


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """Items that may be recommended: made by :meth:`Recommender.filter`. Any number of threads may use it.

    Attributes:
        items: how many items may be recommended.
    """

    items: int
    _catalog: Catalog = field(repr=False)
    _bitmap: NDArray[np.uint64] = field(repr=False)  # one bit a row
    _eligible: NDArray[np.int64] = field(repr=False)  # rows of each leaf category that may be recommended

    def __len__(self) -> int:
        return self.items

    def allows(self, rows: NDArray[np.int64]) -> NDArray[np.bool]:
        """bool [len(rows)]: whether each row of the catalogue may be recommended."""
        bits = self._bitmap[rows >> 6] >> (rows & 63).astype(np.uint64)
        found: NDArray[np.bool] = (bits & np.uint64(1)).astype(bool)
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
    n = len(catalog)
    mask = np.zeros(n, dtype=bool)
    if base is None:
        mask[:] = True
    elif base._catalog is not catalog:
        raise FilterError("filter was made by another recommender: rows differ, make it with this one")
    else:
        mask[:] = np.unpackbits(base._bitmap.view(np.uint8), count=n, bitorder="little")
    if allow is not None:
        mask &= _marked(n, rows_of(catalog, "allow", allow))
    if exclude is not None:
        mask[rows_of(catalog, "exclude", exclude)] = False
    if categories is not None:
        mask &= _in_categories(catalog, "categories", categories)
    if exclude_categories is not None:
        mask &= ~_in_categories(catalog, "exclude_categories", exclude_categories)
    bits = np.packbits(mask, bitorder="little")
    bitmap = np.zeros(-(-n // 64), dtype=np.uint64)
    bitmap.view(np.uint8)[: len(bits)] = bits
    held = np.concatenate([[0], mask.cumsum()])
    leaves = catalog.ranges[-1]
    return Filter(int(held[-1]), catalog, bitmap, held[leaves[:, 1]] - held[leaves[:, 0]])


def rows_of(catalog: Catalog, name: str, ids: Iterable[Any]) -> NDArray[np.int64]:
    """Rows of the items ``ids`` of the argument ``name``, without those that the catalogue lacks."""
    if not _is_list(ids):
        raise FilterError(f"{name} is {ids!r}, of type {type(ids).__name__}; it must be a list of item ids")
    try:
        rows = catalog.rows(ids if isinstance(ids, np.ndarray) else list(ids))
    except InputError as error:
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


def _in_categories(catalog: Catalog, name: str, ids: Iterable[Any]) -> NDArray[np.bool]:
    """bool [n]: whether each row lies in one of the categories, or is listed in one."""
    if not _is_list(ids):
        raise FilterError(f"{name} is {ids!r}, of type {type(ids).__name__}; it must be a list of category ids")
    mask = np.zeros(len(catalog), dtype=bool)
    for own in ids:
        places = catalog.find_category(own)
        if not places:
            raise UnknownCategoryError(
                f"{name}: there is no category {own!r} of type {type(own).__name__}; category ids of this catalogue "
                f"are {'whole numbers' if catalog.category_id_type == 'int64' else 'strings'}, such as "
                f"{catalog.category(-1, 0).id!r}"
            )
        for level, index in places:
            start, stop = catalog.ranges[level][index]
            mask[start:stop] = True
            below = np.array([index])
            for parents in catalog.parents[level + 1 :]:
                below = np.flatnonzero(np.isin(parents, below))
            mask[catalog.extra_rows(below)] = True
    return mask
