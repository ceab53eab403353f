"""Columns of frames, and fields within them: "events.item" is the field ``item`` of the structs in ``events``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl


def columns_of(wanted: Sequence[str], schema: Mapping[str, Any]) -> list[pl.Expr]:
    """The columns and fields; those of structs in lists are lists."""
    fields = nested_fields(schema)
    found = []
    for name in wanted:
        outer, *parts = [name] if name in schema else fields[name]
        found.append(_field(pl.col(outer), schema[outer], parts).alias(name))
    return found


def _field(values: pl.Expr, kind: Any, parts: Sequence[str]) -> pl.Expr:
    if not parts:
        return values
    if isinstance(kind, pl.List | pl.Array):
        return values.cast(pl.List(kind.inner)).list.eval(_field(pl.element(), kind.inner, parts))
    inner = next(entry.dtype for entry in kind.fields if entry.name == parts[0])
    return _field(values.struct.field(parts[0]), inner, parts[1:])


def is_list(column: str, schema: Mapping[str, Any]) -> bool:
    """Whether the cells of a column or field are lists."""
    if column in schema:
        return isinstance(schema[column], pl.List | pl.Array)
    outer, *parts = nested_fields(schema).get(column, ("",))
    kind: Any = schema.get(outer)
    for part in parts:
        if isinstance(kind, pl.List | pl.Array):
            return True
        kind = next(entry.dtype for entry in kind.fields if entry.name == part)
    return isinstance(kind, pl.List | pl.Array)


def nested_fields(schema: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The fields of structs and of lists of structs at any depth: "outer.inner", with the names on the way, which may
    have points too."""
    found: dict[str, tuple[str, ...]] = {}
    for outer, kind in schema.items():
        while isinstance(kind, pl.List | pl.Array):
            kind = kind.inner
        if isinstance(kind, pl.Struct):
            found |= {f"{outer}.{entry.name}": (outer, entry.name) for entry in kind.fields}
            below = nested_fields({entry.name: entry.dtype for entry in kind.fields})
            found |= {f"{outer}.{name}": (outer, *parts) for name, parts in below.items()}
    return found


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """The columns with text as text, however it is stored: as categories, or as bytes that are UTF-8."""
    return frame.with_columns(_plain_values(values) for values in frame)


def _plain_values(values: pl.Series) -> pl.Series:
    kind = _plain_kind(values.dtype)
    if kind == values.dtype:
        return values
    try:
        return values.cast(kind)
    except pl.exceptions.PolarsError:  # bytes that are no text
        return values


def _plain_kind(kind: Any) -> Any:
    if isinstance(kind, pl.Categorical | pl.Enum | pl.Binary):
        return pl.String()
    return pl.List(_plain_kind(kind.inner)) if isinstance(kind, pl.List | pl.Array) else kind
