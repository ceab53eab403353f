"""A change feed whose file is not what it was: damaged, removed, replaced, cut, or none at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk.catalog.feed import log_file, open_feed
from hiersrec_sdk.catalog.feed.feed import Record
from hiersrec_sdk.catalog.feed.file_feed import FileFeed
from hiersrec_sdk.errors import (
    FeedCorruptError,
    FeedError,
    FeedLostError,
    InvalidPathError,
)
from tests.sdk.catalog.feed.logs import (
    END_AT,
    HEADER,
    Disk,
    changes,
    contents,
    everything,
    records,
)


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
    said = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_file, "_TORN", 2)
        try:
            with FileFeed(path) as feed:
                if feed.log != log or feed.first != 1:
                    return  # another log, which no catalog takes for this one
                for _ in range(7):
                    found += feed.read(len(found), 1)
        except FeedCorruptError as error:
            said = str(error)
        assert str(path) in said or len(found) == 6
        assert found == wanted[: len(found)]
        if len(found) < 6:  # nor is it dropped as if it were sound
            with pytest.raises(FeedError), FileFeed(path) as feed:
                feed.drop(7)
                raise AssertionError


def test_a_damaged_record_is_named(path: Path, feed: FileFeed) -> None:
    feed.append(changes(6))
    content = path.read_bytes().replace(b'"a-3"', b'"b-3"')
    path.write_bytes(content)
    at = content.index(b"4 6 16 ")
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
        end = log_file.End(offset, last).line()
        path.write_bytes(content[:END_AT] + end + content[HEADER:])
        with pytest.raises(FeedCorruptError, match=r"changes\.feed"), FileFeed(path) as again:
            again.append(changes(1, "b"))
            again.read(0, 9)


NO_FEEDS = {
    "empty": b"",
    "text": b"hello\n",
    "json": b'{"remove": "a"}\n',
    "half a line": b"hiersrec-feed 1 0123",
    "zeros": bytes(500),
}


@pytest.mark.parametrize("name", NO_FEEDS)
def test_what_is_no_feed_is_refused_and_stays(name: str, path: Path) -> None:
    path.write_bytes(NO_FEEDS[name])
    with pytest.raises(FeedCorruptError, match=r"changes\.feed is no change feed: it does not begin as one"):
        FileFeed(path)
    assert path.read_bytes() == NO_FEEDS[name]


def test_a_newer_format_is_called_so(path: Path) -> None:
    path.write_bytes(b"hiersrec-feed 2 " + b"0" * 32 + b" " + b"0" * 20 + b"\n")
    with pytest.raises(
        FeedCorruptError, match=r"begins with 'hiersrec-feed 2 0000', .* a newer one has written it"
    ):
        FileFeed(path)


def test_a_first_line_alone(path: Path, feed: FileFeed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "_TORN", 2)
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

    monkeypatch.setattr(log_file, "os", ReadOnly(lambda *_: None))
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
    for after, each in ((3, feed), (0, FileFeed(path))):
        with pytest.raises(FeedCorruptError, match=r"changes\.feed: record 4, at byte 224, is damaged"):
            each.read(after, 9)
    calls: list[Callable[[], object]] = [
        lambda: feed.append(changes(1)),
        lambda: feed.drop(2),
        lambda: feed.read(4, 1),  # of a follower that has all records
    ]
    for call in calls:
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
