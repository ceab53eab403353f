"""The servers of examples/ under load: stopped, recycled and crashed, many times over.

python -m tests.stress.servers --times 200

A stop is SIGTERM to the server, recycling is its own option for it (gunicorn's ``--max-requests``, uvicorn's
``--limit-max-requests``), a crash is SIGKILL to a worker. Clients send requests all the while, half of them on
connections of their own, half on connections that are kept. Prints, for each server and event:

seconds  of a stop, until every process has ended; of recycling, from the worker's word that it ends until it has; of a
         crash, until as many workers serve as before
killed   requests that a killed worker had, which nobody can answer
again    sent once more, since the server had closed a kept connection before it read the request, as HTTP allows
refused  begun after a stop was asked for
unread   closed before a worker had read them: those that wait in the queue of the socket when a server stops, above all
         with gunicorn's sync workers; and those that a worker of uvicorn has accepted, but not read, when it ends
cut      of a stop: cancelled by uvicorn at the end of its graceful timeout, on a connection that came as it stopped and
         that it forgot to close
lost     every other one without a right answer
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import click

from hiersrec_sdk import Recommender
from tests.examples.processes import free_port, running
from tests.sdk.bundles import make_shop
from tests.waiting import PATIENCE, has_ended, wait_for

CLIENTS: Final = 6
PAUSE: Final = 0.005  # seconds between the requests of a client, which leave the server a share of the cores
_DROPPED: Final = (ConnectionResetError, BrokenPipeError, http.client.BadStatusLine)  # before any answer

_UVICORN_LOG: Final = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"one": {"format": "[%(process)d] [%(levelname)s] %(message)s"}},
    "handlers": {"one": {"class": "logging.StreamHandler", "formatter": "one"}},
    "loggers": {
        name: {"handlers": ["one"], "level": "INFO", "propagate": False}
        for name in ("uvicorn", "uvicorn.access")
    },
}
_SERVES: Final = re.compile(r"\[(\d+)\] \[INFO\] (?:Booting worker|Application startup complete)")
_CUT: Final = "timeout graceful shutdown exceeded"
_STARTS: Final = re.compile(r"\[(\d+)\] \[INFO\] Starting gunicorn")
_RECYCLES: Final = re.compile(r"\[(\d+)\] \[INFO\] (?:Autorestarting worker|Maximum request limit)")


@dataclass(frozen=True)
class Server:
    """A way to run an example.

    Attributes:
        arguments: the command and its arguments; the port is appended.
        recycle: options that end a worker after some requests; none where nothing starts another one.
        workers: how many there are.
    """

    arguments: tuple[str, ...]
    bind: str
    recycle: tuple[str, ...]
    workers: int


_GUNICORN: Final = ("gunicorn", "--config", "examples/gunicorn.conf.py", "--access-logfile=-")
_UVICORN: Final = (
    "uvicorn",
    "examples.fastapi_service:app",
    "--timeout-graceful-shutdown=1",
    # Where much else runs, 5 seconds may not suffice to start a worker. No longer than tests wait: a worker that dies
    # between uvicorn's question and its answer is missed for that long.
    "--timeout-worker-healthcheck=40",
)
SERVERS: Final = {
    "gunicorn, preload, gthread": Server(_GUNICORN, "--bind=127.0.0.1:", ("--max-requests=100",), 2),
    "gunicorn, preload, sync": Server(
        (*_GUNICORN, "--worker-class=sync", "--threads=1"), "--bind=127.0.0.1:", ("--max-requests=100",), 2
    ),
    "uvicorn, 1 process": Server(_UVICORN, "--port=", (), 1),
    "uvicorn, 2 workers": Server((*_UVICORN, "--workers=2"), "--port=", ("--limit-max-requests=300",), 2),
}


def items_of(content: bytes) -> list[Any]:
    """The ids in an answer."""
    return [hit["item"] for hit in json.loads(content)["items"]]


@dataclass
class Load:
    """Clients that ask ``port`` until they are stopped, or refused after ``stopping``."""

    port: int
    body: bytes
    wanted: Sequence[list[Any]]  # any of these
    counts: Counter[str] = field(default_factory=Counter)
    killed_at: list[float] = field(default_factory=list)
    stopping: float = float("inf")
    ended: threading.Event = field(default_factory=threading.Event)
    says: list[str] = field(default_factory=list)

    def ask(self, connection: http.client.HTTPConnection) -> None:
        connection.request("POST", "/recommend", self.body, {"Content-Type": "application/json"})
        with connection.getresponse() as reply:
            content = reply.read()
            if reply.status != 200 or items_of(content) not in self.wanted:
                raise ValueError(f"{reply.status}: {content[:200]!r}")
            if reply.will_close:
                connection.close()

    def client(self, keep: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        while not self.ended.is_set():
            started = time.monotonic()
            again = False
            try:
                kept = connection.sock is not None
                try:
                    self.ask(connection)
                except _DROPPED:
                    connection.close()
                    if not kept:
                        raise
                    again = True
                    self.ask(connection)
                outcome = "answered"
            except (OSError, http.client.HTTPException, ValueError) as error:
                connection.close()
                outcome = self.outcome(started, error)
            self.counts[outcome] += 1
            self.counts["again"] += again
            if outcome == "refused":
                break
            if not keep:
                connection.close()
            time.sleep(PAUSE)
        connection.close()

    def outcome(self, started: float, error: Exception) -> str:
        """What became of a request without an answer."""
        now = time.monotonic()
        if now > self.stopping and isinstance(error, ConnectionRefusedError):
            return "refused"
        if started > self.stopping and isinstance(error, _DROPPED):
            return "refused"
        if not isinstance(error, (TimeoutError, ValueError)) and any(
            started <= at <= now for at in self.killed_at
        ):
            return "killed"
        self.says.append(f"{type(error).__name__}: {error}, {now - started:.3f} s after it began")
        return "lost"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Clients ask while this holds."""
        threads = [threading.Thread(target=self.client, args=(at % 2 == 0,)) for at in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.ended.set()
            for thread in threads:
                thread.join()


@dataclass
class Outcome:
    """What came of one server and event: ``seconds`` of each time, and the requests counted by what became of them."""

    seconds: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    says: list[str] = field(default_factory=list)

    def add(self, load: Load, log: str) -> None:
        counts = load.counts
        if counts["lost"] and _CUT in log:
            counts["cut"], counts["lost"] = counts["lost"], 0
        elif counts["lost"] and log.count('"POST /recommend') == counts["answered"]:
            counts["unread"], counts["lost"] = counts["lost"], 0
        self.counts += counts
        self.says += load.says


@dataclass
class Started:
    """A server that runs, in a process group of its own."""

    name: str
    pid: int
    log: Path
    load: Load
    workers: int

    def found(self, pattern: re.Pattern[str]) -> list[int]:
        """The process ids in the lines of the log that match."""
        return [int(pid) for pid in pattern.findall(self.log.read_text())]

    def serving(self) -> list[int]:
        """The workers that serve."""
        return [pid for pid in self.found(_SERVES) if not has_ended(pid)]


def expected(bundle: Path) -> tuple[list[Any], list[Any]]:
    """The session that clients ask with, and its items."""
    recommender = Recommender.load(bundle)
    session = recommender.catalog.ids(recommender.catalog.most_clicked(3))
    return list(session), list(recommender.recommend(session, 9).items)


@contextmanager
def started(server: Server, bundle: Path, folder: Path, *options: str) -> Iterator[Started]:
    """``server`` with its log in ``folder``; it is stopped at the end."""
    log, config, port = folder / "log", folder / "log.json", free_port()
    config.write_text(json.dumps(_UVICORN_LOG))
    session, wanted = expected(bundle)
    load = Load(port, json.dumps({"session": session, "k": 9}).encode(), [wanted])
    logging = (f"--log-config={config}",) if server.arguments[0] == "uvicorn" else ()
    arguments = (*server.arguments[1:], f"{server.bind}{port}", *logging, *options)
    with running(server.arguments[0], *arguments, log=log, HIERSREC_BUNDLE=str(bundle)) as process:
        here = Started(server.arguments[0], process.pid, log, load, server.workers)
        wait_for(lambda: len(here.serving()) == server.workers or process.poll() is not None, "it serves")
        wait_for(lambda: _listens(port) or process.poll() is not None, "it listens")
        assert process.poll() is None, log.read_text()
        yield here
        if load.stopping < float("inf"):  # else running() stops it
            process.wait(PATIENCE)
    found = log.read_text()
    assert "Traceback" not in found or _CUT in found, found


def stop(server: Server, bundle: Path, folder: Path, times: int) -> Outcome:
    """Start and stop the server."""
    found = Outcome()
    for _ in range(times):
        with started(server, bundle, folder) as here, here.load.running():
            time.sleep(0.2)
            here.load.stopping = time.monotonic()
            os.kill(here.pid, signal.SIGTERM)
            wait_for(lambda: has_ended(here.pid), "it stops", 0.005)
            wait_for(lambda: all(map(has_ended, here.found(_SERVES))), "its workers stop", 0.005)
            found.seconds.append(time.monotonic() - here.load.stopping)
        found.add(here.load, here.log.read_text())
    return found


def recycle(server: Server, bundle: Path, folder: Path, times: int) -> Outcome:
    """Let workers end after some requests each."""
    found = Outcome()
    with started(server, bundle, folder, *server.recycle) as here, here.load.running():
        said: dict[int, float] = {}
        ended: set[int] = set()
        until = time.monotonic() + PATIENCE * times
        while len(ended) < times:
            now = time.monotonic()
            assert now < until, here.log.read_text()[-2000:]
            for pid in here.found(_RECYCLES):
                said.setdefault(pid, now)
            for pid in said.keys() - ended:
                if has_ended(pid):
                    ended.add(pid)
                    found.seconds.append(now - said[pid])
            time.sleep(0.01)
    found.add(here.load, here.log.read_text())
    return found


def crash(server: Server, bundle: Path, folder: Path, times: int) -> Outcome:
    """Kill workers."""
    found = Outcome()
    with started(server, bundle, folder) as here, here.load.running():
        for _ in range(times):
            time.sleep(0.2)
            killed = here.serving()[0]
            now = time.monotonic()
            here.load.killed_at.append(now)
            os.kill(killed, signal.SIGKILL)
            wait_for(partial(has_ended, killed), "it dies", 0.001)
            wait_for(lambda: len(here.serving()) == here.workers, "another worker serves", 0.01)
            found.seconds.append(time.monotonic() - now)
    found.add(here.load, here.log.read_text())
    return found


def reload(here: Started) -> None:
    """Have ``here`` load its bundle again, as docs/how-to/deploying.md says: workers are replaced by others."""
    old = here.serving()
    if here.name == "uvicorn":
        os.kill(here.pid, signal.SIGHUP)
    else:
        os.kill(here.pid, signal.SIGUSR2)
        wait_for(lambda: len(here.serving()) == 2 * here.workers, "another master serves")
        master, here.pid = here.pid, here.found(_STARTS)[-1]
        os.kill(master, signal.SIGTERM)
    wait_for(lambda: all(map(has_ended, old)) and len(here.serving()) == here.workers, "only new ones serve")


EVENTS: Final[dict[str, Callable[[Server, Path, Path, int], Outcome]]] = {
    "stop": stop,
    "recycle": recycle,
    "crash": crash,
}


def resident(server: Server, bundle: Path, folder: Path, requests: int) -> list[tuple[int, int]]:
    """MB that the processes hold together after a tenth, two tenths ... of ``requests``, with how many those were."""
    found: list[tuple[int, int]] = []
    with started(server, bundle, folder) as here, here.load.running():
        while len(found) < 10:
            answered = here.load.counts["answered"]
            if answered >= requests * (len(found) + 1) // 10:
                pids = {here.pid, *here.serving()}
                found.append((answered, sum(map(_resident_kb, pids)) // 1024))
            time.sleep(0.05)
    assert not here.load.counts["lost"], here.load.says
    return found


def happens(server: Server, event: str) -> bool:
    """Whether there is such an event: a single process of uvicorn is replaced by nobody."""
    return event == "stop" or bool(server.recycle)


def _resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@click.command()
@click.option("--times", default=200, type=click.IntRange(1), show_default=True, help="Of each event.")
@click.option(
    "--requests",
    type=click.IntRange(10),
    help="Print the memory along so many requests, and do nothing else.",
)
@click.option("--server", "chosen", multiple=True, type=click.Choice(list(SERVERS)), help="Only these.")
@click.option("--event", "events", multiple=True, type=click.Choice(list(EVENTS)), help="Only these.")
def main(times: int, requests: int | None, chosen: tuple[str, ...], events: tuple[str, ...]) -> None:
    """Stop, recycle and crash the servers of examples/ under load."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = make_shop(covisitation=True).write(folder / "bundle")
        if requests is None:
            raise SystemExit(_table(bundle, folder, times, chosen or tuple(SERVERS), events or tuple(EVENTS)))
        for title in chosen or SERVERS:
            found = resident(SERVERS[title], bundle, folder, requests)
            click.echo(f"{title:27} {', '.join(f'{count:,}: {mb} MB' for count, mb in found)}")


def _table(bundle: Path, folder: Path, times: int, chosen: tuple[str, ...], events: tuple[str, ...]) -> bool:
    """Print the table; whether a request was lost."""
    columns = ("answered", "killed", "again", "refused", "unread", "cut", "lost")
    head = "".join(f" {one:>8}" for one in columns)
    click.echo(f"{'server':27} {'event':8} {'times':>5} {'median':>7} {'worst':>6}{head}")
    failed = False
    for title in chosen:
        for event in events:
            if not happens(SERVERS[title], event):
                continue
            found = EVENTS[event](SERVERS[title], bundle, folder, times)
            seconds = f"{median(found.seconds):>7.2f} {max(found.seconds):>6.2f}"
            counts = "".join(f" {found.counts[one]:>8,}" for one in columns)
            click.echo(f"{title:27} {event:8} {len(found.seconds):>5} {seconds}{counts}")
            for line in found.says[:5]:
                click.echo(f"    without an answer: {line}")
            failed |= found.counts["lost"] > 0
    return failed


if __name__ == "__main__":
    main()
