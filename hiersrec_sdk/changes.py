"""What has changed of a bundle's catalogue: rows added beside its tables, rows gone, biases set.

The tables of a bundle are mapped and never written. A changed or new item is one of the added rows, numbered after the
bundle's own, and the row that it had before is gone. Added rows are appended to columns that all snapshots share: a
snapshot sees the first so many. Everything else is copied when it changes, so that a snapshot never does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog import UNKNOWN, Catalog
from hiersrec_sdk.ranking.requests import Table

NEW: Final = -1
Place = tuple[int, int | str]
"""A category: (level, index) of the bundle's tree; (NEW, own id) of a new one."""


@dataclass(frozen=True)
class Where:
    """Where an added item belongs.

    Attributes:
        places: the categories that it lies in, of every level.
        start, stop: it is a candidate where one of the leaf categories ``[start, stop)`` is taken.
        shelf: its leaf category; a number beyond the bundle's for a new category, or where it lies in no leaf.
        extra: leaf categories that list it beside.
    """

    places: frozenset[Place]
    start: int
    stop: int
    shelf: int
    extra: tuple[int, ...] = ()

    def leaves(self) -> Iterator[tuple[int, int]]:
        """All ranges of leaf categories that make it a candidate."""
        yield self.start, self.stop
        for leaf in self.extra:
            yield leaf, leaf + 1


class Column:
    """An array that grows at its end. What was appended never moves under whoever holds a view of it."""

    def __init__(self, dtype: str, width: int | None = None) -> None:
        self._array = np.empty((16,) if width is None else (16, width), dtype=dtype)
        self._length = 0

    def append(self, values: NDArray[Any]) -> None:
        stop = self._length + len(values)
        if stop > len(self._array):
            larger = np.empty((max(stop, 2 * len(self._array)), *self._array.shape[1:]), dtype=self._array.dtype)
            larger[: self._length] = self._array[: self._length]
            self._array = larger
        self._array[self._length : stop] = values
        self._length = stop

    def view(self) -> NDArray[Any]:
        return self._array[: self._length]


class Versions:
    """The added rows of each key, newest last. Snapshots share it: of rows beyond its own a snapshot knows nothing."""

    def __init__(self) -> None:
        self._rows: dict[Any, tuple[int, ...]] = {}

    def add(self, key: Any, row: int) -> None:
        self._rows[key] = (*self._rows.get(key, ()), row)

    def newest(self, key: Any, count: int) -> int | None:
        """The newest row below ``count``; None where there is none."""
        for row in reversed(self._rows.get(key, ())):
            if row < count:
                return row
        return None


class Log:
    """The shared columns of all added rows. Only the writer appends."""

    def __init__(self, dimension: int, tied: bool) -> None:
        self.vectors = Column("f4", dimension)
        self.inputs = self.vectors if tied else Column("f4", dimension)
        self.clicks = Column("i8")
        self.origin = Column("i8")  # the bundle's row of the same item, or -1
        self.shelf = Column("i8")  # leaf category, beyond the bundle's for a new one
        self.reached_row, self.reached_start, self.reached_stop = Column("i8"), Column("i8"), Column("i8")
        self.ids: list[int | str] = []
        self.titles: list[str | None] = []
        self.where: list[Where] = []
        self.by_id, self.by_origin = Versions(), Versions()
        self.new_categories: dict[int | str, Where] = {}  # by own id

    def extend(
        self,
        ids: Sequence[int | str],
        titles: Sequence[str | None],
        where: Sequence[Where],
        vectors: NDArray[np.float32],
        inputs: NDArray[np.float32] | None,
        clicks: NDArray[np.int64],
        origin: NDArray[np.int64],
    ) -> None:
        """Append rows, one for each id; ``inputs``: None where they are the output vectors."""
        first = len(self.ids)
        self.vectors.append(vectors)
        if self.inputs is not self.vectors:
            self.inputs.append(vectors if inputs is None else inputs)
        self.clicks.append(clicks)
        self.origin.append(origin)
        self.shelf.append(np.array([each.shelf for each in where], dtype=np.int64))
        entries = [(row, *leaves) for row, each in enumerate(where, start=first) for leaves in each.leaves()]
        columns = np.array(entries, dtype=np.int64).reshape(-1, 3).T
        for column, values in zip((self.reached_row, self.reached_start, self.reached_stop), columns, strict=True):
            column.append(values)
        self.ids += ids
        self.titles += titles
        self.where += where
        for row, (own, base_row) in enumerate(zip(ids, origin.tolist(), strict=True), start=first):
            self.by_id.add(own, row)
            if base_row != UNKNOWN:
                self.by_origin.add(base_row, row)


