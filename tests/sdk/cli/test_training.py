"""hiersrec train and export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hiersrec_training.config import Config, load_config
from tests.sdk.cli.run import SMALL, failed, passed

pytest.importorskip("torch", reason="needs the extra train")


def test_settings_and_epochs_come_from_an_earlier_run(shop: Path, tmp_path: Path) -> None:
    best = json.loads((shop / "run/run.json").read_text())["best_epoch"]
    final: list[str | Path] = [
        "train",
        shop / "data",
        "--out",
        tmp_path / "run",
        "--final",
        "--validated-by",
        shop / "run",
    ]
    assert "leave --set epochs out" in failed(*final, "--set", "epochs=3")
    said = failed(*final, "--set", "dimension=32", "--set", "batch_sessions=64")
    assert "was trained with dimension=16, batch_sessions=32: its findings hold for no other settings" in said
    passed(*final, "--seed", "7", "--no-progress")
    about, validated = (
        json.loads((run / "run.json").read_text()) for run in (tmp_path / "run", shop / "run")
    )
    assert about["config"] == validated["config"] | {"seed": 7, "epochs": best}
    assert about["best_epoch"] == best
    assert about["final"]


def test_vectors_of_a_shop_go_the_whole_way(shop: Path, tmp_path: Path) -> None:
    items = pl.read_csv(shop / "shop/simulated-items.csv", comment_prefix="#")
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((items.height, 6)))
    printed = passed(
        "prepare",
        shop / "shop/simulated-events.csv",
        "--items",
        shop / "shop/simulated-items.csv",
        "--event-column",
        "event",
        "--event",
        "view",
        "--category-column",
        "category",
        "--item-vectors",
        tmp_path / "vectors.npy",
        "--test-days",
        "3",
        "--out",
        tmp_path / "data",
    )
    assert "items with a vector of 6 numbers" in printed
    passed("train", tmp_path / "data", "--out", tmp_path / "run", *SMALL)
    passed("export", tmp_path / "run", "--out", tmp_path / "bundle")
    about = json.loads((tmp_path / "bundle/config.json").read_text())
    assert about["preprocessing"]["vectors"] == {"width": 6, "from": "file"}
    item = items["item"][0]
    assert json.loads(passed("recommend", tmp_path / "bundle", str(item), "--json"))["items"]


def test_a_run_that_diverges_fails_and_goes_on_with_a_lower_learning_rate(shop: Path, tmp_path: Path) -> None:
    hot = ["--set", "learning_rate=1000"]
    message = failed("train", shop / "data", "--out", tmp_path / "run", *SMALL, *hot)
    assert "training diverged at step " in message
    assert "Lower learning_rate, now 1000 (by default 0.002)" in message
    assert not list(tmp_path.iterdir())
    # every checkpoint of such a run is worse than none
    failed("train", shop / "data", "--out", tmp_path / "run", *SMALL, *hot, "--set", "checkpoint_steps=1")
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_keeps_its_settings_but_for_learning_rate_and_device(
    shop: Path, tmp_path: Path
) -> None:
    resume = ("train", shop / "data", "--out", tmp_path / "run", "--resume")
    assert "no interrupted run" in failed(*resume, "--set", "learning_rate=0.01")
    assert "no interrupted run" in failed(*resume, "--device", "cpu")
    assert "leave the others out" in failed(*resume, "--set", "learning_rate=0.01", "--set", "epochs=3")


def test_show_config_is_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(passed("train", "--show-config"))
    assert load_config(tmp_path / "config.toml") == Config()


def test_integer_ids_are_read_as_integers(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"{n % 7 - 3} {(n + 1) % 7 - 3} {(n + 2) % 7 - 3}\n" for n in range(60)))
    passed("prepare", log, "--test-fraction", "0.1", "--out", tmp_path / "data")
    passed("train", tmp_path / "data", "--out", tmp_path / "run", *SMALL)
    passed("export", tmp_path / "run", "--out", tmp_path / "bundle")
    answer = json.loads(passed("recommend", tmp_path / "bundle", "3", "--json"))
    assert all(isinstance(item, int) for item in answer["items"])
    assert all(-3 <= item <= 3 for item in answer["items"])
    assert "skipped" not in passed("recommend", tmp_path / "bundle", "-2", "3", "-k", "3")
    message = "item ids of this catalog are integers, got 'three'"
    assert message in failed("recommend", tmp_path / "bundle", "3", "three")
