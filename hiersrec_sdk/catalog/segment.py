"""Segments: a snapshot of the catalog is a tuple of them. The base segment is the bundle's tables, mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.catalog.ids import ItemIndex, item_index
from hiersrec_sdk.catalog.tree import CategoryTree
from hiersrec_sdk.forks import cached_property
from hiersrec_sdk.ranking import Codes, CovisitationScorer, Table, row_ranges
from hiersrec_sdk.ranking.backend import UNKNOWN, CopyRows, FindIds, Scope
from hiersrec_sdk.ranking.candidates import Choice
from hiersrec_sdk.ranking.row_ranges import Ranges

if TYPE_CHECKING:
    from hiersrec_sdk.catalog.filters import Filter

Bitmap = NDArray[np.uint64]
"""uint64 [ceil(n / 64)], one bit a row: ``bitmap[row // 64] >> (row % 64) & 1``."""

NO_ROWS: Final = np.empty(0, dtype=np.int64)
SKIPPED_SINGLY: Final = 1_024  # rows; more are a bitmap, which is read for every row


class Segment(Protocol):
    """Rows of the catalog with one interface. Row r of the segment is row ``first_row + r`` of the catalog; the methods
    take and give rows of the segment. A segment never changes: a change makes a new one."""

    @property
    def first_row(self) -> int:
        """Where its rows begin in the catalog."""
        ...

    @property
    def table(self) -> Table:
        """Vectors, item biases and codes, as a backend ranks them."""
        ...

    @property
    def plain_table(self) -> Table:
        """The table without item biases."""
        ...

    @property
    def clicks(self) -> NDArray[np.int64]:
        """int64 [rows]: clicks of each row in the training and validation splits."""
        ...

    @property
    def items(self) -> int:
        """How many rows are live."""
        ...

    def __len__(self) -> int: ...

    def find(self, ids: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64] | None:
        """int64 [len(ids)]: the live row of each id, -1 where there is none; None: there is none of them."""
        ...

    def ids(self, rows: NDArray[np.int64]) -> Sequence[int | str]:
        """External ids of ``rows``."""
        ...

    def title(self, row: int) -> str | None:
        """Readable title of a row, or None."""
        ...

    def categories_of(self, rows: NDArray[np.int64], level: int) -> NDArray[np.int64]:
        """int64 [len(rows)]: the category of ``level`` that each row lies in."""
        ...

    def outside(self, leaves: NDArray[np.int64]) -> NDArray[np.bool]:
        """bool [rows]: whether each row lies in none of ``leaves``."""
        ...

    def candidate_ranges(self, choice: Choice) -> Ranges:
        """The rows that the chosen leaf categories make candidates, the most probable first."""
        ...

    def mask(self, chosen: Filter | None) -> Bitmap | None:
        """The live rows that a filter lets through, but for those that are :meth:`skipped`; None: all rows."""
        ...

    def skipped(self, chosen: Filter | None) -> NDArray[np.int64] | None:
        """int64, rising: few rows that are not live, which are cheaper to skip one by one than by a mask; or None."""
        ...

    def most_clicked(self, count: int) -> tuple[NDArray[np.int64], int]:
        """The live ones of the ``count`` most clicked rows, or of more.

        Also the clicks of the least clicked row that was looked at, -1 where that was every row.
        """
        ...

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [rows]: the score of every row, before score offsets; -inf where a row is not live."""
        ...


@dataclass(frozen=True, eq=False)
class BaseTables:
    """What never changes of a base segment.

    Attributes:
        tree: the category tree over the rows.
        index: finds rows by external id, and ids by row.
        titles: of the rows, or None.
        clicks: int64 [n].
        item_bias: float32 [n], the model's own, or None.
        covisitation: the co-visitation scorer, or None.
        extra_offsets, extra_rows: rows listed in a leaf category in addition to the one that they lie in, or None.
    """

    tree: CategoryTree
    index: ItemIndex
    titles: StringTable | None
    clicks: NDArray[np.int64]
    item_bias: NDArray[np.float32] | None
    covisitation: CovisitationScorer | None
    extra_offsets: NDArray[np.int64] | None
    extra_rows: NDArray[np.int64] | None
    copy_rows: CopyRows

    @cached_property
    def popular(self) -> NDArray[np.int64]:
        """int64 [n]: all rows, most clicked first; ties by lower row."""
        return np.argsort(-self.clicks, kind="stable")

    @cached_property
    def has_extra_rows(self) -> bool:
        """Whether an item is listed in a category in addition to the one that its row lies in."""
        return self.extra_rows is not None and len(self.extra_rows) > 0

    def extra_of(self, leaves: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [m]: rows that are listed in one of ``leaves`` and lie in another; one may stand twice."""
        if self.extra_offsets is None or self.extra_rows is None:
            return NO_ROWS
        starts, counts = self.extra_offsets[leaves], np.diff(self.extra_offsets)[leaves]
        # positions start, start + 1, ... of every leaf, end to end
        shifts = np.repeat(starts - np.cumsum(counts) + counts, counts)
        return self.extra_rows[shifts + np.arange(len(shifts))]

    def listed_in(self, row: int) -> tuple[int, ...]:
        """Leaf categories that list ``row`` in addition to the one that it lies in."""
        if self.extra_offsets is None or self.extra_rows is None:
            return ()
        order = self._by_extra_row
        begin, end = (
            self.extra_rows.searchsorted(row, side=side, sorter=order) for side in ("left", "right")
        )
        return tuple((self.extra_offsets.searchsorted(order[begin:end], side="right") - 1).tolist())

    @cached_property
    def _by_extra_row(self) -> NDArray[np.int64]:
        """int64: the positions of ``extra_rows`` in the order of the rows, of a row in the order of the leaves."""
        return np.argsort(NO_ROWS if self.extra_rows is None else self.extra_rows, kind="stable")


@dataclass(frozen=True, eq=False)
class BaseSegment:
    """The rows of the bundle. Deleted rows and the user's item biases are what may differ between snapshots.

    Attributes:
        tables: what never changes.
        table: float32 vectors, item biases (the model's plus the user's) and codes.
        plain_table: the same rows without biases.
        user_bias: float32 [n], set by the user, or None.
        deleted: int64, rising: rows that are no items any more, or whose item has a newer row.
        successors: int64 [deleted], the row of the delta segment that each such item has now, or -1.
        live: a bit for each row, 0 where it is deleted; None where none is.
    """

    tables: BaseTables
    table: Table
    plain_table: Table
    user_bias: NDArray[np.float32] | None = None
    deleted: NDArray[np.int64] = field(default_factory=lambda: NO_ROWS)
    successors: NDArray[np.int64] = field(default_factory=lambda: NO_ROWS)
    live: Bitmap | None = None

    @classmethod
    def open(
        cls,
        tables: Mapping[str, NDArray[Any]],
        tree: CategoryTree,
        id_type: str,
        find_ids: FindIds,
        copy_rows: CopyRows,
    ) -> BaseSegment:
        """The segment of a bundle's tables; with operations of a ranking backend."""
        vectors, bias, codes = tables["item_vectors"], tables.get("item_bias"), Codes.from_tables(tables)
        base = BaseTables(
            tree=tree,
            index=item_index(tables, id_type, find_ids),
            titles=StringTable.from_tables(tables, "titles"),
            clicks=tables["clicks"],
            item_bias=bias,
            covisitation=CovisitationScorer.from_tables(tables),
            extra_offsets=tables.get("extra_offsets"),
            extra_rows=tables.get("extra_rows"),
            copy_rows=copy_rows,
        )
        return cls(base, Table(vectors, bias, codes), Table(vectors, None, codes))

    @property
    def first_row(self) -> int:
        return 0

    @property
    def clicks(self) -> NDArray[np.int64]:
        return self.tables.clicks

    @property
    def items(self) -> int:
        return len(self) - len(self.deleted)

    def __len__(self) -> int:
        return len(self.table)

    def without(self, rows: NDArray[np.int64]) -> BaseSegment:
        """The segment with live ``rows`` int64 deleted."""
        if not len(rows):
            return self
        live = np.full(-(-len(self) // 64), ~np.uint64(0)) if self.live is None else self.live.copy()
        np.bitwise_and.at(live, rows >> 6, ~(np.uint64(1) << (rows & 63).astype(np.uint64)))
        successors = np.insert(self.successors, self.deleted.searchsorted(np.sort(rows)), UNKNOWN)
        return replace(self, deleted=row_ranges.union(self.deleted, rows), successors=successors, live=live)

    def followed(self, rows: NDArray[np.int64], successors: NDArray[np.int64]) -> BaseSegment:
        """The segment with other ``successors`` int64 [rows] of deleted ``rows`` int64; rows below 0 are left out."""
        known = rows != UNKNOWN
        if not known.any():
            return self
        every = self.successors.copy()
        every[self.deleted.searchsorted(rows[known])] = successors[known]
        return replace(self, successors=every)

    def successors_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [len(rows)]: the row of the delta segment that the item of each deleted row has now, or -1."""
        return self.successors[self.deleted.searchsorted(rows)]

    def with_user_bias(self, user_bias: NDArray[np.float32] | None) -> BaseSegment:
        """The segment with other item biases of the user; None: without any."""
        if user_bias is None and self.user_bias is None:
            return self
        bias = self.tables.item_bias
        if user_bias is not None:
            bias = user_bias if bias is None else bias + user_bias
        return replace(self, table=Table(self.table.vectors, bias, self.table.codes), user_bias=user_bias)

    @cached_property
    def _few_deleted(self) -> frozenset[int] | None:
        """The deleted rows where they are few: among a session's rows a set finds them sooner than NumPy does."""
        return frozenset(self.deleted.tolist()) if len(self.deleted) <= SKIPPED_SINGLY else None

    def deleted_among(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64: the positions among rising ``rows``, at least one, of those that are deleted."""
        deleted = self.deleted
        if len(deleted) > len(rows):
            found: NDArray[np.int64] = np.flatnonzero(
                deleted.take(deleted.searchsorted(rows), mode="clip") == rows
            )
            return found
        positions = rows.searchsorted(deleted)
        nearest = rows.take(positions, mode="clip")
        if self._few_deleted is not None and self._few_deleted.isdisjoint(nearest.tolist()):
            return NO_ROWS
        found = positions[nearest == deleted]
        return found

    def live_among(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of rising ``rows`` that are not deleted."""
        return np.delete(rows, self.deleted_among(rows)) if len(rows) and len(self.deleted) else rows

    def find(self, ids: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        rows, deleted = self.tables.index.find(ids), self.deleted
        if len(deleted) and (self._few_deleted is None or not self._few_deleted.isdisjoint(rows.tolist())):
            rows[deleted.take(deleted.searchsorted(rows), mode="clip") == rows] = UNKNOWN
        return rows

    def ids(self, rows: NDArray[np.int64]) -> Sequence[int | str]:
        return self.tables.index.take(rows)

    def title(self, row: int) -> str | None:
        titles = self.tables.titles
        return (titles[row] or None) if titles is not None else None

    def categories_of(self, rows: NDArray[np.int64], level: int) -> NDArray[np.int64]:
        return self.tables.tree.leaf_of(rows, level)

    def scope(self, **asked: Any) -> Scope:
        """What is asked of these rows in one go; ``asked``: the fields that are not the segment's own."""
        tables = self.tables
        return Scope(
            table=self.table,
            covisitation=tables.covisitation,
            leaves=tables.tree.leaves,
            deleted=self.deleted if len(self.deleted) else None,
            extra_offsets=tables.extra_offsets if tables.has_extra_rows else None,
            extra_rows=tables.extra_rows if tables.has_extra_rows else None,
            **asked,
        )

    def outside(self, leaves: NDArray[np.int64]) -> NDArray[np.bool]:
        ranges = self.tables.tree.leaves
        return np.repeat(~np.isin(np.arange(len(ranges)), leaves), ranges[:, 1] - ranges[:, 0])

    def candidate_ranges(self, choice: Choice) -> Ranges:
        ranges = choice.ranges
        if self.tables.has_extra_rows:
            extra = np.unique(self.tables.extra_of(choice.taken))
            extra = extra[~row_ranges.contains(row_ranges.rising(ranges), extra)]
            ranges = np.concatenate([ranges, row_ranges.singles(extra)])
        return ranges

    def mask(self, chosen: Filter | None) -> Bitmap | None:
        if chosen is None:
            return None if len(self.deleted) <= SKIPPED_SINGLY else self.live
        return chosen.bitmap if self.live is None else chosen.bitmap & self.live

    def skipped(self, chosen: Filter | None) -> NDArray[np.int64] | None:
        return self.deleted if chosen is None and 0 < len(self.deleted) <= SKIPPED_SINGLY else None

    def eligible(self, chosen: Filter | None) -> NDArray[np.int64] | None:
        """int64 [leaf categories]: the live rows of each that a filter lets through; None: all rows."""
        if not len(self.deleted):
            return None if chosen is None else chosen.eligible
        leaves = self.tables.tree.leaves
        rows = (
            self.deleted
            if chosen is None
            else self.deleted[row_ranges.in_bitmap(chosen.bitmap, self.deleted)]
        )
        lost = np.bincount(self.tables.tree.leaf_of(rows), minlength=len(leaves))
        whole = leaves[:, 1] - leaves[:, 0] if chosen is None else chosen.eligible
        return np.ascontiguousarray(whole - lost)

    def most_clicked(self, count: int) -> tuple[NDArray[np.int64], int]:
        rows = self.tables.popular[:count]
        least = int(self.clicks[rows[-1]]) if len(rows) < len(self) else -1
        return rows if self.live is None else rows[row_ranges.in_bitmap(self.live, rows)], least

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.table.vectors @ query
        if self.table.bias is not None:
            found = found + self.table.bias
        found[self.deleted] = -np.inf
        return found
