"""Whole studies of a tiny data set, whose trainings run in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from hiersrec_sdk.errors import ConfigError, EmptyLogError, InvalidOptionError, RunError
from hiersrec_training.config import Config, load_config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.run import RunInfo, finished_run, part_of
from hiersrec_training.train import train
from hiersrec_training.tuning import report as reports
from hiersrec_training.tuning import search as search_module
from hiersrec_training.tuning import space as space_module
from hiersrec_training.tuning import tune as tune_module
from hiersrec_training.tuning.folder import ERROR, About, alone, finished, open_trials
from hiersrec_training.tuning.space import ScheduleMedian
from hiersrec_training.tuning.tune import tune
from hiersrec_training.tuning.workers import Ended, Epoch, Job, Workers

pytestmark = pytest.mark.slow

FIXED = {
    "dimension": 16,
    "heads": 2,
    "max_length": 6,
    "neighbors": 3,
    "precision": "float32",
    "epochs": 2,
    "batch_sessions": 32,
}


def study_of(data: Path, out: Path, **options: Any) -> list[str]:
    """The lines that a small study reports."""
    said: list[str] = []
    given = {"trials": 3, "best": 1, "seeds": 1, "device": "cpu", "fixed": FIXED, **options}
    if given.get("resume"):
        del given["fixed"], given["device"]
    tune(data, out, report=said.append, **given)
    return said


class KeptWorkers(Workers):
    """Their processes are there for the next study too: each takes seconds to import PyTorch."""

    idle: ClassVar[list[Any]] = []

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._idle = self.idle

    def __exit__(self, *error: object) -> None:
        for worker, _ in self._busy.values():
            worker.end(at_once=True)


@pytest.fixture(scope="module", autouse=True)
def kept_workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune_module, "Workers", KeptWorkers)
        yield
    while KeptWorkers.idle:
        KeptWorkers.idle.pop().end(at_once=False)


@pytest.fixture(scope="module")
def ended(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of one trial, for tests that copy it."""
    out = tmp_path_factory.mktemp("ended") / "study"
    study_of(tiny_data, out, trials=1)
    return out


def trials_of(out: Path) -> list[Any]:
    return finished(open_trials(out, About.load(out), ScheduleMedian()))


def test_a_study_ends_with_settings_and_a_run(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_module, "Workers", Workers)  # which end with the study
    said = study_of(tiny_data, tmp_path / "study", seeds=2, parallel=2)
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == [
        "best.toml",
        "lock",
        "report.md",
        "runs",
        "study.json",
        "trials.log",
        "what_mattered.png",
    ]
    best = load_config(tmp_path / "study/best.toml")
    assert (best.dimension, best.heads) == (16, 2)
    runs = {path.name: finished_run(path) for path in (tmp_path / "study/runs").iterdir()}
    assert {"defaults-seed-1", "defaults-seed-2"} < set(runs)
    assert len(runs) == 4
    assert any(replace(info.config, seed=0) == best for info in runs.values())
    assert any("trial 0, the defaults: MRR@20 0." in line for line in said)
    page = (tmp_path / "study/report.md").read_text()
    assert "| the defaults |" in page
    assert "hiersrec train" in page
    assert not multiprocessing.active_children()


def test_a_study_goes_on_after_its_end(ended: Path, tiny_data: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(ended, tmp_path / "study"))
    before = [trial.params for trial in trials_of(out)]
    written = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("model.safetensors")}
    shutil.move(str(tiny_data), str(moved := tmp_path / "moved"))  # the data may move
    try:
        said = study_of(moved, out, trials=3, seeds=2, resume=True)
    finally:
        shutil.move(str(moved), str(tiny_data))
    after = [trial.params for trial in trials_of(out)]
    assert after[:1] == before
    assert len(after) == 3
    assert len({json.dumps(params) for params in after}) == 3  # nothing is drawn again
    assert not any(line.startswith("trial 0") for line in said)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert (out / "runs/defaults-seed-2").exists()


