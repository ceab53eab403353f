"""Several processes that train one model, here two on the CPU.

All without dropout, whose masks are others on each rank.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from hiersrec_sdk.cpus import available_cpus
from hiersrec_sdk.errors import InterruptedRunError, InvalidOptionError, RunError
from hiersrec_training import launch as launch_module
from hiersrec_training import loop as loop_module
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.distributed import Ranks, joined
from hiersrec_training.launch import launch
from hiersrec_training.run import RunInfo, checkpoints, part_of
from hiersrec_training.train import train
from tests.conftest import ROOT, quiet
from tests.training.ranks import STEPS, Found, everything, fails_alone, steps_of
from tests.waiting import has_ended

pytestmark = pytest.mark.slow

LONGEST = 240.0  # seconds that a started training may take to write a checkpoint, or to end


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    return replace(tiny_config, dropout=0.0, learning_rate=2e-3, covisitation=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Dataset]) -> Path:
    """A data set whose last batch of an epoch is a single window, so that one of two ranks has none."""
    path = tmp_path_factory.mktemp("ranks") / "data"
    dataset = make_dataset(longest=6)
    dataset = replace(dataset, train=_first(dataset, 161))
    dataset.save(path)
    return path


def _first(data: Dataset, sessions: int) -> Any:
    offsets = data.train.offsets[: sessions + 1]
    return data.train.__class__(data.train.items[: offsets[-1]], offsets)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def found(data: Path, config: Config, work: Path) -> tuple[Found, list[str]]:
    """What two ranks found out, and the lines that they reported."""
    lines: list[str] = []
    to_resume = [work / softmax for softmax in SOFTMAXES]
    for softmax, out in zip(SOFTMAXES, to_resume, strict=True):
        stopped(data, out, with_softmax(config, softmax), 9)
    return launch(2, partial(everything, data, config, work, to_resume), lines.append, "cpu"), lines


SOFTMAXES = ["full", "sampled"]


def with_softmax(config: Config, softmax: str) -> Config:
    return replace(config, sampled_above=10) if softmax == "sampled" else config


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_two_processes_have_the_losses_of_one(
    softmax: str, found: tuple[Found, list[str]], data: Path, config: Config
) -> None:
    two = getattr(found[0], softmax)
    one = steps_of(data, with_softmax(config, softmax))
    assert len(one.losses) >= STEPS
    names = {"loss", "item_loss", "category_loss_0", "category_loss_1"}
    for step, (alone, together) in enumerate(zip(one.losses, two.losses, strict=True)):
        assert alone.keys() == together.keys() == names
        for name in names:
            assert together[name] == pytest.approx(alone[name], rel=1e-4), (step, name)
    assert two.metrics == pytest.approx(one.metrics, abs=0.02)
    assert one.losses[-1]["loss"] < one.losses[0]["loss"]


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_weights_and_moments_are_equal_on_all_ranks_bit_for_bit(
    softmax: str, found: tuple[Found, list[str]]
) -> None:
    first, second = getattr(found[0], softmax).weights
    assert first == second


def test_gradients_are_summed_and_rows_travel_with_their_indices(found: tuple[Found, list[str]]) -> None:
    assert found[0].wrong_sums == [[], []]


def test_rank_0_alone_works_and_reports(found: tuple[Found, list[str]]) -> None:
    assert found[0].errors == ["rank 0 fails", "rank 0 fails"]
    assert found[1] == ["rank 0", "rank 1"] or found[1] == ["rank 1", "rank 0"]
    assert found[0].largest == [3, 3]
    assert found[0].processes == 2


def test_dropout_has_other_random_numbers_on_each_rank(found: tuple[Found, list[str]]) -> None:
    (common, own), (same, other) = found[0].numbers
    assert common == same
    assert own != other


def test_divergence_on_one_rank_is_the_same_error_on_all(found: tuple[Found, list[str]]) -> None:
    (name, message), other = found[0].divergence
    assert (name, message) == other
    assert name == "DivergedRunError"
    assert "at step 10 of" in message
    assert "checkpoint-00000007-0000 was kept" in message


def test_processes_must_be_a_number_of_processes(data: Path, config: Config, tmp_path: Path) -> None:
    wrong: list[Any] = [0, -1, True, 2.0, "2"]
    for processes in wrong:
        with pytest.raises(InvalidOptionError, match="processes must be an integer ≥ 1, got "):
            train(data, tmp_path / "run", config, processes=processes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (["a", "b", "c"], None),
        (["a", "b", "a"], "got 3 processes and 2 GPUs; start fewer with --processes"),
        (["a", "a", "a"], "got 3 processes and 1 GPU; start fewer"),
    ],
)
def test_each_process_needs_a_gpu_to_itself(
    seen: list[str], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=seen[index]))
    monkeypatch.setattr(Ranks, "gathered", lambda self, value: [value, *seen[1:]])
    Ranks(0, 3).check_devices("cpu")
    with nullcontext() if message is None else pytest.raises(InvalidOptionError, match=message):
        Ranks(0, 3).check_devices("cuda")


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda"])
def test_ranks_on_cpus_leave_the_gpus_alone(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", did.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: did.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    with joined(Ranks(1, 2), 1, "env://", device):
        assert did == (["gloo"] if device == "cpu" else [1, "cpu:gloo,cuda:nccl"])


def test_torchrun_says_how_many(
    data: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(InvalidOptionError, match="processes cannot be given under torchrun"):
        train(data, tmp_path / "run", config, processes=2)


def test_a_rank_that_ends_by_another_error_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError, match=r"rank 1 of 2 ended with exit status 1, .*see its error above"):
        launch(2, fails_alone, quiet, "cpu")
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_rank_with_a_gpu_says_its_error_and_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NCCL would wait for the other ranks in ``destroy_process_group``, and once more as Python ends."""

    def fails(*_: Any) -> None:
        raise RunError("too little memory")

    def leave(status: int) -> None:
        did.append(("left", status))
        raise SystemExit(status)

    did: list[Any] = []
    ours, theirs = Pipe()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: did.append("joined"))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: did.append("destroyed"))
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(launch_module, "_PR_SET_PDEATHSIG", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with pytest.raises(SystemExit):
        launch_module._rank(Ranks(0, 2), tmp_path / "meeting", fails, theirs, "cuda")
    assert did == ["joined", ("left", 1)]
    kind, error = ours.recv()
    assert (kind, str(error)) == ("error", "too little memory")


def test_a_signal_to_one_rank_stops_all_after_the_same_step(
    found: tuple[Found, list[str]], work: Path
) -> None:
    error = ("InterruptedRunError", "stopped by signal 15 at step 10: go on with --resume")
    assert found[0].stopped == [error, error]


def stopped(data: Path, out: Path, config: Config, step: int) -> None:
    """Train in one process up to ``step``."""
    original = loop_module.Loop._step

    def signals(self: Any, batch: Any) -> Any:
        if self.state["step"] == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedRunError, match=f"step {step}:"):
        patch.setattr(loop_module.Loop, "_step", signals)
        train(data, out, config, device="cpu", progress=False, report=quiet)


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_two_processes_go_on_from_the_checkpoint_of_one(
    softmax: str, found: tuple[Found, list[str]], work: Path, data: Path, config: Config, tmp_path: Path
) -> None:
    info = found[0].resumed[work / softmax]
    assert info.finished
    assert info.processes == 2
    assert RunInfo.load(work / softmax) == info
    assert not part_of(work / softmax).exists()
    train(data, tmp_path / "run", with_softmax(config, softmax), device="cpu", progress=False, report=quiet)
    assert_alike(tmp_path / "run", work / softmax)


