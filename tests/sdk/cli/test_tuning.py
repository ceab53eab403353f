"""hiersrec tune."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from hiersrec_training.config import load_config
from tests.sdk.cli.run import failed, passed

SMALL = ["--set", "dimension=16", "--set", "heads=2", "--set", "epochs=1", "--set", "batch_sessions=32"]


@pytest.mark.slow
def test_a_study_ends_with_commands_that_work(shop: Path, tmp_path: Path) -> None:
    study = ("tune", shop / "data", "--out", tmp_path / "study")
    few = ("--trials", "2", "--best", "1", "--seeds", "1")
    printed = passed(*study, *few, *SMALL, "--seed", "4", "--sessions", "300")
    assert "search: 2 trials on the newest 300 of 971 training sessions, 0 are done" in printed
    commands = [shlex.split(line) for line in printed.splitlines() if line.startswith("  hiersrec ")]
    assert [words[1] for words in commands] == ["train", "export"]
    passed(*commands[0][1:], "--no-progress")
    passed(*commands[1][1:])
    assert load_config(tmp_path / "study/best.toml").dimension == 16
    assert (tmp_path / "study/bundle/config.json").is_file()
    for option in (["--set", "dropout=0.1"], ["--seed", "1"], ["--sessions", "9"], ["--device", "cpu"]):
        assert "leave those options out" in failed(*study, "--resume", *option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--trials", "0"], "trials must be an integer ≥ 1, got 0"),
        (["--hours", "-1"], "hours must be a number > 0, got -1.0"),
        (["--parallel", "0"], "parallel must be an integer from 1 to 256, got 0"),
        (["--set", "droput=0.1"], "there is no setting 'droput'; did you mean dropout?"),
        (["--set", "dropout=2"], "dropout must be a number in [0, 1), got 2"),
        (["--set", "seed=-1"], "seed must be an integer ≥ 0, got -1"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--resume"], "to resume: leave --resume out to begin one"),
    ],
)
def test_errors(shop: Path, tmp_path: Path, option: list[str], message: str) -> None:
    assert message in failed("tune", shop / "data", "--out", tmp_path / "study", *option)
    assert not list(tmp_path.iterdir())
