"""The file of a change feed: its format, and what reads it.

    hiersrec-feed 1 ff4d… 00000000000000000001
    end 00000000000000000216 00000000000000000002 6b1e4126
    1 2 18 7e656d2a {"remove":"sku-3"}
    2 2 39 f675229c {"set_bias":{"id":"sku-9","value":1.5}}

The first line has the format, the identity of the log and the number of its first record. The second one says where the
log ends: the byte, the number of the newest record, and a CRC-32 of both. Then come the records, one a line: number,
number of the last record that was written with it, length of the JSON text, CRC-32 of both numbers and the text, the
text.
"""

from __future__ import annotations

import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from hiersrec_sdk.atomic import is_time_limit
from hiersrec_sdk.catalog.changes import LONGEST
from hiersrec_sdk.errors import FeedCorruptError
from hiersrec_sdk.shown import shown

BLOCK: Final = 1 << 20  # bytes that are read at once
_TORN: Final = 50  # times that an end is read which another process may be writing just then

_FIRST: Final = re.compile(rb"hiersrec-feed 1 ([0-9a-f]{32}) ([0-9]{20})\n")
_OTHER: Final = re.compile(rb"hiersrec-feed (?!1 )[0-9]+ ")
_END: Final = re.compile(rb"end ([0-9]{20} [0-9]{20}) ([0-9a-f]{8})\n")
END_AT: Final = 70  # bytes of the first line
HEADER: Final = END_AT + 55  # and of the second
_RECORD: Final = re.compile(rb"(([0-9]{1,20}) ([0-9]{1,20})) ([0-9]{1,8}) ([0-9a-f]{8}) ")
_LONGEST_LINE: Final = LONGEST + 64


class DamagedError(Exception):
    """A line that is no record; only its beginning may be there."""


@dataclass(frozen=True, slots=True)
class End:
    """Where a log ends: the byte after the record ``last``."""

    offset: int
    last: int

    def line(self) -> bytes:
        said = b"%020d %020d" % (self.offset, self.last)
        return b"end %b %08x\n" % (said, zlib.crc32(said))


class Line(NamedTuple):
    """A record that was read.

    Attributes:
        content: its JSON text.
        last: the number of the last record that was written with it.
        stop: the byte after it.
    """

    content: bytes
    last: int
    stop: int


class Place(NamedTuple):
    """The byte after the record ``number``."""

    number: int
    offset: int


def record_line(number: int, last: int, content: bytes) -> bytes:
    numbers = b"%d %d" % (number, last)
    checksum = zlib.crc32(content, zlib.crc32(numbers))
    return b"%b %d %08x %b\n" % (numbers, len(content), checksum, content)


def _record(data: bytes, start: int, number: int) -> Line:
    """The record ``number``, which begins at a byte of ``data``.

    Raises:
        DamagedError: it is another one, or not whole.
    """
    head = _RECORD.match(data, start)
    if head is None or int(head[2]) != number:
        raise DamagedError
    stop = head.end() + int(head[4])
    content = data[head.end() : stop]
    if data[stop : stop + 1] != b"\n" or zlib.crc32(content, zlib.crc32(head[1])) != int(head[5], 16):
        raise DamagedError
    return Line(content, int(head[3]), stop + 1)


class LogFile:
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
        begins = os.pread(self.descriptor, END_AT, 0)
        head = _FIRST.fullmatch(begins)
        if head is None and _OTHER.match(begins):
            raise FeedCorruptError(
                f"{path} begins with {shown(begins[:20].decode('ascii', 'replace'))}, which this version does not "
                "read: a newer one has written it"
            )
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

    def end(self) -> End:
        """Where the log ends.

        Raises:
            FeedCorruptError: the second line does not say it.
        """
        for _ in range(_TORN):
            found = _END.fullmatch(os.pread(self.descriptor, HEADER - END_AT, END_AT))
            if found is not None and zlib.crc32(found[1]) == int(found[2], 16):
                offset, last = map(int, found[1].split())
                return End(offset, last)
            time.sleep(1e-3)
        raise FeedCorruptError(f"{self.path}: its second line does not say where it ends")

    def records(self, start: int, number: int, stop: int) -> Iterator[Line]:
        """The records from ``number`` on, which begins at byte ``start``, up to byte ``stop``.

        Raises:
            DamagedError: one is not whole, or another one.
        """
        data, at, base = b"", 0, start  # data[at] is the byte base + at of the file
        while base + at < stop:
            try:
                record = _record(data, at, number)
            except DamagedError:
                rest = data[at:]
                if len(rest) > _LONGEST_LINE or base + len(data) >= stop:
                    raise
                base += at
                more = os.pread(self.descriptor, min(BLOCK, stop - base - len(rest)), base + len(rest))
                if not more:
                    raise
                data, at = rest + more, 0
                continue
            at, number = record.stop, number + 1
            yield record._replace(stop=base + at)


def first_line(log: str, first: int) -> bytes:
    return b"hiersrec-feed 1 %b %020d\n" % (log.encode(), first)
