"""The compiled kernel as seen from outside: the file that was loaded and its instruction set, or why there is none."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]


def describe_kernel() -> str:
    """The file of the compiled kernel and its instruction set, which ``HIERSREC_ISA`` can force; or how to get one."""
    try:
        kernel: Any = import_module("hiersrec_sdk._kernel")
    except ImportError as error:
        return missing_kernel(error)
    return f"{kernel.__file__}, {kernel.isa()} (of {', '.join(kernel.available_isas())})"


def missing_kernel(error: ImportError) -> str:
    """Which package has no compiled kernel, and the command that makes one.

    Args:
        error: raised by the import of the kernel.
    """
    found = f"{_PACKAGE / '__init__.py'} was imported, and it has no compiled kernel"
    if not isinstance(error, ModuleNotFoundError):  # there is one, and it cannot be loaded
        found = f"the compiled kernel beside {_PACKAGE / '__init__.py'} cannot be loaded ({error})"
    if (_PACKAGE / "_kernel.pyx").is_file():
        return f"{found}: run 'pip install -e .' in {_PACKAGE.parent}, or run Python in another folder"
    return f"{found}: run 'pip install --force-reinstall --no-deps hiersrec-sdk'"
