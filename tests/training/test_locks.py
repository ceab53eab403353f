"""One process at a time trains a run."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hiersrec_sdk.errors import RunError
from hiersrec_sdk.systems import fcntl
from hiersrec_training import train as train_module
from hiersrec_training.config import Config
from hiersrec_training.locks import LOCK, alone
from hiersrec_training.loop import Loop
from hiersrec_training.run import RunInfo, part_of
from hiersrec_training.train import train
from tests.conftest import ROOT, quiet
from tests.training.dying import dies_at

HOLDS = """
import sys, time
from pathlib import Path
from hiersrec_training.locks import alone
with alone(Path(sys.argv[1]), "hiersrec train"):
    print("held", flush=True)
    time.sleep(600)
"""


def run(data: Path, out: Path, config: Config, **options: Any) -> RunInfo:
    return train(data, out, config, device="cpu", progress=False, report=quiet, **options)


def test_a_run_that_is_trained_is_refused_to_others(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    out, refused = tmp_path / "run", list[str]()

    def comes_second(epoch: int, metrics: Any) -> None:
        for resume in (True, False):
            with pytest.raises(RunError) as caught:
                run(tiny_data, out, tiny_config, resume=resume, after_epoch=pytest.fail)
            refused.append(str(caught.value))

    run(tiny_data, out, tiny_config, after_epoch=comes_second)
    message = f"another hiersrec train works on {part_of(out)}: wait for it, or stop it"
    assert refused == [message] * 2 * tiny_config.epochs
    weights, alone_there = (load_file(each / "model.safetensors") for each in (out, tiny_run))
    assert all(torch.equal(weights[name], alone_there[name]) for name in weights)
    assert not (out / LOCK).exists()


def test_a_resumed_run_is_refused_to_others(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, refused = tmp_path / "run", list[int]()

    def comes_second(epoch: int, metrics: Any) -> None:
        with pytest.raises(RunError, match="another hiersrec train works on"):
            run(tiny_data, out, tiny_config, resume=True)
        refused.append(epoch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        dies_at(9, patch)
        run(tiny_data, out, tiny_config)
    with pytest.raises(RunError, match="holds an interrupted run: go on with --resume, or remove it"):
        run(tiny_data, out, tiny_config)
    run(tiny_data, out, tiny_config, resume=True, after_epoch=comes_second)
    assert refused == [1, 2]
    assert not (out / LOCK).exists()


def test_of_two_that_begin_at_once_one_goes_on(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has prepared its training already, and changes nothing."""
    part = part_of(tmp_path / "run")

    class Slow(Loop):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            part.mkdir()
            (part / "run.json").write_text("of the other one")

    monkeypatch.setattr(train_module, "Loop", Slow)
    with pytest.raises(
        RunError, match=r"another hiersrec train has begun .*run\.part meanwhile: wait for it"
    ):
        run(tiny_data, tmp_path / "run", tiny_config)
    assert [path.name for path in part.iterdir()] == ["run.json"]
    assert (part / "run.json").read_text() == "of the other one"


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match="another hiersrec train works on"),
            alone(tmp_path, "hiersrec train"),
        ):
            pass
        process.kill()
    with alone(tmp_path, "hiersrec train"):
        assert (tmp_path / LOCK).exists()


def test_without_locks_a_run_is_trained_all_the_same(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where no file of the folder may be open when it is renamed."""

    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(fcntl, "flock", none)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with alone(tmp_path, "hiersrec train"):
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    run(tiny_data, tmp_path / "run", tiny_config)
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_folder_that_takes_no_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(RunError, match=r"lock cannot be written: .*Is a directory"), alone(tmp_path, "it"):
        pass
