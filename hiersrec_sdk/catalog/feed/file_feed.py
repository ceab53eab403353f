"""A change feed in a file: appended to by one writer at a time, read by any number of processes on the same machine.

    hiersrec-feed 1 ff4d… 00000000000000000001
    end 00000000000000000216 00000000000000000002 6b1e4126
    1 2 18 7e656d2a {"remove":"sku-3"}
    2 2 39 f675229c {"set_bias":{"id":"sku-9","value":1.5}}

The first line has the format, the identity of the log and the number of its first record. The second one says where the
log ends: the byte, the number of the newest record, and a CRC-32 of both. Then come the records, one a line: number,
number of the last record that was written with it, length of the JSON text, CRC-32 of both numbers and the text, the
text.

A writer locks the file, writes records after the end, waits for the disk, and then moves the end. So nobody reads a
record that may still be taken back, as after a write that failed: what lies after the end is no part of the log.
What a killed writer left there is taken in by the next one if it is whole, to the last record of one write, and cut
otherwise.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from hiersrec_sdk.atomic import alone, is_time_limit, write_file
from hiersrec_sdk.catalog.changes import LONGEST
from hiersrec_sdk.catalog.feed.feed import Feed, Record
from hiersrec_sdk.errors import FeedCorruptError, FeedError, FeedLostError
from hiersrec_sdk.systems import after_fork_in_child, fcntl

_log = logging.getLogger(__name__)

_POLL: Final = 0.02  # seconds
_BLOCK: Final = 1 << 20  # bytes that are read at once
_MOST_READ: Final = 64 << 20  # bytes of records that one call returns, about
_TORN: Final = 50  # times that an end is read which another process may be writing just then

_FIRST: Final = re.compile(rb"hiersrec-feed 1 ([0-9a-f]{32}) ([0-9]{20})\n")
_END: Final = re.compile(rb"end ([0-9]{20} [0-9]{20}) ([0-9a-f]{8})\n")
_END_AT: Final = 70  # bytes of the first line
_HEADER: Final = _END_AT + 55  # and of the second
_RECORD: Final = re.compile(rb"(([0-9]{1,20}) ([0-9]{1,20})) ([0-9]{1,8}) ([0-9a-f]{8}) ")
_LONGEST_LINE: Final = LONGEST + 64

_FEEDS: Final[weakref.WeakSet[FileFeed]] = weakref.WeakSet()


class _DamagedError(Exception):
    """A line that is no record; only its beginning may be there."""


@dataclass(frozen=True, slots=True)
class _End:
    """Where a log ends: the byte after the record ``last``."""

    offset: int
    last: int

    def line(self) -> bytes:
        said = b"%020d %020d" % (self.offset, self.last)
        return b"end %b %08x\n" % (said, zlib.crc32(said))


class _Line(NamedTuple):
    """A record that was read.

    Attributes:
        content: its JSON text.
        last: the number of the last record that was written with it.
        stop: the byte after it.
    """

    content: bytes
    last: int
    stop: int


def _line(number: int, last: int, content: bytes) -> bytes:
    numbers = b"%d %d" % (number, last)
    checksum = zlib.crc32(content, zlib.crc32(numbers))
    return b"%b %d %08x %b\n" % (numbers, len(content), checksum, content)


def _record(data: bytes, start: int, number: int) -> _Line:
    """The record ``number``, which begins at a byte of ``data``.

    Raises:
        _DamagedError: it is another one, or not whole.
    """
    head = _RECORD.match(data, start)
    if head is None or int(head[2]) != number:
        raise _DamagedError
    stop = head.end() + int(head[4])
    content = data[head.end() : stop]
    if data[stop : stop + 1] != b"\n" or zlib.crc32(content, zlib.crc32(head[1])) != int(head[5], 16):
        raise _DamagedError
    return _Line(content, int(head[3]), stop + 1)


class _File:
    """An open log. It is closed when nobody holds it any more.

    Attributes:
        descriptor: of the file.
        log: its identity.
        first: the number of its first record.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.may_write = path, True
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if is_time_limit(error) or isinstance(error, FileNotFoundError):
                raise
            self.descriptor, self.may_write = os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
        head = _FIRST.fullmatch(os.pread(self.descriptor, _END_AT, 0))
        if head is None:
            raise FeedCorruptError(f"{path} is no change feed: it does not begin as one")
        self.log, self.first = head[1].decode(), int(head[2])

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "descriptor"):
            close(self.descriptor)

    def is_at_its_path(self) -> bool:
        """Whether the file was not replaced, as compaction does, or removed."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def end(self) -> _End:
        """Where the log ends.

        Raises:
            FeedCorruptError: the second line does not say it.
        """
        for _ in range(_TORN):
            found = _END.fullmatch(os.pread(self.descriptor, _HEADER - _END_AT, _END_AT))
            if found is not None and zlib.crc32(found[1]) == int(found[2], 16):
                offset, last = map(int, found[1].split())
                return _End(offset, last)
            time.sleep(1e-3)
        raise FeedCorruptError(f"{self.path}: its second line does not say where it ends")

    def records(self, start: int, number: int, stop: int) -> Iterator[_Line]:
        """The records from ``number`` on, which begins at byte ``start``, up to byte ``stop``.

        Raises:
            _DamagedError: one is not whole, or another one.
        """
        data, at, base = b"", 0, start  # data[at] is the byte base + at of the file
        while base + at < stop:
            try:
                record = _record(data, at, number)
            except _DamagedError:
                rest = data[at:]
                if len(rest) > _LONGEST_LINE or base + len(data) >= stop:
                    raise
                base += at
                more = os.pread(self.descriptor, min(_BLOCK, stop - base - len(rest)), base + len(rest))
                if not more:
                    raise
                data, at = rest + more, 0
                continue
            at, number = record.stop, number + 1
            yield record._replace(stop=base + at)


@dataclass(eq=False)
class _Waiting:
    """Changes that wait to be written; ``last`` is the position of the last one once they are."""

    changes: Sequence[bytes]
    last: int | None = None
    error: FeedError | None = None

    @property
    def is_over(self) -> bool:
        return self.last is not None or self.error is not None


class FileFeed(Feed):
    """A change feed in a file. Writers of one machine exclude each other by a lock on it.

    Within a process, those that append while another append waits for the disk are written together by the next one.
    """

    def __init__(self, path: Path) -> None:
        if sys.platform == "win32":
            raise FeedError(
                f"{path}: a change feed in a file needs locks that Windows lacks; use one in Redis"
            )
        self.path, self.label = path.absolute(), str(path)
        self._queue: list[_Waiting] = []
        self._lock = threading.RLock()  # of the thread that writes for all in the queue
        self._is_writing = self._is_closed = False
        self._cursor: tuple[_File, int, int] | None = None  # the byte after a record, and its number
        with self._errors("cannot be opened"):
            self._file: _File | None = self._opened()
            self.log = self._file.log
            self._take_in()
        _FEEDS.add(self)

    @property
    def first(self) -> int:
        with self._errors("cannot be read"):
            return self._current().first

    @property
    def last(self) -> int:
        with self._errors("cannot be read"):
            return self._current().end().last

    def read(self, after: int, most: int, wait: float = 0.0) -> list[Record]:
        until = time.monotonic() + wait
        while True:
            with self._errors("cannot be read"):
                file = self._current()
                end = file.end()
            self.check_reaches(after, file.first, end.last)
            if after < end.last:
                with self._errors("cannot be read"):
                    return self._records(file, after, most, end)
            left = until - time.monotonic()
            if left <= 0:
                return []
            time.sleep(min(_POLL, left))

    def drop(self, before: int) -> None:
        with self._errors("cannot be written"), self._alone(), self._locked() as file:
            end = self._recovered(file)
            before = min(before, end.last + 1)
            if before <= file.first:
                return
            start = _HEADER
            for number, record in enumerate(self._sound(file, _HEADER, file.first, end.offset), file.first):
                if number == before:
                    break
                start = record.stop
            kept = _End(_HEADER + end.offset - start, end.last)

            def write(part: Path) -> None:
                with part.open("wb") as target:
                    target.write(_first_line(file.log, before) + kept.line())
                    for at in range(start, end.offset, _BLOCK):
                        target.write(os.pread(file.descriptor, min(_BLOCK, end.offset - at), at))

            write_file(self.path.resolve(), write)  # not a link to it
        _log.info("%s begins with record %d now", self.label, before)

    def close(self) -> None:
        self._is_closed = True
        self._file = self._cursor = None

    def _append(self, changes: Sequence[bytes]) -> int:
        mine = _Waiting(changes)
        try:
            self._queue.append(mine)
            with self._lock:
                if not mine.is_over:
                    self._write_queue()
        finally:  # a signal handler may have ended the waiting: nobody shall write these changes later
            with suppress(ValueError):
                self._queue.remove(mine)
        if mine.last is None:
            assert mine.error is not None
            raise type(mine.error)(str(mine.error)) from mine.error
        return mine.last

    def _write_queue(self) -> None:
        """Write all that waits. Called by one thread at a time."""
        with self._alone():
            waiting = [each for each in [*self._queue] if not each.is_over]  # others may wait from now on
            try:
                last = self._write([change for each in waiting for change in each.changes])
                for each in reversed(waiting):
                    each.last = last
                    last -= len(each.changes)
            except FeedError as error:
                for each in waiting:
                    each.error = error
            except BaseException:
                for each in waiting:
                    if each.last is None:
                        each.error = FeedError(
                            f"{self.label}: the write was interrupted, and the changes may have been made"
                        )
                raise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Exclude the other threads, and a signal handler that has interrupted this one here.

        Raises:
            FeedError: by that handler, which must not wait for what it interrupts.
        """
        with self._lock:
            if self._is_writing:
                raise FeedError(
                    f"{self.label} is being written by the thread that a signal handler has interrupted"
                )
            try:
                self._is_writing = True
                yield
            finally:
                self._is_writing = False

    def _write(self, changes: Sequence[bytes]) -> int:
        """Append records and wait for the disk; returns the number of the last one.

        Raises:
            FeedError: it failed; nothing was appended, unless the message says so.
        """
        with self._errors("cannot be written, and nothing was appended"), self._locked() as file:
            end = self._recovered(file)
            last = end.last + len(changes)
            content = b"".join(
                _line(number, last, change) for number, change in enumerate(changes, end.last + 1)
            )
            after = _End(end.offset + len(content), last)
            try:
                _write_all(file.descriptor, content, end.offset)
                os.fsync(file.descriptor)
                _write_all(file.descriptor, after.line(), _END_AT)
            except OSError as error:
                if is_time_limit(error):
                    raise
                try:
                    _write_all(file.descriptor, end.line(), _END_AT)  # it may be half another one
                    os.ftruncate(file.descriptor, end.offset)
                except OSError:
                    raise FeedError(
                        f"{self.label} cannot be written ({error}), and the changes may have been made"
                    ) from error
                raise
            return after.last

    def _take_in(self) -> None:
        """Take in what lies behind the end: after a power failure, this may be what writers and readers knew of."""
        file = self._current()
        if file.may_write and os.fstat(file.descriptor).st_size > file.end().offset:
            with self._alone(), self._locked() as file:
                self._recovered(file)

    def _recovered(self, file: _File) -> _End:
        """Where the locked log ends, with what a killed writer has left whole behind its end.

        Raises:
            FeedError: this user may not write.
        """
        if not file.may_write:
            raise FeedError(f"{self.label} cannot be written by this user")
        end = found = file.end()
        size = os.fstat(file.descriptor).st_size
        if size < end.offset:
            raise FeedCorruptError(f"{self.label} has {size:,} bytes; its records end at byte {end.offset:,}")
        if size == end.offset:
            return end
        with suppress(_DamagedError):
            for number, record in enumerate(file.records(end.offset, end.last + 1, size), end.last + 1):
                if number == record.last:
                    found = _End(record.stop, number)
        if found.offset < size:
            os.ftruncate(file.descriptor, found.offset)
        os.fsync(file.descriptor)  # the killed writer may not have come so far
        _write_all(file.descriptor, found.line(), _END_AT)
        _log.info(
            "%s: a writer was killed: %d of its records are taken in, %d bytes are cut",
            self.label,
            found.last - end.last,
            size - found.offset,
        )
        return found

    def _records(self, file: _File, after: int, most: int, end: _End) -> list[Record]:
        offset, number = _HEADER, file.first - 1
        cursor = self._cursor  # other threads read too
        if cursor is not None and cursor[0] is file and cursor[2] <= after:
            _, offset, number = cursor
        found: list[Record] = []
        size = 0
        for record in self._sound(file, offset, number + 1, end.offset):
            number, offset = number + 1, record.stop
            if number > after:
                found.append(Record(number, record.content))
                size += len(record.content)
                if len(found) == most or size >= _MOST_READ:
                    break
        if number > end.last or (offset >= end.offset) != (number == end.last):
            raise FeedCorruptError(f"{self.label} ends with record {number}, and says that it is {end.last}")
        self._cursor = file, offset, number
        return found

    def _sound(self, file: _File, start: int, number: int, stop: int) -> Iterator[_Line]:
        """The records up to the end of the log, see :meth:`_File.records`.

        Raises:
            FeedCorruptError: one is damaged.
        """
        try:
            for record in file.records(start, number, stop):
                yield record
                start, number = record.stop, number + 1
        except _DamagedError:
            raise FeedCorruptError(
                f"{self.label}: record {number}, at byte {start:,}, is damaged, and the log goes on after it"
            ) from None

    def _current(self) -> _File:
        """The open file that is at the path."""
        if self._is_closed:
            raise FeedError(f"{self.label} was closed")
        file = self._file
        if file is None or not file.is_at_its_path():
            try:
                file = self._file = _File(self.path)
            except FileNotFoundError:
                raise FeedLostError(
                    f"{self.label} was removed: load the newest bundle on every replica, and follow a new feed"
                ) from None
            if file.log != self.log:
                self._file = None
                raise FeedLostError(
                    f"{self.label} is another log by now, {file.log}, and not {self.log}: load the newest bundle on "
                    "every replica, and follow the new one"
                )
        return file

    @contextmanager
    def _locked(self) -> Iterator[_File]:
        """The file, which no other process writes meanwhile."""
        while True:
            file = self._current()
            fcntl.flock(file.descriptor, fcntl.LOCK_EX)
            try:
                if file.is_at_its_path():  # else it was replaced while we waited
                    yield file
                    return
            finally:
                fcntl.flock(file.descriptor, fcntl.LOCK_UN)

    def _opened(self) -> _File:
        try:
            return _File(self.path)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with alone(self.path.parent):
                if not os.path.lexists(self.path):
                    write_file(self.path, _first_line(secrets.token_hex(16), 1) + _End(_HEADER, 0).line())
            return _File(self.path)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_time_limit(error):
                raise
            raise FeedError(f"{self.label} {what}: {error.strerror or error}") from error

    def _forked(self) -> None:
        """In a child that was forked: an open file would share its lock with the parent."""
        self._lock, self._queue, self._is_writing = threading.RLock(), [], False
        self._file = self._cursor = None


def _first_line(log: str, first: int) -> bytes:
    return b"hiersrec-feed 1 %b %020d\n" % (log.encode(), first)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while len(view):
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _after_fork() -> None:
    for feed in list(_FEEDS):
        feed._forked()


after_fork_in_child(_after_fork)
