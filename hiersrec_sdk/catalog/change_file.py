"""Catalog changes from a file, one JSON object a line:

{"upsert": {"id": "sku-7", "category": ["Shoes", "Boots"], "text": "red boots", "numbers": {"price": 80}}}
{"remove": "sku-3"}
{"move": {"id": "sku-9", "category": "Boots"}}
{"set_bias": {"id": "sku-9", "value": 1.5}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.errors import CatalogChangeError, InvalidArgumentError

_KINDS: Final = ("upsert", "remove", "move", "set_bias")
_TOGETHER: Final = 1_000  # upserts that are made at once


def apply(catalog: MutableCatalog, lines: Iterable[str]) -> dict[str, int]:
    """Make the changes of ``lines``, in order; blank lines are skipped. Returns how many items each kind concerned.

    Raises:
        CatalogChangeError: a line that is not a change, or one that cannot be made; names the line. Those before it are
            made.
    """
    done = dict.fromkeys(_KINDS, 0)
    waiting: list[tuple[int, Any]] = []

    def flush() -> None:
        try:
            done["upsert"] += catalog.upsert(item for _, item in waiting)
        except InvalidArgumentError:
            for number, item in waiting:  # to say which one it was
                _with_line(number, catalog.upsert, [item])
            raise
        waiting.clear()

    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        kind, value = _parse(number, line)
        if kind == "upsert":
            waiting.append((number, value))
        if waiting and (kind != "upsert" or len(waiting) == _TOGETHER):
            flush()
        if kind == "remove":
            done[kind] += _with_line(number, catalog.remove, [value])
        elif kind == "move":
            _with_line(number, catalog.move, *_fields(number, value, "id", "category"))
            done[kind] += 1
        elif kind == "set_bias":
            item_id, bias = _fields(number, value, "id", "value")
            _with_line(number, catalog.set_bias, [item_id], bias)
            done[kind] += 1
    if waiting:
        flush()
    return done


def _parse(number: int, line: str) -> tuple[str, Any]:
    try:
        change = json.loads(line)
    except ValueError as error:
        raise CatalogChangeError(f"line {number} is not JSON: {error}") from error
    kind, value = next(iter(change.items()), ("", None)) if isinstance(change, dict) else ("", None)
    if kind not in _KINDS or len(change) != 1:
        kinds = ", ".join(_KINDS)
        raise CatalogChangeError(
            f"line {number} must be an object with one key of {kinds}, got {line.strip()}"
        )
    return kind, value


def _fields(number: int, value: Any, *names: str) -> list[Any]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise CatalogChangeError(f"line {number} must have the keys {' and '.join(names)}, got {value!r}")
    return [value[name] for name in names]


def _with_line(number: int, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except InvalidArgumentError as error:
        raise CatalogChangeError(f"line {number}: {error}") from error
