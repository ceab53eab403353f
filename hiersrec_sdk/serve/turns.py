"""The order in which requests are answered that keep the event loop busy."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final
from weakref import WeakKeyDictionary


class Turns:
    """Calls that block an event loop begin one at a time, in the order in which they come, and between two of them the
    loop looks after its connections.

    By itself a loop reads whatever has come on all connections, then runs all of it. A request on a new connection
    takes three such rounds: the connection is accepted, the request is read, and then answered. Under load it would
    wait about three times as long as one that comes at the same time on an open connection.
    """

    def __init__(self) -> None:
        # of a loop, as long as it has no turn to give: those who wait
        self._waiting: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, deque[asyncio.Future[None]]]] = (
            WeakKeyDictionary()
        )

    async def mine(self) -> None:
        """Wait for a turn. The caller may block the loop until it awaits something else."""
        loop = asyncio.get_running_loop()
        waiting = self._waiting.get(loop)
        if waiting is None:
            self._waiting[loop] = deque()
            loop.call_soon(self._next, loop)
            return
        turn: asyncio.Future[None] = loop.create_future()
        waiting.append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """In each round of ``loop``, until nobody waits: give one turn."""
        waiting = self._waiting[loop]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():  # cancelled
                turn.set_result(None)
                loop.call_soon(self._next, loop)
                return
        del self._waiting[loop]
