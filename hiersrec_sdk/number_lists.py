"""What a number is, and a list of numbers: for vectors, biases and the numbers of an item."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import InvalidArgumentError
from hiersrec_sdk.id_lists import listed
from hiersrec_sdk.shown import described

_NUMBERS: Final = (int, float, np.integer, np.floating, Decimal, Fraction)
_NO_NUMBERS: Final = (bool, np.timedelta64)  # though Python and NumPy count them among these


def number(value: Any) -> float | None:
    """The number as a float, infinite where it is too large for one; None where it is none: text, a bool, an array."""
    kind = type(value)
    if not issubclass(kind, _NUMBERS) or issubclass(kind, _NO_NUMBERS):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    except ValueError:  # a signaling NaN
        return math.nan


def numbers(name: str, value: Any, error: type[InvalidArgumentError]) -> NDArray[np.float32]:
    """float32 [length] of the list of numbers that the argument ``name`` is: a list, a tuple, an array, a column;
    infinite where float32 cannot hold one.

    Raises:
        error: it is no list, or holds something that is no number.
    """
    kind = type(value)
    if kind is np.ndarray and value.ndim == 1 and value.dtype == np.float32:
        return np.asarray(value, dtype=np.float32)
    with np.errstate(over="ignore"):
        if kind is np.ndarray and value.ndim == 1 and value.dtype.kind in "iuf":
            return np.asarray(value, dtype=np.float32)
        every = listed(name, value, error, "numbers")
        if not isinstance(every, np.ndarray) and not set(map(type, every)) <= {float}:
            every = [number(each) for each in every]
            if None in every:
                wrong = list(value)[every.index(None)] if kind in (list, tuple) else value
                raise error(f"{name} must be a list of numbers, got {described(wrong)}")
        return np.array(every, dtype=np.float64).astype(np.float32)
