"""A small shop, served."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.testclient import TestClient

from hiersrec_sdk import Recommender
from hiersrec_sdk.serve import create_app
from tests.sdk.bundles import Shop, make_shop


class Served(NamedTuple):
    """A client of an app, and the recommender that it must answer like."""

    client: TestClient
    recommender: Recommender
    shop: Shop


@pytest.fixture(scope="session")
def shop() -> Shop:
    return make_shop("string", covisitation=True)


@pytest.fixture(scope="session")
def shop_bundle(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.write(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="session")
def served(shop: Shop, shop_bundle: Path) -> Iterator[Served]:
    with TestClient(create_app(shop_bundle), raise_server_exceptions=False) as client:
        yield Served(client, Recommender.load(shop_bundle), shop)


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """The server sets up loggers; other tests get back what they had."""
    kept = [
        logging.getLogger(name) for name in ("hiersrec_sdk", "uvicorn", "uvicorn.access", "uvicorn.error")
    ]
    before = [(each.level, each.propagate, each.handlers[:]) for each in kept]
    yield
    for each, (level, propagate, handlers) in zip(kept, before, strict=True):
        each.setLevel(level)
        each.propagate, each.handlers[:] = propagate, handlers
