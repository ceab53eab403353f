"""A snapshot of the catalog: items, their ids and categories, as one call sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle import Bundle
from hiersrec_sdk.catalog.delta import DeltaColumns, DeltaSegment
from hiersrec_sdk.catalog.segment import BaseSegment, Segment
from hiersrec_sdk.catalog.tree import (
    Category,
    CategoryName,
    CategoryPath,
    CategoryTree,
    NewCategories,
    Node,
    label,
    resolve,
)
from hiersrec_sdk.ranking import Codes, CovisitationScorer, small_arrays
from hiersrec_sdk.ranking.backend import UNKNOWN, CopyRows, FindIds
from hiersrec_sdk.ranking.covisitation import ScoreOffsets
from hiersrec_sdk.ranking.numpy_backend import find_ids as find_ids_in_numpy
from hiersrec_sdk.ranking.row_ranges import Rows


@dataclass(frozen=True, slots=True)
class FeedPosition:
    """Up to where a catalog contains a change feed.

    Attributes:
        log: the identity of the feed's log.
        position: the number of the newest record that it contains; 0: none.
    """

    log: str
    position: int


class Catalog:
    """Items in the rows of a tuple of segments. It never changes, so that any number of threads may use it.

    Rows of the bundle come first, those added since after them; of these some are no items any more.

    Attributes:
        segments: of the bundle, and of what was added since where there is any.
        tree: the category tree, over the rows of the bundle.
        item_id_type: "int64" or "string".
        feed: up to where it contains a change feed; None: it knows of none.
    """

    def __init__(
        self, base: BaseSegment, delta: DeltaSegment, item_id_type: str, feed: FeedPosition | None = None
    ) -> None:
        self.base, self.delta = base, delta
        self.segments: tuple[Segment, ...] = (base, delta) if len(delta) else (base,)
        self.tree: CategoryTree = base.tables.tree
        self.item_id_type = item_id_type
        self.feed = feed

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        find_ids: FindIds = find_ids_in_numpy,
        copy_rows: CopyRows = small_arrays.copy_rows,
    ) -> Catalog:
        """The catalog of an opened bundle, as it was exported.

        Args:
            bundle: the bundle.
            find_ids, copy_rows: look up integer ids, and copy vectors; of a ranking backend.
        """
        config, tables = bundle.config, bundle.tables
        tree = CategoryTree.from_tables(tables, len(config["levels"]), config["category_id_type"])
        base = BaseSegment.open(tables, tree, config["item_id_type"], find_ids, copy_rows)
        delta = DeltaSegment.of(
            DeltaColumns(base.table.vectors.shape[1]), len(base), tree.depth, NewCategories()
        )
        return cls(base, delta, config["item_id_type"])

    def at(self, feed: FeedPosition) -> Catalog:
        """The same items, at another position of a feed."""
        return Catalog(self.base, self.delta, self.item_id_type, feed)

    def __len__(self) -> int:
        return sum(segment.items for segment in self.segments)

    @property
    def stop(self) -> int:
        """Where the rows end; some of them may be no items any more."""
        last = self.segments[-1]
        return last.first_row + len(last)

    @property
    def has_changes(self) -> bool:
        """Whether anything differs from the bundle as it was exported."""
        base, delta = self.base, self.delta
        return bool(len(delta) or len(delta.categories) or len(base.deleted)) or base.user_bias is not None

    @property
    def first_rows(self) -> tuple[int, ...]:
        """Where the rows of each segment begin."""
        return tuple(segment.first_row for segment in self.segments)

    @property
    def dimension(self) -> int:
        """Width d of the item vectors."""
        return int(self.base.table.vectors.shape[1])

    @property
    def codes(self) -> Codes | None:
        """The int8 codes of the bundle's rows, or None."""
        return self.base.table.codes

    @property
    def covisitation(self) -> CovisitationScorer | None:
        """The co-visitation scorer, which knows the bundle's rows; or None."""
        return self.base.tables.covisitation

    @property
    def category_id_type(self) -> str:
        """The type of category ids: "int64" or "string"."""
        return self.tree.id_type

    @property
    def has_titles(self) -> bool:
        """Whether the bundle has titles; items that were added since may have some even if not."""
        return self.base.tables.titles is not None

    def rows(self, ids: Sequence[int | str] | NDArray[Any]) -> NDArray[np.int64]:
        """int64 [len(ids)]: the row of each external id, -1 where the catalog lacks it.

        Raises:
            InvalidItemIdError: an id that is not of the catalog's type.
            NaNItemIdError: an id that is NaN.
        """
        rows = self.base.find(ids)
        for segment in self.segments[1:]:
            found = segment.find(ids)
            if found is not None:
                known = found != UNKNOWN
                rows[known] = segment.first_row + found[known]
        return rows

    def ids(self, rows: NDArray[np.int64]) -> Sequence[int | str]:
        """External ids of ``rows``."""
        if len(self.segments) == 1 or max(rows.tolist(), default=0) < self.delta.first_row:
            return self.base.ids(rows)
        first, added = self.delta.first_row, self.delta.columns.ids
        found = list(self.base.ids(np.minimum(rows, first - 1)))
        for position, row in enumerate(rows.tolist()):
            if row >= first:
                found[position] = added[row - first]
        return found

    def title(self, row: int) -> str | None:
        """Readable title of ``row``, or None."""
        segment = self._segment_of(row)
        return segment.title(row - segment.first_row)

    def category(self, level: int, index: int) -> Category:
        """The category ``index`` of ``level``; negative levels count from the leaves, as in a list."""
        return self.tree.category(level, index)

    def find_category(self, name: CategoryName) -> Node:
        """The category of an external id or a path: (level, index), or (-1, number) for one created since the export.

        Raises:
            UnknownCategoryError: there is no such category.
            AmbiguousCategoryError: several categories have this id.
        """
        return resolve(self.tree, self.delta.categories, name)

    def category_label(self, path: CategoryPath) -> str:
        """How text names the category of ``path``: by its id where that is unambiguous, else by the path as JSON."""
        return label(self.tree, self.delta.categories, path)

    def categories_of(self, rows: NDArray[np.int64], level: int = -1) -> NDArray[np.int64]:
        """int64 [len(rows)]: index, within ``level``, of the category that each row lies in.

        An item of a new category, or of none, has at the leaf level a number beyond those of the tree; at the levels
        above it has the category that it lies in, or -1.
        """
        return self._gathered(
            rows, np.dtype(np.int64), lambda segment, inside: segment.categories_of(inside, level)
        )

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(rows), d]: item vectors."""
        return self._gathered(
            rows, np.dtype(np.float32), lambda segment, inside: segment.table.vectors[inside]
        )

    def vectors_into(self, rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Write the item vectors of ``rows`` to ``out`` float32 [len(rows), d]."""
        if (
            len(self.segments) == 1 or max(rows.tolist()) < self.delta.first_row
        ):  # a list is faster where it is short
            self.base.tables.copy_rows(self.base.table.vectors, rows, out)
        else:
            out[:] = self.vectors(rows)

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(rows)]: item biases, the model's plus the user's."""
        return self._gathered(rows, np.dtype(np.float32), _biases)

    def clicks_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [len(rows)]: clicks in the training and validation splits."""
        return self._gathered(rows, np.dtype(np.int64), lambda segment, inside: segment.clicks[inside])

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [stop]: the score of every row, before score offsets; -inf where a row is no item any more."""
        return np.concatenate([segment.scores(query) for segment in self.segments], dtype=np.float32)

    def live_rows(self) -> NDArray[np.int64]:
        """int64, rising: the rows that are items."""
        base = np.ones(len(self.base), dtype=bool)
        base[self.base.deleted] = False
        return np.concatenate([np.flatnonzero(base), len(self.base) + np.flatnonzero(self.delta.live_mask)])

    def most_clicked(self, count: int) -> NDArray[np.int64]:
        """int64: about ``count`` most clicked rows, best first, ties by lower row; all rows from ``stop`` on."""
        found, clicks, floor = [], [], -1
        for segment in self.segments:
            rows, least = segment.most_clicked(count)
            rows = rows[segment.clicks[rows] > floor]  # others come after rows that were not looked at
            found.append(segment.first_row + rows)
            clicks.append(segment.clicks[rows])
            floor = max(floor, least)
        rows = np.concatenate(found)
        best: NDArray[np.int64] = rows[np.lexsort((rows, -np.concatenate(clicks)))]
        return best

    def base_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of the bundle that the items of ``rows`` have or had, in order; without items that have none."""
        if len(self.segments) == 1 or max(rows.tolist(), default=0) < self.delta.first_row:
            return rows
        found = self.origins(rows)
        known: NDArray[np.int64] = found[found != UNKNOWN]
        return known

    def origins(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [len(rows)]: the row of the bundle that the item of each row has or had, -1 where it has none."""
        added = rows >= self.delta.first_row
        found = rows.copy()
        found[added] = self.delta.origin[rows[added] - self.delta.first_row]
        return found

    def current_rows(self, base_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64: the rows that the items of rising ``base_rows`` have now, -1 where an item was removed."""
        deleted = self.base.deleted_among(base_rows)
        if not len(deleted):
            return base_rows
        found = base_rows.copy()
        rows = self.base.successors_of(base_rows[deleted])
        found[deleted] = np.where(rows < 0, UNKNOWN, self.delta.first_row + rows)
        return found

    def with_covisited(
        self,
        rows: Rows,
        offsets: NDArray[np.float32],
        session: NDArray[np.int64],
        covisitation: ScoreOffsets | None,
    ) -> tuple[Rows, NDArray[np.float32]]:
        """The rows that rank whatever the candidates are, rising, and what is added to their scores.

        Args:
            rows, offsets: the session's distinct rows, rising, and what is added to their scores for repeats.
            session: int64, the session's rows, oldest first.
            covisitation: the scorer, which knows rows of the bundle; None: there is none.
        """
        known = self.base_rows(session)
        if covisitation is None or not len(known):
            return rows, offsets
        base_rows, found_offsets = covisitation(known)
        found = self.current_rows(base_rows)
        if found is base_rows and known is session:  # then the session's rows are among those found
            found_offsets[found.searchsorted(rows)] += offsets
            return found, found_offsets
        order = found.argsort(kind="stable")
        order = order[int(np.count_nonzero(found == UNKNOWN)) :]
        found, found_offsets = found[order], found_offsets[order]
        positions = found.searchsorted(rows)
        is_found = (
            found.take(positions, mode="clip") == rows if len(found) else np.zeros(len(rows), dtype=bool)
        )
        found_offsets[positions[is_found]] += offsets[is_found]
        others = ~is_found  # items that the click log does not know
        if others.any():
            found = np.insert(found, positions[others], rows[others])
            found_offsets = np.insert(found_offsets, positions[others], offsets[others])
        return found, found_offsets

    def _segment_of(self, row: int) -> Segment:
        for segment in reversed(self.segments):
            if row >= segment.first_row:
                return segment
        raise IndexError(f"row {row} must not be negative")

    def _segment_of_all(self, rows: NDArray[np.int64]) -> Segment | None:
        """The segment that holds all ``rows``; None where it takes several."""
        if len(self.segments) == 1 or not len(rows) or int(rows.max()) < self.segments[1].first_row:
            return self.segments[0]
        return None

    def _by_segment(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[Segment, NDArray[np.int64], NDArray[np.int64]]]:
        """Each segment with the positions of its rows among ``rows``, and these rows as it counts them."""
        for segment in self.segments:
            inside = (rows >= segment.first_row) & (rows < segment.first_row + len(segment))
            positions = np.flatnonzero(inside)
            yield segment, positions, rows[positions] - segment.first_row

    def _gathered(
        self,
        rows: NDArray[np.int64],
        dtype: np.dtype[Any],
        take: Callable[[Segment, NDArray[np.int64]], NDArray[Any]],
    ) -> NDArray[Any]:
        only = self._segment_of_all(rows)
        if only is not None:
            return take(only, rows)
        found: NDArray[Any] | None = None
        for segment, positions, inside in self._by_segment(rows):
            taken = take(segment, inside)
            if found is None:
                found = np.empty((len(rows), *taken.shape[1:]), dtype=dtype)
            found[positions] = taken
        assert found is not None
        return found


def _biases(segment: Segment, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    bias = segment.table.bias
    return np.zeros(len(rows), dtype=np.float32) if bias is None else bias[rows]
