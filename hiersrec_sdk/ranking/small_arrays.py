"""Work on the small arrays of one session, as NumPy does it.

NumPy gives the global lock away for it: a thread that waits takes the lock then, and to get it back takes longer than
the work itself. The kernel keeps it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def copy_rows(table: NDArray[np.float32], rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Copy ``rows`` int64 [m] of ``table`` float32 [n, d] to ``out`` float32 [m, d].

    Raises:
        IndexError: a row is not there.
    """
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(table):
        raise IndexError(f"a row is not in [0, {len(table)})")
    table.take(rows, axis=0, out=out, mode="clip")  # which needs no copy of what is written, as "raise" does


def all_finite(values: NDArray[np.float32]) -> bool:
    """Whether ``values`` float32 [n] hold no NaN and no infinity."""
    return bool(np.isfinite(values).all())
