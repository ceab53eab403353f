"""Requests that keep the event loop busy are answered in the order in which they come."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.serve import create_app
from hiersrec_sdk.serve.turns import AT_ONCE, Turns
from tests.waiting import PATIENCE, wait_for

CLIENTS = 30


@pytest.mark.parametrize("calls", [1, AT_ONCE, AT_ONCE + 1, 5 * AT_ONCE - 1])
def test_few_begin_in_a_round_of_the_loop_and_in_order(calls: int) -> None:
    async def all_of_them() -> list[tuple[int, int]]:
        loop, turns, rounds, found = asyncio.get_running_loop(), Turns(), 0, list[tuple[int, int]]()

        def count() -> None:
            nonlocal rounds
            rounds += 1
            loop.call_soon(count)

        async def call(number: int) -> None:
            await turns.mine()
            found.append((number, rounds))

        async def call_later(number: int) -> None:
            await asyncio.sleep(0)
            await call(number)

        count()
        await asyncio.gather(*map(call, range(calls)), *map(call_later, range(calls, 2 * calls)))
        for _ in range(3):
            await asyncio.sleep(0)
        await asyncio.gather(*map(call, range(2 * calls, 3 * calls)))
        return found

    found = asyncio.run(all_of_them())
    assert [number for number, _ in found] == list(range(3 * calls))
    begun = Counter(at for _, at in found)
    assert max(begun.values()) <= AT_ONCE


def test_one_that_is_cancelled_while_it_waits_is_passed_over() -> None:
    async def some_of_them() -> list[int]:
        turns, found = Turns(), list[int]()

        async def call(number: int) -> None:
            await turns.mine()
            found.append(number)

        calls = [asyncio.ensure_future(call(number)) for number in range(3 * AT_ONCE)]
        await asyncio.sleep(0)  # all have asked, some have begun
        for each in calls[AT_ONCE : 2 * AT_ONCE]:
            each.cancel()
        await asyncio.wait(calls)
        await call(-1)
        return found

    begun = [*range(AT_ONCE), *range(2 * AT_ONCE, 3 * AT_ONCE), -1]
    assert asyncio.run(some_of_them()) == begun


def test_a_loop_that_ends_while_some_wait_leaves_others_alone() -> None:
    """An app may be used in one loop after another, and in the loops of several threads."""
    turns = Turns()
    first = asyncio.new_event_loop()
    waiting = [first.create_task(turns.mine()) for _ in range(AT_ONCE + 1)]
    first.call_soon(first.stop)
    first.run_forever()
    assert [each.done() for each in waiting] == [True] * AT_ONCE + [False]
    asyncio.run(asyncio.wait_for(turns.mine(), PATIENCE))
    first.run_until_complete(asyncio.wait(waiting))
    first.close()


@pytest.mark.parametrize("route", ["recommend", "categories"])
def test_a_new_connection_waits_no_longer_than_others(
    route: str, shop_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load the loop would answer everybody twice before it reads what came on a new connection."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
    pytest.importorskip("uvloop", reason="needs the extra serve")
    recommender = Recommender.load(shop_bundle)
    call = getattr(Recommender, route)

    def slow(*given: Any, **options: Any) -> Any:
        time.sleep(0.003)
        return call(*given, **options)

    monkeypatch.setattr(Recommender, route, slow)
    server = uvicorn.Server(uvicorn.Config(create_app(recommender), port=0, loop="uvloop", log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started, "the server does not start")
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        answered_before = asyncio.run(asyncio.wait_for(_answers_before_a_new_one(port, route), PATIENCE))
    finally:
        server.should_exit = True
        thread.join()
    assert answered_before < CLIENTS + 4 * AT_ONCE


async def _answers_before_a_new_one(port: int, route: str) -> int:
    """How many answers others get from when a new client connects until it has its own."""
    body = json.dumps({"session": ["0"]})
    request = f"POST /{route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    answered, are_enough = 0, asyncio.Event()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.splitlines()[0]
        length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))

    async def keep_asking() -> None:
        nonlocal answered
        streams = await asyncio.open_connection("127.0.0.1", port)
        while True:
            await ask(*streams)
            answered += 1
            if answered > 3 * CLIENTS:
                are_enough.set()

    others = [asyncio.ensure_future(keep_asking()) for _ in range(CLIENTS)]
    await are_enough.wait()
    before = answered
    streams = await asyncio.open_connection("127.0.0.1", port)
    await ask(*streams)
    found = answered - before
    for each in others:
        each.cancel()
    await asyncio.wait(others)
    return found
