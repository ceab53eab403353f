"""Catalog changes from a file, one JSON object a line:

{"upsert": {"id": "sku-7", "category": ["Shoes", "Boots"], "text": "red boots", "numbers": {"price": 80}}}
{"remove": "sku-3"}
{"move": {"id": "sku-9", "category": "Boots"}}
{"set_bias": {"id": "sku-9", "value": 1.5}}
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from hiersrec_sdk.bundle.strict_json import parse_json
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.errors import CatalogChangeError, InvalidArgumentError
from hiersrec_sdk.shown import shortened, shown

_KINDS: Final = ("upsert", "remove", "move", "set_bias")
_TOGETHER: Final = 1_000  # upserts that are made at once

_Change = tuple[int, str, Any]
"""The number of a line, the kind of its change, and the value."""


def apply(catalog: MutableCatalog, lines: Iterable[str | bytes]) -> dict[str, int]:
    """Make the changes of ``lines``, text or UTF-8, in order; blank lines are skipped. Returns how many items each kind
    concerned.

    Whatever ends it early, an error or Ctrl-C: the changes up to some line are made, and none of those after it.

    Raises:
        CatalogChangeError: a line that is not a change, or one that cannot be made; names the line. Those before it are
            made.
    """
    done = dict.fromkeys(_KINDS, 0)
    for changes in _batches(lines):
        if len(changes) > 1:
            try:
                done["upsert"] += catalog.upsert([value for _, _, value in changes])
                continue
            except InvalidArgumentError:
                pass  # one by one, to say which one it is
        for number, kind, value in changes:
            try:
                done[kind] += _make(catalog, kind, value)
            except InvalidArgumentError as error:
                raise CatalogChangeError(f"line {number}: {error}") from error
    return done


def _batches(lines: Iterable[str | bytes]) -> Iterator[list[_Change]]:
    """The changes in order, upserts of distinct items together; then the error of a line that cannot be read."""
    together: list[_Change] = []
    ids: set[str] = set()
    failed = None
    try:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            kind, value = _parse(number, line)
            item_id = json.dumps(value.get("id")) if kind == "upsert" and isinstance(value, dict) else None
            if together and (item_id is None or item_id in ids or len(together) == _TOGETHER):
                yield together
                together, ids = [], set()
            if item_id is None:
                yield [(number, kind, value)]
            else:
                together.append((number, kind, value))
                ids.add(item_id)
    except Exception as error:
        failed = error
    if together:
        yield together
    if failed is not None:
        raise failed


def _parse(number: int, line: str | bytes) -> tuple[str, Any]:
    try:
        content = line.encode() if isinstance(line, str) else line
        change = parse_json(content.removeprefix(codecs.BOM_UTF8) if number == 1 else content)
    except ValueError as error:
        raise CatalogChangeError(f"line {number} is not JSON: {shortened(error)}") from error
    kind, value = next(iter(change.items()), ("", None)) if isinstance(change, dict) else ("", None)
    if kind not in _KINDS or len(change) != 1:
        kinds = ", ".join(_KINDS)
        raise CatalogChangeError(
            f"line {number} must be an object with one key of {kinds}, got {shown(line.strip())}"
        )
    return kind, value


def _make(catalog: MutableCatalog, kind: str, value: Any) -> int:
    """Make one change; returns how many items it concerned."""
    if kind == "upsert":
        return catalog.upsert([value])
    if kind == "remove":
        return catalog.remove([value])
    if kind == "move":
        catalog.move(*_fields(value, "id", "category"))
    else:
        item_id, bias = _fields(value, "id", "value")
        catalog.set_bias([item_id], bias)
    return 1


def _fields(value: Any, *names: str) -> list[Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise CatalogChangeError(f"it must have the keys {' and '.join(names)}, got {shown(value)}")
    return [value[name] for name in names]
