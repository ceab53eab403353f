"""The studies measure what the runtime does, and leave a page and a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.studies import budget, category_accuracy
from benchmarks.studies.budget import accuracy
from benchmarks.studies.category_accuracy import Degraded
from benchmarks.studies.scoring import encoder_of, scorer_of, scorer_of_run
from benchmarks.tables import table
from hiersrec_export.calibrate import Budgets
from hiersrec_sdk import Recommender
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.evaluate import evaluate
from hiersrec_training.examples import Examples


def test_a_study_has_the_figures_of_the_evaluation(tiny_bundle: Path, tiny_data: Path) -> None:
    recommender, data = Recommender.load(tiny_bundle), Dataset.load(tiny_data)
    scorer = scorer_of(tiny_bundle, recommender, data, encoder_of(tiny_bundle, recommender))
    examples = Examples.of(data.test)
    some, exact = accuracy(scorer, data, examples, Budgets([0.5], [1.0]), recommender.config["max_length"])
    for row, options in ((some, {"candidates": 0.5}), (exact, {"mode": "exact"})):
        found = evaluate(recommender, data, "test", **options)
        assert row.recall == pytest.approx(found["recall@20"], abs=1e-9)
        assert row.mrr == pytest.approx(found["mrr@20"], abs=1e-9)
        assert row.rows == pytest.approx(found["rows_scored"])


def test_a_run_scores_as_its_bundle_does(tiny_run: Path, tiny_bundle: Path, tiny_data: Path) -> None:
    recommender, data = Recommender.load(tiny_bundle), Dataset.load(tiny_data)
    exported = scorer_of(tiny_bundle, recommender, data, encoder_of(tiny_bundle, recommender))
    alone = replace(exported, item_bias=None, covisitation=None)
    rows = [
        accuracy(
            scorer, data, Examples.of(data.test), Budgets([0.5], [1.0]), recommender.config["max_length"]
        )
        for scorer in (alone, scorer_of_run(tiny_run, data))
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("wanted", [1.0, 0.6, 0.0])
def test_a_degraded_head_is_as_right_as_it_shall_be(
    wanted: float, far: bool, tiny_bundle: Path, tiny_data: Path
) -> None:
    recommender, data = Recommender.load(tiny_bundle), Dataset.load(tiny_data)
    encoder = encoder_of(tiny_bundle, recommender)
    scorer = scorer_of(tiny_bundle, recommender, data, encoder)
    examples = Examples.of(data.test)
    leaf = data.category.astype(np.int64)
    degraded = Degraded(encoder, examples.batches(scorer.vectors, 6, 32), leaf, wanted, far)
    for batch, vectors in examples.batches(scorer.vectors, 6, 32):
        plain = encoder.encode(vectors, batch.lengths)
        found = degraded.encode(vectors, batch.lengths)
        assert np.array_equal(found.item_query, plain.item_query)
        before, after = plain.category_logits[-1], found.category_logits[-1]
        np.testing.assert_array_equal(np.sort(before), np.sort(after))
        right = after.argmax(1) == leaf[batch.targets]
        assert right.all() if wanted == 1 else not right.any() if wanted == 0 else True
    assert degraded.examples == len(examples)
    assert degraded.right / degraded.examples == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize("study", [budget, category_accuracy])
def test_a_study_leaves_a_page(study: ModuleType, tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    name = study.__name__.rpartition(".")[2]
    command = study.main
    arguments = [str(tiny_bundle), str(tiny_data), "--out", str(tmp_path), "--examples", "200"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "ensure_one_thread", lambda: None)
        result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    page = (tmp_path / f"{name}.md").read_text()
    assert "![" in page
    assert f"{name}.png" in page
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a   |   b |\n| --- | --: |\n| x   |   1 |"
