"""The delta segment: rows added since the bundle was exported, in memory.

A changed or new item gets a row here; the row that it had before is deleted or superseded. Rows are appended to columns
that all snapshots share: a snapshot sees the first so many. Everything else is copied when it changes, so that a
snapshot never does. Rows beyond those of every snapshot were left by a write that was interrupted; nobody appends after
them: the next write takes columns of its own.

What a call asks of these rows is kept small: NumPy gives the GIL away in work on more than some hundred elements, and
threads that recommend would wait for each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog.placement import Placement
from hiersrec_sdk.catalog.segment import NO_ROWS, Bitmap
from hiersrec_sdk.catalog.tree import NewCategories
from hiersrec_sdk.errors import CatalogChangeError
from hiersrec_sdk.forks import cached_property
from hiersrec_sdk.ranking import Table, row_ranges
from hiersrec_sdk.ranking.backend import UNKNOWN
from hiersrec_sdk.ranking.candidates import Choice
from hiersrec_sdk.ranking.row_ranges import Ranges
from hiersrec_sdk.shown import shown

if TYPE_CHECKING:
    from hiersrec_sdk.catalog.filters import Filter

_NO_RANGES: Final = np.empty((0, 2), dtype=np.int64)


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
        length = self._length  # first: an array that is taken later holds at least as many
        return self._array[:length]


class Versions:
    """The rows of each key, newest last. Snapshots share it: a snapshot knows nothing of rows beyond its own."""

    def __init__(self) -> None:
        self._rows: dict[Any, list[int]] = {}

    def add(self, key: Any, row: int) -> None:
        self._rows.setdefault(key, []).append(row)

    def of(self, key: Any) -> Sequence[int]:
        return self._rows.get(key, ())

    def newest(self, keys: Sequence[Any], count: int) -> list[int] | None:
        """The newest row below ``count`` of each key, -1 where there is none; None where no key has rows."""
        if self._rows.keys().isdisjoint(keys):
            return None
        found = []
        for key in keys:
            row = UNKNOWN
            for row in reversed(self._rows.get(key, ())):
                if row < count:
                    break
            else:
                row = UNKNOWN
            found.append(row)
        return found


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to append, one for each id; see :class:`DeltaColumns`."""

    ids: Sequence[int | str]
    titles: Sequence[str | None]
    placements: Sequence[Placement]
    vectors: NDArray[np.float32]
    model_bias: NDArray[np.float32]
    user_bias: NDArray[np.float32]
    clicks: NDArray[np.int64]
    origin: NDArray[np.int64]


