"""Sparse metadata: ``python -m benchmarks.studies.sparse SOURCE --work WORK --out docs/results``.

How much metadata it takes: from a share of the items, drawn at random, the text, the category or both are removed. An
item without a category lies in the unknown category, which is a category like the others. Measured on the validation
split, the encoder alone, every item ranked. SOURCE is the folder that holds the data sets; Diginetica's names and
prices are not used (docs/results/trials.md), so that only its categories are removed. Writes ``sparse.md`` and
``sparse.png``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import fmean

import click
import numpy as np
import polars as pl

from benchmarks.studies.pages import Line, lines_picture, write_page
from benchmarks.studies.trials import Asked, Trial, study_options
from benchmarks.tables import table
from hiersrec_sdk.catalog.tree import UNKNOWN_IDS
from hiersrec_training.data.dataset import CategoryTree, Dataset

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
COLORS = {"text": "tab:orange", "category": "tab:blue", "text and category": "tab:green"}
DASHES = {"diginetica": "-", "retailrocket": "--", "wikispeedia": ":"}


def without(data: Dataset, kinds: str, share: float, seed: int = 0) -> Dataset:
    """``data`` where a ``share`` of the items has lost what ``kinds`` names: "text", "category" or both.

    A larger share takes the same items and more.
    """
    lost = np.random.default_rng(seed).permutation(data.items) < round(share * data.items)
    if "text" in kinds:
        text = data.text.to_frame("text").select(
            pl.when(pl.Series(~lost)).then(pl.col("text")).otherwise(None)
        )["text"]
        data = replace(data, text=text)
    if "category" in kinds and lost.any():
        tree = with_unknown(data.tree)
        unknown = tree.sizes[-1] - 1
        extra = [[] if loses else leaves for loses, leaves in zip(lost, data.extra_categories, strict=True)]
        category = np.where(lost, unknown, data.category).astype(np.int32)
        data = replace(data, tree=tree, category=category, extra_categories=extra)
    return data


def with_unknown(tree: CategoryTree) -> CategoryTree:
    """``tree`` with the unknown category as the last of each level, as ``hiersrec prepare`` has it."""
    unknown = UNKNOWN_IDS["int64" if isinstance(tree.ids[-1][0], int) else "string"]
    if tree.ids[0][-1] == unknown:
        return tree
    above = [-1, *(size for size in tree.sizes[:-1])]
    return CategoryTree(
        [[*level, unknown] for level in tree.ids],
        [
            np.append(level, parent).astype(np.int32)
            for level, parent in zip(tree.parents, above, strict=True)
        ],
    )


@click.command(help=__doc__)
@study_options
def main(asked: Asked) -> None:
    tables, lines = [], []
    for bench in asked.benches():
        data = Dataset.load(bench.data)
        kinds = (
            ["text", "category", "text and category"] if data.text.null_count() < data.items else ["category"]
        )
        head = [
            "removed from",
            *(f"{kind}: {metric}" for kind in kinds for metric in ("Recall@20", "MRR@20")),
        ]
        figures: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for share in SHARES:
            for kind in kinds:
                trial = Trial(
                    f"{kind} removed from {100 * share:g} %" if share else "all metadata",
                    {"covisitation": False},
                    change=partial(without, kinds=kind, share=share) if share else None,
                )
                infos = [trained.info for trained in bench.run(trial)]
                figures[kind].append(
                    (fmean(i.metrics["recall@20"] for i in infos), fmean(i.metrics["mrr@20"] for i in infos))
                )
        body = [
            [
                f"{100 * share:g} % of the items",
                *(f"{100 * value:.2f} %" for kind in kinds for value in figures[kind][place]),
            ]
            for place, share in enumerate(SHARES)
        ]
        tables.append(f"{bench.about(data)}.\n\n{table(head, body)}")
        lines += [
            Line(
                f"{bench.name}, {kind}",
                [100 * share for share in SHARES],
                [100 * (mrr - found[0][1]) for _, mrr in found],
                COLORS[kind],
                DASHES[bench.name],
            )
            for kind, found in figures.items()
        ]
    picture = lines_picture(
        lines,
        x="items without it, %",
        y="MRR@20 of the encoder, points to all metadata",
        title="Metadata removed at random",
    )
    text = "The encoder on the validation split, every item ranked. Every row of a table was trained alike."
    write_page(
        asked.out, "sparse", asked.command("sparse"), "Sparse metadata", text, "\n\n".join(tables), picture
    )


if __name__ == "__main__":
    main()
