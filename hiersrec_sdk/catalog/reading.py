"""Reading the catalog of a recommender: arguments are checked, which a snapshot leaves to its caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.arguments import checked_level, checked_rows, is_integer
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import Category, CategoryPath
from hiersrec_sdk.errors import InvalidItemIdError, InvalidRowError, UnknownCategoryError
from hiersrec_sdk.id_lists import listed, plain_id
from hiersrec_sdk.shown import shown

if TYPE_CHECKING:
    _Base = Catalog  # type checkers know by this what __getattr__ answers
else:
    _Base = object


class Reading(_Base):
    """The methods of :class:`~hiersrec_sdk.catalog.snapshot.Catalog` that users call, of the newest snapshot.

    Attributes:
        current: the newest snapshot.
    """

    current: Catalog
    _check_unchanged: Callable[[], None]

    @property
    def _now(self) -> Catalog:
        """The newest snapshot, if nobody has written into the tables that it reads."""
        self._check_unchanged()
        return self.current

    def rows(self, ids: Sequence[int | str] | NDArray[Any]) -> NDArray[np.int64]:
        """See :meth:`Catalog.rows`."""
        return self._now.rows(listed("ids", ids, InvalidItemIdError))

    def ids(self, rows: NDArray[np.int64]) -> Sequence[int | str]:
        """See :meth:`Catalog.ids`."""
        catalog = self._now
        return catalog.ids(_rows(catalog, rows))

    def title(self, row: int) -> str | None:
        """See :meth:`Catalog.title`."""
        catalog = self._now
        if not is_integer(row, 0) or row >= catalog.stop:
            raise InvalidRowError(f"row must be an integer from 0 to {catalog.stop - 1}, got {shown(row)}")
        return catalog.title(int(row))

    def category(self, level: int, index: int) -> Category:
        """See :meth:`Catalog.category`."""
        tree = self._now.tree
        level = checked_level(level, tree.depth)
        size = len(tree.ranges[level])
        if not is_integer(index) or not -size <= index < size:
            raise UnknownCategoryError(
                f"index must be an integer from 0 to {size - 1}, for level {level}, got {shown(index)}"
            )
        return tree.category(level, int(index))

    def category_label(self, path: CategoryPath) -> str:
        """See :meth:`Catalog.category_label`."""
        catalog = self._now
        every = listed("path", path, UnknownCategoryError, "category ids")
        catalog.find_category(list(every))  # for its errors
        return catalog.category_label(tuple(each for each in map(plain_id, every) if each is not None))

    def categories_of(self, rows: NDArray[np.int64], level: int = -1) -> NDArray[np.int64]:
        """See :meth:`Catalog.categories_of`."""
        catalog = self._now
        return catalog.categories_of(_rows(catalog, rows), checked_level(level, catalog.tree.depth))

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :meth:`Catalog.vectors`."""
        catalog = self._now
        return catalog.vectors(_rows(catalog, rows))

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See :meth:`Catalog.biases`."""
        catalog = self._now
        return catalog.biases(_rows(catalog, rows))

    def clicks_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :meth:`Catalog.clicks_of`."""
        catalog = self._now
        return catalog.clicks_of(_rows(catalog, rows))


def _rows(catalog: Catalog, given: Any) -> NDArray[np.int64]:
    return checked_rows(given, catalog.stop)
