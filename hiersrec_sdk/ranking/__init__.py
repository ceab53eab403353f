"""Top-k over ranges of rows: one signature, three backends that agree bit for bit.

>>> import numpy as np
>>> from hiersrec_sdk.ranking import get_backend
>>> vectors = np.eye(4, dtype=np.float32)
>>> query = np.array([1, 3, 2, 3], np.float32)
>>> scores, rows = get_backend("numpy").topk(vectors, query, np.array([[0, 4]]), 3)
>>> rows
array([1, 3, 2])
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import BackendError
from hiersrec_sdk.ranking.quantize import quantize_query, quantize_rows
from hiersrec_sdk.ranking.scan import Kernel, checked_scan

__all__ = ["Backend", "available_backends", "get_backend", "quantize_query", "quantize_rows"]

_BACKENDS = ("c", "numba", "numpy")  # in order of preference


class Backend(Protocol):
    """Ranks the rows of a table against one query."""

    @property
    def name(self) -> str: ...

    def topk(
        self,
        vectors: NDArray[np.float32] | NDArray[np.int8],
        query: NDArray[np.float32] | NDArray[np.int8],
        ranges: NDArray[np.int64],
        k: SupportsIndex,
        *,
        scales: NDArray[np.float32] | None = None,
        query_scale: float = 1.0,
        bias: NDArray[np.float32] | None = None,
        bitmap: NDArray[np.uint64] | None = None,
        deny: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best ``k`` rows, by higher score, then lower row.

        The score of a row is ``query · row`` (float32 in a fixed order of summation, or int8: the exact integer dot
        product times ``query_scale * scales[row]``), plus ``bias[row]``. A row whose score is NaN never ranks;
        infinities are ordinary. Arrays may be read-only and memory-mapped. Any number of threads may call at once.

        Args:
            vectors: float32 or int8 [n, d], C-contiguous.
            query: [d], of the dtype of ``vectors``.
            ranges: int64 [m, 2], the ``[start, stop)`` of rows to score: within the table, disjoint, in any order.
            k: whole number of at least 0.
            scales: float32 [n], needed with int8 vectors and only there.
            query_scale: likewise for the query.
            bias: float32 [n].
            bitmap: uint64 [ceil(n / 64)]: row r is listed where ``bitmap[r // 64] >> (r % 64) & 1``.
            deny: False: only listed rows rank. True: listed rows are left out.

        Returns:
            Scores float32 and rows int64, both of one length: k, or fewer where fewer rows can rank.

        Raises:
            TypeError: an argument is no array, of the wrong dtype, or no whole number.
            ValueError: a wrong shape or layout, ranges that leave the table or overlap, a negative ``k``.
        """
        ...


def available_backends() -> tuple[str, ...]:
    """The backends that can be used here, best first: of ``"c"``, ``"numba"``, ``"numpy"``.

    ``"c"`` needs the compiled extension, ``"numba"`` the package numba, which this does not import.
    """
    return tuple(name for name in _BACKENDS if _is_available(name))


def get_backend(name: str | None = None) -> Backend:
    """The backend ``name``, or the best that is available.

    ``"numba"`` compiles when it is first asked for, which takes seconds.

    Raises:
        BackendError: there is no such backend, or not here.
    """
    available = available_backends()
    if name is None:
        name = available[0]
    if name not in available:
        raise BackendError(
            f"ranking backend {name!r} is not available here; available: {', '.join(available)}"
        )
    try:
        kernel = import_module(f"{__name__}.{name}_backend")
    except ImportError as error:
        raise BackendError(f"ranking backend {name!r} cannot be loaded: {error}") from error
    return _CheckedBackend(name, kernel.topk)


def _is_available(name: str) -> bool:
    if name == "c":
        try:
            import_module("hiersrec_sdk._kernel")
        except ImportError:
            return False
    return name != "numba" or find_spec("numba") is not None


class _CheckedBackend:
    """A kernel behind the checks that all of them share."""

    def __init__(self, name: str, kernel: Kernel) -> None:
        self.name = name
        self._kernel = kernel

    def __repr__(self) -> str:
        return f"<ranking backend {self.name!r}>"

    def topk(
        self, vectors: Any, query: Any, ranges: Any, k: SupportsIndex, **options: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See :meth:`Backend.topk`."""
        scan = checked_scan(vectors, query, ranges, k, **options)
        if scan.k == 0:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        return self._kernel(scan)
