"""Paths that a user gives, checked before they reach the file system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hiersrec_sdk.errors import InvalidPathError
from hiersrec_sdk.shown import shown


def as_path(value: Any, name: str = "path", what: str = "a string or a path object") -> Path:
    """The path that the argument ``name`` gives, as it stands: ``~`` and the like mean nothing.

    Raises:
        InvalidPathError: not a string or path object; empty; or with a character that no path can hold.
    """
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise InvalidPathError(f"{name} must be {what}, got {shown(value)}")
    try:
        wrong = not text or "\0" in text or not os.fsencode(text)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        wrong = True
    if wrong:
        raise InvalidPathError(f"{name} must be a path, without NUL and not empty, got {shown(text)}")
    return Path(text)


def real_path(path: Path) -> Path:
    """The path without symbolic links and ``..``. Unlike ``Path.resolve``, a loop of links is no error: it stays."""
    return Path(os.path.realpath(path))
