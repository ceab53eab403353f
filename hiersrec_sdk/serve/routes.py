"""The routes that read: each turns a request into a call of the recommender."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.types import Receive, Scope, Send

from hiersrec_sdk.errors import BundleError, FeedError, HierSRecError, InvalidArgumentError, UnknownItemError
from hiersrec_sdk.results import Result
from hiersrec_sdk.serve.limits import RefusedError, check_count, check_hits, check_k, read_body
from hiersrec_sdk.serve.metrics import Metrics
from hiersrec_sdk.serve.reload import Served, Service
from hiersrec_sdk.serve.requests import (
    Categories,
    CategoriesRequest,
    ExplainRequest,
    Failed,
    Failure,
    FeedState,
    ManyRecommendations,
    Readiness,
    Recommendations,
    RecommendRequest,
    Similar,
    SimilarRequest,
)
from hiersrec_sdk.serve.settings import Settings
from hiersrec_sdk.serve.turns import Turns
from hiersrec_sdk.shown import shortened

_log = logging.getLogger(__name__)

_Asked = TypeVar("_Asked", bound=msgspec.Struct)
_ENCODER: Final = msgspec.json.Encoder()
_EXCLUDED_AT_ONCE: Final = 100  # ids that are left out without a pass over the catalog
_LOOKED_UP_AT_ONCE: Final = 1_000  # ids of a session
_READ: Final = "hiersrec.read"  # in the scope: when the body was read


class Endpoint:
    """One route that takes JSON and answers it: an ASGI app.

    Args:
        kind: what is asked.
        answer: what answers it, from the request's scope and what is asked, as JSON.
        check: raises :class:`RefusedError` before the body is read.
    """

    def __init__(
        self,
        name: str,
        kind: type[_Asked],
        answer: Callable[[Scope, _Asked], Awaitable[bytes]],
        settings: Settings,
        metrics: Metrics,
        check: Callable[[Scope], None] | None = None,
    ) -> None:
        self._name, self._answer, self._check = name, answer, check
        self._settings, self._metrics = settings, metrics
        self._decoder = msgspec.json.Decoder(kind)
        self._known = ", ".join(kind.__struct_fields__)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started, status, close = time.perf_counter(), 200, False
        try:
            if self._check is not None:
                self._check(scope)
            asked = self._decoded(await read_body(scope, receive, self._settings))
            scope[_READ] = started, time.perf_counter()
            body = await self._answer(scope, asked)
        except Exception as error:
            status, kind, message, close = failure_of(error)
            body = failure(kind, message)
        await respond(send, status, body, close=close)
        self._metrics.request(self._name, status, started)

    def _decoded(self, body: bytes) -> Any:
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            what = shortened(str(error))
            raise RefusedError(400, "InvalidRequest", f"{what}; known fields: {self._known}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RefusedError(400, "InvalidJSON", f"the body is not JSON: {shortened(str(error))}") from None


async def respond(
    send: Send, status: int, body: bytes, media_type: bytes = b"application/json", close: bool = False
) -> None:
    """Send one answer."""
    headers = [(b"content-type", media_type), (b"content-length", b"%d" % len(body))]
    if close:
        headers.append((b"connection", b"close"))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def failure(kind: str, message: str) -> bytes:
    """The body of an error."""
    return _ENCODER.encode(Failure(Failed(kind, message)))


def failure_of(error: Exception) -> tuple[int, str, str, bool]:
    """Status, type and message of an error, and whether to end the connection. The log has what clients must not know:
    messages about bundles name files."""
    kind = type(error).__name__
    if isinstance(error, RefusedError):
        return error.status, error.kind, str(error), error.close
    if isinstance(error, InvalidArgumentError):
        return 404 if isinstance(error, UnknownItemError) else 400, kind, str(error), False
    if isinstance(error, HierSRecError):
        _log.error("request failed", exc_info=error)
        about = "it cannot be done now"
        if isinstance(error, BundleError):
            about = "the bundle cannot be used"
        elif isinstance(error, FeedError):
            about = "the change feed cannot be used, and the changes may have been made: send them again"
        return 503, kind, f"{about}; the log of the server says why", False
    _log.error("request failed", exc_info=error)
    return 500, "InternalError", "the log of the server says what happened", False


class Reading:
    """The answers to requests that change nothing."""

    def __init__(self, service: Service, settings: Settings, metrics: Metrics) -> None:
        self._service, self._settings, self._metrics = service, settings, metrics
        self._turns = Turns()

    async def recommend(self, scope: Scope, asked: RecommendRequest) -> bytes:
        """One session in the event loop: it takes less than to hand it to a thread. Whatever takes time that grows with
        the request or the catalog goes to one, so that others go on."""
        check_k(asked.k, self._settings)
        is_one = asked.session is not msgspec.UNSET
        if is_one == (asked.sessions is not msgspec.UNSET):
            raise RefusedError(400, "InvalidRequest", "give either session or sessions")
        options = asked.options()
        if not is_one:
            check_count("sessions", asked.sessions, self._settings)
            check_hits(asked.sessions, asked.k, self._settings)
            return await asyncio.to_thread(self._many, self._service.current, asked, options)
        if _is_slow(asked.session, options):
            return await asyncio.to_thread(self._one, self._service.current, asked, options, scope[_READ])
        await self._turns.mine()
        return self._one(self._service.current, asked, options, scope[_READ])

    def _one(
        self, served: Served, asked: RecommendRequest, options: dict[str, Any], times: tuple[float, ...]
    ) -> bytes:
        began = time.perf_counter()
        result = served.recommender.recommend(asked.session, asked.k, **options)
        recommended = time.perf_counter()
        body = _ENCODER.encode(_shown(result))
        self._metrics.steps(*times, began, recommended, time.perf_counter())
        self._metrics.results([result])
        return body

    def _many(self, served: Served, asked: RecommendRequest, options: dict[str, Any]) -> bytes:
        results = served.recommender.recommend_many(asked.sessions, asked.k, **options)
        self._metrics.results(results)
        return _ENCODER.encode(ManyRecommendations([_shown(result) for result in results]))

    async def categories(self, scope: Scope, asked: CategoriesRequest) -> bytes:
        """The most probable categories, in the event loop as a rule, as recommendations are."""
        check_k(asked.k, self._settings)

        def answer() -> bytes:
            found = self._service.current.recommender.categories(
                asked.session, asked.k, level=asked.level, on_unknown=asked.on_unknown
            )
            return _ENCODER.encode(Categories(found))

        if _is_slow(asked.session, {}):
            return await asyncio.to_thread(answer)
        await self._turns.mine()
        return answer()

    async def similar(self, scope: Scope, asked: SimilarRequest) -> bytes:
        """The items with the nearest vectors, in a thread, since every item ranks."""
        check_k(asked.k, self._settings)
        recommender, restrictions = self._service.current.recommender, asked.restrictions()

        def answer() -> bytes:
            only = recommender.filter(**restrictions) if restrictions else None
            return _ENCODER.encode(Similar(recommender.similar_items(asked.item, asked.k, filter=only)))

        return await asyncio.to_thread(answer)

    async def explain(self, scope: Scope, asked: ExplainRequest) -> bytes:
        """Why an item has its score, in a thread, since every item is scored."""
        recommender = self._service.current.recommender

        def answer() -> bytes:
            return _ENCODER.encode(
                recommender.explain(asked.session, asked.item, on_unknown=asked.on_unknown)
            )

        return await asyncio.to_thread(answer)


def _is_slow(session: Any, options: dict[str, Any]) -> bool:
    """Whether a call takes time that grows with the request or the catalog."""
    if _is_long(session, _LOOKED_UP_AT_ONCE):
        return True
    if not options:
        return False
    return (
        options.get("mode") == "exact"
        or options.get("candidates", "auto") not in (None, "auto")
        or not options.keys().isdisjoint(("allow", "categories", "exclude_categories"))
        or _is_long(options.get("exclude"), _EXCLUDED_AT_ONCE)
    )


def _is_long(ids: Any, most: int) -> bool:
    return isinstance(ids, list) and len(ids) > most


def _shown(result: Result) -> Recommendations:
    return Recommendations(
        items=list(result),
        categories=result.categories,
        mode=result.mode,
        rows_scored=result.rows_scored,
        unknown_ids=result.unknown_ids,
    )


def state_of(service: Service) -> tuple[bool, bytes]:
    """Whether the service can answer, found out by a call, and how it stands: kinds of errors, no paths."""
    served = service.current
    follower, error = served.follower, None
    try:
        served.recommender.recommend([], 1)
    except HierSRecError as found:
        _log.error("not ready", exc_info=found)
        error = type(found).__name__
    feed = None
    if follower is not None:
        failing = None if follower.error is None else type(follower.error).__name__
        feed = FeedState(follower.position, follower.lag, follower.rejected, failing)
    state = Readiness(error is None, error, served.digest, service.failure, feed)
    return state.ready, _ENCODER.encode(state)
