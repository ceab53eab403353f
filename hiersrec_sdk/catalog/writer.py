"""The mutable catalog: readers see one snapshot each, and no lock makes them wait for a writer.

The published snapshot, one attribute, is the only truth. A write makes another snapshot from it and publishes that by
one store. Whatever interrupts a write, Ctrl-C, a time limit or a full memory, leaves it made or not made: what it had
appended to shared columns is in no snapshot, and the next write takes other columns. A child that was forked in the
middle of a write goes on with the published snapshot likewise, so that a fork waits for nobody.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle import Bundle
from hiersrec_sdk.catalog.changes import Change, together
from hiersrec_sdk.catalog.delta import Rows
from hiersrec_sdk.catalog.delta_tables import from_tables
from hiersrec_sdk.catalog.item import Item, checked_biases, checked_ids, checked_items
from hiersrec_sdk.catalog.pauses import pause, paused
from hiersrec_sdk.catalog.placement import Placement, placed, placed_by_name, unplaced
from hiersrec_sdk.catalog.reading import Reading
from hiersrec_sdk.catalog.segment import BaseSegment
from hiersrec_sdk.catalog.snapshot import Catalog, FeedPosition
from hiersrec_sdk.catalog.tree import CategoryName, NewCategories
from hiersrec_sdk.encoders.features import checked_vector
from hiersrec_sdk.errors import CatalogChangeError, InvalidArgumentError, UnknownItemError
from hiersrec_sdk.forks import fresh_in_children
from hiersrec_sdk.ranking.backend import UNKNOWN
from hiersrec_sdk.shown import shown

if TYPE_CHECKING:
    from hiersrec_sdk.catalog.feed.follower import Follower

_log = logging.getLogger(__name__)

_LARGEST_LEAVES: Final = 16  # that speak for an item whose category is above the leaf level
_SUPERSEDED_KEPT: Final = 1024  # rows that were superseded and may stay
_TRIES: Final = 100
_MADE_AT_ONCE: Final = 64  # changes of a feed
_BETWEEN_PAUSES: Final = 4  # items that the loops of a change go through
_BIASES_SAMPLED: Final = 100_000  # all of a large table would take long to read

EncodeItems = Callable[[Sequence[Item], Sequence[NDArray[np.int64]]], NDArray[np.float32]]
"""Vectors float32 [items, d] of items, from their metadata and the paths int64 [p, levels] to their leaf categories."""


class MutableCatalog(Reading):
    """The catalog of a recommender: reading goes to the newest snapshot, writing makes another one.

    Methods and attributes of :class:`~hiersrec_sdk.catalog.snapshot.Catalog` read :attr:`current`. Writers wait for
    each other. A call that runs goes on with the snapshot that it began with; the next call sees the change. A row is
    one of a snapshot, and another item's in a later one: whoever asks several times takes :attr:`current` once.

    Attributes:
        current: the newest snapshot.
        follower: what follows a change feed, so that all changes come through it; None: nothing does.
    """

    def __init__(self, catalog: Catalog, bundle: Bundle, encode_items: EncodeItems) -> None:
        self.current: Catalog = catalog
        self._cold_start_bias: float | None = bundle.config.get("cold_start_bias")
        self._encode = encode_items
        self._check_unchanged = bundle.check_unchanged
        # a write from a signal handler must not wait for the one that it interrupts
        self._lock = threading.RLock()
        fresh_in_children(self, "_lock")
        if (changes := bundle.delta) is not None:
            self.current = from_tables(changes, catalog)
        if (feed := bundle.config.get("feed")) is not None:
            self.current = self.current.at(FeedPosition(feed["log"], feed["position"]))
        self.follower: Follower | None = None

    def __len__(self) -> int:
        return len(self.current)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(self._now, name)

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
        self._check_not_following()
        given = [Change("upsert", item.id, item) for item in checked_items(items)]
        if given:
            self._write(lambda now: self._changed(now, given))
            _log.debug("upserted %d items", len(given))
        return len(given)

    def move(self, item: int | str, category: CategoryName) -> None:
        """Put a known item into another category; its vector stays. Other categories no longer list it.

        Raises:
            UnknownItemError: the catalog lacks it.
            UnknownCategoryError: there is no such category, and no parent for a new one.
            AmbiguousCategoryError: several categories have this id.
        """
        self._check_not_following()
        if category is None:
            raise CatalogChangeError(f"item {shown(item)}: no category was given")
        given = [Change("move", each.id, each) for each in checked_items([Item(item, category)])]
        self._write(lambda now: self._changed(now, given))

    def remove(self, ids: Iterable[int | str]) -> int:
        """Take items out; ids that the catalog lacks do nothing. Returns how many items that were."""
        self._check_not_following()
        wanted = checked_ids("remove", ids)
        before, after = self._write(lambda now: _without(now, wanted))
        removed = len(before) - len(after)
        _log.debug("removed %d items", removed)
        return removed

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
        self._check_not_following()
        wanted = checked_ids("set_bias", ids)
        biases = checked_biases(values, len(wanted), ids)
        if wanted:
            self._write(lambda now: self._biased(now, wanted, biases.tolist()))
        _log.debug("set the bias of %d items", len(wanted))

    def make(self, changes: Sequence[Change]) -> dict[str, int]:
        """Make changes of distinct items, all or none. Returns how many items each kind concerned.

        Raises:
            InvalidArgumentError: one that cannot be made, as the method of its kind raises it. Nothing is changed.
        """
        self._check_not_following()
        before, _ = self._write(lambda now: self._changed(now, changes))
        done = Counter(change.kind for change in changes)
        removed = before.rows([change.id for change in changes if change.kind == "remove"])
        done["remove"] = int(np.count_nonzero(removed != UNKNOWN))
        return done

    def apply(
        self,
        changes: Sequence[Change],
        feed: FeedPosition,
        prepare: Callable[[Catalog], object] = lambda now: None,
    ) -> list[tuple[Change, InvalidArgumentError]]:
        """Make the changes of a feed and publish one snapshot with them, at the position ``feed``.

        Args:
            changes: in order; those that cannot be made are skipped.
            feed: the position of the new snapshot.
            prepare: called with the snapshot before anybody sees it.

        Returns:
            Each change that was skipped, with the error that says why.
        """
        skipped: list[tuple[Change, InvalidArgumentError]] = []

        def with_each(now: Catalog, some: Sequence[Change]) -> Catalog:
            try:
                return self._changed(now, some)
            except InvalidArgumentError as error:
                if len(some) > 1:
                    half = len(some) // 2
                    return with_each(with_each(now, some[:half]), some[half:])
                skipped.append((some[0], error))
                return now

        def applied(now: Catalog) -> Catalog:
            skipped.clear()  # the write may be made again
            for some in together(changes, _MADE_AT_ONCE):
                now = with_each(now, some)
                pause()
            now = now.at(feed)
            prepare(now)
            return now

        self._write(applied)
        return skipped

    def check(self, changes: Sequence[Change]) -> None:
        """Check that changes can be made one after the other in the newest snapshot, which stays as it is.

        Raises:
            InvalidArgumentError: one that cannot, as the method of its kind raises it.
        """
        now = self._now
        ids = [change.id for change in changes]
        rows, exported = now.rows(ids), now.base.tables.index.find(ids)
        is_there = {item_id: row != UNKNOWN for item_id, row in zip(ids, rows.tolist(), strict=True)}
        created = now.delta.categories.copy()
        items, origins, placements = [], [], []
        for change, row, base_row in zip(changes, rows.tolist(), exported.tolist(), strict=True):
            item, origin = change.item, row if row != UNKNOWN and is_there[change.id] else base_row
            if change.kind in ("move", "set_bias") and not is_there[change.id]:
                raise UnknownItemError(f"item id {shown(change.id)} is not in the catalog")
            if item is not None:
                placement = _placement(now, item, origin, created)
                keeps_vector = item.vector is None and not item.is_described and is_there[change.id]
                if not keeps_vector:
                    items.append(item)
                    origins.append(origin)
                    placements.append(placement)
            is_there[change.id] = change.kind != "remove"
        self._vectors(now, items, np.array(origins, dtype=np.int64), placements)

    def _check_not_following(self) -> None:
        if self.follower is not None:
            raise CatalogChangeError(
                "the recommender follows a change feed, so its catalog is changed by publish() of what follow() "
                "returned: a change made here alone would be missing from the other replicas"
            )

    def _write(self, change: Callable[[Catalog], Catalog]) -> tuple[Catalog, Catalog]:
        """Publish what ``change`` makes of the newest snapshot; returns that one, and the new one.

        A signal handler may write in the middle: its change comes first, and this one is made again.

        Raises:
            CatalogChangeError: that happens every time, as it does where an item's own code writes.
        """
        self._check_unchanged()
        with self._lock:
            for _ in range(_TRIES):
                before = self.current
                made = change(_appendable(before))
                # One line without a call: nothing, not even a signal handler, comes between check and store.
                self.current, is_made = (made, True) if self.current is before else (self.current, False)
                if is_made:
                    return before, made
        raise CatalogChangeError(
            f"{_TRIES} times, the catalog was changed by the same thread in the middle of this change; nothing was made"
        )

    def _changed(
        self, now: Catalog, changes: Sequence[Change], rows: NDArray[np.int64] | None = None
    ) -> Catalog:
        """The snapshot ``now`` with changes of distinct items, whose ``rows`` may have been looked up before.

        Each item gets a new row, in the order of the changes; one that is removed, or is of the bundle and has another
        bias only, gets none.

        Raises:
            InvalidArgumentError: a change that cannot be made.
        """
        ids = [change.id for change in changes]
        rows = now.rows(ids) if rows is None else rows
        pause()
        n, replaced = len(now.base), []
        items, row_of, biases, base_biases = [], [], [], {}
        for change, row in paused(zip(changes, rows.tolist(), strict=True), _BETWEEN_PAUSES):
            if row == UNKNOWN and change.kind not in ("upsert", "remove"):
                raise UnknownItemError(f"item id {shown(change.id)} is not in the catalog")
            sets_bias = change.kind == "set_bias"
            if sets_bias and row < n:
                base_biases[row] = change.bias
                continue
            if row != UNKNOWN:
                replaced.append(row)
            if change.kind != "remove":
                items.append(change.item or Item(change.id))
                row_of.append(row)
                biases.append(change.bias if sets_bias else _user_bias(now, row))
        base = _with_biases(now.base, base_biases)
        gone = np.array(sorted(replaced), dtype=np.int64)
        if not items:
            return _later(now, base, gone) if base_biases or replaced else now
        created = now.delta.categories.copy()
        added = self._rows_of(now, items, np.array(row_of, dtype=np.int64), biases, created)
        pause()
        return _later(now, base, gone, added, created)

    def _biased(self, now: Catalog, ids: Sequence[Any], biases: Sequence[float]) -> Catalog:
        by_row = dict(zip(_known(now, ids).tolist(), biases, strict=True))
        rows = np.array([*by_row], dtype=np.int64)
        given = zip(now.ids(rows), by_row.values(), strict=True)
        return self._changed(now, [Change("set_bias", item_id, bias=bias) for item_id, bias in given], rows)

    def _rows_of(
        self,
        now: Catalog,
        items: Sequence[Item],
        rows: NDArray[np.int64],
        user_bias: Sequence[float],
        created: NewCategories,
    ) -> Rows:
        """New rows for ``items``, whose rows are ``rows``. A category that one creates is added to ``created``."""
        ids = [item.id for item in items]
        origin = now.origins(rows)
        is_new = rows == UNKNOWN
        if is_new.any():  # or of the bundle, and removed since
            origin[is_new] = now.base.tables.index.find(ids)[is_new]
        source = np.where(is_new, origin, rows)  # the row that says what is not given
        sources = source.tolist()
        each = zip(items, sources, strict=True)
        placements = [_placement(now, item, row, created) for item, row in paused(each, _BETWEEN_PAUSES)]
        vectors = self._vectors(now, items, source, placements)
        pause()
        return Rows(
            ids=ids,
            titles=[
                (now.title(row) if row != UNKNOWN else None) if item.title is None else item.title or None
                for item, row in zip(items, sources, strict=True)
            ],
            placements=placements,
            vectors=vectors,
            model_bias=np.array([self._model_bias(now, row) for row in sources], dtype=np.float32),
            user_bias=np.array(user_bias, dtype=np.float32),
            clicks=np.where(source == UNKNOWN, 0, now.clicks_of(np.maximum(source, 0))),
            origin=origin,
        )

    def _model_bias(self, now: Catalog, row: int) -> float:
        base, n = now.base, len(now.base)
        if row >= n:
            return float(now.delta.columns.model_bias.view()[row - n])
        biases = base.tables.item_bias
        if biases is None:
            return 0.0
        if row != UNKNOWN:
            return float(biases[row])
        if self._cold_start_bias is None:  # then an item without clicks has about the median
            some = biases[:: -(-len(biases) // _BIASES_SAMPLED)]
            self._cold_start_bias = float(np.median(some))
        return self._cold_start_bias

    def _vectors(
        self,
        now: Catalog,
        items: Sequence[Item],
        source: NDArray[np.int64],
        placements: Sequence[Placement],
    ) -> NDArray[np.float32]:
        """float32 [items, d]: ready vectors, those that known items have, the encoder's."""
        vectors = np.empty((len(items), now.dimension), np.float32)
        kept, to_encode = [], []
        each = enumerate(zip(items, source.tolist(), strict=True))
        for at, (item, row) in paused(each, _BETWEEN_PAUSES):
            if item.vector is not None:
                vectors[at] = checked_vector(item.id, "vector", item.vector, vectors.shape[1])
            elif row != UNKNOWN and not item.is_described:
                kept.append(at)
            else:
                to_encode.append(at)
        if kept:
            vectors[kept] = now.vectors(source[kept])
        if to_encode:
            paths = [_paths(now, placements[at]) for at in to_encode]
            vectors[to_encode] = self._encode([items[at] for at in to_encode], paths)
        return vectors


