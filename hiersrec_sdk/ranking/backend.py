"""One backend: every operation that the SDK has in native code, behind one type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.candidates import Choose
from hiersrec_sdk.ranking.covisitation import CovisitationScorer, ScoreOffsets
from hiersrec_sdk.ranking.requests import Found, Request, Search, Table, checked_k
from hiersrec_sdk.ranking.row_ranges import complement

UNKNOWN: Final = -1  # the row of an id that is not there

FindIds: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]
SessionItems: TypeAlias = Callable[
    [NDArray[np.int64], NDArray[np.float32] | None], tuple[NDArray[np.int64], NDArray[np.float32]]
]


@dataclass(frozen=True, slots=True, repr=False)
class Backend:
    """The native operations in one language. Any number of threads may call at once.

    :mod:`hiersrec_sdk.ranking.numpy_backend` defines them; the results of the others are equal to the last bit.

    Attributes:
        name: "c", "numba" or "numpy".
        search: ``search(table, requests, k)``: the best ``k`` rows of each request. It checks no more of requests than
            memory safety needs; see :class:`~hiersrec_sdk.ranking.requests.Request`.
        choose: which categories are candidates; see :func:`hiersrec_sdk.ranking.candidates.choose`.
        find_ids: ``find_ids(ids, order, wanted)``: int64 [m], the row of each of ``wanted`` int64 [m] in ``ids``
            int64 [n], which ``order`` int64 [n] sorts; -1 where it is not there. Raises :class:`IndexError` where
            ``order`` names rows outside ``ids``.
        session_items: ``session_items(session, logits)``: the distinct rows of ``session`` int64 [length], rising, and
            the sums of their ``logits`` float32 [at least length], or zeros where ``logits`` is None.
        covisitation: ``covisitation(scorer)`` prepares a scorer: a function of a session's rows, see
            :meth:`~hiersrec_sdk.ranking.covisitation.CovisitationScorer.score_offsets`.
    """

    name: str
    search: Search
    choose: Choose
    find_ids: FindIds
    session_items: SessionItems
    covisitation: Callable[[CovisitationScorer], ScoreOffsets]

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

        The score of a row is ``query · row``, float32 in a fixed order of summation, plus ``bias[row]``, plus the score
        offset of a covisited row. A row whose score is NaN never ranks; infinities are ordinary. Codes in the table
        change what is read, never what is found.

        Args:
            table: the rows.
            query: float32 [d].
            ranges: int64 [m, 2], the ``[start, stop)`` of rows to rank: within the table, disjoint, in any order.
            k: an integer ≥ 0.
            everything: after the ranges, rank all other rows too.
            bitmap, skipped, covisited, offsets: see :class:`~hiersrec_sdk.ranking.requests.Request`.

        Raises:
            TypeError: an argument is not an array, is of the wrong dtype, or not an integer.
            ValueError: a wrong shape or layout, ranges that leave the table or overlap, a negative ``k``.
        """
        request = Request(query, ranges, None, bitmap, skipped, covisited, offsets)
        return self.topk_many(table, [request], k, everything=everything)[0]

    def topk_many(
        self, table: Table, requests: Sequence[Request], k: SupportsIndex, *, everything: bool = False
    ) -> list[Found]:
        """:meth:`topk` for several requests: what lies outside of their ranges is read once for all."""
        count = min(checked_k(k), len(table))
        checked = [request.checked(table) for request in requests]
        if everything:
            checked = [request._replace(rest=complement(request.ranges, len(table))) for request in checked]
        if count == 0:
            none = Found(np.empty(0, np.float32), np.empty(0, np.int64), 0, 0)
            return [none for _ in checked]
        return self.search(table, checked, count)
