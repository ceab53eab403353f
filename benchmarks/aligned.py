"""Arrays whose memory begins where a cache line does, as every table of a bundle does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_LINE: Final = 64


def empty(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """``np.empty(shape, dtype)``, aligned to 64 bytes; NumPy's own arrays are to 16."""
    wanted = np.dtype(dtype)
    size = int(np.prod(shape)) * wanted.itemsize
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size].view(wanted).reshape(shape)


def copied(array: NDArray[Any]) -> NDArray[Any]:
    """A copy of ``array``, aligned to 64 bytes."""
    made = empty(array.shape, array.dtype)
    made[...] = array
    return made
