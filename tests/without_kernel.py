"""A pytest plugin, ``-p tests.without_kernel``: hides the compiled kernel, as in a package without it."""

from __future__ import annotations

import sys
from typing import Any

modules: dict[str, Any] = sys.modules  # None is how Python says that a module must not be imported
modules["hiersrec_sdk._kernel"] = None


def pytest_report_header() -> str:
    return "ranking kernel: hidden"
