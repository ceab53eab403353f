"""A Redis server of the tests, as a process, and a proxy before it that loses answers and connections."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.examples.processes import free_port
from tests.programs import program
from tests.waiting import wait_for

redis = pytest.importorskip("redis", reason="needs the extra redis")


class RedisServer:
    """Keeps all it acknowledges on the disk."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.port = folder, free_port()
        self._options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        self._options += ["--appendonly", "yes", "--appendfsync", "always", *options]
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("redis-server"), *self._options], stdout=log, stderr=log
            )
        wait_for(self._answers, "redis-server does not start")

    def kill(self) -> None:
        """As ``kill -9``."""
        self._process.kill()
        self._process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It answers nobody, and keeps its connections."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def client(self, **options: Any) -> Any:
        return redis.Redis(port=self.port, **options)

    def url(self, key: str = "changes", port: int | None = None) -> str:
        return f"redis://127.0.0.1:{port or self.port}/0?key={key}"

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            self.client().ping()
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False
        return True


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server whose files are in ``folder``, killed at the end; skips where the program is not installed."""
    server = RedisServer(folder, *options)
    try:
        yield server
    finally:
        server.kill()


class Proxy:
    """Passes connections on to a port of this machine.

    Attributes:
        port: where it listens.
        loses_answers: to scripts: whoever runs one is cut off once the server has it.
    """

    def __init__(self, target: int) -> None:
        self._target, self.port = target, free_port()
        self.loses_answers = False
        self._sockets: set[socket.socket] = set()
        self._listening: socket.socket | None = None
        self.up()

    def up(self) -> None:
        """Pass on connections."""
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections, and cut off those that there are."""
        if self._listening is not None:
            # close() alone lets an accept() in another thread go on
            self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
        for each in list(self._sockets):
            _cut(each)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near = listening.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets |= {near, far}
                lost = threading.Event()
                for source, target in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._pass_on, args=(source, target, lost, source is near), daemon=True
                    ).start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, lost: threading.Event, is_request: bool
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if is_request and self.loses_answers and b"EVALSHA" in data:
                    lost.set()
                elif not is_request and lost.is_set():
                    break
                target.sendall(data)
        _cut(source)
        _cut(target)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
