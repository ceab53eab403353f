"""The mutable catalog: readers see one snapshot each, and never wait for a writer."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle import Bundle
from hiersrec_sdk.catalog.delta import Rows
from hiersrec_sdk.catalog.delta_tables import from_tables
from hiersrec_sdk.catalog.item import Item, checked_biases, checked_ids, checked_items
from hiersrec_sdk.catalog.placement import Placement, placed, placed_by_name, unplaced
from hiersrec_sdk.catalog.reading import Reading
from hiersrec_sdk.catalog.segment import BaseSegment
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import CategoryName, NewCategories
from hiersrec_sdk.encoders.features import checked_vector
from hiersrec_sdk.errors import CatalogChangeError, UnknownItemError
from hiersrec_sdk.ranking.backend import UNKNOWN
from hiersrec_sdk.shown import shown

_log = logging.getLogger(__name__)

_LARGEST_LEAVES: Final = 16  # that speak for an item whose category is above the leaf level
_SUPERSEDED_KEPT: Final = 1024  # rows that were superseded and may stay
_BIASES_SAMPLED: Final = 100_000  # all of a large table would take long to read

EncodeItems = Callable[[Sequence[Item], Sequence[NDArray[np.int64]]], NDArray[np.float32]]
"""Vectors float32 [items, d] of items, from their metadata and the paths int64 [p, levels] to their leaf categories."""


class MutableCatalog(Reading):
    """The catalog of a recommender: reading goes to the newest snapshot, writing makes another one.

    Methods and attributes of :class:`~hiersrec_sdk.catalog.snapshot.Catalog` read :attr:`current`. Writers wait for
    each other. A call that runs goes on with the snapshot that it began with; the next call sees the change.

    Attributes:
        current: the newest snapshot.
    """

    def __init__(self, catalog: Catalog, bundle: Bundle, encode_items: EncodeItems) -> None:
        self.current: Catalog = catalog
        self._cold_start: float | None = bundle.config.get("cold_start_bias")
        self._encode = encode_items
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=partial(_unlock_after_fork, weakref.ref(self)))
        if (changes := bundle.delta) is not None:
            self.current = from_tables(changes, catalog)

    def __len__(self) -> int:
        return len(self.current)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(self.current, name)

    def upsert(self, items: Iterable[Item | Mapping[str, Any]]) -> int:
        """Add new items and change known ones, all or none; the next call can recommend them.

        Args:
            items: :class:`Item`, or mappings with its fields; if an id comes twice, the last one counts.

        Returns:
            How many items that were.

        Raises:
            CatalogChangeError: an item that cannot be encoded; names it. Nothing is changed.
            UnknownCategoryError, AmbiguousCategoryError: an item that cannot be placed; names it. Nothing is changed.
            InvalidItemIdError, NaNItemIdError: an id is not of the catalog's type.

        >>> recommender.catalog.upsert([{"id": "sku-7", "category": "Boots", "text": "red boots"}])  # doctest: +SKIP
        1
        """
        with self._lock:
            return self._upsert(items)

    def move(self, item: int | str, category: CategoryName) -> None:
        """Put a known item into another category; its vector stays. Other categories no longer list it.

        Raises:
            UnknownItemError: the catalog lacks it.
            UnknownCategoryError: there is no such category, and no parent for a new one.
            AmbiguousCategoryError: several categories have this id.
        """
        if category is None:
            raise CatalogChangeError(f"item {shown(item)}: no category was given")
        with self._lock:
            if self.current.rows([item])[0] == UNKNOWN:
                raise UnknownItemError(f"item id {shown(item)} is not in the catalog")
            self._upsert([Item(item, category)])

    def remove(self, ids: Iterable[int | str]) -> int:
        """Take items out; ids that the catalog lacks do nothing. Returns how many items that were."""
        wanted = checked_ids("remove", ids)
        with self._lock:
            rows = self.current.rows(wanted)
            rows = np.unique(rows[rows != UNKNOWN])
            if len(rows):
                self._publish(self.current.base, rows)
        _log.debug("removed %d items", len(rows))
        return len(rows)

    def set_bias(self, ids: Iterable[int | str], values: float | Sequence[float] | NDArray[Any]) -> None:
        """Set an item bias beside the model's own, whatever the session: to promote items, or to bury them.

        It is added to their scores; 0 takes it back. Popular items, which answer sessions without a known item, go by
        clicks alone.

        Args:
            ids: of known items.
            values: one for all, or one for each; scores are of the order of 10, and differ by 1 where one item is about
                three times as probable as another.

        Raises:
            UnknownItemError: the catalog lacks one. Nothing is changed.
            CatalogChangeError: values that are not finite numbers, or not one for each id.
        """
        wanted = checked_ids("set_bias", ids)
        biases = checked_biases(values, len(wanted))
        with self._lock:
            now = self.current
            rows = now.rows(wanted)
            if (rows == UNKNOWN).any():
                position = int(np.argmax(rows == UNKNOWN))
                raise UnknownItemError(f"item id {shown(wanted[position])} is not in the catalog")
            n, by_row = len(now.base), dict(zip(rows.tolist(), biases.tolist(), strict=True))
            changed, bias = (
                np.array([*by_row], dtype=np.int64),
                np.array([*by_row.values()], dtype=np.float32),
            )
            in_delta, base = changed >= n, now.base
            if not in_delta.all():
                every = np.zeros(n, dtype=np.float32) if base.user_bias is None else base.user_bias.copy()
                every[changed[~in_delta]] = bias[~in_delta]
                base = base.with_user_bias(every)
            columns = now.delta.columns
            columns.append(columns.some(changed[in_delta] - n, bias[in_delta]))
            self._publish(base, changed[in_delta])
        _log.debug("set the bias of %d items", len(wanted))

    def _upsert(self, items: Iterable[Item | Mapping[str, Any]]) -> int:
        given = checked_items(items)
        if not given:
            return 0
        now, ids = self.current, [item.id for item in given]
        rows = now.rows(ids)
        origin = np.array([self._origin(int(row)) for row in rows], dtype=np.int64)
        # of the bundle, and removed since
        origin = np.where(rows == UNKNOWN, now.base.tables.index.find(ids), origin)
        source = np.where(rows == UNKNOWN, origin, rows)  # the row that says what is not given
        created = now.delta.categories.copy()
        placements = [
            self._placement(item, int(row), created) for item, row in zip(given, source, strict=True)
        ]
        added = Rows(
            ids=ids,
            titles=[
                item.title or (now.title(int(row)) if row != UNKNOWN else None)
                for item, row in zip(given, source, strict=True)
            ],
            placements=placements,
            vectors=self._vectors(given, source, placements),
            model_bias=np.array([self._model_bias(row) for row in source.tolist()], dtype=np.float32),
            user_bias=np.array([self._user_bias(row) for row in rows.tolist()], dtype=np.float32),
            clicks=np.where(source == UNKNOWN, 0, now.clicks_of(np.maximum(source, 0))),
            origin=origin,
        )
        columns = now.delta.columns
        columns.categories = created
        columns.append(added)
        self._publish(now.base, rows[rows != UNKNOWN])
        _log.debug("upserted %d items, %d of them new", len(given), np.count_nonzero(rows == UNKNOWN))
        return len(given)

    def _publish(self, base: BaseSegment, replaced: NDArray[np.int64]) -> None:
        """Make the snapshot that has the columns' newest rows, and not the ``replaced`` ones, of the catalog."""
        now, n = self.current, len(self.current.base)
        delta = now.delta.later(replaced[replaced >= n] - n)
        if len(delta.superseded) > delta.items + _SUPERSEDED_KEPT:
            rows_before, delta = len(delta), delta.compacted()
            _log.info("compacted the delta segment: %d of %d rows are left", len(delta), rows_before)
        self.current = Catalog(base.without(replaced[replaced < n]), delta, now.item_id_type)

    def _origin(self, row: int) -> int:
        """The bundle's row of the item in ``row``; -1 where it has none."""
        n = len(self.current.base)
        return row if row < n else int(self.current.delta.origin[row - n])

    def _model_bias(self, row: int) -> float:
        base, n = self.current.base, len(self.current.base)
        if row == UNKNOWN:
            return self._cold_start_bias
        if row >= n:
            return float(self.current.delta.columns.model_bias.view()[row - n])
        return 0.0 if base.tables.item_bias is None else float(base.tables.item_bias[row])

    def _user_bias(self, row: int) -> float:
        base, n = self.current.base, len(self.current.base)
        if row == UNKNOWN:
            return 0.0
        if row >= n:
            return float(self.current.delta.user_bias[row - n])
        return 0.0 if base.user_bias is None else float(base.user_bias[row])

    @cached_property
    def _cold_start_bias(self) -> float:
        """Item bias of an item without clicks; about the median where the bundle has none of its own."""
        measured, biases = self._cold_start, self.current.base.tables.item_bias
        if biases is None:
            return 0.0
        return float(
            np.median(biases[:: -(-len(biases) // _BIASES_SAMPLED)]) if measured is None else measured
        )

    def _placement(self, item: Item, source: int, created: NewCategories) -> Placement:
        """Where ``item`` belongs, whose row is ``source``; a category that it creates is added to ``created``."""
        now, n = self.current, len(self.current.base)
        tree = now.tree
        if item.category is not None:
            return placed_by_name(tree, item, created)
        if source == UNKNOWN:
            return unplaced(tree)
        if source >= n:
            return now.delta.placement(source - n)
        leaf = int(tree.leaf_of(np.array([source]))[0])
        return placed(tree, (tree.depth - 1, leaf)).listed_also(tree, now.base.tables.listed_in(source))

    def _vectors(
        self, items: Sequence[Item], source: NDArray[np.int64], placements: Sequence[Placement]
    ) -> NDArray[np.float32]:
        """float32 [items, d]: ready vectors, those that known items have, the encoder's."""
        vectors = np.empty((len(items), self.current.dimension), np.float32)
        to_encode = []
        for at, (item, row) in enumerate(zip(items, source.tolist(), strict=True)):
            if item.vector is not None:
                vectors[at] = checked_vector(item.id, "vector", item.vector, vectors.shape[1])
            elif row != UNKNOWN and not item.is_described:
                vectors[at] = self.current.vectors(np.array([row]))[0]
            else:
                to_encode.append(at)
        if to_encode:
            paths = [self._paths(placements[at]) for at in to_encode]
            vectors[to_encode] = self._encode([items[at] for at in to_encode], paths)
        return vectors

    def _paths(self, placement: Placement) -> NDArray[np.int64]:
        """int64 [p, levels]: the paths of an item's leaf, or of the largest leaves that it is reached through."""
        tree = self.current.tree
        leaves = np.arange(placement.start, placement.stop)
        sizes = tree.leaves[leaves, 1] - tree.leaves[leaves, 0]
        return tree.paths(leaves[np.argsort(-sizes, kind="stable")[:_LARGEST_LEAVES]])


def _unlock_after_fork(catalog: weakref.ref[MutableCatalog]) -> None:
    """In a forked child: whoever wrote is not there, and would hold the lock for ever."""
    there = catalog()
    if there is not None:
        there._lock = threading.Lock()
