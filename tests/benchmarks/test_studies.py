"""The studies measure what the runtime does, and leave a page and a picture."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.studies import budget, category_accuracy
from benchmarks.studies.budget import accuracy
from benchmarks.studies.category_accuracy import Degraded
from benchmarks.studies.scoring import encoder_of, scorer_of
from benchmarks.tables import table
from hiersrec_export.calibrate import Budgets
from hiersrec_sdk import Recommender
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.evaluate import evaluate
from hiersrec_training.examples import Cases


def test_a_study_has_the_figures_of_the_evaluation(tiny_bundle: Path, tiny_data: Path) -> None:
    recommender, data = Recommender.load(tiny_bundle), Dataset.load(tiny_data)
    scorer = scorer_of(recommender, data, encoder_of(tiny_bundle, recommender))
    cases = Cases.sample(data.test, 10**6)
    some, exact = accuracy(scorer, data, cases, Budgets([0.5], [1.0]), recommender.config["max_length"])
    for row, options in ((some, {"candidates": 0.5}), (exact, {"mode": "exact"})):
        found = evaluate(recommender, data, "test", **options)
        assert row.recall == pytest.approx(found["recall@20"], abs=1e-9)
        assert row.mrr == pytest.approx(found["mrr@20"], abs=1e-9)
        assert row.rows == pytest.approx(found["rows_scored"])


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("wanted", [1.0, 0.6, 0.0])
def test_a_degraded_head_is_as_right_as_it_shall_be(
    wanted: float, far: bool, tiny_bundle: Path, tiny_data: Path
) -> None:
    recommender, data = Recommender.load(tiny_bundle), Dataset.load(tiny_data)
    encoder = encoder_of(tiny_bundle, recommender)
    scorer = scorer_of(recommender, data, encoder)
    cases = Cases.sample(data.test, 10**6)
    leaf = data.category.astype(np.int64)
    degraded = Degraded(encoder, cases.batches(scorer.vectors, 6, 32), leaf, wanted, far)
    for batch in cases.batches(scorer.vectors, 6, 32):
        plain = encoder.encode(batch.vectors, batch.lengths)
        found = degraded.encode(batch.vectors, batch.lengths)
        assert np.array_equal(found.item_query, plain.item_query)
        before, after = plain.category_logits[-1], found.category_logits[-1]
        np.testing.assert_array_equal(np.sort(before), np.sort(after))
        right = after.argmax(1) == leaf[batch.targets]
        assert right.all() if wanted == 1 else not right.any() if wanted == 0 else True
    assert degraded.cases == len(cases)
    assert degraded.right / degraded.cases == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize("study", [budget, category_accuracy])
def test_a_study_leaves_a_page(study: ModuleType, tiny_bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    name = study.__name__.rpartition(".")[2]
    command = study.main
    arguments = [str(tiny_bundle), str(tiny_data), "--out", str(tmp_path), "--cases", "200"]
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
