"""External ids and rows: ids are found by binary search in tables of the bundle, without a dictionary of all ids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.errors import BundleCorruptError, InvalidItemIdError, NaNItemIdError
from hiersrec_sdk.id_lists import plain_id
from hiersrec_sdk.ranking.backend import UNKNOWN, FindIds
from hiersrec_sdk.ranking.id_hashes import hash_of, hashes_of
from hiersrec_sdk.shown import described

_INT64: Final = np.iinfo(np.int64)


def id_tables(name: str, ids: Sequence[int | str]) -> dict[str, NDArray[Any]]:
    """The tables of a bundle that hold ``ids``, all integers or all strings, under ``name``."""
    if len(ids) and isinstance(ids[0], str):
        return StringTable.from_strings([str(each) for each in ids]).tables(name)
    return {name: np.asarray(ids, dtype=np.int64)}


def item_id_tables(ids: Sequence[int | str]) -> dict[str, NDArray[Any]]:
    """The tables of a bundle that hold the items' external ids, in the order of the rows, and find them again."""
    tables = id_tables("item_ids", ids)
    if "item_ids" in tables:
        return tables | {"item_ids.order": np.argsort(tables["item_ids"], kind="stable")}
    hashes = hashes_of(tables["item_ids.bytes"], tables["item_ids.offsets"])
    order = np.argsort(hashes, kind="stable")
    return tables | {"item_ids.order": order, "item_ids.hashes": hashes[order]}


@dataclass(frozen=True)
class IntTable:
    """Ids int64 [n]."""

    ids: NDArray[np.int64]

    def take(self, indices: NDArray[np.int64]) -> list[int]:
        """The ids at ``indices``."""
        ids: list[int] = self.ids[indices].tolist()
        return ids


IdTable = IntTable | StringTable


def id_table(tables: Mapping[str, NDArray[Any]], name: str) -> IdTable:
    """The ids ``name`` in the tables of a bundle."""
    strings = StringTable.from_tables(tables, name)
    return strings if strings is not None else IntTable(tables[name])


@dataclass(frozen=True)
class IntIndex:
    """Finds integer item ids: ``order`` int64 [n] sorts ``ids`` int64 [n]."""

    ids: NDArray[np.int64]
    order: NDArray[np.int64]
    find_ids: FindIds

    def take(self, rows: NDArray[np.int64]) -> list[int]:
        """The ids of ``rows``."""
        ids: list[int] = self.ids[rows].tolist()
        return ids

    def find(self, ids: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        """int64 [len(ids)]: the row of each id, -1 where there is none."""
        wanted, too_large = _as_int64(ids)
        try:
            rows = self.find_ids(self.ids, self.order, wanted)
        except IndexError:  # of a bundle that was not verified
            raise _wrong_order() from None
        if too_large is not None:
            rows[too_large] = UNKNOWN
        return rows


@dataclass(frozen=True)
class StringIndex:
    """Finds string item ids by hash: ``hashes`` uint64 [n], sorted; ``order`` int64 [n], the row of each."""

    strings: StringTable
    order: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    def take(self, rows: NDArray[np.int64]) -> list[str]:
        """The ids of ``rows``."""
        return self.strings.take(rows)

    def find(self, ids: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
        """int64 [len(ids)]: the row of each id, -1 where there is none."""
        texts = _as_utf8(ids)
        wanted = np.array([hash_of(text) for text in texts], dtype=np.uint64)
        firsts = self.hashes.searchsorted(wanted)
        rows = self.order.take(firsts, mode="clip")
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.order):
            raise _wrong_order()
        for index, (text, have) in enumerate(zip(texts, self.strings.raw(rows), strict=True)):
            if text != have:
                rows[index] = self._walk(text, wanted[index], int(firsts[index]))
        return rows

    def _walk(self, text: bytes, wanted: np.uint64, at: int) -> int:
        """The row of ``text`` among those of the same hash, from ``at`` on."""
        while at < len(self.hashes) and self.hashes[at] == wanted:
            row = int(self.order[at])
            if not 0 <= row < len(self.order):
                raise _wrong_order()
            if self.strings.raw([row])[0] == text:
                return row
            at += 1
        return UNKNOWN


ItemIndex = IntIndex | StringIndex


def item_index(tables: Mapping[str, NDArray[Any]], id_type: str, find_ids: FindIds) -> ItemIndex:
    """The index of the item ids in the tables of a bundle."""
    order = tables["item_ids.order"]
    if id_type == "int64":
        return IntIndex(tables["item_ids"], order, find_ids)
    strings = StringTable(tables["item_ids.bytes"], tables["item_ids.offsets"], "item_ids")
    return StringIndex(strings, order, tables["item_ids.hashes"])


def _as_int64(ids: Sequence[Any] | NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool] | None]:
    """The ids as int64; and which of them int64 cannot hold, so that the catalog lacks them, or None."""
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i":
        return np.require(ids, np.int64, ["C", "A"]), None  # native code reads it
    values = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if set(map(type, values)) - {int}:
        plain = [plain_id(value) for value in values]
        for position, value in enumerate(plain):
            if not isinstance(value, int):
                raise _wrong_id(values[position], position, "integers (int64)")
        values = plain
    try:
        return np.array(values, dtype=np.int64), None
    except OverflowError:
        too_large = [not _INT64.min <= value <= _INT64.max for value in values]
        fitting = [0 if out else value for value, out in zip(values, too_large, strict=True)]
        return np.array(fitting, dtype=np.int64), np.array(too_large)


def _as_utf8(ids: Sequence[Any] | NDArray[Any]) -> list[bytes]:
    values = ids.tolist() if isinstance(ids, np.ndarray) else ids
    for position, value in enumerate(values):
        if not isinstance(value, str):
            raise _wrong_id(value, position, "strings")
    # a lone surrogate, which no UTF-8 id holds, becomes bytes that match none
    return [str.encode(value, "utf-8", "surrogatepass") for value in values]


def _wrong_order() -> BundleCorruptError:
    """The error of a bundle that was not verified."""
    return BundleCorruptError(
        "catalog.safetensors: table 'item_ids.order' names rows that do not exist: load with verify=True"
    )


def _wrong_id(value: Any, position: int, right: str) -> InvalidItemIdError | NaNItemIdError:
    if isinstance(value, float | np.floating) and math.isnan(value):
        return NaNItemIdError(
            f"item id at position {position} is NaN, a missing value: drop it from the session"
        )
    return InvalidItemIdError(
        f"item id at position {position} is {described(value)}; the ids of this catalog are {right}"
    )
