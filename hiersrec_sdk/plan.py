"""The plan of a call: its options against one snapshot of the catalog, worked out once for all calls that are alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.arguments import checked_threads
from hiersrec_sdk.bundle import Bundle
from hiersrec_sdk.catalog import filters
from hiersrec_sdk.catalog.filters import Filter
from hiersrec_sdk.catalog.pauses import pause
from hiersrec_sdk.catalog.segment import SKIPPED_SINGLY, BaseSegment, Bitmap, Segment
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.errors import InvalidCandidatesError
from hiersrec_sdk.options import OnUnknown, Options
from hiersrec_sdk.ranking import Backend, Request, row_ranges
from hiersrec_sdk.ranking.backend import AddedScope, RankAdded, RankSession

# mode="auto" ranks everything where that reads at most so many bytes more than candidates: what one core reads in about
# the time that the session encoder takes.
_AUTO_BYTES: Final = 4 << 20
_KEPT: Final = 1_000  # plans
_PREPARED: Final = 16
CATEGORIES_SHOWN: Final = 5  # of a result, with their probabilities


class Part(NamedTuple):
    """A segment as a plan sees it: rows ``[first, stop)`` of the catalog.

    Attributes:
        bitmap: the rows that may rank, or None: all;
        skipped: int64, rising, but for these, counted from ``first``; or None.
    """

    segment: Segment
    first: int
    stop: int
    bitmap: Bitmap | None
    skipped: NDArray[np.int64] | None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a call asks of a snapshot, whatever the session.

    Attributes:
        catalog: the snapshot that the call sees.
        k: most items of an answer.
        exact: whether every item ranks.
        row_budget: rows of the bundle that the candidates have to hold, whether they still are items,
        top_p: and the probability.
        on_unknown: what to do about an id that the catalog lacks.
        session_categories: whether the categories of the session's own items always are candidates.
        exclude_seen: whether the session's own items may not be recommended.
        excluded: int64, rising, rows that may not be recommended; or None. Beside the bitmaps.
        parts: for each segment, the rows that may rank.
        eligible: int64 [leaf categories], at least how many items of each can be recommended; None: all of the
            bundle's.
        max_per_category: most items of a leaf category, or None.
        threads: threads of the ranking of one session.
        rank: ranks the bundle's rows for a session in one native operation, or None: step by step.
        rank_added: then ranks those that were added since; None where there are none.
    """

    catalog: Catalog
    k: int
    exact: bool
    row_budget: int
    top_p: float
    on_unknown: OnUnknown
    session_categories: bool
    exclude_seen: bool
    excluded: NDArray[np.int64] | None
    parts: tuple[Part, ...]
    eligible: NDArray[np.int64] | None
    max_per_category: int | None
    threads: int
    rank: RankSession | None
    rank_added: RankAdded | None

    def on_one_thread(self) -> Plan:
        """The plan with one thread a session."""
        return self if self.threads == 1 else replace(self, threads=1)

    def allows(self, rows: NDArray[np.int64]) -> NDArray[np.bool]:
        """bool [len(rows)]: whether each row may be recommended, whatever the session."""
        found = np.ones(len(rows), dtype=bool)
        for _, first, stop, bitmap, _ in self.parts:
            if bitmap is not None:
                inside = (rows >= first) & (rows < stop)
                found[inside] = row_ranges.in_bitmap(bitmap, rows[inside] - first)
        return found if self.excluded is None else found & ~np.isin(rows, self.excluded)


@dataclass(frozen=True, slots=True, eq=False)
class _Plans:
    """Plans without filters for one snapshot, with their options, by the arguments of the call.

    Attributes:
        catalog: the snapshot; None: there is none yet.
        asked: those that a call has asked for.
        prepared: others, made before any call.
    """

    catalog: Catalog | None = None
    asked: dict[Any, tuple[Options, Plan]] = field(default_factory=dict)
    prepared: dict[Any, tuple[Options, Plan]] = field(default_factory=dict)


