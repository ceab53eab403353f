"""A session that grows: clicks are added one by one, and each is looked up once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_sdk.id_lists import plain_id

if TYPE_CHECKING:
    from hiersrec_sdk.catalog.snapshot import Catalog
    from hiersrec_sdk.options import RecommendOptions
    from hiersrec_sdk.recommender import Recommender
    from hiersrec_sdk.results import Result


class Session:
    """The clicks of one visitor: made by :meth:`Recommender.session`. One thread at a time may change it.

    A pickle holds the item ids alone, so that it is small; what is unpickled answers again after
    ``recommender.session(unpickled)``.

    >>> s = recommender.session()            # doctest: +SKIP
    >>> s.add("shoe-17").recommend(k=20)     # doctest: +SKIP
    """

    __slots__ = ("_catalog", "_items", "_recommender", "_rows")

    def __init__(
        self, recommender: Recommender | None, items: Sequence[int | str] | NDArray[np.int64] = ()
    ) -> None:
        self._recommender = recommender
        self._items: list[int | str] = []
        self._catalog: Catalog | None = None
        self._rows: list[int] = []  # of that catalog; -1 for an id that it lacks
        self._append(items.tolist() if isinstance(items, np.ndarray) else list(items))

    def add(self, item: int | str) -> Session:
        """Append a click; returns the session.

        Raises:
            InvalidItemIdError, NaNItemIdError: the id is not of the catalog's type, or NaN. The session is unchanged.
        """
        return self._append([item])

    def _append(self, items: list[int | str]) -> Session:
        if items:
            recommender = self._attached()
            recommender._bundle.check_unchanged()
            catalog = recommender.catalog.current
            self._rows_in(catalog)
            rows = catalog.rows(items).tolist()
            ids = [each for each in map(plain_id, items) if each is not None]
            self._catalog = None  # whatever interrupts this: rows are looked up again
            self._items += ids
            self._rows += rows
            self._catalog = catalog
        return self

    def undo(self) -> int | str:
        """Take back the newest click, and return it.

        Raises:
            InvalidOptionError: the session is empty.
        """
        if not self._items:
            raise InvalidOptionError("the session is empty: there is no click to take back")
        catalog, self._catalog = self._catalog, None
        item_id = self._items.pop()
        if self._rows:  # an unpickled session has none
            self._rows.pop()
            self._catalog = catalog
        return item_id

    @property
    def items(self) -> tuple[int | str, ...]:
        """All clicks, oldest first, known or not."""
        return tuple(self._items)

    def recommend(self, k: int = 20, **options: Unpack[RecommendOptions]) -> Result:
        """What :meth:`Recommender.recommend` answers to all clicks; takes the same arguments."""
        return self._attached()._recommend_to(self, k, options)

    def _rows_in(self, catalog: Catalog) -> NDArray[np.int64]:
        """Rows of all clicks in ``catalog``: those that were looked up before, where it is the same snapshot."""
        if self._catalog is not catalog:
            self._rows = catalog.rows(self._items).tolist() if self._items else []
            self._catalog = catalog
        return np.array(self._rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<Session: {len(self)} clicks{'' if self._recommender else ', of no recommender yet'}>"

    def __copy__(self) -> Session:
        copy = Session(self._recommender)
        copy._items = list(self._items)
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (list(self._items),)

    def _attached(self) -> Recommender:
        if self._recommender is None:
            raise InvalidOptionError(
                "this session was unpickled: recommender.session(session) makes it answer again"
            )
        return self._recommender


def _detached(items: list[int | str]) -> Session:
    session = Session(None)
    session._items = items
    return session
