"""Shops whose scores are exact, so that a batch has to answer to the last bit what `recommend` answers."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from hiersrec_sdk import Recommender
from tests.sdk.bundles import Shop, make_shop


class Known(NamedTuple):
    """A shop, its bundle, and the bundle loaded."""

    shop: Shop
    bundle: Path
    recommender: Recommender


@pytest.fixture(scope="session")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Known]:
    """By type of item id."""
    folder = tmp_path_factory.mktemp("shops")
    made = {"int64": make_shop(full=False), "string": make_shop("string", covisitation=True)}
    return {
        name: Known(shop, path := shop.write(folder / name), Recommender.load(path))
        for name, shop in made.items()
    }


@pytest.fixture(scope="session", params=["int64", "string"])
def known(request: pytest.FixtureRequest, shops: dict[str, Known]) -> Known:
    """Each of them."""
    return shops[request.param]
