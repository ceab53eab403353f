"""Recommendations as an HTTP service, with a catalog that changes while it is served.

HIERSREC_BUNDLE=bundle uvicorn examples.fastapi_service:app --timeout-graceful-shutdown 1

/stock, /items and /save change what everybody is served, and nothing here asks who calls them: put authentication
before them, or keep them from the outside, before you expose this service.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, FailFast, Field, FiniteFloat, StrictInt, StrictStr

from hiersrec_sdk import Filter, HierSRecError, Hit, Recommender
from hiersrec_sdk.errors import BundleError, InvalidArgumentError

# One request must not take the memory, or the time, of all others. More items come in several requests.
MOST_BYTES = 4 << 20  # of a body; more is 413
ItemId = StrictInt | StrictStr  # of the catalog's type: 17 is not "17"
ItemIds = Annotated[list[ItemId], FailFast(), Field(max_length=100_000)]
Session = Annotated[list[ItemId], FailFast(), Field(max_length=1_000)]
Count = Annotated[int, Field(ge=1, le=1_000)]


class Ask(BaseModel, extra="forbid", strict=True):  # a misspelled option is an error
    session: Session
    k: Count = 20
    mode: Literal["candidates", "exact", "auto"] = "candidates"
    exclude_seen: bool = False
    in_stock: bool = False
    max_per_category: Count | None = None


class Answer(BaseModel):
    items: list[Hit]
    mode: str
    unknown_ids: int


class Change(BaseModel, extra="forbid", strict=True):
    id: ItemId
    category: ItemId | list[ItemId] | None = None
    text: str | None = None
    numbers: dict[str, FiniteFloat] = {}
    title: str | None = None


Changes = Annotated[list[Change], FailFast(), Field(max_length=1_000)]  # other changes wait meanwhile


@dataclass
class Service:
    recommender: Recommender
    stock: Filter | None = None  # None: everything counts as in stock


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    # Once per process: loading takes a moment, and all requests share the recommender.
    app.state.service = Service(Recommender.load(os.environ["HIERSREC_BUNDLE"]))
    yield


def get_service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


app = FastAPI(title="Recommendations", lifespan=lifespan, max_body_size=MOST_BYTES)
Served = Annotated[Service, Depends(get_service)]


@app.exception_handler(RequestValidationError)
async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]  # not its "input", which may be as large as the body
    detail = f"{first['msg']}, at {first['loc']}"
    return JSONResponse({"error": "InvalidRequest", "detail": detail[:500]}, 422)


@app.exception_handler(HierSRecError)
async def failed(_: Request, error: HierSRecError) -> JSONResponse:
    name = type(error).__name__
    if isinstance(error, InvalidArgumentError):  # the caller can correct it
        return JSONResponse({"error": name, "detail": str(error)}, 422)
    logging.getLogger(__name__).error("request failed", exc_info=error)  # its text names paths of the server
    # 409: another process has replaced the bundle, or it cannot be written
    return JSONResponse({"error": name}, 409 if isinstance(error, BundleError) else 500)


@app.get("/health")
async def health(service: Served) -> dict[str, int]:
    return {"items": len(service.recommender.catalog)}


@app.post("/recommend")
async def recommend(ask: Ask, service: Served) -> Answer:
    result = await service.recommender.arecommend(
        ask.session,
        ask.k,
        mode=ask.mode,
        exclude_seen=ask.exclude_seen,
        max_per_category=ask.max_per_category,
        filter=service.stock if ask.in_stock else None,
    )
    return Answer(items=list(result), mode=result.mode, unknown_ids=result.unknown_ids)


# From here on routes that change what everybody is served. They have NO AUTHENTICATION: do not expose them as they are.


@app.put("/stock")
async def set_stock(items: ItemIds, service: Served) -> dict[str, int]:
    # A filter is prepared once, and every request uses it until it is replaced.
    service.stock = await asyncio.to_thread(service.recommender.filter, allow=items)
    return {"items": len(service.stock)}


@app.post("/items")
async def upsert(changes: Changes, service: Served) -> dict[str, int]:
    # In a thread, since it runs the item encoder. All changes apply or none; the next request sees them.
    items = [change.model_dump() for change in changes]
    return {"items": await asyncio.to_thread(service.recommender.catalog.upsert, items)}


@app.post("/save")
async def save(service: Served) -> dict[str, int]:
    # Before this, changes exist in this process alone; others see them when they load the bundle again.
    await asyncio.to_thread(service.recommender.save, os.environ["HIERSREC_BUNDLE"])
    return {"items": len(service.recommender.catalog)}