def _appendable(now: Catalog) -> Catalog:
    """The snapshot, in columns to which rows can be appended."""
    delta = now.delta.appendable()
    if delta is now.delta:
        return now
    _log.info("a write was interrupted: the delta segment goes on in other columns")
    base = now.base.followed(delta.origin, np.arange(len(delta)))
    return Catalog(base, delta, now.item_id_type, now.feed)


def _known(now: Catalog, ids: Sequence[Any]) -> NDArray[np.int64]:
    """int64 [len(ids)]: the rows of known items.

    Raises:
        UnknownItemError: the catalog lacks one.
    """
    rows = now.rows(ids)
    if (rows == UNKNOWN).any():
        position = int(np.argmax(rows == UNKNOWN))
        raise UnknownItemError(f"item id {shown(ids[position])} is not in the catalog")
    return rows


def _without(now: Catalog, ids: Sequence[Any]) -> Catalog:
    rows = now.rows(ids)
    rows = np.unique(rows[rows != UNKNOWN])
    return _later(now, now.base, rows) if len(rows) else now


def _with_biases(base: BaseSegment, biases: Mapping[int, float]) -> BaseSegment:
    """The segment with other biases of the user for some rows."""
    if not biases:
        return base
    every = np.zeros(len(base), dtype=np.float32) if base.user_bias is None else base.user_bias.copy()
    every[[*biases]] = [*biases.values()]
    return base.with_user_bias(every if every.any() else None)


