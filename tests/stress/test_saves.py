"""A short run of ``tests/stress/saves.py``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.stress.saves import run


@pytest.mark.slow
def test_saves_loads_and_deployments_at_once(tmp_path: Path) -> None:
    counts = run(300 if os.environ.get("HIERSREC_STRESS") else 6, savers=2, loaders=2, folder=tmp_path)
    assert min(counts["saves"], counts["loads"], counts["deployments"]) > 10
