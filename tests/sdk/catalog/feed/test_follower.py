"""Replicas that follow a change feed: each has the catalog of one that was changed directly by the same changes."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.changes import Change
from hiersrec_sdk.catalog.feed import FeedPosition, Follower, follower, open_feed
from hiersrec_sdk.catalog.feed.feed import Record
from hiersrec_sdk.errors import (
    CatalogChangeError,
    ChangeSkippedError,
    FeedBehindError,
    FeedCorruptError,
    FeedError,
    FeedLostError,
    InvalidArgumentError,
    InvalidOptionError,
    UnknownItemError,
)
from tests.sdk.catalog.feed.logs import OutOfTimeError, changes
from tests.sdk.catalog.feed.replicas import CHANGES, SHOP, change_directly, state
from tests.sdk.quiet_python import QUIET_PYTHON
from tests.waiting import PATIENCE, wait_for

NEW: dict[str, dict[str, Any]] = {"upsert": {"id": "new-1", "category": "2/2", "vector": [0.5] * 6}}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SHOP.write(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture
def recommender(bundle: Path) -> Recommender:
    return Recommender.load(bundle)


@pytest.fixture
def other(bundle: Path) -> Recommender:
    return Recommender.load(bundle)


@pytest.fixture
def follows(recommender: Recommender, path: Path) -> Iterator[Follower]:
    with recommender.follow(path) as made:
        yield made


def stand_still(follows: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let its thread apply nothing."""
    entered = threading.Event()

    def step() -> None:
        entered.set()
        time.sleep(0.01)

    monkeypatch.setattr(follows, "_step", step)
    assert entered.wait(PATIENCE)


