"""Evaluation of a bundle through the SDK's own path: what is measured is what is served."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hiersrec_sdk import Recommender, Result
from hiersrec_sdk.errors import EmptyLogError
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.metrics import CUTS, ranking_metrics

BATCH = 256


def evaluate(
    recommender: Recommender,
    data: Dataset,
    part: Literal["valid", "test"] = "test",
    *,
    mode: Literal["candidates", "exact", "auto"] = "candidates",
    candidates: float | Literal["auto"] | None = None,
    include_session_categories: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Every prefix of every session of ``part`` is a case: recommend after it, and look for the click that came next.

    A tie counts against the recommender: the target ranks behind all results of its score.

    Returns one flat dictionary. Fractions: ``recall@k``, ``mrr@k``, ``ndcg@k`` for k of 1, 5, 10, 20;
    ``candidate_coverage``, cases whose target was among the rows scored; ``category_accuracy_<level>``, cases whose
    target lies in the most probable category of the level; ``catalog_coverage@20``, items of the catalogue that were
    recommended at least once. Counts: ``cases``, ``unknown_targets`` (not in the catalogue: they count as missed),
    ``rows_scored`` (mean a case), ``bytes_read`` (mean a case). ``sessions_per_second``: recommendations a second, in
    batches of 256.

    Raises:
        EmptyLogError: the part holds no case.
    """
    sessions: Sessions = getattr(data, part)
    if not sessions.cases:
        raise EmptyLogError(f"the {part} part of the data set holds no session of two clicks")
    catalog = recommender.catalog
    row_of = catalog.rows(data.item_ids.to_list())
    known = row_of[row_of >= 0]
    levels = range(len(catalog.tree.ranges))
    category_of = [catalog.categories_of(row_of, level) for level in levels]
    category_ids = [
        [catalog.category(level, at).id for at in range(len(catalog.tree.ranges[level]))] for level in levels
    ]
    ids = data.item_ids.to_list()
    largest = max(CUTS)
    ranks = np.zeros(sessions.cases, dtype=np.int64)
    covered = unknown = rows_scored = bytes_read = case = 0
    right = np.zeros(len(levels), dtype=np.int64)
    shown = np.zeros(len(catalog), dtype=bool)
    seconds = 0.0
    bar = tqdm(total=sessions.cases, desc=f"{part}, {mode}", unit="case", disable=not progress)
    for prefixes, targets in _cases(sessions, BATCH):
        asked = [[ids[item] for item in prefix] for prefix in prefixes]
        started = time.perf_counter()
        # one more than the largest cut: a tie across the cut shows
        results = recommender.recommend_many(
            asked,
            k=largest + 1,
            mode=mode,
            candidates=candidates,
            include_session_categories=include_session_categories,
        )
        seconds += time.perf_counter() - started
        for result, target in zip(results, targets, strict=True):
            row = int(row_of[target])
            unknown += row < 0
            covered += _holds(result.ranges, row)
            ranks[case] = _rank(result, ids[target])
            for level, hit in enumerate(result.category_path):
                right[level] += row >= 0 and hit.category == category_ids[level][category_of[level][target]]
            shown[catalog.rows(result.items[:largest])] = True
            rows_scored += result.rows_scored
            bytes_read += result.bytes_read
            case += 1
        bar.update(len(targets))
    bar.close()
    ranks[ranks > largest] = 0
    return {
        "cases": case,
        "unknown_targets": unknown,
        "mode": mode,
        "candidates": {"exact": 1.0, "auto": "auto"}.get(
            mode, candidates or recommender.config["candidate_share"]
        ),
        **ranking_metrics(ranks),
        "candidate_coverage": covered / case,
        **{f"category_accuracy_{level}": int(count) / case for level, count in enumerate(right)},
        f"catalog_coverage@{largest}": int(shown.sum()) / max(1, len(known)),
        "rows_scored": rows_scored / case,
        "bytes_read": bytes_read / case,
        "sessions_per_second": case / seconds,
    }


def _cases(sessions: Sessions, size: int) -> Any:
    """Batches of (prefixes, targets)."""
    prefixes: list[NDArray[np.int32]] = []
    targets: list[int] = []
    for index in range(len(sessions)):
        clicks = sessions[index]
        for length in range(1, len(clicks)):
            prefixes.append(clicks[:length])
            targets.append(int(clicks[length]))
            if len(targets) == size:
                yield prefixes, targets
                prefixes, targets = [], []
    if targets:
        yield prefixes, targets


def _rank(result: Result, target: int | str) -> int:
    """Place of the target, counting from 1, behind every result of its score; 0 where it is not among them."""
    if target not in result.items:
        return 0
    score = result.scores[result.items.index(target)]
    return int(np.count_nonzero(result.scores >= score))


def _holds(ranges: NDArray[np.int64], row: int) -> bool:
    """Whether one of the sorted, disjoint ``ranges`` int64 [m, 2] holds ``row``."""
    at = int(np.searchsorted(ranges[:, 0], row, side="right")) - 1
    return row >= 0 and at >= 0 and row < int(ranges[at, 1])
