"""What a request may take: size and time of its body, sessions, ``k``; and the errors that say so."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.types import Receive, Scope

from hiersrec_sdk.arguments import is_integer
from hiersrec_sdk.errors import InvalidKError
from hiersrec_sdk.serve.settings import Settings
from hiersrec_sdk.shown import shown


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        kind: the ``type`` of the answer's error.
        message: for the client.
        close: whether the connection ends, because the client may still be sending.
    """

    def __init__(self, status: int, kind: str, message: str, close: bool = False) -> None:
        super().__init__(message)
        self.status, self.kind, self.close = status, kind, close


async def read_body(scope: Scope, receive: Receive, settings: Settings) -> bytes:
    """The body of a request.

    Raises:
        RefusedError: 413, it is too large; 408, it takes too long; 400, the client has gone.
    """
    most = settings.max_body_bytes
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    # without a limit, Python refuses to read thousands of digits
    if not declared.isdigit() or len(declared) > _DIGITS or int(declared) > most:
        raise _too_large(most)
    try:
        async with asyncio.timeout(settings.body_seconds):
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False):
                body: bytes = message.get("body", b"")  # as a rule there is one part
                if len(body) > most:
                    raise _too_large(most)
                return body
            parts = bytearray()
            while message["type"] == "http.request":
                parts += message.get("body", b"")
                if len(parts) > most:
                    raise _too_large(most)
                if not message.get("more_body", False):
                    return bytes(parts)
                message = await receive()
    except TimeoutError:
        late = f"the body took longer than {settings.body_seconds:g} seconds"
        raise RefusedError(408, "BodyTimeout", late, close=True) from None
    raise RefusedError(400, "Disconnected", "the client has gone", close=True)


_DIGITS: Final = 18


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, "BodyTooLarge", f"the body must have at most {most:,} bytes", close=True)


def check_k(k: Any, settings: Settings) -> None:
    """Raise :class:`InvalidKError` where ``k`` is above what this service answers."""
    if is_integer(k) and k > settings.max_k:
        raise InvalidKError(f"k must be an integer from 1 to {settings.max_k:,} here, got {shown(k)}")


def check_count(name: str, given: Any, settings: Settings) -> None:
    """Raise :class:`RefusedError` where the list ``name`` is longer than this service takes."""
    if isinstance(given, list) and len(given) > settings.max_sessions:
        message = f"{name} must have at most {settings.max_sessions:,} elements, got {len(given):,}"
        raise RefusedError(413, "TooMany", message)


def check_hits(sessions: Any, k: Any, settings: Settings) -> None:
    """Raise :class:`RefusedError` where many ``sessions`` would get more hits than this service answers with."""
    if isinstance(sessions, list) and is_integer(k) and len(sessions) * k > settings.max_hits:
        most, asked = f"{settings.max_hits:,}", f"{len(sessions):,} sessions times k={k:,}"
        helps = "send fewer sessions at once, or ask for a smaller k"
        raise RefusedError(413, "TooMany", f"sessions times k must be at most {most}, got {asked}: {helps}")
