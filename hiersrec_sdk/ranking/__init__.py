"""Top-k over ranges of rows: one signature, three backends that agree bit for bit.

>>> import numpy as np
>>> from hiersrec_sdk.ranking import Table, get_backend
>>> table = Table(np.eye(4, dtype=np.float32))
>>> query = np.array([1, 3, 2, 3], np.float32)
>>> get_backend("numpy").topk(table, query, np.array([[0, 4]]), 3).rows
array([1, 3, 2])
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import BackendError
from hiersrec_sdk.ranking.candidates import Choose, choose
from hiersrec_sdk.ranking.codes import Codes
from hiersrec_sdk.ranking.requests import Found, Request, Search, Table, checked_k
from hiersrec_sdk.ranking.row_ranges import complement

__all__ = ["Backend", "Codes", "Found", "Request", "Table", "available_backends", "get_backend"]

_BACKENDS = ("c", "numba", "numpy")  # in order of preference


class Backend:
    """Ranks the rows of a table. Any number of threads may call at once.

    Attributes:
        name: "c", "numba" or "numpy".
        search: answers requests that have been checked; see :data:`hiersrec_sdk.ranking.requests.Search`.
        choose: which categories are candidates; see :func:`hiersrec_sdk.ranking.candidates.choose`.
    """

    def __init__(self, name: str, search: Search, choose: Choose = choose) -> None:
        self.name = name
        self.search = search
        from hiersrec_sdk.ranking.candidates import Choice
        from hiersrec_sdk.ranking import lookup

        self.choose = lambda *a: Choice(*choose(*a))
        self.find_ids = lookup.find if name == "c" else lookup.find_in_numpy
        self.session_items = lookup.own_items if name == "c" else lookup.own_items_in_numpy

    def covisitation(self, scorer):
        return scorer.boosts if self.name == "c" else scorer.boosts_in_numpy

    def __repr__(self) -> str:
        return f"<ranking backend {self.name!r}>"

    def topk(
        self,
        table: Table,
        query: NDArray[np.float32],
        ranges: NDArray[np.int64],
        k: SupportsIndex,
        *,
        everything: bool = False,
        bitmap: NDArray[np.uint64] | None = None,
        skipped: NDArray[np.int64] | None = None,
        covisited: NDArray[np.int64] | None = None,
        offsets: NDArray[np.float32] | None = None,
    ) -> Found:
        """The best ``k`` rows for one query, by higher score, then lower row.

        The score of a row is ``query · row``, float32 in a fixed order of summation, plus ``bias[row]``, plus the boost
        of an own row. A row whose score is NaN never ranks; infinities are ordinary. Codes in the table change what
        is read, never what is found.

        Args:
            table: the rows.
            query: float32 [d].
            ranges: int64 [m, 2], the ``[start, stop)`` of rows to rank: within the table, disjoint, in any order.
            k: whole number of at least 0.
            everything: after the ranges, rank all other rows too.
            bitmap, skipped, own, boosts: see :class:`Request`.

        Raises:
            TypeError: an argument is no array, of the wrong dtype, or no whole number.
            ValueError: a wrong shape or layout, ranges that leave the table or overlap, a negative ``k``.
        """
        request = Request(query, ranges, None, bitmap, skipped, covisited, offsets)
        return self.topk_many(table, [request], k, everything=everything)[0]

    def topk_many(
        self, table: Table, requests: Sequence[Request], k: SupportsIndex, *, everything: bool = False
    ) -> list[Found]:
        """As :meth:`topk`, of several requests at once: what lies outside of their ranges is read once for all."""
        count = min(checked_k(k), len(table))
        checked = [request.checked(table) for request in requests]
        if everything:
            checked = [request._replace(rest=complement(request.ranges, len(table))) for request in checked]
        if count == 0:
            none = Found(np.empty(0, np.float32), np.empty(0, np.int64), 0, 0)
            return [none for _ in checked]
        return self.search(table, checked, count)


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
    return Backend(name, kernel.search, getattr(kernel, "choose", choose))


def _is_available(name: str) -> bool:
    if name == "c":
        try:
            import_module("hiersrec_sdk._kernel")
        except ImportError:
            return False
    return name != "numba" or find_spec("numba") is not None
