"""Changes of a catalogue as tables, beside the bundle's own: ``changes.safetensors``.

Only the rows that are items are kept, in their order. Where a row belongs is said once for all that belong there: the
``where`` tables; a place is (where, level, index), of a new category (where, -1, its number).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog import Catalog, id_tables
from hiersrec_sdk.changes import NEW, ChangedCatalog, Changes, Log, Where
from hiersrec_sdk.errors import BundleCorruptError
from hiersrec_sdk.tables import StringTable

Tables = dict[str, NDArray[Any]]


def to_tables(catalog: Catalog) -> Tables:
    """The changes of a snapshot; no tables where there are none."""
    changes = catalog.changes
    if changes is None:
        return {}
    log = changes.log
    rows = np.flatnonzero(changes.alive)
    categories = list(log.new_categories)
    number = {own: at for at, own in enumerate(categories)}
    kinds: dict[Where, int] = {}
    of_row = [kinds.setdefault(log.where[row], len(kinds)) for row in rows.tolist()]
    of_category = [kinds.setdefault(where, len(kinds)) for where in log.new_categories.values()]
    places = [
        (at, level, number[index] if level == NEW else index)
        for where, at in kinds.items()
        for level, index in sorted(where.places, key=str)
    ]
    extra = [(at, leaf) for where, at in kinds.items() for leaf in where.extra]
    tables: Tables = {
        "vectors": changes.vectors[rows],
        "bias": changes.bias[rows],
        "clicks": changes.clicks[rows],
        "origin": changes.origin[rows],
        "where_of_row": np.array(of_row, dtype=np.int64),
        "where": np.array([(each.start, each.stop, each.shelf) for each in kinds], dtype=np.int64).reshape(-1, 3),
        "places": np.array(places, dtype=np.int64).reshape(-1, 3),
        "extra": np.array(extra, dtype=np.int64).reshape(-1, 2),
        "where_of_category": np.array(of_category, dtype=np.int64),
        "gone": changes.gone,
        **_ids("ids", [log.ids[row] for row in rows.tolist()]),
        **_ids("categories", categories),
        **StringTable.from_strings(log.titles[row] or "" for row in rows.tolist()).tables("titles"),
    }
    if changes.inputs is not changes.vectors:
        tables["inputs"] = changes.inputs[rows]
    if catalog.bias is not None and catalog.bias is not catalog.base.bias:
        tables["base_bias"] = catalog.bias
    return tables


def from_tables(tables: Mapping[str, NDArray[Any]], base: Catalog, log: Log) -> Catalog:
    """The snapshot that :func:`to_tables` was given; fills the empty ``log``.

    Raises:
        BundleCorruptError: the tables do not fit each other, or the bundle.
    """
    try:
        return _read(tables, base, log)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise BundleCorruptError(f"changes.safetensors does not hold changes of this bundle: {error!r}") from error


def _read(tables: Mapping[str, NDArray[Any]], base: Catalog, log: Log) -> Catalog:
    n, d, leaves = len(base.output_vectors), base.output_vectors.shape[1], len(base.ranges[-1])
    vectors, gone, origin, bias = tables["vectors"], tables["gone"], tables["origin"], tables["bias"]
    ids, categories = _read_ids(tables, "ids"), _read_ids(tables, "categories")
    titles = StringTable.from_tables(tables, "titles")
    where_of_row, where_of_category = tables["where_of_row"].tolist(), tables["where_of_category"].tolist()
    m = len(vectors)
    if titles is None or not m == len(bias) == len(ids) == len(titles) == len(origin) == len(where_of_row):
        raise ValueError("columns of different lengths")
    if vectors.shape != (m, d) or len(categories) != len(where_of_category):
        raise ValueError("a table has a wrong shape")
    if len(gone) and not (gone[0] >= 0 and gone[-1] < n and (np.diff(gone) > 0).all()):
        raise ValueError("rows that are gone are no rising rows of the bundle")
    places: dict[int, set[tuple[int, int | str]]] = {}
    for at, level, index in tables["places"].tolist():
        places.setdefault(at, set()).add((level, categories[index] if level == NEW else index))
    extra: dict[int, list[int]] = {}
    for at, leaf in tables["extra"].tolist():
        extra.setdefault(at, []).append(leaf)
    kinds = [
        Where(frozenset(places.get(at, ())), start, stop, shelf, tuple(extra.get(at, ())))
        for at, (start, stop, shelf) in enumerate(tables["where"].tolist())
    ]
    if any(not 0 <= start <= stop <= leaves for each in kinds for start, stop in each.leaves()):
        raise ValueError("leaf categories that the bundle lacks")
    log.new_categories.update(zip(categories, (kinds[at] for at in where_of_category), strict=True))
    log.extend(
        ids,
        [title or None for title in titles.take(np.arange(m))],
        [kinds[at] for at in where_of_row],
        vectors,
        tables["inputs"] if log.inputs is not log.vectors else None,
        tables["clicks"],
        origin,
    )
    own_bias: NDArray[np.float32] | None = tables.get("base_bias", base.bias)
    if own_bias is not None and own_bias.shape != (n,):
        raise ValueError("a bias of the bundle's rows of another length")
    nothing_gone = Changes.of(log, n, np.array(bias, dtype=np.float32), np.ones(m, dtype=bool), gone[:0], None)
    return ChangedCatalog(base, nothing_gone.without(gone), own_bias)


def _ids(name: str, ids: list[Any]) -> Tables:
    return id_tables(name, ids) if ids else {}


def _read_ids(tables: Mapping[str, NDArray[Any]], name: str) -> list[int | str]:
    strings = StringTable.from_tables(tables, name)
    if strings is not None:
        return [*strings.take(np.arange(len(strings)))]
    found: list[int | str] = tables[name].tolist() if name in tables else []
    return found
