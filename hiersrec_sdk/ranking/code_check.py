"""Whether codes are those of their rows, so that the bound of ``csrc/query_codes.h`` holds: wrong ones lose results.

``csrc/code_check.h`` is the contract. Here the check stands in NumPy, which takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.codes import BLOCK, Codes, from_bfloat
from hiersrec_sdk.ranking.requests import Table

_CHUNK: Final = 16_384  # rows at a time, a multiple of BLOCK
_STORED_ZERO: Final = 128
_MIDDLE: Final = 8  # what the trailing 4 bits are taken for before they are read


def check_rows(codes: Codes, vectors: NDArray[np.float32]) -> None:
    """Check ``codes``, whose shapes were checked, against ``vectors`` float32 [n, d].

    Raises:
        ValueError: names the first row that has wrong codes.
    """
    if codes.scales[len(vectors) :].any():
        raise ValueError("padding has scales that are not 0")
    first_wrong = _in_c(codes, vectors) or partial(first_wrong_row, codes, vectors)
    for start in range(0, len(vectors), _CHUNK):
        row = first_wrong(start, min(len(vectors), start + _CHUNK))
        if row >= 0:
            raise ValueError(f"those of row {row} do not bound its vector")


def first_wrong_row(codes: Codes, vectors: NDArray[np.float32], start: int, stop: int) -> int:
    """The first row of ``[start, stop)`` whose codes do not bound it, or -1; ``start`` begins a block."""
    rows = vectors[start:stop].astype(np.float64)
    count, d = rows.shape
    stored = _stored(codes, start, count)[:, :d]
    ends = np.minimum(codes.stage_ends, d).tolist()
    scale = from_bfloat(codes.scales[start:stop]).astype(np.float64)[:, None]
    longest = codes.quantization_errors.astype(np.float64) ** 2
    suffixes = from_bfloat(codes.suffix_norms[:, start:stop]).astype(np.float64)
    with np.errstate(all="ignore"):  # of values that are not finite; they are wrong below
        exact = np.divide(rows, scale, out=np.zeros_like(rows), where=scale > 0)
        errors = np.square(np.where(scale > 0, exact - (stored.astype(np.float64) - _STORED_ZERO), 0))
        leading = (stored[:, : ends[0]] & 0xF0).astype(np.float64) + (_MIDDLE - _STORED_ZERO)
        first = np.square(np.where(scale > 0, exact[:, : ends[0]] - leading, 0))
        squares = np.square(rows)
        right = ((scale >= 0) & (scale < np.inf)).ravel() & (first.sum(axis=1) <= longest[0])
        for at, end in enumerate(ends):
            right &= errors[:, :end].sum(axis=1) <= longest[at + 1]
        for end, bound in zip(ends[:-1], suffixes, strict=True):
            right &= (bound >= 0) & (squares[:, end:].sum(axis=1) <= bound**2)
        whole = squares.sum(axis=1)
        right &= (whole <= np.float64(codes.max_norm[0]) ** 2) & ((scale.ravel() > 0) | (whole == 0))
    return -1 if right.all() else start + int(np.argmin(right))


def _stored(codes: Codes, start: int, count: int) -> NDArray[np.uint8]:
    """uint8 [count, dimensions]: the stored codes of rows from ``start`` on, in order: the inverse of the layout."""
    padded_n, ends = len(codes.scales), codes.stage_ends.tolist()
    padded = count + -count % BLOCK

    def part(first: int, width: int) -> NDArray[np.uint8]:
        """[blocks, width / 4, 16, 4] of the stage that begins at byte ``first``, with ``width`` bytes a row."""
        at = first + start * width
        return codes.codes[at : at + padded * width].reshape(-1, width // 4, BLOCK, 4)

    half = ends[0] // 2
    leading, trailing = part(0, half), part(padded_n * half, half)
    stages = [np.empty((padded // BLOCK, ends[0] // 4, BLOCK, 4), np.uint8)]
    stages[0][:, ::2] = (leading << 4) | (trailing & 0x0F)
    stages[0][:, 1::2] = (leading & 0xF0) | (trailing >> 4)
    for begin, end in pairwise(ends):
        stages.append(part(padded_n * begin, end - begin))
    whole = np.concatenate(stages, axis=1).transpose(0, 2, 1, 3)
    found: NDArray[np.uint8] = whole.reshape(padded, ends[-1])[:count]
    return found


def _in_c(codes: Codes, vectors: NDArray[np.float32]) -> Callable[[int, int], int] | None:
    """:func:`first_wrong_row` in the compiled kernel, if there is one."""
    try:
        kernel = import_module("hiersrec_sdk._kernel")
        prepare = import_module("hiersrec_sdk.ranking.c_backend").prepare
    except ImportError:
        return None
    return partial(kernel.first_wrong_codes, prepare(Table(vectors, None, codes)))
