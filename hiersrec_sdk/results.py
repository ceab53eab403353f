"""Results: what a recommender answers."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import Category, CategoryPath
from hiersrec_sdk.ranking import row_ranges


@dataclass(frozen=True, slots=True)
class Hit:
    """One recommended item: its external id, its score, and its title where the bundle has titles."""

    item: int | str
    score: float
    title: str | None


@dataclass(frozen=True, slots=True)
class CategoryHit:
    """One predicted category.

    Attributes:
        category: external id, which other categories may have too.
        path: the ids from the top level down to it, without the repeats that pad a shallow branch.
        probability: softmax over the categories of its level.
        level: 0 is the top.
        index: its position within the level (see :meth:`Catalog.category`).
    """

    category: int | str
    path: CategoryPath
    probability: float
    level: int
    index: int

    @classmethod
    def of(cls, category: Category, probability: float) -> CategoryHit:
        """The prediction of ``category``."""
        return cls(category.id, category.path, probability, category.level, category.index)


class Ranked(NamedTuple):
    """Which rows could rank, and by which categories.

    Attributes:
        ranges: for each segment of the catalog int64 [m, 2], the ranges of its rows in the order in which they were
            scanned, or None.
        covisited: int64, rising, rows that ranked whatever the categories were: the session's own and those co-visited.
        offsets: float32, score offsets of these rows.
        leaves: index and probability of the most probable leaf categories, best first.
        path: index and probability of the most probable category of each level, the top first.
    """

    ranges: tuple[row_ranges.Ranges | None, ...]
    covisited: row_ranges.Rows
    offsets: NDArray[np.float32]
    leaves: Sequence[tuple[int, float]]
    path: Sequence[tuple[int, float]]


NOTHING_RANKED: Final = Ranked((), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32), (), ())


@dataclass(frozen=True, slots=True)
class _Excerpt:
    """The parts of a catalog that one result reads: in place of it in an unpickled result."""

    titles: dict[int, str | None]  # by row
    categories: dict[tuple[int, int], Category]  # by level and index
    first_rows: tuple[int, ...]
    stop: int

    def title(self, row: int) -> str | None:
        return self.titles[row]

    def category(self, level: int, index: int) -> Category:
        return self.categories[level, index]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answer to one session: a sequence of :class:`Hit`, best first.

    ``len()``, iteration, an index (``result[0]`` is the best) and slices (tuples of hits) work as on a tuple. A pickle
    holds all that a result says, and nothing else of the catalog.

    Attributes:
        items: external ids, best first: by higher score, ties by lower row of the catalog.
        scores: float32 [len(items)]; training clicks where ``mode`` is "popular".
        mode: "candidates" or "exact", whichever was used; "popular" where the session held no known item.
        rows_scored: rows of the catalog that were looked at.
        bytes_read: bytes of item vectors, of their int8 codes and of biases that this took.
        unknown_ids: how many ids of the session the catalog lacks.
    """

    items: tuple[int | str, ...]
    scores: NDArray[np.float32]
    mode: Literal["candidates", "exact", "popular"]
    rows_scored: int
    bytes_read: int
    unknown_ids: int
    _catalog: Catalog | _Excerpt = field(repr=False)
    _rows: NDArray[np.int64] = field(repr=False)
    _ranked: Ranked = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Hit]:
        for item, score, row in zip(self.items, self.scores.tolist(), self._rows.tolist(), strict=True):
            yield Hit(item, score, self._catalog.title(row))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Hit | tuple[Hit, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(len(self))[index])
        at = operator.index(index)
        return Hit(self.items[at], float(self.scores[at]), self._catalog.title(int(self._rows[at])))

    @property
    def categories(self) -> tuple[CategoryHit, ...]:
        """Up to 5 leaf categories, the most probable first; none where ``mode`` is "popular"."""
        leaf = len(self._ranked.path) - 1
        return tuple(self._category(leaf, *hit) for hit in self._ranked.leaves)

    @property
    def category_path(self) -> tuple[CategoryHit, ...]:
        """The most probable category of each level, the top first; empty where ``mode`` is "popular"."""
        return tuple(self._category(level, *hit) for level, hit in enumerate(self._ranked.path))

    @property
    def ranges(self) -> NDArray[np.int64]:
        """int64 [m, 2]: the rows ``[start, stop)`` that could rank but for filters, sorted and disjoint."""
        if self.mode == "exact":
            return np.array([[0, self._catalog.stop]], dtype=np.int64)
        return candidate_ranges(self._catalog.first_rows, self._ranked)

    def __reduce__(self) -> tuple[Any, ...]:
        leaf = len(self._ranked.path) - 1
        shown = {
            *((leaf, index) for index, _ in self._ranked.leaves),
            *enumerate(index for index, _ in self._ranked.path),
        }
        catalog = _Excerpt(
            {row: self._catalog.title(row) for row in self._rows.tolist()},
            {node: self._catalog.category(*node) for node in shown},
            self._catalog.first_rows,
            self._catalog.stop,
        )
        return Result, (
            self.items,
            self.scores,
            self.mode,
            self.rows_scored,
            self.bytes_read,
            self.unknown_ids,
            catalog,
            self._rows,
            self._ranked,
        )

    def _category(self, level: int, index: int, probability: float) -> CategoryHit:
        return CategoryHit.of(self._catalog.category(level, index), probability)


def candidate_ranges(first_rows: Sequence[int], ranked: Ranked) -> row_ranges.Ranges:
    """int64 [m, 2], sorted and disjoint: the rows of the catalog that could rank."""
    parts = [first + each for first, each in zip(first_rows, ranked.ranges, strict=False) if each is not None]
    every = np.concatenate([np.empty((0, 2), dtype=np.int64), *parts])
    return row_ranges.add(row_ranges.rising(every), ranked.covisited)
