"""What a recommender answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog.snapshot import Catalog, Category
from hiersrec_sdk.ranking import row_ranges


@dataclass(frozen=True, slots=True)
class Hit:
    """One recommended item: the shop's own id, its score, and its title where the bundle has titles."""

    item: int | str
    score: float
    title: str | None


@dataclass(frozen=True, slots=True)
class CategoryHit:
    """One predicted category.

    Attributes:
        category: the shop's own id.
        probability: softmax over the categories of its level.
        level: 0 is the top.
        name: readable name, or None.
        index: its place within the level (see :meth:`hiersrec_sdk.catalog.snapshot.Catalog.category`).
    """

    category: int | str
    probability: float
    level: int
    name: str | None
    index: int


@dataclass(frozen=True, slots=True)
class _Excerpt:
    """What one result asks of its catalogue: that of an unpickled result."""

    titles: dict[int, str | None]  # by row
    categories: dict[tuple[int, int], Category]  # by level and index
    stop: int

    def title(self, row: int) -> str | None:
        return self.titles[row]

    def category(self, level: int, index: int) -> Category:
        return self.categories[level, index]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answer to one session: a sequence of :class:`Hit`, best first.

    ``len()``, iteration, an index (``result[0]`` is the best) and slices (tuples of hits) work as on a tuple. A pickle
    holds all that a result says, and nothing else of the catalogue.

    Attributes:
        items: the shop's own ids, best first: by higher score, ties by lower row of the catalogue.
        scores: float32 [len(items)]; training clicks where ``mode`` is "popular".
        mode: "candidates" or "exact", whichever was used; "popular" where the session held no known item.
        rows_scored: rows of the catalogue that were looked at.
        bytes_read: bytes of item vectors, of their int8 codes and of biases that this took.
        unknown_ids: how many ids of the session that the catalogue lacks.
    """

    items: tuple[int | str, ...]
    scores: NDArray[np.float32]
    mode: Literal["candidates", "exact", "popular"]
    rows_scored: int
    bytes_read: int
    unknown_ids: int
    _catalog: Catalog | _Excerpt = field(repr=False)
    _rows: NDArray[np.int64] = field(repr=False)
    _ranges: row_ranges.Ranges = field(repr=False)  # in the order in which they were scanned
    _own: row_ranges.Rows = field(repr=False)
    _leaves: Sequence[tuple[int, float]] = field(repr=False)  # index and probability
    _path: Sequence[tuple[int, float]] = field(repr=False)

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
        return Hit(self.items[index], float(self.scores[index]), self._catalog.title(int(self._rows[index])))

    @property
    def categories(self) -> tuple[CategoryHit, ...]:
        """Up to 5 leaf categories, the most probable first; none where ``mode`` is "popular"."""
        leaf = len(self._path) - 1
        return tuple(self._category(leaf, *hit) for hit in self._leaves)

    @property
    def category_path(self) -> tuple[CategoryHit, ...]:
        """The most probable category of each level, the top first; empty where ``mode`` is "popular"."""
        return tuple(self._category(level, *hit) for level, hit in enumerate(self._path))

    @property
    def ranges(self) -> NDArray[np.int64]:
        """int64 [m, 2]: the rows ``[start, stop)`` that could rank but for filters, sorted and disjoint."""
        if self.mode == "exact":
            return np.array([[0, self._catalog.stop]], dtype=np.int64)
        return row_ranges.add(row_ranges.rising(self._ranges), np.unique(self._own))

    def __reduce__(self) -> tuple[Any, ...]:
        leaf = len(self._path) - 1
        places = {*((leaf, index) for index, _ in self._leaves), *enumerate(index for index, _ in self._path)}
        catalog = _Excerpt(
            {row: self._catalog.title(row) for row in self._rows.tolist()},
            {place: self._catalog.category(*place) for place in places},
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
            self._ranges,
            self._own,
            self._leaves,
            self._path,
        )

    def _category(self, level: int, index: int, probability: float) -> CategoryHit:
        category = self._catalog.category(level, index)
        return CategoryHit(category.id, probability, level, category.name, index)
