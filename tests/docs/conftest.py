"""The tutorial's folder, made once by what the tutorial says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, run_page


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which every block of the tutorial was run: shop, data, run, bundle."""
    folder = tmp_path_factory.mktemp("tutorial")
    run_page(ROOT / "docs/tutorial.md", folder)
    return folder


@pytest.fixture
def shop(tutorial: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the tutorial's bundle, data and logs, free to change."""
    for name in ("bundle", "data", "run", "shop"):
        shutil.copytree(tutorial / name, tmp_path / name)
    return tmp_path
