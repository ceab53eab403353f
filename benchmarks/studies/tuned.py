"""Tuned settings: ``python -m benchmarks.studies.tuned SOURCE --work WORK --out docs/results --seeds 3``.

What ``hiersrec tune`` finds, from the defaults on, beside settings that a person has chosen by hand on the same
validation split. Every row is trained on the training split with each seed. The test split has no part in the tuning;
the whole model is measured on it once, every item ranked. Writes ``tuned.md`` and ``tuned.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from benchmarks.studies.data_sets import DATA_SETS
from benchmarks.studies.pages import bars_picture, write_page
from benchmarks.studies.trials import Asked, Bench, Trained, Trial, study_options
from benchmarks.studies.tuning import Tried, digest
from benchmarks.tables import spread, table
from hiersrec_sdk import Recommender
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.evaluate import evaluate
from hiersrec_training.tuning.finals import Finalist
from hiersrec_training.tuning.search import shown_settings
from hiersrec_training.tuning.space import difference
from hiersrec_training.tuning.tune import tune

METRICS = ("recall@20", "mrr@20")


def trained(finalist: Finalist, bench: Bench) -> list[Trained]:
    """The runs of a finalist, by seed."""
    return [Trained(run, info, bench.data) for _, (run, info) in sorted(finalist.runs.items())]


def tested(runs: Sequence[Trained], data: Dataset, tried: Tried) -> list[dict[str, float]]:
    """Metrics of each run's bundle on the test split."""

    def served(bundle: Path) -> dict[str, Any]:
        return evaluate(Recommender.load(bundle), data, mode="exact")

    bundles = [run.bundle() for run in runs]
    return [
        tried.once(bundle.name, {"bundle": digest(bundle)}, partial(served, bundle)) for bundle in bundles
    ]


@click.command(help=__doc__)
@study_options
@click.option("--trials", default=30, show_default=True, help="Of the search.")
@click.option("--tuned-on", default=40_000, show_default=True, help="Newest sessions of the search.")
@click.option("--best", default=3, show_default=True, help="Trials of the finals.")
@click.option("--hours", default=2.0, show_default=True, help="For one data set.")
@click.option("--parallel", default=1, show_default=True, help="Trainings at once.")
def main(asked: Asked, trials: int, tuned_on: int, best: int, hours: float, parallel: int) -> None:
    tables, groups = [], []
    for bench in asked.benches(reduced=False):
        data, folder = Dataset.load(bench.data), bench.folder / "tuned"
        found = tune(
            bench.data,
            folder,
            trials=trials,
            hours=hours,
            parallel=parallel,
            sessions=tuned_on,
            best=best,
            seeds=asked.seeds,
            resume=folder.exists(),
            report=partial(click.echo, err=True),
        )
        rows = {"the defaults": trained(found.defaults, bench)}
        by_hand = DATA_SETS[bench.name].settings
        if by_hand:
            rows[f"by hand: {shown_settings(by_hand)}"] = bench.run(Trial("by hand"))
        if found.best is not found.defaults:
            settings = difference(found.best.config, Config())
            rows[f"tuned: {shown_settings(settings)}"] = trained(found.best, bench)
        tried = Tried(bench.folder / "tuned.jsonl", data)
        body, bars = [], []
        for name, runs in rows.items():
            validated, test = [run.info.metrics for run in runs], tested(runs, data, tried)
            body.append(
                [
                    name,
                    *(
                        spread([100 * row[metric] for row in figures])
                        for figures in (validated, test)
                        for metric in METRICS
                    ),
                ]
            )
            means = [100 * fmean(row["mrr@20"] for row in figures) for figures in (validated, test)]
            bars.append((name.partition(":")[0], means))
            click.echo(f"{bench.name}, {name}: done", err=True)
        head = [bench.name, "validation: Recall@20", "MRR@20", "test: Recall@20", "MRR@20"]
        hand = "" if by_hand else " The defaults are what was kept by hand."
        searched = min(tuned_on, len(data.train))
        tables.append(
            f"{bench.about(data)}, {data.test.example_count:,} test examples. {found.trials} trials on the newest "
            f"{searched:,} sessions and the finals: {found.seconds / 60:,.0f} minutes of training.{hand}\n\n"
            + table(head, body)
        )
        groups.append((bench.name, bars))
    picture = bars_picture(groups, x="MRR@20, %", title="Settings", series=("validation", "test"))
    text = (
        "Validation: the session encoder, by which settings are compared. Test: the whole model as served, every item "
        f"ranked. Mean of {asked.seeds} seeds{' and standard deviation' * (asked.seeds > 1)}."
    )
    command = asked.command(
        "tuned", trials=trials, tuned_on=tuned_on, best=best, hours=hours, parallel=parallel
    )
    write_page(asked.out, "tuned", command, "Tuned settings", text, "\n\n".join(tables), picture)


if __name__ == "__main__":
    main()
