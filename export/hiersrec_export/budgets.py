"""Budgets of candidates: their curve on the validation part, and the top_p of ``candidates="auto"``."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from hiersrec_export.calibrate import Budgets, Counts, K, Layout, Scorer, measure
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.examples import Cases

KEPT = 0.995  # of the exact Recall and MRR, with the chosen top_p
SMALLEST_SHARE = 0.0025
LARGEST_SHARE = 0.08
SHOWN_TOP_PS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
MOST_CASES = 20_000
LEAST_CASES = 1_000
SCORES = 1_000_000_000  # cases times items, at most: some seconds of work


def cases_of(sessions: Sessions, items: int, seed: int = 0) -> Cases:
    """The cases to measure on: a sample of 20,000, fewer where the catalogue is large, at least 1,000."""
    return Cases.sample(sessions, min(MOST_CASES, max(LEAST_CASES, SCORES // items)), seed)


def shares_of(items: int, default: float) -> list[float]:
    """Fixed shares to measure, each twice the one before; and ``default``, the bundle's own.

    None holds fewer than K items, as such shares are all alike, and none lies above the larger of ``default`` and 8 %.
    """
    shares, share = {default}, SMALLEST_SHARE
    while share <= max(default, LARGEST_SHARE):
        if share * items >= K:
            shares.add(share)
        share *= 2
    return sorted(shares)


def all_top_ps() -> list[float]:
    """The top_ps that are tried, rising and finer towards 1, where a little more takes many more categories."""
    rest = 1 / (1 + np.exp(np.linspace(np.log(0.3 / 0.7), 9.5, 401)))  # what is left of 1
    return sorted({*(round(1 - float(f"{value:.3g}"), 9) for value in rest), *SHOWN_TOP_PS, 1.0})


def calibrate(
    scorer: Scorer,
    data: Dataset,
    cases: Cases,
    max_length: int,
    default: float,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure the curve and choose the top_p.

    Args:
        scorer: the exported model.
        data: where the cases are from.
        cases: what to measure on.
        max_length: newest clicks of a session that count.
        default: the bundle's share of candidates.
        progress: whether to show a bar.

    Returns:
        ``cases``; ``kept``, the share of the exact Recall@20 and MRR@20 to keep; ``top_p``, the smallest that keeps it
        of both; ``exact``, the metrics with every item ranked; ``shares`` and ``top_ps``, those of each budget, the
        chosen top_p among them; ``session_categories``, ``top_p`` and both curves once more, with the leaf categories
        of the session's own items always taken. ``rows``: mean a case.
    """
    budgets = Budgets(shares_of(data.items, default), all_top_ps())
    plain, with_own = _Sums(budgets), _Sums(budgets)
    bar = tqdm(total=len(cases), desc="calibration", unit="case", disable=not progress)
    for counts, own_counts in measure(scorer, Layout.of(data), cases, budgets, max_length):
        plain.add(counts)
        with_own.add(own_counts)
        bar.update(len(counts.ranks))
    bar.close()
    return {
        "cases": len(cases),
        "kept": KEPT,
        "exact": plain.exact(),
        **plain.curve(),
        "session_categories": with_own.curve(),
    }


class _Sums:
    """Sums over cases, [budgets] each; the last budget is the top_p 1.0, which takes everything."""

    def __init__(self, budgets: Budgets) -> None:
        self.budgets = budgets
        self.cases = 0
        self.hits = np.zeros(len(budgets))
        self.reciprocals = np.zeros(len(budgets))
        self.covered = np.zeros(len(budgets))
        self.rows = np.zeros(len(budgets))

    def add(self, counts: Counts) -> None:
        hit = (counts.ranks >= 1) & (counts.ranks <= K)
        self.cases += len(hit)
        self.hits += hit.sum(axis=0)
        self.reciprocals += (hit / np.maximum(counts.ranks, 1)).sum(axis=0)
        self.covered += (counts.ranks >= 1).sum(axis=0)
        self.rows += counts.rows.sum(axis=0)

    def metrics(self, budget: int) -> dict[str, float]:
        return {
            f"recall@{K}": float(self.hits[budget] / self.cases),
            f"mrr@{K}": float(self.reciprocals[budget] / self.cases),
            "candidate_coverage": float(self.covered[budget] / self.cases),
            "rows": float(self.rows[budget] / self.cases),
        }

    def exact(self) -> dict[str, float]:
        return {name: value for name, value in self.metrics(-1).items() if name != "candidate_coverage"}

    def curve(self) -> dict[str, Any]:
        """The chosen ``top_p``; metrics of ``shares`` and of ``top_ps``."""
        keeps = (self.hits >= KEPT * self.hits[-1]) & (self.reciprocals >= KEPT * self.reciprocals[-1])
        first = len(self.budgets.shares)
        chosen = int(keeps[first:].argmax())  # the last one keeps everything
        top_ps = enumerate(self.budgets.top_ps)
        return {
            "top_p": self.budgets.top_ps[chosen],
            "shares": [{"share": share, **self.metrics(at)} for at, share in enumerate(self.budgets.shares)],
            "top_ps": [
                {"top_p": top_p, **self.metrics(first + at)}
                for at, top_p in top_ps
                if top_p in SHOWN_TOP_PS or at == chosen
            ],
        }
