"""What a list of ids is, and what an id is: one place decides it for every argument.

A list of ids is a list, a tuple, a NumPy array of one dimension, a pandas or Polars Series, an Arrow array, or anything
else that is iterated over: a generator, a deque, a range; and a set, where the order does not matter. What can be
iterated over but means something else is refused by name: a string, a mapping, a table, values under a mask.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, MappingView, Sequence, Set
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import HierSRecError, InvalidArgumentError
from hiersrec_sdk.shown import described, shown

_NO_IDS: Final = (
    "MmV"  # kinds of arrays whose elements become integers or tuples in a list: times, and structures
)
# Columns of tables, by module: their classes, and the method that makes a list of one.
_COLUMNS: Final = (
    ("pandas", ("Series", "Index"), "tolist"),
    ("pandas.api.extensions", ("ExtensionArray",), "tolist"),
    ("polars", ("Series",), "to_list"),
    ("pyarrow", ("Array", "ChunkedArray"), "to_pylist"),
)


def listed(
    name: str,
    value: Any,
    error: type[InvalidArgumentError],
    of: str = "item ids",
    *,
    ordered: bool = True,
    dimensions: int | None = 1,
) -> Sequence[Any] | NDArray[Any]:
    """The elements of the argument ``name``: a list, a tuple or an array of integers as it is, of all else a list.

    What the elements are is checked by whoever looks them up.

    Args:
        name: of the argument, for messages.
        value: what was given.
        error: what to raise.
        of: what it holds, for messages.
        ordered: whether the order matters, so that a set is refused.
        dimensions: of an array; None: any but 0.
    """
    kind = type(value)
    if kind is list or kind is tuple:
        found: Sequence[Any] = value
        return found
    if _is(kind, "numpy.ma", "MaskedArray"):
        raise error(f"{name} has a mask, whose values must not count; give its .compressed()")
    if hasattr(kind, "columns") or hasattr(kind, "__dataframe__"):
        raise error(f"{name} is a table, {kind.__name__}; give the column of it that holds {of}")
    if issubclass(kind, np.ndarray):
        fits = value.ndim == dimensions if dimensions else value.ndim
        if not fits or value.dtype.kind in _NO_IDS:
            raise error(f"{name} must be a list of {of}, got {described(value)}")
        return np.asarray(value) if value.dtype.kind == "i" or not dimensions else value.tolist()
    to_list = _to_list(kind)
    if to_list is None:
        _refuse(name, value, error, of, ordered)
    try:
        return list(value) if to_list is None else getattr(value, to_list)()
    except HierSRecError:
        raise
    except Exception as failure:
        raise error(
            f"{name} must be a list of {of}, but reading it raised {type(failure).__name__}: {shown(str(failure))}"
        ) from failure


def plain_id(value: Any) -> int | str | None:
    """The id as Python has it, without the types of NumPy and subclasses; None where it cannot be one."""
    kind = type(value)
    if kind is int or kind is str:
        found: int | str = value
        return found
    if issubclass(kind, str):
        return str.__str__(value)  # not str(): that of an enumeration's member is its name
    # bool is an int and timedelta64 a NumPy integer, but neither is an id
    if issubclass(kind, int) and kind is not bool:
        return int.__index__(value)
    if issubclass(kind, np.integer) and not issubclass(kind, np.timedelta64):
        return int(value)
    return None


def is_unordered(kind: type) -> bool:
    """Whether it is a class of sets. The keys of a dictionary are one too, but have an order."""
    return issubclass(kind, Set) and not issubclass(kind, MappingView)


def is_column(value: Any) -> bool:
    """Whether ``value`` is a column of a table of pandas, Polars or Arrow."""
    return _to_list(type(value)) is not None


def _refuse(name: str, value: Any, error: type[InvalidArgumentError], of: str, ordered: bool) -> None:
    kind, hint = type(value), ""
    if hasattr(kind, "toarray"):
        hint = ": a sparse matrix; give the indices that are meant, as a list"
    elif issubclass(kind, np.generic):
        hint = ", which is one value"
    elif any(hasattr(kind, each) for each in ("__array__", "__dlpack__", "__array_interface__")):
        hint = ": an array of another library; give its .tolist()"
    elif ordered and is_unordered(kind):
        hint = ", which has no order"
    elif issubclass(kind, Iterable) and not issubclass(
        kind, str | bytes | bytearray | memoryview | Mapping | type
    ):
        return
    raise error(f"{name} must be a list of {of}, got {described(value)}{hint}")


def _to_list(kind: type) -> str | None:
    """The method of a column's class that makes a list of one; None for every other class."""
    return next((method for module, names, method in _COLUMNS if _is(kind, module, *names)), None)


def _is(kind: type, module: str, *names: str) -> bool:
    """Whether a class is one of these, or a subclass. A module that nobody has imported has made no value; nor has one
    that another thread is importing, and which lacks them yet."""
    classes = (getattr(sys.modules.get(module), name, None) for name in names)
    return any(isinstance(each, type) and issubclass(kind, each) for each in classes)
