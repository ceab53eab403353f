"""Follows a change feed: a thread that keeps a catalog at the end of the log."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from hiersrec_sdk.arguments import is_integer
from hiersrec_sdk.catalog.changes import Change
from hiersrec_sdk.catalog.feed.feed import Feed, Record
from hiersrec_sdk.catalog.pauses import Rests, pause, paused, resting_by
from hiersrec_sdk.catalog.snapshot import Catalog, FeedPosition
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.errors import (
    ChangeSkippedError,
    FeedBehindError,
    FeedError,
    FeedLostError,
    InvalidArgumentError,
    InvalidOptionError,
)
from hiersrec_sdk.shown import shortened, shown
from hiersrec_sdk.systems import after_fork_in_child

_log = logging.getLogger(__name__)

_MOST: Final = 1_000  # records that are applied at once
_WAIT: Final = 0.2  # seconds that one reading waits for records
_PACE: Final = 0.1  # seconds between two snapshots, unless publish() waits
_RETRY: Final = 0.2  # seconds after an error
_PATIENCE: Final = 5.0  # seconds that publish() waits for an error to pass
_READ_AT_ONCE: Final = 50
_DECODED_AT_ONCE: Final = 2
_MOST_READ: Final = 16 << 20  # bytes, after which no more records are read to be applied at once
_SKIPPED_KEPT: Final = 10_000

_FOLLOWERS: Final[weakref.WeakSet[Follower]] = weakref.WeakSet()


@dataclass(frozen=True)
class Readers:
    """Those who read the catalog that a follower changes.

    Attributes:
        running: as many objects as calls run just now.
        prepare: called with a new snapshot before a call sees it.
    """

    running: set[object]
    prepare: Callable[[Catalog], object]


class Follower:
    """What :meth:`hiersrec_sdk.Recommender.follow` returns: a catalog that follows a change feed.

    Attributes:
        feed: the change feed.
        rejected: records that were skipped, as they are no changes that this catalog can make; every replica skips the
            same ones.
        error: why it stands still just now, or None; it goes on trying.
    """

    def __init__(
        self,
        catalog: MutableCatalog,
        readers: Readers,
        feed: Feed,
        after: int | None = None,
        owns_feed: bool = False,
    ) -> None:
        """Catch up with what ``feed`` holds, then go on in a thread; see :meth:`hiersrec_sdk.Recommender.follow`.

        ``owns_feed``: the feed is closed with it.
        """
        before = catalog.follower
        if before is not None and before.is_running:
            raise FeedError(
                "the recommender follows a change feed already: close() what follow() returned first"
            )
        self.feed, self._owns_feed = feed, owns_feed
        self.rejected = 0
        self.error: Exception | None = None
        self._catalog, self._readers = catalog, readers
        self._known = 0  # the newest record that is known to be in the log
        self._wanted = 0  # the newest record that publish() waits for
        self._done = 0  # the newest record that is applied, or skipped with an entry in _skipped
        self._skipped: dict[int, InvalidArgumentError] = {}  # the newest ones, by position, for publish()
        self._logged: set[type[Exception]] = set()
        self._changed = threading.Condition()
        self._stop, self._hurry = threading.Event(), threading.Event()
        self._pieces = 1  # of work, in the last step
        self._is_forked = False
        start = _start(catalog.current.feed, feed, after)
        catalog.follower = self
        self._hurry.set()
        readers.running.clear()  # of calls that a fork left behind in another process
        try:
            catalog.apply([], start)
            self._done = start.position
            self._known = self._wanted = end = feed.last
            while self.position < end:
                self._step()
        except BaseException:
            catalog.follower = None
            raise
        self._hurry.clear()
        _log.info("following %s: at record %d", feed.label, self.position)
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(self), self._stop, self._hurry), name="hiersrec-feed", daemon=True
        )
        self._at_end = weakref.finalize(self, _end, self._stop, self._hurry)  # at exit too
        _FOLLOWERS.add(self)
        self._thread.start()

    @property
    def position(self) -> int:
        """The number of the newest record that the catalog contains."""
        feed = self._catalog.current.feed
        return 0 if feed is None else feed.position

    @property
    def lag(self) -> int:
        """How many records are known to be in the log and not applied yet."""
        return max(0, self._known - self.position)

    def publish(self, changes: Iterable[Mapping[str, Any] | Change]) -> int:
        """Change the catalog of every replica: append ``changes`` to the feed, durably, and apply them here.

        Args:
            changes: each a mapping with one key, as a line of a change file has it: ``{"upsert": {...}}``,
                ``{"remove": "id"}``, ``{"move": {"id": ..., "category": ...}}``, ``{"set_bias": {"id": ..., "value":
                ...}}``; or read already.

        Returns:
            The position of the last one, once calls here see it. Other replicas see it soon.

        Raises:
            InvalidArgumentError: one cannot be made in the newest snapshot, and nothing was published.
            ChangeSkippedError: they were published, but one could not be made any more, as another replica's change
                came first: every replica skips it, and makes the others.
            FeedBehindError, FeedLostError: the catalog cannot follow the feed any more; see :attr:`error`.
            FeedError: the feed cannot be written, or was closed; or the changes are in it, and not applied here yet.
        """
        self._check_running()
        # what is appended would not be applied here
        if isinstance(self.error, FeedBehindError | FeedLostError):
            raise type(self.error)(str(self.error)) from self.error
        checked = [each if isinstance(each, Change) else Change.of(each) for each in changes]
        if not checked:
            return self.position
        self._check(checked)
        contained = self.position
        last = self.feed.append(checked)
        with self._changed:
            self._wanted = max(self._wanted, last)
            if self._done < last:
                self._hurry.set()
        if last - len(checked) < contained:  # others have had these numbers
            raise FeedLostError(
                f"{self.feed.label} has the changes up to record {last}, but the catalog contained it up to "
                f"{contained} before: the feed has lost changes; load the newest bundle on every replica"
            )
        self._wait_for(last)
        for number, position in enumerate(range(last - len(checked) + 1, last + 1), 1):
            error = self._skipped.get(position)
            if error is not None:
                raise ChangeSkippedError(
                    f"change {number} of {len(checked)} was skipped by every replica, as another change came first: "
                    f"{error}",
                    number,
                ) from error
        return last

    def close(self) -> None:
        """Stop following. When it returns, the catalog does not change any more, and can be changed directly."""
        _end(self._stop, self._hurry)
        with self._changed:
            self._changed.notify_all()
        if not self._is_forked and self._thread is not threading.current_thread():
            self._thread.join()
        if self._catalog.follower is self:
            self._catalog.follower = None
        if self._owns_feed:
            self.feed.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"<Follower of {self.feed.label}: position {self.position}, lag {self.lag}, error {self.error!r}>"
        )

    @property
    def is_running(self) -> bool:
        """Whether it follows: it was not closed, nor forked."""
        return not (self._stop.is_set() or self._is_forked)

    def _check_running(self) -> None:
        if self._is_forked:
            raise FeedError(
                f"{self.feed.label} is not followed in a forked process, which has none of the threads of its parent: "
                "call follow() there"
            )
        if self._stop.is_set():
            raise FeedError(f"{self.feed.label} is not followed any more: close() was called")

    def _check(self, changes: Sequence[Change]) -> None:
        """Check that changes can be made, in the newest snapshot or after what others have published by now.

        Raises:
            InvalidArgumentError: one cannot.
            FeedError: the feed cannot be followed just now.
        """
        done = self._done  # before the check, as the thread may apply more meanwhile
        try:
            self._catalog.check(changes)
        except InvalidArgumentError:
            last = self.feed.last
            if done >= last:
                raise
            self._wait_for(last, "changes of others")
            self._catalog.check(changes)

    def _wait_for(self, position: int, what: str = "the changes") -> None:
        """Wait until the record ``position`` is applied.

        Raises:
            FeedError: it stands still; says that the feed has ``what``.
        """
        since: float | None = None  # the error is there
        with self._changed:
            while self._done < position:
                self._changed.wait(_WAIT)
                since = None if self.error is None else since or time.monotonic()
                stands_still = since is not None and time.monotonic() - since > _PATIENCE
                if self._done < position and (stands_still or not self.is_running):
                    raise FeedError(
                        f"{self.feed.label} has {what}, up to record {position}, but they are not applied here yet: "
                        f"{self.error or 'close() was called'}"
                    ) from self.error

    def _step(self) -> None:
        """Apply the next records, if there are any."""
        rests = Rests(self._readers.running, self._hurry, _PACE, self._pieces)
        with resting_by(rests):
            self._read_and_apply()
        if rests.count:
            self._pieces = rests.count

    def _read_and_apply(self) -> None:
        records = self.feed.read(self.position, _READ_AT_ONCE)
        further = records
        size = 0
        while len(further) == _READ_AT_ONCE and len(records) < _MOST:
            size += sum(len(record.content) for record in further)
            if size >= _MOST_READ:
                break
            pause()
            further = self.feed.read(records[-1].position, _READ_AT_ONCE)
            records += further
        if records:
            self._known = max(self._known, records[-1].position)
            if len(further) == _READ_AT_ONCE:  # there may be more
                self._known = self.feed.last
            self._apply(records)

    def _apply(self, records: Sequence[Record]) -> None:
        now = self._catalog.current.feed
        assert now is not None
        changes: list[Change] = []
        skipped: list[tuple[int, InvalidArgumentError]] = []
        for record in paused(records, _DECODED_AT_ONCE):
            try:
                changes.append(Change.from_json(record.content, record.position))
            except InvalidArgumentError as error:
                skipped.append((record.position, error))
        end = FeedPosition(now.log, records[-1].position)
        made = self._catalog.apply(changes, end, self._readers.prepare)
        for position, why in [*skipped, *((change.number, why) for change, why in made)]:
            self._skip(position, why)
        with self._changed:
            self._done = records[-1].position
            if self._done >= self._wanted and self.is_running:
                self._hurry.clear()
            self._changed.notify_all()

    def _skip(self, position: int, error: InvalidArgumentError) -> None:
        self.rejected += 1
        # their frames hold the snapshot and the records
        error.__traceback__ = error.__cause__ = error.__context__ = None
        self._skipped[position] = error
        if len(self._skipped) > _SKIPPED_KEPT:
            self._skipped.pop(next(iter(self._skipped)))
        if type(error) not in self._logged:
            self._logged.add(type(error))
            _log.warning(
                "%s: record %d is skipped, as every replica does: %s; further ones like it are counted in `rejected`",
                self.feed.label,
                position,
                error,
            )

    def _try(self) -> None:
        """One step of the thread."""
        try:
            self._step()
        except Exception as error:
            if self.error is None or str(self.error) != str(error):
                _log.warning("%s is not followed just now: %s", self.feed.label, shortened(error))
            self.error = error
            with self._changed:
                self._changed.notify_all()
            return
        if self.error is not None:
            _log.info("%s is followed again, at record %d", self.feed.label, self.position)
            self.error = None

    def _forked(self) -> None:
        """In a child that was forked: the thread is not there, and may have held the lock."""
        self._is_forked = True
        self._changed = threading.Condition()
        self._stop, self._hurry = threading.Event(), threading.Event()
        self._at_end.detach()
        self.error = FeedError(f"{self.feed.label} is not followed in a forked process: call follow() there")


def _run(follower: weakref.ref[Follower], stop: threading.Event, hurry: threading.Event) -> None:
    """What the thread does. It keeps nothing alive while it waits, so that a dropped recommender is freed."""
    while not stop.is_set():
        follows = follower()
        if follows is None:
            return
        before, began = follows.position, time.monotonic()
        follows._try()
        feed, position, has_failed = follows.feed, follows.position, follows.error is not None
        del follows
        if has_failed:
            stop.wait(_RETRY)
        elif position == before:
            with suppress(Exception):  # the next step meets it too
                feed.read(position, 1, _WAIT)
        else:
            hurry.wait(max(0.0, began + _PACE - time.monotonic()))


def _end(stop: threading.Event, hurry: threading.Event) -> None:
    stop.set()
    hurry.set()


def _start(contained: FeedPosition | None, feed: Feed, after: int | None) -> FeedPosition:
    """The position from which a catalog follows ``feed``.

    Raises:
        FeedBehindError, FeedLostError: it cannot.
    """
    if after is not None:
        if not is_integer(after, 0):
            raise InvalidOptionError(f"after must be an integer ≥ 0, got {shown(after)}")
        if contained is not None and contained.log == feed.log:
            raise InvalidOptionError(
                f"after must be None, got {after}: the catalog says itself that it contains {feed.label} up to "
                f"record {contained.position}"
            )
    elif contained is not None and contained.log != feed.log:
        raise FeedLostError(
            f"{feed.label} is the log {feed.log}, but the catalog contains changes of the log {contained.log}: follow "
            "that one; or load a bundle without changes, or give after=, the position up to which it contains this one"
        )
    position = int(after) if after is not None else 0 if contained is None else contained.position
    feed.check_reaches(position, feed.first, feed.last)
    return FeedPosition(feed.log, position)


def _after_fork() -> None:
    for follower in list(_FOLLOWERS):
        follower._forked()
    _FOLLOWERS.clear()


after_fork_in_child(_after_fork)
