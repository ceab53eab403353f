"""The recommender that is served, and the bundle that takes its place: loaded beside it, checked, warmed, swapped."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from hiersrec_sdk.atomic import is_time_limit
from hiersrec_sdk.catalog.feed import Follower
from hiersrec_sdk.errors import BundleError, HierSRecError
from hiersrec_sdk.paths import as_path
from hiersrec_sdk.recommender import Recommender
from hiersrec_sdk.serve.metrics import Metrics

_log = logging.getLogger(__name__)

_EVERY: Final = 1.0  # seconds between looks at the folder
_AGAIN: Final = (
    30.0  # seconds until a bundle that could not be loaded is tried again, as it may have been half copied
)
_ABSENT: Final = (
    5.0  # seconds without a bundle at the path; between two renames there may be none for a moment
)
_LAST_LOAD: Final = 5.0  # seconds that a stop waits for a bundle that is being loaded
_LAST_CHANGES: Final = 30.0  # seconds for changes that go through a recommender that was replaced

_Signature = tuple[int, int, int, int] | None


class Served:
    """A recommender with its change feed, if it follows one."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self.digest: str = recommender.config["sha256"]
        self.follower: Follower | None = None
        self._publishing = 0
        self._closed = False
        self._changed = threading.Condition()

    def follow(self, feed: str) -> None:
        """Apply what the feed holds, and follow it from now on."""
        if self.follower is None or not self.follower.is_running:  # not yet, or before a stop or a fork
            self.follower = self.recommender.follow(feed)
            self._closed = False

    def publish(self, changes: Sequence[Mapping[str, Any]]) -> int | None:
        """Publish changes to the feed; their position, or None where another recommender has taken this one's place."""
        with self._changed:
            if self._closed:
                return None
            self._publishing += 1
        try:
            assert self.follower is not None  # where there are routes for changes, there is a feed
            return self.follower.publish(changes)
        finally:
            with self._changed:
                self._publishing -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Stop following, after the changes that are being published. Calls of the recommender may go on."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._publishing, _LAST_CHANGES)
        if self.follower is not None:
            self.follower.close()


