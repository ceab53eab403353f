"""Explanations add up, predicted categories and likenesses are what plain NumPy says, a trace is what was served."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hiersrec_sdk import Recommender, errors
from tests.sdk.bundles import Shop, make_shop
from tests.sdk.cli.run import failed, passed

RELAXED = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SESSIONS = st.lists(st.integers(0, 59), min_size=1, max_size=12)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "full"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return make_shop(full=request.param, covisitation=request.param)


@pytest.fixture(scope="module")
def recommender(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(shop.write(tmp_path_factory.mktemp("shop") / "bundle"))


@pytest.fixture(scope="module")
def trained(tiny_bundle: Path) -> Recommender:
    return Recommender.load(tiny_bundle)


@RELAXED
@given(session=SESSIONS, row=st.integers(0, 59))
def test_the_parts_add_up_to_the_score_that_is_served(
    shop: Shop, recommender: Recommender, session: list[int], row: int
) -> None:
    clicks = [shop.ids[at] for at in session]
    found = recommender.explain(clicks, shop.ids[row])
    assert sum(astuple(found.parts)) == found.score
    served = recommender.recommend(clicks, k=shop.items, mode="exact")
    assert served.scores[served.items.index(found.item)] == found.score
    assert found.rank == 1 + int((served.scores > found.score).sum())
    assert found.candidate == any(
        start <= row < stop for start, stop in recommender.recommend(clicks, k=1).ranges
    )
    assert found.clicks == ()
    assert [category.category for category in found.categories] == [
        recommender.catalog.category(
            level, int(recommender.catalog.categories_of(np.array([row]), level)[0])
        ).id
        for level in range(3)
    ]


@RELAXED
@given(session=st.lists(st.integers(0, 47), min_size=1, max_size=9), row=st.integers(0, 47))
def test_a_trained_model_is_split_further(trained: Recommender, session: list[int], row: int) -> None:
    clicks = [f"item-{at}" for at in session]
    found = trained.explain(clicks, f"item-{row}")
    assert sum(astuple(found.parts)) == pytest.approx(found.score, rel=1e-4, abs=1e-3)
    assert sum(click.share for click in found.clicks) == pytest.approx(found.parts.session_items)
    newest = clicks[-trained.config["max_length"] :]
    assert sorted(click.item for click in found.clicks) == sorted(newest)
    shares = [click.share for click in found.clicks]
    assert shares == sorted(shares, reverse=True)
    assert (found.parts.repeat != 0) <= (found.item in newest)
    assert found.parts.category_conditioning != 0
    served = trained.recommend(clicks, k=48, mode="exact")
    assert served.scores[served.items.index(found.item)] == pytest.approx(found.score, rel=1e-4, abs=1e-3)
    text = str(found)
    assert text.startswith(f"item-{row} (Item {row}): score ")
    assert f"rank {found.rank}" in text
    assert "by the click on" in text


@RELAXED
@given(session=SESSIONS, k=st.integers(1, 12), level=st.integers(-3, 2))
def test_the_next_category_at_any_level(
    shop: Shop, recommender: Recommender, session: list[int], k: int, level: int
) -> None:
    clicks = [shop.ids[at] for at in session]
    hits = recommender.categories(clicks, k, level=level)
    inputs = shop.vectors
    logits = inputs[session[-7:]].sum(0) @ shop.weights[level]
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    order = np.argsort(-logits, kind="stable")[:k]
    assert [hit.category for hit in hits] == [shop.category_ids[level][at] for at in order]
    np.testing.assert_allclose([hit.probability for hit in hits], shares[order], rtol=1e-5)
    assert {hit.level for hit in hits} == {level % 3}


@RELAXED
@given(row=st.integers(0, 59), k=st.integers(1, 70), allowed=st.sets(st.integers(0, 59), min_size=1))
def test_similar_items(shop: Shop, recommender: Recommender, row: int, k: int, allowed: set[int]) -> None:
    scores = shop.vectors @ shop.vectors[row]
    for prepared, rows in (
        (None, set(range(60))),
        (recommender.filter(allow=[shop.ids[at] for at in allowed]), allowed),
    ):
        hits = recommender.similar_items(shop.ids[row], k, filter=prepared)
        wanted = sorted(rows - {row}, key=lambda at: (-scores[at], at))[:k]
        assert [hit.item for hit in hits] == [shop.ids[at] for at in wanted]
        assert [hit.score for hit in hits] == [scores[at] for at in wanted]


@pytest.mark.parametrize("options", [{}, {"mode": "exact"}, {"candidates": 0.1, "exclude_seen": True}])
def test_a_trace_is_what_was_served(shop: Shop, recommender: Recommender, options: dict[str, Any]) -> None:
    clicks = [shop.ids[at] for at in (3, 40, 3)]
    trace = recommender.trace([*clicks, shop.stranger], 5, **options)
    served = recommender.recommend(clicks, 5, **options)
    assert trace.result.items == served.items
    np.testing.assert_array_equal(trace.scores, served.scores)
    assert trace.rows.tolist() == [3, 40, 3]
    assert trace.unknown_ids == 1
    np.testing.assert_array_equal(trace.item_query, 8 * trace.session_vectors.sum(0))
    assert list(trace.seconds) == ["look up", "encode", "choose", "rank"]
    text = str(trace)
    assert all(name in text for name in ("item_query", "float32 [6]", "encode", "µs"))


def test_what_cannot_be_explained(shop: Shop, recommender: Recommender) -> None:
    known = shop.ids[5]
    with pytest.raises(errors.UnknownItemError, match="is not in the catalog"):
        recommender.explain([known], shop.stranger)
    with pytest.raises(errors.UnknownItemError, match="no item of the session is in the catalog"):
        recommender.explain([shop.stranger], known)
    with pytest.raises(errors.UnknownItemError, match="position 1"):
        recommender.explain([known, shop.stranger], known, on_unknown="error")
    with pytest.raises(errors.UnknownItemError):
        recommender.similar_items(shop.stranger)
    with pytest.raises(errors.UnknownItemError, match="popular"):
        recommender.trace([shop.stranger])
    with pytest.raises(errors.InvalidLevelError, match="level must be an integer from 0 to 2, or -1, got "):
        recommender.categories([known], level=3)
    with pytest.raises(errors.InvalidKError):
        recommender.categories([known], 0)
    assert recommender.categories([shop.stranger]) == ()


def test_explain_in_the_shell(tiny_bundle: Path) -> None:
    said = passed("explain", tiny_bundle, "item-3", "item-9", "item-4")
    assert "item-3 (Item 3): score" in said
    assert "by the click on item-9" in said
    assert json.loads(passed("explain", tiny_bundle, "item-3", "item-9", "--json"))["item"] == "item-3"
    assert "nobody" in failed("explain", tiny_bundle, "nobody", "item-9")
