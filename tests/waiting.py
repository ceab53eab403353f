"""Waiting in tests, long enough for a busy machine: only what never comes fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

PATIENCE: Final = 120.0  # seconds for what takes a few


def wait_for(done: Callable[[], object], what: str = "it never came", every: float = 0.02) -> None:
    """Returns when ``done()`` is true; else raises ``TimeoutError(what)``."""
    stop = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > stop:
            raise TimeoutError(what)
        time.sleep(every)


def has_ended(pid: int) -> bool:
    """Whether a process is over, though nobody may have asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
