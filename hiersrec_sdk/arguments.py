"""Checks of single arguments: of their types, which Python leaves to whoever is called."""

from __future__ import annotations

import math
import re
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.cpus import MOST_THREADS, resolved
from hiersrec_sdk.errors import InvalidLevelError, InvalidOptionError, InvalidRowError, InvalidThreadsError
from hiersrec_sdk.id_lists import listed
from hiersrec_sdk.shown import shown

_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def checked_bool(name: str, value: Any, error: type[InvalidOptionError] = InvalidOptionError) -> bool:
    """The bool that the argument ``name`` is: 0, "no" and [] are none."""
    if type(value) not in (bool, np.bool_):
        raise error(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def checked_text(name: str, value: Any, error: type[InvalidOptionError] = InvalidOptionError) -> str:
    """The text that the argument ``name`` is."""
    if not isinstance(value, str) or not value:
        raise error(f"{name} must be a text, got {shown(value)}")
    return value


def checked_threads(value: Any) -> int:
    """``threads``, checked: how many.

    Raises:
        InvalidThreadsError: not an integer from 1 to ``MOST_THREADS``, nor "auto".
    """
    threads = resolved(value)
    if not is_integer(threads, 1) or threads > MOST_THREADS:
        raise InvalidThreadsError(
            f"threads must be an integer from 1 to {MOST_THREADS}, or 'auto', got {shown(value)}"
        )
    return int(threads)


def checked_level(value: Any, levels: int) -> int:
    """``level`` of a category tree of so many levels, checked and counted from the top.

    Raises:
        InvalidLevelError: there is no such level.
    """
    if not is_integer(value) or not -levels <= value < levels:
        raise InvalidLevelError(f"level must be an integer from 0 to {levels - 1}, or -1, got {shown(value)}")
    return range(levels)[int(value)]


def checked_rows(given: Any, stop: int) -> NDArray[np.int64]:
    """The rows that a user gave: int64, all below ``stop``.

    Raises:
        InvalidRowError: not a list of rows, or one that is not there, such as the -1 of an unknown id.
    """
    rows = listed("rows", given, InvalidRowError, "rows of the catalog")
    if not isinstance(rows, np.ndarray):
        wrong = [row for row in rows if not is_integer(row, 0) or row >= stop]
        if not wrong:
            return np.array(rows, dtype=np.int64)
    elif not len(rows) or 0 <= rows.min() <= rows.max() < stop:
        return rows.astype(np.int64, copy=False)
    else:
        wrong = rows[(rows < 0) | (rows >= stop)].tolist()
    raise InvalidRowError(f"rows must be integers from 0 to {stop - 1}, got {shown(wrong[0])}")


def integer_of(text: str) -> int | None:
    """The integer that ``text`` is: a sign and the digits 0 to 9, and nothing of what else ``int()`` takes, such as
    ``1_0``, ``٣`` or blanks. None where it is none, or of thousands of digits."""
    try:
        return int(text) if _INTEGER.fullmatch(text) else None
    except ValueError:
        return None


def number_of(text: str) -> float | None:
    """The finite number that ``text`` is, such as ``-1.5e3``; None where it is none."""
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


def is_utf8(text: str) -> bool:
    """Whether UTF-8 has all of ``text``: a lone surrogate, as of a file whose name is in no encoding, it has not."""
    return text.encode("utf-8", "replace").decode() == text


def is_one_of(value: Any, names: Any) -> bool:
    """Whether ``value`` is one of the strings of a ``Literal``."""
    return isinstance(value, str) and value in get_args(names)


def is_integer(value: Any, least: int | None = None) -> bool:
    """Whether ``value`` is an integer, of Python or NumPy, of at least ``least``."""
    # by its class, as a mock may say that it is an int; bool is one and timedelta64 a NumPy integer, but neither counts
    is_one = issubclass(type(value), int | np.integer) and not isinstance(value, bool | np.timedelta64)
    return is_one and (least is None or bool(value >= least))
