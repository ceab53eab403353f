"""Runs that were interrupted, and what they are resumed with."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from hiersrec_sdk.cli.training import train as train_command
from hiersrec_sdk.errors import InterruptedRunError, InvalidOptionError, RunError
from hiersrec_training import cold_start, covisitation
from hiersrec_training import loop as loop_module
from hiersrec_training import run as run_module
from hiersrec_training import train as train_module
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.distributed import Ranks
from hiersrec_training.run import RunInfo, part_of
from hiersrec_training.train import train
from tests.conftest import quiet as quiet_line
from tests.training.dying import dies_at


def quiet(data: Path, out: Path, config: Config, **options: Any) -> RunInfo:
    options = {"device": "cpu", **options}
    return train(data, out, config, progress=False, report=lambda line: None, **options)


def interrupted(data: Path, out: Path, config: Config, step: int, **options: Any) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        dies_at(step, patch)
        quiet(data, out, config, **options)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model.safetensors")


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("best", [1, 2])
def test_the_figures_are_those_of_the_weights(
    best: int, tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A better epoch was kept and no checkpoint says so; done again with another learning rate, it is no better."""
    config = replace(tiny_config, epochs=2, patience=2, covisitation=False)
    figures = iter([0.3, 0.5, 0.7 if best == 2 else 0.2])
    monkeypatch.setattr(loop_module, "evaluate_model", lambda *_: {"mrr@20": next(figures), "recall@20": 0.5})
    kept: dict[int, dict[str, torch.Tensor]] = {}
    validate, save = loop_module.Loop._validate, run_module.save_checkpoint

    def keeps(self: Any, epoch: int) -> Any:
        kept[epoch + 1] = {name: value.clone() for name, value in self.model.state_dict().items()}
        return validate(self, epoch)

    def full(folder: Path, model: Any, optimizer: Any, state: dict[str, Any]) -> None:
        if state["epochs"] == 2:
            raise OSError(28, "No space left on device")
        save(folder, model, optimizer, state)

    monkeypatch.setattr(loop_module.Loop, "_validate", keeps)
    with monkeypatch.context() as patch, pytest.raises(RunError, match="No space left"):
        patch.setattr(run_module, "save_checkpoint", full)
        quiet(tiny_data, tmp_path / "run", config)
    info = quiet(tiny_data, tmp_path / "run", config, resume=True, learning_rate=1e-5)
    assert (info.best_epoch, info.metrics["mrr@20"]) == ((2, 0.7) if best == 2 else (1, 0.3))
    assert are_equal(weights_of(tmp_path / "run"), kept[best])
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "curves.png",
        "metrics.jsonl",
        "model.safetensors",
        "run.json",
    ]