class Planner:
    """Makes plans, and keeps those without filters for the newest snapshot."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self._config = bundle.config
        self._check_unchanged = bundle.check_unchanged
        self._backend = backend
        self.forget()

    def forget(self) -> None:
        """Keep no plan: the next ones are made anew."""
        self._kept, self._prepared = _Plans(), _Plans()
        self._unrestricted: tuple[Catalog | None, NDArray[np.int64] | None] = None, None

    def plan(self, catalog: Catalog, k: int, given: Mapping[str, Any]) -> Plan:
        """The plan of a call with ``k`` and the named arguments ``given``.

        Raises:
            InvalidArgumentError: an argument is not valid.
            TypeError: there is no such argument.
            BundleCorruptError: somebody has written into the bundle since it was loaded.
        """
        self._check_unchanged()
        plans = self._kept  # read once: another thread may replace it
        if plans.catalog is not catalog:
            plans, self._prepared = self._prepared, _Plans()  # which would keep its snapshot
            if plans.catalog is not catalog:
                plans = _Plans(catalog)
            self._kept = plans
        # 1 equals True, which is another argument
        key = (k, type(k), *given.items(), *map(type, given.values()))
        try:
            kept = plans.asked.get(key)
            if kept is None and (kept := plans.prepared.pop(key, None)) is not None:
                plans.asked[key] = kept
        except Exception as error:
            # else a signal handler has raised it, such as a task queue's time limit
            if not _is_of_hash(key, error):
                raise
            kept = None  # an argument is a list of ids, or a wrong one
        if kept is not None:
            return kept[1]
        options = Options.of(k, given)
        plan = self._made(catalog, options)
        if not options.restricts:
            if len(plans.asked) >= _KEPT:
                plans.asked.clear()
            plans.asked[key] = options, plan
        return plan

    def prepare(self, catalog: Catalog) -> None:
        """Make plans for a snapshot that nobody has seen yet, as calls have asked for in the newest one."""
        made = {}
        for key, (options, _) in islice(list(self._kept.asked.items()), _PREPARED):
            made[key] = options, self._made(catalog, options)
            pause()
        self._prepared = _Plans(catalog, prepared=made)

    def _made(self, catalog: Catalog, options: Options) -> Plan:
        share, top_p = self._budget(options)
        chosen, excluded = _restrictions(catalog, options)
        n = max(1, len(catalog))
        k = min(int(options.k), n)
        # of the bundle's rows, as categories are measured in those: the ones that are no items any more count in both
        rows = max(math.ceil(share * len(catalog.base)), k)
        exact = options.mode == "exact"
        if options.mode == "auto":
            allowed = 1.0 if chosen is None else len(chosen) / len(catalog.base)
            exact = allowed * self._exact_bytes(catalog) <= _AUTO_BYTES + rows * self._row_bytes(catalog.base)
        eligible, limit = self._known_eligible(catalog, chosen, excluded), None
        if options.max_per_category is not None:
            limit = min(int(options.max_per_category), n)
            leaves = catalog.tree.leaves
            eligible = np.minimum(leaves[:, 1] - leaves[:, 0] if eligible is None else eligible, limit)
        parts = tuple(
            Part(each, each.first_row, each.first_row + len(each), each.mask(chosen), each.skipped(chosen))
            for each in catalog.segments
        )
        rank = None
        if limit is None:
            rank = self._backend.rank_sessions(
                catalog.base.scope(
                    eligible=eligible,
                    bitmap=parts[0].bitmap,
                    rows=rows,
                    top_p=top_p,
                    exact=exact,
                    k=k,
                    ordered=CATEGORIES_SHOWN,
                    max_length=self._config["max_length"],
                )
            )
        rank_added = None
        if rank is not None and self._backend.rank_added is not None and len(parts) > 1:
            delta = catalog.delta
            rank_added = self._backend.rank_added(
                AddedScope(
                    table=delta.table,
                    first_row=delta.first_row,
                    placements_of_leaf=delta.columns.placements_of_leaf,
                    rows_of_placement=delta.columns.rows_of_placement,
                    live=delta.live,
                    bitmap=parts[1].bitmap,
                    deleted=catalog.base.deleted,
                    successors=catalog.base.successors,
                    exact=exact,
                    k=k,
                )
            )
        return Plan(
            catalog=catalog,
            k=k,
            exact=exact,
            row_budget=rows,
            top_p=top_p,
            on_unknown=options.on_unknown,
            session_categories=bool(options.include_session_categories),
            exclude_seen=bool(options.exclude_seen),
            excluded=excluded,
            parts=parts,
            eligible=eligible,
            max_per_category=limit,
            threads=checked_threads(options.threads),
            rank=rank,
            rank_added=rank_added,
        )

    def _known_eligible(
        self, catalog: Catalog, chosen: Filter | None, excluded: NDArray[np.int64] | None
    ) -> NDArray[np.int64] | None:
        """:func:`_eligible`, of which all plans of a snapshot without filters have the same."""
        if chosen is not None or excluded is not None:
            return _eligible(catalog, chosen, excluded)
        of, found = self._unrestricted  # read once: another thread may replace it
        if of is not catalog:
            found = _eligible(catalog, None, None)
            self._unrestricted = catalog, found
        return found

    def _budget(self, options: Options) -> tuple[float, float]:
        """The candidate share, and the ``top_p``, that candidates have to hold."""
        if isinstance(options.candidates, str):
            calibration = self._config.get("calibration")
            if calibration is None:
                raise InvalidCandidatesError(
                    "candidates is 'auto', but this bundle was exported without validation sessions, so its top_p was "
                    "not calibrated; give a share such as 0.04"
                )
            chosen = calibration["session_categories"] if options.include_session_categories else calibration
            return 0.0, float(chosen["top_p"])
        given = options.candidates
        share = float(self._config["candidate_share"] if given is None else given)
        return share, float(share == 1.0)  # all categories: one that had no items may have some by now

    def _row_bytes(self, base: BaseSegment) -> int:
        """Bytes that ranking one row reads, without pruning."""
        codes = base.table.codes if self._backend.name == "c" else None  # the others have no use for them
        row = base.table.vectors.strides[0] if codes is None else codes.nbytes // len(base)
        return row + (0 if base.tables.item_bias is None else 4)

    def _exact_bytes(self, catalog: Catalog) -> float:
        """Mean bytes that mode "exact" reads; where rows are pruned, measured once, on 16 items as queries."""
        base, leaves = catalog.base, catalog.tree.leaves
        if self._backend.name != "c" or base.table.codes is None:
            return len(base) * self._row_bytes(base)
        if self._measured_bytes is None:
            n, read = len(base), 0
            rows = np.unique(np.linspace(0, n - 1, 16).astype(np.int64))
            for row, leaf in zip(rows, catalog.tree.leaf_of(rows), strict=True):
                first = leaves[leaf : leaf + 1]
                request = Request(base.table.vectors[row], first, row_ranges.complement(first, n))
                read += self._backend.search(base.table, [request], min(20, n))[0].bytes_read
            self._measured_bytes = read / len(rows)
        return self._measured_bytes

    _measured_bytes: float | None = None


def _is_of_hash(key: object, error: Exception) -> bool:
    """Whether ``key`` has no hash, and says so by such an ``error``."""
    try:
        hash(key)
    except Exception as again:
        if type(again) is not type(error) and isinstance(error, TypeError):
            raise  # it has come just now
        return type(again) is type(error)
    return False


def _eligible(
    catalog: Catalog, chosen: Filter | None, excluded: NDArray[np.int64] | None
) -> NDArray[np.int64] | None:
    """int64 [leaf categories]: at least how many items of each can be recommended; None: all rows of the bundle.

    Of the items that were added or changed since, those count that lie in the leaf category itself.
    """
    base, delta, leaves = catalog.base, catalog.delta, catalog.tree.leaves
    found = base.eligible(chosen)
    if excluded is not None:
        rows = base.live_among(excluded[: excluded.searchsorted(len(base))])
        if chosen is not None:
            rows = rows[row_ranges.in_bitmap(chosen.bitmap, rows)]
        whole = leaves[:, 1] - leaves[:, 0] if found is None else found
        found = whole - np.bincount(catalog.tree.leaf_of(rows), minlength=len(leaves))
    if found is not None and len(delta):
        allowed = delta.live_mask if chosen is None else delta.live_mask & chosen.allows_delta(delta)
        if excluded is not None:
            allowed = allowed.copy()
            allowed[excluded[excluded.searchsorted(len(base)) :] - len(base)] = False
        leaf = delta.leaf[allowed]
        found = found + np.bincount(leaf[leaf < len(leaves)], minlength=len(leaves))
    return found


def _restrictions(catalog: Catalog, options: Options) -> tuple[Filter | None, NDArray[np.int64] | None]:
    """One filter for all that restricts a call, and a few rows that are excluded beside it."""
    exclude: Any = None if options.exclude is None else filters.list_of_ids("exclude", options.exclude)
    excluded = None if exclude is None else np.unique(filters.rows_of(catalog, "exclude", exclude))
    many = excluded is not None and len(excluded) > SKIPPED_SINGLY
    given = options.allow, options.categories, options.exclude_categories
    if not many and all(each is None for each in given):
        if options.filter is not None:
            filters.check_same_catalog(options.filter, catalog)
        return options.filter, excluded
    chosen = filters.prepare(
        catalog,
        options.filter,
        allow=options.allow,
        exclude=exclude if many else None,
        categories=options.categories,
        exclude_categories=options.exclude_categories,
    )
    return chosen, None if many else excluded
