"""Search: what a session asks of each segment of the catalog, and the best rows of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.plan import Part, Plan
from hiersrec_sdk.pool import in_threads
from hiersrec_sdk.ranking import Backend, Found, Request, Table, row_ranges
from hiersrec_sdk.ranking.candidates import Choice
from hiersrec_sdk.ranking.row_ranges import Rows

Requests = Sequence[Request | None]
"""What a session asks of each segment; None: there is nothing to rank in it."""

_PART_ROWS: Final = 4096  # that a thread ranks at least: fewer take less time than waking it
_NO_RANGES: Final = np.empty((0, 2), dtype=np.int64)
_NO_ROWS: Final = np.empty(0, dtype=np.int64)
_NO_OFFSETS: Final = np.empty(0, dtype=np.float32)


def requests_of(
    plan: Plan,
    query: NDArray[np.float32],
    choice: Choice,
    skipped: NDArray[np.int64] | None,
    covisited: Rows,
    offsets: NDArray[np.float32],
) -> list[Request | None]:
    """What to ask of each segment.

    Args:
        plan: which rows may rank, and whether all do.
        query: float32 [d].
        choice: the leaf categories that are candidates.
        skipped: int64, rising, rows that do not rank; or None.
        covisited: int64, rising, rows that rank whatever the candidates are.
        offsets: float32, added to their scores.
    """
    requests: list[Request | None] = []
    last = int(covisited[-1]) if len(covisited) else -1
    for part in plan.parts:
        always, added = covisited, offsets
        if part.first or last >= part.stop:
            ends = part.first, part.stop
            begin, end = covisited.searchsorted(ends).tolist() if last >= part.first else (0, 0)
            always, added = covisited[begin:end] - part.first, offsets[begin:end]
        ranges = part.segment.candidate_ranges(choice)
        if part.first and not plan.exact and not len(ranges) and not len(always):
            requests.append(None)
            continue
        rest = row_ranges.complement(ranges, part.stop - part.first) if plan.exact else None
        skip = skipped_in(plan, part, skipped)
        requests.append(Request(query, ranges, rest, part.bitmap, skip, always, added))
    return requests


def skipped_in(plan: Plan, part: Part, skipped: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    """Those of ``skipped``, rows of the catalog, that are rows of one segment, and rows that it skips in any case."""
    skip = skipped
    if skipped is not None and len(plan.parts) > 1:
        begin, end = skipped.searchsorted((part.first, part.stop)).tolist()
        skip = skipped[begin:end] - part.first
    if part.skipped is not None:
        skip = part.skipped if skip is None else row_ranges.union(skip, part.skipped)
    return skip


class Searcher:
    """Finds the best rows. Any number of threads may use it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def best(self, plan: Plan, asked: Sequence[Requests]) -> list[Found]:
        """The best ``plan.k`` rows of the catalog for each session."""
        if plan.max_per_category is None:
            return self._best(plan.catalog, asked, plan.k, plan.threads)
        return [self._limited(plan, requests, plan.max_per_category) for requests in asked]

    def nearest(self, plan: Plan, row: int) -> Found:
        """The ``plan.k`` rows nearest to another ``row``, by their vectors alone, without item biases."""
        catalog, at_row = plan.catalog, np.array([row])
        leaf = catalog.categories_of(at_row)
        leaf = leaf[leaf < len(catalog.tree.leaves)]  # an item may lie in none
        first = Choice(leaf, catalog.tree.leaves[leaf], ())
        requests = requests_of(plan, catalog.vectors(at_row)[0], first, at_row, _NO_ROWS, _NO_OFFSETS)
        return self._best(catalog, [requests], plan.k, 1, plain=True)[0]

    def _best(
        self, catalog: Catalog, asked: Sequence[Requests], k: int, threads: int, plain: bool = False
    ) -> list[Found]:
        best: list[Found] = []
        for at, segment in enumerate(catalog.segments):
            table = segment.plain_table if plain else segment.table
            requests: list[Request] = []
            for each in asked:
                request = each[at]
                if request is not None:
                    requests.append(request)
            count = min(threads, len(table) // _PART_ROWS) if threads > 1 else 1
            if count > 1 and requests and requests[0].rest is not None:
                found = [self._in_parts(table, one, k, count) for one in requests]
            else:
                found = self._backend.search(table, requests, k) if requests else []
            if not at:
                best = found
                continue
            if not requests:
                continue
            further = iter(found)
            best = [
                one if each[at] is None else _merged(one, next(further), segment.first_row, k)
                for one, each in zip(best, asked, strict=True)
            ]
        return best

    def _limited(self, plan: Plan, requests: Requests, limit: int) -> Found:
        """The best rows of which at most ``limit`` lie in one leaf category.

        They are among the best of a longer list, as long as enough are left of it. If not, another list leaves out the
        categories that are full.
        """
        catalog, k = plan.catalog, plan.k
        wanted, scored, read = 4 * k, 0, 0
        rows, scores = _NO_ROWS, _NO_OFFSETS  # of the categories that are full
        while True:
            wanted = min(wanted, catalog.stop)
            found = self._best(catalog, [requests], wanted, 1)[0]
            scored, read = max(scored, found.rows_scored), read + found.bytes_read
            leaves = catalog.categories_of(found.rows)
            kept = within_limit(leaves, limit)
            every = np.concatenate([rows, found.rows[kept]])
            every_score = np.concatenate([scores, found.scores[kept]])
            if len(every) >= k or len(found.rows) < wanted:
                best = np.lexsort((every, -every_score))[:k]
                return Found(every_score[best], every[best], scored, read)
            full, counts = np.unique(leaves, return_counts=True)
            full = full[counts >= limit]
            is_full = kept & np.isin(leaves, full)
            rows = np.concatenate([rows, found.rows[is_full]])
            scores = np.concatenate([scores, found.scores[is_full]])
            requests = _without(catalog, requests, full)
            wanted *= 8

    def _in_parts(self, table: Table, request: Request, k: int, count: int) -> Found:
        """The best rows of a request, the rest of the table in ``count`` parts, one for each thread."""
        first = self._backend.search(table, [request._replace(rest=None)], k)[0]
        # what has been found takes part in every part, so that each begins with its threshold
        covisited = _NO_ROWS if request.covisited is None else request.covisited
        always = np.union1d(first.rows, covisited)
        offsets = np.zeros(len(always), dtype=np.float32)
        if request.offsets is not None:
            offsets[always.searchsorted(covisited)] = request.offsets
        rest = _NO_RANGES if request.rest is None else request.rest
        cuts = np.linspace(0, len(table), count + 1).astype(np.int64).tolist()
        alone = request._replace(ranges=_NO_RANGES, rest=None, covisited=always, offsets=offsets)
        parts = [alone._replace(rest=rest.clip(start, stop)) for start, stop in pairwise(cuts)]
        found = in_threads(lambda part: self._backend.search(table, [part], k)[0], parts, count)
        rows, positions = np.unique(np.concatenate([one.rows for one in found]), return_index=True)
        scores = np.concatenate([one.scores for one in found])[positions]
        best = np.lexsort((rows, -scores))[:k]
        again = self._backend.search(table, [alone], k)[0].rows_scored  # what every part has looked at
        scored = first.rows_scored + sum(one.rows_scored - again for one in found)
        read = first.bytes_read + sum(one.bytes_read for one in found)
        return Found(scores[best], rows[best], scored, read)


def within_limit(leaves: NDArray[np.int64], limit: int) -> NDArray[np.bool]:
    """bool [rows]: whether fewer than ``limit`` rows before it lie in the same one of ``leaves`` int64 [rows]."""
    order = leaves.argsort(kind="stable")
    starts = leaves[order].searchsorted(leaves[order])
    kept = np.empty(len(leaves), dtype=bool)
    kept[order] = np.arange(len(leaves)) - starts < limit
    return kept


def _without(catalog: Catalog, requests: Requests, leaves: NDArray[np.int64]) -> list[Request | None]:
    """The requests without the rows that lie in ``leaves``."""
    restricted: list[Request | None] = []
    for segment, request in zip(catalog.segments, requests, strict=True):
        if request is None:
            restricted.append(None)
            continue
        bitmap = row_ranges.as_bitmap(segment.outside(leaves))
        if request.bitmap is not None:
            bitmap &= request.bitmap
        restricted.append(request._replace(bitmap=bitmap))
    return restricted


def _merged(best: Found, further: Found, first_row: int, k: int) -> Found:
    """The best ``k`` of both, by (score, row); the rows of ``further`` are counted from ``first_row`` on."""
    scored, read = best.rows_scored + further.rows_scored, best.bytes_read + further.bytes_read
    if not len(further.rows) or (len(best.rows) == k and further.scores[0] <= best.scores[-1]):
        return Found(best.scores, best.rows, scored, read)
    scores = np.concatenate([best.scores, further.scores])
    rows = np.concatenate([best.rows, first_row + further.rows])
    order = np.lexsort((rows, -scores))[:k]
    return Found(scores[order], rows[order], scored, read)
