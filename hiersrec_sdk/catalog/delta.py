"""What has changed of a bundle's catalogue: rows added beside its tables, rows gone, biases set.

The tables of a bundle are mapped and never written. A changed or new item is one of the added rows, numbered after the
bundle's own, and the row that it had before is gone. Added rows are appended to columns that all snapshots share: a
snapshot sees the first so many. Everything else is copied when it changes, so that a snapshot never does.

What a call asks of the added rows is kept small: NumPy gives the GIL away in work on more than some hundred elements,
and threads that recommend would wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog.snapshot import UNKNOWN, Catalog
from hiersrec_sdk.ranking import row_ranges
from hiersrec_sdk.ranking.requests import Table

NEW: Final = -1
Place = tuple[int, int | str]
"""A category: (level, index) of the bundle's tree; (NEW, own id) of a new one."""


@dataclass(frozen=True)
class Where:
    """Where an added item belongs.

    Attributes:
        path: index of its category at each level of the bundle's tree, from the top as far as they are known.
        places: all categories that it lies in, of every level, those that list it beside too.
        start, stop: it is a candidate where one of the leaf categories ``[start, stop)`` is taken.
        shelf: its leaf category; a number beyond the bundle's for a new category, or where it lies in no leaf.
        extra: leaf categories that list it beside.
    """

    path: tuple[int, ...]
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
            larger = np.empty(
                (max(stop, 2 * len(self._array)), *self._array.shape[1:]), dtype=self._array.dtype
            )
            larger[: self._length] = self._array[: self._length]
            self._array = larger
        self._array[self._length : stop] = values
        self._length = stop

    def view(self) -> NDArray[Any]:
        return self._array[: self._length]


class Versions:
    """The added rows of each key, newest last. Snapshots share it: of rows beyond its own a snapshot knows nothing."""

    def __init__(self) -> None:
        self._rows: dict[Any, list[int]] = {}

    def add(self, key: Any, row: int) -> None:
        self._rows.setdefault(key, []).append(row)

    def of(self, key: Any) -> list[int]:
        return self._rows.get(key, [])

    def newest(self, key: Any, count: int) -> int | None:
        """The newest row below ``count``; None where there is none."""
        return next((row for row in reversed(self.of(key)) if row < count), None)


class Log:
    """The shared columns of all added rows. Only the writer appends."""

    def __init__(self, dimension: int, tied: bool) -> None:
        self.vectors = Column("f4", dimension)
        self.inputs = self.vectors if tied else Column("f4", dimension)
        self.bias, self.boost = Column("f4"), Column("f4")  # the model's own, and what was set beside it
        self.biased = Column("f4")  # their sum
        self.clicks = Column("i8")
        self.origin = Column("i8")  # the bundle's row of the same item, or -1
        self.shelf = Column("i8")
        self.kind = Column("i8")  # number of the row's place among ``kinds``
        self.ids: list[int | str] = []
        self.titles: list[str | None] = []
        self.kinds: list[Where] = []
        self.rows_of_kind: list[Column] = []
        self.kinds_of_leaf: dict[
            int, list[int]
        ] = {}  # whose rows are candidates where the leaf category is taken
        self._number: dict[Where, int] = {}
        self.by_id, self.by_origin = Versions(), Versions()
        self.categories: list[tuple[int | str, Where]] = []  # new ones, with their own ids

    def extend(
        self,
        ids: Sequence[int | str],
        titles: Sequence[str | None],
        where: Sequence[Where],
        vectors: NDArray[np.float32],
        inputs: NDArray[np.float32],
        bias: NDArray[np.float32],
        boost: NDArray[np.float32],
        clicks: NDArray[np.int64],
        origin: NDArray[np.int64],
    ) -> None:
        """Append rows, one for each id."""
        first = len(self.ids)
        self.vectors.append(vectors)
        if self.inputs is not self.vectors:
            self.inputs.append(inputs)
        self.bias.append(bias)
        self.boost.append(boost)
        self.biased.append(bias + boost)
        self.clicks.append(clicks)
        self.origin.append(origin)
        self.shelf.append(np.array([each.shelf for each in where], dtype=np.int64))
        kinds = np.array([self._kind(each) for each in where], dtype=np.int64)
        self.kind.append(kinds)
        for kind in set(kinds.tolist()):
            self.rows_of_kind[kind].append(first + np.flatnonzero(kinds == kind))
        self.ids += ids
        self.titles += titles
        for row, (own, base_row) in enumerate(zip(ids, origin.tolist(), strict=True), start=first):
            self.by_id.add(own, row)
            if base_row != UNKNOWN:
                self.by_origin.add(base_row, row)

    def extend_with(self, other: Log, rows: NDArray[np.int64], boost: NDArray[np.float32]) -> None:
        """Append some ``rows`` int64 of a log, this one or another, with another ``boost``."""
        some = rows.tolist()
        self.extend(
            [other.ids[row] for row in some],
            [other.titles[row] for row in some],
            [other.where(row) for row in some],
            other.vectors.view()[rows],
            other.inputs.view()[rows],
            other.bias.view()[rows],
            boost,
            other.clicks.view()[rows],
            other.origin.view()[rows],
        )

    def where(self, row: int) -> Where:
        return self.kinds[int(self.kind.view()[row])]

    def _kind(self, where: Where) -> int:
        if where not in self._number:
            self._number[where] = len(self.kinds)
            self.kinds.append(where)
            self.rows_of_kind.append(Column("i8"))
            for leaf in {leaf for start, stop in where.leaves() for leaf in range(start, stop)}:
                self.kinds_of_leaf.setdefault(leaf, []).append(self._number[where])
        return self._number[where]


