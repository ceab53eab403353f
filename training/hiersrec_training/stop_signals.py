"""SIGINT and SIGTERM as a wish that a loop looks at between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to, so that no step is cut in the middle. A second signal is obeyed."""
    caught: list[int] = []

    def catch(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        previous = {number: signal.signal(number, catch) for number in SIGNALS}
    except ValueError:  # not in the main thread: whoever runs the thread handles signals
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