class DeltaColumns:
    """The shared columns of all delta rows. Only the writer appends, and an append may be interrupted.

    Attributes:
        vectors, clicks: of each row.
        model_bias, user_bias, bias: the model's item bias, the one that the user set beside it, and their sum.
        origin: the bundle's row of the same item, or -1.
        leaf: the leaf category of each row, see :class:`Placement`.
        placement_id: index of each row's placement in ``placements``.
        ids, titles: of each row.
        placements: distinct placements.
        rows_of_placement: the rows of each placement.
        placements_of_leaf: by leaf category, the placements that it makes candidates.
        by_id: the rows of each external id.
    """

    def __init__(self, dimension: int) -> None:
        self.vectors = Column("f4", dimension)
        self.model_bias, self.user_bias, self.bias = Column("f4"), Column("f4"), Column("f4")
        self.clicks, self.origin = Column("i8"), Column("i8")
        self.leaf, self.placement_id = Column("i8"), Column("i8")
        self.ids: list[int | str] = []
        self.titles: list[str | None] = []
        self.placements: list[Placement] = []
        self.rows_of_placement: list[list[int]] = []
        self.placements_of_leaf: dict[int, list[int]] = {}
        self._number: dict[Placement, int] = {}
        self.by_id = Versions()
        self._is_whole = True  # False while rows are appended, and ever after where that was interrupted

    def ends_at(self, count: int) -> bool:
        """Whether these are ``count`` whole rows, so that others can be appended."""
        return self._is_whole and len(self.ids) == count

    def append(self, rows: Rows) -> None:
        """Add rows at the end.

        Raises:
            CatalogChangeError: values that are not finite; names the item. Nothing is added.
        """
        bias = rows.model_bias + rows.user_bias
        if not (np.isfinite(rows.vectors).all() and np.isfinite(bias).all()):
            finite = np.isfinite(rows.vectors).all(axis=1) & np.isfinite(bias)
            item_id = rows.ids[int(finite.argmin())]
            raise CatalogChangeError(
                f"item {shown(item_id)}: its vector or its bias has values that are not finite"
            )
        self._is_whole = False
        first = len(self.ids)
        self.vectors.append(rows.vectors)
        self.model_bias.append(rows.model_bias)
        self.user_bias.append(rows.user_bias)
        self.bias.append(bias)
        self.clicks.append(rows.clicks)
        self.origin.append(rows.origin)
        self.leaf.append(np.array([each.leaf for each in rows.placements], dtype=np.int64))
        distinct = {id(each): each for each in rows.placements}  # hashing a placement takes longer
        known = {key: self._placement_id(each) for key, each in distinct.items()}
        numbers = np.array([known[id(each)] for each in rows.placements], dtype=np.int64)
        self.placement_id.append(numbers)
        for row, number in enumerate(numbers.tolist(), start=first):
            self.rows_of_placement[number].append(row)
        self.ids += rows.ids
        self.titles += rows.titles
        for row, item_id in enumerate(rows.ids, start=first):
            self.by_id.add(item_id, row)
        self._is_whole = True

    def some(self, rows: NDArray[np.int64], user_bias: NDArray[np.float32]) -> Rows:
        """Some rows int64, to be appended again, with other biases of the user."""
        each = rows.tolist()
        return Rows(
            ids=[self.ids[row] for row in each],
            titles=[self.titles[row] for row in each],
            placements=[self.placement(row) for row in each],
            vectors=self.vectors.view()[rows],
            model_bias=self.model_bias.view()[rows],
            user_bias=user_bias,
            clicks=self.clicks.view()[rows],
            origin=self.origin.view()[rows],
        )

    def placement(self, row: int) -> Placement:
        return self.placements[int(self.placement_id.view()[row])]

    def _placement_id(self, placement: Placement) -> int:
        if placement not in self._number:
            self._number[placement] = len(self.placements)
            self.placements.append(placement)
            self.rows_of_placement.append([])
            for leaf in set(placement.leaves()):
                self.placements_of_leaf.setdefault(leaf, []).append(self._number[placement])
        return self._number[placement]


