"""The load generator, against servers that are slow, stand still, refuse and hang up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.open_loop import Load, load
from benchmarks.serving import request, row

HOST = "127.0.0.1"
REQUESTS = [request(["a"]), request(["a", "b"])]
WELL = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def answering(answer: Callable[[int], tuple[float, bytes | None]]) -> Iterator[int]:
    """The port of a server that gives request ``n`` an answer after so many seconds; None: it hangs up."""
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while head := await reader.read(65536):
            assert head.startswith(b"POST /recommend HTTP/1.1\r\n")
            asked += 1
            wait, said = answer(asked - 1)
            await asyncio.sleep(wait)
            if said is None:
                break
            writer.write(said)
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(talk, HOST, 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def test_every_request_is_answered_and_timed() -> None:
    with answering(lambda n: (0.0, WELL)) as port:
        found = load(HOST, port, REQUESTS, rate=200, seconds=0.5)
    assert len(found.seconds) == len(found.late) == 100
    assert found.failed == 0
    assert (found.seconds > 0).all()


def test_a_server_that_stands_still_does_not_hold_back_what_is_due() -> None:
    """Requests that were due meanwhile go out on further connections, and count from when they were due."""
    with answering(lambda n: (0.4 if n < 50 else 0.0, WELL)) as port:
        found = load(HOST, port, REQUESTS, rate=200, seconds=0.5)
    assert found.failed == 0
    assert found.connections > 20
    assert np.count_nonzero(found.seconds >= 0.4) == 50


def test_failures_are_counted_and_take_forever() -> None:
    said = [WELL, b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", None]
    with answering(lambda n: (0.0, said[n % 3])) as port:
        found = load(HOST, port, REQUESTS, rate=100, seconds=0.3)
    assert found.failed == 20
    assert found.quantile(0.3) < np.inf
    assert found.quantile(0.99) == np.inf
    assert "inf" in row("server", 1, 0.3, found)


def test_nobody_listening_fails_every_request() -> None:
    with answering(lambda n: (0.0, WELL)) as port:
        pass
    assert load(HOST, port, REQUESTS, rate=100, seconds=0.1).failed == 10


@pytest.mark.parametrize("failed", [0, 3])
def test_quantiles_of_a_load(failed: int) -> None:
    found = Load(1, np.zeros(7 + failed), np.arange(1, 8) / 10, np.zeros(7), failed, 1)
    assert found.quantile(0.5) == pytest.approx(0.4 if not failed else 0.6)


@given(
    gaps=st.lists(st.integers(0, 10), max_size=30).map(lambda gaps: np.array(gaps, dtype=np.float64)),
    seconds=st.integers(0, 10),
)
def test_queue_of_a_load(gaps: NDArray[np.float64], seconds: int) -> None:
    due = gaps.cumsum()
    free, expected = 0.0, []
    for each in due.tolist():
        free = max(free, each) + seconds
        expected.append(free - each)
    assert Load(1, due, due, due, 0, 1).queue(seconds).tolist() == sorted(expected)
