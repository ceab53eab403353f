"""Work on the small arrays of one session, for which no thread gives the global lock away.

NumPy gives it away for such work too. A thread that waits for it takes it then, and to get it back takes longer than
the work itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray


def _copy_rows(table: NDArray[np.float32], rows: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(table):
        raise IndexError(f"a row is not in [0, {len(table)})")
    table.take(rows, axis=0, out=out, mode="clip")  # which needs no copy of what is written, as "raise" does


def _all_finite(values: NDArray[np.float32]) -> bool:
    return bool(np.isfinite(values).all())


try:
    from hiersrec_sdk import _kernel
except ImportError:  # nothing was compiled
    _native = (_copy_rows, _all_finite)
else:
    _native = (_kernel.copy_rows, _kernel.all_finite)

copy_rows: Final[Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]], None]] = _native[0]
"""Copy ``rows`` int64 [m] of ``table`` float32 [n, d] to ``out`` float32 [m, d]. IndexError: a row is not there."""

all_finite: Final[Callable[[NDArray[np.float32]], bool]] = _native[1]
"""Whether ``values`` float32 [n] hold no NaN and no infinity."""
