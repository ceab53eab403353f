"""A race: contestants take turns, so that whatever else the machine does falls on all of them alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np

Result = TypeVar("Result")

# Some times the last-level cache of a server's core.
_FLUSHED_BYTES: Final = 128 << 20


class Laps(NamedTuple, Generic[Result]):
    """Of one contestant, by round: ``nanoseconds`` and what was answered."""

    nanoseconds: list[int]
    results: list[Result]


def race(
    contestants: Mapping[str, Callable[[int], Result]],
    rounds: int,
    *,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, Laps[Result]]:
    """Ask each contestant in turn for round 0, 1, …, and time each answer; one round before that is not timed.

    Args:
        contestants: what answers a round, by name.
        rounds: at least 1.
        before: called with the contestant's name before each timed answer, outside of the timing.
    """
    laps: dict[str, Laps[Result]] = {name: Laps([], []) for name in contestants}
    for ask in contestants.values():
        ask(0)
    collects = gc.isenabled()
    gc.disable()  # a collection would fall on one of them
    try:
        for at in range(rounds):
            for name, ask in contestants.items():
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
    """What reads so much that the processor's caches hold nothing else.

    Without it, whoever follows one that read the same rows would find them in the cache: the plain read after our
    kernel, or ours after the plain read.
    """
    buffer = np.ones(_FLUSHED_BYTES // 8, np.int64)
    return lambda: np.add.reduce(buffer)
