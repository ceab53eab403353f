"""A catalogue that changes while it is served: readers see one snapshot each, and never wait for a writer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog import UNKNOWN, Catalog
from hiersrec_sdk.changes import NEW, ChangedCatalog, Changes, Log, Where
from hiersrec_sdk.encoder import load_graph
from hiersrec_sdk.errors import CatalogError, InputError, UnknownItemError
from hiersrec_sdk.features import number_bins, token_table
from hiersrec_sdk.saved_changes import from_tables

ITEM_ENCODER: Final = "item_encoder.onnx"
_ENCODED_TOGETHER: Final = 1024
_LEAVES_ASKED: Final = 16  # of a category without one of its own for the item: its largest leaves speak for it


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

    A known item keeps its trained vector unless text, numbers or a vector are given.
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


class LivingCatalog:
    """The catalogue of a recommender. Reading goes to :attr:`current`, a :class:`~hiersrec_sdk.catalog.Catalog`, whose
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
        self._log = Log(base.output_vectors.shape[1], base.input_vectors is base.output_vectors)
        if changes:
            self._current = from_tables(changes, base, self._log)

    @property
    def current(self) -> Catalog:
        """The newest snapshot."""
        return self._current

    def __len__(self) -> int:
        return len(self._current)

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
            CatalogError: an item that cannot be placed or encoded; names it. Nothing is changed.
            ItemIdTypeError, ItemIdNaNError: an id is not of the catalogue's type.
        """
        given = list({item.id: item for item in map(_as_item, items)}.values())
        if not given:
            return 0
        with self._lock:
            now = self._current
            rows = now.rows([item.id for item in given])
            new = dict(self._log.new_categories)
            where = [self._where(item, int(row), now, new) for item, row in zip(given, rows, strict=True)]
            vectors = self._vectors(given, rows, where, now)
            self._log.new_categories.update(new)
            known = rows != UNKNOWN
            bias = np.where(known, now.biases(np.maximum(rows, 0)), self._new_bias).astype(np.float32)
            clicks = np.where(known, now.clicks_of(np.maximum(rows, 0)), 0)
            titles = [
                item.title if item.title is not None or row == UNKNOWN else now.title(int(row))
                for item, row in zip(given, rows, strict=True)
            ]
            self._publish([item.id for item in given], rows, vectors, bias, clicks, titles, where)
        return len(given)

    def move(self, item: int | str, category: int | str | Sequence[int | str]) -> None:
        """Put a known item into another category; its vector stays.

        Raises:
            UnknownItemError: the catalogue lacks it.
            CatalogError: there is no such category, and no parent for a new one.
        """
        if self._current.rows([item])[0] == UNKNOWN:
            raise UnknownItemError(f"item id {item!r} is not in the catalogue")
        self.upsert([Item(item, category)])

    def remove(self, ids: Iterable[int | str]) -> int:
        """Take items out; ids that the catalogue lacks do nothing. Returns how many items that were."""
        with self._lock:
            rows = self._current.rows(list(ids))
            rows = np.unique(rows[rows != UNKNOWN])
            if len(rows):
                self._publish([], rows)
        return len(rows)

    def set_bias(self, ids: Iterable[int | str], values: float | Sequence[float] | NDArray[Any]) -> None:
        """Set what is added to the scores of items, whatever the session: to boost or to bury them.

        Args:
            ids: of known items.
            values: one for all, or one for each; scores are of the order of 10, and differ by 1 where one item is about
                three times as probable as another.

        Raises:
            UnknownItemError: the catalogue lacks one. Nothing is changed.
            CatalogError: values that are no finite numbers, or not one for each id.
        """
        own = list(ids)
        try:
            wanted = np.broadcast_to(np.asarray(values, dtype=np.float32), (len(own),))
        except (TypeError, ValueError):
            raise CatalogError(f"values: one number, or one for each of the {len(own)} ids") from None
        if not np.isfinite(wanted).all():
            raise CatalogError("values: every bias must be finite")
        with self._lock:
            now = self._current
            rows = now.rows(own)
            if (rows == UNKNOWN).any():
                place = int(np.argmax(rows == UNKNOWN))
                raise UnknownItemError(f"item id {own[place]!r} is not in the catalogue")
            n = len(self._base.output_vectors)
            changes, bias = self._changes, now.bias
            added = rows >= n
            if (~added).any():
                bias = np.zeros(n, dtype=np.float32) if bias is None else np.array(bias)
                bias[rows[~added]] = wanted[~added]
            if added.any():
                own_bias = changes.bias.copy()
                own_bias[rows[added] - n] = wanted[added]
                changes = replace(changes, bias=own_bias)
            self._current = ChangedCatalog(self._base, changes, bias)

    @property
    def _changes(self) -> Changes:
        """Of the newest snapshot; empty ones where there are none yet."""
        if self._current.changes is not None:
            return self._current.changes
        none = np.empty(0, dtype=np.int64)
        return Changes.of(
            self._log, len(self._base.output_vectors), np.empty(0, np.float32), np.empty(0, bool), none, None
        )

    def _publish(
        self,
        ids: Sequence[int | str],
        old: NDArray[np.int64],
        vectors: NDArray[np.float32] | None = None,
        bias: NDArray[np.float32] | None = None,
        clicks: NDArray[np.int64] | None = None,
        titles: Sequence[str | None] = (),
        where: Sequence[Where] = (),
    ) -> None:
        """Make the snapshot in which the ``old`` rows are gone and new ones are there."""
        before, log, n = self._changes, self._log, len(self._base.output_vectors)
        replaced = old[old != UNKNOWN]
        alive = np.concatenate([before.alive, np.ones(len(ids), dtype=bool)])
        alive[replaced[replaced >= n] - n] = False
        biases = before.bias
        if vectors is not None and bias is not None and clicks is not None:
            origin = np.array([self._origin(int(row)) for row in old], dtype=np.int64)
            log.extend(ids, titles, where, vectors, None, clicks, origin)
            biases = np.concatenate([biases, bias])
        changes = Changes.of(log, n, biases, alive, before.gone, before.kept).without(np.unique(replaced[replaced < n]))
        self._current = ChangedCatalog(self._base, changes, self._current.bias)

    def _origin(self, row: int) -> int:
        """The bundle's row of the item in ``row``."""
        n = len(self._base.output_vectors)
        return row if row < n else int(self._log.origin.view()[row - n])

    @cached_property
    def _new_bias(self) -> float:
        """That of an item that nobody has clicked: the median of the least clicked ones of the bundle."""
        if self._base.bias is None:
            return 0.0
        return float(np.median(self._base.bias[self._base.clicks == self._base.clicks.min()]))

    def _where(self, item: Item, row: int, now: Catalog, new: dict[int | str, Where]) -> Where:
        """Where ``item`` belongs, which has ``row`` by now; categories that it makes are put into ``new``."""
        base, log, n = self._base, self._log, len(self._base.output_vectors)
        if item.category is None and row >= n:
            return log.where[row - n]
        if item.category is None and row != UNKNOWN:
            own = self._of_node(len(base.ranges) - 1, int(base.categories_of(np.array([row]))[0]))
            listed = tuple(base.listed_in(row))
            both = own.places.union(*(self._of_node(len(base.ranges) - 1, leaf).places for leaf in listed))
            return replace(own, places=both, extra=listed)
        if item.category is None:
            unknown = base.find_category("unknown") or base.find_category(-1)
            return self._of_node(*unknown[-1]) if unknown else Where(frozenset(), 0, len(base.ranges[-1]), _NO_SHELF)
        is_path = isinstance(item.category, Sequence) and not isinstance(item.category, str)
        path: list[Any] = list(item.category) if is_path else [item.category]  # type: ignore[arg-type]
        node: tuple[int, int] | None = None
        for at, own_id in enumerate(path):
            is_last = at == len(path) - 1
            below = [place for place in base.find_category(own_id) if node is None or self._is_below(place, node)]
            if below:
                node = below[-1] if is_last else below[0]  # a shallow branch repeats its id on the levels below
            elif is_last and (node is not None or own_id in new):
                return self._of_new(item, own_id, node, new)
            else:
                where = "" if node is None else f" below {path[at - 1]!r}"
                raise CatalogError(
                    f"item {item.id!r}: there is no category {own_id!r}{where}; a new one is the last of a path, below "
                    "one that there is"
                )
        if node is None:
            raise CatalogError(f"item {item.id!r}: its category is an empty path")
        return self._of_node(*node)

    def _is_below(self, place: tuple[int, int], above: tuple[int, int]) -> bool:
        (level, index), (upper, parent) = place, above
        if level <= upper:
            return False
        for at in range(level, upper, -1):
            index = int(self._base.parents[at][index])
        return index == parent

    def _of_node(self, level: int, index: int) -> Where:
        """Of a category of the bundle's tree: reached through the leaves below it."""
        base, places = self._base, {(level, index)}
        above = index
        for at in range(level, 0, -1):
            above = int(base.parents[at][above])
            places.add((at - 1, above))
        start, stop = index, index + 1
        for parents in base.parents[level + 1 :]:
            start, stop = (int(edge) for edge in np.searchsorted(parents, [start, stop]))
        if stop - start > 1:
            return Where(frozenset(places), start, stop, _NO_SHELF + (level << 32) + index)
        leaf = start  # the only one, and with it the categories between
        for at in range(len(base.ranges) - 1, level, -1):
            places.add((at, leaf))
            leaf = int(base.parents[at][leaf])
        return Where(frozenset(places), start, stop, start)

    def _of_new(self, item: Item, own: Any, parent: tuple[int, int] | None, new: dict[int | str, Where]) -> Where:
        """Of a category that the bundle lacks, below ``parent``; None: of one that was made before."""
        wanted = int if self._base.category_id_type == "int64" else str
        if type(own) is not wanted:
            raise CatalogError(f"item {item.id!r}: category {own!r} is of another type than those of this catalogue")
        if parent is None:
            return new[own]
        above = self._of_node(*parent)
        made = Where(above.places | {(NEW, own)}, above.start, above.stop, len(self._base.ranges[-1]) + len(new))
        if own not in new:
            new[own] = made
        if new[own].places != made.places:
            raise CatalogError(f"item {item.id!r}: category {own!r} is known below another one")
        return new[own]

    def _vectors(
        self, items: Sequence[Item], rows: NDArray[np.int64], where: Sequence[Where], now: Catalog
    ) -> NDArray[np.float32]:
        """float32 [items, d]: ready ones, those that known items have, and the item encoder's."""
        d = self._base.output_vectors.shape[1]
        vectors = np.empty((len(items), d), dtype=np.float32)
        to_encode = []
        for at, (item, row) in enumerate(zip(items, rows.tolist(), strict=True)):
            if item.vector is not None:
                vectors[at] = _vector(item, "vector", item.vector, d)
            elif row != UNKNOWN and not item.is_described:
                vectors[at] = now.vectors(np.array([row]))[0]
            else:
                to_encode.append(at)
        if to_encode:
            vectors[to_encode] = self._encoder.encode(
                [items[at] for at in to_encode], [self._paths(where[at]) for at in to_encode]
            )
        return vectors

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
        return _ItemEncoder(self._bundle / ITEM_ENCODER, self._config["preprocessing"], self._providers)


