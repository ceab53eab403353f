"""Waiting in tests, long enough for a busy machine: only what never comes fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 120.0  # seconds for what takes a few


def wait_for(done: Callable[[], object], what: str = "it never came", every: float = 0.02) -> None:
    """Returns when ``done()`` is true; else raises ``TimeoutError(what)``."""
    stop = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > stop:
            raise TimeoutError(what)
        time.sleep(every)
