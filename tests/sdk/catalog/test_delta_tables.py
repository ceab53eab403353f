"""delta.safetensors: whatever is in its tables, they are refused by name, or make a catalog that can be used."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.catalog import delta_tables
from hiersrec_sdk.catalog.delta_tables import from_tables, to_tables
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.errors import BundleCorruptError
from tests.sdk.bundles import make_shop

Tables = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Changed:
    """A catalog as it was exported, and the tables of its changes."""

    exported: Catalog
    tables: Tables


@cache
def changed(id_type: str) -> Changed:
    shop = make_shop(id_type, covisitation=True)
    with TemporaryDirectory() as folder:
        recommender = Recommender.load(shop.write(Path(folder) / "bundle"))
    exported = recommender.catalog.current
    new: list[Any] = [-7, -8, -9] if id_type == "int64" else ["größe-7", "neu", "ü"]
    vector = [0.5] * 6
    recommender.catalog.upsert(
        [
            Item(new[0], [*shop.category_paths[1, 1], "new"], vector=vector, title="Größe"),
            Item(new[1], shop.category_paths[0, 0], vector=vector),
            Item(new[2], vector=vector),
            Item(shop.ids[4], title="Neu"),
            Item(shop.ids[0]),
        ]
    )
    recommender.catalog.remove(shop.ids[8:9])
    recommender.catalog.set_bias(shop.ids[10:12], 0.25)
    return Changed(exported, to_tables(recommender.catalog.current))


def use(catalog: Catalog) -> None:
    """Ask for all that the changes have a part in."""
    every = catalog.live_rows()
    ids = catalog.ids(every)
    assert catalog.rows(ids).tolist() == every.tolist()
    [catalog.title(int(row)) for row in every]
    for level in range(catalog.tree.depth):
        catalog.categories_of(every, level)
    catalog.vectors(every)
    catalog.biases(every)
    to_tables(catalog)


def change_value(table: NDArray[Any], at: int, value: float) -> NDArray[Any]:
    table = table.copy()
    if table.size:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a value that the type does not have
            table.reshape(-1)[at % table.size] = np.array(value).astype(table.dtype)
    return table


CHANGES: list[Callable[[NDArray[Any], int, int], NDArray[Any]]] = [
    lambda table, at, value: change_value(table, at, value),
    lambda table, at, value: change_value(change_value(table, at, value), at + 1, value),
    lambda table, at, value: np.delete(table, at % max(1, len(table)), axis=0) if len(table) else table,
    lambda table, at, value: np.concatenate([table, table[:1]]),
    lambda table, at, value: table[::-1].copy(),
    lambda table, at, value: table[:0],
    lambda table, at, value: table[..., None],
    lambda table, at, value: table.reshape(-1),
    lambda table, at, value: table.reshape(-1)[:1].reshape(()) if table.size else table,
    *(
        lambda table, at, value, dtype=dtype: table.astype(dtype)
        for dtype in (np.float32, np.float64, np.int64, np.int32, np.uint64, np.uint8, np.bool, np.float16)
    ),
]
VALUES = [0, 1, -1, 2, 60, 61, 127, 128, 195, 255, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63)]


@settings(deadline=None, max_examples=400)
@given(
    id_type=st.sampled_from(["int64", "string"]),
    name=st.integers(0, 99),
    how=st.integers(0, len(CHANGES)),
    at=st.integers(0, 200),
    value=st.sampled_from(VALUES),
)
def test_tables_of_any_kind(id_type: str, name: int, how: int, at: int, value: int) -> None:
    what = changed(id_type)
    tables = dict(what.tables)
    table = sorted(tables)[name % len(tables)]
    if how == len(CHANGES):
        del tables[table]
    else:
        tables[table] = CHANGES[how](tables[table], at, value)
    with suppress(BundleCorruptError):
        use(from_tables(tables, what.exported))


@pytest.mark.parametrize("id_type", ["int64", "string"])
def test_what_was_written_is_read(id_type: str) -> None:
    what = changed(id_type)
    found = from_tables(what.tables, what.exported)
    use(found)
    again = to_tables(found)
    assert again.keys() == what.tables.keys()
    assert all(np.array_equal(table, what.tables[name]) for name, table in again.items())


@pytest.mark.parametrize("name", sorted(changed("string").tables))
def test_a_table_is_missing(name: str) -> None:
    what = changed("string")
    tables = {other: table for other, table in what.tables.items() if other != name}
    if name == "base_user_bias":  # which is optional
        from_tables(tables, what.exported)
        return
    with pytest.raises(BundleCorruptError, match=r"delta\.safetensors does not hold changes of this bundle"):
        from_tables(tables, what.exported)


@pytest.mark.parametrize("table", ["item_ids", "titles", "category_ids"])
def test_strings_that_are_not_utf8(table: str) -> None:
    what = changed("string")
    strings = what.tables[f"{table}.bytes"]
    for wrong in (np.full_like(strings, 0xFF), change_value(strings, 0, 0x80)):
        with pytest.raises(BundleCorruptError, match=rf"table '{table}\.bytes' is not UTF-8"):
            from_tables({**what.tables, f"{table}.bytes": wrong}, what.exported)


def test_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(delta_tables, "DeltaColumns", fail)
    what = changed("string")
    with pytest.raises(BundleCorruptError, match="none left"):
        from_tables(what.tables, what.exported)


@pytest.mark.slow
def test_placements_that_reach_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is that of all leaf categories of all placements: a small file could ask for hours of it."""
    what = changed("string")
    spans = np.stack([np.zeros(200_000, np.int64), np.full(200_000, 9), 1_000 + np.arange(200_000)], axis=1)
    tables = {**what.tables, "placement": np.concatenate([what.tables["placement"], spans])}
    from_tables(tables, what.exported)
    monkeypatch.setattr(delta_tables, "_MOST_REACHED", 1_000_000)
    with pytest.raises(
        BundleCorruptError, match="reached through more than 1,000,000 leaf categories together"
    ):
        from_tables(tables, what.exported)
