"""An open-loop load generator for HTTP: requests are sent when they are due, whether or not others were answered.

A closed loop, which waits for an answer before it asks again, sends less while the server stands still, and so leaves
out the very requests that would have waited ("coordinated omission"). Here the time of a request counts from the moment
it was due, by a schedule that is drawn beforehand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_CONNECTIONS: Final = 1_000
_PATIENCE: Final = 10.0  # seconds for what was sent last to be answered
_AHEAD: Final = 0.002  # seconds; timers are no more precise


@dataclass(frozen=True)
class Load:
    """What a load came to.

    Attributes:
        rate: requests a second that were due.
        due: float64 [sent], seconds from the first moment to that at which each was due, rising.
        seconds: float64 [answered], from due to answered, of answers with status 200.
        late: float64 [sent], from due to sent: what the generator itself, or a want of connections, has added.
        failed: answers with another status, closed connections, and requests that were never answered.
        connections: most that were open at once.
    """

    rate: float
    due: NDArray[np.float64]
    seconds: NDArray[np.float64]
    late: NDArray[np.float64]
    failed: int
    connections: int

    def quantile(self, share: float) -> float:
        """Seconds; a request that failed counts as one that takes forever."""
        every = np.append(self.seconds, np.full(self.failed, np.inf))
        return float(np.quantile(every, share, method="higher")) if len(every) else np.inf

    def queue(self, seconds: float) -> NDArray[np.float64]:
        """Float64 [sent], rising: seconds that the same requests would take if one server answered them in
        order, in ``seconds`` each."""
        # at the nth answer n of them are behind the server, and the time in which it had nothing to do
        work = seconds * np.arange(1, len(self.due) + 1)
        idle = np.maximum.accumulate(self.due - (work - seconds))
        return np.sort(work + idle - self.due)


def load(host: str, port: int, requests: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> Load:
    """Send ``requests``, whole HTTP/1.1 messages, one after the other and again from the first.

    They are due at random moments, ``rate`` a second in mean (a Poisson process), for so many ``seconds``.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, round(rate * seconds))
    return asyncio.run(_Generator(host, port, requests, gaps.cumsum()).run(rate))


class _Connection(asyncio.Protocol):
    """Answers one request after the other."""

    def __init__(self, generator: _Generator) -> None:
        self.generator = generator
        self.due: float | None = None  # of the request that is on its way
        self.received = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, due: float, request: bytes) -> None:
        assert self.transport is not None
        self.due = due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received += data
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.received[:end]).lower()
        _, found, rest = head.partition(b"content-length:")
        length = int(rest.partition(b"\r\n")[0]) if found else 0
        if len(self.received) < end + 4 + length:
            return
        self.received.clear()
        due, self.due = self.due, None
        if due is not None:
            self.generator.answered(self, due, b" 200 " in head[:16])

    def connection_lost(self, error: Exception | None) -> None:
        self.generator.lost(self)


class _Generator:
    def __init__(self, host: str, port: int, requests: Sequence[bytes], due: NDArray[np.float64]) -> None:
        self.host, self.port, self.requests, self.due = host, port, requests, due
        self.free: deque[_Connection] = deque()
        self.waiting: deque[int] = deque()  # requests that are due and have no connection yet
        self.seconds: list[float] = []
        self.late: list[float] = []
        self.failed = self.open = self.most = self.started = 0
        self.begin = 0.0
        self.opening: set[asyncio.Task[None]] = set()

    async def run(self, rate: float) -> Load:
        self.begin = perf_counter()
        for number, due in enumerate(self.due.tolist()):
            while (left := self.begin + due - perf_counter()) > 0:
                await asyncio.sleep(left - _AHEAD if left > 2 * _AHEAD else 0)
            self._ask(number)
        until = perf_counter() + _PATIENCE
        while len(self.seconds) + self.failed < len(self.due) and perf_counter() < until:
            await asyncio.sleep(0.01)
        failed = len(self.due) - len(self.seconds)
        for task in self.opening:
            task.cancel()
        for connection in self.free:
            if connection.transport is not None:
                connection.transport.abort()
        return Load(rate, self.due, np.array(self.seconds), np.array(self.late), failed, self.most)

    def _ask(self, number: int) -> None:
        if self.free:
            self._send(self.free.pop(), number)
            return
        self.waiting.append(number)
        if self.open < MOST_CONNECTIONS:
            self.open += 1
            self.most = max(self.most, self.open)
            task = asyncio.get_running_loop().create_task(self._connect())
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), self.host, self.port)
        except OSError:
            self.open -= 1
            if self.waiting:
                self.waiting.popleft()
                self.failed += 1
            return
        self._next(connection)

    def _send(self, connection: _Connection, number: int) -> None:
        due = self.begin + float(self.due[number])
        self.late.append(perf_counter() - due)
        connection.send(due, self.requests[number % len(self.requests)])

    def _next(self, connection: _Connection) -> None:
        if self.waiting:
            self._send(connection, self.waiting.popleft())
        else:
            self.free.append(connection)

    def answered(self, connection: _Connection, due: float, is_well: bool) -> None:
        if is_well:
            self.seconds.append(perf_counter() - due)
        else:
            self.failed += 1
        self._next(connection)

    def lost(self, connection: _Connection) -> None:
        self.open -= 1
        if connection.due is not None:
            self.failed += 1
        if connection in self.free:
            self.free.remove(connection)
