"""The cost of training is measured by the trainer's own steps, in a process for each catalog."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.training_cost import COLUMNS, LONGEST, as_text, main, measure, simulated_log


@pytest.mark.parametrize(("items", "sessions"), [(100, 1_000), (5_000, 2_000)])
def test_a_simulated_log_is_a_data_set(items: int, sessions: int, tmp_path: Path) -> None:
    data = simulated_log(items, sessions)
    replace(data, extra_categories=[[]] * items).save(tmp_path / "data")  # what saving checks holds
    assert len(data.train) + len(data.validation) == sessions
    assert data.validation.example_count > 0
    assert 2 <= data.train.lengths.min() <= data.train.lengths.max() <= LONGEST
    assert 0 <= data.train.items.min() <= data.train.items.max() < items
    assert data.clicks.sum() == len(data.train.items) + len(data.validation.items)
    same = data.category[data.train.items[:-1]] == data.category[data.train.items[1:]]
    assert same.mean() > 0.5
    assert np.array_equal(simulated_log(items, sessions).train.items, data.train.items)


@pytest.mark.parametrize("sampled", [False, True])
def test_steps_are_timed_and_sizes_taken(sampled: bool, tmp_path: Path) -> None:
    cost = measure(200, sampled, 1_000, 3, 60.0, tmp_path)
    assert cost["softmax"] == ("sampled" if sampled else "full")
    assert cost["steps"] == 3
    assert 100 < cost["items a step"] <= 200
    assert 0 < cost["items clicked"] <= 200
    assert min(cost[name] for name in COLUMNS if name != "softmax") > 0
    assert cost["weights, MB"] > 4 * 128 * 200 / 1e6
    assert cost["peak memory, GB"] > cost["weights, MB"] / 1e3
    assert not list(tmp_path.iterdir())
    assert as_text([cost, cost]).count("\n") == 3


def test_a_limit_ends_the_steps(tmp_path: Path) -> None:
    assert measure(200, False, 1_000, 100, 0.0, tmp_path)["steps"] <= 1


@pytest.mark.slow
def test_the_command_leaves_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # in the process of the catalog
    arguments = [
        "--sizes",
        "200",
        "--both-to",
        "0",
        "--sessions",
        "1000",
        "--steps",
        "2",
        "--out",
        str(tmp_path),
    ]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    page = (tmp_path / "training_cost.md").read_text()
    assert "SIMULATED" in page
    assert "    python -m benchmarks.training_cost --sizes 200 --sessions 1000" in page
    assert "| 200   | sampled |" in page
    assert (tmp_path / "training_cost.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("sizes", ["many", "", "1000,5", "99999999999"])
def test_bad_sizes_are_named(sizes: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--sizes", sizes, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "--sizes" in result.output
