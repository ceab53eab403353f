"""A pytest plugin, ``-p tests.sanitized``: the extension at ``$SANITIZED_KERNEL`` in place of the installed one.

Unlike ``conftest.py`` it loads no packages of which a sanitizer knows nothing, such as torch.
"""

from __future__ import annotations

import importlib.util
import os
import sys

_NAME = "hiersrec_sdk._kernel"

spec = importlib.util.spec_from_file_location(_NAME, os.environ["SANITIZED_KERNEL"])
assert spec is not None
assert spec.loader is not None
kernel = importlib.util.module_from_spec(spec)
sys.modules[_NAME] = kernel
spec.loader.exec_module(kernel)


def pytest_report_header() -> str:
    return f"ranking kernel: {kernel.__file__}, {kernel.isa()} (of {', '.join(kernel.available_isas())})"
