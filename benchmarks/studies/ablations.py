"""Ablations: ``python -m benchmarks.studies.ablations SOURCE --work WORK --out docs/results``.

The model without one of its parts at a time: hierarchy, category conditioning, ids, each kind of metadata, the
co-click graph. SOURCE is the folder that holds the data sets (``diginetica``, ``retailrocket``, ``wikispeedia``).
Measured on the validation split: the encoder on all of it, and with the co-visitation scorer on its newer half. Writes
``ablations.md`` and ``ablations.png``.
"""

from __future__ import annotations

from statistics import fmean

import click

from benchmarks.studies.pages import bars_picture, write_page
from benchmarks.studies.trials import Asked, Bench, Trial, study_options
from benchmarks.tables import table
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset

WHOLE = "the whole model"


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
        Trial("items are metadata only", {"item_inputs": " ".join(kinds), "neighbours": 0}),
        Trial("items are metadata and co-clicks", {"item_inputs": " ".join(kinds)}),
        Trial("no co-click graph", {"neighbours": 0}),
    ]


def measured(bench: Bench, trials: list[Trial]) -> dict[str, dict[str, float]]:
    """Of each trial the means over the seeds, as fractions."""
    figures = {}
    for trial in trials:
        trained = bench.run(trial)
        infos = [each.info for each in trained]
        figures[trial.name] = {
            "recall": fmean(info.metrics["recall@20"] for info in infos),
            "mrr": fmean(info.metrics["mrr@20"] for info in infos),
            "category": fmean(each.leaf_accuracy for each in trained),
            "scorer_recall": fmean(info.covisitation_metrics["recall@20"] for info in infos),
            "scorer_mrr": fmean(info.covisitation_metrics["mrr@20"] for info in infos),
        }
    return figures


@click.command(help=__doc__)
@study_options
def main(asked: Asked) -> None:
    tables, groups = [], []
    for bench in asked.benches():
        data = Dataset.load(bench.data)
        figures = measured(bench, trials_of(data))
        whole = figures[WHOLE]
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
        body = [
            [
                name,
                f"{100 * row['recall']:.2f} %",
                f"{100 * row['mrr']:.2f} %",
                *(
                    "" if row is whole else f"{100 * (row[key] - whole[key]):+.2f}"
                    for key in ("recall", "mrr")
                ),
                f"{100 * row['category']:.2f} %",
                f"{100 * row['scorer_recall']:.2f} %",
                f"{100 * row['scorer_mrr']:.2f} %",
            ]
            for name, row in figures.items()
        ]
        epochs, seeds = (
            bench.settings.get("epochs", Config().epochs),
            f"{bench.seeds} seed{'s' * (bench.seeds > 1)}",
        )
        tables.append(f"{bench.about(data)}, {epochs} epochs, {seeds}.\n\n{table(head, body)}")
        bars = [
            (name, [100 * (row["mrr"] - whole["mrr"])]) for name, row in figures.items() if row is not whole
        ]
        groups.append((bench.name, bars))
    picture = bars_picture(
        groups, x="points of MRR@20", title="What the encoder loses or gains without a part"
    )
    text = (
        "The encoder on the validation split, every item ranked, and its difference to the whole model in points; with "
        "the co-visitation scorer on the newer half of that split. Every row of a table was trained alike."
    )
    write_page(
        asked.out, "ablations", asked.command("ablations"), "Ablations", text, "\n\n".join(tables), picture
    )


if __name__ == "__main__":
    main()
