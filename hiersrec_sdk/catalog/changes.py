"""Catalog changes as data, as a change file and a change feed hold them: one JSON object each.

{"upsert": {"id": "sku-7", "category": ["Shoes", "Boots"], "text": "red boots", "numbers": {"price": 80}}}
{"remove": "sku-3"}
{"move": {"id": "sku-9", "category": "Boots"}}
{"set_bias": {"id": "sku-9", "value": 1.5}}
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.bundle.strict_json import parse_json
from hiersrec_sdk.catalog.item import Item, checked_biases, checked_item, fits_tables
from hiersrec_sdk.errors import CatalogChangeError, InvalidArgumentError, InvalidItemIdError
from hiersrec_sdk.id_lists import plain_id
from hiersrec_sdk.shown import described, shortened, shown

KINDS: Final = ("upsert", "remove", "move", "set_bias")
LONGEST: Final = 1 << 20  # bytes of a change in a feed; real ones have some thousands

_VECTORS: Final = ("vector", "metadata_vector")  # fields of an item that JSON holds as packed float32
_PACKED: Final = (
    "float32"  # {"float32": "base64 of little-endian numbers"}: a list takes 30 times as long to read
)


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """A change of one item, its form checked. Whether it can be made depends on the catalog.

    Attributes:
        kind: one of ``KINDS``.
        id: of the item.
        item: what an upsert or a move says of it.
        bias: float32, what ``set_bias`` sets.
        number: its line in a file, or its position in a feed; 0: it has none.
    """

    kind: str
    id: int | str
    item: Item | None = None
    bias: float = 0.0
    number: int = 0

    @classmethod
    def of(cls, given: Any, number: int = 0) -> Change:
        """The change that a mapping with one key of ``KINDS`` says.

        Raises:
            CatalogChangeError: it is no change, or a field of it has a wrong type.
            InvalidItemIdError: its id is one that no catalog can hold.
        """
        kind, value = next(iter(given.items()), ("", None)) if isinstance(given, Mapping) else ("", None)
        if kind not in KINDS or len(given) != 1:
            raise CatalogChangeError(
                f"it must be an object with one key of {', '.join(KINDS)}, got {shown(given)}"
            )
        if kind == "remove":
            return cls(kind, _checked_id(value), number=number)
        if kind == "set_bias":
            item_id, bias = _fields(value, "id", "value")
            return cls(kind, _checked_id(item_id), bias=float(checked_biases(bias, 1)[0]), number=number)
        if kind == "move":
            item_id, category = _fields(value, "id", "category")
            if category is None:
                raise CatalogChangeError(f"item {shown(item_id)}: no category was given")
            value = {"id": item_id, "category": category}
        item = checked_item(_unpacked(value))
        return cls(kind, item.id, item, number=number)

    @classmethod
    def from_json(cls, content: bytes, number: int = 0) -> Change:
        """The change that a JSON text says.

        Raises:
            CatalogChangeError, InvalidItemIdError: it says none, as for :meth:`of`.
        """
        if len(content) > LONGEST:
            raise CatalogChangeError(f"a change is longer than {LONGEST:,} bytes")
        try:
            given = parse_json(content)
        except ValueError as error:
            raise CatalogChangeError(f"a change is not JSON: {shortened(error)}") from error
        return cls.of(given, number)

    def to_json(self) -> bytes:
        """JSON in one line that :meth:`from_json` reads: to the last bit the same.

        Raises:
            CatalogChangeError: it would be too long, or no text that JSON can hold.
        """
        value: Any = self.id
        if self.kind == "set_bias":
            value = {"id": self.id, "value": self.bias}
        elif self.kind == "move":
            assert self.item is not None
            value = {"id": self.id, "category": _category(self.item)}
        elif self.kind == "upsert":
            assert self.item is not None
            value = _plain(self.item)
        text = json.dumps({self.kind: value}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        try:
            content = text.encode()
        except UnicodeEncodeError:
            raise CatalogChangeError(
                f"item {shown(self.id)}: its categories and the names of its numbers must be UTF-8 text"
            ) from None
        if len(content) > LONGEST:
            raise CatalogChangeError(
                f"item {shown(self.id)}: the change has {len(content):,} bytes, more than {LONGEST:,}"
            )
        return content


def together(changes: Iterable[Change], most: int) -> Iterator[list[Change]]:
    """The changes in order, in lists of at most ``most`` of distinct items: the catalog makes these at once, with the
    result of one after the other. Then the error that ``changes`` ends with, if any."""
    found: list[Change] = []
    ids: set[int | str] = set()
    failed = None
    try:
        for change in changes:
            if found and (change.id in ids or len(found) == most):
                yield found
                found, ids = [], set()
            found.append(change)
            ids.add(change.id)
    except Exception as error:
        failed = error
    if found:
        yield found
    if failed is not None:
        raise failed


def _checked_id(value: Any) -> int | str:
    item_id = plain_id(value)
    if item_id is None or not fits_tables(item_id):
        raise InvalidItemIdError(f"item id {described(value)} must be an int64 or UTF-8 text")
    return item_id


def _fields(value: Any, *names: str) -> list[Any]:
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise CatalogChangeError(f"it must have the keys {' and '.join(names)}, got {shown(value)}")
    return [value[name] for name in names]


def _category(item: Item) -> Any:
    """The category of a checked item.

    Raises:
        CatalogChangeError: an integer of it does not fit in 64 bits.
    """
    path = item.category if isinstance(item.category, tuple) else [item.category]
    for each in path:
        if isinstance(each, int) and not fits_tables(each):
            raise CatalogChangeError(
                f"item {shown(item.id)}: its category must be of int64 or text, got {shown(each)}"
            )
    return item.category


def _plain(item: Item) -> dict[str, Any]:
    """What is given of a checked item, as JSON has it."""
    found: dict[str, Any] = {"id": item.id}
    if item.category is not None:
        found["category"] = _category(item)
    for name in ("text", "title"):
        if getattr(item, name) is not None:
            found[name] = getattr(item, name)
    if item.numbers:
        found["numbers"] = {
            column: None if value is None or math.isnan(value) else value
            for column, value in item.numbers.items()
        }
    for name in _VECTORS:
        vector = getattr(item, name)
        if vector is not None:
            found[name] = {_PACKED: b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()}
    return found


def _unpacked(value: Any) -> Any:
    """An item that JSON says, with its packed vectors as arrays."""
    if type(value) is not dict and not isinstance(value, Mapping):
        return value
    packed = [name for name in _VECTORS if name in value and isinstance(value[name], Mapping)]
    return {**value, **{name: _vector(name, value[name]) for name in packed}} if packed else value


def _vector(name: str, packed: Mapping[str, Any]) -> NDArray[np.float32]:
    try:
        (given,) = _fields(packed, _PACKED)
        return np.frombuffer(b64decode(given, validate=True), dtype="<f4").astype(np.float32, copy=False)
    except (InvalidArgumentError, TypeError, ValueError) as error:
        raise CatalogChangeError(
            f"{name} must be a list of numbers, or {{{_PACKED!r}: base64 of float32}}: {shortened(error)}"
        ) from error