@dataclass(frozen=True, eq=False)
class Changes:
    """The changes that one snapshot sees.

    Attributes:
        log: the shared columns.
        base_rows: n, rows of the bundle; added row i is row n + i of the catalogue.
        vectors, inputs: float32 [m, d] of the added rows.
        bias: float32 [m].
        clicks, origin, shelf: int64 [m], see :class:`Log`.
        alive: bool [m], which of the added rows are the newest of their items.
        reached_row, reached_start, reached_stop: int64 [e]: an added row is a candidate where a leaf category in
            ``[start, stop)`` is taken; it may have several such entries.
        gone: int64, rising: the bundle's rows that are no items any more.
        kept: uint64 [ceil(n / 64)], a bit for each of the bundle's rows, 0 where it is gone; None where none is.
    """

    log: Log
    base_rows: int
    vectors: NDArray[np.float32]
    inputs: NDArray[np.float32]
    bias: NDArray[np.float32]
    clicks: NDArray[np.int64]
    origin: NDArray[np.int64]
    shelf: NDArray[np.int64]
    alive: NDArray[np.bool]
    reached_row: NDArray[np.int64]
    reached_start: NDArray[np.int64]
    reached_stop: NDArray[np.int64]
    gone: NDArray[np.int64]
    kept: NDArray[np.uint64] | None
    items: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "items", self.base_rows - len(self.gone) + int(np.count_nonzero(self.alive)))

    def __len__(self) -> int:
        return len(self.vectors)

    @classmethod
    def of(
        cls,
        log: Log,
        base_rows: int,
        bias: NDArray[np.float32],
        alive: NDArray[np.bool],
        gone: NDArray[np.int64],
        kept: NDArray[np.uint64] | None,
    ) -> Changes:
        """With all rows that the ``log`` has now."""
        vectors, inputs = log.vectors.view(), log.inputs.view()
        return cls(
            log, base_rows, vectors, vectors if log.inputs is log.vectors else inputs, bias, log.clicks.view(),
            log.origin.view(), log.shelf.view(), alive, log.reached_row.view(), log.reached_start.view(),
            log.reached_stop.view(), gone, kept,
        )  # fmt: skip

    def without(self, rows: NDArray[np.int64]) -> Changes:
        """The same where some of the bundle's ``rows``, which were there, are gone."""
        if not len(rows):
            return self
        kept = np.full(-(-self.base_rows // 64), ~np.uint64(0)) if self.kept is None else self.kept.copy()
        np.bitwise_and.at(kept, rows >> 6, ~(np.uint64(1) << (rows & 63).astype(np.uint64)))
        return replace(self, gone=np.union1d(self.gone, rows), kept=kept)

    @cached_property
    def table(self) -> Table:
        return Table(self.vectors, self.bias)

    @cached_property
    def plain_table(self) -> Table:
        """Without biases."""
        return Table(self.vectors)

    def reached(self, leaves: NDArray[np.int64], categories: int) -> NDArray[np.int64]:
        """int64, rising: the added rows, alive, that the taken ``leaves`` of so many ``categories`` make candidates."""
        taken = np.zeros(categories + 1, dtype=np.int64)
        taken[leaves + 1] = 1
        before = taken.cumsum()
        hit = before[self.reached_stop] > before[self.reached_start]
        mask = np.zeros(len(self), dtype=bool)
        mask[self.reached_row[hit]] = True
        return np.flatnonzero(mask & self.alive)

    def row_of_id(self, own: Any) -> int | None:
        """The catalogue's row of an item that was added, -1 if it is gone; None if the changes know nothing of it."""
        row = self.log.by_id.newest(own, len(self))
        return None if row is None else self._row(row)

    def in_log(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of a session's ``rows``, in order, those that the click log knows: the bundle's own of each item."""
        added = rows >= self.base_rows
        if not added.any():
            return rows
        found = rows.copy()
        found[added] = self.origin[rows[added] - self.base_rows]
        known: NDArray[np.int64] = found[found != UNKNOWN]
        return known

    def successors(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of the bundle's ``rows``: themselves, or the added row of the same item, or -1 where the item is gone."""
        if not len(self.gone):
            return rows
        places = self.gone.searchsorted(rows)
        is_gone = self.gone.take(places, mode="clip") == rows
        if not is_gone.any():
            return rows
        found = rows.copy()
        for at in np.flatnonzero(is_gone):
            row = self.log.by_origin.newest(int(rows[at]), len(self))
            found[at] = UNKNOWN if row is None else self._row(row)
        return found

    def _row(self, row: int) -> int:
        return self.base_rows + row if self.alive[row] else UNKNOWN


class ChangedCatalog(Catalog):
    """A bundle's catalogue with changes: one snapshot, which stays as it is.

    Rows of the bundle come first, added ones after them; :attr:`output_vectors`, :attr:`ranges` and all other tables
    are the bundle's own.
    """

    changes: Changes

    def __init__(self, base: Catalog, changes: Changes, bias: NDArray[np.float32] | None) -> None:
        self.__dict__.update(base.__dict__)
        for computed in ("popular", "table", "plain_table", "options"):
            self.__dict__.pop(computed, None)
        self.base, self.changes, self.bias = base, changes, bias
        if bias is base.bias:
            self.__dict__["table"] = base.table  # which a backend has made its own of
        self.__dict__["plain_table"] = base.plain_table

    def __len__(self) -> int:
        return self.changes.items

    def rows(self, ids: Sequence[int | str] | NDArray[Any]) -> NDArray[np.int64]:
        changes = self.changes
        rows = changes.successors(self._ids.find(ids))
        own: list[Any] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        for at in np.flatnonzero(rows == UNKNOWN):
            row = changes.row_of_id(own[at])
            rows[at] = UNKNOWN if row is None else row
        return rows

    def ids(self, rows: NDArray[np.int64]) -> Sequence[int | str]:
        n = self.changes.base_rows
        added = rows >= n
        if not added.any():
            return self._ids.take(rows)
        found: list[int | str] = [*self._ids.take(np.where(added, 0, rows))]
        for at in np.flatnonzero(added):
            found[at] = self.changes.log.ids[int(rows[at]) - n]
        return found

    def title(self, row: int) -> str | None:
        n = self.changes.base_rows
        return super().title(row) if row < n else self.changes.log.titles[row - n]

    def vectors(self, rows: NDArray[np.int64], inputs: bool = False) -> NDArray[np.float32]:
        base = self.input_vectors if inputs else self.output_vectors
        added = self.changes.inputs if inputs else self.changes.vectors
        n = self.changes.base_rows
        found: NDArray[np.float32] = np.empty((len(rows), base.shape[1]), dtype=np.float32)
        is_added = rows >= n
        found[~is_added] = base[rows[~is_added]]
        found[is_added] = added[rows[is_added] - n]
        return found

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        n = self.changes.base_rows
        found: NDArray[np.float32] = np.zeros(len(rows), dtype=np.float32)
        is_added = rows >= n
        if self.bias is not None:
            found[~is_added] = self.bias[rows[~is_added]]
        found[is_added] = self.changes.bias[rows[is_added] - n]
        return found

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        changes = self.changes
        added = np.where(changes.alive, changes.vectors @ query + changes.bias, -np.inf)
        found = np.concatenate([super().scores(query), added]).astype(np.float32)
        found[changes.gone] = -np.inf
        return found

    def categories_of(self, rows: NDArray[np.int64], level: int = -1) -> NDArray[np.int64]:
        """As of a bundle; new leaf categories are numbered after its own. Of an item in a new category there is no
        category at the levels above: -1."""
        n = self.changes.base_rows
        found = super().categories_of(rows, level)
        added = np.flatnonzero(rows >= n)
        if len(added):
            shelves = self.changes.shelf[rows[added] - n]
            level = range(len(self.ranges))[level]
            for above in range(len(self.ranges) - 1, level, -1):
                known = shelves < len(self.ranges[-1])
                shelves = np.where(known, self.parents[above][np.where(known, shelves, 0)], _NEW)
            found[added] = np.where((shelves >= len(self.ranges[-1])) & (level < len(self.ranges) - 1), -1, shelves)
        return found

    def most_clicked(self, count: int) -> NDArray[np.int64]:
        changes, n = self.changes, self.changes.base_rows
        first = self.base.popular[:count]
        least = int(self.clicks[first[-1]]) if len(first) < n else -1
        if changes.kept is not None:
            first = first[_bits(changes.kept, first)]
        added = np.flatnonzero(changes.alive & (changes.clicks > least))
        rows = np.concatenate([first, n + added])
        clicks = np.concatenate([self.clicks[first], changes.clicks[added]])
        order = np.lexsort((rows, -clicks))
        found: NDArray[np.int64] = rows[order]
        return found

    def clicks_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        n = self.changes.base_rows
        added = rows >= n
        found = self.clicks[np.where(added, 0, rows)]
        found[added] = self.changes.clicks[rows[added] - n]
        return found

    @property
    def stop(self) -> int:
        return self.changes.base_rows + len(self.changes)


_NEW: Final = 1 << 62


def _bits(bitmap: NDArray[np.uint64], rows: NDArray[np.int64]) -> NDArray[np.bool]:
    found: NDArray[np.bool] = ((bitmap[rows >> 6] >> (rows & 63).astype(np.uint64)) & np.uint64(1)).astype(bool)
    return found
