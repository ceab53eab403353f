"""A session that grows answers as all of its clicks do, whatever happened on the way."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hiersrec_sdk import Recommender, Session, errors
from tests.sdk.bundles import Shop, make_shop
from tests.sdk.interruptions import Interruption, lines_of


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop("string", covisitation=True)


@pytest.fixture(scope="module")
def recommender(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(shop.write(tmp_path_factory.mktemp("shop") / "bundle"))


def test_it_answers_as_all_of_its_clicks(shop: Shop, recommender: Recommender) -> None:
    class Visitor(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.session, self.clicks = recommender.session(), list[Any]()

        @rule(item=st.sampled_from([*shop.ids, shop.stranger]))
        def click(self, item: str) -> None:
            assert self.session.add(item) is self.session
            self.clicks.append(item)

        @precondition(lambda self: self.clicks)
        @rule()
        def undo(self) -> None:
            assert self.session.undo() == self.clicks.pop()

        @rule()
        def travel(self) -> None:
            self.session = recommender.session(pickle.loads(pickle.dumps(self.session)))

        @rule(options=st.sampled_from([{}, {"mode": "exact"}, {"exclude_seen": True, "candidates": 0.1}]))
        def recommend(self, options: dict[str, Any]) -> None:
            found = self.session.recommend(7, **options)
            wanted = recommender.recommend(self.clicks, 7, **options)
            assert found.items == wanted.items
            assert found.unknown_ids == wanted.unknown_ids
            np.testing.assert_array_equal(found.scores, wanted.scores)

        @invariant()
        def holds_its_clicks(self) -> None:
            assert self.session.items == tuple(self.clicks)
            assert len(self.session) == len(self.clicks)

    machine = Visitor.TestCase
    machine.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
    machine().runTest()


def test_a_pickle_is_small_and_says_what_it_needs(shop: Shop, recommender: Recommender) -> None:
    session = recommender.session(shop.ids[:20])
    found: Session = pickle.loads(pickle.dumps(session))
    assert len(pickle.dumps(session)) < 500
    assert found.items == session.items
    for ask in (found.recommend, lambda: found.add("0")):
        with pytest.raises(errors.InvalidOptionError, match=r"recommender.session\(session\)"):
            ask()
    assert "no recommender yet" in repr(found)
    assert found.undo() == shop.ids[19]
    assert recommender.session(found).items == tuple(shop.ids[:19])


def test_what_is_wrong_changes_nothing(recommender: Recommender, tmp_path: Path) -> None:
    session = recommender.session(["0"])
    with pytest.raises(errors.InvalidItemIdError):
        session.add(5)
    with pytest.raises(errors.InvalidSessionError):
        recommender.session("0")
    assert session.items == ("0",)
    assert session.undo() == "0"
    with pytest.raises(errors.InvalidOptionError, match="empty"):
        session.undo()
    assert session.recommend(3).mode == "popular"
    with pytest.raises(errors.UnknownItemError, match="position 0"):
        session.add("stranger").recommend(on_unknown="error")


@pytest.mark.parametrize("change", ["add", "undo"])
def test_a_change_that_is_interrupted_at_any_line_is_made_or_not(
    change: str, recommender: Recommender, shop: Shop
) -> None:
    def call(session: Session) -> object:
        return session.add(shop.ids[9]) if change == "add" else session.undo()

    before = tuple(shop.ids[3:6])
    after = (*before, shop.ids[9]) if change == "add" else before[:-1]
    count = lines_of(lambda: call(recommender.session(before)), ["session.py"])
    for at in range(1, count + 1):
        session = recommender.session(before)
        Interruption(at, files=["session.py"]).during(partial(call, session))
        assert session.items in (before, after)
        assert session.recommend(5).items == recommender.recommend(session.items, 5).items
        session.add(shop.ids[20])
        assert session.recommend(5).items == recommender.recommend(session.items, 5).items


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_answers_and_goes_its_own_way(copied: Any, shop: Shop, recommender: Recommender) -> None:
    session = recommender.session(shop.ids[:2])
    other = copied(session)
    assert other.recommend(5).items == session.recommend(5).items
    other.add(shop.ids[2])
    assert (len(session), len(other)) == (2, 3)
