"""Candidate budgets: ``python -m benchmarks.studies.budget BUNDLE DATA --out docs/results``.

What a budget of candidates costs and keeps on the test part: a fixed share of the items, from 0.5 % to all, against a
probability mass of the categories; rows scored, and the time of a call on one core. Writes ``budget.md`` and
``budget.png``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.one_thread import ensure_one_thread
from benchmarks.studies.pages import Line, lines_picture, table, write_page
from benchmarks.studies.scoring import encoder_of, scorer_of
from hiersrec_export.cases import Cases
from hiersrec_export.curve import Budgets, K, Layout, Scorer, measure
from hiersrec_sdk import Recommender
from hiersrec_training.dataset import Dataset

SHARES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1.0)
MASSES = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)


@dataclass(frozen=True)
class Row:
    """A budget: ``recall`` and ``mrr`` at 20, ``rows`` scored a case."""

    name: str
    recall: float
    mrr: float
    rows: float


def accuracy(scorer: Scorer, data: Dataset, cases: Cases, budgets: Budgets, max_length: int) -> list[Row]:
    """One row for each of ``budgets``."""
    hits, reciprocals, rows = (np.zeros(len(budgets)) for _ in range(3))
    for counts, _ in measure(scorer, Layout.of(data), cases, budgets, max_length):
        hit = (counts.ranks >= 1) & (counts.ranks <= K)
        hits += hit.sum(axis=0)
        reciprocals += (hit / np.maximum(counts.ranks, 1)).sum(axis=0)
        rows += counts.rows.sum(axis=0)
    names = [f"share {100 * share:g} %" for share in budgets.shares] + [f"mass {mass:g}" for mass in budgets.masses]
    figures = zip(names, hits / len(cases), reciprocals / len(cases), rows / len(cases), strict=True)
    return [Row(name, float(recall), float(mrr), float(scored)) for name, recall, mrr, scored in figures]


def times(recommender: Recommender, asked: Sequence[list[Any]], options: Sequence[dict[str, Any]]) -> list[float]:
    """Median microseconds of ``recommend`` with each of ``options``, which take turns."""
    laps: list[list[int]] = [[] for _ in options]
    for session in asked:
        for lap, option in zip(laps, options, strict=True):
            started = time.perf_counter_ns()
            recommender.recommend(session, 20, **option)
            lap.append(time.perf_counter_ns() - started)
    return [float(np.median(lap)) / 1_000 for lap in laps]


def mass_options(recommender: Recommender, mass: float) -> dict[str, Any]:
    """The arguments that rank by ``mass``: those of the bundle's own budget."""
    recommender.config["budgets"]["mass"] = mass
    return {"candidates": "auto"}


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the table and the picture.")
@click.option("--cases", default=100_000, show_default=True, help="Test cases at most, a sample.")
@click.option("--calls", default=1_000, show_default=True, help="Sessions that calls are timed with.")
def main(bundle: Path, data: Path, out: Path, cases: int, calls: int) -> None:
    ensure_one_thread()
    recommender, dataset = Recommender.load(bundle), Dataset.load(data)
    chosen = Cases.sample(dataset.test, cases)
    scorer = scorer_of(recommender, dataset, encoder_of(bundle, recommender))
    rows = accuracy(scorer, dataset, chosen, Budgets(SHARES, (*MASSES, 1.0)), recommender.config["max_length"])
    *rows, exact = rows  # the last mass takes everything
    ids = dataset.item_ids.to_list()
    some = Cases.sample(dataset.test, calls, seed=1)
    asked = [
        [ids[item] for item in some.sessions[int(session)][: int(length)]]
        for session, length in zip(some.session, some.length, strict=True)
    ]
    took = times(recommender, asked, [*({"candidates": share} for share in SHARES), {"mode": "exact"}])
    by_mass = [times(recommender, asked, [mass_options(recommender, mass)])[0] for mass in MASSES]
    every = [*zip(rows, [*took[:-1], *by_mass], strict=True), (exact, took[-1])]
    lines = [
        [
            "exact" if row is exact else row.name, f"{100 * row.recall:.2f} %", f"{100 * row.mrr:.2f} %",
            f"{100 * row.recall / exact.recall:.2f} %", f"{100 * row.mrr / exact.mrr:.2f} %",
            f"{row.rows:,.0f}", f"{100 * row.rows / dataset.items:.2f} %", f"{microseconds:.0f}",
        ]
        for row, microseconds in every
    ]  # fmt: skip
    head = ["budget", "Recall@20", "MRR@20", "Recall kept", "MRR kept", "rows", "of all", "µs a call"]
    picture = lines_picture(
        [
            Line(
                f"{kind}, {name}",
                [100 * row.rows / dataset.items for row in some_rows],
                [100 * getattr(row, field) / getattr(exact, field) for row in some_rows],
                color,
                dashes,
            )
            for kind, some_rows, color in (
                ("fixed share", rows[: len(SHARES)], "tab:gray"),
                ("probability mass", rows[len(SHARES) :], "tab:blue"),
            )
            for name, field, dashes in (("Recall@20", "recall", "-"), ("MRR@20", "mrr", "--"))
        ],
        x="rows scored, mean, % of the catalogue",
        y="kept of the exact mode, %",
        title=f"Budgets of candidates, {len(chosen):,} test cases",
        log=True,
    )
    text = (
        f"{len(chosen):,} test cases of {dataset.items:,} items in {dataset.tree.sizes[-1]:,} categories. Times: "
        f"medians of {len(asked):,} calls of `recommend`, one thread."
    )
    write_page(out, "budget", "Candidate budgets", text, table(head, lines), picture)


if __name__ == "__main__":
    main()
