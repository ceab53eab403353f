"""The ASGI app: which routes there are, and what they answer with."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from hiersrec_sdk import __version__
from hiersrec_sdk.arguments import integer_of
from hiersrec_sdk.errors import FeedError, InvalidOptionError
from hiersrec_sdk.recommender import Recommender
from hiersrec_sdk.serve.changes import Changes
from hiersrec_sdk.serve.limits import RefusedError
from hiersrec_sdk.serve.metrics import CONTENT_TYPE, Metrics
from hiersrec_sdk.serve.openapi import document, page_of
from hiersrec_sdk.serve.reload import Service
from hiersrec_sdk.serve.requests import (
    CategoriesRequest,
    ExplainRequest,
    Found,
    Health,
    Info,
    RecommendRequest,
    SimilarRequest,
)
from hiersrec_sdk.serve.routes import Endpoint, Reading, failure, failure_of, respond, state_of
from hiersrec_sdk.serve.settings import Settings
from hiersrec_sdk.serve.titles import LONGEST_SEARCH, MOST_FOUND, TitleSearch

_JSON: Final = "application/json"


class App:
    """An ASGI app that serves a recommender. It may be mounted in another one.

    Attributes:
        service: the recommender that is served, and its reloads.
        settings: as given.
    """

    def __init__(self, service: Service, settings: Settings, metrics: Metrics) -> None:
        self.service, self.settings, self._metrics = service, settings, metrics
        self._titles = TitleSearch()
        routes = [*self._posts(), *self._gets()]
        self._openapi = document(settings)
        self._app = Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: self._no_route, Exception: _failed},
        )
        self._app.router.redirect_slashes = False  # to wherever the Host header says

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or take part in the server's lifespan."""
        # not started: mounted in an app that has a lifespan of its own; or in a child that was forked
        if scope["type"] == "http" and not self.service.is_started and not scope["path"].endswith("/healthz"):
            try:
                await self._start()
            except Exception as error:  # the app that this one is mounted in goes on
                status, kind, message, _ = failure_of(error)
                if isinstance(error, FeedError):
                    message = "the change feed cannot be followed; the log of the server says why"
                self._metrics.refusal("none", status)
                await respond(send, status, failure(kind, message))
                return
        await self._app(scope, receive, send)

    def count_refusal(self, status: int) -> None:
        """Count a request of which the server understood no head."""
        self._metrics.refusal("head", status)

    async def _no_route(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        self._metrics.refusal("none", error.status_code)
        kind, message = {
            404: ("NotFound", "there is no such route; /docs lists all"),
            405: ("MethodNotAllowed", "the route has another method; /docs lists all"),
        }.get(error.status_code, ("InvalidRequest", error.detail))
        return Response(failure(kind, message), error.status_code, headers=error.headers, media_type=_JSON)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        await self._start()
        yield
        await asyncio.to_thread(self.service.stop)

    async def _start(self) -> None:
        # in a thread, since a feed may hold many changes
        await asyncio.to_thread(self.service.start)

    def _posts(self) -> list[Route]:
        reading, changes = (
            Reading(self.service, self.settings, self._metrics),
            Changes(self.service, self.settings),
        )

        def post(path: str, kind: Any, answer: Any, check: Callable[[Scope], None] | None = None) -> Route:
            endpoint = Endpoint(path, kind, answer, self.settings, self._metrics, check)
            return Route(path, endpoint, methods=["POST"])

        routes = [
            post("/recommend", RecommendRequest, reading.recommend),
            post("/categories", CategoriesRequest, reading.categories),
            post("/similar", SimilarRequest, reading.similar),
            post("/explain", ExplainRequest, reading.explain),
        ]
        if self.settings.token:
            for name, (kind, answer) in changes.routes.items():
                routes.append(post(f"/catalog/{name}", kind, answer, changes.check_token))
        return routes

    def _gets(self) -> list[Route]:
        routes = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/info": self._info,
            "/metrics": self._metrics_text,
            "/openapi.json": self._openapi_json,
            "/docs": self._docs,
        }
        if self.settings.page:
            routes |= {"/": self._page, "/items": self._items}
        return [Route(path, self._measured(path, answer), methods=["GET"]) for path, answer in routes.items()]

    def _measured(
        self, path: str, answer: Callable[[Request], Coroutine[Any, Any, Response]]
    ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def measured(request: Request) -> Response:
            started = time.perf_counter()
            try:
                response = await answer(request)
            except Exception as error:
                status, kind, message, _ = failure_of(error)
                response = Response(failure(kind, message), status, media_type=_JSON)
            self._metrics.request(path, response.status_code, started)
            return response

        return measured

    async def _healthz(self, request: Request) -> Response:
        return Response(msgspec.json.encode(Health("ok")), media_type=_JSON)

    async def _readyz(self, request: Request) -> Response:
        is_ready, state = state_of(self.service)
        return Response(state, 200 if is_ready else 503, media_type=_JSON)

    async def _info(self, request: Request) -> Response:
        served = self.service.current
        recommender, config = served.recommender, served.recommender.config
        about = Info(
            version=__version__,
            bundle=served.digest,
            schema_version=config["schema_version"],
            created_by=config["created_by"],
            items=len(recommender.catalog),
            item_id_type=config["item_id_type"],
            category_id_type=config["category_id_type"],
            levels=config["levels"],
            categories=config["categories"],
            dimension=config["dimension"],
            max_length=config["max_length"],
            candidate_share=config["candidate_share"],
            has_titles=recommender.catalog.has_titles,
            calibrated="calibration" in config,
            backend=recommender.backend,
            providers=list(recommender.providers),
            max_k=self.settings.max_k,
            max_hits=self.settings.max_hits,
            max_sessions=self.settings.max_sessions,
            max_body_bytes=self.settings.max_body_bytes,
            changes=bool(self.settings.token),
        )
        return Response(msgspec.json.encode(about), media_type=_JSON)

    async def _metrics_text(self, request: Request) -> Response:
        text = await asyncio.to_thread(self._metrics.text)  # it reads a file of every worker
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def _openapi_json(self, request: Request) -> Response:
        return Response(msgspec.json.encode(self._openapi), media_type=_JSON)

    async def _docs(self, request: Request) -> Response:
        return _html(page_of(self._openapi, str(request.base_url).rstrip("/")))

    async def _page(self, request: Request) -> Response:
        return _html((files("hiersrec_sdk.serve") / "page/index.html").read_text("utf-8"))

    async def _items(self, request: Request) -> Response:
        text = request.query_params.get("query", "")
        most = integer_of(request.query_params.get("limit", "20"))
        if len(text) > LONGEST_SEARCH:
            raise RefusedError(400, "InvalidRequest", f"query must have at most {LONGEST_SEARCH} characters")
        if most is None or not 1 <= most <= MOST_FOUND:
            raise RefusedError(400, "InvalidRequest", f"limit must be an integer from 1 to {MOST_FOUND}")
        found = await asyncio.to_thread(self._titles.find, self.service.current.recommender, text, most)
        return Response(msgspec.json.encode(Found(found)), media_type=_JSON)


def create_app(
    recommender: Recommender | str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    **given: Any,
) -> App:
    """The ASGI app that serves a recommender, or the bundle at a path, which is loaded now.

    A bundle is loaded again when it is replaced; a recommender that you give is not. Nothing that does not survive a
    fork happens before the first request or the server's startup.

    Args:
        recommender: what to serve; None: the bundle that the settings name.
        settings: see :class:`Settings`.
        **given: single settings, in place of theirs.

    Raises:
        InvalidOptionError: a setting is wrong; or there is a token and no feed to publish changes to.
        HierSRecError: as :meth:`Recommender.load`.

    >>> app = Starlette(routes=[Mount("/recommendations", create_app("bundle"))])     # doctest: +SKIP
    """
    if not isinstance(recommender, Recommender) and recommender is not None:
        given["bundle"] = os.fspath(recommender)
    settings = (settings or Settings()).updated(given)
    if not isinstance(recommender, Recommender):
        if not settings.bundle:
            raise InvalidOptionError("create_app needs a recommender, or the path of a bundle")
    elif settings.token and not settings.feed:
        raise InvalidOptionError("with a token there must be a feed= to publish changes to")
    metrics = Metrics()
    if isinstance(recommender, Recommender):
        return App(Service(recommender, None, settings.feed, metrics), settings, metrics)
    return App(Service.open(settings.bundle, settings.followed, metrics), settings, metrics)


def _html(text: str) -> Response:
    """A page whose own script and style may run, and nothing else."""
    policy = [
        "default-src 'none'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    for tag in ("script", "style"):
        hashes = [
            f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
            for part in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        ]
        if hashes:
            policy.append(f"{tag}-src {' '.join(hashes)}")
    headers = {"content-security-policy": "; ".join(policy), "x-content-type-options": "nosniff"}
    return Response(text, media_type="text/html", headers=headers)


async def _failed(request: Request, error: Exception) -> Response:
    status, kind, message, _ = failure_of(error)
    return Response(failure(kind, message), status, media_type=_JSON)
