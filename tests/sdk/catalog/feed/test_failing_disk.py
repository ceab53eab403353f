"""The change feed in a file on a system that fails: nothing acknowledged is lost, nothing else appears twice."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk.catalog.feed import file_feed
from hiersrec_sdk.catalog.feed.file_feed import FileFeed
from hiersrec_sdk.errors import (
    FeedError,
)
from tests.sdk.catalog.feed.logs import (
    END_AT,
    HEADER,
    Disk,
    OutOfTimeError,
    changes,
    contents,
    everything,
    records,
)


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
    said: list[str] = []
    with FileFeed(path) as feed, FileFeed(path) as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_feed, "os", Disk(fails))
        for number in range(12):
            some = contents(changes(2, f"{number}"))
            try:
                last = feed.append(changes(2, f"{number}"))
            except FeedError as error:
                said.append(str(error))
                if "may have been made" in said[-1]:
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
    assert all("may have been made" in each or "nothing was appended" in each for each in said)


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
    refused: list[Any] = []

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
