"""The commands of the benchmarks, as CONTRIBUTING.md lists them."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import pytest

from tests.examples.processes import ROOT

LISTED = dict(
    re.findall(r"`python -m benchmarks\.(\w+)([^`]*)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
)
LISTED.pop("studies")


def test_every_benchmark_is_listed() -> None:
    commands = {
        path.stem
        for path in Path(ROOT / "benchmarks").glob("*.py")
        if "@click.command" in path.read_text("utf-8")
    }
    assert set(LISTED) == commands


@pytest.mark.parametrize("name", sorted(LISTED))
def test_what_a_command_needs_is_listed(name: str) -> None:
    command = import_module(f"benchmarks.{name}").main
    for needed in (each for each in command.params if each.required):
        is_argument = isinstance(needed, click.Argument)
        word = (needed.metavar or str(needed.name)).upper() if is_argument else needed.opts[0]
        assert word in LISTED[name]
