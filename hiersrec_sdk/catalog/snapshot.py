"""The catalogue: the shop's own ids against rows, and the category tree over the rows.

Rows are sorted by leaf category in a depth-first walk of the tree, so every category of any level is one range
of rows. Ids are found by binary search in tables of the bundle: no dictionary of all ids is built.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.folder import Bundle
from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.errors import BundleCorruptError, InvalidItemIdError, NaNItemIdError
from hiersrec_sdk.ranking import get_backend
from hiersrec_sdk.ranking.backend import UNKNOWN as UNKNOWN
from hiersrec_sdk.ranking.backend import Backend, FindIds
from hiersrec_sdk.ranking.codes import Codes
from hiersrec_sdk.ranking.covisitation import CovisitationScorer, ScoreOffsets
from hiersrec_sdk.ranking.requests import Table

if TYPE_CHECKING:
    from hiersrec_sdk.catalog.delta import Changes

_INT64 = np.iinfo(np.int64)


@dataclass(frozen=True)
class Category:
    """A category of the tree.

    Attributes:
        id: the shop's own id.
        level: 0 is the top.
        index: its place within the level, in a depth-first walk.
        parent: index of its parent in the level above; -1 at the top.
        name: readable name, or None.
        start, stop: its rows are ``[start, stop)``.
    """

    id: int | str
    level: int
    index: int
    parent: int
    name: str | None
    start: int
    stop: int


class Catalog:
    """The catalogue of an opened bundle. It never changes, so that any number of threads may use it: changes make
    another one (:class:`hiersrec_sdk.catalog.delta.ChangedCatalog`).

    Attributes:
        item_vectors: float32 [n, d], what queries are compared with.
        input_vectors: float32 [n, d], what the session encoder reads; the same table where the two are tied.
        bias: float32 [n] or None, added to the scores.
        codes: the int8 copy of ``item_vectors``, or None.
        wide: what the click log itself says of the rows, or None.
        clicks: int64 [n], clicks of each row in training and validation part.
        ranges: for each level int64 [categories, 2], the rows ``[start, stop)`` of each category.
        parents: for each level int32 [categories], the index of the parent in the level above.
        item_id_type, category_id_type: "int64" or "string".
        changes: what has changed since, or None.
        base: the catalogue without changes.
    """

    changes: Changes | None = None

    def __init__(self, bundle: Bundle, backend: Backend | None = None) -> None:
        config, tables = bundle.config, bundle.tables
        self.backend: Backend = get_backend() if backend is None else backend
        self.base = self
        levels = range(len(config["levels"]))
        self.item_vectors: NDArray[np.float32] = tables["item_vectors"]
        self.input_vectors: NDArray[np.float32] = self.item_vectors
        self.bias: NDArray[np.float32] | None = tables.get("item_bias")
        self.clicks: NDArray[np.int64] = tables["clicks"]
        self.ranges: tuple[NDArray[np.int64], ...] = tuple(tables[f"category_ranges.{at}"] for at in levels)
        self.parents: tuple[NDArray[np.int32], ...] = tuple(tables[f"category_parents.{at}"] for at in levels)
        self.codes: Codes | None = Codes.from_tables(tables)
        self.wide: CovisitationScorer | None = CovisitationScorer.from_tables(tables)
        self.score_offsets: ScoreOffsets | None = (
            None if self.wide is None else self.backend.covisitation(self.wide)
        )
        self.item_id_type: str = config["item_id_type"]
        self.category_id_type: str = config["category_id_type"]
        self._ids = _id_index(tables, config["item_id_type"], self.backend.find_ids)
        self._category_ids = tuple(_id_table(tables, f"category_ids.{at}") for at in levels)
        self._category_names = tuple(StringTable.from_tables(tables, f"category_names.{at}") for at in levels)
        self._titles = StringTable.from_tables(tables, "titles")
        self._extra_offsets: NDArray[np.int64] | None = tables.get("extra_offsets")
        self._extra_rows: NDArray[np.int64] | None = tables.get("extra_rows")

    def __len__(self) -> int:
        return len(self.item_vectors)

    def rows(self, ids: Sequence[int | str] | NDArray[Any]) -> NDArray[np.int64]:
        """int64 [len(ids)]: the row of each id, -1 where the catalogue lacks it.

        Raises:
            InvalidItemIdError: an id that is not of the catalogue's type.
            NaNItemIdError: an id that is NaN.
        """
        return self._ids.find(ids)

    def ids(self, rows: NDArray[np.int64]) -> Sequence[int | str]:
        """The shop's own ids of ``rows``."""
        return self._ids.take(rows)

    @property
    def has_titles(self) -> bool:
        """Whether the bundle has titles; items that were added since may have some even if not."""
        return self._titles is not None

    def title(self, row: int) -> str | None:
        """Readable title of ``row``; None where there is none."""
        return (self._titles[row] or None) if self._titles is not None else None

    def category(self, level: int, index: int) -> Category:
        """The category ``index`` of ``level``; negative levels count from the leaves, as in a list."""
        level = range(len(self.ranges))[level]
        index = range(len(self.ranges[level]))[index]
        names = self._category_names[level]
        start, stop = self.ranges[level][index].tolist()
        return Category(
            id=self._category_ids[level].take(np.array([index]))[0],
            level=level,
            index=index,
            parent=int(self.parents[level][index]),
            name=names[index] if names is not None else None,
            start=start,
            stop=stop,
        )

    def find_category(self, own: Any) -> list[tuple[int, int]]:
        """(level, index) of every category with the shop's own id ``own``; a shallow branch repeats its id below."""
        is_id = type(own) is int or isinstance(own, str | np.integer)
        return self._category_places.get(own, []) if is_id else []

    @cached_property
    def _category_places(self) -> dict[Any, list[tuple[int, int]]]:
        places: dict[Any, list[tuple[int, int]]] = {}
        for level, ids in enumerate(self._category_ids):
            for index, own in enumerate(ids.take(np.arange(len(self.ranges[level])))):
                places.setdefault(own, []).append((level, index))
        return places

    def categories_of(self, rows: NDArray[np.int64], level: int = -1) -> NDArray[np.int64]:
        """int64 [len(rows)]: index, within ``level``, of the category that each row lies in."""
        return np.searchsorted(self.ranges[level][:, 1], rows, side="right")

    @property
    def has_extra_rows(self) -> bool:
        """Whether an item is listed in a category beside the one that its row lies in."""
        return self._extra_rows is not None and len(self._extra_rows) > 0

    def extra_rows(self, leaves: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [m]: rows that are listed in one of ``leaves`` and lie in another; one may stand twice."""
        if self._extra_offsets is None or self._extra_rows is None:
            return np.empty(0, np.int64)
        starts, counts = self._extra_offsets[leaves], np.diff(self._extra_offsets)[leaves]
        # Positions start, start + 1, ... of every leaf, end to end.
        shifts = np.repeat(starts - np.cumsum(counts) + counts, counts)
        return self._extra_rows[shifts + np.arange(len(shifts))]

    def listed_in(self, row: int) -> list[int]:
        """Leaf categories that list ``row`` beside the one that it lies in."""
        if self._extra_offsets is None or self._extra_rows is None:
            return []
        places = np.flatnonzero(self._extra_rows == row)
        found: list[int] = (self._extra_offsets.searchsorted(places, side="right") - 1).tolist()
        return found

    @cached_property
    def table(self) -> Table:
        """What a backend ranks."""
        return Table(self.item_vectors, self.bias, self.codes)

    @cached_property
    def plain_table(self) -> Table:
        """The same without biases."""
        return Table(self.item_vectors, None, self.codes)

    @cached_property
    def options(self) -> dict[Any, Any]:
        """Where a recommender keeps the options of its calls, which depend on the number of items."""
        return {}

    @property
    def stop(self) -> int:
        """Where the rows end; of a changed catalogue some of them are gone."""
        return len(self.item_vectors)

    def vectors(self, rows: NDArray[np.int64], inputs: bool = False) -> NDArray[np.float32]:
        """float32 [len(rows), d]: output vectors, or input vectors."""
        found: NDArray[np.float32] = (self.input_vectors if inputs else self.item_vectors)[rows]
        return found

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [len(rows)]."""
        return np.zeros(len(rows), dtype=np.float32) if self.bias is None else self.bias[rows]

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [stop]: of every row, before boosts; -inf where a row is gone."""
        found: NDArray[np.float32] = self.item_vectors @ query
        return found if self.bias is None else found + self.bias

    def clicks_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [len(rows)]: clicks in training and validation part."""
        return self.clicks[rows]

    def most_clicked(self, count: int) -> NDArray[np.int64]:
        """int64: the most clicked rows, about ``count`` of them; all of them where ``count`` is the number of rows."""
        return self.popular[:count]

    @cached_property
    def popular(self) -> NDArray[np.int64]:
        """int64 [n]: all rows, most clicked first; ties by lower row."""
        return np.argsort(-self.clicks, kind="stable")


def id_tables(name: str, ids: Sequence[int | str]) -> dict[str, NDArray[Any]]:
    """The tables of a bundle that hold ``ids``, all integers or all strings, under ``name``."""
    if len(ids) and isinstance(ids[0], str):
        return StringTable.from_strings([str(own) for own in ids]).tables(name)
    return {name: np.asarray(ids, dtype=np.int64)}


def item_id_tables(ids: Sequence[int | str]) -> dict[str, NDArray[Any]]:
    """The tables of a bundle that hold the items' own ids, in the order of the rows, and find them again."""
    tables = id_tables("item_ids", ids)
    if "item_ids" in tables:
        return tables | {"item_ids.order": np.argsort(tables["item_ids"], kind="stable")}
    hashes = np.array([_hash(str(own).encode()) for own in ids], dtype=np.uint64)
    order = np.argsort(hashes, kind="stable")
    return tables | {"item_ids.order": order, "item_ids.hashes": hashes[order]}


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class _IntTable:
    """Ids int64 [n]."""

    ids: NDArray[np.int64]

    def take(self, indices: NDArray[np.int64]) -> list[int]:
        ids: list[int] = self.ids[indices].tolist()
        return ids


@dataclass(frozen=True)
class _IntIndex(_IntTable):
    """Finds integer ids: ``order`` int64 [n] sorts them."""

    order: NDArray[np.int64]
    find_ids: FindIds

    def find(self, ids: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        wanted, beyond = _as_int64(ids)
        try:
            rows = self.find_ids(self.ids, self.order, wanted)
        except IndexError:  # of a bundle that was not verified
            raise BundleCorruptError(
                "table 'item_ids.order' names rows that are not there: load with verify=True"
            ) from None
        if beyond is not None:
            rows[beyond] = UNKNOWN
        return rows


@dataclass(frozen=True)
class _StringIndex:
    """Finds string ids by hash: ``hashes`` uint64 [n], sorted; ``order`` int64 [n], the row of each."""

    strings: StringTable
    order: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    def take(self, indices: NDArray[np.int64]) -> list[str]:
        return self.strings.take(indices)

    def find(self, ids: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        texts = _as_utf8(ids)
        wanted = np.array([_hash(text) for text in texts], dtype=np.uint64)
        firsts = self.hashes.searchsorted(wanted)
        rows = self.order.take(firsts, mode="clip")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(
            self.order
        ):  # of a bundle that was not verified
            raise BundleCorruptError(
                "table 'item_ids.order' names rows that are not there: load with verify=True"
            )
        for index, (text, have) in enumerate(zip(texts, self.strings.raw(rows), strict=True)):
            if text != have:
                rows[index] = self._walk(text, wanted[index], int(firsts[index]))
        return rows

    def _walk(self, text: bytes, wanted: np.uint64, place: int) -> int:
        """The row of ``text`` among those of the same hash, from ``place`` on."""
        while place < len(self.hashes) and self.hashes[place] == wanted:
            row = int(self.order[place])
            if self.strings.raw([row])[0] == text:
                return row
            place += 1
        return UNKNOWN


def _id_table(tables: Mapping[str, NDArray[Any]], name: str) -> _IntTable | StringTable:
    strings = StringTable.from_tables(tables, name)
    return strings if strings is not None else _IntTable(tables[name])


def _id_index(
    tables: Mapping[str, NDArray[Any]], id_type: str, find_ids: FindIds
) -> _IntIndex | _StringIndex:
    order = tables["item_ids.order"]
    if id_type == "int64":
        return _IntIndex(tables["item_ids"], order, find_ids)
    strings = StringTable(tables["item_ids.bytes"], tables["item_ids.offsets"])
    return _StringIndex(strings, order, tables["item_ids.hashes"])


def _as_int64(ids: Sequence[Any] | NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool] | None]:
    """The ids as int64; and which of them lie beyond it, so that the catalogue lacks them, or None."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i":
        return np.ascontiguousarray(ids, dtype=np.int64), None
    values = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if set(map(type, values)) - {int}:
        for place, value in enumerate(values):
            # bool is an int and timedelta64 a NumPy integer, but neither is an id.
            if not isinstance(value, int | np.integer) or isinstance(value, bool | np.timedelta64):
                raise _wrong_id(value, place, "whole numbers (int64)")
        values = [int(value) for value in values]
    try:
        return np.array(values, dtype=np.int64), None
    except OverflowError:
        beyond = [not _INT64.min <= value <= _INT64.max for value in values]
        fitting = [0 if out else value for value, out in zip(values, beyond, strict=True)]
        return np.array(fitting, dtype=np.int64), np.array(beyond)


def _as_utf8(ids: Sequence[Any] | NDArray[Any]) -> list[bytes]:
    values = ids.tolist() if isinstance(ids, np.ndarray) else ids
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise _wrong_id(value, place, "strings")
    # A lone surrogate, which no UTF-8 id holds, becomes bytes that match none.
    return [value.encode("utf-8", "surrogatepass") for value in values]


def _wrong_id(value: Any, place: int, right: str) -> InvalidItemIdError | NaNItemIdError:
    if isinstance(value, float | np.floating) and math.isnan(value):
        return NaNItemIdError(
            f"item id at position {place} is NaN, a missing value: drop it from the session"
        )
    given = "None" if value is None else f"{value!r}, of type {type(value).__name__}"
    return InvalidItemIdError(
        f"item id at position {place} is {given}; the ids of this catalogue are {right}"
    )
