"""Programs that tests run and that pip does not install."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """Its path. Without it the test is skipped, or fails where ``HIERSREC_TEST_PROGRAMS`` is set, as in a workflow."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("HIERSREC_TEST_PROGRAMS"):
            pytest.fail(f"needs {name}")
        pytest.skip(f"needs {name}")
    return found
