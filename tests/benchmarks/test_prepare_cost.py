"""The logs of ``benchmarks.prepare_cost`` are what its counts say, and wrong datasets are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from benchmarks import prepare_cost
from benchmarks.prepare_cost import KINDS, LONGEST, START, STOP, TEST_DAYS, Plan, main, write_log


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_cost, "TOGETHER", 150)


def read(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)


@pytest.mark.parametrize("text_ids", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_log_is_in_order_of_time_with_sessions_interleaved(
    kind: str, text_ids: bool, tmp_path: Path
) -> None:
    log = write_log(Plan(4_000, 500, text_ids, kind), tmp_path)
    clicks = read(log.path)
    assert clicks.columns == ["session", "item", "time"]
    assert clicks.height == log.events
    assert clicks["time"].is_sorted()
    times = clicks["time"].to_numpy()
    assert START <= times.min() <= times.max() < STOP
    lengths = clicks.group_by("session").len()["len"].to_numpy()
    assert len(lengths) == 4_000 // 6
    assert 1 == lengths.min() < lengths.max() <= LONGEST
    assert lengths.mean() == pytest.approx(6, rel=0.15)
    assert clicks["item"].value_counts()["count"].to_numpy().max() > 5 * log.events / 500
    if text_ids:
        assert clicks["session"].str.contains(r"^s-\d{6,}$").all()
        assert clicks["item"].str.contains(r"^sku-\d{5}$").all()


def test_sessions_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_cost, "STOP", START + 20_000)
    clicks = read(write_log(Plan(4_000, 500), tmp_path).path)
    assert clicks["time"].is_sorted()
    assert clicks["session"].rle().len() > 0.9 * clicks.height
    within = clicks.group_by("session", maintain_order=True).agg(pl.col("time").diff().min())
    assert within["time"].drop_nulls().to_numpy().min() >= 1


@pytest.mark.parametrize("item_table", [False, True])
def test_the_counts_are_those_of_plain_python(item_table: bool, tmp_path: Path) -> None:
    log = write_log(Plan(5_000, 800, item_table=item_table), tmp_path)
    sessions: dict[int, list[tuple[int, int]]] = {}
    for session, item, time in read(log.path).iter_rows():
        sessions.setdefault(session, []).append((time, item))
    several = [clicks for clicks in sessions.values() if len(clicks) > 1]
    border = max(clicks[-1][0] for clicks in several) - TEST_DAYS * 86_400
    training = [clicks for clicks in several if clicks[-1][0] <= border]
    items = {item for clicks in training for _, item in clicks}
    known = [sum(item in items for _, item in clicks) for clicks in several if clicks[-1][0] > border]
    test = [length for length in known if length > 1]
    validation = round(len(training) / 10)
    assert test
    wanted: dict[str, Any] = {
        "items": len(items),
        "train_sessions": len(training) - validation,
        "validation_sessions": validation,
        "test_sessions": len(test),
        "train_and_validation_examples": sum(len(clicks) - 1 for clicks in training),
        "test_examples": sum(test) - len(test),
    }
    if item_table:
        assert log.items is not None
        table = read(log.items).filter(pl.col("item").is_in(items))
        wanted["categories"] = [table["department"].n_unique(), table["category"].n_unique()]
    assert log.counts == wanted


def test_a_log_is_the_same_each_time() -> None:
    plan = Plan(3_000, 100)
    first, second = (
        np.concatenate([np.stack(rows) for rows in prepare_cost.Shop(plan).rows()], 1) for _ in "12"
    )
    assert np.array_equal(first, second)


@pytest.mark.parametrize("options", [[], ["--text-ids", "--item-table", "--kind", "parquet"]])
@pytest.mark.slow
def test_the_command_prepares_and_compares(options: list[str], tmp_path: Path) -> None:
    arguments = ["--events", "3000,6000", "--items", "500", "--work", str(tmp_path), "--keep", *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("counts as simulated") == 2
    assert result.stdout.count("\n| ") == 4
    kind = options[-1] if options else "csv"
    folder = tmp_path / f"prepare_cost-6000-{kind}"
    assert (folder / f"events.{kind}").is_file()
    counts = json.loads((folder / "dataset/dataset.json").read_text())["counts"]
    assert counts["test_sessions"] > 0
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert "exists already" in again.output


def test_a_wrong_dataset_is_an_error_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = prepare_cost.counted
    monkeypatch.setattr(prepare_cost, "counted", lambda *given: original(*given) | {"items": 7})
    result = CliRunner().invoke(main, ["--events", "2000", "--items", "100", "--work", str(tmp_path)])
    assert result.exit_code == 1
    assert "is wrong: items 7 instead of " in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("events", ["many", "", "10", "100000001"])
def test_bad_sizes_are_named(events: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--events", events, "--work", str(tmp_path)])
    assert result.exit_code == 2
    assert "--events" in result.output
