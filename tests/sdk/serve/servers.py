"""``hiersrec serve`` as a process, and clients that keep asking it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.examples.processes import free_port, running
from tests.sdk.bundles import make_shop
from tests.waiting import PATIENCE, has_ended, wait_for

SESSION = ["0", "größe-3"]
LIMITS = ("--head-seconds=1", "--body-seconds=1", "--max-body-bytes=100000", "--max-header-bytes=8000")


@dataclass
class Server:
    """A running server."""

    port: int
    folder: Path
    log: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str, asked: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON of an answer, on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            body = None if asked is None else json.dumps(asked)
            connection.request("GET" if asked is None else "POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def is_ready(self) -> bool:
        try:
            return self.ask("/readyz")[0] == 200
        except (OSError, HTTPException):
            return False

    @property
    def bundles(self) -> dict[str, float]:
        """How many workers serve each bundle."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        found = re.findall(r'^hiersrec_workers\{bundle="(\w+)"\} ([\d.]+)$', text, re.M)
        return {digest: float(count) for digest, count in found if float(count)}

    @property
    def workers(self) -> list[int]:
        """The process ids of the workers that serve."""
        started = map(int, re.findall(r"Started server process \[(\d+)\]", self.log.read_text()))
        return [pid for pid in started if not has_ended(pid)]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def answer_to(self, *parts: bytes) -> bytes:
        """What comes back, until the server closes the connection."""
        with self.connect() as connection:
            for part in parts:
                connection.sendall(part)
            return everything(connection)


def everything(connection: socket.socket) -> bytes:
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[Server]:
    """``hiersrec serve`` of the bundle in ``folder / "bundle"``."""
    port, log = free_port(), folder / "log"
    arguments = "serve", str(folder / "bundle"), f"--port={port}", *options
    with running("hiersrec", *arguments, log=log, **environment) as process:
        server = Server(port, folder, log, process)
        wait_for(lambda: process.poll() is not None or server.is_ready(), "the server does not start")
        assert process.poll() is None, log.read_text()
        yield server


@contextmanager
def limited(folder: Path) -> Iterator[Server]:
    """One worker with tight limits."""
    make_shop("string").write(folder / "bundle")
    with serving(folder, *LIMITS) as started:
        yield started
    assert "Traceback" not in started.log.read_text()


@dataclass
class Load:
    """Clients that keep asking, each on a kept connection; they send again what they did on one that was closed."""

    port: int
    answers: dict[tuple[str, ...], int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    retried: int = 0
    _done: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]
        for thread in self._threads:
            thread.start()
        wait_for(lambda: bool(self.answers), "there is no answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        body = json.dumps({"session": SESSION})
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        attempts = 0
        while not self._done.is_set():
            try:
                connection.request("POST", "/recommend", body)
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, HTTPException) as error:
                connection.close()
                attempts += 1
                with self._lock:
                    self.retried += 1
                    if attempts > 1:  # once may be the moment in which a connection was closed
                        self.failures.append(repr(error))
                continue
            attempts = 0
            with self._lock:
                if answer.status != 200:
                    self.failures.append(text.decode())
                else:
                    items = tuple(hit["item"] for hit in json.loads(text)["items"])
                    self.answers[items] = self.answers.get(items, 0) + 1
        connection.close()
