"""Pauses of a writer: when it rests, for how long, and that no other thread does."""

from __future__ import annotations

import threading
import time

import pytest

from hiersrec_sdk.catalog.pauses import Rests, pause, paused, resting_by


def test_a_thread_pauses_only_where_it_works_in_pieces() -> None:
    rests: list[str] = []
    pause()
    with resting_by(lambda: rests.append(threading.current_thread().name)):
        pause()
        other = threading.Thread(target=pause)
        other.start()
        other.join()
        with resting_by(lambda: rests.append("inner")):
            pause()
        pause()
    pause()
    here = threading.current_thread().name
    assert rests == [here, "inner", here]


def test_a_loop_pauses_after_so_many() -> None:
    seen: list[object] = []
    with resting_by(lambda: seen.append("rest")):
        for each in paused(range(5), 2):
            seen.append(each)
    assert seen == [0, 1, "rest", 2, 3, "rest", 4]


def test_an_error_ends_the_pauses() -> None:
    rests: list[int] = []
    with pytest.raises(ZeroDivisionError), resting_by(lambda: rests.append(1)):
        raise ZeroDivisionError
    pause()
    assert not rests


def slept(monkeypatch: pytest.MonkeyPatch, running: list[object], calls_end_after: float) -> list[float]:
    """Whenever the clock, which only sleeping moves, is read; calls run for so long."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] >= calls_end_after:
            running.clear()

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_rest_lasts_while_calls_run(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[object] = [object()]
    now = slept(monkeypatch, running, calls_end_after=0.001)
    rests = Rests(running, threading.Event(), seconds=1.0, pieces=100)
    rests()
    assert now[0] == pytest.approx(0.001, abs=2e-5)
    rests()  # nobody calls
    assert now[0] == pytest.approx(0.001, abs=4e-5)
    assert rests.count == 2


def test_rests_take_no_more_than_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for pieces, expected in ((50, 50), (500, 50), (5, 500)):  # as many as expected, more, fewer
        running: list[object] = [object()]
        now = slept(monkeypatch, running, calls_end_after=1e9)
        rests = Rests(running, threading.Event(), seconds=0.1, pieces=expected)
        longest = 0.0
        for _ in range(pieces):
            before = now[0]
            rests()
            longest = max(longest, now[0] - before)
        assert now[0] <= 0.1 + 2e-5
        assert rests.count == pieces
        assert longest <= 0.005 + 2e-5


def test_who_is_in_a_hurry_rests_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[object] = [object()]
    now = slept(monkeypatch, running, calls_end_after=1e9)
    hurry = threading.Event()
    hurry.set()
    Rests(running, hurry, seconds=1.0, pieces=1)()
    assert 0 < now[0] < 1e-4
