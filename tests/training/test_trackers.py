"""Where the curves of a training go."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk.errors import InvalidOptionError, MissingExtraError, RunError
from hiersrec_training import curves, trackers
from hiersrec_training import loop as loop_module
from hiersrec_training.config import Config
from hiersrec_training.run import RunInfo, part_of
from hiersrec_training.trackers import Line, figures_of, read_lines
from hiersrec_training.train import train
from tests.programs import program
from tests.training.dying import dies_at

PNG = b"\x89PNG"
REAL = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(find_spec(name) is None, reason=f"needs {name}: pip install '.[{name}]'"),
    )
    for name in trackers.TRACKERS
]


class Fake:
    """A tracker that keeps the lines of every run, and fails where it is told to."""

    got: list[Line]
    closed: list[bool]
    fails: str

    def __init__(self, folder: Path, info: RunInfo) -> None:
        if Fake.fails == "begin":
            raise OSError("no such server")
        info.trackers["wandb"] = info.trackers["wandb"] or "its id"

    def log(self, line: Line) -> None:
        if Fake.fails == "log":
            raise OSError("no such server")
        Fake.got.append(line)

    def close(self, is_finished: bool) -> None:
        Fake.closed.append(is_finished)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """In the place of wandb."""
    monkeypatch.setattr(trackers, "TRACKERS", {"wandb": Fake})
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    monkeypatch.setattr(loop_module, "LOG_STEPS", 3)
    Fake.got, Fake.closed, Fake.fails = [], [], ""
    return Fake


def run(data: Path, out: Path, config: Config, **options: Any) -> list[str]:
    said: list[str] = []
    train(data, out, config, device="cpu", progress=False, report=said.append, **options)
    return said


def test_a_tracker_gets_the_lines_of_metrics_jsonl(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, fake: type[Fake]
) -> None:
    run(tiny_data, tmp_path / "run", tiny_config, log=["wandb"])
    assert fake.got == read_lines(tmp_path / "run/metrics.jsonl")
    assert fake.closed == [True]
    assert RunInfo.load(tmp_path / "run").trackers == {"wandb": "its id"}
    names = {name for line in fake.got for name in figures_of(line)}
    assert {"train/loss", "train/category_loss_1", "validation/mrr@20"} < names
    assert not {"train/step", "train/epoch"} & names


@pytest.mark.parametrize("step", [1, 5, 8, 13, 20])
@pytest.mark.slow
def test_a_resumed_run_logs_no_step_twice(
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fake: type[Fake],
    step: int,
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        dies_at(step, patch)
        run(tiny_data, tmp_path / "run", tiny_config, log=["wandb"])
    assert fake.closed == [False]
    run(tiny_data, tmp_path / "run", tiny_config, resume=True)  # with its tracker, which need not be named
    keys = [
        [(line["step"], "validation" in line) for line in lines]
        for lines in (fake.got, read_lines(tmp_path / "run/metrics.jsonl"))
    ]
    assert keys[0] == keys[1] == sorted(set(keys[0]))
    assert fake.closed == [False, True]


def test_a_tracker_that_fails_ends_its_curves_and_not_the_training(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, fake: type[Fake]
) -> None:
    fake.fails = "log"
    said = run(tiny_data, tmp_path / "run", tiny_config, log=["wandb"])
    warnings = [line for line in said if "warning: wandb gets no more curves" in line]
    assert len(warnings) == 1
    assert "no such server" in warnings[0]
    assert len(read_lines(tmp_path / "run/metrics.jsonl")) > 2


def test_a_tracker_that_cannot_begin_is_an_error_before_the_first_step(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, fake: type[Fake]
) -> None:
    fake.fails = "begin"
    with pytest.raises(
        RunError, match="--log wandb could not begin: no such server; mend that, then --resume"
    ):
        run(tiny_data, tmp_path / "run", tiny_config, log=["wandb"])
    fake.fails = ""
    run(tiny_data, tmp_path / "run", tiny_config, resume=True)
    assert fake.got == read_lines(tmp_path / "run/metrics.jsonl")


def test_a_missing_package_is_named_and_leaves_nothing(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"--log mlflow needs the extra 'mlflow'.*hiersrec-sdk\[mlflow\]"
    ):
        run(tiny_data, tmp_path / "run", tiny_config, log=["mlflow"])
    with pytest.raises(
        InvalidOptionError, match="log must be some of tensorboard, mlflow, wandb, got 'neptune'"
    ):
        run(tiny_data, tmp_path / "run", tiny_config, log=["neptune"])
    assert not list(tmp_path.iterdir())


def steps_of(name: str, folder: Path) -> dict[str, list[int]]:
    """The steps of the loss and of a metric, as the package itself reads them."""
    if name == "tensorboard":
        module = import_module("tensorboard.backend.event_processing.event_accumulator")
        events = module.EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        return {
            key: [event.step for event in events.Scalars(key)] for key in ("train/loss", "validation/mrr@20")
        }
    if name == "mlflow":
        client = import_module("mlflow").MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        its = RunInfo.load(folder).trackers["mlflow"]
        assert client.get_run(its).info.status == "FINISHED"
        assert client.get_run(its).data.params["dimension"] == "16"
        return {
            key.replace("_at_", "@"): [entry.step for entry in client.get_metric_history(its, key)]
            for key in ("train/loss", "validation/mrr_at_20")
        }
    pytest.fail(name)


@pytest.mark.parametrize("name", REAL)
def test_the_real_packages_take_the_curves_of_a_resumed_run(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(loop_module, "LOG_STEPS", 3)
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(variable, raising=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        dies_at(13, patch)
        run(tiny_data, tmp_path / "run", tiny_config, log=[name])
    said = run(tiny_data, tmp_path / "run", tiny_config, resume=True)
    assert not [line for line in said if "warning" in line]
    lines = read_lines(tmp_path / "run/metrics.jsonl")
    if name == "wandb":  # no reader of its files is public
        assert len(list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))) == 2
        return
    found = steps_of(name, tmp_path / "run")
    assert found["train/loss"] == [line["step"] for line in lines if "loss" in line]
    assert found["validation/mrr@20"] == [line["step"] for line in lines if "validation" in line]


@pytest.mark.parametrize("name", REAL)
@pytest.mark.slow
def test_nothing_is_sent_and_nothing_written_elsewhere(tiny_data: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    variables = {
        "HOME": str(tmp_path / "home"),
        "PATH": "/usr/bin:/bin",
        "MPLCONFIGDIR": str(tmp_path / "plt"),
    }
    small = ["--set", "dimension=16", "--set", "heads=2", "--set", "epochs=1", "--no-progress"]
    command = ["-m", "hiersrec_sdk.cli", "train", str(tiny_data), "--out", str(tmp_path / "run"), *small]
    traced = [program("strace"), "-f", "-e", "trace=connect,sendto,sendmsg", "-o", str(tmp_path / "calls")]
    done = subprocess.run(
        [*traced, sys.executable, *command, "--log", name],
        env=variables,
        cwd=tmp_path / "cwd",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert not [call for call in calls if "AF_INET" in call and "127.0.0.1" not in call and "::1" not in call]
    assert not list((tmp_path / "cwd").iterdir())
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_every_run_has_a_picture(
    tiny_run: Path,
    tiny_final_run: Path,
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder in (tiny_run, tiny_final_run):
        assert (folder / curves.NAME).read_bytes().startswith(PNG)
    monkeypatch.setattr(loop_module, "LOG_STEPS", 3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        dies_at(13, patch)
        run(tiny_data, tmp_path / "run", tiny_config)
    assert (part_of(tmp_path / "run") / curves.NAME).read_bytes().startswith(PNG)


def test_a_line_that_was_not_written_to_its_end_is_none(tmp_path: Path) -> None:
    assert read_lines(tmp_path / "metrics.jsonl") == []
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "epoch": 1}) + '\n{"step": 2, "ep')
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1, "epoch": 1}]