@dataclass(frozen=True, eq=False)
class DeltaSegment:
    """The delta rows that one snapshot sees.

    Attributes:
        columns: shared, of which it sees the first rows.
        first_row: n, the rows of the bundle.
        depth: levels of the category tree.
        superseded: int64, rising: rows whose item was deleted, or has a newer row.
        vectors, bias, user_bias, clicks, origin, leaf: of its rows, see :class:`DeltaColumns`.
        categories: those created since the export.
    """

    columns: DeltaColumns
    first_row: int
    depth: int
    superseded: NDArray[np.int64]
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32]
    user_bias: NDArray[np.float32]
    clicks: NDArray[np.int64]
    origin: NDArray[np.int64]
    leaf: NDArray[np.int64]
    categories: NewCategories

    @classmethod
    def of(
        cls,
        columns: DeltaColumns,
        first_row: int,
        depth: int,
        categories: NewCategories,
        superseded: NDArray[np.int64] = NO_ROWS,
    ) -> DeltaSegment:
        """All rows that the columns hold by now."""
        return cls(
            columns=columns,
            first_row=first_row,
            depth=depth,
            superseded=superseded,
            vectors=columns.vectors.view(),
            bias=columns.bias.view(),
            user_bias=columns.user_bias.view(),
            clicks=columns.clicks.view(),
            origin=columns.origin.view(),
            leaf=columns.leaf.view(),
            categories=categories,
        )

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def items(self) -> int:
        return len(self) - len(self.superseded)

    def later(
        self,
        superseded: NDArray[np.int64],
        rows: Rows | None = None,
        categories: NewCategories | None = None,
    ) -> DeltaSegment:
        """The segment with further rows int64 superseded, and ``rows`` at its end, which must be :meth:`appendable`.

        Raises:
            CatalogChangeError: values that are not finite.
        """
        if rows is not None:
            self.columns.append(rows)
        created = self.categories if categories is None else categories
        every = row_ranges.union(self.superseded, superseded) if len(superseded) else self.superseded
        return DeltaSegment.of(self.columns, self.first_row, self.depth, created, every)

    def appendable(self) -> DeltaSegment:
        """The segment itself; in other columns where a write that was interrupted has left rows after its own."""
        return self if self.columns.ends_at(len(self)) else self.compacted()

    def compacted(self) -> DeltaSegment:
        """The live rows alone, in columns of their own."""
        rows = np.flatnonzero(self.live_mask)
        columns = DeltaColumns(self.vectors.shape[1])
        columns.append(self.columns.some(rows, self.user_bias[rows]))
        return DeltaSegment.of(columns, self.first_row, self.depth, self.categories)

    @cached_property
    def table(self) -> Table:
        return Table(self.vectors, self.bias)

    @cached_property
    def plain_table(self) -> Table:
        return Table(self.vectors)

    @cached_property
    def live_mask(self) -> NDArray[np.bool]:
        """bool [rows]."""
        live = np.ones(len(self), dtype=bool)
        live[self.superseded] = False
        return live

    @cached_property
    def live(self) -> Bitmap | None:
        return row_ranges.as_bitmap(self.live_mask) if len(self.superseded) else None

    def is_superseded(self, rows: NDArray[np.int64]) -> NDArray[np.bool]:
        found: NDArray[np.bool] = (
            self.superseded.take(self.superseded.searchsorted(rows), mode="clip") == rows
        )
        return found

    def find(self, ids: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64] | None:
        rows = self.columns.by_id.newest(
            ids.tolist() if isinstance(ids, np.ndarray) else ids, len(self.vectors)
        )
        return None if rows is None else self._live_rows(rows)

    def _live_rows(self, rows: Sequence[int]) -> NDArray[np.int64]:
        found = np.array(rows, dtype=np.int64)
        if len(self.superseded):
            found[self.is_superseded(found)] = UNKNOWN
        return found

    def ids(self, rows: NDArray[np.int64]) -> Sequence[int | str]:
        every = self.columns.ids
        return [every[row] for row in rows.tolist()]

    def title(self, row: int) -> str | None:
        return self.columns.titles[row]

    def placement(self, row: int) -> Placement:
        """Where a row belongs."""
        return self.columns.placement(row)

    def categories_of(self, rows: NDArray[np.int64], level: int) -> NDArray[np.int64]:
        if range(self.depth)[level] == self.depth - 1:
            return self.leaf[rows]
        paths = [self.placement(row).path for row in rows.tolist()]
        level = range(self.depth)[level]
        return np.array([path[level] if level < len(path) else UNKNOWN for path in paths], dtype=np.int64)

    def outside(self, leaves: NDArray[np.int64]) -> NDArray[np.bool]:
        return ~np.isin(self.leaf, leaves)

    def candidate_ranges(self, choice: Choice) -> Ranges:
        of_leaf = self.columns.placements_of_leaf
        taken = choice.taken.tolist()
        if of_leaf.keys().isdisjoint(taken):
            return _NO_RANGES
        numbers = {number for leaf in taken for number in of_leaf.get(leaf, ())}
        of_placement = self.columns.rows_of_placement
        rows = np.array(sorted(row for number in numbers for row in of_placement[number]), dtype=np.int64)
        rows = rows[: rows.searchsorted(len(self))]  # others may have been appended since
        return row_ranges.singles(rows[~self.is_superseded(rows)] if len(self.superseded) else rows)

    def mask(self, chosen: Filter | None) -> Bitmap | None:
        if chosen is None:
            return self.live
        return row_ranges.as_bitmap(chosen.allows_delta(self) & self.live_mask)

    def skipped(self, chosen: Filter | None) -> NDArray[np.int64] | None:
        return None

    def most_clicked(self, count: int) -> tuple[NDArray[np.int64], int]:
        return np.flatnonzero(self.live_mask), -1

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(self.live_mask, self.vectors @ query + self.bias, np.float32(-np.inf))
