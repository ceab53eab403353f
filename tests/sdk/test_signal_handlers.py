"""A signal handler that recommends in the middle of another call of the same thread, as a reload or a report may do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hiersrec_sdk import Explanation, Recommender, Result
from hiersrec_sdk.ranking import available_backends
from tests.sdk.bundles import make_shop
from tests.sdk.interruptions import Interruption, first_visits

SHOP = make_shop("string", covisitation=True)
ASKED, OTHER = SHOP.ids[3:6], SHOP.ids[20:23]  # of one length, so that they would share memory
CALLS: dict[str, Callable[[Recommender], Result | Explanation]] = {
    "recommend": lambda recommender: recommender.recommend(ASKED, 5),
    "recommend, step by step": lambda recommender: recommender.recommend(ASKED, 5, max_per_category=2),
    "explain": lambda recommender: recommender.explain(ASKED, SHOP.ids[9]),
}


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.parametrize("name", CALLS)
def test_the_call_that_it_interrupts_has_its_own_answer(name: str, backend: str, tmp_path: Path) -> None:
    recommender = Recommender.load(SHOP.write(tmp_path / "bundle"), backend=backend)

    def answer() -> object:
        found = CALLS[name](recommender)
        return (
            (found.items, found.scores.tolist(), found.category_path) if isinstance(found, Result) else found
        )

    def other() -> object:
        found = recommender.recommend(OTHER, 5)
        return found.items, found.scores.tolist()

    class Handler(Interruption):
        def handle(self) -> None:
            assert other() == others

    right, others = answer(), other()
    answers: list[object] = []
    reached = 0
    for at in first_visits(answer):
        interruption = Handler(at)
        interruption.during(lambda: answers.append(answer()))
        reached += interruption.where is not None
        assert answers.pop() == right, interruption.where
    assert reached > 20
