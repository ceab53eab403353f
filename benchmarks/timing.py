"""Fair timing: one thread for every library, contestants that take turns, caches that can be emptied."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from time import perf_counter, perf_counter_ns, thread_time
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np

Result = TypeVar("Result")

_SET: Final = {
    **dict.fromkeys(("MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    # glibc: no large block on its own pages, nothing given back. Otherwise a peer whose scores take 256 MB pays for
    # fresh pages on each call, up to four times its own work on a virtual machine: that would flatter us.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
# A setting that picks old BLAS kernels would flatter us: it slows the OpenBLAS of NumPy and implicit.
_UNSET: Final = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
_FLUSHED_BYTES: Final = 128 << 20  # several times the last-level cache of a server's core


def ensure_one_thread() -> None:
    """Start the process again, with the same arguments, where its environment asks for anything else.

    The libraries read these variables once, when they are loaded: setting them here would be too late.
    """
    env = one_thread(os.environ)
    if env != dict(os.environ):
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, sys.orig_argv, env)


def one_thread(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` with one thread for every library, the allocator's settings, and no choice of BLAS kernels."""
    return {key: value for key, value in env.items() if key not in _UNSET} | _SET


class Laps(NamedTuple, Generic[Result]):
    """One contestant's ``nanoseconds`` and answers, by round."""

    nanoseconds: list[int]
    results: list[Result]

    @property
    def median_us(self) -> float:
        return float(np.median(self.nanoseconds)) / 1_000


def race(
    contestants: Mapping[str, Callable[[int], Result]],
    rounds: int,
    *,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, Laps[Result]]:
    """Ask each contestant in turn for round 0, 1, …, and time each answer.

    They take turns so that whatever else the machine does falls on all of them alike, in another order each round so
    that nobody always follows the same one. Round 0 is asked once before, untimed.

    Args:
        contestants: what answers a round, by name.
        rounds: at least 1.
        before: called with the contestant's name before each timed answer, outside of the timing.
    """
    laps: dict[str, Laps[Result]] = {name: Laps([], []) for name in contestants}
    for ask in contestants.values():
        ask(0)
    order = Random(0)
    collects = gc.isenabled()
    gc.disable()  # a collection would fall on one of them
    try:
        for at in range(rounds):
            for name, ask in order.sample([*contestants.items()], len(contestants)):
                before(name)
                started = perf_counter_ns()
                result = ask(at)
                ended = perf_counter_ns()
                laps[name].nanoseconds.append(ended - started)
                laps[name].results.append(result)
    finally:
        if collects:
            gc.enable()
    return laps


def flush_caches() -> Callable[[], object]:
    """A function that reads so much that the processor's caches hold nothing else.

    Without it, whoever follows one that read the same rows would find them in the cache.
    """
    buffer = np.ones(_FLUSHED_BYTES // 8, np.int64)
    return lambda: np.add.reduce(buffer)


def timed(call: Callable[[int], object], times: int) -> list[float]:
    """Seconds of each of the calls ``call(0)``, ``call(1)``, …"""
    laps = []
    for at in range(times):
        started = perf_counter()
        call(at)
        laps.append(perf_counter() - started)
    return laps


class Lap(NamedTuple):
    """One call in one thread, in seconds.

    Attributes:
        seconds: from its beginning to its end.
        on_core: that the thread ran.
        for_core: that it could have run, and no core was free. 0 where the system does not say (it is Linux that does).
    """

    seconds: float
    on_core: float
    for_core: float

    @property
    def for_lock(self) -> float:
        """That the thread waited for another one."""
        return max(0.0, self.seconds - self.on_core - self.for_core)


def timed_in_thread(call: Callable[[], object]) -> Lap:
    """One call, with what it waited for."""
    waited, ran, started = _waited_for_core(), thread_time(), perf_counter()
    call()
    seconds, ran = perf_counter() - started, thread_time() - ran
    ran = min(seconds, ran)  # the thread's clock was read around the other one
    return Lap(seconds, ran, _waited_for_core() - waited)


def _waited_for_core() -> float:
    """Seconds that this thread has waited for a core, since it began."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def slowest(laps: Sequence[Lap]) -> str:
    """What the slowest hundredth of the calls took their time for, as microseconds."""
    some = sorted(laps)[-max(1, len(laps) // 100) :]
    on_core, for_core, for_lock = 1e6 * np.mean(
        [(lap.on_core, lap.for_core, lap.for_lock) for lap in some], axis=0
    )
    return f"slowest 1 %: {on_core:,.0f} µs on a core, {for_core:,.0f} for a core, {for_lock:,.0f} for a lock"


def quantiles(seconds: Sequence[float]) -> str:
    """Median and 99th percentile, as microseconds."""
    median, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e6
    return f"median {median:8,.0f} µs, p99 {p99:8,.0f} µs"