def test_one_process_goes_on_from_the_checkpoint_of_two(
    found: tuple[Found, list[str]], work: Path, data: Path, config: Config, tmp_path: Path
) -> None:
    assert found[0].stopped
    (kept,) = checkpoints(part_of(work / "stopped"))
    assert kept.name == "checkpoint-00000010-0000"
    info = train(data, work / "stopped", config, device="cpu", resume=True, progress=False, report=quiet)
    assert (info.finished, info.processes, info.threads) == (True, 1, torch.get_num_threads())
    train(data, tmp_path / "run", config, device="cpu", progress=False, report=quiet)
    assert_alike(tmp_path / "run", work / "stopped")


def assert_alike(one: Path, other: Path) -> None:
    """Two runs, but for the order of sums. Some biases change nothing, so that rounding alone moves them."""
    first, second = (load_file(run / "model.safetensors")["items.item.weight"] for run in (one, other))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)
    alone, together = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-2:]
        for run in (one, other)
    )
    assert together[0] == pytest.approx(alone[0], rel=1e-4)  # the losses of the second epoch
    assert together[1]["validation"] == pytest.approx(alone[1]["validation"], rel=1e-2)


class Started:
    """A command that trains ``run`` with two processes, of many epochs."""

    def __init__(self, module: list[str], data: Path, run: Path, config: Config) -> None:
        file = run.with_suffix(".toml")
        settings = config.as_dict() | {"epochs": 5_000, "patience": 5_000}
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        command = [sys.executable, "-m", *module, str(data), "--out", str(run), "--config", str(file)]
        self.process = subprocess.Popen(
            [*command, "--device", "cpu", "--no-progress"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.run = run

    def wait(self) -> None:
        """Wait for the first checkpoint."""
        begun = time.monotonic()
        while not (part_of(self.run).exists() and checkpoints(part_of(self.run))):
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() - begun < LONGEST
            time.sleep(0.05)

    def ranks(self) -> list[int]:
        """Process ids, in the order of the ranks."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        names = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children}
        return [int(child) for child, name in names.items() if "resource_tracker" not in name]

    def end(self) -> str:
        """What it printed, once it has ended with exit status 1, and with it the ranks."""
        ranks = self.ranks() if self.process.poll() is None else []
        printed = self.process.communicate(timeout=LONGEST)[0]
        assert self.process.returncode == 1
        assert all(map(has_ended, ranks))
        return printed


@contextmanager
def started(*args: Any) -> Iterator[Started]:
    command = Started(*args)
    try:
        command.wait()
        yield command
    finally:
        left = command.ranks() if command.process.poll() is None else []
        command.process.kill()
        command.process.wait()
        for rank in left:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)


HERE = ["hiersrec_sdk.cli", "train", "--processes", "2"]
TORCHRUN = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "hiersrec_training"]


def test_a_killed_rank_ends_the_training(data: Path, config: Config, tmp_path: Path) -> None:
    with started(HERE, data, tmp_path / "run", config) as command:
        os.kill(command.ranks()[1], signal.SIGKILL)
        printed = command.end()
    assert "Error: rank 1 of 2 was killed by SIGKILL" in printed
    assert "go on with --resume" in printed
    assert "Traceback" not in printed
    assert "leaked" not in printed
    assert not (tmp_path / "run").exists()
    assert checkpoints(part_of(tmp_path / "run"))
    info = RunInfo.load(part_of(tmp_path / "run"))
    assert info.processes == 2
    assert info.threads == max(1, available_cpus() // 2) or "OMP_NUM_THREADS" in os.environ


@pytest.mark.parametrize(
    ("module", "number"), [(HERE, signal.SIGINT), (TORCHRUN, signal.SIGTERM)], ids=["--processes", "torchrun"]
)
def test_a_signal_stops_all_ranks_with_a_checkpoint(
    module: list[str], number: signal.Signals, data: Path, config: Config, tmp_path: Path
) -> None:
    with started(module, data, tmp_path / "run", config) as command:
        command.process.send_signal(number)
        printed = command.end()
    (kept,) = checkpoints(part_of(tmp_path / "run"))
    step = int(kept.name.split("-")[1])
    assert f"Error: stopped by signal {int(number)} at step {step}: go on with --resume" in printed
    assert json.loads((kept / "state.json").read_text())["step"] == step
    assert np.isfinite(load_file(kept / "model.safetensors")["items.item.weight"].numpy()).all()
