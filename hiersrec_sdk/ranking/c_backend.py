"""The ranking kernel in C: see csrc/topk.h."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk import _kernel
from hiersrec_sdk.ranking.scan import Scan


def topk(scan: Scan) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and rows of the best ``scan.k``, by higher score, then lower row. Runs without the GIL."""
    scores = np.empty(scan.k, np.float32)
    rows = np.empty(scan.k, np.int64)
    where = (scan.ranges, scan.bias, scan.bitmap, scan.deny, scores, rows)
    if scan.scales is None:
        count = _kernel.topk_float32(scan.vectors, scan.query, *where)
    else:
        count = _kernel.topk_int8(scan.vectors, scan.scales, scan.query, float(scan.query_scale), *where)
    return scores[:count], rows[:count]
