"""Contestants take turns, on one thread."""

from __future__ import annotations

import gc
import threading
from functools import partial

from benchmarks.timing import Lap, one_thread, quantiles, race, slowest, timed, timed_in_thread


def test_turns() -> None:
    calls: list[tuple[str, int] | str] = []

    def ask(name: str, at: int) -> str:
        calls.append((name, at))
        return f"{name}{at}"

    laps = race({name: partial(ask, name) for name in "ab"}, 9, before=calls.append)

    assert calls[:2] == [("a", 0), ("b", 0)]
    rounds = [calls[at : at + 4] for at in range(2, len(calls), 4)]
    for at, turns in enumerate(rounds):
        assert turns[::2] in (["a", "b"], ["b", "a"])
        assert turns[1::2] == [(name, at) for name in turns[::2]]
    assert len({turns[0] for turns in rounds}) == 2  # in another order each time
    assert laps["b"].results == [f"b{at}" for at in range(9)]
    assert len(laps["b"].nanoseconds) == 9
    assert min(laps["b"].nanoseconds) > 0
    assert gc.isenabled()


def test_environment() -> None:
    env = one_thread({"PATH": "/bin", "OPENBLAS_CORETYPE": "Haswell", "OMP_NUM_THREADS": "8"})

    assert env["PATH"] == "/bin"
    assert env["OMP_NUM_THREADS"] == env["NUMBA_NUM_THREADS"] == "1"
    assert "OPENBLAS_CORETYPE" not in env
    assert one_thread(env) == env


def test_quantiles_of_timed_calls() -> None:
    asked: list[int] = []
    assert len(timed(asked.append, 3)) == 3
    assert asked == [0, 1, 2]
    assert quantiles([1e-6, 2e-6, 3e-6]).split() == ["median", "2", "µs,", "p99", "3", "µs"]


def test_what_a_call_waits_for() -> None:
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(0.05, lock.release).start()
    waiting, working = timed_in_thread(lock.acquire), timed_in_thread(lambda: sum(range(300_000)))

    assert waiting.for_lock > waiting.seconds / 2
    assert 0 < working.on_core <= working.seconds
    assert slowest([Lap(1e-3, 0.0, 0.0)] * 99 + [Lap(9e-3, 1e-3, 3e-3)]).endswith(
        "1 %: 1,000 µs on a core, 3,000 for a core, 5,000 for a lock"
    )
