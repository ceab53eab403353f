"""One native operation answers a session as the steps do one after the other, whatever has changed in the catalog."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hiersrec_sdk import Item, Recommender, Result
from tests.sdk.bundles import DIMENSION, ITEMS, Shop, make_shop
from tests.sdk.ranking.cases import needs_kernel

pytestmark = needs_kernel

ROWS = st.integers(0, ITEMS - 1)


@pytest.fixture(scope="module", params=["plain", "covisitation", "full"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return make_shop(full=request.param == "full", covisitation=request.param != "plain")


@pytest.fixture(scope="module")
def bundle(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.write(tmp_path_factory.mktemp("shop") / "bundle")


def changed(recommender: Recommender, shop: Shop, data: st.DataObject) -> list[Any]:
    """Items come, go, and change their vectors or biases; returns the new ids."""
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    new: list[Any] = []
    for change in data.draw(st.lists(st.sampled_from(["remove", "upsert", "add", "bias"]), max_size=6)):
        item = shop.ids[data.draw(ROWS)]
        if change == "remove":
            if int(recommender.catalog.rows([item])[0]) >= 0:
                recommender.catalog.remove([item])
        elif change == "bias":
            if int(recommender.catalog.rows([item])[0]) >= 0:
                recommender.catalog.set_bias([item], float(random.integers(-2, 3)))
        else:
            if change == "add":
                item = shop.stranger if not new else f"{new[-1]}0" if isinstance(item, str) else new[-1] + 1
                new.append(item)
            category = shop.category_paths[len(shop.ranges) - 1, int(random.integers(len(shop.ranges[-1])))]
            vector = random.integers(-3, 4, DIMENSION).astype(np.float32)
            recommender.catalog.upsert([Item(item, category=category, vector=vector)])
    return new


def values(result: Result) -> list[Any]:
    """All that a result holds, comparable."""
    ranked = result._ranked
    return [
        *(getattr(result, field.name) for field in fields(result) if not field.name.startswith("_")),
        result._rows.tolist(),
        [None if ranges is None else ranges.tolist() for ranges in ranked.ranges],
        ranked.covisited.tolist(),
        ranked.offsets.tolist(),
        ranked.leaves,
        ranked.path,
    ]


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "mode": st.sampled_from(["exact", "candidates", "auto"]),
        "candidates": st.sampled_from([0.05, 0.3, 1.0]),
        "exclude_seen": st.booleans(),
        "include_session_categories": st.booleans(),
    },
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), options=OPTIONS, k=st.integers(1, ITEMS + 5))
def test_it_answers_as_the_steps_do(
    shop: Shop, bundle: Path, data: st.DataObject, options: dict[str, Any], k: int
) -> None:
    recommender = Recommender.load(bundle, backend="c")
    new = changed(recommender, shop, data)
    known = st.sampled_from([*shop.ids, *new, *new, *new])
    for name in data.draw(st.sets(st.sampled_from(["exclude", "allow", "categories"]))):
        ids = data.draw(st.lists(known, min_size=1, max_size=30))
        categories = list(shop.category_paths.values())
        options[name] = (
            data.draw(st.lists(st.sampled_from(categories), min_size=1)) if name == "categories" else ids
        )
    sessions = data.draw(st.lists(st.lists(known, min_size=1, max_size=12), min_size=1, max_size=3))
    plan = recommender._planner.plan(recommender.catalog.current, k, options)
    assert plan.rank is not None
    steps = replace(plan, rank=None)
    for session in sessions:
        one, other = (recommender._pipeline.answer(session, each) for each in (plan, steps))
        for had, wanted in zip(values(one), values(other), strict=True):
            np.testing.assert_equal(had, wanted)


def test_what_it_leaves_to_the_steps(shop: Shop, bundle: Path) -> None:
    recommender = Recommender.load(bundle, backend="c")
    catalog = recommender.catalog.current
    assert recommender._planner.plan(catalog, 5, {"max_per_category": 1}).rank is None
    for backend in ("numpy", "numba"):
        assert Recommender.load(bundle, backend=backend)._planner.plan(catalog, 5, {}).rank is None
