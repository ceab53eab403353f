"""JSON of a bundle, read strictly: what Python's own parser lets through and code stumbles over later is refused."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, Final

import numpy as np

from hiersrec_sdk.shown import shown

_DEEPEST: Final = 32  # real ones have about 8 levels; the parser recurses
_LEAST_INT, _LARGEST_INT = -(2**63), 2**64 - 1
_LONGEST_INT: Final = 20  # digits and sign
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+\\?(?:"|\Z)', re.DOTALL)


def parse_json(content: bytes) -> Any:
    """The value of the JSON text ``content``.

    Refused beside what is no JSON: NaN and infinities, integers beyond 64 bits, a key twice in one object, invalid
    UTF-8, half a surrogate pair, and nesting beyond 32 levels.

    Raises:
        ValueError: says what is wrong.
    """
    if content.count(b"[") + content.count(b"{") > _DEEPEST:
        _check_depth(content)
    text = content.decode("utf-8")
    if text.startswith("\ufeff"):
        raise ValueError("Unexpected UTF-8 BOM")
    value = _DECODER.decode(text)
    if b"\\u" in content:
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair cannot be encoded
    return value


def _check_depth(content: bytes) -> None:
    """Count brackets outside of strings, before a parser recurses into them."""
    plain = np.frombuffer(_STRING.sub(b"", content), dtype=np.uint8)
    brackets = plain[np.isin(plain, np.frombuffer(b"[]{}", dtype=np.uint8))]
    opens = (brackets == ord("[")) | (brackets == ord("{"))
    depth = np.cumsum(np.where(opens, 1, -1))
    if len(depth) and depth.max() > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} levels deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(key)} stands twice in an object")
    return found


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INT or not _LEAST_INT <= int(text) <= _LARGEST_INT:
        raise ValueError(f"the integer {text[:_LONGEST_INT]}… does not fit in 64 bits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:80]} is too large")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
