"""The order in which requests are answered that keep the event loop busy."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary

AT_ONCE: Final = 4


class Turns:
    """Calls that block an event loop begin in the order in which they come, a few of them in one round of the loop, so
    that it soon looks after its connections again.

    By itself a loop reads whatever has come on all connections, then runs all of it. A request on a new connection
    takes three such rounds: the connection is accepted, the request is read, and then answered. Under load it would
    wait about three times as long as one that comes at the same time on an open connection. With one call a round,
    though, many clients that send little at a time would hold up those that wait for an answer.
    """

    def __init__(self) -> None:
        self._rounds: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Round]] = WeakKeyDictionary()

    async def mine(self) -> None:
        """Wait for a turn. The caller may block the loop until it awaits something else."""
        loop = asyncio.get_running_loop()
        now = self._rounds.get(loop)
        if now is None:
            now = self._rounds[loop] = _Round()
            loop.call_soon(self._next, loop)
        if now.left:
            now.left -= 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        now.waiting.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """In each round of ``loop``, until nobody waits: give the turns of the next one."""
        now = self._rounds[loop]
        if not now.waiting:
            del self._rounds[loop]
            return
        now.left = 0  # who comes now must not overtake those who get a turn
        given = 0
        while now.waiting and given < AT_ONCE:
            turn = now.waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                given += 1
        loop.call_soon(self._next, loop)


class _Round:
    """Of a loop: how many more calls may begin in it at once, and those who wait for another round."""

    def __init__(self) -> None:
        self.left = AT_ONCE
        self.waiting: Final = deque[asyncio.Future[None]]()
