"""Training that diverges, and settings at their extremes: an error that says what helps, or a run that works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

from hiersrec_export.export import export
from hiersrec_sdk import Recommender
from hiersrec_sdk.errors import ConfigError, DivergedRunError, ExportError, RunError
from hiersrec_training import loop as loop_module
from hiersrec_training.baselines import baseline, evaluate_baseline, popularity_metrics
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import CategoryTree, Dataset, Sessions
from hiersrec_training.run import RunInfo, checkpoints, load_model, part_of
from hiersrec_training.train import train

pytestmark = pytest.mark.slow


def attempt(data: Path, out: Path, config: Config, **options: Any) -> tuple[RunInfo, list[str]]:
    lines: list[str] = []
    return train(data, out, config, device="cpu", progress=False, report=lines.append, **options), lines


def with_settings(config: Config, **settings: Any) -> Config:
    return Config.from_dict(config.as_dict() | settings)


def loss_becomes(
    monkeypatch: pytest.MonkeyPatch, step: int, value: float = float("nan")
) -> Callable[[], None]:
    """The loss of a step, counted from 1, is ``value``; the weights are left alone. Gives what undoes it."""
    original = loop_module.Loop._step

    def diverges(self: Any, batch: Any) -> Any:
        losses = original(self, batch)
        if self.state["step"] == step - 1:
            losses["loss"] = torch.full_like(losses["loss"], value)
        return losses

    monkeypatch.setattr(loop_module.Loop, "_step", diverges)
    return lambda: monkeypatch.setattr(loop_module.Loop, "_step", original)


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("sampled_above", [10, 1000])
@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 1000.0, "checkpoint_steps": 500},
        {"learning_rate": 1e30, "batch_sessions": 5000},  # one step, whose loss is well
        {"learning_rate": 1e300},
    ],
)
def test_a_run_that_diverges_ends_with_an_error_and_leaves_nothing(
    settings: dict[str, Any],
    sampled_above: int,
    final: bool,
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
) -> None:
    config = with_settings(tiny_config, epochs=1, sampled_above=sampled_above, **settings)
    with pytest.raises(DivergedRunError, match=r"diverged at step \d+ of \d+, in epoch 1 of 1: ") as caught:
        attempt(tiny_data, tmp_path / "run", config, final=final)
    assert f"Lower learning_rate, now {config.learning_rate:g} (by default 0.002)" in str(caught.value)
    assert "nothing was kept" in str(caught.value)
    assert not list(tmp_path.iterdir())
    attempt(tiny_data, tmp_path / "run", with_settings(tiny_config, epochs=1))  # the same name is free


@pytest.mark.parametrize("final", [False, True])
def test_a_weight_that_the_last_step_spoils_is_seen(
    final: bool, tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop_module.Loop._step

    def spoils(self: Any, batch: Any) -> Any:
        losses = original(self, batch)
        if self.state["step"] == self.steps - 1:
            with torch.no_grad():
                next(iter(self.model.parameters())).flatten()[0] = float("nan")
        return losses

    monkeypatch.setattr(loop_module.Loop, "_step", spoils)
    with pytest.raises(DivergedRunError, match=r"has weights that are not finite"):
        attempt(tiny_data, tmp_path / "run", with_settings(tiny_config, epochs=2), final=final)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("checkpoint_steps", [1, 7])
def test_the_error_names_the_step_and_the_loss_and_the_checkpoint_stays(
    value: float,
    checkpoint_steps: int,
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undo = loss_becomes(monkeypatch, 10, value)
    config = with_settings(tiny_config, checkpoint_steps=checkpoint_steps)
    with pytest.raises(DivergedRunError, match=f"at step 10 of 28, in epoch 1 of 2: the loss is {value}; it"):
        attempt(tiny_data, tmp_path / "run", config)
    part = part_of(tmp_path / "run")
    (kept,) = checkpoints(part)
    assert int(kept.name.split("-")[1]) == 9 // checkpoint_steps * checkpoint_steps
    assert all(tensor.isfinite().all() for tensor in load_file(kept / "model.safetensors").values())
    before = {path: path.read_bytes() for path in part.rglob("*") if path.is_file()}
    undo()
    for rate in (None, tiny_config.learning_rate, 1.0):
        with pytest.raises(DivergedRunError, match=r"diverged at step 10 with learning_rate=0\.01.*=0\.001"):
            attempt(tiny_data, tmp_path / "run", config, resume=True, learning_rate=rate)
    assert {path: path.read_bytes() for path in part.rglob("*") if path.is_file()} == before
    info, _ = attempt(tiny_data, tmp_path / "run", config, resume=True, learning_rate=0.005)
    assert info.config == replace(config, learning_rate=0.005)
    assert RunInfo.load(tmp_path / "run").diverged == {"step": 10, "learning_rate": 0.01}
    assert info.metrics["mrr@20"] > 0
    load_model(tmp_path / "run")


def test_a_checkpoint_is_not_replaced_by_a_model_that_explodes(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 10 the learning rate becomes far too large, and the loss takes some steps to overflow."""
    original = loop_module.Loop._step

    def too_hot(self: Any, batch: Any) -> Any:
        hot = self.config.learning_rate == 0.01 and self.state["step"] >= 9
        config, self.config = self.config, replace(self.config, learning_rate=500.0 if hot else 0.01)
        try:
            return original(self, batch)
        finally:
            self.config = config

    monkeypatch.setattr(loop_module.Loop, "_step", too_hot)
    lines: list[str] = []
    config = with_settings(tiny_config, checkpoint_steps=1)
    with pytest.raises(DivergedRunError, match="checkpoint-00000009-0000 was kept"):
        train(tiny_data, tmp_path / "run", config, device="cpu", progress=False, report=lines.append)
    (kept,) = checkpoints(part_of(tmp_path / "run"))
    assert kept.name == "checkpoint-00000009-0000"
    assert all("no checkpoint is written" in line for line in lines[1:])
    info, _ = attempt(tiny_data, tmp_path / "run", config, resume=True, learning_rate=0.005)
    assert info.metrics["mrr@20"] > 0.1


