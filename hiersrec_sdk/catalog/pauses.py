"""Pauses of a thread that writes, so that threads that read get the interpreter's lock between pieces of its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

_GIVE_WAY: Final = 1e-5  # seconds: another thread gets the interpreter's lock, which sleep(0) may take back
_LONGEST: Final = 5e-3  # seconds of a rest
_SHARES: Final = 3  # of the time that is left for rests, which one may take

_One = TypeVar("_One")


class _Thread(threading.local):
    rest: Callable[[], None] | None = None


_this = _Thread()


@contextmanager
def resting_by(rest: Callable[[], None]) -> Iterator[None]:
    """Have every :func:`pause` of this thread call ``rest`` meanwhile."""
    before = _this.rest
    _this.rest = rest
    try:
        yield
    finally:
        _this.rest = before


def pause() -> None:
    """Let other threads go on, where this one works in pieces."""
    if _this.rest is not None:
        _this.rest()


def paused(each: Iterable[_One], every: int) -> Iterator[_One]:
    """Go through ``each`` with a pause after so many of them."""
    for count, one in enumerate(each, 1):
        yield one
        if count % every == 0:
            pause()


class Rests:
    """Rests of a writer while calls run: a call then meets one piece of its work, not many.

    Args:
        running: as many objects as calls run just now.
        hurry: set while somebody waits for the work: rests are as short as can be.
        seconds: that all rests may take.
        pieces: of work that are expected, with a rest after each.

    Attributes:
        count: rests so far.
    """

    def __init__(
        self, running: Collection[object], hurry: threading.Event, seconds: float, pieces: int
    ) -> None:
        self._running, self._hurry, self._left, self._pieces = running, hurry, seconds, pieces
        self.count = 0

    def __call__(self) -> None:
        """Rest until no call runs, or this rest has taken its share of the time.

        Once all of it is taken, the interpreter gives the lock away by itself: waiting for it takes long where another
        thread computes, and the work has to be done.
        """
        self.count += 1
        if not self._left:
            return
        began = time.perf_counter()
        share = self._left / max(1, self._pieces - self.count + 1)
        end = began + min(_LONGEST, _SHARES * share)
        time.sleep(_GIVE_WAY)
        while self._running and not self._hurry.is_set() and time.perf_counter() < end:
            time.sleep(_GIVE_WAY)
        self._left = max(0.0, self._left - (time.perf_counter() - began))
