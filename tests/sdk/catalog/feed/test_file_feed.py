"""The change feed in a file against a plain list, with writers that are killed, threads and forks."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hiersrec_sdk.catalog.feed import file_feed, log_file
from hiersrec_sdk.catalog.feed.feed import Record
from hiersrec_sdk.catalog.feed.file_feed import FileFeed
from hiersrec_sdk.errors import (
    CatalogChangeError,
    FeedBehindError,
    FeedError,
    FeedLostError,
)
from tests.sdk.catalog.feed.logs import (
    HEADER,
    Disk,
    OutOfTimeError,
    changes,
    contents,
    everything,
    records,
)
from tests.waiting import PATIENCE

NAMES = itertools.count()


class Log(RuleBasedStateMachine):
    """Several feeds of one path, beside a list of all that was ever appended."""

    folder: Path  # set by the test

    @initialize()
    def make(self) -> None:
        self.path = self.folder / f"feed-{next(NAMES)}"
        self.feeds = [FileFeed(self.path) for _ in range(3)]
        self.all: list[bytes] = []
        self.first = 1

    @rule(
        who=st.integers(0, 2),
        names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), max_size=4),
    )
    def append(self, who: int, names: list[str]) -> None:
        given_changes = [{"remove": name} for name in names]
        self.all += contents(given_changes)
        assert self.feeds[who].append(given_changes) == len(self.all)

    @rule(who=st.integers(0, 2), back=st.integers(-1, 12), most=st.integers(1, 9))
    def read(self, who: int, back: int, most: int) -> None:
        after = max(len(self.all) - back, 0)
        feed = self.feeds[who]
        if after > len(self.all):
            with pytest.raises(
                FeedLostError, match=f"ends with record {len(self.all)}, but .* up to {after}"
            ):
                feed.read(after, most)
        elif after < self.first - 1:
            with pytest.raises(FeedBehindError, match=f"begins with record {self.first}, .* up to {after}:"):
                feed.read(after, most)
        else:
            assert feed.read(after, most) == records(after + 1, self.all[after : after + most])

    @rule(who=st.integers(0, 2), kept=st.integers(-2, 8))
    def drop(self, who: int, kept: int) -> None:
        before = len(self.all) + 1 - kept
        self.feeds[who].drop(before)
        self.first = max(self.first, min(before, len(self.all) + 1))

    @rule(who=st.integers(0, 2))
    def reopen(self, who: int) -> None:
        log = self.feeds[who].log
        self.feeds[who].close()
        self.feeds[who] = FileFeed(self.path)
        assert self.feeds[who].log == log

    @rule(who=st.integers(0, 2), torn=st.binary(max_size=60))
    def a_writer_is_killed(self, who: int, torn: bytes) -> None:
        """What it left behind the end is no record."""
        with self.path.open("ab") as file:
            file.write(torn)

    @invariant()
    def ends(self) -> None:
        for feed in getattr(self, "feeds", ()):
            assert (feed.first, feed.last) == (self.first, len(self.all))

    def teardown(self) -> None:
        for feed in getattr(self, "feeds", ()):
            feed.close()


def test_feeds_of_one_path_are_one_list(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class Here(Log):
        folder = tmp_path

    run_state_machine_as_test(Here, settings=settings(max_examples=15, stateful_step_count=25, deadline=None))


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_of_any_size(path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (file_feed, log_file):
        monkeypatch.setattr(module, "BLOCK", block)
    with FileFeed(path) as feed:
        feed.append(changes(20))
        feed.append([{"remove": "ü" * 300}])
        wanted = records(1, contents([*changes(20), {"remove": "ü" * 300}]))
        assert everything(feed) == wanted
        for after in range(22):
            assert feed.read(after, 3) == wanted[after : after + 3]
        feed.drop(11)
        assert everything(feed) == wanted[10:]


def test_a_call_returns_so_many_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_feed, "_MOST_READ", 50)
    with FileFeed(path) as feed:
        feed.append(changes(20))
        found: list[Record] = []
        while len(found) < 20:
            some = feed.read(len(found), 100)
            assert 1 <= len(some) < 5
            found += some
        assert found == records(1, contents(changes(20)))


def test_only_what_is_new_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    original = log_file._record

    def counted(data: bytes, start: int, number: int) -> log_file.Line:
        parsed.append(number)
        return original(data, start, number)

    with FileFeed(path) as feed:
        feed.append(changes(100))
        assert len(everything(feed)) == 100
        monkeypatch.setattr(log_file, "_record", counted)
        for last in range(100, 110):
            feed.append(changes(1))
            # a follower waits for any record, then reads again from where it is, some of them at once
            for most in (1, 50, 50):
                assert feed.read(last, most) == records(last + 1, contents(changes(1)))
        assert set(parsed) == set(range(101, 111))
        assert len(parsed) <= 60  # each the number of times it was read, and once as the beginning of a block


def test_reading_waits_for_a_writer(path: Path) -> None:
    with FileFeed(path) as reader, FileFeed(path) as writer, ThreadPoolExecutor(1) as pool:
        assert reader.read(0, 9, 0.01) == []
        reading = pool.submit(reader.read, 0, 9, 60.0)
        time.sleep(0.05)
        writer.append(changes(2))
        assert reading.result(PATIENCE) == records(1, contents(changes(2)))


def test_nothing_to_append(feed: FileFeed) -> None:
    assert feed.append([]) == 0
    feed.append(changes(2))
    assert feed.append(iter(())) == 2
    with pytest.raises(CatalogChangeError):
        feed.append([*changes(2), {"remove": "x" * (1 << 20)}])
    with pytest.raises(CatalogChangeError):
        feed.append([*changes(2), {"delete": "x"}])
    assert feed.last == 2


# A writer that was killed


def killed_writes(path: Path) -> Iterator[tuple[bytes, list[bytes], list[bytes]]]:
    """What is in the file after a kill, the contents that were acknowledged, and those that may be there too."""
    with FileFeed(path) as feed:
        feed.append(changes(3))
        before = path.read_bytes()
        feed.append(changes(2, "ü"))
        after = path.read_bytes()
    added = contents(changes(2, "ü"))
    for length in range(len(before), len(after) + 1):
        yield before[:HEADER] + after[HEADER:length], contents(changes(3)), added
    yield after, contents(changes(3)) + added, []


def test_a_writer_that_is_killed_at_any_byte(path: Path, tmp_path: Path) -> None:
    taken_in = set()
    for number, (content, acknowledged, unacknowledged) in enumerate(killed_writes(path)):
        for opened_before in (False, True):
            torn = tmp_path / f"{number}-{opened_before}"
            if opened_before:  # by a process that runs on, and saw what was before
                torn.write_bytes(content[:HEADER] + b"".join(content[HEADER:].splitlines(True)[:3]))
                other = FileFeed(torn)
                torn.write_bytes(content)
            else:
                torn.write_bytes(content)
                other = FileFeed(torn)
            assert other.append(changes(1, "next")) == other.last
            found = [record.content for record in everything(other)]
            count = len(found) - len(acknowledged) - 1
            taken_in.add(count)
            assert found == acknowledged + unacknowledged[:count] + contents(changes(1, "next"))
            assert everything(FileFeed(torn)) == records(1, found)
            other.close()
    assert taken_in == {0, 2}  # all or none


def test_after_a_power_failure_readers_need_not_wait_for_a_writer(path: Path) -> None:
    """The records have reached the disk, the end has not, and a reader has saved a position among them."""
    with FileFeed(path) as feed:
        feed.append(changes(2))
        before = path.read_bytes()
        feed.append(changes(2, "b"))
        after = path.read_bytes()
    path.write_bytes(before[:HEADER] + after[HEADER:] + b"5 6 17 5d0f66a3 {")
    with FileFeed(path) as feed:
        assert feed.last == 4
        assert feed.read(4, 9) == []
        assert everything(feed) == records(1, contents(changes(2) + changes(2, "b")))
    assert path.read_bytes() == after


# Threads and processes


def test_threads_that_append_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one waits for the disk, the others wait to be written together."""
    threads, each = 8, 25
    disk = Disk(lambda *_: None)
    fsyncs = []

    def slow(descriptor: int) -> None:
        fsyncs.append(descriptor)
        time.sleep(0.002)
        os.fsync(descriptor)

    monkeypatch.setattr(disk, "fsync", slow)
    monkeypatch.setattr(file_feed, "os", disk)
    with FileFeed(path) as feed, FileFeed(path) as other, ThreadPoolExecutor(threads) as pool:

        def write(thread: int) -> list[tuple[int, list[bytes]]]:
            given_changes = [changes(1 + number % 3, f"{thread}-{number}") for number in range(each)]
            which = other if thread == 0 else feed
            return [(which.append(some), contents(some)) for some in given_changes]

        written = [done for some in pool.map(write, range(threads)) for done in some]
        found = {record.position: record.content for record in everything(feed)}
        assert sorted(found) == list(range(1, feed.last + 1))
        assert feed.last == sum(len(some) for _, some in written)
        for last, some in written:
            assert [found[at] for at in range(last - len(some) + 1, last + 1)] == some
    assert len(fsyncs) < threads * each