def _later(
    now: Catalog,
    base: BaseSegment,
    replaced: NDArray[np.int64],
    added: Rows | None = None,
    created: NewCategories | None = None,
) -> Catalog:
    """The snapshot ``now`` with another ``base``, without the rows ``replaced``, with new rows and categories."""
    n = len(base)
    base, gone = base.without(replaced[replaced < n]), replaced[replaced >= n] - n
    pause()
    delta = now.delta.later(gone, added, created)
    pause()
    base = base.followed(now.delta.origin[gone], np.full(len(gone), UNKNOWN))
    if added is not None:
        # counted from the end: a signal handler may have written before, and then this snapshot is thrown away
        base = base.followed(added.origin, len(delta) - np.arange(len(added.ids), 0, -1))
    if len(delta.superseded) > delta.items + _SUPERSEDED_KEPT:
        rows_before, delta = len(delta), delta.compacted()
        base = base.followed(delta.origin, np.arange(len(delta)))
        _log.info("compacted the delta segment: %d of %d rows are left", len(delta), rows_before)
    return Catalog(base, delta, now.item_id_type, now.feed)


def _user_bias(now: Catalog, row: int) -> float:
    base, n = now.base, len(now.base)
    if row == UNKNOWN:
        return 0.0
    if row >= n:
        return float(now.delta.user_bias[row - n])
    return 0.0 if base.user_bias is None else float(base.user_bias[row])


def _placement(now: Catalog, item: Item, source: int, created: NewCategories) -> Placement:
    """Where ``item`` belongs, whose row is ``source``; a category that it creates is added to ``created``."""
    tree, n = now.tree, len(now.base)
    if item.category is not None:
        return placed_by_name(tree, item, created)
    if source == UNKNOWN:
        return unplaced(tree)
    if source >= n:
        return now.delta.placement(source - n)
    leaf = int(tree.leaf_of(np.array([source]))[0])
    return placed(tree, (tree.depth - 1, leaf)).listed_also(tree, now.base.tables.listed_in(source))


def _paths(now: Catalog, placement: Placement) -> NDArray[np.int64]:
    """int64 [p, levels]: the paths of an item's leaf, or of the largest leaves that it is reached through."""
    tree = now.tree
    leaves = np.arange(placement.start, placement.stop)
    sizes = tree.leaves[leaves, 1] - tree.leaves[leaves, 0]
    return tree.paths(leaves[np.argsort(-sizes, kind="stable")[:_LARGEST_LEAVES]])
