"""Evaluation of a bundle by the SDK's own serving path: it measures what users are served."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hiersrec_sdk import Recommender, Result
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.examples import examples_to_measure
from hiersrec_training.metrics import CUTS, ranking_metrics, target_ranks

BATCH = 256


def evaluate(
    recommender: Recommender,
    data: Dataset,
    split: Literal["validation", "test"] = "test",
    *,
    mode: Literal["candidates", "exact", "auto"] = "candidates",
    candidates: float | Literal["auto"] | None = None,
    include_session_categories: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Recommend after every prefix of every session of ``split``, and look for the item that came next.

    A tie counts against the recommender: the target ranks behind all results of its score.

    Returns:
        One flat dictionary. Fractions: ``recall@k``, ``mrr@k``, ``ndcg@k`` for k of 1, 5, 10, 20;
        ``candidate_coverage``, examples whose target was among the rows scored; ``category_accuracy_<level>``, examples
        whose target lies in the most probable category of the level; ``catalog_coverage@20``, items of the catalog
        that were recommended at least once; ``seen_targets``, examples whose target the prefix holds already. Counts:
        ``examples``; ``unknown_targets``, targets that the catalog lacks, which count as missed; ``rows_scored`` and
        ``bytes_read``, mean of an example. ``sessions_per_second``: recommendations per second, in batches of 256.

    Raises:
        EmptyLogError: the split holds no example.
    """
    sessions: Sessions = getattr(data, split)
    examples = examples_to_measure(sessions, split)
    catalog = recommender.catalog
    row_of = catalog.rows(data.item_ids.to_list())
    known = row_of[row_of >= 0]
    levels = range(len(catalog.tree.ranges))
    category_of = []
    for level in levels:  # -1 for an item that the catalog lacks, as no category
        found = np.full(len(row_of), -1)
        found[row_of >= 0] = catalog.categories_of(known, level)
        category_of.append(found)
    ids = data.item_ids.to_list()
    largest = max(CUTS)
    ranks = np.zeros(len(examples), dtype=np.int64)
    covered = unknown = seen = rows_scored = bytes_read = done = 0
    right = np.zeros(len(levels), dtype=np.int64)
    shown = set[int | str]()
    seconds = 0.0
    bar = tqdm(total=len(examples), desc=f"{split}, {mode}", unit="example", disable=not progress)
    for some in examples.chunks(BATCH):
        asked = [[ids[item] for item in prefix] for prefix, _ in some]
        seen += sum(target in prefix for prefix, target in some)
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
        for result, target in zip(results, some.targets.tolist(), strict=True):
            row = int(row_of[target])
            unknown += row < 0
            covered += _holds(result.ranges, row)
            ranks[done] = _rank(result, ids[target])
            for level, hit in enumerate(result.category_path):
                right[level] += row >= 0 and hit.index == category_of[level][target]
            shown.update(result.items[:largest])
            rows_scored += result.rows_scored
            bytes_read += result.bytes_read
            done += 1
        bar.update(len(some))
    bar.close()
    ranks[ranks > largest] = 0
    return {
        "examples": done,
        "unknown_targets": unknown,
        "mode": mode,
        "candidates": {"exact": 1.0, "auto": "auto"}.get(
            mode, candidates or recommender.config["candidate_share"]
        ),
        **ranking_metrics(ranks),
        "candidate_coverage": covered / done,
        **{f"category_accuracy_{level}": int(count) / done for level, count in enumerate(right)},
        f"catalog_coverage@{largest}": len(shown) / max(1, len(catalog)),
        "seen_targets": seen / done,
        "rows_scored": rows_scored / done,
        "bytes_read": bytes_read / done,
        "sessions_per_second": done / seconds,
    }


def _rank(result: Result, target: int | str) -> int:
    """Rank of the target among the results, from 1; 0 where it is not among them."""
    if target not in result.items:
        return 0
    return int(target_ranks(result.scores[None], [result.items.index(target)])[0])


def _holds(ranges: NDArray[np.int64], row: int) -> bool:
    """Whether one of the sorted, disjoint ``ranges`` int64 [m, 2] holds ``row``."""
    at = int(np.searchsorted(ranges[:, 0], row, side="right")) - 1
    return row >= 0 and at >= 0 and row < int(ranges[at, 1])
