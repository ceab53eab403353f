"""Checks of the tables in ``catalog.safetensors``: names, dtypes, shapes, and the values that index other tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.schema import MOST_CLICKS
from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.errors import BundleCorruptError
from hiersrec_sdk.ranking import covisitation
from hiersrec_sdk.ranking.arrays import LARGEST, are_bounded
from hiersrec_sdk.ranking.code_check import check_rows
from hiersrec_sdk.ranking.codes import Codes
from hiersrec_sdk.ranking.id_hashes import hashes_of

_CHUNK = 16_384  # rows at a time, so that a check takes little memory


@dataclass(frozen=True)
class CatalogChecks:
    """Checks the tables of a catalog against its ``config.json``.

    Attributes:
        file: the file of the tables, for messages.
        tables: the tables by name.
        contents: also check what takes a whole read of a table.
    """

    file: Path
    tables: Mapping[str, NDArray[Any]]
    contents: bool

    def run(self, config: Mapping[str, Any]) -> None:
        """Check everything.

        Raises:
            BundleCorruptError: names the file, the table and the cause.
        """
        items, dimension, sizes = config["items"], config["dimension"], config["categories"]
        self._floats("item_vectors", items, dimension)
        if "item_bias" in self.tables:
            self._floats("item_bias", items)
        self._codes(items, dimension)
        self._covisitation(items)
        clicks = self._array("clicks", np.int64, items)
        if self.contents:
            inside = 0 <= clicks.min() <= clicks.max() < MOST_CLICKS
            self._require(inside, f"table 'clicks' has values outside [0, {MOST_CLICKS})")
        self._item_ids(config["item_id_type"], items)
        if "titles.offsets" in self.tables or "titles.bytes" in self.tables:
            self._strings("titles", items, self.contents)
        self._tree(config["category_id_type"], items, sizes)
        if "extra_offsets" in self.tables or "extra_rows" in self.tables:
            self._array("extra_rows", np.int64, self._offsets("extra_offsets", sizes[-1], True))
            self._within("extra_rows", items)

    def _require(self, holds: bool | np.bool, cause: str) -> None:
        if not holds:
            raise BundleCorruptError(f"{self.file}: {cause}")

    def _present(self, name: str) -> NDArray[Any]:
        self._require(name in self.tables, f"table {name!r} is missing")
        return self.tables[name]

    def _array(self, name: str, dtype: type[np.generic], *shape: int) -> NDArray[Any]:
        table = self._present(name)
        found, expected = f"{table.dtype} {list(table.shape)}", f"{np.dtype(dtype)} {list(shape)}"
        self._require(found == expected, f"table {name!r} must be {expected}, got {found}")
        return table

    def _floats(self, name: str, *shape: int) -> None:
        """Check a table of float32; with contents, that all are numbers, none too large."""
        rows = self._array(name, np.float32, *shape)
        if self.contents:
            bounded = all(are_bounded(rows[at : at + _CHUNK]) for at in range(0, len(rows), _CHUNK))
            self._require(bounded, f"table {name!r} has values that are NaN, infinite or above {LARGEST:g}")

    def _offsets(self, name: str, count: int, contents: bool) -> int:
        """Check the offsets of ``count`` slices, with ``contents`` all of them; return where the last one ends."""
        offsets = self._array(name, np.int64, count + 1)
        rises = offsets[0] == 0 and (not contents or np.all(offsets[1:] >= offsets[:-1]))
        self._require(rises, f"table {name!r} does not rise from 0")
        return int(offsets[-1])

    def _within(self, name: str, stop: int) -> None:
        table = self.tables[name]
        inside = not len(table) or (table.min() >= 0 and table.max() < stop)
        self._require(inside, f"table {name!r} has values outside [0, {stop})")

    def _strings(self, name: str, count: int, contents: bool) -> StringTable:
        """Check a table of ``count`` strings, with ``contents`` the strings themselves; return it."""
        offsets = self._present(f"{name}.offsets")
        self._array(f"{name}.bytes", np.uint8, self._offsets(f"{name}.offsets", count, contents))
        strings = StringTable(self.tables[f"{name}.bytes"], offsets, name)
        if contents:
            try:
                strings.check()
            except ValueError as error:
                self._require(False, str(error))
        return strings

    def _codes(self, items: int, dimension: int) -> None:
        for name in Codes.names(self.tables):
            self._present(name)
        codes = Codes.from_tables(self.tables)
        if codes is not None:
            try:
                codes.check(items, dimension)
                if self.contents:
                    check_rows(codes, self.tables["item_vectors"])
            except ValueError as error:
                self._require(False, f"table 'codes': {error}")

    def _covisitation(self, items: int) -> None:
        if not any(name in self.tables for name in covisitation.TABLES):
            return
        for name in covisitation.TABLES:
            self._present(name)
        self._floats("covisitation.popularity", items, covisitation.POPULARITIES)
        edges = self._offsets("covisitation.offsets", items, self.contents)
        self._array("covisitation.rows", np.int32, edges)
        self._array("covisitation.counts", np.uint16, edges, covisitation.EDGE_COUNTS)
        hidden = max(1, self.tables["covisitation.hidden_bias"].size)
        self._floats("covisitation.hidden_bias", hidden)
        self._floats("covisitation.hidden_weight", covisitation.FEATURES, hidden)
        self._floats("covisitation.weight", hidden + 1)
        if self.contents:
            self._within("covisitation.rows", items)
            largest = covisitation.largest_offset(self.tables)
            self._require(
                largest <= LARGEST,
                f"table 'covisitation.weight' gives score offsets of up to {largest:g}",
            )

    def _item_ids(self, id_type: str, items: int) -> None:
        order = self._array("item_ids.order", np.int64, items)
        if self.contents:
            self._within("item_ids.order", items)
        if id_type == "int64":
            ids = self._array("item_ids", np.int64, items)
            if self.contents:
                in_order = ids[order]
                rises = np.all(in_order[1:] > in_order[:-1])
                self._require(rises, "table 'item_ids.order' does not sort the ids, or an id occurs twice")
            return
        hashes = self._array("item_ids.hashes", np.uint64, items)
        strings = self._strings("item_ids", items, self.contents)
        if not self.contents:
            return
        self._require(np.all(hashes[1:] >= hashes[:-1]), "table 'item_ids.hashes' is not sorted")
        once = np.all(np.bincount(order, minlength=items) == 1)
        self._require(once, "table 'item_ids.order' does not name every row once")
        right = np.array_equal(hashes_of(strings.data, strings.offsets)[order], hashes)
        self._require(right, "table 'item_ids.hashes' does not hold the hashes of the ids")
        same = hashes[1:] == hashes[:-1]
        if same.any():
            alike = order[np.append(same, False) | np.append(False, same)]
            distinct = {bytes(text) for text in strings.raw(alike)}
            self._require(len(distinct) == len(alike), "table 'item_ids' has an id twice")

    def _category_ids(self, level: int, id_type: str, parents: NDArray[np.int32]) -> None:
        """Check the ids of a level: no two below one parent are equal, or a path would name both."""
        name, count = f"category_ids.{level}", len(parents)
        ids: Sequence[int | str]
        if id_type == "int64":
            ids = self._array(name, np.int64, count).tolist()
        else:  # few, so that they are always checked whole
            ids = self._strings(name, count, True).take(range(count))
        distinct = set(zip(parents.tolist(), ids, strict=True))
        self._require(len(distinct) == count, f"table {name!r} has an id twice below one parent")

    def _tree(self, id_type: str, items: int, sizes: list[int]) -> None:
        for level, size in enumerate(sizes):
            name, of_parents = f"category_ranges.{level}", f"category_parents.{level}"
            ranges = self._array(name, np.int64, size, 2)
            in_order = np.all(ranges[:, 0] <= ranges[:, 1]) and np.all(ranges[1:, 0] == ranges[:-1, 1])
            covers = ranges[0, 0] == 0 and ranges[-1, 1] == items
            self._require(
                in_order and covers, f"table {name!r} does not split the rows [0, {items}) in order"
            )
            parents = self._array(of_parents, np.int32, size)
            self._category_ids(level, id_type, parents)
            if level == 0:
                self._require(np.all(parents == -1), f"table {of_parents!r} must be -1 throughout")
                continue
            self._within(of_parents, sizes[level - 1])
            above = self.tables[f"category_ranges.{level - 1}"][parents]
            nested = np.all(above[:, 0] <= ranges[:, 0]) and np.all(ranges[:, 1] <= above[:, 1])
            self._require(nested, f"table {name!r} leaves the ranges of its parents")
            steps = np.diff(parents, prepend=-1, append=sizes[level - 1])
            walk = (
                np.all((steps == 0) | (steps == 1))
                and parents[0] == 0
                and parents[-1] == sizes[level - 1] - 1
            )
            self._require(
                walk, f"table {of_parents!r} must rise from 0 and name every category of the level above"
            )
