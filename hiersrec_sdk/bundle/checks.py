"""Checks of the tables in ``catalog.safetensors``: names, dtypes, shapes, and the values that index other tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import BundleCorruptError
from hiersrec_sdk.ranking import covisitation
from hiersrec_sdk.ranking.codes import Codes


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
        self._array("item_vectors", np.float32, items, dimension)
        if "item_bias" in self.tables:
            self._array("item_bias", np.float32, items)
        self._codes(items, dimension)
        self._covisitation(items)
        self._array("clicks", np.int64, items)
        self._item_ids(config["item_id_type"], items)
        self._optional_strings("titles", items)
        self._tree(config["category_id_type"], items, sizes)
        if "extra_offsets" in self.tables:
            self._array("extra_rows", np.int64, self._offsets("extra_offsets", sizes[-1]))
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

    def _offsets(self, name: str, count: int) -> int:
        """Check the offsets of ``count`` slices; return where the last one ends."""
        offsets = self._array(name, np.int64, count + 1)
        rises = offsets[0] == 0 and (not self.contents or np.all(offsets[1:] >= offsets[:-1]))
        self._require(rises, f"table {name!r} does not rise from 0")
        return int(offsets[-1])

    def _within(self, name: str, stop: int) -> None:
        table = self.tables[name]
        inside = not len(table) or (table.min() >= 0 and table.max() < stop)
        self._require(inside, f"table {name!r} has values outside [0, {stop})")

    def _strings(self, name: str, count: int) -> None:
        self._array(f"{name}.bytes", np.uint8, self._offsets(f"{name}.offsets", count))

    def _optional_strings(self, name: str, count: int) -> None:
        if f"{name}.offsets" in self.tables:
            self._strings(name, count)

    def _ids(self, name: str, id_type: str, count: int) -> None:
        if id_type == "int64":
            self._array(name, np.int64, count)
        else:
            self._strings(name, count)

    def _codes(self, items: int, dimension: int) -> None:
        for name in Codes.names(self.tables):
            self._present(name)
        codes = Codes.from_tables(self.tables)
        if codes is not None:
            try:
                codes.check(items, dimension)
            except ValueError as error:
                self._require(False, f"table 'codes': {error}")

    def _covisitation(self, items: int) -> None:
        if not any(name in self.tables for name in covisitation.TABLES):
            return
        for name in covisitation.TABLES:
            self._present(name)
        self._array("covisitation.popularity", np.float32, items, covisitation.POPULARITIES)
        edges = self._offsets("covisitation.offsets", items)
        self._array("covisitation.rows", np.int32, edges)
        self._array("covisitation.counts", np.uint16, edges, covisitation.EDGE_COUNTS)
        hidden = self.tables["covisitation.hidden_bias"].size
        self._array("covisitation.hidden_bias", np.float32, hidden)
        self._array("covisitation.hidden_weight", np.float32, covisitation.FEATURES, hidden)
        self._array("covisitation.weight", np.float32, hidden + 1)
        if self.contents:
            self._within("covisitation.rows", items)

    def _item_ids(self, id_type: str, items: int) -> None:
        self._ids("item_ids", id_type, items)
        order = self._array("item_ids.order", np.int64, items)
        if id_type != "int64":
            self._array("item_ids.hashes", np.uint64, items)
        if not self.contents:
            return
        self._within("item_ids.order", items)
        if id_type == "int64":
            ids = self.tables["item_ids"][order]
            rises = np.all(ids[1:] > ids[:-1])
            self._require(rises, "table 'item_ids.order' does not sort the ids, or an id occurs twice")
        else:
            hashes = self.tables["item_ids.hashes"]
            self._require(np.all(hashes[1:] >= hashes[:-1]), "table 'item_ids.hashes' is not sorted")
            once = np.all(np.bincount(order, minlength=items) == 1)
            self._require(once, "table 'item_ids.order' does not name every row once")

    def _siblings(self, name: str, parents: NDArray[np.int32]) -> None:
        """Check that no two categories of a level have the same id and the same parent: a path would name both."""
        ids: Sequence[Any] = self.tables[name].tolist() if name in self.tables else self._bytes(name)
        distinct = set(zip(parents.tolist(), ids, strict=True))
        self._require(len(distinct) == len(ids), f"table {name!r} has an id twice below one parent")

    def _bytes(self, name: str) -> list[bytes]:
        edges, data = self.tables[f"{name}.offsets"].tolist(), self.tables[f"{name}.bytes"].tobytes()
        return [data[begin:end] for begin, end in pairwise(edges)]

    def _tree(self, id_type: str, items: int, sizes: list[int]) -> None:
        for level, size in enumerate(sizes):
            self._ids(f"category_ids.{level}", id_type, size)
            name = f"category_ranges.{level}"
            ranges = self._array(name, np.int64, size, 2)
            in_order = np.all(ranges[:, 0] <= ranges[:, 1]) and np.all(ranges[1:, 0] == ranges[:-1, 1])
            covers = ranges[0, 0] == 0 and ranges[-1, 1] == items
            self._require(
                in_order and covers, f"table {name!r} does not split the rows [0, {items}) in order"
            )
            parents = self._array(f"category_parents.{level}", np.int32, size)
            if self.contents:
                self._siblings(f"category_ids.{level}", parents)
            if level == 0:
                self._require(np.all(parents == -1), "table 'category_parents.0' must be -1 throughout")
                continue
            self._within(f"category_parents.{level}", sizes[level - 1])
            above = self.tables[f"category_ranges.{level - 1}"][parents]
            nested = np.all(above[:, 0] <= ranges[:, 0]) and np.all(ranges[:, 1] <= above[:, 1])
            self._require(nested, f"table {name!r} leaves the ranges of its parents")
