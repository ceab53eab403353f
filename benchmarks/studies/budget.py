"""Candidate budgets: ``python -m benchmarks.studies.budget BUNDLE DATA --out docs/results``.

What a budget of candidates costs and keeps on the test split: a fixed share of the items, from 0.25 % to all, against a
top_p of the categories; rows scored, and the time of a call on one core. Writes ``budget.md`` and ``budget.png``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.studies.pages import Line, lines_picture, write_page
from benchmarks.studies.scoring import encoder_of, scorer_of
from benchmarks.tables import table
from benchmarks.timing import ensure_one_thread
from hiersrec_export.calibrate import Budgets, K, Layout, Scorer, measure
from hiersrec_sdk import Recommender
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.examples import Examples

SHARES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1.0)
TOP_PS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)


@dataclass(frozen=True)
class Row:
    """A budget: ``recall`` and ``mrr`` at 20, mean ``rows`` scored."""

    name: str
    recall: float
    mrr: float
    rows: float


def accuracy(
    scorer: Scorer, data: Dataset, examples: Examples, budgets: Budgets, max_length: int
) -> list[Row]:
    """One row for each of ``budgets``."""
    hits, reciprocals, rows = (np.zeros(len(budgets)) for _ in range(3))
    for counts, _ in measure(scorer, Layout.of(data), examples, budgets, max_length):
        hit = (counts.ranks >= 1) & (counts.ranks <= K)
        hits += hit.sum(axis=0)
        reciprocals += (hit / np.maximum(counts.ranks, 1)).sum(axis=0)
        rows += counts.rows.sum(axis=0)
    names = [f"share {100 * share:g} %" for share in budgets.shares] + [
        f"top_p {top_p:g}" for top_p in budgets.top_ps
    ]
    count = max(1, len(examples))
    figures = zip(names, hits / count, reciprocals / count, rows / count, strict=True)
    return [Row(name, float(recall), float(mrr), float(scored)) for name, recall, mrr, scored in figures]


def times(calls: Sequence[Callable[[list[Any]], Any]], asked: Sequence[list[Any]]) -> list[float]:
    """Median microseconds of each of ``calls`` over the sessions ``asked``. They take turns, each with another session
    than the one before it."""
    laps: list[list[int]] = [[] for _ in calls]
    for turn in range(len(asked)):
        for place, (lap, call) in enumerate(zip(laps, calls, strict=True)):
            session = asked[(turn + place * 37) % len(asked)]
            started = time.perf_counter_ns()
            call(session)
            lap.append(time.perf_counter_ns() - started)
    return [float(np.median(lap)) / 1_000 for lap in laps]


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the table and the picture."
)
@click.option("--examples", default=100_000, show_default=True, help="Test examples at most, a sample.")
@click.option("--timed", default=1_000, show_default=True, help="Sessions that calls are timed with.")
def main(bundle: Path, data: Path, out: Path, examples: int, timed: int) -> None:
    ensure_one_thread()
    recommender, dataset = Recommender.load(bundle), Dataset.load(data)
    chosen = Examples.of(dataset.test).sample(examples)
    scorer = scorer_of(bundle, recommender, dataset, encoder_of(bundle, recommender))
    budgets = Budgets(SHARES, (*TOP_PS, 1.0))  # the last top_p takes everything
    max_length: int = recommender.config["max_length"]
    models = {
        "the whole model": accuracy(scorer, dataset, chosen, budgets, max_length),
        "the encoder alone": accuracy(
            replace(scorer, item_bias=None, covisitation=None), dataset, chosen, budgets, max_length
        ),
    }
    ids = dataset.item_ids.to_list()
    some = Examples.of(dataset.test).sample(timed, seed=1)
    asked = [[ids[item] for item in prefix] for prefix, _ in some]
    calibrated = float(recommender.config["calibration"]["top_p"])
    calls: dict[str, Callable[[list[Any]], Any]] = {
        **{
            f"share {100 * share:g} %": partial(recommender.recommend, k=20, candidates=share)
            for share in SHARES
        },
        f"top_p {calibrated:g}": partial(recommender.recommend, k=20, candidates="auto"),
        "top_p 1": partial(recommender.recommend, k=20, mode="exact"),
    }
    took = dict(zip(calls, times(list(calls.values()), asked), strict=True))
    tables = []
    for model, rows in models.items():
        exact = rows[-1]
        body = [
            [
                "exact" if row is exact else row.name,
                f"{100 * row.recall:.2f} %",
                f"{100 * row.mrr:.2f} %",
                f"{100 * row.recall / exact.recall:.2f} %",
                f"{100 * row.mrr / exact.mrr:.2f} %",
                f"{row.rows:,.0f}",
                f"{100 * row.rows / dataset.items:.2f} %",
                f"{took[row.name]:.0f}" if row.name in took and rows is models["the whole model"] else "",
            ]
            for row in rows
        ]
        head = ["budget", "Recall@20", "MRR@20", "Recall kept", "MRR kept", "rows", "of all", "µs a call"]
        tables.append(f"{model[0].upper()}{model[1:]}:\n\n{table(head, body)}")
    picture = lines_picture(
        [
            Line(
                f"{model}, {kind}",
                [100 * row.rows / dataset.items for row in rows[part]],
                [100 * row.recall / rows[-1].recall for row in rows[part]],
                color,
                dashes,
            )
            for (model, rows), color in zip(models.items(), ("tab:blue", "tab:orange"), strict=True)
            for kind, part, dashes in (
                ("fixed share", slice(0, len(SHARES)), "--"),
                ("top_p", slice(len(SHARES), None), "-"),
            )
        ],
        x="rows scored, mean, % of the catalog",
        y="Recall@20 kept of the exact mode, %",
        title=f"Budgets of candidates, {len(chosen):,} test examples",
        log=True,
    )
    text = (
        f"{len(chosen):,} test examples of {dataset.items:,} items in {dataset.tree.sizes[-1]:,} categories. Times: "
        f"medians of {len(asked):,} calls of `recommend`, one thread, for the bundle's own top_p and the shares."
    )
    command = f"python -m benchmarks.studies.budget BUNDLE DATA --out {out}"
    write_page(out, "budget", command, "Candidate budgets", text, "\n\n".join(tables), picture)


if __name__ == "__main__":
    main()