def test_one_kept_epoch_lies_beside_the_checkpoint(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([0.3, 0.4, 0.5])
    monkeypatch.setattr(loop_module, "evaluate_model", lambda *_: {"mrr@20": next(figures), "recall@20": 0.5})
    found: list[list[str]] = []

    def looks(epoch: int, metrics: Any) -> None:
        found.append(sorted(path.name for path in part_of(tmp_path / "run").glob("*.safetensors")))

    quiet(tiny_data, tmp_path / "run", replace(tiny_config, epochs=3, patience=3), after_epoch=looks)
    assert found == [[f"best-{epoch:04d}.safetensors"] for epoch in (1, 2, 3)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_in_the_last_validation_is_obeyed(
    number: signal.Signals, tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    def signals(epoch: int, metrics: Any) -> None:
        if epoch == tiny_config.epochs:
            os.kill(os.getpid(), number)

    message = f"stopped by signal {int(number)} at step 28: go on with --resume"
    with pytest.raises(InterruptedRunError, match=message):
        quiet(tiny_data, tmp_path / "run", tiny_config, after_epoch=signals)
    quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)
    assert are_equal(weights_of(tmp_path / "run"), weights_of(tiny_run))


@pytest.mark.parametrize("moment", ["fit_on", "choose_bias", "save"])
def test_ctrl_c_while_the_scorer_is_fitted(
    moment: str,
    tiny_run: Path,
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resumed run fits it anew, from the weights of the best epoch: they come out as without the break."""

    def signals(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)

    where: Any = {"fit_on": covisitation, "choose_bias": cold_start, "save": RunInfo}[moment]
    with monkeypatch.context() as patch:
        if moment == "save":
            save = RunInfo.save

            def stops(self: RunInfo, folder: Path) -> None:
                if self.best_epoch:
                    signals()
                save(self, folder)

            patch.setattr(where, moment, stops)
        else:
            patch.setattr(where, moment, signals)
        with pytest.raises(InterruptedRunError, match="stopped by signal 2 at step 28: go on with --resume"):
            quiet(tiny_data, tmp_path / "run", tiny_config)
    info = quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)
    whole = RunInfo.load(tiny_run)
    assert (info.metrics, info.covisitation_metrics) == (whole.metrics, whole.covisitation_metrics)
    assert info.cold_start == whole.cold_start
    assert are_equal(weights_of(tmp_path / "run"), weights_of(tiny_run))


def test_the_lines_of_a_resumed_run_are_those_of_a_whole_one(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line's mean is of all its steps, those before the checkpoint too."""
    monkeypatch.setattr(loop_module, "LOG_STEPS", 6)
    config = replace(tiny_config, checkpoint_steps=4)
    quiet(tiny_data, tmp_path / "whole", config)
    interrupted(tiny_data, tmp_path / "run", config, 10)
    quiet(tiny_data, tmp_path / "run", config, resume=True)
    whole, resumed = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "run"))
    assert whole == resumed


def test_a_final_run_is_resumed_without_the_validated_one(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    validated = tmp_path / "validated"
    shutil.copytree(tiny_run, validated)
    its_info = RunInfo.load(validated)
    its_info.cold_start = {"bias": 0.5}
    its_info.save(validated)
    config = replace(tiny_config, epochs=1, checkpoint_steps=4)
    options: dict[str, Any] = {"final": True, "validated_by": validated}
    whole = quiet(tiny_data, tmp_path / "whole", config, **options)
    interrupted(tiny_data, tmp_path / "run", config, 6, **options)
    interrupted(tiny_data, tmp_path / "early", config, 2, **options)
    shutil.rmtree(validated)
    info = quiet(tiny_data, tmp_path / "run", config, resume=True)
    assert info.cold_start == whole.cold_start == {"bias": 0.5}
    assert are_equal(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
    with pytest.raises(RunError, match=r"validated run \(--validated-by\) cannot be read: .*no run\.json"):
        quiet(tiny_data, tmp_path / "early", config, resume=True)  # no checkpoint holds the scorer yet


def test_what_does_not_go_with_resume_is_refused(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    with pytest.raises(InvalidOptionError, match="learning_rate goes with resume"):
        quiet(tiny_data, tmp_path / "run", tiny_config, learning_rate=0.1)
    assert not list(tmp_path.iterdir())
    interrupted(tiny_data, tmp_path / "run", tiny_config, 9)
    before = (part_of(tmp_path / "run") / "run.json").read_text()
    for options, message in (
        ({"final": True}, "began with final=False, and resume keeps that: leave final out, got True"),
        ({"validated_by": tiny_run}, "began with validated_by=None.*leave validated_by out"),
        ({"log": ["wandb"]}, r"began with log=\[\].*leave log out, got \['wandb'\]"),
    ):
        given: dict[str, Any] = options
        with pytest.raises(InvalidOptionError, match=message):
            quiet(tiny_data, tmp_path / "run", tiny_config, resume=True, **given)
    assert (part_of(tmp_path / "run") / "run.json").read_text() == before
    quiet(tiny_data, tmp_path / "run", tiny_config, resume=True, final=False, device="cpu", log=[])


def test_a_run_of_a_gpu_goes_on_without_one(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    """And with the precision of the processor that goes on."""
    interrupted(tiny_data, tmp_path / "run", tiny_config, 9)
    path = part_of(tmp_path / "run") / "run.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"device": "cuda", "precision": "bfloat16"}))
    if not torch.cuda.is_available():
        with pytest.raises(
            RunError,
            match="this PyTorch finds no GPU: go on with --resume --device cpu",
        ):
            quiet(tiny_data, tmp_path / "run", tiny_config, device="auto", resume=True)
    info = quiet(tiny_data, tmp_path / "run", tiny_config, device="cpu", resume=True)
    assert (info.device, info.precision) == ("cpu", about["precision"])


def test_the_command_says_whence_the_epochs_are(
    tiny_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of --config do not count: the printed commands of hiersrec tune have both options."""
    (tmp_path / "best.toml").write_text("epochs = 7\n")
    given: list[Config] = []
    monkeypatch.setattr(train_module, "train", lambda data, out, config, **options: given.append(config))
    options = ["--config", str(tmp_path / "best.toml"), "--final", "--validated-by", str(tiny_run)]
    result = CliRunner().invoke(train_command, [str(tiny_data), "--out", str(tmp_path / "run"), *options])
    best = RunInfo.load(tiny_run).best_epoch
    assert result.output == f"epochs: {best}, the best of {tiny_run}\n"
    assert given[0].epochs == best


def test_a_damaged_line_of_the_curves_is_left_out(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    """As a broken disk leaves it, or an editor: the curves are no part of what is resumed."""
    interrupted(tiny_data, tmp_path / "run", tiny_config, 20)
    path = part_of(tmp_path / "run") / "metrics.jsonl"
    whole = path.read_bytes()
    damaged = [b"\0\0\0\0", b"\xff{", b"[1]", b"3", b"{}", b'{"step": 3}', b'{"step": "3", "epoch": 1}']
    damaged += [b'{"step": 3, "epoch": 1, "validation": 0.5}', b'{"step": 3, "epoch": 1, "loss": "low"}']
    damaged += [b'{"step": 3, "epoch": 1, "validation": {"recall@20": 0.5}}', b"[" * 100_000, b""]
    path.write_bytes(b"".join(line + b"\n" for line in damaged) + whole)
    quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)
    found, wanted = ((each / "metrics.jsonl").read_text() for each in (tmp_path / "run", tiny_run))
    assert found == wanted


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "its content is "),
        ("{}", "step is None"),
        ('{"step": 7}', "epochs is None"),
        ('{"step": "7", "epochs": 0}', "step is '7'"),
        (
            '{"step": 7, "epochs": 0, "bad": 0, "best_epoch": 0, "best": "high", "seconds": 1}',
            "best is 'high'",
        ),
        (
            '{"step": 7, "epochs": 0, "bad": 0, "best_epoch": 0, "best": 0, "seconds": 1, "recent": {"loss": ["a"]}}',
            "recent.loss is 'a'",
        ),
    ],
)
def test_a_damaged_state_is_named(
    content: str, message: str, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    interrupted(tiny_data, tmp_path / "run", tiny_config, 9)
    (path,) = part_of(tmp_path / "run").glob("checkpoint-*/state.json")
    path.write_text(content)
    with pytest.raises(RunError, match=rf"state\.json cannot be resumed from: {message}"):
        quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)


def test_ranks_that_see_other_checkpoints_do_not_train_together(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(tiny_data, tmp_path / "run", tiny_config, 9)
    monkeypatch.setattr(Ranks, "gathered", lambda self, value: [value, (0, 0)])  # rank 1 has an empty folder
    with pytest.raises(
        RunError, match=r"do not share the folder .*run\.part: .*of the steps 7, 0 \(0: none\)"
    ):
        quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)


def test_what_cannot_be_removed_of_a_finished_run_stays(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(run_module, "clear", fails)
    said: list[str] = []
    train(tiny_data, tmp_path / "run", tiny_config, device="cpu", progress=False, report=said.append)
    assert are_equal(weights_of(tmp_path / "run"), weights_of(tiny_run))
    assert [line for line in said if "run is finished, but what only its training needed" in line]
    assert "written to" in said[-1]


@pytest.mark.parametrize("kind", [BrokenPipeError, MemoryError, RuntimeError])
@pytest.mark.parametrize("whose", ["report", "after_epoch"])
def test_an_error_of_the_caller_is_not_one_of_the_folder(
    whose: str, kind: type[Exception], tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    error = kind(32, "cannot allocate memory for the pipe")

    def fails(*given: Any) -> None:
        raise error

    options: dict[str, Any] = {"report": quiet_line, whose: fails}
    with pytest.raises(kind) as caught:
        train(tiny_data, tmp_path / "run", tiny_config, device="cpu", progress=False, **options)
    assert caught.value is error
    quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)


def test_the_validated_run_may_be_a_string(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    validated: Any = str(tiny_run)
    info = quiet(tiny_data, tmp_path / "run", tiny_config, final=True, validated_by=validated)
    assert info.validated_by == str(tiny_run.resolve())


@pytest.mark.parametrize(("variable", "threads"), [(None, 1), ("2", 2)])
def test_a_process_keeps_to_its_quota_of_the_processors(
    variable: str | None, threads: int, tiny_data: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(train_module, "available_cpus", lambda: 1)
    torch.set_num_threads(2)
    try:
        assert train_module.new_run(Dataset.load(tiny_data), tiny_config, "cpu").threads == threads
    finally:
        torch.set_num_threads(1)