def test_one_that_comes_too_late_for_a_write_gets_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was about to join the queue when the queue was written."""
    writing, joined = threading.Event(), threading.Event()

    class Late(list[Any]):
        def append(self, waiting: Any) -> None:
            if b"late" in waiting.changes[0]:
                writing.wait(PATIENCE)
            super().append(waiting)
            if b"late" in waiting.changes[0]:
                joined.set()

    def fails(name: str, _: int) -> None:
        if name == "fsync" and not joined.is_set():
            writing.set()
            joined.wait(PATIENCE)

    monkeypatch.setattr(file_feed, "os", Disk(fails))
    with FileFeed(path) as feed, ThreadPoolExecutor(1) as pool:
        feed._queue = Late()
        late = pool.submit(feed.append, changes(1, "late"))
        time.sleep(0.05)
        assert feed.append(changes(2)) == 2
        assert late.result(PATIENCE) == 3
        assert everything(feed) == records(1, contents(changes(2) + changes(1, "late")))


def test_all_that_were_written_together_learn_of_the_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileFeed(path) as feed, ThreadPoolExecutor(4) as pool:
        with feed._lock:
            waiting = [pool.submit(feed.append, changes(1, f"{number}")) for number in range(4)]
            while len(feed._queue) < 4:
                time.sleep(1e-3)
            monkeypatch.setattr(file_feed, "os", Disk(lambda name, _: errno.EIO if name == "fsync" else None))
        for each in waiting:
            with pytest.raises(FeedError, match="nothing was appended: Input/output error"):
                each.result(PATIENCE)
        monkeypatch.undo()
        assert feed.last == 0
        assert feed.append(changes(1)) == 1


def test_one_that_stops_waiting_is_not_written_later(path: Path) -> None:
    """A signal handler raises in the main thread while another one holds the lock."""

    def interrupt(*_: Any) -> None:
        raise OutOfTimeError

    with FileFeed(path) as feed, ThreadPoolExecutor(1) as pool:
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            with feed._lock:
                held.set()
                release.wait(PATIENCE)

        holding = pool.submit(hold)
        held.wait(PATIENCE)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(OutOfTimeError):
                feed.append(changes(1, "given up"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            release.set()
        holding.result(PATIENCE)
        assert feed.append(changes(1)) == 1
        assert everything(feed) == records(1, contents(changes(1)))


def test_threads_that_read_one_feed_from_anywhere(feed: FileFeed) -> None:
    feed.append(changes(200))
    wanted = records(1, contents(changes(200)))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def read(seed: int) -> None:
        for number in range(150):
            after = (seed * 37 + number * 61) % 200
            assert feed.read(after, 2) == wanted[after : after + 2]

    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(read, range(6)))
    finally:
        sys.setswitchinterval(interval)


def test_a_forked_child_has_a_lock_of_its_own(path: Path, feed: FileFeed) -> None:
    """The parent forks while one of its threads writes."""
    feed.append(changes(1))
    with feed._lock, feed._locked():
        child = os.fork()
        if not child:
            status = 1
            try:
                assert everything(feed) == records(1, contents(changes(1)))
                feed.append(changes(5, "child"))  # waits until the parent has written
                status = 0
            finally:
                os._exit(status)
        time.sleep(0.1)
        assert FileFeed(path).last == 1
    feed.append(changes(5, "parent"))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found = [record.content for record in everything(feed)]
    assert sorted(found) == sorted(contents(changes(1) + changes(5, "child") + changes(5, "parent")))


def test_many_that_make_the_log_at_once(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / str(number) / "feed"
        with ThreadPoolExecutor(6) as pool:
            feeds = list(pool.map(lambda _, path=path: FileFeed(path), range(6)))
        assert len({feed.log for feed in feeds}) == 1
        assert sorted(feed.append(changes(1)) for feed in feeds) == [1, 2, 3, 4, 5, 6]
