"""A value in a message: short, whatever it is."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Set
from typing import Any, Final

import numpy as np

_MOST: Final = 100  # characters
_DIGITS: Final = 40  # of an integer that is written out
_LARGE: Final = 1_000  # elements of a set or mapping, which is sorted to be shown


class _Short(reprlib.Repr):
    """``repr()`` with the middle of long values left out; what a failing ``__repr__`` raises stays inside."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = 60

    def repr1(self, x: Any, level: int) -> str:
        """The text of a value ``level`` levels above the deepest one that is shown."""
        if isinstance(x, np.ndarray):
            return f"an array of {x.dtype} {list(x.shape)}"[: self.maxother]
        if isinstance(x, bytes | bytearray) and len(x) > self.maxstring:
            return f"{x[: self.maxstring]!r}..."
        if isinstance(x, Set | Mapping) and len(x) > _LARGE:
            return f"<{type(x).__name__} of {len(x):,}>"
        return super().repr1(x, level)

    def repr_int(self, x: int, level: int) -> str:
        """The integer, or its size: Python refuses to write out some."""
        if abs(x) < 10**_DIGITS:
            return repr(x)
        return f"<integer of about {x.bit_length() * 30_103 // 100_000:,} digits>"


_SHORT: Final = _Short()


def shown(value: Any) -> str:
    """``repr(value)`` for a message, at most about 100 characters in one line. Never raises an ``Exception``."""
    try:
        text = _SHORT.repr(value)
    except Exception:  # of an object that is hostile in more than its __repr__
        return f"<{type(value).__name__}>"
    if "\n" in text:  # a table
        text = " ".join(text.split())
    return text if len(text) <= _MOST else f"{text[: _MOST - 20]}...{text[-17:]}"


def shortened(text: object, most: int = 400) -> str:
    """The text of a path or of another error, at most about ``most`` characters: the middle is left out."""
    whole = str(text)
    return whole if len(whole) <= most else f"{whole[: most // 2]}...{whole[-most // 4 :]}"


def described(value: Any) -> str:
    """A value of the wrong type, for a message."""
    if value is None or issubclass(type(value), np.ndarray):
        return shown(value)
    return f"{shown(value)}, of type {type(value).__name__}"


def printable(text: str) -> str:
    """``text`` with blanks in place of what would steer a terminal, or break a line."""
    return "".join(character if character.isprintable() else " " for character in text)
