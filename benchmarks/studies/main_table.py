"""The main table: ``python -m benchmarks.studies.main_table SOURCE --work WORK --out docs/results --seeds 3``.

Ours, exact and from candidates, beside every baseline, on each data set that SOURCE holds. Baselines are tuned on the
validation split, then trained once on training and validation split; ours is trained so with each seed, with the
co-visitation scorer that the run of seed 0 fitted on the validation split. Everything is scored on the test split,
every item ranked. Writes ``main_table.md`` and ``main_table.png``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from benchmarks.studies.data_sets import DATA_SETS, DataSet
from benchmarks.studies.models import MODELS
from benchmarks.studies.pages import bars_picture, write_page
from benchmarks.studies.trials import Asked, Bench, Trial, study_options
from benchmarks.studies.tuning import Tried, digest, train_and_measure, tune_counting, tune_neural
from benchmarks.tables import spread, table
from hiersrec_sdk import Recommender
from hiersrec_training.baselines import KINDS, baseline, evaluate_baseline
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.evaluate import evaluate

MODES: dict[str, dict[str, Any]] = {
    "HierSRec, exact": {"mode": "exact"},
    "HierSRec, candidates 4 %": {"candidates": 0.04},
    'HierSRec, candidates "auto"': {"candidates": "auto"},
}
OURS = "ours"
METRICS = ("recall@20", "mrr@20", "ndcg@20")


def ours(bench: Bench, data: Dataset, tried: Tried) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Of each mode the metrics of each seed."""
    validated = replace(bench, seeds=1).run(Trial("validated"))[0]
    final = Trial("final", {"epochs": validated.info.best_epoch})
    bundles = [trained.bundle(validated.run) for trained in bench.run(final, validated_by=validated.run)]
    for name, options in MODES.items():
        yield (
            name,
            [
                tried.once(
                    bundle.name,
                    {**options, "bundle": digest(bundle)},
                    partial(_served, bundle, data, options),
                )
                for bundle in bundles
            ],
        )


def _served(bundle: Path, data: Dataset, options: dict[str, Any]) -> dict[str, Any]:
    return evaluate(Recommender.load(bundle), data, **options)


def counting(name: str, data: Dataset, draws: int, tried: Tried) -> dict[str, float]:
    """Metrics of a baseline without gradients."""
    options = tune_counting(name, data, draws, tried)
    both = data.train.then(data.validation)
    metrics: dict[str, float] = tried.once(
        name, options, lambda: evaluate_baseline(baseline(name, both, data.items, options), data.test)
    )
    return metrics


def neural(name: str, data: Dataset, about: DataSet, tried: Tried, newest: int) -> dict[str, float]:
    """Metrics of a neural baseline at the epoch that was best on the validation split."""
    settings, at = tune_neural(name, data, about.neural_epochs, tried, newest)
    both = data.train.then(data.validation)
    metrics: dict[str, float] = tried.once(
        name,
        {**asdict(settings), "stopped_after": at},
        lambda: train_and_measure(name, settings, both, data.items, data.test, until=at)[-1],
    )
    return metrics


@click.command(help=__doc__)
@study_options
@click.option(
    "--draws", default=8, show_default=True, help="Random options that a counting baseline is tuned with."
)
@click.option(
    "--tuned-on", default=20_000, show_default=True, help="Newest sessions that a neural one is tuned on."
)
@click.option(
    "--method", "methods", multiple=True, type=click.Choice([OURS, *KINDS, *MODELS]), help="Repeatable. [all]"
)
def main(asked: Asked, draws: int, tuned_on: int, methods: tuple[str, ...]) -> None:
    seeds = asked.seeds
    tables, groups = [], []
    for bench in asked.benches(reduced=False):
        data = Dataset.load(bench.data)
        tried = Tried(bench.folder / "main_table.jsonl", data)
        rows: dict[str, list[dict[str, float]]] = {}
        for method in methods or (OURS, *KINDS, *MODELS):
            if method == OURS:
                rows |= ours(bench, data, tried)
            elif method in KINDS:
                rows[method] = [counting(method, data, draws, tried)]
            else:
                rows[method] = [neural(method, data, DATA_SETS[bench.name], tried, tuned_on)]
            click.echo(f"{bench.name}, {method}: done", err=True)
        best = max(
            [found[0]["mrr@20"] for name, found in rows.items() if name not in MODES], default=float("nan")
        )
        body = []
        for name, found in rows.items():
            gain = fmean(row["mrr@20"] for row in found) / best - 1
            ranked = fmean(row.get("rows_scored", data.items) for row in found)
            body.append(
                [
                    name,
                    *(_spread(found, metric) for metric in METRICS),
                    f"{ranked:,.0f}",
                    f"{100 * gain:+.1f} %",
                ]
            )
        head = [
            f"{bench.name}, {data.test.example_count:,} examples",
            "Recall@20",
            "MRR@20",
            "NDCG@20",
            "items ranked",
            "MRR@20 to the best baseline",
        ]
        tables.append(table(head, body))
        bars = [(name, [100 * fmean(row["mrr@20"] for row in found)]) for name, found in rows.items()]
        groups.append((bench.name, bars))
    picture = bars_picture(groups, x="MRR@20, %", title="MRR@20 on the test split")
    text = (
        f"Ours: mean of {seeds} seed{'s' * (seeds > 1)}{' and standard deviation' if seeds > 1 else ''}. Baselines: "
        f"one training each, tuned on the validation split by MRR@20: the best of their defaults and {draws} random "
        f"draws on 2,000 sessions, or of a grid of dropout, learning rate and epochs on the newest {tuned_on:,} "
        "sessions."
    )
    command = asked.command("main_table", method=methods)
    write_page(asked.out, "main_table", command, "Main table", text, "\n\n".join(tables), picture)


def _spread(rows: list[dict[str, float]], metric: str) -> str:
    return spread([100 * row[metric] for row in rows])


if __name__ == "__main__":
    main()
