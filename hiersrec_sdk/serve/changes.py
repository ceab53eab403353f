"""The routes that change the catalog: through the change feed, for those who have the token."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
from starlette.types import Scope

from hiersrec_sdk.serve.limits import RefusedError, check_count
from hiersrec_sdk.serve.reload import Service
from hiersrec_sdk.serve.requests import BiasRequest, Changed, MoveRequest, RemoveRequest, UpsertRequest
from hiersrec_sdk.serve.settings import Settings

_AT_ONCE: Final = 32  # requests that publish; the others wait


class Changes:
    """Publishes changes; the answer comes when they are durable, and applied in this process."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service, self._settings = service, settings
        self._wanted = settings.token.encode()
        # of their own: where the feed cannot be reached, they wait, and batches and metrics must not
        self._threads = ThreadPoolExecutor(_AT_ONCE, "hiersrec-publish")

    def check_token(self, scope: Scope) -> None:
        """Refuse a request without the token, in a time that says nothing about it."""
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = given.partition(b" ")
        if not hmac.compare_digest(token, self._wanted) or scheme.lower() != b"bearer":
            raise RefusedError(
                401, "Unauthorized", "a header 'Authorization: Bearer TOKEN' is needed", close=True
            )

    @property
    def routes(self) -> dict[str, tuple[type[msgspec.Struct], Callable[[Scope, Any], Awaitable[bytes]]]]:
        """Type of request and answer, by the last part of the path."""
        return {
            "upsert": (UpsertRequest, self._upsert),
            "remove": (RemoveRequest, self._remove),
            "move": (MoveRequest, self._move),
            "bias": (BiasRequest, self._bias),
        }

    async def _upsert(self, scope: Scope, asked: UpsertRequest) -> bytes:
        return await self._publish("items", "upsert", asked.items)

    async def _remove(self, scope: Scope, asked: RemoveRequest) -> bytes:
        return await self._publish("ids", "remove", asked.ids)

    async def _move(self, scope: Scope, asked: MoveRequest) -> bytes:
        return await self._publish("items", "move", asked.items)

    async def _bias(self, scope: Scope, asked: BiasRequest) -> bytes:
        return await self._publish("items", "set_bias", asked.items)

    async def _publish(self, name: str, kind: str, values: list[Any]) -> bytes:
        check_count(name, values, self._settings)
        if not values:
            raise RefusedError(400, "InvalidRequest", f"{name} must have at least one element")
        changes = [{kind: value} for value in values]
        publishing = asyncio.get_running_loop().run_in_executor(self._threads, self._service.publish, changes)
        return msgspec.json.encode(Changed(await publishing))