def test_the_cause_may_be_another_setting(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    config = with_settings(tiny_config, temperature=1e-6, category_weight=1e6, learning_rate=1e30)
    with pytest.raises(DivergedRunError, match=r"learning_rate.*raise temperature.*lower category_weight"):
        attempt(tiny_data, tmp_path / "run", config)


def test_a_model_worse_than_popularity_is_a_warning(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lines = attempt(tiny_data, tmp_path / "well", tiny_config)
    assert not any("warning" in line for line in lines)
    monkeypatch.setattr(loop_module, "evaluate_model", lambda *_: {"mrr@20": 0.0, "recall@20": 0.0})
    _, lines = attempt(tiny_data, tmp_path / "run", tiny_config)
    (line,) = [line for line in lines if line.startswith("warning: ")]
    assert "MRR@20 0.0000, by clicks alone 0." in line
    assert "lower learning_rate, now 0.01" in line


def test_popularity_in_a_moment_is_the_baseline(tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    wanted = evaluate_baseline(baseline("popular", data.train, data.items), data.validation)
    found = popularity_metrics(data.train, data.validation, data.items)
    assert found == {name: value for name, value in wanted.items() if name != "examples"}


def test_settings_that_do_not_fit_the_data_leave_no_folder(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="none of item_inputs, vectors"):
        attempt(tiny_data, tmp_path / "run", with_settings(tiny_config, item_inputs="vectors"))
    assert not list(tmp_path.iterdir())


def test_too_little_memory_is_an_error_that_names_the_settings(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(self: Any, batch: Any) -> Any:
        return torch.empty(1 << 60)

    monkeypatch.setattr(loop_module.Loop, "_step", too_large)
    with pytest.raises(RunError, match="not enough memory to train: lower batch_sessions"):
        attempt(tiny_data, tmp_path / "run", tiny_config)


@pytest.mark.parametrize(
    "settings",
    [
        {"dimension": 1, "heads": 1},
        {"dimension": 2, "heads": 2, "max_length": 2},
        {"layers": 3},
        {"dropout": 0.0},
        {"dropout": 0.999999},
        {"temperature": 1e-6},
        {"temperature": 1e6},
        {"text_buckets": 1, "text_tokens": 1, "number_bins": 1},
        {"number_bins": 10_000, "text_tokens": 1000},
        {"id_dropout": 0.999999},
        {"neighbors": 0},
        {"neighbors": 1000, "neighbor_window": 1000},  # more than there are items
        {"category_weight": 0.0, "age_decay": 0.0},
        {"category_weight": 1e6, "age_decay": 1e6},
        {"sampled_above": 0, "samples": 1},
        {"sampled_above": 0, "samples": 100_000},
        {"seed": 2**32 - 1},
        {"batch_sessions": 1, "checkpoint_steps": 1},
        {"batch_sessions": 1_000_000, "checkpoint_steps": 2**31 - 1},
        {"learning_rate": 1e-300},
        {"learning_rate": 1e-45, "warmup": 0.0},
        {"warmup": 0.9999999},
        {"cold_start_cost": 0.0},
        {"cold_start_cost": 0.9999999},
    ],
    ids=str,
)
def test_a_setting_at_its_extreme_works(
    settings: dict[str, Any], tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    info, _ = attempt(tiny_data, tmp_path / "run", with_settings(tiny_config, epochs=1, **settings))
    assert 0 <= info.metrics["mrr@20"] <= 1
    load_model(tmp_path / "run")


@pytest.mark.parametrize(
    "settings",
    [
        {"dimension": 1, "heads": 1},
        {"max_length": 1000},
        {"temperature": 1e-6},
        {"learning_rate": 300.0, "batch_sessions": 5000, "neighbors": 0},  # large weights, but finite ones
    ],
    ids=str,
)
def test_an_extreme_run_is_exported_and_served(
    settings: dict[str, Any], tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    attempt(tiny_data, tmp_path / "run", with_settings(tiny_config, epochs=1, **settings))
    export(tmp_path / "run", tmp_path / "bundle", report=lambda line: None)
    assert_serves(tmp_path / "bundle", Dataset.load(tiny_data))


def assert_serves(bundle: Path, data: Dataset) -> None:
    recommender = Recommender.load(bundle)
    for mode in ("candidates", "exact", "auto"):
        result = recommender.recommend([data.item_ids[0]], k=5, mode=mode)
        assert len(result.items) == min(5, data.items)
        assert np.isfinite(result.scores).all()


def _set(run: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(run / "model.safetensors")
    change(weights)
    save_file(weights, run / "model.safetensors")


def _fill(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda weights: weights.update({name: torch.full_like(weights[name], value)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e19])
@pytest.mark.parametrize(
    "name", ["items.item.weight", "session.item_head.weight", "covisitation.bias_in.weight"]
)
def test_weights_that_are_no_numbers_are_not_exported(
    tiny_run: Path, tmp_path: Path, name: str, value: float
) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    _set(tmp_path / "run", _fill(name, value))
    with pytest.raises(RunError, match=f"{name} has weights that are not finite.*lower learning_rate"):
        export(tmp_path / "run", tmp_path / "bundle", report=lambda line: None)
    assert not (tmp_path / "bundle").exists()


def test_vectors_that_are_no_numbers_are_not_exported(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    _set(tmp_path / "run", _fill("items.smoothing", 1000.0))  # its exponential overflows
    with pytest.raises(ExportError, match=r"vectors of \d+ of 48 items are not finite.*lower learning_rate"):
        export(tmp_path / "run", tmp_path / "bundle", report=lambda line: None)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("length", [0.0, 1.0])
def test_item_vectors_that_are_all_alike_are_served(
    length: float, tiny_run: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """All zeros, or all equal: nothing was learned, but it is a model."""
    shutil.copytree(tiny_run, tmp_path / "run")

    def alike(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if name.startswith("items.") and name.endswith(".weight"):
                weights[name] = torch.zeros_like(weights[name])
        one = length * torch.linspace(-1, 2, 16)
        weights["items.item.weight"] += one
        weights["items.category.0.weight"] += one  # of items that nobody clicked too

    _set(tmp_path / "run", alike)
    export(tmp_path / "run", tmp_path / "bundle", report=lambda line: None)
    assert_serves(tmp_path / "bundle", Dataset.load(tiny_data))


@pytest.mark.parametrize(("items", "sampled_above"), [(1, 1000), (2, 0)])
def test_a_catalog_of_very_few_items_works(
    items: int, sampled_above: int, tiny_config: Config, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(2, 6, 200)

    def part(first: int, last: int) -> Sessions:
        count = int(lengths[first:last].sum())
        offsets = np.concatenate([[0], lengths[first:last].cumsum()]).astype(np.int64)
        return Sessions(random.integers(0, items, count).astype(np.int32), offsets)

    train_part = part(0, 140)
    Dataset(
        item_ids=pl.Series(range(items)),
        category=np.zeros(items, np.int32),
        extra_categories=[[]] * items,
        clicks=np.bincount(train_part.items, minlength=items),
        title=pl.Series([None] * items, dtype=pl.String),
        text=pl.Series([None] * items, dtype=pl.String),
        numbers={},
        tree=CategoryTree([["all"]], [np.array([-1], np.int32)]),
        train=train_part,
        validation=part(140, 170),
        test=part(170, 200),
    ).save(tmp_path / "data")
    config = with_settings(tiny_config, sampled_above=sampled_above, epochs=1)
    attempt(tmp_path / "data", tmp_path / "run", config)
    export(tmp_path / "run", tmp_path / "bundle", report=lambda line: None)
    assert_serves(tmp_path / "bundle", Dataset.load(tmp_path / "data"))
    about = json.loads((tmp_path / "bundle/config.json").read_text())
    assert about["items"] == items
