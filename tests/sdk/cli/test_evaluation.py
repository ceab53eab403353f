"""hiersrec evaluate and compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Exported
from tests.sdk.cli.run import failed, hiersrec, passed


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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mode", "exact"], "--mode cannot be combined with --baseline"),
        (["--candidates", "0.5"], "--candidates cannot be combined with --baseline"),
        (["--threads", "1"], "--threads cannot be combined with --baseline"),
        (["--backend", "numpy"], "--backend cannot be combined with --baseline"),
        (["--include-session-categories"], "--include-session-categories cannot be combined with --baseline"),
        (["--set", "reach=1.9"], "reach must be an integer, got 1.9"),
        (["--set", "reach=0"], "reach must be above 0, got 0"),
    ],
)
def test_a_baseline_refuses_what_it_would_ignore(shop: Path, options: list[str], says: str) -> None:
    assert says in failed("evaluate", shop / "data", "--baseline", "rules", *options)


def test_a_baseline_takes_data_alone_and_shows_its_options(shop: Path) -> None:
    both = hiersrec("evaluate", shop / "bundle", shop / "data", "--baseline", "rules")
    assert both.exit_code == 2
    assert "--baseline and DATA alone" in both.stderr
    options = ["--set", "age_decay=0.5", "--set", "reach=3"]
    lines = passed("evaluate", shop / "data", "--baseline", "rules", *options).splitlines()
    assert {tuple(line.split()) for line in lines} >= {("age", "decay", "0.5"), ("reach", "3")}


@pytest.mark.parametrize("command", ["evaluate", "compare"])
@pytest.mark.slow
def test_what_a_bundle_has_seen_is_said(
    command: str, tiny_export: Exported, tiny_final_export: Exported, tiny_data: Path, shop: Path
) -> None:
    for bundle, data, split, said in (
        (tiny_export, tiny_data, "test", ""),
        (
            tiny_export,
            tiny_data,
            "validation",
            "was chosen (epoch, co-visitation scorer, cold-start bias) on",
        ),
        (tiny_final_export, tiny_data, "test", ""),
        (tiny_final_export, tiny_data, "validation", "was trained on this split"),
        (tiny_export, shop / "data", "test", "was not trained on this dataset folder"),
    ):
        result = hiersrec(command, bundle.bundle, data, "--split", split)
        assert said in result.stderr
        assert bool(result.stderr) == bool(said)
