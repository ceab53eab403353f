"""Category accuracy: ``python -m benchmarks.studies.category_accuracy BUNDLE DATA --out docs/results``.

The paper's limitation: candidates are those of the predicted categories, so what if the prediction is worse? The head
is degraded in a controlled way: in cases drawn at random the logit of the target's category changes place with that of
the most probable one, or the next, until the most probable category is right in a given share of the cases. The item
head is left alone. Writes ``category_accuracy.md`` and ``category_accuracy.png``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.budget import accuracy
from benchmarks.studies.pages import Line, lines_picture, table, write_page
from benchmarks.studies.scoring import encoder_of, scorer_of
from hiersrec_export.cases import Batch, Cases
from hiersrec_export.curve import Budgets, Encoder
from hiersrec_sdk import Recommender
from hiersrec_sdk.encoder import Encoded
from hiersrec_training.dataset import Dataset

ACCURACIES = (1.0, 0.9, 0.8, 0.7, 0.5)
SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
MASSES = (0.3, 0.5, 0.7, 0.9, 0.99)


class Degraded:
    """An encoder whose most probable leaf category is the target's with the probability ``wanted``.

    It has to be asked for the ``batches`` in their order, whose targets it looks at. ``leaf`` int64 [items].
    """

    def __init__(
        self, encoder: Encoder, batches: Iterator[Batch], leaf: NDArray[np.int64], wanted: float, seed: int = 0
    ) -> None:
        self._encoder, self._batches, self._leaf, self._wanted = encoder, batches, leaf, wanted
        self._random = np.random.default_rng(seed)
        self.cases = self.right = 0

    def encode(self, vectors: NDArray[np.float32], lengths: NDArray[np.int64], /) -> Encoded:
        encoded = self._encoder.encode(vectors, lengths)
        target = self._leaf[next(self._batches).targets]
        logits = encoded.category_logits[-1].copy()
        every = np.arange(len(logits))
        order = np.argsort(-logits, axis=1, kind="stable")
        right = self._random.random(len(logits)) < self._wanted
        # where it shall be right, with the most probable one; where it shall not, with the one after that
        is_first = order[:, 0] == target
        other = np.where(right, order[:, 0], order[:, 1])
        changed = right != is_first
        a, b = (every[changed], target[changed]), (every[changed], other[changed])
        logits[a], logits[b] = logits[b], logits[a]
        self.cases += len(logits)
        self.right += int((logits.argmax(axis=1) == target).sum())
        return replace(encoded, category_logits=(*encoded.category_logits[:-1], logits))


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the table and the picture.")
@click.option("--cases", default=20_000, show_default=True, help="Test cases at most, a sample.")
def main(bundle: Path, data: Path, out: Path, cases: int) -> None:
    recommender, dataset = Recommender.load(bundle), Dataset.load(data)
    chosen = Cases.sample(dataset.test, cases)
    encoder = encoder_of(bundle, recommender)
    scorer = scorer_of(recommender, dataset, encoder)
    max_length: int = recommender.config["max_length"]
    budgets = Budgets(SHARES, (*MASSES, 1.0))
    plain = accuracy(scorer, dataset, chosen, budgets, max_length)
    exact = plain[-1]
    size = max(1, min(256, (1 << 24) // dataset.items))  # as measure() cuts them
    leaf = dataset.category.astype(np.int64)
    found = {"as it is": plain}
    for wanted in ACCURACIES:
        degraded = Degraded(encoder, chosen.batches(scorer.vectors, max_length, size), leaf, wanted)
        rows = accuracy(replace(scorer, encoder=degraded), dataset, chosen, budgets, max_length)
        found[f"{100 * degraded.right / degraded.cases:.1f} %"] = rows
    head = ["right in", *(row.name for row in plain[:-1])]
    tables = []
    for metric, field in (("Recall@20", "recall"), ("MRR@20", "mrr")):
        lines = [
            [name, *(f"{100 * getattr(row, field) / getattr(exact, field):.1f}" for row in rows[:-1])]
            for name, rows in found.items()
        ]
        tables.append(f"{metric}, kept of the exact mode, per cent:\n\n{table(head, lines)}")
    rows_scored = [
        [name, *(f"{100 * row.rows / dataset.items:.2f}" for row in rows[:-1])] for name, rows in found.items()
    ]
    tables.append(f"Rows scored, per cent of the catalogue:\n\n{table(head, rows_scored)}")
    colors = ("black", "tab:green", "tab:blue", "tab:orange", "tab:red", "tab:purple")
    picture = lines_picture(
        [
            Line(
                f"right in {name}" if name != "as it is" else name,
                [100 * row.rows / dataset.items for row in rows[: len(SHARES)]],
                [100 * row.recall / exact.recall for row in rows[: len(SHARES)]],
                color,
            )
            for (name, rows), color in zip(found.items(), colors, strict=True)
        ],
        x="rows scored, mean, % of the catalogue (fixed shares)",
        y="Recall@20 kept of the exact mode, %",
        title=f"A worse category head, and wider candidates: {len(chosen):,} test cases",
        log=True,
    )
    text = (
        f"{len(chosen):,} test cases; exact: Recall@20 {100 * exact.recall:.2f} %, MRR@20 {100 * exact.mrr:.2f} %. "
        "Items linked to the session are scored whatever the categories are."
    )
    write_page(out, "category_accuracy", "Category accuracy", text, "\n\n".join(tables), picture)


if __name__ == "__main__":
    main()
