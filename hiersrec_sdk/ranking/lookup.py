"""Loops over a session's few items that every call makes: in C where the extension is there, else in NumPy."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

try:
    from hiersrec_sdk import _kernel
except ImportError:
    _compiled: Any = None
else:
    _compiled = _kernel

NOWHERE: Final = -1


def find_in_numpy(
    ids: NDArray[np.int64], order: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where each of ``wanted`` int64 [m] stands in ``ids`` [n >= 1], which ``order`` [n] sorts; -1 for nowhere."""
    places = ids.searchsorted(wanted, sorter=order)
    rows = order.take(places, mode="clip")
    rows[ids[rows] != wanted] = NOWHERE
    return rows


def own_items_in_numpy(
    session: NDArray[np.int64], logits: NDArray[np.float32] | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Distinct rows of a session, rising, and the sums of their logits [at least len(session)], or zeros."""
    rows, places = np.unique(session, return_inverse=True)
    sums = np.zeros(len(rows), dtype=np.float32)
    if logits is not None:
        np.add.at(sums, places, logits[: len(session)])
    return rows, sums


find = find_in_numpy if _compiled is None else _compiled.find
own_items = own_items_in_numpy if _compiled is None else _compiled.own_items