class Service:
    """Serves a recommender, and reloads its bundle where that is replaced.

    Attributes:
        current: what is served. A request reads it once, and so ends with what it began with.
        failure: the kind of error because of which the bundle at the path is not the one that is served; or None.
    """

    def __init__(self, recommender: Recommender, path: Path | None, feed: str, metrics: Metrics) -> None:
        self.current = Served(recommender)
        self.failure: str | None = None
        self._path, self._feed, self._metrics = path, feed, metrics
        self._seen = None if path is None else _signature(path)
        self._tried = 0.0
        self._absent_since: float | None = None
        self._start_error: tuple[float, Exception] | None = None  # and until when it holds
        self._reloading = threading.Lock()
        self._wake: SimpleQueue[None] = (
            SimpleQueue()
        )  # an Event hangs where a signal interrupts its set() by another
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._snapshot: Any = recommender.catalog.current
        self._snapshot_since = time.time()

    @classmethod
    def open(cls, path: str | os.PathLike[str], feed: str, metrics: Metrics) -> Service:
        """Load the bundle ``path``; errors as :meth:`Recommender.load`."""
        folder = as_path(path, "bundle")
        seen = _signature(folder)
        service = cls(_loaded(folder), folder, feed, metrics)
        service._seen = seen
        return service

    @property
    def is_started(self) -> bool:
        """Whether the feed is followed, and the folder watched."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Follow the feed and watch the folder, in this process: after a fork, since threads do not survive one.

        It returns when the changes that the feed holds are applied.

        Raises:
            HierSRecError: the feed cannot be followed. For a second, other calls raise it at once: each may come with
                a request, and waiting for a server that does not answer takes longer.
        """
        with self._reloading:
            if self.is_started:
                return
            if self._start_error is not None and time.monotonic() < self._start_error[0]:
                raise self._start_error[1].with_traceback(None)
            if self._feed:
                try:
                    self.current.follow(self._feed)
                except HierSRecError as error:
                    self._start_error = time.monotonic() + _EVERY, error
                    raise
            self._metrics.serves(self.current.digest)
            self._stopped.clear()
            self._thread = threading.Thread(target=self._watch, name="hiersrec-reload", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop watching and following."""
        self._stopped.set()
        self._wake.put(None)
        if self._thread is not None:
            self._thread.join(_LAST_LOAD)
        self.current.close()

    def publish(self, changes: Sequence[Mapping[str, Any]]) -> int:
        """Publish changes to the feed that is followed; returns the position of the last one.

        Raises:
            HierSRecError: as ``follower.publish``; or the service stops.
        """
        while True:
            served = self.current
            position = served.publish(changes)
            if position is not None:
                return position
            if served is self.current:  # else a reload came between
                raise HierSRecError("the service stops")

    def reload_soon(self) -> None:
        """Load the bundle at the path again, in another thread. May be called by a signal handler."""
        self._wake.put(None)

    def reload(self) -> bool:
        """Load the bundle at the path, and serve it from then on. If that fails, the old one stays.

        Returns:
            Whether it succeeded.
        """
        if self._path is None:
            _log.warning("nothing to reload: the recommender was given, not the path of a bundle")
            return False
        with self._reloading:
            # before the load, so that a bundle which comes meanwhile is noticed
            self._seen, self._tried = _signature(self._path), time.monotonic()
            try:
                fresh = Served(_loaded(self._path))
                if self._feed:
                    fresh.follow(self._feed)
            except Exception as error:  # whatever is wrong with it, the old one is served
                if is_time_limit(error):
                    raise
                _log.exception("the bundle at %s cannot be loaded; the old one stays", self._path)
                self.failure = type(error).__name__
                self._metrics.reloads.labels("failed").inc()
                self._metrics.reload_failing.set(1)
                return False
            if self._stopped.is_set():  # meanwhile, and it has not waited
                fresh.close()
                return False
            old, self.current, self.failure = self.current, fresh, None
            self._metrics.reloads.labels("loaded").inc()
            self._metrics.reload_failing.set(0)
            self._metrics.serves(fresh.digest)
        _log.info("serving bundle %s in place of %s", fresh.digest[:12], old.digest[:12])
        old.close()
        return True

    def _watch(self) -> None:
        """Until :meth:`stop`: once a second look for another bundle, and say how things stand."""
        while not self._stopped.is_set():
            try:
                if self._is_woken():
                    if self._stopped.is_set():
                        return
                    self.reload()
                elif self._path is not None and self._is_replaced(self._path):
                    self.reload()
                self._say()
            except Exception:  # such as a full disk under the metrics; the next look may succeed
                _log.exception("watching the bundle failed")

    def _is_woken(self) -> bool:
        """Wait for a second; True as soon as somebody wants a reload. Those who want one at the same time get one."""
        with suppress(Empty):
            self._wake.get(timeout=_EVERY)
            while not self._wake.empty():
                self._wake.get_nowait()
            return True
        return False

    def _is_replaced(self, path: Path) -> bool:
        now, moment = _signature(path), time.monotonic()
        if now is not None:
            self._absent_since = None
        if now == self._seen:
            return self.failure is not None and moment - self._tried > _AGAIN
        if now is None and self._absent_since is None:
            self._absent_since = moment
        return self._absent_since is None or moment - self._absent_since > _ABSENT

    def _say(self) -> None:
        served, metrics = self.current, self._metrics
        if served.recommender.catalog.current is not self._snapshot:
            self._snapshot, self._snapshot_since = served.recommender.catalog.current, time.time()
        metrics.snapshot_age.set(time.time() - self._snapshot_since)
        if (follower := served.follower) is not None:
            metrics.feed_position.set(follower.position)
            metrics.feed_lag.set(follower.lag)
            metrics.feed_rejected.set(follower.rejected)
            metrics.feed_failing.set(follower.error is not None)


def _loaded(path: Path) -> Recommender:
    """The bundle, verified and warm: the first call takes longer."""
    recommender = Recommender.load(path, verify=True)
    catalog = recommender.catalog.current
    warm(recommender, catalog.ids(catalog.most_clicked(2)[:2]))
    return recommender


def warm(recommender: Recommender, session: Sequence[int | str]) -> None:
    """Make one call.

    Raises:
        BundleError: it finds nothing in a catalog that has items.
    """
    if len(recommender.catalog) and not recommender.recommend(list(session), 1).items:
        raise BundleError("the bundle recommends nothing")


def _signature(path: Path) -> _Signature:
    """What tells a bundle from the one that takes its place, without reading it; None where there is none."""
    try:
        try:
            about = (path / "config.json").stat()
        except NotADirectoryError:  # a zip file
            about = path.stat()
    except OSError as error:
        if is_time_limit(error):
            raise
        return None
    return about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size
