"""Runs the command line in this process."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from hiersrec_sdk.cli.main import main

SMALL = [
    "--set",
    "dimension=16",
    "--set",
    "heads=2",
    "--set",
    "epochs=1",
    "--set",
    "batch_sessions=32",
    "--set",
    "learning_rate=0.01",
    "--no-progress",
]


_APART: dict[str, Any] = (  # click 8.1 mixes stdout and stderr otherwise
    {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
)
RUNNER = CliRunner(**_APART)


def hiersrec(*arguments: str | Path) -> Result:
    """Run ``hiersrec`` with these arguments."""
    return RUNNER.invoke(main, [str(argument) for argument in arguments])


def passed(*arguments: str | Path) -> str:
    """Run ``hiersrec``, which must succeed; return its stdout."""
    result = hiersrec(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(*arguments: str | Path) -> str:
    """Run ``hiersrec``, which must fail with one line on stderr; return that line."""
    result = hiersrec(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr
