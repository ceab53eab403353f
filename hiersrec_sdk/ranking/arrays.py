"""An argument that has to be an array of some type and shape."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FLOAT32: Final = np.dtype("float32")
INT32: Final = np.dtype("int32")
INT64: Final = np.dtype("int64")
UINT16: Final = np.dtype("uint16")
UINT64: Final = np.dtype("uint64")
LARGEST: Final = 1e15  # magnitude of what is stored of an item, so that products of vectors are finite


def array_of(name: str, value: Any, dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> NDArray[Any]:
    """``value`` as a plain ndarray over the same memory; None in ``shape`` is any length.

    Raises:
        TypeError: not an array, or of another dtype.
        ValueError: another shape, not C-contiguous, or not aligned.
    """
    if not isinstance(value, np.ndarray) or value.dtype != dtype:
        raise TypeError(f"{name} must be {_wanted(dtype, shape)}, got {described(value)}")
    if value.ndim != len(shape) or any(
        want is not None and have != want for have, want in zip(value.shape, shape, strict=True)
    ):
        raise ValueError(f"{name} must be {_wanted(dtype, shape)}, got {described(value)}")
    if not (value.flags.c_contiguous and value.flags.aligned):
        raise ValueError(f"{name} must be C-contiguous and aligned; pass np.ascontiguousarray({name})")
    return np.asarray(value)


def are_bounded(values: NDArray[np.float32]) -> bool:
    """Whether all are numbers, none larger than :data:`LARGEST`."""
    return bool(np.all(np.abs(values) <= LARGEST))


def described(value: Any) -> str:
    """The type and shape of an array, else the type."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__


def _wanted(dtype: np.dtype[Any], shape: tuple[int | None, ...]) -> str:
    lengths = ", ".join("any" if length is None else str(length) for length in shape)
    return f"an array of {dtype} [{lengths}]"
