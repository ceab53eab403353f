"""An item to add or to change, and the checks of what a user gives for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import CatalogChangeError, InvalidItemIdError


@dataclass(frozen=True, slots=True)
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
        title: to show. None: a known item keeps its title.
        vector: float32 [d], a ready vector in the space of the catalog's item vectors, in place of all metadata.

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


_FIELDS: Final = [entry.name for entry in fields(Item)]


def checked_items(items: Any) -> list[Item]:
    """The items that a user gave, checked, the last one of each id.

    Raises:
        CatalogChangeError: not a list of items, or a field of a wrong type.
        InvalidItemIdError: an id that no catalog can hold.
    """
    if isinstance(items, str | bytes | Mapping | Item) or not isinstance(items, Iterable):
        raise CatalogChangeError(f"items must be a list of Item or of mappings, got {items!r}")
    return list({item.id: item for item in map(_checked, items)}.values())


def _checked(item: Any) -> Item:
    if not isinstance(item, Item):
        if not isinstance(item, Mapping):
            raise CatalogChangeError(
                f"an item must be an Item or a mapping of {', '.join(_FIELDS)}, got {item!r}"
            )
        unknown = [name for name in item if name not in _FIELDS]
        if unknown:
            raise CatalogChangeError(f"an item has no field {unknown[0]!r}; known: {', '.join(_FIELDS)}")
        if "id" not in item:
            raise CatalogChangeError(f"an item without an id: {dict(item)!r}")
        item = Item(**item)
    item_id = _plain(item.id)
    if not isinstance(item_id, int | str) or not fits_tables(item_id):
        raise InvalidItemIdError(
            f"item id {item_id!r} of type {type(item_id).__name__} must be an int64 or UTF-8 text"
        )
    for name in ("text", "title"):
        value = getattr(item, name)
        if value is not None and not (isinstance(value, str) and fits_tables(value)):
            raise CatalogChangeError(f"item {item_id!r}: its {name} must be UTF-8 text, got {value!r}")
    numbers = {} if item.numbers is None else item.numbers
    if not isinstance(numbers, Mapping):
        raise CatalogChangeError(f"item {item_id!r}: numbers must map column to number, got {numbers!r}")
    category = _plain(item.category)
    if isinstance(category, Sequence) and not isinstance(category, str):
        category = tuple(_plain(each) for each in category)
    parts = category if isinstance(category, tuple) else (category,)
    if not all(isinstance(part, int | str) for part in parts) and category is not None:
        raise CatalogChangeError(
            f"item {item_id!r}: category must be an id or a list of ids, got {category!r}"
        )
    made: Item = replace(item, id=item_id, numbers=numbers, category=category, title=item.title or None)
    return made


def checked_ids(name: str, ids: Any) -> list[Any]:
    """The item ids that a user gave to the method ``name``.

    Raises:
        CatalogChangeError: not a list of ids.
    """
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise CatalogChangeError(f"{name}: ids must be a list of item ids, got {ids!r}")
    return ids.tolist() if isinstance(ids, np.ndarray) else list(ids)


def fits_tables(value: int | str) -> bool:
    """Whether a bundle can hold the id or text: an int64, or valid UTF-8."""
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 63
    return value.encode("utf-8", "replace").decode() == value


def _plain(value: Any) -> Any:
    """A NumPy scalar or array as what Python has for it."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value
