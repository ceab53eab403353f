"""Changes of a catalogue as tables, beside the bundle's own: ``delta.safetensors``.

Only the rows that are items are kept, in their order. Where a row belongs is said once for all that belong there: the
``where`` tables; a place is (where, level, index), of a new category (where, -1, its number).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.catalog.delta import NEW, ChangedCatalog, Changes, Log, Where
from hiersrec_sdk.catalog.snapshot import UNKNOWN, Catalog, id_tables
from hiersrec_sdk.errors import BundleCorruptError, InvalidArgumentError

Tables = dict[str, NDArray[Any]]


def to_tables(catalog: Catalog) -> Tables:
    """The changes of a snapshot; no tables where there are none."""
    if catalog.changes is None:
        return {}
    changes = catalog.changes.compacted()
    log = changes.log
    number = {own: at for at, (own, _) in enumerate(log.categories)}
    kinds = list(log.kinds)
    kinds += [where for _, where in log.categories if where not in set(kinds)]
    place = {where: at for at, where in enumerate(kinds)}
    places = [
        (at, level, number[index] if level == NEW else int(index))
        for at, where in enumerate(kinds)
        for level, index in sorted(where.places, key=str)
    ]
    tables: Tables = {
        "vectors": changes.vectors,
        "bias": log.bias.view(),
        "boost": changes.boost,
        "clicks": changes.clicks,
        "origin": changes.origin,
        "gone": changes.gone,
        "kind": log.kind.view(),
        "where": _table([(each.start, each.stop, each.shelf) for each in kinds], 3),
        "places": _table(places, 3),
        "paths": _table([(at, index) for at, each in enumerate(kinds) for index in each.path], 2),
        "extra": _table([(at, leaf) for at, each in enumerate(kinds) for leaf in each.extra], 2),
        "kind_of_category": np.array([place[where] for _, where in log.categories], dtype=np.int64),
        **_ids("ids", log.ids),
        **_ids("categories", [own for own, _ in log.categories]),
        **StringTable.from_strings(title or "" for title in log.titles).tables("titles"),
    }
    if changes.inputs is not changes.vectors:
        tables["inputs"] = changes.inputs
    if changes.base_boost is not None:
        tables["base_boost"] = changes.base_boost
    return tables


def from_tables(tables: Mapping[str, NDArray[Any]], base: Catalog, log: Log) -> Catalog:
    """The snapshot that :func:`to_tables` was given; fills the empty ``log``. All of it is checked.

    Raises:
        BundleCorruptError: the tables do not fit each other, or the bundle.
    """
    try:
        return _read(tables, base, log)
    except (KeyError, ValueError, IndexError, TypeError, InvalidArgumentError) as error:
        raise BundleCorruptError(
            f"delta.safetensors does not hold changes of this bundle: {error}"
        ) from error


def _read(tables: Mapping[str, NDArray[Any]], base: Catalog, log: Log) -> Catalog:
    n, d, leaves = len(base.item_vectors), base.item_vectors.shape[1], len(base.ranges[-1])

    def column(name: str, dtype: type[np.generic], *shape: int) -> NDArray[Any]:
        table = tables[name]
        if (
            table.dtype != dtype
            or table.ndim != len(shape)
            or any(have != want for have, want in zip(table.shape, shape, strict=True) if want >= 0)
        ):
            raise ValueError(f"table {name!r} is {table.dtype} {list(table.shape)}")
        if dtype is np.float32 and not np.isfinite(table).all():
            raise ValueError(f"table {name!r} holds values that are not finite")
        return table

    def within(name: str, values: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        if len(values) and not start <= values.min() <= values.max() < stop:
            raise ValueError(f"table {name!r} holds values outside [{start}, {stop})")
        return values

    vectors = column("vectors", np.float32, -1, d)
    m = len(vectors)
    inputs = vectors if log.inputs is log.vectors else column("inputs", np.float32, m, d)
    bias, boost = column("bias", np.float32, m), column("boost", np.float32, m)
    base_boost = column("base_boost", np.float32, n) if "base_boost" in tables else None
    clicks = within("clicks", column("clicks", np.int64, m), 0, 1 << 62)
    gone = within("gone", column("gone", np.int64, -1), 0, n)
    origin = within("origin", column("origin", np.int64, m), UNKNOWN, n)
    if (np.diff(gone) <= 0).any() or not np.isin(origin[origin != UNKNOWN], gone).all():
        raise ValueError("an added item has a row of the bundle too")
    where = column("where", np.int64, -1, 3)
    kind = within("kind", column("kind", np.int64, m), 0, len(where))
    ids, categories = _read_ids(tables, "ids"), _read_ids(tables, "categories")
    titles = _strings(tables, "titles")
    of_category = within(
        "kind_of_category", column("kind_of_category", np.int64, len(categories)), 0, len(where)
    )
    if not m == len(ids) == len(titles) == len(set(ids)) or len(categories) != len(set(categories)):
        raise ValueError("ids that are not distinct, or not one for each row")
    known = base.rows(ids) if ids else np.empty(0, np.int64)  # an id of another type raises
    if not np.isin(known[known != UNKNOWN], gone).all():
        raise ValueError("an added item is an item of the bundle too")
    places: dict[int, set[tuple[int, int | str]]] = {}
    for at, level, index in column("places", np.int64, -1, 3).tolist():
        if not (0 <= at < len(where) and NEW <= level < len(base.ranges)):
            raise ValueError("a place that is none")
        if not 0 <= index < (len(categories) if level == NEW else len(base.ranges[level])):
            raise ValueError("a place that is none")
        places.setdefault(at, set()).add((level, categories[index] if level == NEW else index))
    paths, extra = (_lists(name, column(name, np.int64, -1, 2), len(where)) for name in ("paths", "extra"))
    kinds = [
        Where(
            tuple(paths.get(at, ())),
            frozenset(places.get(at, ())),
            start,
            stop,
            shelf,
            tuple(extra.get(at, ())),
        )
        for at, (start, stop, shelf) in enumerate(where.tolist())
    ]
    for each in kinds:
        levels = [len(ranges) for ranges in base.ranges[: len(each.path)]]
        if any(not 0 <= start <= stop <= leaves for start, stop in each.leaves()) or each.shelf < 0:
            raise ValueError("leaf categories that the bundle lacks")
        if len(levels) < len(each.path) or any(
            not 0 <= at < size for at, size in zip(each.path, levels, strict=True)
        ):
            raise ValueError("a path that the tree lacks")
    log.categories += [(own, kinds[at]) for own, at in zip(categories, of_category.tolist(), strict=True)]
    log.extend(
        ids,
        [title or None for title in titles],
        [kinds[at] for at in kind.tolist()],
        vectors,
        inputs,
        bias,
        boost,
        clicks,
        origin,
    )
    return ChangedCatalog.of(base, Changes.none(log, n).later(gone, base_boost))


def _table(rows: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _lists(name: str, pairs: NDArray[np.int64], count: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for at, value in pairs.tolist():
        if not 0 <= at < count:
            raise ValueError(f"table {name!r} is of a place that is none")
        found.setdefault(at, []).append(value)
    return found


def _ids(name: str, ids: list[Any]) -> Tables:
    return id_tables(name, ids) if ids else {}


def _read_ids(tables: Mapping[str, NDArray[Any]], name: str) -> list[int | str]:
    if f"{name}.offsets" in tables:
        return [*_strings(tables, name)]
    found: list[int | str] = tables[name].astype(np.int64, casting="safe").tolist() if name in tables else []
    return found


def _strings(tables: Mapping[str, NDArray[Any]], name: str) -> list[str]:
    strings = StringTable(tables[f"{name}.bytes"], tables[f"{name}.offsets"])
    offsets = strings.offsets
    if (
        offsets.dtype != np.int64
        or offsets[0] != 0
        or offsets[-1] != len(strings.data)
        or (np.diff(offsets) < 0).any()
    ):
        raise ValueError(f"table {name!r} does not run up to its end")
    return strings.take(np.arange(len(strings)))
