"""Symmetric int8 quantisation: a vector is ``codes * scale``, its largest magnitude at code 127."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_CODE = 127
_CHUNK = 65_536  # rows at a time: the work is done in float64, whose copy of a whole catalog would be large


def quantize_query(query: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    """Codes int8 [d] and the scale of one query float32 [d].

    A query of zeros has the scale 0. The scale is a float32 value.

    Raises:
        ValueError: a value is NaN or infinite, or the query is not [d].
    """
    if query.ndim != 1:
        raise ValueError(f"query: {list(query.shape)}; it must be [d]")
    codes, scales = quantize_rows(query[None, :])
    return codes[0], float(scales[0])


def quantize_rows(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes int8 [n, d] and scales float32 [n] of vectors float32 [n, d]; a row of zeros has the scale 0.

    Raises:
        ValueError: a value is NaN or infinite, or the vectors are not [n, d].
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors: {list(vectors.shape)}; they must be [n, d]")
    codes = np.empty(vectors.shape, np.int8)
    scales = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _CHUNK):
        chunk = vectors[start : start + _CHUNK].astype(np.float64)
        largest = np.abs(chunk).max(axis=1, initial=0.0)
        if not np.isfinite(largest).all():
            row = start + int(np.argmin(np.isfinite(largest)))
            raise ValueError(f"row {row} has a NaN or an infinity, which int8 codes cannot hold")
        chunk *= LARGEST_CODE / np.where(largest > 0, largest, 1.0)[:, None]
        codes[start : start + _CHUNK] = np.rint(chunk)
        scales[start : start + _CHUNK] = largest / LARGEST_CODE
    return codes, scales
