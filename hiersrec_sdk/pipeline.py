"""How sessions are answered, from top to bottom: ids → rows → encoding → candidates → ranking → results.

Each step's value is a frozen object. A call can be watched: :mod:`hiersrec_sdk.explain` sees every step's value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.encoders.session_encoder import Encoded, OnnxSessionEncoder
from hiersrec_sdk.errors import InvalidSessionError, UnknownItemError
from hiersrec_sdk.id_lists import listed
from hiersrec_sdk.plan import CATEGORIES_SHOWN, Plan
from hiersrec_sdk.pool import in_threads
from hiersrec_sdk.ranking import Backend, Found
from hiersrec_sdk.ranking.backend import UNKNOWN, RankSession
from hiersrec_sdk.ranking.covisitation import ScoreOffsets
from hiersrec_sdk.results import NOTHING_RANKED, Ranked, Result
from hiersrec_sdk.search import Requests, Searcher, requests_of, skipped_in, within_limit
from hiersrec_sdk.shown import shown

Watch = Callable[[str, Any], None]
"""Told the name and the value of every step of one session's answer."""


class KnownSession(NamedTuple):
    """A session as the catalog knows it.

    Attributes:
        rows: int64 [at most max_length], the newest known items, which the encoder reads.
        seen: int64, all known items.
        unknown_ids: how many ids the catalog lacks.
    """

    rows: NDArray[np.int64]
    seen: NDArray[np.int64]
    unknown_ids: int


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Answers sessions. Any number of threads may use it.

    Attributes:
        encoder: the session encoder.
        backend: chooses categories, and finds the session's distinct rows.
        searcher: finds the best rows.
        covisitation: the backend's co-visitation scorer, or None where the bundle has none.
        max_length: the newest known clicks of a session that count.
        running: an object for each session that is being answered just now, alone.
    """

    encoder: OnnxSessionEncoder
    backend: Backend
    searcher: Searcher
    covisitation: ScoreOffsets | None
    max_length: int
    running: set[object] = field(default_factory=set)

    def answer(
        self, ids: Any, plan: Plan, rows: NDArray[np.int64] | None = None, watch: Watch | None = None
    ) -> Result:
        """The answer to one session of external ids, whose ``rows`` may have been looked up before."""
        running, this = self.running, object()
        try:
            running.add(this)
            session = self.look_up(ids, plan, rows)
            if watch is not None:
                watch("look up", session)
            if not len(session.rows):
                return self.popular(session, plan)
            return self.answer_batch((session,), plan, watch)[0]
        finally:
            running.discard(this)

    def answer_batch(
        self, sessions: Sequence[KnownSession], plan: Plan, watch: Watch | None = None
    ) -> list[Result]:
        """The answers to sessions that each hold a known item; a watch is told of the first one."""
        encoded = self.encode(sessions, plan.catalog)
        if watch is not None:
            watch("encode", encoded)
        # what several sessions read of all rows, they read together, and a watch sees step by step
        if (
            plan.rank is not None
            and watch is None
            and not (plan.exact and (len(sessions) > 1 or plan.threads > 1))
        ):
            results = []  # loops, as a comprehension is a call of its own in Python 3.11
            for at, session in enumerate(sessions):
                results.append(self.ranked_at_once(session, encoded, at, plan, plan.rank))
            self.encoder.reuse(encoded.buffers)
            return results
        asked, every, results = [], [], []
        for at, session in enumerate(sessions):
            requests, ranked = self.candidates(session, encoded, at, plan)
            asked.append(requests)
            every.append(ranked)
        if watch is not None:
            watch("choose", every[0])
        best = self.searcher.best(plan, asked)
        for session, ranked, found in zip(sessions, every, best, strict=True):
            results.append(self.result(session, ranked, found, plan))
        if watch is not None:
            watch("rank", results[0])  # and it may keep what it was told
        else:
            self.encoder.reuse(encoded.buffers)
        return results

    def answer_many(
        self, sessions: Sequence[KnownSession], plan: Plan, batch_size: int, threads: int
    ) -> list[Result]:
        """The answers to sessions, in their order; those of similar length are encoded together."""
        results = {at: self.popular(each, plan) for at, each in enumerate(sessions) if not len(each.rows)}
        rest = (at for at in range(len(sessions)) if at not in results)
        by_length = sorted(rest, key=lambda at: len(sessions[at].rows))
        batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]

        def answer(batch: list[int]) -> list[Result]:
            return self.answer_batch([sessions[at] for at in batch], plan)

        alone = threads == 1 or len(batches) < 2
        answers = map(answer, batches) if alone else in_threads(answer, batches, threads)
        for batch, found in zip(batches, answers, strict=True):
            results.update(zip(batch, found, strict=True))
        return [results[at] for at in range(len(sessions))]

    def look_up(self, ids: Any, plan: Plan, rows: NDArray[np.int64] | None = None) -> KnownSession:
        """ids → rows, unless these have been looked up before: -1 for an id that the catalog lacks."""
        if rows is None:
            ids = ids if type(ids) is list else as_ids(ids)
            rows = plan.catalog.rows(ids)
        seen, unknown = rows, 0
        if UNKNOWN in rows.tolist():  # a list is faster to search, where it is short
            seen = rows[rows != UNKNOWN]
            unknown = len(rows) - len(seen)
            if plan.on_unknown == "error":
                position = int(np.argmax(rows == UNKNOWN))
                raise UnknownItemError(
                    f"item id {shown(ids[position])} at position {position} is not in the catalog; "
                    "on_unknown='skip' leaves such ids out"
                )
        return KnownSession(seen[-self.max_length :], seen, unknown)

    def encode(self, sessions: Sequence[KnownSession], catalog: Catalog) -> Encoded:
        """rows → encoding."""
        if len(sessions) == 1:
            return self.encoder.encode_one(catalog, sessions[0].rows)
        lengths = np.array([len(session.rows) for session in sessions], dtype=np.int64)
        known = catalog.vectors(np.concatenate([session.rows for session in sessions]))
        vectors = np.zeros((len(sessions), lengths.max(), known.shape[1]), dtype=np.float32)
        vectors[np.arange(vectors.shape[1]) < lengths[:, None]] = known
        return self.encoder.encode(vectors, lengths)

    def candidates(
        self, session: KnownSession, encoded: Encoded, at: int, plan: Plan
    ) -> tuple[Requests, Ranked]:
        """encoding → candidates of the session ``at`` a position: what to ask, and what the result says of it."""
        catalog, leaves = plan.catalog, plan.catalog.tree.leaves
        repeats = encoded.repeat_logits
        rows, sums = self.backend.session_items(session.rows, None if repeats is None else repeats[at])
        covisited, offsets = catalog.with_covisited(rows, sums, session.rows, self.covisitation)
        skipped, first, least = _restrictions(session, plan)
        logits = encoded.category_logits[-1][at]
        choice = self.backend.choose(
            logits, leaves, plan.eligible, first, plan.row_budget, least, plan.top_p, CATEGORIES_SHOWN
        )
        shown = choice.best if first is None else self._most_probable_leaves(logits, catalog)
        requests = requests_of(plan, encoded.item_query[at], choice, skipped, covisited, offsets)
        ranges = []
        for request in requests:
            ranges.append(None if request is None else request.ranges)
        return requests, Ranked(tuple(ranges), covisited, offsets, shown, _path(encoded, at, shown))

    def ranked_at_once(
        self, session: KnownSession, encoded: Encoded, at: int, plan: Plan, rank: RankSession
    ) -> Result:
        """encoding → result: :meth:`candidates`, the search and :meth:`result` as one native operation."""
        catalog, repeats = plan.catalog, encoded.repeat_logits
        logits, query = encoded.category_logits[-1][at], encoded.item_query[at]
        skipped, first, least = _restrictions(session, plan)
        ranked = rank(
            session.rows,
            catalog.base_rows(session.rows),
            None if repeats is None else repeats[at],
            logits,
            query,
            first,
            skipped_in(plan, plan.parts[0], skipped),
            least,
        )
        shown = ranked.best if first is None else self._most_probable_leaves(logits, catalog)
        path = _path(encoded, at, shown)
        if plan.rank_added is None:
            found = Found(ranked.scores, ranked.rows, ranked.rows_scored, ranked.bytes_read)
            could = Ranked((ranked.ranges,), ranked.covisited, ranked.offsets, shown, path)
        else:
            every = plan.rank_added(ranked, query, skipped)
            found = Found(every.scores, every.rows, every.rows_scored, every.bytes_read)
            could = Ranked((ranked.ranges, every.ranges), every.covisited, every.offsets, shown, path)
        return self.result(session, could, found, plan)

    def _most_probable_leaves(
        self, logits: NDArray[np.float32], catalog: Catalog
    ) -> tuple[tuple[int, float], ...]:
        """Those that a result shows. Where some were taken before all others, the best taken ones are others."""
        return self.backend.choose(logits, catalog.tree.leaves, None, None, 0, 0, 0.0, CATEGORIES_SHOWN).best

    def result(self, session: KnownSession, ranked: Ranked, found: Found, plan: Plan) -> Result:
        """ranking → result."""
        return Result(
            tuple(plan.catalog.ids(found.rows)),
            found.scores,
            "exact" if plan.exact else "candidates",
            found.rows_scored,
            found.bytes_read,
            session.unknown_ids,
            plan.catalog,
            found.rows,
            ranked,
        )

    def popular(self, session: KnownSession, plan: Plan) -> Result:
        """The answer to a session without a known item: the most clicked ones."""
        catalog, count = plan.catalog, plan.k
        while True:  # as a rule the first rows are enough
            rows = catalog.most_clicked(count)
            rows = rows[plan.allows(rows)]
            if plan.max_per_category is not None:
                rows = rows[within_limit(catalog.categories_of(rows), plan.max_per_category)]
            if len(rows) >= plan.k or count >= catalog.stop:
                break
            count *= 8
        rows = rows[: plan.k]
        clicks = catalog.clicks_of(rows).astype(np.float32)
        ids = tuple(catalog.ids(rows))
        return Result(ids, clicks, "popular", 0, 0, session.unknown_ids, catalog, rows, NOTHING_RANKED)


def _restrictions(
    session: KnownSession, plan: Plan
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None, int]:
    """What a plan asks with regard to the session.

    Returns:
        Rows that do not rank, int64, rising, or None; categories to take in any case, int64, or None; and how many
        eligible rows the candidates must hold.
    """
    skipped, first, catalog, least = plan.excluded, None, plan.catalog, plan.k
    if plan.exclude_seen:
        seen = np.unique(session.seen)
        skipped, least = seen if skipped is None else np.union1d(skipped, seen), plan.k + len(seen)
    if plan.session_categories:  # the newest item's first
        newest_first = catalog.categories_of(session.rows)[::-1].tolist()
        leaves = len(catalog.tree.leaves)
        known = [leaf for leaf in dict.fromkeys(newest_first) if leaf < leaves]
        first = np.array(known, dtype=np.int64) if known else None
    return skipped, first, least


def _path(encoded: Encoded, at: int, shown: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Index and probability of the most probable category of each level, the top first."""
    path = []
    for level in encoded.category_logits[:-1]:
        path.append(_most_probable(level[at]))
    return (*path, shown[0])


def as_ids(session: Any) -> Sequence[Any] | NDArray[Any]:
    """The ids of a session, as a list, tuple or array.

    Raises:
        InvalidSessionError: not a list of ids, or a set, which has no order.
    """
    return listed("session", session, InvalidSessionError, "item ids, oldest first")


def _most_probable(logits: NDArray[np.float32]) -> tuple[int, float]:
    """Index of the most probable category, the first of those that tie, and its probability."""
    index = int(logits.argmax())
    return index, float(1 / np.exp(logits - logits[index]).sum())