def test_the_search_trains_on_the_newest_sessions_and_the_finals_on_all(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    original = search_module.Search

    def looks(folder: Path, about: About, data: Path, *others: Any) -> search_module.Search:
        newest = Dataset.load(data)
        sizes.append(len(newest.train))
        assert newest.train[-1].tolist() == Dataset.load(tiny_data).train[-1].tolist()
        return original(folder, about, data, *others)

    monkeypatch.setattr(tune_module, "Search", looks)
    study_of(tiny_data, tmp_path / "study", trials=1, sessions=40)
    assert sizes == [40]
    info = RunInfo.load(tmp_path / "study/runs/defaults-seed-1")
    assert info.data["counts"]["train_sessions"] == len(Dataset.load(tiny_data).train)
    assert not (tmp_path / "study/newest").exists()


def test_a_trial_that_diverges_is_recorded_and_the_study_goes_on(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = CategoricalDistribution((2e-3, 1e6))
    monkeypatch.setattr(space_module, "SPACE", {"learning_rate": hot})
    said = study_of(tiny_data, tmp_path / "study", trials=6, seeds=1)
    trials = trials_of(tmp_path / "study")
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert failed
    assert len(trials) == 6
    assert all("diverged" in trial.user_attrs[ERROR] for trial in failed)
    assert any("failed: training diverged" in line for line in said)
    assert not list((tmp_path / "study").glob("trials/*"))


def test_a_study_of_failures_says_why(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="every trial failed, the first one with: training diverged"):
        study_of(tiny_data, tmp_path / "study", trials=1, fixed=FIXED | {"learning_rate": 1e6})


def test_no_training_begins_when_the_time_is_over(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no trial was trained to its end within 1e-09 hours"):
        study_of(tiny_data, tmp_path / "study", hours=1e-9)
    assert study_of(tiny_data, tmp_path / "study", trials=1, resume=True)


def test_a_trial_ends_with_its_epoch_when_the_time_of_the_search_is_over(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of the finals is left to them, and an epoch that was the last anyway is no reason to give up."""
    asked: list[float] = []

    def is_past(self: search_module.Clock, share: float = 1.0) -> bool:
        if share == 1.0:
            return False
        asked.append(share)
        return (
            len(asked) > 4
        )  # whether to begin trial 0; its epochs; whether to begin trial 1; its first epoch

    monkeypatch.setattr(search_module.Clock, "is_past", is_past)
    monkeypatch.setattr(space_module, "SPACE", {"epochs": IntDistribution(2, 8)})
    fixed = {name: value for name, value in FIXED.items() if name != "epochs"}
    said = study_of(tiny_data, tmp_path / "study", fixed=fixed | {"patience": 8})
    whole, given_up = trials_of(tmp_path / "study")
    assert (whole.state, len(whole.intermediate_values)) == (TrialState.COMPLETE, 2)
    assert given_up.state == TrialState.PRUNED
    assert len(given_up.intermediate_values) == 1
    assert any(
        "given up after epoch 1 of " in line and "the time of the search is over" in line for line in said
    )
    assert (tmp_path / "study/runs/defaults-seed-1").exists()


def test_the_best_settings_are_written_before_anything_is_said_of_them(
    ended: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(ended, tmp_path / "study"))
    (out / "best.toml").unlink()

    def fails(*given: Any) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(reports, "verdict", fails)
    with pytest.raises(ZeroDivisionError):
        study_of(tiny_data, out, trials=2, resume=True)
    assert load_config(out / "best.toml").dimension == 16


def test_finals_that_are_missing_are_said(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_past(self: search_module.Clock, share: float = 1.0) -> bool:
        return share == 1.0

    with monkeypatch.context() as patch:
        patch.setattr(search_module.Clock, "is_past", is_past)
        said = study_of(tiny_data, tmp_path / "study", trials=1)
    assert any("nothing to compare yet but the search" in line for line in said)
    assert any("--resume goes on with them" in line for line in said)
    assert load_config(tmp_path / "study/best.toml").dimension == 16
    study_of(tiny_data, tmp_path / "study", trials=1, resume=True)
    assert (tmp_path / "study/runs/defaults-seed-1").exists()


def stops(epoch: int, metrics: Any) -> None:
    raise ZeroDivisionError


def test_a_run_of_the_finals_goes_on_from_its_checkpoint(
    ended: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Whatever a killed process has left of it."""
    out = Path(shutil.copytree(ended, tmp_path / "study"))
    first, *others = sorted((out / "runs").iterdir())
    assert not others
    shutil.rmtree(first)
    part_of(first).mkdir()  # killed before there was a run.json
    study_of(tiny_data, out, trials=1, resume=True)
    seconds = finished_run(first).seconds
    config = replace(RunInfo.load(first).config, seed=2)
    with pytest.raises(ZeroDivisionError):
        train(tiny_data, out / "runs/defaults-seed-2", config, device="cpu", after_epoch=stops)
    part = part_of(out / "runs/defaults-seed-2")
    began = json.loads((part / "run.json").read_text())
    (part / "run.json").write_text(json.dumps(began | {"versions": {"mark": "of the part"}}))
    study_of(tiny_data, out, trials=1, seeds=2, resume=True)
    assert finished_run(out / "runs/defaults-seed-2").versions == {"mark": "of the part"}
    assert finished_run(first).seconds == seconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be an integer ≥ 1, got 0"),
        ({"hours": 0}, "hours must be a number > 0, got 0"),
        ({"hours": float("nan")}, "hours must be a number > 0, got nan"),
        ({"parallel": 300}, "parallel must be an integer from 1 to 256, got 300"),
        ({"sessions": -1}, "sessions must be an integer ≥ 1, got -1"),
        ({"best": True}, "best must be an integer ≥ 1, got True"),
        ({"seeds": 1.5}, "seeds must be an integer ≥ 1, got 1.5"),
    ],
)
def test_numbers_out_of_range(tiny_data: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        study_of(tiny_data, tmp_path / "study", **options)
    assert not list(tmp_path.iterdir())


def test_data_that_cannot_be_tuned_on(make_dataset: Callable[..., Dataset], tmp_path: Path) -> None:
    data = make_dataset()
    replace(data, validation=data.validation.part(0, 0)).save(tmp_path / "data")
    with pytest.raises(EmptyLogError, match="the validation split has no session of two clicks"):
        study_of(tmp_path / "data", tmp_path / "study")
    with pytest.raises(ConfigError, match="there is no setting 'droput'; did you mean dropout"):
        data.save(tmp_path / "whole")
        study_of(tmp_path / "whole", tmp_path / "study", fixed={"droput": 0.1})
    every = {name: getattr(Config(), name) for name in space_module.SPACE}
    with pytest.raises(ConfigError, match="every setting that is searched is fixed"):
        study_of(tmp_path / "whole", tmp_path / "study", fixed=every)
    assert not (tmp_path / "study").exists()


def test_a_folder_is_of_one_study(
    ended: Path, tiny_data: Path, make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    out = tmp_path / "study"
    make_dataset(seed=5).save(tmp_path / "other")
    with pytest.raises(RunError, match=r"there is no study .* to resume"):
        study_of(tiny_data, out, resume=True)
    out.mkdir()
    with pytest.raises(RunError, match="exists and holds no study"):
        study_of(tiny_data, out)
    with pytest.raises(RunError, match=r"it has no study\.json"):
        study_of(tiny_data, out, resume=True)
    out.rmdir()
    shutil.copytree(ended, out)
    with pytest.raises(RunError, match="holds a study: go on with --resume"):
        study_of(tiny_data, out)
    with pytest.raises(RunError, match="holds a study of another data set"):
        study_of(tmp_path / "other", out)
    with pytest.raises(RunError, match=r"is not the data set that .* began with"):
        study_of(tmp_path / "other", out, resume=True)
    with alone(out), pytest.raises(RunError, match="another hiersrec tune works on"):
        study_of(tiny_data, out, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "hiersrec-run"}, "does not describe a study"),
        ({"schema_version": 2}, "has schema version 2, this version reads 1"),
        ({"fixed": {"droput": 1}}, "is not as this version writes it"),
        ({"sessions": "all"}, "is not as this version writes it"),
        ({"more": 1}, "is not as this version writes it"),
    ],
)
def test_a_damaged_study(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    About("data", "f", {}, 100, 0, "cpu").save(tmp_path)
    about = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(about | change))
    with pytest.raises(RunError, match=message):
        About.load(tmp_path)


def test_what_a_killed_process_left_is_done_again(tmp_path: Path) -> None:
    about = About("data", "f", {}, 100, 0, "cpu")
    study = open_trials(tmp_path, about, ScheduleMedian())
    for value in (0.1, 0.2):
        study.tell(study.ask(space_module.searched(())), value)
    killed = study.ask(space_module.searched(()))
    with (tmp_path / "trials.log").open("ab") as file:
        file.write(b'{"op_code":5,"worker')
    (tmp_path / "trials.log.lock").symlink_to("trials.log")
    study = open_trials(tmp_path, about, ScheduleMedian())
    assert [trial.value for trial in finished(study)] == [0.1, 0.2]
    assert study.ask(space_module.searched(())).params == killed.params
    with (tmp_path / "trials.log").open("ab") as file:
        file.write(b"no JSON\n{}\n")
    with pytest.raises(RunError, match=r"trials\.log cannot be read"):
        open_trials(tmp_path, about, ScheduleMedian())


def test_a_process_that_is_killed_takes_its_training_along_and_nothing_else(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    jobs = [Job(name, tiny_data, tmp_path / name, tiny_config, "cpu") for name in ("first", "second", "none")]
    jobs[2] = replace(jobs[2], data=tmp_path / "nowhere")
    waiting, ended = [*jobs], dict[str, Ended]()

    def watch(job: Job, epoch: Epoch) -> bool:
        if job.name == "first":
            [child] = set(multiprocessing.active_children()) - before
            os.kill(child.pid or 0, signal.SIGKILL)
        return True

    before = set(multiprocessing.active_children())
    with Workers(1) as workers:
        workers.run(
            lambda: waiting.pop(0) if waiting else None,
            watch,
            lambda job, how: ended.__setitem__(job.name, how),
            [],
        )
    assert ended["first"].how == "failed"
    assert "signal 9, which the system sends for want of memory" in ended["first"].message
    assert ended["second"].how == "done"
    assert finished_run(tmp_path / "second").best_epoch
    assert ended["none"].how == "failed"
    assert "nowhere" in ended["none"].message
    assert set(multiprocessing.active_children()) == before


def test_a_training_that_is_given_up_ends_after_its_epoch(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    """And, as the interface of ``train`` is general, it can be resumed."""
    seen: list[int] = []

    def ends(epoch: int, metrics: Any) -> None:
        seen.append(epoch)
        assert metrics["mrr@20"] > 0
        raise ZeroDivisionError

    out = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(
            tiny_data,
            out,
            tiny_config,
            device="cpu",
            progress=False,
            report=lambda line: None,
            after_epoch=ends,
        )
    assert seen == [1]
    assert part_of(out).exists()
    info = train(
        tiny_data,
        out,
        tiny_config,
        device="cpu",
        resume=True,
        progress=False,
        report=lambda line: None,
        after_epoch=lambda epoch, metrics: seen.append(epoch),
    )
    assert seen == [1, 2]
    assert info.finished


def test_ctrl_c_keeps_what_is_done(tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    fixed = [word for name, value in FIXED.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "hiersrec_sdk.cli", "tune", str(tiny_data), "--out", str(out), *fixed]
    command += ["--trials", "500", "--best", "1", "--seeds", "1"]
    # a session of its own: the signal goes to all its processes, as that of a terminal does
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        if line.startswith("trial 1"):
            break
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    process.stdout.read()
    message = process.stderr.read()
    assert process.wait() == 1
    assert "stopped by signal 2; " in message
    assert "go on with --resume" in message
    assert len(message.splitlines()) == 1
    kept = len(trials_of(out))
    assert 2 <= kept < 500
    said = study_of(tiny_data, out, trials=kept + 1, resume=True)
    assert f"{kept} are done" in said[0]
    assert len(trials_of(out)) == kept + 1
