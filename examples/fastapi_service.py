"""Recommendations as an HTTP service, with a catalog that changes while it is served.

HIERSREC_BUNDLE=bundle uvicorn examples.fastapi_service:app
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, StrictInt, StrictStr

from hiersrec_sdk import Filter, HierSRecError, Hit, Recommender
from hiersrec_sdk.errors import BundleError, InvalidArgumentError

ItemId = StrictInt | StrictStr  # of the catalog's type: 17 is not "17"


class Ask(BaseModel, extra="forbid"):  # a misspelled option is an error
    session: list[ItemId]
    k: int = 20
    mode: Literal["candidates", "exact", "auto"] = "candidates"
    exclude_seen: bool = False
    in_stock: bool = False
    max_per_category: int | None = None


class Answer(BaseModel):
    items: list[Hit]
    mode: str
    unknown_ids: int


class Change(BaseModel, extra="forbid"):
    id: ItemId
    category: ItemId | list[ItemId] | None = None
    text: str | None = None
    numbers: dict[str, float] = {}
    title: str | None = None


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


app = FastAPI(title="Recommendations", lifespan=lifespan)
Served = Annotated[Service, Depends(get_service)]


@app.exception_handler(HierSRecError)
async def failed(_: Request, error: HierSRecError) -> JSONResponse:
    if isinstance(error, InvalidArgumentError):
        status = 422  # the caller can correct it
    elif isinstance(error, BundleError):
        status = 409  # another process has replaced the bundle, or it cannot be written
    else:
        status = 500
    return JSONResponse({"error": type(error).__name__, "detail": str(error)}, status)


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


@app.put("/stock")
async def set_stock(items: list[ItemId], service: Served) -> dict[str, int]:
    # A filter is prepared once, and every request uses it until it is replaced.
    service.stock = await asyncio.to_thread(service.recommender.filter, allow=items)
    return {"items": len(service.stock)}


@app.post("/items")
async def upsert(changes: list[Change], service: Served) -> dict[str, int]:
    # In a thread, since it runs the item encoder. All changes apply or none; the next request sees them.
    items = [change.model_dump() for change in changes]
    return {"items": await asyncio.to_thread(service.recommender.catalog.upsert, items)}


@app.post("/save")
async def save(service: Served) -> dict[str, str]:
    # Before this, changes exist in this process alone; others see them when they load the bundle again.
    await asyncio.to_thread(service.recommender.save, os.environ["HIERSREC_BUNDLE"])
    return {"saved": os.environ["HIERSREC_BUNDLE"]}
