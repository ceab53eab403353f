"""The server of ``hiersrec serve``: uvicorn, with worker processes, limits on heads, and a reload by SIGHUP."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
from asyncio import TimerHandle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn import Config
from uvicorn.config import LOGGING_CONFIG
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from hiersrec_sdk.errors import HierSRecError, InvalidOptionError
from hiersrec_sdk.serve.asgi import App, create_app
from hiersrec_sdk.serve.metrics import FOLDER, forget_process
from hiersrec_sdk.serve.routes import failure
from hiersrec_sdk.serve.settings import Settings

_log = logging.getLogger(__name__)

_LINGER: Final = 0.25  # seconds for a request that is on its way when the server stops
_IGNORED: Final = 64 << 10  # bytes that a client may send after it has its answer
_PATIENCE: Final = (
    60  # seconds until a worker that says nothing is replaced; on a busy machine it starts slowly
)
_LOCAL: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where this machine finds what listens everywhere
_RESTART: Final = 1.0  # seconds before a worker that cannot start ends, and another one tries
_OF_THE_BODY: Final = (b"content-length", b"transfer-encoding")
_PIECE: Final = 4 << 10  # bytes that the parser gets at once: a head's size is known up to so many
_LEAST_READ: Final = 64 << 10  # bytes of an answer that a client must read in the time for a body


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on the head of a request, its size and the time to send it, and on the time that
    an answer is not read."""

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        settings: Settings = config.settings if isinstance(config, ServerConfig) else Settings()
        self._most_bytes, self._most_seconds = settings.max_header_bytes, settings.head_seconds
        self._reading_seconds = settings.body_seconds
        self._timer: TimerHandle | None = None  # while a head is waited for
        self._reading: TimerHandle | None = None  # while an answer is not read
        self._begun = False  # whether a part of it is there
        self._head_bytes = 0  # that the parser has found in the head
        self._sent_bytes = 0  # of the head, since the piece in which it began
        self._kept_bytes = 0  # by the parser, since it has told of something
        self._ignored_bytes = 0
        self._refusal: tuple[bytes, str, str] | None = None
        self._last_answer = b""  # the refusal that ends the connection, after the answers that are due
        self._before: Any = None  # the cycle of the request before
        self._ending = False
        self._is_told = False  # whether the parser is being told of a head that was read

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._head_is_there()
        self._stop_watching_reader()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        for start in range(0, len(data), _PIECE):
            if self._last_answer or self.transport.is_closing():
                return
            self._read(data[start : start + _PIECE])

    def _read(self, piece: bytes) -> None:
        self._sent_bytes += len(piece)
        self._kept_bytes += len(piece)
        self._unset_keepalive_if_required()
        try:
            self._parse(piece)
        except HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._last_answer or self.transport.is_closing():
            return
        # the parser keeps a header to itself until it is complete, and so one after a chunked body
        is_in_body = self.cycle is not None and self.cycle.more_body
        if (self._begun and self._sent_bytes > self._most_bytes) or (
            is_in_body and self._kept_bytes > self._most_bytes
        ):
            self._refuse_large_head()
            self.send_400_response("")
        elif self._timer is None and self._is_idle:  # blank lines have ended uvicorn's own wait
            self._wait_for_head()

    def _parse(self, piece: bytes) -> None:
        """Read on after a head that asks for another protocol: such a wish may be ignored (RFC 9110, section 7.8).

        The parser takes what follows for that protocol, and not for the request's body. So another one, which is told
        of the body, reads on.
        """
        while True:
            try:
                return self.parser.feed_data(piece)
            except HttpParserUpgrade as wish:
                piece = piece[wish.args[0] :]
            told = [b"POST / HTTP/1.1"]
            told += [b": ".join(each) for each in self.headers if each[0] in _OF_THE_BODY]
            if not self.cycle.keep_alive:
                told.append(b"connection: close")
            self.parser = HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self._is_told = True
            self.parser.feed_data(b"\r\n".join([*told, b"", b""]))
            self._is_told = False

    def on_message_begin(self) -> None:
        """A request begins; what else is in this piece may belong to the one before."""
        if self._is_told:
            return
        super().on_message_begin()
        self._begun, self._head_bytes, self._sent_bytes, self._kept_bytes = True, 0, 0, 0

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        if self._is_told:
            return
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        if self._is_told:
            return
        self._kept_bytes = 0
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there: the app takes over."""
        if self._is_told:
            return
        self._head_is_there()
        self._ignored_bytes = self._kept_bytes = 0
        self._before = self.cycle
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """A part of the body; one that nobody reads must end."""
        self._kept_bytes = 0
        if self.cycle.response_complete:
            self._ignored_bytes += len(body)
            if self._ignored_bytes > _IGNORED:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there, unless its body comes by another parser."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, after the answers to those before it, and end the connection."""
        status, kind, message = self._refusal or (b"400 Bad Request", "InvalidRequest", msg)
        body = failure(kind, message)
        head = (
            b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        self._last_answer = head + body
        if isinstance(self.app, App):
            self.app.count_refusal(int(status[:3]))
        self._head_is_there()
        if self.pipeline and self.cycle.more_body:  # it waits for its turn, and its body is wrong
            self.pipeline.popleft()
            self.cycle = self._before
        if self._is_idle or self.cycle.more_body:
            self._end_with_refusal()
        else:
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        """An answer is there: the next request's turn, or that of a refusal."""
        super().on_response_complete()
        self._stop_watching_reader()
        self._watch_reader()
        if self.transport.is_closing() or not self._is_idle:
            return
        if self._last_answer:
            self._end_with_refusal()
        elif self._begun:  # nobody may have read on until now, so its time begins now
            self._unset_keepalive_if_required()
            self._wait_for_head()

    def _watch_reader(self, before: int | None = None) -> None:
        """End the connection of a client that does not read its answer: it, and a close, would wait for ever.

        ``before``: bytes that were left a while ago.
        """
        left = self.transport.get_write_buffer_size()
        self._reading = None
        if not left:
            return
        if before is not None and left > before - _LEAST_READ:
            self.transport.abort()
            return
        self._reading = self.loop.call_later(self._reading_seconds, self._watch_reader, left)

    def _stop_watching_reader(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _end_with_refusal(self) -> None:
        if self._is_idle or not self.cycle.response_started:
            self.transport.write(self._last_answer)
        self.transport.close()

    def shutdown(self) -> None:
        """Let the server stop: after the request that runs, or one that is on its way."""
        self._ending = True
        if self._is_idle:
            self.loop.call_later(_LINGER, self._end)
        else:
            super().shutdown()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _end(self) -> None:
        if self._is_idle and not self.transport.is_closing():
            self.transport.close()

    def _count(self, length: int) -> None:
        self._head_bytes += length
        if self._head_bytes > self._most_bytes:
            self._refuse_large_head()
            raise ValueError  # for the parser, which stops

    def _refuse_large_head(self) -> None:
        message = f"request line and headers must have at most {self._most_bytes:,} bytes"
        self._refusal = b"431 Request Header Fields Too Large", "HeadTooLarge", message

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self._most_seconds, self._is_late)

    def _head_is_there(self) -> None:
        self._begun = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._begun:
            message = f"request line and headers took longer than {self._most_seconds:g} seconds"
            self._refusal = b"408 Request Timeout", "HeadTimeout", message
            self.send_400_response("")
        else:
            self.transport.close()


class ServerConfig(Config):
    """uvicorn's configuration with that of the service."""

    def __init__(
        self, settings: Settings, workers: int, drain_seconds: int, keep_alive: int, access: bool
    ) -> None:
        self.settings = settings
        logs: dict[str, Any] = deepcopy(LOGGING_CONFIG)
        logs["loggers"]["hiersrec_sdk"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
        super().__init__(
            "hiersrec_sdk.serve.server:worker_app",
            factory=True,
            workers=workers,
            loop="auto",  # uvloop; Windows does not have it
            http=LimitedProtocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=logs,
            access_log=access,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=keep_alive,
            timeout_graceful_shutdown=drain_seconds,
            timeout_worker_healthcheck=_PATIENCE,
        )


class Workers(Multiprocess):
    """uvicorn's supervisor: it replaces a worker that dies. SIGHUP reloads the bundle in place of the workers."""

    def handle_hup(self) -> None:
        """Have every worker load the bundle again."""
        for process in self.processes:
            if process.pid is not None and process.is_ready():  # another one is about to load it
                os.kill(process.pid, signal.SIGHUP)

    def terminate_all(self) -> None:
        """Stop all workers. Nobody listens from now on: who connects is refused, and does not wait for an answer."""
        for listening in self.sockets:
            listening.close()
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have died, and forget their gauges."""
        for (
            process
        ) in self.processes:  # the worker has its own: so one that dies is noticed, and not waited for
            process.child_conn.close()
        with self._forgetting():
            super().keep_subprocess_alive()

    def handle_ttou(self) -> None:
        """One worker less, by SIGTTOU."""
        with self._forgetting():
            super().handle_ttou()

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Forget the gauges of the workers that are gone afterwards."""
        before = {process.pid for process in self.processes}
        yield
        for pid in before - {process.pid for process in self.processes}:
            if pid is not None:
                forget_process(pid)


def worker_app() -> App:
    """The app of one worker, by the settings in its environment. Where the bundle cannot be loaded, or the feed not be
    followed, the worker ends, and the supervisor starts another one."""
    if (supervisor := multiprocessing.parent_process()) is not None:
        # before all that takes time: it may be killed meanwhile, as at any other moment
        threading.Thread(target=_end_with, args=(supervisor,), daemon=True).start()
    try:
        app = create_app(settings=Settings.from_environment())
        app.service.start()  # here, since uvicorn stops all workers where one fails later in its startup
    except HierSRecError as error:
        _log.error("the worker cannot start: %s", error)
        time.sleep(_RESTART)
        sys.exit(1)
    signal.signal(signal.SIGHUP, lambda *_: app.service.reload_soon())
    return app


def _end_with(supervisor: multiprocessing.process.BaseProcess) -> None:
    """Stop this worker when the supervisor is gone, killed: nobody would replace or stop it."""
    supervisor.join()  # by a pipe that it holds: its process id may be another's by now
    os.kill(os.getpid(), signal.SIGTERM)


def run(
    settings: Settings,
    host: str,
    port: int,
    config: ServerConfig,
    bound: Callable[[str], object] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        bound: called with the URL of the page on this machine, before any worker answers there.

    Raises:
        InvalidOptionError: nothing can listen there.
    """
    listening = _bound(host, port)
    with listening, tempfile.TemporaryDirectory(prefix="hiersrec-metrics-") as folder:
        # the workers begin with this environment, and with as many open connections as the system lets them have
        os.environ |= {**settings.environment(), FOLDER: folder}
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with suppress(ValueError, OSError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        port = listening.getsockname()[1]
        _log.info("serving on %s with %d workers", _url(host, port), config.workers)
        if bound is not None:
            bound(_url(_LOCAL.get(host, host), port))
        workers = Workers(config, [listening])
        try:
            workers.run()
        except (
            BaseException
        ):  # such as no memory for a worker: the others would serve on, and nobody would stop them
            workers.terminate_all()
            workers.join_all()
            raise


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _bound(host: str, port: int) -> socket.socket:
    """A socket with that address. It listens from when the first worker can answer."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise InvalidOptionError(
            f"--host {host} --port {port} cannot be used: {error.strerror or error}"
        ) from error
    found.set_inheritable(True)
    return found
