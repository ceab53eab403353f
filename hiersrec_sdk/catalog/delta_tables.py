"""The changes of a catalog as tables, beside the bundle's own: ``delta.safetensors``.

Only live delta rows are kept, in their order. Each distinct placement is said once, in the ``placement`` tables; a
category is (placement, level, index), or (placement, -1, number) for a new one. A new category is its id and the
category of the bundle that it lies below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.schema import MOST_CLICKS
from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.catalog.delta import DeltaColumns, DeltaSegment, Rows
from hiersrec_sdk.catalog.ids import id_tables
from hiersrec_sdk.catalog.placement import NO_LEAF, Placement, no_leaf
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import NEW, CategoryTree, NewCategories, Node
from hiersrec_sdk.errors import BundleCorruptError
from hiersrec_sdk.ranking.arrays import LARGEST, are_bounded
from hiersrec_sdk.ranking.backend import UNKNOWN

_MOST_REACHED: Final = 1 << 24  # some seconds of work, and 200 MB

Tables = dict[str, NDArray[Any]]


def to_tables(catalog: Catalog) -> Tables:
    """The changes of a snapshot; no tables where there are none."""
    base, delta = catalog.base, catalog.delta
    if not catalog.has_changes:
        return {}
    delta = delta.compacted()
    columns = delta.columns
    placements, created = columns.placements, delta.categories
    categories = [
        (at, *node) for at, placement in enumerate(placements) for node in sorted(placement.categories)
    ]
    tables: Tables = {
        "vectors": delta.vectors,
        "model_bias": columns.model_bias.view(),
        "user_bias": delta.user_bias,
        "clicks": delta.clicks,
        "origin": delta.origin,
        "deleted": base.deleted,
        "placement_id": columns.placement_id.view(),
        "placement": _table([(each.start, each.stop, each.leaf) for each in placements], 3),
        "placement.categories": _table(categories, 3),
        "placement.paths": _table(
            [(at, index) for at, each in enumerate(placements) for index in each.path], 2
        ),
        "placement.extra": _table(
            [(at, leaf) for at, each in enumerate(placements) for leaf in each.extra], 2
        ),
        "category_parents": _table(created.parents, 2),
        **_ids("item_ids", columns.ids),
        **_ids("category_ids", created.ids),
        **StringTable.from_strings(title or "" for title in columns.titles).tables("titles"),
    }
    if base.user_bias is not None:
        tables["base_user_bias"] = base.user_bias
    return tables


def from_tables(tables: Mapping[str, NDArray[Any]], catalog: Catalog) -> Catalog:
    """The snapshot that :func:`to_tables` was given, all of it checked; ``catalog`` as it was exported.

    Raises:
        BundleCorruptError: the tables do not fit each other, or the bundle.
    """
    try:
        return _read(tables, catalog)
    except KeyError as error:
        cause: object = f"table {error} is missing"
    except (ArithmeticError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        cause = error
    raise BundleCorruptError(f"delta.safetensors does not hold changes of this bundle: {cause}")


def _read(tables: Mapping[str, NDArray[Any]], catalog: Catalog) -> Catalog:
    base, tree = catalog.base, catalog.tree
    n, d = len(base), catalog.dimension

    def column(name: str, dtype: type[np.generic], *shape: int) -> NDArray[Any]:
        table = tables[name]
        fits = table.dtype == dtype and table.ndim == len(shape)
        if not fits or any(have != want for have, want in zip(table.shape, shape, strict=True) if want >= 0):
            raise ValueError(f"table {name!r} is {table.dtype} {list(table.shape)}")
        if dtype is np.float32 and not are_bounded(table):
            raise ValueError(f"table {name!r} holds values that are NaN, infinite or above {LARGEST:g}")
        return table

    def within(name: str, values: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
        if len(values) and not start <= values.min() <= values.max() < stop:
            raise ValueError(f"table {name!r} holds values outside [{start}, {stop})")
        return values

    vectors = column("vectors", np.float32, -1, d)
    m = len(vectors)
    deleted = within("deleted", column("deleted", np.int64, -1), 0, n)
    origin = within("origin", column("origin", np.int64, m), UNKNOWN, n)
    if (np.diff(deleted) <= 0).any() or not np.isin(origin[origin != UNKNOWN], deleted).all():
        raise ValueError("an item of the delta segment has a live row of the bundle too")
    ids, titles = _read_ids(tables, "item_ids"), _strings(tables, "titles")
    if not m == len(ids) == len(titles) == len(set(ids)):
        raise ValueError("ids that are not distinct, or not one for each row")
    known = base.tables.index.find(ids) if ids else np.empty(0, np.int64)  # an id of another type raises
    if not np.isin(known[known != UNKNOWN], deleted).all():
        raise ValueError("an item of the delta segment is a live item of the bundle too")
    spans = column("placement", np.int64, -1, 3)
    placement_id = within("placement_id", column("placement_id", np.int64, m), 0, len(spans))
    created = _created(_read_ids(tables, "category_ids"), column("category_parents", np.int64, -1, 2), tree)
    keys: dict[int, set[Node]] = {}
    for at, level, index in column("placement.categories", np.int64, -1, 3).tolist():
        if not (0 <= at < len(spans) and NEW <= level < tree.depth):
            raise ValueError("a category that does not exist")
        if not 0 <= index < (len(created) if level == NEW else len(tree.ranges[level])):
            raise ValueError("a category that does not exist")
        keys.setdefault(at, set()).add((level, index))
    paths = _lists("placement.paths", column("placement.paths", np.int64, -1, 2), len(spans))
    extra = _lists("placement.extra", column("placement.extra", np.int64, -1, 2), len(spans))
    placements = [
        Placement(
            path=tuple(paths.get(at, ())),
            categories=frozenset(keys.get(at, ())),
            start=start,
            stop=stop,
            leaf=leaf if leaf < NO_LEAF else no_leaf(paths.get(at, ())),
            extra=tuple(extra.get(at, ())),
        )
        for at, (start, stop, leaf) in enumerate(spans.tolist())
    ]
    for placement in placements:
        _check(placement, [len(ranges) for ranges in tree.ranges])
    reached = sum(placement.stop - placement.start + len(placement.extra) for placement in placements)
    if reached > _MOST_REACHED:
        raise ValueError(
            f"placements that are reached through more than {_MOST_REACHED:,} leaf categories together"
        )
    columns = DeltaColumns(d)
    columns.append(
        Rows(
            ids=ids,
            titles=[title or None for title in titles],
            placements=[placements[at] for at in placement_id.tolist()],
            vectors=vectors,
            model_bias=column("model_bias", np.float32, m),
            user_bias=column("user_bias", np.float32, m),
            clicks=within("clicks", column("clicks", np.int64, m), 0, MOST_CLICKS),
            origin=origin,
        )
    )
    user_bias = column("base_user_bias", np.float32, n) if "base_user_bias" in tables else None
    delta = DeltaSegment.of(columns, n, tree.depth, created)
    base = base.without(deleted).followed(origin, np.arange(m)).with_user_bias(user_bias)
    return Catalog(base, delta, catalog.item_id_type)


def _created(ids: Sequence[int | str], parents: NDArray[np.int64], tree: CategoryTree) -> NewCategories:
    if len(ids) != len(parents) or any(isinstance(each, str) != (tree.id_type == "string") for each in ids):
        raise ValueError("ids of new categories that do not fit the others")
    created = NewCategories()
    for category_id, (level, index) in zip(ids, parents.tolist(), strict=True):
        if not (0 <= level < tree.depth and 0 <= index < len(tree.ranges[level])):
            raise ValueError("a category that does not exist")
        created.add((level, index), category_id)
    if len({*zip(created.parents, created.ids, strict=True)}) < len(created):
        raise ValueError("new categories that are not distinct")
    return created


def _check(placement: Placement, sizes: Sequence[int]) -> None:
    leaves, path = sizes[-1], placement.path
    if not 0 <= placement.start <= placement.stop <= leaves or placement.leaf < 0:
        raise ValueError("leaf categories that the bundle lacks")
    if any(not 0 <= leaf < leaves for leaf in placement.extra):
        raise ValueError("leaf categories that the bundle lacks")
    if len(path) > len(sizes) or any(not 0 <= at < size for at, size in zip(path, sizes, strict=False)):
        raise ValueError("a path that the tree lacks")


def _table(rows: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _lists(name: str, pairs: NDArray[np.int64], count: int) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for at, value in pairs.tolist():
        if not 0 <= at < count:
            raise ValueError(f"table {name!r} names a placement that does not exist")
        found.setdefault(at, []).append(value)
    return found


def _ids(name: str, ids: list[Any]) -> Tables:
    return id_tables(name, ids) if ids else {}


def _read_ids(tables: Mapping[str, NDArray[Any]], name: str) -> list[int | str]:
    if f"{name}.offsets" in tables:
        return [*_strings(tables, name)]
    if name not in tables:
        return []
    table = tables[name]
    if table.dtype != np.int64 or table.ndim != 1:
        raise ValueError(f"table {name!r} is {table.dtype} {list(table.shape)}")
    found: list[int | str] = table.tolist()
    return found


def _strings(tables: Mapping[str, NDArray[Any]], name: str) -> list[str]:
    strings = StringTable(tables[f"{name}.bytes"], tables[f"{name}.offsets"], name)
    strings.check()
    return strings.take(np.arange(len(strings)))