def test_calls_find_their_plans_ready(
    recommender: Recommender, other: Recommender, follows: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = [{}, {"k": 3}, {"k": 3, "mode": "exact"}]
    for options in asked:
        recommender.recommend(SHOP.ids[:3], **options)
    follows.publish([NEW])
    monkeypatch.setattr(recommender._planner, "_made", None)
    other.catalog.upsert([NEW["upsert"]])
    for options in asked:
        found, wanted = (each.recommend([*SHOP.ids[:3], "new-1"], **options) for each in (recommender, other))
        assert (found.items, list(found.scores)) == (wanted.items, list(wanted.scores))
    with pytest.raises(TypeError):  # which nobody has asked for before
        recommender.recommend(SHOP.ids[:3], k=4)


def test_no_call_is_taken_to_run_for_ever(recommender: Recommender) -> None:
    running = recommender._pipeline.running
    recommender.recommend(SHOP.ids[:3])
    recommender.session(SHOP.ids[:3]).recommend()
    with pytest.raises(UnknownItemError):
        recommender.recommend(["nowhere"], on_unknown="error")
    assert not running


@settings(max_examples=15)
@given(CHANGES, CHANGES)
@pytest.mark.slow
def test_every_replica_has_the_same_catalog(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, before: list[Any], after: list[Any]
) -> None:
    """One follows from the start, one catches up at the end, one is saved between and goes on from its bundle."""
    folder = tmp_path_factory.mktemp("feed")
    direct, early, late, saved = (Recommender.load(bundle) for _ in range(4))
    wrong = len(change_directly(direct, before))
    wrong_after = len(change_directly(direct, after))
    with open_feed(folder / "feed") as feed, early.follow(folder / "feed") as first:
        feed.append(before)
        with saved.follow(feed) as second:
            assert (second.position, second.lag, second.rejected) == (len(before), 0, wrong)
        saved.save(folder / "bundle")
        again = Recommender.load(folder / "bundle")
        assert again.catalog.current.feed == saved.catalog.current.feed == FeedPosition(feed.log, len(before))
        assert state(again) == state(saved)
        feed.append(after)
        with late.follow(feed) as third, again.follow(str(folder / "feed")) as fourth:
            wait_for(lambda: first.position == feed.last)
            assert third.position == fourth.position == len(before + after)
            assert fourth.rejected == wrong_after
            wait_for(lambda: first.rejected == wrong + wrong_after)
            assert third.rejected == wrong + wrong_after
    assert state(direct) == state(early) == state(late)
    assert {key: value for key, value in state(again).items() if key != "categories"} == {
        key: value for key, value in state(direct).items() if key != "categories"
    }


@settings(max_examples=15)
@given(st.lists(CHANGES, max_size=4))
def test_what_is_published_is_made_or_refused_as_a_whole(
    bundle: Path, tmp_path_factory: pytest.TempPathFactory, batches: list[list[Any]]
) -> None:
    """As long as nobody else publishes: then nothing is skipped."""
    direct, replica = Recommender.load(bundle), Recommender.load(bundle)
    with replica.follow(tmp_path_factory.mktemp("feed") / "feed") as follows:
        for batch in batches:
            last, is_made = follows.feed.last, True
            try:
                assert follows.publish(batch) == last + len(batch) == follows.position
            except InvalidArgumentError:
                is_made = False
                assert follows.feed.last == last
            trial = Recommender.load(bundle)
            for record in follows.feed.read(0, 10**6) if last else []:
                if record.position <= last:
                    trial.catalog.make([Change.from_json(record.content)])
            assert (not change_directly(trial, batch)) == is_made
            if is_made:
                change_directly(direct, batch)
            assert follows.rejected == 0
    assert state(direct) == state(replica)


def test_two_replicas_that_publish_at_once(recommender: Recommender, other: Recommender, path: Path) -> None:
    with recommender.follow(path) as one, other.follow(path) as two, ThreadPoolExecutor(4) as pool:

        def publish(thread: int) -> None:
            for number in range(8):
                item: dict[str, Any] = {**NEW["upsert"], "id": f"{thread}-{number}"}
                position = (one, two)[thread % 2].publish([{"upsert": item}, *changes(1)])
                catalog = (recommender, other)[thread % 2].catalog
                assert catalog.rows([item["id"]])[0] >= 0
                assert catalog.current.feed is not None
                assert catalog.current.feed.position >= position

        list(pool.map(publish, range(4)))
        wait_for(lambda: one.position == two.position == 64)
    assert state(recommender) == state(other)
    assert len(recommender.catalog) == SHOP.items + 32


def test_a_change_of_what_another_replica_has_just_made(
    recommender: Recommender, other: Recommender, path: Path
) -> None:
    """As the next request of a client, which another worker answers."""
    with recommender.follow(path) as one, other.follow(path) as two:
        for number, (first, second) in enumerate([(one, two), (two, one)] * 4):
            first.publish([{"upsert": {**NEW["upsert"], "id": f"next-{number}"}}])
            second.publish([{"set_bias": {"id": f"next-{number}", "value": 1}}])
        with pytest.raises(UnknownItemError):
            one.publish([{"set_bias": {"id": "next-8", "value": 1}}])
        assert one.feed.last == 16


def test_what_it_needs_is_applied_while_it_is_checked(
    follows: Follower, other: Recommender, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = follows._catalog.check

    def slow(changes: list[Change]) -> None:
        try:
            check(changes)
        finally:
            wait_for(lambda: follows.position == 1)

    with other.follow(path) as elsewhere:
        step = follows._step
        stand_still(follows, monkeypatch)
        elsewhere.publish([NEW])
        monkeypatch.setattr(follows._catalog, "check", slow)
        go_on = threading.Timer(0.1, lambda: setattr(follows, "_step", step))
        go_on.start()
        assert follows.publish([{"set_bias": {"id": "new-1", "value": 1}}]) == 2
        go_on.join()


def test_nothing_to_publish(follows: Follower) -> None:
    assert follows.publish([]) == 0
    with pytest.raises(CatalogChangeError, match="one key of"):
        follows.publish([{"delete": "a"}])
    assert follows.feed.last == 0
    assert "position 0, lag 0, error None" in repr(follows)


def test_changes_go_through_the_feed_alone(recommender: Recommender, path: Path) -> None:
    catalog = recommender.catalog
    with recommender.follow(path) as follows:
        for call in (
            lambda: catalog.upsert([NEW["upsert"]]),
            lambda: catalog.remove([SHOP.ids[2]]),
            lambda: catalog.move(SHOP.ids[2], "2/5"),
            lambda: catalog.set_bias([SHOP.ids[2]], 1.0),
            lambda: catalog.make([Change.of(NEW)]),
        ):
            with pytest.raises(CatalogChangeError, match=r"follows a change feed.*publish\(\)"):
                call()
        with pytest.raises(FeedError, match=r"follows a change feed already: close\(\)"):
            recommender.follow(path)
        follows.publish([NEW])
    assert catalog.remove(["new-1"]) == 1
    with pytest.raises(FeedError, match=r"changes\.feed is not followed any more: close\(\) was called"):
        follows.publish([NEW])
    with recommender.follow(path) as second:
        follows.close()  # which is over already, and no business of the second one
        with pytest.raises(CatalogChangeError, match="follows a change feed"):
            catalog.remove(["new-1"])
        assert second.publish([NEW]) == 2


def test_close_ends_the_thread(recommender: Recommender, path: Path) -> None:
    follows = recommender.follow(path)
    open_feed(path).append([NEW] * 50)
    follows.close()
    now = recommender.catalog.current
    assert not follows._thread.is_alive()
    assert not follows.is_running
    open_feed(path).append(changes(3))
    time.sleep(0.1)
    assert recommender.catalog.current is now


def test_a_follower_lives_as_long_as_its_recommender(bundle: Path, path: Path) -> None:
    replica = Recommender.load(bundle)
    thread = replica.follow(path)._thread
    gc.collect()
    open_feed(path).append([NEW])
    changed = weakref.proxy(replica)
    wait_for(lambda: changed.catalog.rows(["new-1"])[0] >= 0)
    del replica
    wait_for(lambda: (gc.collect(), not thread.is_alive())[1])


def test_a_follower_without_its_feed_is_freed_too(bundle: Path, path: Path) -> None:
    replica = Recommender.load(bundle)
    follows = weakref.proxy(replica.follow(path))
    thread = follows._thread
    path.unlink()
    wait_for(lambda: follows.error is not None)
    del replica
    wait_for(lambda: (gc.collect(), not thread.is_alive())[1])


def test_a_catalog_that_is_behind(
    recommender: Recommender, other: Recommender, path: Path, tmp_path: Path
) -> None:
    with open_feed(path) as feed:
        feed.append([NEW, *changes(5)])
        with other.follow(path):
            pass
        other.save(tmp_path / "bundle")
        feed.drop(4)
        with pytest.raises(
            FeedBehindError, match=r"begins with record 4, and the catalog contains it up to 0"
        ):
            recommender.follow(path)
        assert recommender.catalog.remove([SHOP.ids[2]]) == 1  # it follows nothing
        feed.drop(7)
        feed.append([{"remove": "new-1"}])
        with Recommender.load(tmp_path / "bundle").follow(path) as follows:
            assert follows.position == 7
        with Recommender.load(tmp_path / "bundle").follow(path) as follows:
            feed.drop(8)
            feed.append(changes(2))
            wait_for(lambda: follows.position == 9)


def test_a_follower_that_falls_behind(follows: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    step = follows._step
    stand_still(follows, monkeypatch)
    with open_feed(follows.feed.label) as feed:
        feed.append(changes(5))
        feed.drop(4)
        monkeypatch.setattr(follows, "_step", step)
        wait_for(lambda: isinstance(follows.error, FeedBehindError))
        assert follows.is_running
        with pytest.raises(FeedBehindError, match="begins with record 4"):
            follows.publish([NEW])
        assert feed.last == 5


@pytest.mark.parametrize("count", [1, 9])
def test_a_log_that_has_lost_changes(
    follows: Follower, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    follows.publish(changes(1))
    shutil.copy(path, tmp_path / "backup")
    follows.publish(changes(3, "lost"))
    stand_still(follows, monkeypatch)
    (tmp_path / "backup").replace(path)
    last = 1 + count
    with pytest.raises(
        FeedLostError, match=f"up to record {last}, but the catalog contained it up to 4 before"
    ):
        follows.publish(changes(count, "b"))


def test_another_log(recommender: Recommender, path: Path, tmp_path: Path) -> None:
    with recommender.follow(path) as follows:
        follows.publish([NEW, *changes(2)])
    with pytest.raises(InvalidOptionError, match=r"after must be None, got 2: .* up to record 3"):
        recommender.follow(path, after=2)
    elsewhere = tmp_path / "elsewhere"
    with open_feed(elsewhere) as feed:
        feed.append(changes(4))
    with pytest.raises(FeedLostError, match="but the catalog contains changes of the log"):
        recommender.follow(elsewhere)
    wrong: list[Any] = [-1, 1.5, "2", True]
    for after in wrong:
        with pytest.raises(InvalidOptionError, match="after must be an integer ≥ 0, got"):
            recommender.follow(elsewhere, after=after)
    with pytest.raises(FeedLostError, match="ends with record 4, but the catalog contains it up to 5"):
        recommender.follow(elsewhere, after=5)
    with recommender.follow(elsewhere, after=2) as follows:
        assert (follows.position, follows.rejected) == (4, 0)
        elsewhere.unlink()
        wait_for(lambda: isinstance(follows.error, FeedLostError))
        with pytest.raises(FeedLostError, match="was removed"):
            follows.publish([NEW])


def test_a_damaged_record_stops_it(recommender: Recommender, other: Recommender, path: Path) -> None:
    with open_feed(path) as feed, recommender.follow(path) as follows:
        feed.append([NEW])
        wait_for(lambda: follows.position == 1)
        follows._stop.set()
        feed.append([{"remove": "new-1"}])
    path.write_bytes(path.read_bytes().replace(b'{"remove":"new-1"}', b'{"remove":"new-2"}'))
    with pytest.raises(FeedCorruptError, match="record 2, at byte"):
        recommender.follow(path)
    assert recommender.catalog.rows(["new-1"])[0] >= 0
    with pytest.raises(FeedCorruptError):
        other.follow(path)
    assert other.catalog.follower is None


def test_an_error_that_passes(follows: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "_PATIENCE", 0.05)
    monkeypatch.setattr(follower, "_RETRY", 0.02)
    read = follows.feed.read

    def fails(*_: Any) -> list[Record]:
        raise FeedError("the disk is away")

    monkeypatch.setattr(follows.feed, "read", fails)
    wait_for(lambda: follows.error is not None)
    assert "the disk is away" in repr(follows)
    with pytest.raises(
        FeedError, match=r"has the changes, up to record 1, but .*not applied here yet: the disk"
    ):
        follows.publish([NEW])
    monkeypatch.setattr(follows.feed, "read", read)
    wait_for(lambda: follows.error is None)
    assert follows.publish([{"remove": "new-1"}]) == 2


@pytest.mark.parametrize("error", [MemoryError(), ValueError("of another feed"), FeedError("of this one")])
def test_any_error_while_it_waits_passes(
    error: Exception, follows: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()
    original = follows.feed.read

    def read(after: int, most: int, wait: float = 0.0) -> list[Record]:
        if wait and not failed.is_set():
            failed.set()
            raise error
        return original(after, most, wait)

    monkeypatch.setattr(follows.feed, "read", read)
    assert failed.wait(PATIENCE)
    assert follows.publish([NEW]) == follows.position


def test_skipped_records_hold_no_snapshot(follows: Follower, recommender: Recommender) -> None:
    held = weakref.ref(recommender.catalog.current)
    follows.feed.append([{"set_bias": {"id": "nobody", "value": 1}}, NEW])
    wait_for(lambda: follows.position == 2)
    assert follows.rejected == 1
    wait_for(lambda: gc.collect() >= 0 and held() is None)


def test_what_is_read_at_once_is_bounded(
    recommender: Recommender, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_MOST_READ", 2_000)
    applied: list[int] = []
    original = Follower._apply

    def apply(self: Follower, given_records: list[Record]) -> None:
        applied.append(len(given_records))
        original(self, given_records)

    monkeypatch.setattr(Follower, "_apply", apply)
    with open_feed(path) as feed:
        feed.append(changes(400))
        with recommender.follow(feed) as follows:
            assert (follows.position, follows.lag, follows.rejected) == (400, 0, 0)
    assert max(applied) <= 150  # where a record has some 20 bytes
    assert sum(applied) == 400


def test_another_change_that_came_first(
    follows: Follower, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the check and the append; and the note that it was skipped takes its time."""
    skip, bias = follows._skip, {"set_bias": {"id": SHOP.ids[2], "value": 1}}

    def slowly(position: int, error: InvalidArgumentError) -> None:
        time.sleep(0.4)
        skip(position, error)

    def first(_: Any) -> None:
        open_feed(follows.feed.label).append([{"remove": SHOP.ids[2]}])

    monkeypatch.setattr(follows, "_skip", slowly)
    monkeypatch.setattr(recommender.catalog, "check", first)
    with pytest.raises(
        ChangeSkippedError, match=r"change 2 of 3 was skipped by every replica.*is not in the catalog"
    ):
        follows.publish([NEW, bias, {"remove": "new-1"}])
    assert (follows.position, follows.rejected) == (4, 1)


def test_a_time_limit_while_it_waits(follows: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    read, entered, release = follows.feed.read, threading.Event(), threading.Event()

    def late(after: int, most: int, wait: float = 0.0) -> list[Record]:
        entered.set()
        release.wait(PATIENCE)
        return read(after, most, wait)

    def interrupt(*_: Any) -> None:
        raise OutOfTimeError

    monkeypatch.setattr(follows.feed, "read", late)
    assert entered.wait(PATIENCE)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(OutOfTimeError):
            follows.publish([NEW])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        release.set()
    assert follows.publish([{"remove": "new-1"}]) == follows.feed.last


def test_close_while_another_thread_publishes(follows: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_still(follows, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(follows.publish, [NEW])
        wait_for(lambda: follows.feed.last == 1)
        follows.close()
        with pytest.raises(FeedError, match=r"has the changes, up to record 1, but .*: close\(\) was called"):
            publishing.result(PATIENCE)


def test_a_forked_child_follows_anew(follows: Follower, recommender: Recommender, path: Path) -> None:
    child = os.fork()
    if not child:
        status = 1
        try:
            with pytest.raises(FeedError, match=r"not followed in a forked process.*call follow\(\) there"):
                follows.publish([NEW])
            with pytest.raises(CatalogChangeError, match="follows a change feed"):
                recommender.catalog.remove([SHOP.ids[2]])
            with recommender.follow(path) as again:
                follows.close()
                assert again.publish([NEW]) == 1
            assert recommender.catalog.remove(["new-1"]) == 1
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    wait_for(lambda: follows.position == 1)
    assert follows.publish([{"remove": "new-1"}]) == 2


EXIT = """
import os, sys, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded")  # by a fork, since Python 3.12
from hiersrec_sdk import Recommender
recommender = Recommender.load(sys.argv[1])
follower = recommender.follow(sys.argv[2])
follower.publish([{"remove": sys.argv[3]}])
child = os.fork()
if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit(3)
"""


def test_a_process_ends_while_it_follows(bundle: Path, path: Path) -> None:
    """And so does its forked child, at the end of the program."""
    done = subprocess.run(
        [*QUIET_PYTHON, "-c", EXIT, bundle, path, SHOP.ids[2]],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "0\n", "")
