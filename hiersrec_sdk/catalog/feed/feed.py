"""An ordered log of catalog changes: what the two kinds, a file and a Redis stream, have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from hiersrec_sdk.catalog.changes import Change
from hiersrec_sdk.errors import FeedBehindError, FeedLostError


class Record(NamedTuple):
    """A change in a log.

    Attributes:
        position: its number in the log: 1, 2, 3 ... without gaps.
        content: the change as JSON.
    """

    position: int
    content: bytes


class Feed(ABC):
    """A log to which any number of threads and processes append, and which any number read.

    Attributes:
        label: how messages call it; without a password.
        log: the identity of the log, random, made with it: a position means something in its own log only.
    """

    label: str
    log: str

    def append(self, changes: Iterable[Mapping[str, Any] | Change]) -> int:
        """Append changes, see :mod:`hiersrec_sdk.catalog.changes`: all or none, and on the disk when it returns. Of a
        Redis feed the server's settings say whether they are.

        Their form is checked. Whether a catalog can make them is not: :meth:`Follower.publish` does that.

        Returns:
            The position of the last one.

        Raises:
            CatalogChangeError, InvalidItemIdError: one is no change. Nothing is appended.
            FeedError: they cannot be appended; the message says whether they may be in the log all the same.
        """
        checked = [each if isinstance(each, Change) else Change.of(each) for each in changes]
        return self._append([each.to_json() for each in checked]) if checked else self.last

    @abstractmethod
    def _append(self, changes: Sequence[bytes]) -> int: ...

    @abstractmethod
    def read(self, after: int, most: int, wait: float = 0.0) -> list[Record]:
        """At most ``most`` records after the position ``after``, in order; none after ``wait`` seconds without any.

        Raises:
            FeedBehindError: the log does not reach back so far.
            FeedLostError: the log is another one by now, or ends before ``after``.
            FeedCorruptError: a record is damaged; names the file, the record and the byte.
            FeedError: it cannot be read.
        """

    @property
    @abstractmethod
    def first(self) -> int:
        """The position of the oldest record; of the next one where there is none."""

    @property
    @abstractmethod
    def last(self) -> int:
        """The position of the newest record; 0 where there never was one."""

    @abstractmethod
    def drop(self, before: int) -> None:
        """Drop the records before the position ``before``.

        Raises:
            FeedError: it cannot be written. What is there stays.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the file, or of the connection. Later calls are errors."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    def check_reaches(self, after: int, first: int, last: int) -> None:
        """Check that a log of the records ``first`` to ``last`` goes on after the position ``after``.

        Raises:
            FeedBehindError, FeedLostError: it does not.
        """
        if after < first - 1:
            raise FeedBehindError(
                f"{self.label} begins with record {first}, and the catalog contains it up to {after}: load the newest "
                "bundle that hiersrec catalog compact has written"
            )
        if after > last:
            raise FeedLostError(
                f"{self.label} ends with record {last}, but the catalog contains it up to {after}: the feed has lost "
                "changes; load the newest bundle on every replica, and follow a new feed"
            )
