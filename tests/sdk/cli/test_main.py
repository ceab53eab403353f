"""The command line as a whole: help, errors of one line, missing extras."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from hiersrec_sdk import __version__
from hiersrec_sdk.cli.main import main
from tests.sdk.cli.run import failed, hiersrec, passed


def commands(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command below ``group`` with the words that run it."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


def test_every_command_explains_itself() -> None:
    assert "recommend" in passed("--help")
    for words, command in commands(main):
        printed = passed(*words, "--help")
        assert printed.startswith(f"Usage: main {' '.join(words)}")
        assert command.help
        for option in command.params:
            assert isinstance(option, click.Argument) or getattr(option, "help", None), (words, option.name)


def test_python_m_runs_it_too() -> None:
    command = [sys.executable, "-m", "hiersrec_sdk.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"hiersrec, version {__version__}\n"


def moved_data(shop: Path, tmp_path: Path) -> Path:
    """A run whose dataset was moved."""
    run = tmp_path / "run-of-moved-data"
    shutil.copytree(shop / "run", run)
    about = json.loads((run / "run.json").read_text())
    about["data"]["path"] = str(tmp_path / "elsewhere")
    (run / "run.json").write_text(json.dumps(about))
    return run


def test_errors_are_one_line(shop: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("a b\nb c\n" * 20)
    assert "missing.csv" in failed("prepare", tmp_path / "missing.csv", "--out", tmp_path / "data")
    assert "exists already" in failed("prepare", log, "--out", shop / "data")
    assert "exists already" in failed("train", shop / "data", "--out", shop / "run")
    assert "is not a dataset" in failed("train", tmp_path, "--out", tmp_path / "run")
    assert "did you mean epochs" in failed(
        "train", shop / "data", "--out", tmp_path / "run", "--set", "epoch=1"
    )
    assert "leave the others out" in failed(
        "train", shop / "data", "--out", tmp_path / "run", "--resume", "--final"
    )
    assert "is not a training run" in failed("export", tmp_path, "--out", tmp_path / "bundle")
    assert "exists already" in failed("export", shop / "run", "--out", shop / "bundle")
    assert "not a bundle" in failed("evaluate", tmp_path, shop / "data")
    both = ("--mode", "exact", "--candidates", "0.1")
    assert "--candidates" in failed("evaluate", shop / "bundle", shop / "data", *both)
    assert "must be a number in (0, 1]" in failed("recommend", shop / "bundle", "--candidates", "0")
    assert "integer ≥ 1" in failed("recommend", shop / "bundle", "-k", "0")
    assert "--candidates" in failed("recommend", shop / "bundle", *both)
    assert "--data" in failed("export", moved_data(shop, tmp_path), "--out", tmp_path / "bundle")
    assert hiersrec("evaluate", shop / "bundle").exit_code == 2
    assert not (tmp_path / "run").exists()


def test_a_missing_extra_names_the_command_that_installs_it(tmp_path: Path) -> None:
    """Simulates a machine with the runtime alone: torch and polars cannot be imported."""
    code = (
        "import sys\n"
        "for name in ('torch', 'polars', 'onnx'): sys.modules[name] = None\n"
        "from hiersrec_sdk.cli.main import main\n"
        "main()\n"
    )
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/config.json").touch()
    for arguments in (
        ["prepare", "log.csv", "--out", "data"],
        ["train", "data", "--out", "run"],
        ["export", "run", "--out", "out"],
        ["export", "bundle", "--standalone", "model.onnx"],
        ["evaluate", "bundle", "data"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1, done.stderr
        assert "pip install 'hiersrec-sdk[train]'" in done.stderr
        assert "Traceback" not in done.stderr
