"""Category accuracy: ``python -m benchmarks.studies.category_accuracy BUNDLE DATA --out docs/results``.

The paper's limitation: candidates are those of the predicted categories, so what if the prediction is worse? The head
is degraded in a controlled way: in examples drawn at random the logit of the target's category changes place with that
of the most probable one, or of another, until the most probable category is right in a given share of the examples. A
near miss leaves the target's category in the second place, a far one anywhere. The item head is left alone. The whole
model and the encoder alone, without the co-visitation scorer. Writes ``category_accuracy.md`` and
``category_accuracy.png``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.budget import accuracy
from benchmarks.studies.pages import Line, lines_picture, write_page
from benchmarks.studies.scoring import encoder_of, scorer_of
from benchmarks.tables import table
from hiersrec_export.calibrate import Budgets, Encoder
from hiersrec_sdk import Recommender
from hiersrec_sdk.encoders.session_encoder import Encoded
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.examples import Examples

ACCURACIES = (1.0, 0.9, 0.8, 0.7, 0.5)
SHARES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
TOP_PS = (0.3, 0.5, 0.7, 0.9, 0.99)
COLORS = ("tab:green", "tab:blue", "tab:orange", "tab:red")  # of the accuracies below 1


class Degraded:
    """An encoder whose most probable leaf category is the target's with the probability ``wanted``.

    It has to be asked for the ``batches`` in their order, whose targets it looks at. ``leaf`` int64 [items]; ``far``:
    where it is wrong, the target's category may stand anywhere but in the first place; else in the second one.
    """

    def __init__(
        self,
        encoder: Encoder,
        batches: Iterator[tuple[Examples, NDArray[np.float32]]],
        leaf: NDArray[np.int64],
        wanted: float,
        far: bool = False,
        seed: int = 0,
    ) -> None:
        self._encoder, self._batches, self._leaf = encoder, batches, leaf
        self._wanted, self._far = wanted, far
        self._random = np.random.default_rng(seed)
        self.examples = self.right = 0

    def encode(self, vectors: NDArray[np.float32], lengths: NDArray[np.int64], /) -> Encoded:
        encoded = self._encoder.encode(vectors, lengths)
        target = self._leaf[next(self._batches)[0].targets]
        logits = encoded.category_logits[-1].copy()
        every = np.arange(len(logits))
        order = np.argsort(-logits, axis=1, kind="stable")
        right = self._random.random(len(logits)) < self._wanted
        # where it shall be right, with the first; where it shall not, with the second, or with any but the first
        place = self._random.integers(1, logits.shape[1], len(logits)) if self._far else 1
        other = order[every, np.where(right, 0, place)]
        is_first = order[:, 0] == target
        changed = np.where(right, ~is_first, is_first | self._far)
        a, b = (every[changed], target[changed]), (every[changed], other[changed])
        logits[a], logits[b] = logits[b], logits[a]
        self.examples += len(logits)
        self.right += int((logits.argmax(axis=1) == target).sum())
        return replace(encoded, category_logits=(*encoded.category_logits[:-1], logits))


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the table and the picture."
)
@click.option("--examples", default=20_000, show_default=True, help="Test examples at most, a sample.")
def main(bundle: Path, data: Path, out: Path, examples: int) -> None:
    recommender, dataset = Recommender.load(bundle), Dataset.load(data)
    chosen = Examples.of(dataset.test).sample(examples)
    encoder = encoder_of(bundle, recommender)
    whole = scorer_of(bundle, recommender, dataset, encoder)
    max_length: int = recommender.config["max_length"]
    budgets = Budgets(SHARES, (*TOP_PS, 1.0))
    size = max(1, min(256, (1 << 24) // dataset.items))  # as measure() cuts them
    leaf = dataset.category.astype(np.int64)
    tables, lines, exact_figures = [], [], []
    for model, scorer, dashes in (
        ("the whole model", whole, "-"),
        ("the encoder alone", replace(whole, item_bias=None, covisitation=None), "--"),
    ):
        plain = accuracy(scorer, dataset, chosen, budgets, max_length)
        exact = plain[-1]
        exact_figures.append(f"{model}: Recall@20 {100 * exact.recall:.2f} %, MRR@20 {100 * exact.mrr:.2f} %")
        for far in (False, True):
            found = {"as it is": plain}
            for wanted in ACCURACIES:
                batches = chosen.batches(scorer.vectors, max_length, size)
                degraded = Degraded(encoder, batches, leaf, wanted, far)
                rows = accuracy(replace(scorer, encoder=degraded), dataset, chosen, budgets, max_length)
                found[f"{100 * degraded.right / degraded.examples:.1f} %"] = rows
            body = [
                [right, *(f"{100 * row.recall / exact.recall:.1f}" for row in rows[:-1])]
                for right, rows in found.items()
            ]
            head = ["right in", *(row.name for row in plain[:-1])]
            miss = "far" if far else "near"
            about = f"Recall@20, kept of the exact mode, per cent: {model}, {miss} misses."
            tables.append(f"{about}\n\n{table(head, body)}")
            if far:
                lines += [
                    Line(
                        f"{model}, right in {right}",
                        [100 * row.rows / dataset.items for row in rows[: len(SHARES)]],
                        [100 * row.recall / exact.recall for row in rows[: len(SHARES)]],
                        color,
                        dashes,
                    )
                    for (right, rows), color in zip(list(found.items())[2:], COLORS, strict=True)
                ]
    picture = lines_picture(
        lines,
        x="rows scored, mean, % of the catalog (fixed shares)",
        y="Recall@20 kept of the exact mode, %",
        title=f"A worse category head (far misses), and wider candidates: {len(chosen):,} test examples",
        log=True,
    )
    text = f"{len(chosen):,} test examples. Exact, {'; '.join(exact_figures)}. Co-visited items are scored in any case."
    command = f"python -m benchmarks.studies.category_accuracy BUNDLE DATA --out {out}"
    write_page(out, "category_accuracy", command, "Category accuracy", text, "\n\n".join(tables), picture)


if __name__ == "__main__":
    main()
