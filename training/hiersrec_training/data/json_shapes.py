"""JSON whose values have several shapes, such as ``[]`` for ``{}``: Polars refuses the file, or makes text of them.

Only files of which Polars says or does so are looked at here, object by object.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

from hiersrec_sdk.errors import DataError

_KINDS: Final = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
_SCALARS: Final = {"text", "a number", "true or false"}
_DAMAGED: Final = (ValueError, TypeError, RecursionError)
_BLOCK: Final = 1 << 20  # characters of an array that are read at once
_BETWEEN: Final = re.compile(r"[ \t\r\n,]*")


def is_array(file: Path) -> bool:
    """Whether a file holds one array, not one value a line."""
    with file.open("rb") as raw:
        return raw.read(4096).lstrip().startswith(b"[")


def _records(file: Path) -> Iterator[tuple[str, Any]]:
    """The values of a file, one a line or all in one array, each with its place, such as "line 7"."""
    with file.open(encoding="utf-8") as text:
        if is_array(file):
            for number, value in enumerate(_values_of_array(text), 1):
                yield f"object {number:,}", value
            return
        for number, line in enumerate(text, 1):
            if line.strip():
                yield f"line {number:,}", json.loads(line)


def _values_of_array(text: TextIO) -> Iterator[Any]:
    """The values of an array, read block by block."""
    decode, rest = json.JSONDecoder().raw_decode, text.read(_BLOCK)
    at = rest.index("[") + 1
    while True:
        if between := _BETWEEN.match(rest, at):
            at = between.end()
        if rest.startswith("]", at):
            return
        try:
            value, end = decode(rest, at)
        except ValueError:
            value, end = None, len(rest)
        if end < len(rest):
            yield value
            at = end
            continue
        # the value may go on; also a number, which seems to end anywhere
        block = text.read(_BLOCK)
        if not block:
            raise ValueError("the array does not end")
        rest, at = rest[at:] + block, 0


def find_bad_json(path: Path, file: Path) -> DataError | None:
    """The first line of ``file``, a copy of ``path``, that is no JSON in UTF-8, as an error."""
    in_lines = not is_array(file)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = line.decode("utf-8")
                if in_lines and text.strip():
                    json.loads(text)
            except UnicodeDecodeError as error:
                return DataError(
                    f"{path}, line {number:,}: byte 0x{line[error.start]:02x} is not UTF-8; name the encoding of the "
                    "file, such as --encoding cp1252"
                )
            except (ValueError, RecursionError) as error:
                return DataError(
                    f"{path}, line {number:,}: {line.decode()[:80].rstrip()!r} is not JSON: {error}"
                )
    try:
        if not in_lines:
            json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        return DataError(f"{path} is not JSON: {error}")
    return None


def refuse_mixed(path: Path, file: Path, column: str, parts: Sequence[str], *, is_list: bool) -> None:
    """Refuse a column that Polars has read as text, although it holds lists or objects too.

    Args:
        path: of the file, for messages.
        file: its copy in UTF-8.
        column: its name, which is ``parts`` joined by points.
        parts: the names of the fields on the way to it.
        is_list: its cells are lists of texts.

    Raises:
        DataError: it does; or it holds a zero, as Polars writes half of a character that needs two.
    """
    for place, record in _records(file):
        for value in _values(record, parts):
            for each in value if is_list and isinstance(value, list) else [value]:
                if isinstance(each, list | dict):
                    raise DataError(_mixed(path, place, column, each, "text"))
                if isinstance(each, str) and any(
                    char == "\0" or "\ud800" <= char <= "\udfff" for char in each
                ):
                    raise DataError(
                        f"{path}, {place}: {column!r} holds {_shown(each)}, with a zero character or half of a "
                        "character, as of a text that was cut in the middle: take it out of the file"
                    )


def _values(value: Any, parts: Sequence[str]) -> Iterator[Any]:
    """The values of a field, in all lists on the way to it."""
    if not parts:
        yield value
    elif isinstance(value, dict):
        yield from _values(value.get(parts[0]), parts[1:])
    elif isinstance(value, list):
        for each in value:
            yield from _values(each, parts)


def mixed_fields(path: Path, file: Path) -> dict[str, str]:
    """The fields of several shapes, named with points, and why they cannot be read; none where the file is damaged."""
    try:
        return _shapes(path, file)[1]
    except _DAMAGED:
        return {}


def without_mixed(path: Path, file: Path, copy: Path) -> dict[str, str] | None:
    """Write ``copy``, one object a line, without the fields of several shapes; NaN and infinity become null.

    Returns:
        As :func:`mixed_fields`; None where the file is damaged.
    """
    try:
        whole, mixed = _shapes(path, file)
        with copy.open("w", encoding="utf-8") as lines:
            for _, record in _records(file):
                lines.write(json.dumps(_pruned(record, whole)) + "\n")
    except _DAMAGED:
        return None
    return mixed


def _shapes(path: Path, file: Path) -> tuple[_Shape, dict[str, str]]:
    """The shape of all objects of a file, and its fields of several."""
    shapes, whole = _Shapes(path), _Shape("an object")
    for place, record in _records(file):
        if not isinstance(record, dict):
            raise TypeError(f"{place} is no object")
        shapes.joined(whole, record, "", place)
    return whole, shapes.mixed


@dataclass
class _Shape:
    """What is known of the values of a field: their kind, that of the values in their lists, and of their fields."""

    kind: str
    inner: _Shape | None = None
    fields: dict[str, _Shape | None] = field(default_factory=dict)
    is_mixed: bool = False


class _Shapes:
    """Joins the shapes of values, and keeps in ``mixed`` why those of a field do not go together."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.mixed: dict[str, str] = {}

    def joined(self, known: _Shape | None, value: Any, name: str, place: str) -> _Shape | None:
        """The shape of a value together with what is known of those before it, which is changed."""
        if value is None or (known is not None and known.is_mixed):
            return known
        kind = _KINDS[type(value)]
        known = known or _Shape(kind)
        if known.kind != kind:
            if {known.kind, kind} <= _SCALARS and "text" in (known.kind, kind):
                known.kind = "text"
                return known
            self.mixed[name] = _mixed(self._path, place, name, value, known.kind)
            known.is_mixed = True
        elif kind == "a list":
            for each in value:
                known.inner = self.joined(known.inner, each, name, place)
            known.is_mixed = known.inner is not None and known.inner.is_mixed
        elif kind == "an object":
            for key, each in value.items():
                inner = f"{name}.{key}" if name else key
                known.fields[key] = self.joined(known.fields.get(key), each, inner, place)
        return known


def _pruned(value: Any, shape: _Shape | None) -> Any:
    """The value without fields of several shapes, and without NaN."""
    if shape is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, list):
        return [_pruned(each, shape.inner) for each in value]
    if isinstance(value, dict):
        kept = ((key, each, shape.fields[key]) for key, each in value.items())
        return {key: _pruned(each, of) for key, each, of in kept if of is None or not of.is_mixed}
    return value


def _mixed(path: Path, place: str, name: str, value: Any, other: str) -> str:
    kind = _KINDS[type(value)]
    both = {kind, other}
    help_ = "write all of them in one way"
    if "a list" in both and both & _SCALARS:
        help_ = 'write all of them as lists, such as ["a"] for "a"'
    elif "an object" in both and both & _SCALARS:
        help_ = f"write all of them as objects, and name their field, such as {name}.id"
    return f"{path}, {place}: {name!r} is {kind}, {_shown(value)}, and {other} in other rows: {help_}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"
