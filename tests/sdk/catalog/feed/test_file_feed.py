"""The change feed in a file against a plain list, whatever is done to the file, its writers and the system below."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hiersrec_sdk.catalog.changes import Change
from hiersrec_sdk.catalog.feed import file_feed, open_feed
from hiersrec_sdk.catalog.feed.feed import Feed, Record
from hiersrec_sdk.catalog.feed.file_feed import FileFeed
from hiersrec_sdk.errors import (
    CatalogChangeError,
    FeedBehindError,
    FeedCorruptError,
    FeedError,
    FeedLostError,
    InvalidPathError,
)

END_AT, HEADER = 70, 125  # where the line with the end begins, and the records
NAMES = itertools.count()


def changes(count: int, name: str = "a") -> list[dict[str, Any]]:
    return [{"remove": f"{name}-{number}"} for number in range(count)]


def contents(given_changes: list[dict[str, Any]]) -> list[bytes]:
    return [Change.of(each).to_json() for each in given_changes]


def everything(feed: Feed, after: int | None = None) -> list[Record]:
    """All that is in the log."""
    return feed.read(feed.first - 1 if after is None else after, 10**6)


def records(first: int, given_contents: list[bytes]) -> list[Record]:
    return [Record(position, content) for position, content in enumerate(given_contents, first)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "changes.feed"


@pytest.fixture
def feed(path: Path) -> Iterator[FileFeed]:
    with FileFeed(path) as made:
        yield made


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
    monkeypatch.setattr(file_feed, "_BLOCK", block)
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


def test_reading_waits_for_a_writer(path: Path) -> None:
    with FileFeed(path) as reader, FileFeed(path) as writer, ThreadPoolExecutor(1) as pool:
        assert reader.read(0, 9, 0.01) == []
        reading = pool.submit(reader.read, 0, 9, 60.0)
        time.sleep(0.05)
        writer.append(changes(2))
        assert reading.result(50) == records(1, contents(changes(2)))


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
    assert taken_in == {0, 1, 2}


def test_after_a_power_failure_readers_need_not_wait_for_a_writer(path: Path) -> None:
    """The records have reached the disk, the end has not, and a reader has saved a position among them."""
    with FileFeed(path) as feed:
        feed.append(changes(2))
        before = path.read_bytes()
        feed.append(changes(2, "b"))
        after = path.read_bytes()
    path.write_bytes(before[:HEADER] + after[HEADER:] + b"5 17 5d0f66a3 {")
    with FileFeed(path) as feed:
        assert feed.last == 4
        assert feed.read(4, 9) == []
        assert everything(feed) == records(1, contents(changes(2) + changes(2, "b")))
    assert path.read_bytes() == after


# A system that fails


class Disk:
    """Stands in the place of ``os`` in the module: fails as it is told."""

    def __init__(self, fails: Callable[[str, int], int | None]) -> None:
        self.fails, self.calls = fails, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _failing(self, name: str, at: int) -> int | None:
        self.calls += 1
        return self.fails(name, at)

    def pwrite(self, descriptor: int, content: Any, offset: int) -> int:
        failing = self._failing("pwrite", offset)
        if failing is not None and failing < 0:  # a short write
            return os.pwrite(descriptor, content[:-failing], offset)
        if failing:
            raise OSError(failing, os.strerror(failing))
        return os.pwrite(descriptor, content, offset)

    def fsync(self, descriptor: int) -> None:
        if failing := self._failing("fsync", 0):
            raise OSError(failing, os.strerror(failing))
        os.fsync(descriptor)

    def ftruncate(self, descriptor: int, size: int) -> None:
        if failing := self._failing("ftruncate", size):
            raise OSError(failing, os.strerror(failing))
        os.ftruncate(descriptor, size)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 9) | st.sampled_from([errno.ENOSPC, errno.EIO]).map(lambda e: -e)))
def test_writes_that_fail(tmp_path_factory: pytest.TempPathFactory, plan: list[int]) -> None:
    """Positive: the next write writes so many bytes; negative: the next call fails."""
    path = tmp_path_factory.mktemp("feed") / "feed"
    steps = iter(plan)

    def fails(name: str, at: int) -> int | None:
        step = next(steps, None)
        if step is None or (step > 0 and name != "pwrite"):
            return None
        return -step

    acknowledged: list[bytes] = []
    uncertain: set[bytes] = set()
    with FileFeed(path) as feed, FileFeed(path) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_feed, "os", Disk(fails))
        for number in range(12):
            some = contents(changes(2, f"{number}"))
            try:
                last = feed.append(changes(2, f"{number}"))
            except FeedError as error:
                is_uncertain = "may have been made" in str(error)
                assert is_uncertain or "nothing was appended" in str(error)
                if is_uncertain:
                    uncertain.update(some)
            else:
                acknowledged += some
                assert reader.read(last - 2, 9) == records(last - 1, some)
            found = everything(reader, 0)
            assert [record.position for record in found] == list(range(1, len(found) + 1))
            read = [record.content for record in found]
            assert [content for content in read if content not in uncertain] == acknowledged
            assert len(set(read)) == len(read)
    with FileFeed(path) as feed:
        assert [each.content for each in everything(feed) if each.content not in uncertain] == acknowledged


@pytest.mark.parametrize("which", ["records", "disk", "end", "half an end"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_leaves_nothing(
    which: str, code: int, path: Path, feed: FileFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.append(changes(3))
    before, plan = path.read_bytes(), {"count": 0}

    def fails(name: str, at: int) -> int | None:
        plan["count"] += 1
        if plan["count"] > 4:
            return None
        if which == "records" and name == "pwrite" and at > HEADER:
            return -20 if plan["count"] == 1 else code
        if which == "disk" and name == "fsync":
            return code
        if which == "end" and name == "pwrite" and at == END_AT:
            return code if plan["count"] == 3 else None
        if which == "half an end" and name == "pwrite" and END_AT <= at < HEADER:
            return {3: -20, 4: code}.get(plan["count"])
        return None

    monkeypatch.setattr(file_feed, "os", Disk(fails))
    with pytest.raises(FeedError, match=r"changes\.feed cannot be written, and nothing was appended: "):
        feed.append(changes(2, "b"))
    assert path.read_bytes() == before
    assert feed.append(changes(2, "b")) == 5
    assert everything(feed) == records(1, contents(changes(3) + changes(2, "b")))


def test_dropping_that_fails(path: Path, feed: FileFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    feed.append(changes(9))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(file_feed, "write_file", full)
        with pytest.raises(FeedError, match="cannot be written: No space left"):
            feed.drop(5)
    assert path.read_bytes() == before
    feed.drop(5)
    assert feed.append(changes(1, "b")) == 10
    assert everything(feed) == records(5, contents(changes(9)[4:] + changes(1, "b")))


class OutOfTimeError(TimeoutError):
    """What a signal handler raises."""


@pytest.mark.parametrize("name", ["pwrite", "fsync"])
@pytest.mark.parametrize("at", [1, 2])
def test_a_time_limit_gets_through(
    name: str, at: int, feed: FileFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = itertools.count(1)

    def fails(called: str, _: int) -> int | None:
        if called == name and next(seen) == at:
            raise OutOfTimeError
        return None

    feed.append(changes(1))
    monkeypatch.setattr(file_feed, "os", Disk(fails))
    if name == "fsync" and at == 2:
        feed.append(changes(1, "b"))
    with pytest.raises(OutOfTimeError):
        feed.append(changes(2, "c"))
    feed.append(changes(1, "d"))
    found = [record.content for record in everything(feed)]
    rest = [each for each in found if each not in contents(changes(2, "c"))]
    assert rest == contents(
        changes(1) + (changes(1, "b") if name == "fsync" and at == 2 else []) + changes(1, "d")
    )
    assert len(set(found)) == len(found)


def test_a_signal_handler_inside_a_write(feed: FileFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def fails(name: str, _: int) -> None:
        if not refused:
            refused.append(name)
            for call in (lambda: feed.append(changes(1, "inner")), lambda: feed.drop(2)):
                with pytest.raises(FeedError, match="that a signal handler has interrupted"):
                    call()
            refused.append([each.position for each in feed.read(0, 9)])

    monkeypatch.setattr(file_feed, "os", Disk(fails))
    assert feed.append(changes(2)) == 2
    assert refused == ["pwrite", []]
    assert everything(feed) == records(1, contents(changes(2)))


# A file that is not what it was


@settings(max_examples=120)
@given(st.data())
def test_damaged_bytes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("feed") / "feed"
    with FileFeed(path) as feed:
        feed.append(changes(6))
        log = feed.log
    wanted = records(1, contents(changes(6)))
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "zeros"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "flip":
        content[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del content[at : at + data.draw(st.integers(1, 60))]
    elif kind == "insert":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=40))
    else:
        content[at : at + 30] = bytes(len(content[at : at + 30]))
    path.write_bytes(content)
    found: list[Record] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_feed, "_TORN", 2)
        try:
            with FileFeed(path) as feed:
                if feed.log != log or feed.first != 1:
                    return  # another log, which no catalog takes for this one
                for _ in range(7):
                    found += feed.read(len(found), 1)
        except FeedCorruptError as error:
            assert str(path) in str(error)
        assert found == wanted[: len(found)]
        if len(found) < 6:  # nor is it dropped as if it were sound
            with pytest.raises(FeedError), FileFeed(path) as feed:
                feed.drop(7)
                raise AssertionError


def test_a_damaged_record_is_named(path: Path, feed: FileFeed) -> None:
    feed.append(changes(6))
    content = path.read_bytes().replace(b'"a-3"', b'"b-3"')
    path.write_bytes(content)
    at = content.index(b"4 16 ")
    message = rf"changes\.feed: record 4, at byte {at:,}, is damaged, and the log goes on after it"
    with FileFeed(path) as again:
        assert again.read(0, 3) == records(1, contents(changes(3)))
        for call in (lambda: again.read(3, 1), lambda: again.read(0, 9), lambda: again.drop(6)):
            with pytest.raises(FeedCorruptError, match=message):
                call()


def test_an_end_that_lies(path: Path, feed: FileFeed) -> None:
    feed.append(changes(3))
    content = path.read_bytes()
    for offset, last in [(10, 3), (HEADER, 3), (len(content), 9), (len(content), 2), (10, 9), (0, 0)]:
        end = file_feed._End(offset, last).line()
        path.write_bytes(content[:END_AT] + end + content[HEADER:])
        with pytest.raises(FeedCorruptError, match=r"changes\.feed"), FileFeed(path) as again:
            again.append(changes(1, "b"))
            again.read(0, 9)


NO_FEEDS = {
    "empty": b"",
    "text": b"hello\n",
    "json": b'{"remove": "a"}\n',
    "another version": b"hiersrec-feed 2 " + b"0" * 32 + b" " + b"0" * 20 + b"\n",
    "half a line": b"hiersrec-feed 1 0123",
    "zeros": bytes(500),
}


@pytest.mark.parametrize("name", NO_FEEDS)
def test_what_is_no_feed_is_refused_and_stays(name: str, path: Path) -> None:
    path.write_bytes(NO_FEEDS[name])
    with pytest.raises(FeedCorruptError, match=r"changes\.feed is no change feed: it does not begin as one"):
        FileFeed(path)
    assert path.read_bytes() == NO_FEEDS[name]


def test_a_first_line_alone(path: Path, feed: FileFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_feed, "_TORN", 2)
    path.write_bytes(path.read_bytes()[:END_AT])
    with pytest.raises(FeedCorruptError, match=r"changes\.feed: its second line does not say where it ends"):
        feed.read(0, 1)


def test_paths_that_cannot_be_opened(tmp_path: Path, path: Path) -> None:
    with pytest.raises(FeedError, match="cannot be opened: Is a directory"):
        FileFeed(tmp_path)
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FeedError, match="cannot be opened: No such file"):
        FileFeed(path)
    with pytest.raises(FeedError, match="cannot be opened: Not a directory"):
        (tmp_path / "file").touch()
        FileFeed(tmp_path / "file" / "feed")
    with pytest.raises(FeedError, match="not of http://"):
        open_feed("http://host/feed")
    with pytest.raises(InvalidPathError):
        open_feed(5)
    with open_feed(tmp_path / "new" / "folder" / "feed") as made:
        assert (made.first, made.last, made.read(0, 9)) == (1, 0, [])
        assert open_feed(made) is made


def test_a_link_to_a_feed(tmp_path: Path, feed: FileFeed, path: Path) -> None:
    feed.append(changes(6))
    (tmp_path / "link").symlink_to(path)
    with FileFeed(tmp_path / "link") as other:
        other.drop(4)
        other.append(changes(1, "b"))
    assert (tmp_path / "link").is_symlink()
    assert everything(feed) == records(4, contents(changes(6)[3:] + changes(1, "b")))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions(path: Path, feed: FileFeed) -> None:
    feed.append(changes(2))
    path.chmod(0)
    with pytest.raises(FeedError, match="cannot be opened: Permission denied"):
        FileFeed(path)
    path.chmod(0o444)
    check_read_only(path)


def check_read_only(path: Path) -> None:
    with FileFeed(path) as reader:
        assert len(everything(reader)) == 2
        for call in (lambda: reader.append(changes(1)), lambda: reader.drop(2)):
            with pytest.raises(FeedError, match=r"changes\.feed cannot be written by this user"):
                call()
        assert len(everything(reader)) == 2


def test_a_file_that_this_user_may_only_read(
    path: Path, feed: FileFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed.append(changes(2))

    class ReadOnly(Disk):
        def open(self, name: Any, flags: int) -> int:
            if flags & os.O_RDWR:
                raise PermissionError(errno.EACCES, "Permission denied")
            return os.open(name, flags)

    monkeypatch.setattr(file_feed, "os", ReadOnly(lambda *_: None))
    check_read_only(path)


def test_a_log_that_is_removed(path: Path, feed: FileFeed) -> None:
    feed.append(changes(2))
    path.unlink()
    for call in (
        lambda: feed.read(0, 9),
        lambda: feed.append(changes(1)),
        lambda: feed.drop(2),
        lambda: feed.last,
    ):
        with pytest.raises(FeedLostError, match=r"changes\.feed was removed"):
            call()
    assert not path.exists()


def test_a_log_that_is_replaced(path: Path, feed: FileFeed) -> None:
    feed.append(changes(2))
    kept = path.rename(path.with_name("kept"))
    with FileFeed(path) as other:
        other.append(changes(3, "other"))
        for call in (lambda: feed.read(0, 9), lambda: feed.append(changes(1)), lambda: feed.first):
            with pytest.raises(
                FeedLostError, match=f"is another log by now, {other.log}, and not {feed.log}"
            ):
                call()
        assert other.last == 3
    kept.replace(path)
    assert feed.append(changes(1, "b")) == 3


def test_a_copy_that_is_older(path: Path, feed: FileFeed, tmp_path: Path) -> None:
    """A backup that was put back: it is the same log."""
    feed.append(changes(2))
    shutil.copy(path, tmp_path / "backup")
    feed.append(changes(2, "b"))
    (tmp_path / "backup").replace(path)
    with pytest.raises(FeedLostError, match="ends with record 2, but the catalog contains it up to 4"):
        feed.read(4, 9)
    assert feed.read(0, 9) == records(1, contents(changes(2)))


def test_a_log_that_is_cut_below_its_end(path: Path, feed: FileFeed) -> None:
    feed.append(changes(4))
    os.truncate(path, path.stat().st_size - 5)
    assert feed.read(0, 3) == records(1, contents(changes(3)))
    for call in (lambda: feed.read(3, 9), lambda: FileFeed(path).read(0, 9)):
        with pytest.raises(FeedCorruptError, match=r"changes\.feed: record 4, at byte 218, is damaged"):
            call()
    for call in (lambda: feed.append(changes(1)), lambda: feed.drop(2)):
        with pytest.raises(FeedCorruptError, match=r"has \d+ bytes; its records end at byte \d+"):
            call()


def test_a_feed_that_was_closed(feed: FileFeed) -> None:
    feed.append(changes(1))
    feed.close()
    feed.close()
    for call in (
        lambda: feed.read(0, 9),
        lambda: feed.append(changes(1)),
        lambda: feed.drop(1),
        lambda: feed.last,
    ):
        with pytest.raises(FeedError, match=r"changes\.feed was closed"):
            call()


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

    disk.fsync = slow  # type: ignore[method-assign]
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
                writing.wait(20)
            super().append(waiting)
            if b"late" in waiting.changes[0]:
                joined.set()

    def fails(name: str, _: int) -> None:
        if name == "fsync" and not joined.is_set():
            writing.set()
            joined.wait(20)

    monkeypatch.setattr(file_feed, "os", Disk(fails))
    with FileFeed(path) as feed, ThreadPoolExecutor(1) as pool:
        feed._queue = Late()
        late = pool.submit(feed.append, changes(1, "late"))
        time.sleep(0.05)
        assert feed.append(changes(2)) == 2
        assert late.result(20) == 3
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
                each.result(20)
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
                release.wait(20)

        holding = pool.submit(hold)
        held.wait(20)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(OutOfTimeError):
                feed.append(changes(1, "given up"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            release.set()
        holding.result(20)
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
