"""What a service counts, for Prometheus.

Where ``PROMETHEUS_MULTIPROC_DIR`` names a folder, as in the workers of ``hiersrec serve``, any worker answers for all.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from hiersrec_sdk.results import Result

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS: Final = (
    *(0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0),
)
STEPS: Final = ("read", "wait", "recommend", "write")
_ATTEMPTS: Final = 5  # to read the files of all workers


class Metrics:
    """The metrics of one app in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self._requests = Counter(
            "hiersrec_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=here,
        )
        self._request_seconds = Histogram(
            "hiersrec_request_seconds", "Time of a request.", ["route"], buckets=_SECONDS, registry=here
        )
        self._step_seconds = Histogram(
            "hiersrec_step_seconds",
            "Time of the steps of /recommend: read the request, wait for its turn, recommend, write the answer.",
            ["step"],
            buckets=_SECONDS,
            registry=here,
        )
        self._sessions = Counter("hiersrec_sessions", "Sessions answered, by mode.", ["mode"], registry=here)
        self.unknown_ids = Counter(
            "hiersrec_unknown_ids", "Ids of sessions that the catalog lacks.", registry=here
        )
        self.reloads = Counter(
            "hiersrec_reloads", "Loads of a new bundle, by result.", ["result"], registry=here
        )
        self.reload_failing = _gauge(
            "hiersrec_reload_failing", "1 while the bundle at the path cannot be loaded.", "livemax", here
        )
        self.snapshot_age = _gauge(
            "hiersrec_snapshot_age_seconds", "Time since the last change of the catalog.", "livemax", here
        )
        self.feed_position = _gauge(
            "hiersrec_feed_position",
            "Position in the change feed of the worker farthest back.",
            "livemin",
            here,
        )
        self.feed_lag = _gauge(
            "hiersrec_feed_lag", "Changes that the worker farthest back has not applied yet.", "livemax", here
        )
        self.feed_rejected = _gauge(
            "hiersrec_feed_rejected", "Changes of the feed that could not be applied.", "livemax", here
        )
        self.feed_failing = _gauge(
            "hiersrec_feed_failing", "1 while the feed cannot be followed.", "livemax", here
        )
        self._workers = Gauge(
            "hiersrec_workers",
            "Workers by the SHA-256 of the bundle that they serve.",
            ["bundle"],
            multiprocess_mode="livesum",
            registry=here,
        )
        self._digest = ""
        # found once: to look a child up by its labels takes longer than to count
        self._steps = [self._step_seconds.labels(step) for step in STEPS]
        self._routes: dict[tuple[str, int], tuple[Callable[[float], None], Callable[[], None]]] = {}
        self._modes = {mode: self._sessions.labels(mode) for mode in ("candidates", "exact", "popular")}

    def request(self, route: str, status: int, started: float) -> None:
        """Count a request that began at ``started`` of ``time.perf_counter()``."""
        found = self._routes.get((route, status))
        if found is None:
            found = self._request_seconds.labels(route).observe, self._requests.labels(route, str(status)).inc
            self._routes[route, status] = found
        observe, count = found
        observe(time.perf_counter() - started)
        count()

    def refusal(self, reason: str, status: int) -> None:
        """Count a request that no route has answered: "none" there is, or its "head" is wrong."""
        self._requests.labels(reason, str(status)).inc()

    def steps(self, *times: float) -> None:
        """Count the steps of a recommendation, from the moments between which they lie."""
        for step, begin, end in zip(self._steps, times, times[1:], strict=False):
            step.observe(end - begin)

    def results(self, results: Iterable[Result]) -> None:
        """Count the sessions that were answered."""
        for result in results:
            self._modes[result.mode].inc()
            if result.unknown_ids:
                self.unknown_ids.inc(result.unknown_ids)

    def serves(self, digest: str) -> None:
        """Say which bundle this process serves from now on."""
        if self._digest:
            self._workers.labels(self._digest).set(0)
        self._workers.labels(digest).set(1)
        self._digest = digest

    def text(self) -> bytes:
        """All of it, of all workers, as Prometheus reads it."""
        if FOLDER not in os.environ:
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)
        for _ in range(_ATTEMPTS - 1):
            # of a worker that has just been forgotten, or has just made its file
            with suppress(FileNotFoundError, struct.error):
                return generate_latest(every)
        return generate_latest(every)


def forget_process(pid: int) -> None:
    """Forget the gauges of a worker that has died, and its other files where it has counted nothing, as one that could
    not start: such would be more with every start, and each is read for every answer of ``/metrics``."""
    mark_process_dead(pid)
    for file in Path(os.environ[FOLDER]).glob(f"*_{pid}.db"):
        # an empty one: it died while it made the file
        if not file.stat().st_size or not any(
            value for _, value, _, _ in MmapedDict.read_all_values_from_file(file)
        ):
            file.unlink()


def _gauge(name: str, about: str, mode: Literal["livemax", "livemin"], registry: CollectorRegistry) -> Gauge:
    return Gauge(name, about, multiprocess_mode=mode, registry=registry)
