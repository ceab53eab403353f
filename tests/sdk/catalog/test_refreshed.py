"""What a call finds, and at what cost, when much of the catalog is gone, new or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.catalog.tree import NewCategories
from hiersrec_sdk.ranking import available_backends
from tests.sdk.bundles import Shop, make_shop

SESSIONS = 40


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop("string", times=8)


@pytest.fixture(params=["c", "numpy"])
def recommender(shop: Shop, request: pytest.FixtureRequest, tmp_path: Path) -> Recommender:
    if request.param not in available_backends():
        pytest.skip(f"needs the backend {request.param}")
    return Recommender.load(shop.write(tmp_path / "bundle"), backend=request.param)


def sessions_of(shop: Shop) -> list[list[str]]:
    random = np.random.default_rng(0)
    return [random.choice(shop.ids, 3).tolist() for _ in range(SESSIONS)]


def without(recommender: Recommender, shop: Shop, share: float) -> None:
    random = np.random.default_rng(1)
    recommender.catalog.remove(random.choice(shop.ids, int(share * shop.items), replace=False).tolist())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_all_items_as_candidates_is_exact_after_removals(
    recommender: Recommender, shop: Shop, share: float
) -> None:
    without(recommender, shop, share)
    for session in sessions_of(shop):
        every = recommender.recommend(session, 10, candidates=1.0)
        assert every.items == recommender.recommend(session, 10, mode="exact").items


def test_a_share_is_one_of_the_items_that_are_left(recommender: Recommender, shop: Shop) -> None:
    """The categories stay the same ones, whatever was removed from them."""
    before = [recommender.recommend(each, 1, candidates=0.5).ranges for each in sessions_of(shop)]
    without(recommender, shop, 0.2)
    for session, ranges in zip(sessions_of(shop), before, strict=True):
        own = set(recommender.catalog.rows(session).tolist())
        if -1 not in own:  # else it is another session by now
            assert recommender.recommend(session, 1, candidates=0.5).ranges.tolist() == ranges.tolist()


@pytest.mark.parametrize("restricted", [False, True])
def test_a_catalog_whose_items_all_were_changed_costs_no_more(
    recommender: Recommender, shop: Shop, restricted: bool
) -> None:
    """Than a look at each row that was replaced: the rows in their place count where they lie."""
    options: Any = {"allow": shop.ids[::2]} if restricted else {}

    def cost() -> float:
        asked = [recommender.recommend(each, 5, candidates=0.05, **options) for each in sessions_of(shop)]
        return float(np.mean([result.rows_scored for result in asked]))

    before = cost()
    recommender.catalog.upsert([{"id": each, "title": f"new {each}"} for each in shop.ids])
    assert cost() <= 2.1 * before


def test_excluded_items_count_as_those_of_a_filter(recommender: Recommender, shop: Shop) -> None:
    without(recommender, shop, 0.2)
    known = recommender.catalog.rows(shop.ids) >= 0
    recommender.catalog.upsert(
        [{"id": each, "title": "new"} for each in np.array(shop.ids)[known][::3].tolist()]
    )
    random = np.random.default_rng(2)
    for session in sessions_of(shop):
        exclude = random.choice(shop.ids, 200, replace=False).tolist()
        here = recommender.recommend(session, 10, candidates=0.05, exclude=exclude)
        by_filter = recommender.recommend(
            session, 10, candidates=0.05, filter=recommender.filter(exclude=exclude)
        )
        assert here.items == by_filter.items
        assert here.ranges.tolist() == by_filter.ranges.tolist()


def test_a_title_can_be_taken_away(recommender: Recommender, shop: Shop) -> None:
    catalog, known = recommender.catalog, shop.ids[3]
    for title, shown in (("red boots", "red boots"), (None, "red boots"), ("", None)):
        catalog.upsert([{"id": known, "title": title}])
        assert catalog.title(int(catalog.rows([known])[0])) == shown


def test_items_are_compared_by_identity() -> None:
    one, other = (Item("a", vector=np.ones(3, np.float32)) for _ in range(2))
    assert one in [other, one]
    assert len({one, other}) == 2


def test_new_categories_are_copied_by_whoever_adds_one() -> None:
    first = NewCategories([((0, 1), "a")])
    same, other = first.copy(), first.copy()
    assert other.add((0, 2), "b") == 1
    assert same.ids is first.ids
    assert (first.ids, other.ids, list(first.find("b")), list(other.find("b"))) == (
        ["a"],
        ["a", "b"],
        [],
        [1],
    )
