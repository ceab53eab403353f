"""The hashes by which string ids are found, see ``csrc/id_hashes.h``."""

from __future__ import annotations

import hashlib
from importlib import import_module
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def hash_of(text: bytes | memoryview) -> int:
    """The hash of the id with this UTF-8."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def hashes_of(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 [n]: the hash of each id; by the compiled kernel where there is one, which is faster.

    Args:
        data: uint8 [total], the UTF-8 of all ids.
        offsets: int64 [n + 1], where each begins and ends, rising.
    """
    try:
        hash_strings = import_module("hiersrec_sdk._kernel").hash_strings
    except ImportError:
        return hashes_in_python(data, offsets)
    found: NDArray[np.uint64] = hash_strings(data, offsets)
    return found


def hashes_in_python(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The definition of :func:`hashes_of`."""
    texts, edges = data.data, offsets.tolist()
    return np.array([hash_of(texts[begin:end]) for begin, end in pairwise(edges)], dtype=np.uint64)