@dataclass(frozen=True, eq=False)
class Changes:
    """The changes that one snapshot sees.

    Attributes:
        log: the shared columns, of which it sees the first m rows and the first ``categories`` new categories.
        base_rows: n, rows of the bundle; added row i is row n + i of the catalogue.
        dead: int64, rising: the added rows that are no items any more; others are the newest of theirs.
        gone: the same of the bundle's rows.
        kept: uint64 [ceil(n / 64)], a bit for each of the bundle's rows, 0 where it is gone; None where none is.
        base_boost: float32 [n], of the bundle's rows, or None.
        vectors, inputs, bias, boost, clicks, origin, shelf: of the added rows, see :class:`Log`; the bias with the
            boost.
    """

    log: Log
    base_rows: int
    dead: NDArray[np.int64]
    gone: NDArray[np.int64]
    kept: NDArray[np.uint64] | None
    base_boost: NDArray[np.float32] | None
    categories: int = field(init=False)
    items: int = field(init=False)
    vectors: NDArray[np.float32] = field(init=False)
    inputs: NDArray[np.float32] = field(init=False)
    bias: NDArray[np.float32] = field(init=False)
    boost: NDArray[np.float32] = field(init=False)
    clicks: NDArray[np.int64] = field(init=False)
    origin: NDArray[np.int64] = field(init=False)
    shelf: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:  # made by the writer, while nothing is appended
        log = self.log
        for name in ("vectors", "boost", "clicks", "origin", "shelf"):
            object.__setattr__(self, name, getattr(log, name).view())
        tied = log.inputs is log.vectors
        object.__setattr__(self, "inputs", self.vectors if tied else log.inputs.view())
        object.__setattr__(self, "bias", log.biased.view())
        object.__setattr__(self, "categories", len(log.categories))
        object.__setattr__(self, "items", self.base_rows - len(self.gone) + len(self) - len(self.dead))

    @classmethod
    def none(cls, log: Log, base_rows: int) -> Changes:
        nothing = np.empty(0, dtype=np.int64)
        return cls(log, base_rows, nothing, nothing, None, None)

    def __len__(self) -> int:
        return len(self.vectors)

    def later(self, without: NDArray[np.int64], base_boost: NDArray[np.float32] | None) -> Changes:
        """What the log says by now, ``without`` some of the catalogue's rows, int64, distinct, which were items."""
        in_bundle, kept = without < self.base_rows, self.kept
        gone, dead = without[in_bundle], without[~in_bundle] - self.base_rows
        if len(gone):
            kept = np.full(-(-self.base_rows // 64), ~np.uint64(0)) if kept is None else kept.copy()
            np.bitwise_and.at(kept, gone >> 6, ~(np.uint64(1) << (gone & 63).astype(np.uint64)))
        gone = np.union1d(self.gone, gone) if len(gone) else self.gone
        dead = np.union1d(self.dead, dead) if len(dead) else self.dead
        return Changes(self.log, self.base_rows, dead, gone, kept, base_boost)

    def compacted(self) -> Changes:
        """The same with a log of its own, without the rows that are no items any more."""
        rows = np.flatnonzero(self.alive)
        log = Log(self.vectors.shape[1], self.log.inputs is self.log.vectors)
        log.categories += self.log.categories[: self.categories]
        log.extend_with(self.log, rows, self.boost[rows])
        return Changes(log, self.base_rows, self.dead[:0], self.gone, self.kept, self.base_boost)

    @cached_property
    def new_categories(self) -> dict[int | str, Where]:
        return dict(self.log.categories[: self.categories])

    @cached_property
    def alive(self) -> NDArray[np.bool]:
        """bool [m]: which of the added rows are items."""
        alive = np.ones(len(self), dtype=bool)
        alive[self.dead] = False
        return alive

    @cached_property
    def table(self) -> Table:
        return Table(self.vectors, self.bias)

    @cached_property
    def plain_table(self) -> Table:
        """Without biases."""
        return Table(self.vectors)

    def reached(self, leaves: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64, rising: the added rows, alive, that the taken ``leaves`` make candidates."""
        of_leaf = self.log.kinds_of_leaf
        kinds = {kind for leaf in leaves.tolist() for kind in of_leaf.get(leaf, ())}
        if not kinds:
            return np.empty(0, dtype=np.int64)
        rows = np.concatenate([self.log.rows_of_kind[kind].view() for kind in kinds])
        rows.sort()
        rows = rows[: rows.searchsorted(len(self))]  # others may have been added since
        return rows[~self._are_dead(rows)] if len(self.dead) else rows

    def _are_dead(self, rows: NDArray[np.int64]) -> NDArray[np.bool]:
        found: NDArray[np.bool] = self.dead.take(self.dead.searchsorted(rows), mode="clip") == rows
        return found

    def row_of_id(self, own: Any) -> int:
        """The catalogue's row of an item that was added, or -1."""
        row = self.log.by_id.newest(own, len(self))
        return UNKNOWN if row is None else self._row(row)

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
        is_dead = len(self.dead) and self._are_dead(np.array([row]))[0]
        return UNKNOWN if is_dead else self.base_rows + row


class ChangedCatalog(Catalog):
    """A bundle's catalogue with changes: one snapshot, which stays as it is.

    Rows of the bundle come first, added ones after them; :attr:`item_vectors`, :attr:`ranges` and all other tables
    are the bundle's own.
    """

    changes: Changes

    def __init__(self, base: Catalog, changes: Changes, bias: NDArray[np.float32] | None) -> None:
        self.__dict__.update(base.__dict__)
        for computed in ("popular", "table", "plain_table", "options", "leaf_sizes"):
            self.__dict__.pop(computed, None)
        self.base, self.changes, self.bias = base, changes, bias
        if bias is base.bias:
            self.__dict__["table"] = base.table  # which a backend has made its own of
        self.__dict__["plain_table"] = base.plain_table

    @classmethod
    def of(cls, base: Catalog, changes: Changes, before: Catalog | None = None) -> ChangedCatalog:
        """The snapshot after ``before``, whose table it has, where no boost of the bundle's rows has changed."""
        same = (
            before is not None
            and before.changes is not None
            and before.changes.base_boost is changes.base_boost
        )
        if before is not None and same:
            made = cls(base, changes, before.bias)
            made.__dict__["table"] = before.table
            return made
        bias = base.bias
        if changes.base_boost is not None:
            bias = changes.base_boost if bias is None else bias + changes.base_boost
        return cls(base, changes, bias)

    @cached_property
    def leaf_sizes(self) -> NDArray[np.int64]:
        """int64 [leaf categories]: the bundle's rows of each that still are items."""
        leaves = self.ranges[-1]
        gone = np.bincount(self.base.categories_of(self.changes.gone), minlength=len(leaves))
        return np.ascontiguousarray(leaves[:, 1] - leaves[:, 0] - gone)

    def __len__(self) -> int:
        return self.changes.items

    def rows(self, ids: Sequence[int | str] | NDArray[Any]) -> NDArray[np.int64]:
        changes = self.changes
        rows = changes.successors(self._ids.find(ids))
        own: list[Any] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        for at in np.flatnonzero(rows == UNKNOWN):
            rows[at] = changes.row_of_id(own[at])
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
        base = self.input_vectors if inputs else self.item_vectors
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
        """As of a bundle. An item that lies in none of its leaf categories has a number beyond them, and at the levels
        above the category that it lies in, or -1."""
        n, level = self.changes.base_rows, range(len(self.ranges))[level]
        found = super().categories_of(rows, level)
        added = np.flatnonzero(rows >= n)
        if level == len(self.ranges) - 1:
            found[added] = self.changes.shelf[rows[added] - n]
            return found
        for at in added:
            path = self.changes.log.where(int(rows[at]) - n).path
            found[at] = path[level] if level < len(path) else UNKNOWN
        return found

    def most_clicked(self, count: int) -> NDArray[np.int64]:
        changes, n = self.changes, self.changes.base_rows
        first = self.base.popular[:count]
        least = int(self.clicks[first[-1]]) if len(first) < n else -1
        if changes.kept is not None:
            first = first[row_ranges.in_bitmap(changes.kept, first)]
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
