"""The site builds without a warning: links between pages, names in the reference, every command of the CLI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from hiersrec_sdk import __all__ as public_names
from hiersrec_sdk.cli.main import main
from hiersrec_training.config import Config
from tests.docs.blocks import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip("sphinx")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``scripts/docs`` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d"]
    made = [sys.executable, *command, str(folder / "doctrees"), str(ROOT / "docs"), str(folder / "html")]
    done = subprocess.run(made, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_reference_has_every_public_name(site: Path) -> None:
    page = (site / "reference/python.html").read_text("utf-8")
    for name in public_names:
        if name not in ("__version__", "errors", "HierSRecError"):
            assert f'id="hiersrec_sdk.{name}"' in page, name
    assert 'id="hiersrec_sdk.errors.HierSRecError"' in page


def test_reference_has_every_command(site: Path) -> None:
    page = (site / "reference/cli.html").read_text("utf-8")
    for name, command in main.commands.items():
        assert f"<h2>hiersrec {name}" in page, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in page, (name, parameter.opts)


def test_reference_has_every_setting(site: Path) -> None:
    page = (site / "reference/settings.html").read_text("utf-8")
    for name in Config().as_dict():
        assert f">{name}<" in page, name
