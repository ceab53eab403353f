"""One backend: every operation that the SDK has in native code, behind one type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.candidates import Choose
from hiersrec_sdk.ranking.covisitation import CovisitationScorer, ScoreOffsets
from hiersrec_sdk.ranking.requests import Found, Request, Search, Table, checked_k
from hiersrec_sdk.ranking.row_ranges import complement
from hiersrec_sdk.ranking.small_arrays import all_finite, copy_rows

UNKNOWN: Final = -1  # the row of an id that is not there

FindIds: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]
CopyRows: TypeAlias = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]], None]
AllFinite: TypeAlias = Callable[[NDArray[np.float32]], bool]
SessionItems: TypeAlias = Callable[
    [NDArray[np.int64], NDArray[np.float32] | None], tuple[NDArray[np.int64], NDArray[np.float32]]
]


class Scope(NamedTuple):
    """What calls that are alike ask of the rows of a bundle, whatever the session.

    Attributes:
        table: the rows.
        covisitation: the co-visitation scorer, or None.
        leaves: int64 [categories, 2], the rows of each leaf category.
        eligible: int64 [categories], how many rows of each may rank; None: all.
        bitmap: uint64, the rows that may rank, see :class:`~hiersrec_sdk.ranking.requests.Request`; or None.
        deleted: int64, rising, rows whose items lie elsewhere or nowhere; or None.
        extra_offsets, extra_rows: int64 [categories + 1] and [extras], rows that are listed in a leaf category in
            addition to the one that they lie in; None where there are none.
        rows, top_p: how many rows, and how much of the probability, the candidates must hold.
        exact: whether all rows rank.
        k: most results, at least 1.
        ordered: how many categories to name with their probabilities.
        max_length: most clicks of a session.
    """

    table: Table
    covisitation: CovisitationScorer | None
    leaves: NDArray[np.int64]
    eligible: NDArray[np.int64] | None
    bitmap: NDArray[np.uint64] | None
    deleted: NDArray[np.int64] | None
    extra_offsets: NDArray[np.int64] | None
    extra_rows: NDArray[np.int64] | None
    rows: int
    top_p: float
    exact: bool
    k: int
    ordered: int
    max_length: int


class RankedSession(NamedTuple):
    """The best rows of a bundle for one session, and which could rank.

    Attributes:
        scores, rows, rows_scored, bytes_read: as :class:`~hiersrec_sdk.ranking.requests.Found`.
        taken, ranges, best: as :class:`~hiersrec_sdk.ranking.candidates.Choice`; after the ranges of the categories,
            those of the rows that are listed in them beside.
        covisited: int64, rising: rows that rank whatever the categories are.
        offsets: float32, what is added to their scores.
        elsewhere: int64, rising: rows that would be covisited, but that are deleted or lie beyond the table.
        elsewhere_offsets: float32, what would be added to their scores.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    rows_scored: int
    bytes_read: int
    taken: NDArray[np.int64]
    ranges: NDArray[np.int64]
    best: tuple[tuple[int, float], ...]
    covisited: NDArray[np.int64]
    offsets: NDArray[np.float32]
    elsewhere: NDArray[np.int64]
    elsewhere_offsets: NDArray[np.float32]


class RankSession(Protocol):
    """Ranks one session in one go: finds covisited rows, chooses categories, and searches."""

    def __call__(
        self,
        session: NDArray[np.int64],
        known: NDArray[np.int64],
        repeat_logits: NDArray[np.float32] | None,
        logits: NDArray[np.float32],
        query: NDArray[np.float32],
        first: NDArray[np.int64] | None,
        skipped: NDArray[np.int64] | None,
        least: int,
        /,
    ) -> RankedSession:
        """Rank.

        Args:
            session: int64 [length], rows, oldest first; those beyond the table are another segment's.
            known: the rows of the table that these items have or had, in the same order.
            repeat_logits: float32 [at least length], or None.
            logits: float32 [categories].
            query: float32 [d].
            first: int64, categories to take in any case, before all others; or None.
            skipped: int64, rising, rows of the table that do not rank; or None.
            least: how many eligible rows the candidates must hold.
        """
        ...


class AddedScope(NamedTuple):
    """What calls that are alike ask of the rows that were added to a bundle since, whatever the session.

    Attributes:
        table: the rows.
        first_row: where they begin in the catalog.
        placements_of_leaf: by leaf category, the placements that it makes candidates.
        rows_of_placement: rising rows of each; those beyond the table were added since.
        live: uint64, the rows that are items; or None: all.
        bitmap: uint64, the rows that may rank, or None: all.
        deleted: int64, rising, rows of the bundle whose items lie here or nowhere.
        successors: int64 [len(deleted)], the row of each such item here, or -1.
        exact: whether all rows rank.
        k: most results, at least 1.
    """

    table: Table
    first_row: int
    placements_of_leaf: dict[int, list[int]]
    rows_of_placement: list[list[int]]
    live: NDArray[np.uint64] | None
    bitmap: NDArray[np.uint64] | None
    deleted: NDArray[np.int64]
    successors: NDArray[np.int64]
    exact: bool
    k: int


class RankedAdded(NamedTuple):
    """The best rows of a catalog for one session, and which could rank.

    Attributes:
        scores, rows, rows_scored, bytes_read: as :class:`~hiersrec_sdk.ranking.requests.Found`, of the catalog.
        ranges: int64 [m, 2], the candidates among the rows that were added; None: none was looked at.
        covisited: int64, rows of the catalog that rank whatever the categories are.
        offsets: float32, what is added to their scores.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    rows_scored: int
    bytes_read: int
    ranges: NDArray[np.int64] | None
    covisited: NDArray[np.int64]
    offsets: NDArray[np.float32]


class RankAdded(Protocol):
    """Ranks the rows that were added, once those of the bundle are ranked."""

    def __call__(
        self, ranked: RankedSession, query: NDArray[np.float32], skipped: NDArray[np.int64] | None, /
    ) -> RankedAdded:
        """Rank.

        Args:
            ranked: the best rows of the bundle.
            query: float32 [d].
            skipped: int64, rising, rows of the catalog that do not rank; or None.
        """
        ...


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
        rank_sessions: ``rank_sessions(scope)`` prepares all of this as one operation, which gives what the others give
            one after the other; None where there is none, or not for this scope.
        rank_added: ``rank_added(scope)`` likewise, for the rows that were added since; where there is
            ``rank_sessions``.
        copy_rows, all_finite: see :mod:`hiersrec_sdk.ranking.small_arrays`.
    """

    name: str
    search: Search
    choose: Choose
    find_ids: FindIds
    session_items: SessionItems
    covisitation: Callable[[CovisitationScorer], ScoreOffsets]
    rank_sessions: Callable[[Scope], RankSession | None] = lambda scope: None
    rank_added: Callable[[AddedScope], RankAdded] | None = None
    copy_rows: CopyRows = copy_rows
    all_finite: AllFinite = all_finite

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
