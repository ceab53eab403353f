"""The hashes of string ids: the compiled ones are those of hashlib."""

from __future__ import annotations

import hashlib
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.ranking.id_hashes import hash_of, hashes_in_python, hashes_of
from tests.sdk.ranking.cases import needs_kernel


def laid_out(parts: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return np.frombuffer(b"".join(parts), np.uint8), np.cumsum([0, *map(len, parts)], dtype=np.int64)


@given(st.lists(st.binary(max_size=20) | st.integers(0, 600).map(lambda size: b"x" * size)))
def test_they_are_those_of_hashlib(parts: list[bytes]) -> None:
    digests = [hashlib.blake2b(part, digest_size=8).digest() for part in parts]
    wanted = [int.from_bytes(digest, "little") for digest in digests]
    assert hashes_of(*laid_out(parts)).tolist() == wanted
    assert hashes_in_python(*laid_out(parts)).tolist() == wanted
    assert [hash_of(part) for part in parts] == wanted


@needs_kernel
@pytest.mark.parametrize(
    ("offsets", "error"),
    [
        (np.array([0, 4]), ValueError),
        (np.array([-1, 3]), ValueError),
        (np.array([0, 2, 1, 3]), ValueError),
        (np.array([0, 2**62, 3]), ValueError),
        (np.empty(0, np.int64), ValueError),
        (np.array([0, 3], np.int32), TypeError),
    ],
)
def test_the_kernel_checks_offsets(offsets: NDArray[Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="offsets"):
        import_module("hiersrec_sdk._kernel").hash_strings(np.zeros(3, np.uint8), offsets)
