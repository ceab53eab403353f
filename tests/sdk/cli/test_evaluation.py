"""hiersrec evaluate and compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sdk.cli.run import passed


def test_evaluate_prints_one_flat_object(shop: Path) -> None:
    metrics = json.loads(passed("evaluate", shop / "bundle", shop / "data", "--mode", "exact", "--json"))
    assert all(not isinstance(value, dict | list) for value in metrics.values())
    assert {"recall@20", "mrr@20", "ndcg@1", "examples", "candidate_coverage", "category_accuracy_2"} <= set(
        metrics
    )
    assert metrics["mode"] == "exact"
    assert metrics["examples"] > 0
    some = json.loads(passed("evaluate", shop / "bundle", shop / "data", "--candidates", "0.3", "--json"))
    assert some["candidates"] == 0.3
    assert some["rows_scored"] < metrics["rows_scored"]
    validation = json.loads(
        passed("evaluate", shop / "bundle", shop / "data", "--split", "validation", "--json")
    )
    assert validation["split"] == "validation"
    assert validation["examples"] != metrics["examples"]
    table = passed("evaluate", shop / "bundle", shop / "data")
    assert "recall" in table
    assert "category accuracy 0" in table


@pytest.mark.parametrize("baseline", ["popular", "markov", "rules", "sknn", "stan", "vstan"])
def test_baselines_stand_under_the_same_protocol(shop: Path, baseline: str) -> None:
    metrics = json.loads(passed("evaluate", shop / "data", "--baseline", baseline, "--json"))
    ours = json.loads(passed("evaluate", shop / "bundle", shop / "data", "--json"))
    assert metrics["examples"] == ours["examples"]
    assert 0 < metrics["mrr@20"] < 1


def test_compare_lists_every_method(shop: Path) -> None:
    printed = passed("compare", shop / "bundle", shop / "data")
    for method in ("HierSRec, candidates", "HierSRec, exact", "popular", "markov", "sknn"):
        assert method in printed
    rows = [
        json.loads(line) for line in passed("compare", shop / "bundle", shop / "data", "--json").splitlines()
    ]
    assert len({row["examples"] for row in rows}) == 1
