"""Ablations: ``python -m benchmarks.studies.ablations SOURCE --work WORK --out docs/results``.

The model without one of its parts at a time: hierarchy, category conditioning, ids, each kind of metadata, the
co-click graph. SOURCE is the folder that holds the data sets (``diginetica``, ``retailrocket``, ``wikispeedia``).
Measured on the validation split: the encoder on all of it, and with the co-visitation scorer on its newer half. Writes
``ablations.md`` and ``ablations.png``; with ``--full-size``, which takes the rows that matter alone, both are called
``ablations_full_size``.
"""

from __future__ import annotations

from statistics import fmean

import click

from benchmarks.studies.pages import bars_picture, write_page
from benchmarks.studies.trials import Asked, Bench, Trial, study_options
from benchmarks.tables import spread, table
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset

WHOLE = "the whole model"
MATTER = (
    WHOLE,
    "item head only",
    "multi-task, no category conditioning",
    "items are ids only",
    "items are metadata only",
    "no co-click graph",
)
KEYS = ("recall", "mrr", "category", "scorer_recall", "scorer_mrr")


def trials_of(data: Dataset) -> list[Trial]:
    """The whole model first. Only what ``data`` has can be left out."""
    trials = [
        Trial(WHOLE),
        Trial("item head only", {"category_weight": 0.0, "category_conditioning": "none"}),
        Trial("multi-task, no category conditioning", {"category_conditioning": "none"}),
    ]
    if data.tree.depth > 1:
        trials += [
            Trial("conditioned on the top level only", {"category_conditioning": "top"}),
            Trial("conditioned on the leaf level only", {"category_conditioning": "leaf"}),
        ]
    kinds = ["category"]
    kinds += ["text"] if data.text.null_count() < data.items else []
    kinds += ["numbers"] if data.numbers else []
    trials += [
        Trial(f"items without {kind}", {"item_inputs": " ".join(["id", *(k for k in kinds if k != kind)])})
        for kind in kinds
        if len(kinds) > 1
    ]
    return [
        *trials,
        Trial("items are ids only", {"item_inputs": "id"}),
        Trial("items are metadata only", {"item_inputs": " ".join(kinds), "neighbors": 0}),
        Trial("items are metadata and co-clicks", {"item_inputs": " ".join(kinds)}),
        Trial("no co-click graph", {"neighbors": 0}),
    ]


def measured(bench: Bench, trials: list[Trial]) -> dict[str, dict[str, list[float]]]:
    """The metrics of each trial, in percent, one for each seed."""
    figures = {}
    for trial in trials:
        figures[trial.name] = {key: list[float]() for key in KEYS}
        for trained in bench.run(trial):
            encoder, scorer = trained.info.metrics, trained.info.covisitation_metrics
            each = (encoder["recall@20"], encoder["mrr@20"], trained.leaf_accuracy)
            for key, value in zip(KEYS, (*each, scorer["recall@20"], scorer["mrr@20"]), strict=True):
                figures[trial.name][key].append(100 * value)
    return figures


@click.command(help=__doc__)
@study_options
@click.option("--full-size", is_flag=True, help="All sessions and epochs; the rows that matter alone.")
def main(asked: Asked, full_size: bool) -> None:
    tables, groups = [], []
    for bench in asked.benches(reduced=not full_size):
        data = Dataset.load(bench.data)
        trials = [trial for trial in trials_of(data) if trial.name in MATTER or not full_size]
        figures = measured(bench, trials)
        whole = {key: fmean(figures[WHOLE][key]) for key in ("recall", "mrr")}
        head = [
            bench.name,
            "Recall@20",
            "MRR@20",
            "",
            "",
            "leaf category right",
            "with the co-visitation scorer: Recall@20",
            "MRR@20",
        ]
        body = []
        for name, row in figures.items():
            changes = [f"{fmean(row[key]) - mean:+.2f}" for key, mean in whole.items()]
            first, second, *others = (spread(row[key]) for key in KEYS)
            body.append([name, first, second, *(["", ""] if name == WHOLE else changes), *others])
        epochs, seeds = (
            bench.settings.get("epochs", Config().epochs),
            f"{bench.seeds} seed{'s' * (bench.seeds > 1)}",
        )
        tables.append(f"{bench.about(data)}, {epochs} epochs, {seeds}.\n\n{table(head, body)}")
        bars = [(name, [fmean(row["mrr"]) - whole["mrr"]]) for name, row in figures.items() if name != WHOLE]
        groups.append((bench.name, bars))
    picture = bars_picture(
        groups, x="points of MRR@20", title="What the encoder loses or gains without a part"
    )
    text = (
        "The encoder on the validation split, every item ranked, and its difference to the whole model in points; with "
        "the co-visitation scorer on the newer half of that split. Every row of a table was trained alike. With "
        "several seeds: means and standard deviations."
    )
    page, title = (
        ("ablations_full_size", "Ablations at full size") if full_size else ("ablations", "Ablations")
    )
    command = asked.command("ablations") + " --full-size" * full_size
    write_page(asked.out, page, command, title, text, "\n\n".join(tables), picture)


if __name__ == "__main__":
    main()
