"""An item to add or to change, and the checks of what a user gives for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.arguments import is_utf8
from hiersrec_sdk.errors import CatalogChangeError, InvalidItemIdError
from hiersrec_sdk.id_lists import is_unordered, listed, plain_id
from hiersrec_sdk.number_lists import number, numbers
from hiersrec_sdk.ranking.arrays import LARGEST, are_bounded
from hiersrec_sdk.shown import described, shown


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no truth value
class Item:
    """An item to add or to change.

    A known item, or a deleted one of the bundle, keeps its trained vector unless text, numbers or a vector are given.

    Attributes:
        id: external id, of the catalog's type.
        category: external id of a category of any level; or its path, the ids from the top level down. A path may end
            with a new category: its items are found through its parent. None: a known item stays where it is; a new one
            goes to the unknown category, or is a candidate in every session if the catalog has none.
        text: words, of the kind that the model was trained with.
        numbers: by the names of the columns that the model was trained with.
        metadata_vector: its vector from the text encoder or the shop, if the model was trained with such vectors.
        title: to show. None: a known item keeps its title; "": it has none.
        vector: float32 [d] of unit length, in the space of the catalog's item vectors, in place of all metadata. It is
            not rescaled: a longer vector scores higher.

    >>> Item("sku-90001", ["Shoes", "Boots"], text="red boots", numbers={"price": 80.0}).is_described
    True
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
        """Whether there is any metadata to encode."""
        return self.text is not None or bool(self.numbers) or self.metadata_vector is not None


_FIELDS: Final = tuple(entry.name for entry in fields(Item))
_NAMES: Final = frozenset(_FIELDS)


def checked_items(items: Any) -> list[Item]:
    """The items that a user gave, checked, the last one of each id.

    Raises:
        CatalogChangeError: not a list of items, or a field of a wrong type.
        InvalidItemIdError: an id that no catalog can hold.
    """
    every = listed("items", items, CatalogChangeError, "Item or of mappings")
    return list({item.id: item for item in map(checked_item, every)}.values())


def checked_ids(name: str, ids: Any) -> list[Any]:
    """The item ids that a user gave to the method ``name``.

    Raises:
        CatalogChangeError: not a list of ids.
    """
    found = listed(f"{name}: ids", ids, CatalogChangeError, ordered=False)
    return found.tolist() if isinstance(found, np.ndarray) else list(found)


def checked_biases(values: Any, count: int, ids: Any = ()) -> NDArray[np.float32]:
    """float32 [count]: the biases of ``count`` items, of one number for all or one for each of ``ids``.

    Raises:
        CatalogChangeError: they are not that many numbers, or one is too large; or ``ids`` is a set, whose elements
            have no order in which they could belong to several.
    """
    one = number(values.item() if type(values) is np.ndarray and not values.ndim else values)
    biases = numbers("values", values if one is None else [one] * count, CatalogChangeError)
    if len(biases) != count:
        raise CatalogChangeError(
            f"values must be one number, or one for each of the {count} ids, got {len(biases)}"
        )
    if not are_bounded(biases):
        raise CatalogChangeError(f"values must be finite, up to {LARGEST:g}, got {shown(values)}")
    if one is None and count > 1 and is_unordered(type(ids)):
        raise CatalogChangeError(
            "ids must be a list where each has a value of its own, got a set, which has no order"
        )
    return biases


def fits_tables(value: int | str) -> bool:
    """Whether a bundle can hold the id or text: an int64, or valid UTF-8."""
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    return is_utf8(value)


def checked_item(item: Any) -> Item:
    """The item that a user gave, checked.

    Raises:
        CatalogChangeError, InvalidItemIdError: as :func:`checked_items`.
    """
    given: Mapping[str, Any]
    if isinstance(item, Item):
        given = {name: getattr(item, name) for name in _FIELDS}
    else:
        if type(item) is not dict and not isinstance(item, Mapping):
            raise CatalogChangeError(
                f"an item must be an Item or a mapping of {', '.join(_FIELDS)}, got {shown(item)}"
            )
        if not _NAMES.issuperset(item):
            unknown = next(name for name in item if name not in _NAMES)
            raise CatalogChangeError(f"an item has no field {shown(unknown)}; known: {', '.join(_FIELDS)}")
        if "id" not in item:
            raise CatalogChangeError(f"an item without an id: {shown(dict(item))}")
        given = item
    item_id = plain_id(given["id"])
    if item_id is None or not fits_tables(item_id):
        raise InvalidItemIdError(f"item id {described(given['id'])} must be an int64 or UTF-8 text")
    try:
        return Item(
            id=item_id,
            category=_category(given.get("category")),
            text=_text("text", given.get("text")),
            numbers=_numbers(given.get("numbers")),
            title=_text("title", given.get("title")),
            metadata_vector=_vector("metadata_vector", given.get("metadata_vector")),
            vector=_vector("vector", given.get("vector")),
        )
    except CatalogChangeError as error:
        raise CatalogChangeError(f"item {shown(item_id)}: its {error}") from error


def _category(category: Any) -> int | str | tuple[int | str, ...] | None:
    """The id of a category, or a path of ids."""
    if category is None:
        return None
    one = plain_id(category)
    if one is not None:
        return one
    path = []
    for each in listed("category", category, CatalogChangeError, "ids, or one id"):
        part = plain_id(each)
        if part is None:
            raise CatalogChangeError(f"category must be an id or a list of ids, got {shown(category)}")
        path.append(part)
    return tuple(path)


def _text(name: str, value: Any) -> str | None:
    text = plain_id(value)
    if value is None:
        return None
    if not isinstance(text, str) or not fits_tables(text):
        raise CatalogChangeError(f"{name} must be UTF-8 text, got {shown(value)}")
    return text


def _vector(name: str, value: Any) -> NDArray[np.float32] | None:
    return None if value is None else numbers(name, value, CatalogChangeError)


def _numbers(given: Any) -> dict[str, float | None]:
    """The numbers of an item by column, None where one is missing; NaN stands for that too."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise CatalogChangeError(f"numbers must map column to number, got {shown(given)}")
    found: dict[str, float | None] = {}
    for column, value in given.items():
        if not isinstance(column, str):
            raise CatalogChangeError(f"numbers must map the names of columns, got {shown(column)}")
        one = None if value is None else number(value)
        if (one is None and value is not None) or one in (math.inf, -math.inf):
            raise CatalogChangeError(
                f"number {shown(column)} must be a finite number, or None, got {described(value)}"
            )
        found[column] = one
    return found
