"""The threads of this process that work for calls with ``threads=``: one pool, whatever numbers are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from hiersrec_sdk.cpus import MOST_THREADS
from hiersrec_sdk.systems import after_fork_in_child

_Value = TypeVar("_Value")
_Made = TypeVar("_Made")

# A pool starts a thread only where none is idle. The last one is in use: a forked child has those before it, but not
# their threads.
_POOLS: Final = [ThreadPoolExecutor(MOST_THREADS, "hiersrec")]
after_fork_in_child(lambda: _POOLS.append(ThreadPoolExecutor(MOST_THREADS, "hiersrec")))


def in_threads(make: Callable[[_Value], _Made], values: Sequence[_Value], threads: int) -> list[_Made]:
    """``[make(value) for value in values]``, at most ``threads`` of them at once. ``make`` must not call this again.

    After an error no further value is begun; those that run go on.
    """
    waiting = deque(enumerate(values))
    made: list[Any] = [None] * len(values)

    def work() -> None:
        while waiting:
            try:
                at, value = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                made[at] = make(value)
            except BaseException:
                waiting.clear()
                raise

    workers = [_POOLS[-1].submit(work) for _ in range(min(threads, len(values)))]
    try:
        for worker in workers:
            worker.result()
    finally:  # or interrupted here
        waiting.clear()
    return made
