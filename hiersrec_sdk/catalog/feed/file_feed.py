"""A change feed in a file: appended to by one writer at a time, read by any number of processes on the same machine.

A writer locks the file, writes records after the end, waits for the disk, and then moves the end. So nobody reads a
record that may still be taken back, as after a write that failed: what lies after the end is no part of the log.
What a killed writer left there is taken in by the next one if it is whole, to the last record of one write, and cut
otherwise.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiersrec_sdk.atomic import alone, is_time_limit, write_file
from hiersrec_sdk.catalog.feed.feed import Feed, Record
from hiersrec_sdk.catalog.feed.log_file import (
    BLOCK,
    END_AT,
    HEADER,
    DamagedError,
    End,
    Line,
    LogFile,
    Place,
    first_line,
    record_line,
)
from hiersrec_sdk.errors import FeedCorruptError, FeedError, FeedLostError, FeedMissingError
from hiersrec_sdk.systems import after_fork_in_child, fcntl

_log = logging.getLogger(__name__)

_POLL: Final = 0.02  # seconds
_MOST_READ: Final = 64 << 20  # bytes of records that one call returns, about

_FEEDS: Final[weakref.WeakSet[FileFeed]] = weakref.WeakSet()


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

    def __init__(self, path: Path, make: bool = True) -> None:
        if sys.platform == "win32":
            raise FeedError(
                f"{path}: a change feed in a file needs locks that Windows lacks; use one in Redis"
            )
        self.path, self.label = path.absolute(), str(path)
        self._queue: list[_Waiting] = []
        self._lock = threading.RLock()  # of the thread that writes for all in the queue
        self._is_writing = self._is_closed = False
        self._places: tuple[LogFile, tuple[Place, Place]] | None = (
            None  # where the last reading began and ended
        )
        with self._errors("cannot be opened"):
            self._file: LogFile | None = self._opened(make)
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
            with self._errors("cannot be read"):
                if after < end.last:
                    return self._records(file, after, most, end)
                self._check_size(file, end)  # else only a writer would notice that the log was cut short
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
            start = HEADER
            for number, record in enumerate(self._sound(file, HEADER, file.first, end.offset), file.first):
                if number == before:
                    break
                start = record.stop
            kept = End(HEADER + end.offset - start, end.last)

            def write(part: Path) -> None:
                with part.open("wb") as target:
                    target.write(first_line(file.log, before) + kept.line())
                    for at in range(start, end.offset, BLOCK):
                        target.write(os.pread(file.descriptor, min(BLOCK, end.offset - at), at))

            write_file(self.path.resolve(), write)  # not a link to it
        _log.info("%s begins with record %d now", self.label, before)

    def close(self) -> None:
        self._is_closed = True
        self._file = self._places = None

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
                record_line(number, last, change) for number, change in enumerate(changes, end.last + 1)
            )
            after = End(end.offset + len(content), last)
            try:
                _write_all(file.descriptor, content, end.offset)
                os.fsync(file.descriptor)
                _write_all(file.descriptor, after.line(), END_AT)
            except OSError as error:
                if is_time_limit(error):
                    raise
                try:
                    _write_all(file.descriptor, end.line(), END_AT)  # it may be half another one
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

    def _recovered(self, file: LogFile) -> End:
        """Where the locked log ends, with what a killed writer has left whole behind its end.

        Raises:
            FeedError: this user may not write.
        """
        if not file.may_write:
            raise FeedError(f"{self.label} cannot be written by this user")
        end = found = file.end()
        size = self._check_size(file, end)
        if size == end.offset:
            return end
        with suppress(DamagedError):
            for number, record in enumerate(file.records(end.offset, end.last + 1, size), end.last + 1):
                if number == record.last:
                    found = End(record.stop, number)
        if found.offset < size:
            os.ftruncate(file.descriptor, found.offset)
        os.fsync(file.descriptor)  # the killed writer may not have come so far
        _write_all(file.descriptor, found.line(), END_AT)
        _log.info(
            "%s: a writer was killed: %d of its records are taken in, %d bytes are cut",
            self.label,
            found.last - end.last,
            size - found.offset,
        )
        return found

    def _check_size(self, file: LogFile, end: End) -> int:
        """Bytes of the file; raises :class:`FeedCorruptError` where somebody has cut it short."""
        size = os.fstat(file.descriptor).st_size
        if size < end.offset:
            raise FeedCorruptError(f"{self.label} has {size:,} bytes; its records end at byte {end.offset:,}")
        return size

    def _records(self, file: LogFile, after: int, most: int, end: End) -> list[Record]:
        begin = Place(file.first - 1, HEADER)
        places = self._places  # other threads read too
        if places is not None and places[0] is file:
            begin = max(place for place in (begin, *places[1]) if place.number <= after)
        number, offset = begin
        found: list[Record] = []
        size = 0
        for record in self._sound(file, offset, number + 1, end.offset):
            number, offset = number + 1, record.stop
            if number <= after:
                begin = Place(number, offset)
                continue
            found.append(Record(number, record.content))
            size += len(record.content)
            if len(found) == most or size >= _MOST_READ:
                break
        if number > end.last or (offset >= end.offset) != (number == end.last):
            raise FeedCorruptError(f"{self.label} ends with record {number}, and says that it is {end.last}")
        self._places = file, (begin, Place(number, offset))
        return found

    def _sound(self, file: LogFile, start: int, number: int, stop: int) -> Iterator[Line]:
        """The records up to the end of the log, see :meth:`LogFile.records`.

        Raises:
            FeedCorruptError: one is damaged.
        """
        try:
            for record in file.records(start, number, stop):
                yield record
                start, number = record.stop, number + 1
        except DamagedError:
            raise FeedCorruptError(
                f"{self.label}: record {number}, at byte {start:,}, is damaged, and the log goes on after it"
            ) from None

    def _current(self) -> LogFile:
        """The open file that is at the path."""
        if self._is_closed:
            raise FeedError(f"{self.label} was closed")
        file = self._file
        if file is None or not file.is_at_its_path():
            try:
                file = self._file = LogFile(self.path)
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
    def _locked(self) -> Iterator[LogFile]:
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

    def _opened(self, make: bool) -> LogFile:
        try:
            return LogFile(self.path)
        except FileNotFoundError:
            if not make:
                raise FeedMissingError(f"there is no change feed {self.label}") from None
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with alone(self.path.parent):
                if not os.path.lexists(self.path):
                    write_file(self.path, first_line(secrets.token_hex(16), 1) + End(HEADER, 0).line())
            return LogFile(self.path)

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
        self._file = self._places = None


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while len(view):
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _after_fork() -> None:
    for feed in list(_FEEDS):
        feed._forked()


after_fork_in_child(_after_fork)
