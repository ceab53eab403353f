"""What a call finds, and at what cost, when much of the catalog is gone, new or changed."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiersrec_sdk import Filter, Item, Recommender
from hiersrec_sdk.catalog.filters import prepare
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


def test_all_items_as_candidates_are_those_of_categories_that_had_none_too(
    recommender: Recommender, shop: Shop
) -> None:
    empty = [leaf for leaf, (start, stop) in enumerate(shop.ranges[-1]) if start == stop]
    assert empty
    catalog = recommender.catalog
    for leaf in empty:
        new = f"new in {leaf}"
        catalog.upsert([Item(new, catalog.category(-1, leaf).path, vector=[0.0] * catalog.dimension)])
        catalog.set_bias([new], 1e6)
        for session in sessions_of(shop):
            assert recommender.recommend(session, 1, candidates=1).items == (new,)
        catalog.remove([new])


@pytest.mark.parametrize("options", [{}, {"candidates": 0.5}, {"exclude_seen": True}])
def test_a_limit_takes_the_best_of_each_category(
    recommender: Recommender, shop: Shop, options: dict[str, Any]
) -> None:
    """Of the bundle's rows and of others, whether or not there are as many as the limit allows."""
    catalog, random = recommender.catalog, np.random.default_rng(2)
    leaves = [catalog.category(-1, leaf).path for leaf in range(len(catalog.tree.leaves))]
    new = [
        Item(f"new-{at}", leaves[at % len(leaves)], vector=random.normal(size=catalog.dimension).tolist())
        for at in range(50)
    ]
    catalog.upsert([*new, *(Item(each, random.choice(leaves).tolist()) for each in shop.ids[::9])])
    catalog.remove(shop.ids[::7])
    if "candidates" not in options:
        options = {**options, "mode": "exact"}
    for session in sessions_of(shop)[:5]:
        every = recommender.recommend(session, len(catalog), **options)
        rows = catalog.rows(every.items)
        for limit in (1, 2, 7):
            taken: Counter[int] = Counter()
            best = []
            for item, leaf in zip(every.items, catalog.categories_of(rows).tolist(), strict=True):
                taken[leaf] += 1
                if taken[leaf] <= limit:
                    best.append(item)
            for k in (1, 5, len(best), len(catalog)):
                found = recommender.recommend(session, k, max_per_category=limit, **options)
                if "candidates" in options:  # fewer items a category can take more categories
                    assert (
                        max(Counter(catalog.categories_of(catalog.rows(found.items)).tolist()).values())
                        <= limit
                    )
                else:
                    assert list(found.items) == best[:k]


def test_a_filter_judges_items_as_they_come(recommender: Recommender, shop: Shop) -> None:
    """As one does that is made when all of them are there."""
    catalog, random = recommender.catalog, np.random.default_rng(3)
    leaves = [catalog.category(-1, leaf).path for leaf in range(len(catalog.tree.leaves))]
    known = [*shop.ids, *(f"new-{at}" for at in range(100))]
    allow, exclude = random.choice(known, 200).tolist(), random.choice(known, 40).tolist()

    def made() -> list[Filter]:
        some = prepare(catalog.current, allow=allow)
        return [some, prepare(catalog.current, some, exclude=exclude, exclude_categories=leaves[3:5])]

    kept = made()
    for at in range(100):
        item_id, leaf = known[random.integers(len(known))], leaves[at % len(leaves)]
        catalog.upsert([Item(item_id, leaf, vector=[1.0] * catalog.dimension)])
        delta = catalog.current.delta
        for before, now in zip(kept, made(), strict=True):
            assert before.allows_delta(delta).tolist() == now.allows_delta(delta).tolist()
        [allowed] = np.flatnonzero(
            prepare(catalog.current, allow=[item_id]).allows_delta(delta) & delta.live_mask
        )
        assert delta.columns.ids[allowed] == item_id


def test_biases_that_are_taken_back_are_no_change(recommender: Recommender, shop: Shop) -> None:
    catalog, session = recommender.catalog, sessions_of(shop)[0]
    before = recommender.recommend(session)
    catalog.set_bias(shop.ids[:9], 2.0)
    assert catalog.has_changes
    catalog.set_bias(shop.ids[:9], 0.0)
    assert not catalog.has_changes
    after = recommender.recommend(session)
    assert (after.items, after.scores.tolist()) == (before.items, before.scores.tolist())


def test_items_that_are_listed_in_further_categories_stay_there(recommender: Recommender, shop: Shop) -> None:
    tables = recommender.catalog.base.tables
    offsets, rows = tables.extra_offsets, tables.extra_rows
    assert offsets is not None
    assert rows is not None
    listed: dict[int, list[int]] = {}
    for leaf, (start, stop) in enumerate(pairwise(offsets.tolist())):
        for row in rows[start:stop].tolist():
            listed.setdefault(row, []).append(leaf)
    assert listed
    assert [list(tables.listed_in(row)) for row in range(shop.items)] == [
        listed.get(row, []) for row in range(shop.items)
    ]


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