_NO_SHELF: Final = 1 << 40  # beyond every new category


class _ItemEncoder:
    """``item_encoder.onnx`` of a bundle: metadata to vectors."""

    def __init__(self, path: Path, preprocessing: Mapping[str, Any], providers: Sequence[str]) -> None:
        if not path.is_file():
            raise CatalogError(f"{path} is not there: without it an item needs a ready vector, Item(id, vector=...)")
        self._session: Any = load_graph(os.fspath(path), ITEM_ENCODER, providers, 1)
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
                    raise CatalogError(
                        f"item {item.id!r}: the model knows no number {sorted(unknown)[0]!r}; it was trained with "
                        f"{', '.join(self._edges)}"
                    )
            columns = [
                number_bins([_number(item, column) for item in items], edges) for column, edges in self._edges.items()
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
        raise CatalogError(f"item {item.id!r}: number {column!r} is {value!r}, which is no number") from None


def _vector(item: Item, name: str, value: Any, width: int) -> NDArray[np.float32]:
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise CatalogError(f"item {item.id!r}: its {name} is no list of numbers") from None
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise CatalogError(
            f"item {item.id!r}: its {name} has shape {list(vector.shape)}; {width} finite numbers are needed"
        )
    return vector


def _as_item(item: Any) -> Item:
    if isinstance(item, Item):
        return item
    if not isinstance(item, Mapping):
        raise CatalogError(f"{item!r} is no Item, and no mapping of {', '.join(_FIELDS)}")
    unknown = [name for name in item if name not in _FIELDS]
    if unknown:
        raise CatalogError(f"an item has no field {unknown[0]!r}; known: {', '.join(_FIELDS)}")
    if "id" not in item:
        raise CatalogError(f"an item without an id: {dict(item)!r}")
    made: Callable[..., Item] = Item
    try:
        return made(**{name: value for name, value in item.items() if not (name == "numbers" and value is None)})
    except TypeError as error:
        raise InputError(str(error)) from error
