"""A catalogue that changes while it is served: readers see one snapshot each, and never wait for a writer."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.folder import read_file
from hiersrec_sdk.catalog.delta import NEW, ChangedCatalog, Changes, Log, Where
from hiersrec_sdk.catalog.delta_tables import from_tables
from hiersrec_sdk.catalog.snapshot import UNKNOWN, Catalog
from hiersrec_sdk.encoders.features import number_bins, token_table
from hiersrec_sdk.encoders.session_encoder import load_graph
from hiersrec_sdk.errors import CatalogChangeError, InvalidItemIdError, UnknownItemError

_log = logging.getLogger(__name__)

ITEM_ENCODER: Final = "item_encoder.onnx"
_ENCODED_TOGETHER: Final = 1024
_LEAVES_ASKED: Final = (
    16  # of a category without one of its own for the item: its largest leaves speak for it
)


@dataclass(frozen=True, slots=True)
class Item:
    """An item to add or to change.

    Attributes:
        id: the shop's own id, of the catalogue's type.
        category: own id of a category of any level, or the ids of its path, the top level first. A path may end with a
            new category: its items are found through its parent. None: a known item stays where it is; a new one goes
            to the unknown category, or is a candidate in every session where the catalogue has none.
        text: words, as those that the model was trained with.
        numbers: by the names of the columns that the model was trained with.
        metadata_vector: what the text encoder or the shop gives for it, where the model was trained with such vectors.
        title: to show. None: that of a known item stays.
        vector: float32 [d], a ready vector in the space of the catalogue's output vectors, in place of all metadata.

    A known item, or one of the bundle that was removed, keeps its trained vector unless text, numbers or a vector are
    given.
    """

    id: int | str
    category: int | str | Sequence[int | str] | None = None
    text: str | None = None
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    metadata_vector: NDArray[np.float32] | Sequence[float] | None = None
    title: str | None = None
    vector: NDArray[np.float32] | Sequence[float] | None = None

    @property
    def is_described(self) -> bool:
        """Whether there is anything to encode."""
        return self.text is not None or bool(self.numbers) or self.metadata_vector is not None


_FIELDS: Final = [entry.name for entry in fields(Item)]


if TYPE_CHECKING:
    _Reading = Catalog  # type checkers know by this what __getattr__ answers
else:
    _Reading = object


class MutableCatalog(_Reading):
    """The catalogue of a recommender. Reading goes to :attr:`current`, a :class:`~hiersrec_sdk.catalog.snapshot.Catalog`, whose
    methods and attributes this has too; writing makes another one of it, which the next call sees.

    Writers wait for each other. A call that runs goes on with the snapshot that it began with.
    """

    def __init__(
        self,
        base: Catalog,
        bundle: Path,
        config: Mapping[str, Any],
        providers: Sequence[str],
        changes: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self._current = base
        self._base, self._bundle, self._config, self._providers = base, bundle, config, providers
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=partial(_unlock_after_fork, weakref.ref(self)))
        self._log = Log(base.item_vectors.shape[1], base.input_vectors is base.item_vectors)
        if changes:
            self._current = from_tables(changes, base, self._log)

    @property
    def current(self) -> Catalog:
        """The newest snapshot."""
        return self._current

    def __len__(self) -> int:
        return len(self._current)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(self._current, name)

    def upsert(self, items: Iterable[Item | Mapping[str, Any]]) -> int:
        """Add new items and change known ones; the next call can recommend them. All or none.

        Args:
            items: :class:`Item`, or mappings with its fields; of an id that comes twice the last counts.

        Returns:
            How many items that were.

        Raises:
            CatalogChangeError: an item that cannot be placed or encoded; names it. Nothing is changed.
            InvalidItemIdError, NaNItemIdError: an id is not of the catalogue's type.
        """
        with self._lock:
            return self._upsert(items)

    def move(self, item: int | str, category: int | str | Sequence[int | str]) -> None:
        """Put a known item into another category; its vector stays. Other categories no longer list it.

        Raises:
            UnknownItemError: the catalogue lacks it.
            CatalogChangeError: there is no such category, and no parent for a new one.
        """
        if category is None:
            raise CatalogChangeError(f"item {item!r}: no category was given")
        with self._lock:
            if self._current.rows([item])[0] == UNKNOWN:
                raise UnknownItemError(f"item id {item!r} is not in the catalogue")
            self._upsert([Item(item, category)])

    def _upsert(self, items: Iterable[Item | Mapping[str, Any]]) -> int:
        if isinstance(items, str | bytes | Mapping | Item) or not isinstance(items, Iterable):
            raise CatalogChangeError(f"items is {items!r}; it must be a list of Item or of mappings")
        given = list({item.id: item for item in map(_as_item, items)}.values())
        if not given:
            return 0
        base, now, n = self._base, self._current, len(self._base.item_vectors)
        ids = [item.id for item in given]
        rows = now.rows(ids)
        origin = np.array([self._origin(int(row)) for row in rows], dtype=np.int64)
        origin = np.where(rows == UNKNOWN, base.rows(ids), origin)  # of the bundle, and removed since
        source = np.where(rows == UNKNOWN, origin, rows)  # the row that says what is not given
        known, at = source != UNKNOWN, np.maximum(source, 0)
        new = dict(self._log.categories)
        where = [self._where(item, int(row), new) for item, row in zip(given, source, strict=True)]
        vectors, inputs = self._vectors(given, source, where, now)
        log_bias = self._log.bias.view()
        own = np.array(
            [log_bias[row - n] if row >= n else base.biases(np.array([row]))[0] for row in at.tolist()]
        )
        bias = np.where(known, own, self._new_bias).astype(np.float32)
        boost = np.array([self._boost(int(row)) for row in rows], dtype=np.float32)
        clicks = np.where(known, now.clicks_of(at), 0)
        titles = [
            item.title or (now.title(int(row)) if row != UNKNOWN else None)
            for item, row in zip(given, source, strict=True)
        ]
        self._log.categories += list(new.items())[len(self._log.categories) :]
        self._log.extend(ids, titles, where, vectors, inputs, bias, boost, clicks, origin)
        self._publish(rows[rows != UNKNOWN], self._changes.base_boost)
        _log.debug("upserted %d items, %d of them new", len(given), np.count_nonzero(rows == UNKNOWN))
        return len(given)

    def remove(self, ids: Iterable[int | str]) -> int:
        """Take items out; ids that the catalogue lacks do nothing. Returns how many items that were."""
        own = _as_ids("remove", ids)
        with self._lock:
            rows = self._current.rows(own)
            rows = np.unique(rows[rows != UNKNOWN])
            if len(rows):
                self._publish(rows, self._changes.base_boost)
        _log.debug("removed %d items", len(rows))
        return len(rows)

    def set_bias(self, ids: Iterable[int | str], values: float | Sequence[float] | NDArray[Any]) -> None:
        """Set what is added to the scores of items beside the model's own bias, whatever the session: to boost them, or
        to bury them. 0 takes it back. Popular items, which answer sessions without a known item, go by clicks alone.

        Args:
            ids: of known items.
            values: one for all, or one for each; scores are of the order of 10, and differ by 1 where one item is about
                three times as probable as another.

        Raises:
            UnknownItemError: the catalogue lacks one. Nothing is changed.
            CatalogChangeError: values that are no finite numbers, or not one for each id.
        """
        own = _as_ids("set_bias", ids)
        try:
            wanted = np.broadcast_to(np.asarray(values, dtype=np.float32), (len(own),))
        except (TypeError, ValueError):
            raise CatalogChangeError(f"values: one number, or one for each of the {len(own)} ids") from None
        if not np.isfinite(wanted).all():
            raise CatalogChangeError("values: every bias must be finite")
        with self._lock:
            now = self._current
            rows = now.rows(own)
            if (rows == UNKNOWN).any():
                place = int(np.argmax(rows == UNKNOWN))
                raise UnknownItemError(f"item id {own[place]!r} is not in the catalogue")
            n, base_boost = len(self._base.item_vectors), self._changes.base_boost
            by_row = dict(zip(rows.tolist(), wanted.tolist(), strict=True))
            changed = np.array(list(by_row), dtype=np.int64)
            boost = np.array(list(by_row.values()), dtype=np.float32)
            added = changed >= n
            if not added.all():
                base_boost = np.zeros(n, dtype=np.float32) if base_boost is None else base_boost.copy()
                base_boost[changed[~added]] = boost[~added]
            self._log.extend_with(self._log, changed[added] - n, boost[added])
            self._publish(changed[added], base_boost)
        _log.debug("set the bias of %d items", len(own))

    @property
    def _changes(self) -> Changes:
        """Of the newest snapshot; empty ones where there are none yet."""
        now = self._current.changes
        return Changes.none(self._log, len(self._base.item_vectors)) if now is None else now

    def _publish(self, replaced: NDArray[np.int64], base_boost: NDArray[np.float32] | None) -> None:
        """Make the snapshot that has the log's newest rows, and not the ``replaced`` ones, of the catalogue."""
        changes = self._changes.later(replaced, base_boost)
        if len(changes.dead) > len(changes) - len(changes.dead) + _FEW:  # mostly rows that were replaced
            rows_before, changes = len(changes), changes.compacted()
            self._log = changes.log
            _log.info(
                "compacted the changes of the catalogue: %d of %d rows are left", len(changes), rows_before
            )
        self._current = ChangedCatalog.of(self._base, changes, self._current)

    def _origin(self, row: int) -> int:
        """The bundle's row of the item in ``row``; -1 for none."""
        n = len(self._base.item_vectors)
        return row if row < n else int(self._log.origin.view()[row - n])

    def _boost(self, row: int) -> float:
        changes, n = self._current.changes, len(self._base.item_vectors)
        if changes is None or row == UNKNOWN:
            return 0.0
        if row >= n:
            return float(changes.boost[row - n])
        return 0.0 if changes.base_boost is None else float(changes.base_boost[row])

    @cached_property
    def _new_bias(self) -> float:
        """That of an item that nobody has clicked yet."""
        if self._base.bias is None:
            return 0.0
        measured = self._config.get("cold_start_bias")
        if measured is None:  # about the median: all of a large table would take long to read
            measured = np.median(self._base.bias[:: -(-len(self._base.bias) // _SOME)])
        return float(measured)

    def _where(self, item: Item, source: int, new: dict[int | str, Where]) -> Where:
        """Where ``item`` belongs, whose row by now is ``source``; a category that it makes is put into ``new``."""
        base, n, leaf_level = self._base, len(self._base.item_vectors), len(self._base.ranges) - 1
        if item.category is None and source >= n:
            return self._log.where(source - n)
        if item.category is None and source != UNKNOWN:
            own = self._of_node(leaf_level, int(base.categories_of(np.array([source]))[0]))
            listed = tuple(base.listed_in(source))
            both = own.places.union(*(self._of_node(leaf_level, leaf).places for leaf in listed))
            return replace(own, places=both, extra=listed)
        if item.category is None:
            unknown = base.find_category("unknown") or base.find_category(-1)
            if unknown:
                return self._of_node(*unknown[-1])
            return Where((), frozenset(), 0, len(base.ranges[-1]), _NO_SHELF)
        path: list[Any] = item.category if isinstance(item.category, list) else [item.category]
        if not path:
            raise CatalogChangeError(f"item {item.id!r}: its category is an empty path")
        nodes: list[tuple[int, int] | None] = [None]  # where the path so far may end: anywhere
        for at, own_id in enumerate(path):
            found = base.find_category(own_id)
            fitting = [
                place for place in found if any(node is None or self._is_below(place, node) for node in nodes)
            ]
            if not fitting:
                is_last = at == len(path) - 1
                if is_last and own_id in new and at == 0:
                    return new[own_id]
                if is_last and at and not found:
                    return self._of_new(item, own_id, self._deepest(item, path[at - 1], nodes), new)
                below = f" below {path[at - 1]!r}" if at else ""
                raise CatalogChangeError(
                    f"item {item.id!r}: there is no category {own_id!r}{below}; a new one is the last of a path, below "
                    "one that there is, with an id that no other has"
                )
            nodes = [*fitting]
        return self._of_node(*self._deepest(item, path[-1], nodes))

    def _deepest(self, item: Item, own: Any, nodes: list[tuple[int, int] | None]) -> tuple[int, int]:
        """Of places of one id along a branch, as a shallow branch repeats its id on the levels below, the deepest."""
        known = sorted(node for node in nodes if node is not None)
        if any(not self._is_below(lower, upper) for upper, lower in pairwise(known)):
            raise CatalogChangeError(
                f"item {item.id!r}: category {own!r} stands in several places: give its whole path"
            )
        return known[-1]

    def _is_below(self, place: tuple[int, int], above: tuple[int, int]) -> bool:
        (level, index), (upper, parent) = place, above
        if level <= upper:
            return False
        for at in range(level, upper, -1):
            index = int(self._base.parents[at][index])
        return index == parent

    def _of_node(self, level: int, index: int) -> Where:
        """Of a category of the bundle's tree: reached through the leaves below it."""
        base, path = self._base, [index]
        for at in range(level, 0, -1):
            path.insert(0, int(base.parents[at][path[0]]))
        start, stop = index, index + 1
        for parents in base.parents[level + 1 :]:
            start, stop = (int(edge) for edge in np.searchsorted(parents, [start, stop]))
        shelf = start
        if stop - start == 1:  # its only leaf, and with it the categories between
            below = [start]
            for at in range(len(base.ranges) - 1, level + 1, -1):
                below.insert(0, int(base.parents[at][below[0]]))
            path += below if level < len(base.ranges) - 1 else []
        else:
            shelf = _NO_SHELF + (level << 32) + index
        return Where(tuple(path), frozenset(enumerate(path)), start, stop, shelf)

    def _of_new(self, item: Item, own: Any, parent: tuple[int, int], new: dict[int | str, Where]) -> Where:
        """Of a category ``own`` that the bundle lacks, below ``parent``."""
        wanted = int if self._base.category_id_type == "int64" else str
        if type(own) is not wanted or not _fits_tables(own):
            raise CatalogChangeError(
                f"item {item.id!r}: category {own!r} is of another type than those of this catalogue"
            )
        above = self._of_node(*parent)
        shelf = len(self._base.ranges[-1]) + len(new)
        made = replace(
            above, path=above.path[: parent[0] + 1], places=above.places | {(NEW, own)}, shelf=shelf
        )
        if new.setdefault(own, made).places != made.places:
            raise CatalogChangeError(f"item {item.id!r}: category {own!r} is known below another one")
        return new[own]

    def _vectors(
        self, items: Sequence[Item], source: NDArray[np.int64], where: Sequence[Where], now: Catalog
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Output and input vectors, float32 [items, d] each: ready ones, those that known items have, the encoder's."""
        d = self._base.item_vectors.shape[1]
        vectors, inputs = np.empty((len(items), d), np.float32), np.empty((len(items), d), np.float32)
        to_encode = []
        for at, (item, row) in enumerate(zip(items, source.tolist(), strict=True)):
            if item.vector is not None:
                vectors[at] = inputs[at] = _vector(item, "vector", item.vector, d)
            elif row != UNKNOWN and not item.is_described:
                vectors[at] = now.vectors(np.array([row]))[0]
                inputs[at] = now.vectors(np.array([row]), inputs=True)[0]
            else:
                to_encode.append(at)
        if to_encode:
            paths = [self._paths(where[at]) for at in to_encode]
            vectors[to_encode] = inputs[to_encode] = self._encoder.encode(
                [items[at] for at in to_encode], paths
            )
        return vectors, inputs

    def _paths(self, where: Where) -> NDArray[np.int64]:
        """int64 [p, levels]: the paths of the leaf of an item, or of the largest leaves that it is reached through."""
        base = self._base
        leaves = np.arange(where.start, where.stop)
        sizes = base.ranges[-1][leaves, 1] - base.ranges[-1][leaves, 0]
        path = [leaves[np.argsort(-sizes, kind="stable")[:_LEAVES_ASKED]]]
        for parents in base.parents[:0:-1]:
            path.append(parents[path[-1]].astype(np.int64))
        return np.stack(path[::-1], axis=1)

    @cached_property
    def _encoder(self) -> _ItemEncoder:
        if ITEM_ENCODER not in self._config["files"]:
            raise CatalogChangeError(
                "the bundle has no item_encoder.onnx: an item needs a vector, Item(id, vector=...)"
            )
        content = read_file(self._bundle, ITEM_ENCODER, self._config)
        return _ItemEncoder(content, self._config["preprocessing"], self._providers)


def _unlock_after_fork(catalog: weakref.ref[MutableCatalog]) -> None:
    """In a forked child: whoever wrote is not there, and would hold the lock for ever."""
    there = catalog()
    if there is not None:
        there._lock = threading.Lock()


_FEW: Final = 1024  # rows that were replaced and may stay
_SOME: Final = 100_000
_NO_SHELF: Final = 1 << 40  # beyond every new category


class _ItemEncoder:
    """``item_encoder.onnx`` of a bundle: metadata to vectors."""

    def __init__(self, content: bytes, preprocessing: Mapping[str, Any], providers: Sequence[str]) -> None:
        self._session: Any = load_graph(content, ITEM_ENCODER, providers, 1)
        self._text: Mapping[str, Any] = preprocessing.get("text") or {}
        self._edges: Mapping[str, Sequence[float]] = preprocessing.get("numbers") or {}
        self._given: Mapping[str, Any] = preprocessing.get("vectors") or {}
        self._inputs = [value.name for value in self._session.get_inputs()]

    def encode(self, items: Sequence[Item], paths: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """float32 [items, d]; of an item with several ``paths`` int64 [p, levels] the mean direction."""
        flat = [(at, path) for at, several in enumerate(paths) for path in several]
        found = []
        for start in range(0, len(flat), _ENCODED_TOGETHER):
            some = flat[start : start + _ENCODED_TOGETHER]
            chosen = [items[at] for at, _ in some]
            values = {name: self._column(name, chosen) for name in self._inputs if name != "category_path"}
            feeds = {"category_path": np.stack([path for _, path in some]).astype(np.int64), **values}
            found.append(self._session.run(["item_vectors"], feeds)[0])
        every = np.concatenate(found)
        sums = np.zeros((len(items), every.shape[1]), dtype=np.float32)
        np.add.at(sums, [at for at, _ in flat], every)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        several = np.array([len(each) > 1 for each in paths])[:, None]
        return np.where(several, sums / np.maximum(lengths, 1e-12), sums).astype(np.float32)

    def _column(self, name: str, items: Sequence[Item]) -> NDArray[Any]:
        if name == "tokens":
            return token_table([item.text for item in items], self._text["buckets"], self._text["max_tokens"])
        if name == "number_bins":
            for item in items:
                unknown = set(item.numbers) - set(self._edges)
                if unknown:
                    raise CatalogChangeError(
                        f"item {item.id!r}: the model knows no number {sorted(unknown)[0]!r}; it was trained with "
                        f"{', '.join(self._edges)}"
                    )
            columns = [
                number_bins([_number(item, column) for item in items], edges)
                for column, edges in self._edges.items()
            ]
            return np.stack(columns, axis=1)
        width = self._given["width"]
        rows = [
            np.zeros(width, dtype=np.float32)
            if item.metadata_vector is None
            else _vector(item, "metadata_vector", item.metadata_vector, width)
            for item in items
        ]
        return np.stack(rows)


def _number(item: Item, column: str) -> float:
    value = item.numbers.get(column)
    try:
        return float("nan") if value is None else float(value)
    except (TypeError, ValueError):
        raise CatalogChangeError(
            f"item {item.id!r}: number {column!r} is {value!r}, which is no number"
        ) from None


def _vector(item: Item, name: str, value: Any, width: int) -> NDArray[np.float32]:
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise CatalogChangeError(f"item {item.id!r}: its {name} is no list of numbers") from None
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise CatalogChangeError(
            f"item {item.id!r}: its {name} has shape {list(vector.shape)}; {width} finite numbers are needed"
        )
    return vector


def _as_item(item: Any) -> Item:
    if not isinstance(item, Item):
        if not isinstance(item, Mapping):
            raise CatalogChangeError(f"{item!r} is no Item, and no mapping of {', '.join(_FIELDS)}")
        unknown = [name for name in item if name not in _FIELDS]
        if unknown:
            raise CatalogChangeError(f"an item has no field {unknown[0]!r}; known: {', '.join(_FIELDS)}")
        if "id" not in item:
            raise CatalogChangeError(f"an item without an id: {dict(item)!r}")
        item = Item(**item)
    own = _plain(item.id)
    if not isinstance(own, int | str) or not _fits_tables(own):
        raise InvalidItemIdError(
            f"item id {own!r} of type {type(own).__name__} is neither an int64 nor UTF-8 text"
        )
    for name in ("text", "title"):
        value = getattr(item, name)
        if value is not None and not (isinstance(value, str) and _fits_tables(value)):
            raise CatalogChangeError(f"item {own!r}: its {name} is {value!r}, which is no UTF-8 text")
    numbers = {} if item.numbers is None else item.numbers
    if not isinstance(numbers, Mapping):
        raise CatalogChangeError(
            f"item {own!r}: its numbers are {numbers!r}; they must be a mapping of column to number"
        )
    category = _plain(item.category)
    if isinstance(category, Sequence) and not isinstance(category, str):
        category = [_plain(each) for each in category]
    parts = category if isinstance(category, list) else [category]
    if not all(isinstance(part, int | str) for part in parts) and category is not None:
        raise CatalogChangeError(
            f"item {own!r}: its category is {category!r}; it must be an id, or a list of ids"
        )
    made: Item = replace(item, id=own, numbers=numbers, category=category, title=item.title or None)
    return made


def _plain(value: Any) -> Any:
    """A NumPy scalar or array as what Python has for it."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _fits_tables(value: int | str) -> bool:
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    return value.encode("utf-8", "replace").decode() == value


def _as_ids(name: str, ids: Iterable[Any]) -> list[Any]:
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise CatalogChangeError(f"{name}: ids is {ids!r}; it must be a list of item ids")
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
