"""The threads that work for calls with ``threads=``: one pool, bounded and reused."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_sdk import Recommender, search
from hiersrec_sdk.cpus import MOST_THREADS
from hiersrec_sdk.pool import in_threads
from tests.sdk.bundles import make_shop

SHOP = make_shop(times=4)


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(SHOP.write(tmp_path_factory.mktemp("bundles") / "bundle"))


def pool_threads() -> int:
    return sum(thread.name.startswith("hiersrec_") for thread in threading.enumerate())


@given(st.lists(st.integers(), max_size=40), st.integers(1, MOST_THREADS))
def test_the_answers_stand_in_order(values: list[int], threads: int) -> None:
    assert in_threads(lambda value: 2 * value, values, threads) == [2 * value for value in values]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_at_most_so_many_at_once(threads: int) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.001)
        with lock:
            running -= 1

    in_threads(work, range(40), threads)
    assert most <= threads
    assert running == 0
    assert most > 1 or threads == 1


def test_after_an_error_nothing_is_begun() -> None:
    begun: list[int] = []

    def work(value: int) -> None:
        begun.append(value)
        if value == 3:
            raise KeyError(value)
        time.sleep(0.001)

    with pytest.raises(KeyError):
        in_threads(work, range(1_000), 2)
    count = len(begun)
    assert count < 100
    time.sleep(0.02)
    assert len(begun) <= count + 1


def test_changing_numbers_of_threads_start_no_more(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand calls, each with another number: no more threads than were ever at work at once."""
    monkeypatch.setattr(search, "_PART_ROWS", 30)  # 8 parts
    sessions = [SHOP.ids[at : at + 3] for at in range(12)]
    wanted = [found.items for found in recommender.recommend_many(sessions, 5, mode="exact")]
    for number in range(1_000):
        threads = 1 + number % MOST_THREADS
        if number % 10:
            found = recommender.recommend(sessions[number % 12], 5, mode="exact", threads=threads)
            assert found.items == wanted[number % 12]
        else:
            many = recommender.recommend_many(sessions, 5, mode="exact", threads=threads, batch_size=2)
            assert [each.items for each in many] == wanted
    assert pool_threads() <= MOST_THREADS
    before = pool_threads()
    for threads in range(1, MOST_THREADS + 1):
        recommender.recommend(sessions[0], 5, mode="exact", threads=threads)
    assert pool_threads() <= before + 8


def test_calls_of_many_threads_share_the_pool(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_PART_ROWS", 30)
    wanted = recommender.recommend(SHOP.ids[3:6], 5, mode="exact").items
    with ThreadPoolExecutor(32) as callers:
        found = callers.map(
            lambda _: recommender.recommend(SHOP.ids[3:6], 5, mode="exact", threads=MOST_THREADS).items,
            range(300),
        )
        assert set(found) == {wanted}
    assert pool_threads() <= MOST_THREADS


def test_a_forked_child_has_a_pool_of_its_own(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "_PART_ROWS", 30)

    def answer() -> tuple[Any, ...]:
        many: Any = recommender.recommend_many([SHOP.ids[3:6]] * 9, 5, batch_size=2, threads=3)
        exact: Any = recommender.recommend(SHOP.ids[3:6], 5, mode="exact", threads=4)
        return exact.items, many[8].items

    wanted = answer()
    assert pool_threads() > 0
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(30)  # ends it if it waits for threads that are not there
        os.write(writing, repr(answer()).encode())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.read(reading, 4_096).decode() == repr(wanted)
    os.close(reading)
    os.close(writing)
    assert answer() == wanted


def test_mode_exact_is_cut_where_rows_are_worth_it(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[int] = []

    def counted(make: Any, values: Any, threads: int) -> Any:
        cuts.append(len(values))
        return in_threads(make, values, threads)

    monkeypatch.setattr(search, "in_threads", counted)
    for rows, parts in ((10**6, []), (120, [2]), (60, [4]), (30, [8]), (1, [240])):
        cuts.clear()
        monkeypatch.setattr(search, "_PART_ROWS", rows)
        recommender.recommend(SHOP.ids[3:6], 5, mode="exact", threads=MOST_THREADS)
        assert cuts == parts
        cuts.clear()
        recommender.recommend(SHOP.ids[3:6], 5, mode="exact", threads=2)
        assert cuts == ([2] if parts else [])
