"""Random choices of one case, all of them from its seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

_T = TypeVar("_T")

_FLOATS = [0.0, -0.0, -1.0, 1.0, 1e-45, 1e-38, 3e38, -3e38, 1e19, 1e300, np.inf, -np.inf, np.nan]
_INTEGERS = [
    0,
    -1,
    1,
    2,
    255,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
]


class Chance(random.Random):
    """A source of choices. Two with the same seed choose alike."""

    def kind(self, kinds: str) -> str:
        """One of the ``kinds``, which are separated by commas. ``"2 * this"`` is chosen twice as often."""
        weights = {}
        for each in kinds.split(", "):
            times, star, name = each.partition(" * ")
            weights[name if star else each] = int(times) if star else 1
        return self.weighted(weights)

    def weighted(self, weights: Mapping[_T, int]) -> _T:
        """A key of ``weights``, in proportion to its value."""
        return self.choices([*weights], [*weights.values()])[0]

    def one_in(self, turns: int) -> bool:
        """True once in so many turns."""
        return self.randrange(turns) == 0

    def extreme(self, dtype: np.dtype[Any], near: int) -> Any:
        """A value of ``dtype`` that code tends to forget: zero, limits, or one about ``near``, such as a length."""
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                return np.array(self.choice(_FLOATS)).astype(dtype)
        if dtype.kind == "b":
            return np.bool_(self.one_in(2))
        least, most = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        value = self.choice(
            [near, near - 1, near + 1, 2 * near, near // 2, least, most, most - 1, *_INTEGERS]
        )
        return np.array(value & (2**64 - 1), dtype=np.uint64).astype(dtype)  # what is too wide is cut off

    def spoiled(self, data: bytes) -> tuple[bytes, str]:
        """``data`` with a damage of its bytes; and which one."""
        content = bytearray(data)
        size = len(content)
        at = self.randrange(size + 1)
        kind = self.kind("3 * flip, cut, insert, leave out, copy, fill")
        if kind == "flip" and size:
            bits = [self.randrange(8 * size) for _ in range(self.choice([1, 1, 2, 8, 64]))]
            for bit in bits:
                content[bit // 8] ^= 1 << bit % 8
            return bytes(content), f"{len(bits)} bits flipped, the first at byte {bits[0] // 8}"
        if kind == "cut":
            return bytes(content[:at]), f"cut off after {at} bytes"
        if kind == "insert":
            more = self.randbytes(self.choice([1, 3, 8, 100]))
            content[at:at] = more
            return bytes(content), f"{len(more)} bytes inserted at {at}"
        if kind == "leave out":
            stop = min(size, at + self.choice([1, 2, 8, 100]))
            del content[at:stop]
            return bytes(content), f"bytes {at} to {stop} left out"
        if kind == "copy":
            other, length = self.randrange(size + 1), self.choice([1, 4, 16, 200])
            content[at : at + length] = data[other : other + length]
            return bytes(content), f"{length} bytes from {other} copied to {at}"
        value, length = self.choice([0, 1, 0x7F, 0x80, 0xFF]), self.choice([1, 2, 4, 8])
        content[at : at + length] = bytes([value]) * length
        return bytes(content), f"{length} bytes of {value:#x} at {at}"
