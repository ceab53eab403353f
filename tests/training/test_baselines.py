from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_training.baselines import (
    KINDS,
    Baseline,
    SessionKNN,
    baseline,
    evaluate_baseline,
    parse_options,
)
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.metrics import ranking_metrics

SESSIONS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=1, max_size=8)


def as_sessions(lists: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64)
    return Sessions(np.concatenate(lists).astype(np.int32), offsets)


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, prefix=st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_scores_are_those_of_the_definitions(sessions: list[list[int]], prefix: list[int]) -> None:
    data, clicks = as_sessions(sessions), np.array(prefix, dtype=np.int32)
    popularity = np.bincount(data.items, minlength=7)
    assert np.array_equal(np.argsort(baseline("popular", data, 7).scores(clicks)), np.argsort(popularity))
    follows = np.zeros(7)
    for session in sessions:
        for a, b in itertools.pairwise(session):
            follows[b] += a == prefix[-1]
    np.testing.assert_allclose(baseline("markov", data, 7).scores(clicks), follows, atol=1e-5)
    likeness = np.zeros(7)
    for session in sessions:
        shared = len(set(session) & set(prefix)) / math.sqrt(len(set(session)) * len(set(prefix)))
        for item in set(session):
            likeness[item] += shared
    np.testing.assert_allclose(baseline("sknn", data, 7).scores(clicks), likeness, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(
    sessions=SESSIONS,
    prefix=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    decays=st.fixed_dictionaries(
        {
            name: st.sampled_from([0.5, 2.0, 7.0])
            for name in ("click_decay", "age_decay", "position_decay", "match_decay")
        }
    ),
    rarity=st.sampled_from([0.1, 2.0]),
)
def test_vstan_is_its_definition(
    sessions: list[list[int]], prefix: list[int], decays: dict[str, float], rarity: float
) -> None:
    data = as_sessions(sessions)
    back = {item: prefix[::-1].index(item) for item in prefix}  # clicks since each own item
    scores = np.zeros(7)
    for index, session in enumerate(sessions):
        place = {item: len(session) - 1 - session[::-1].index(item) for item in session}
        shared = sorted(set(session) & set(prefix), key=lambda item: back[item])
        if not shared:
            continue
        age = (len(sessions) - 1 - index) / len(sessions)
        likeness = sum(math.exp(-back[item] / decays["click_decay"]) for item in shared)
        likeness *= math.exp(-age / decays["age_decay"]) / math.sqrt(len(back) * len(place))
        likeness *= math.exp(-back[shared[0]] / decays["match_decay"])
        for item in place:
            apart = abs(place[item] - place[shared[0]])
            holders = sum(item in other for other in sessions)
            worth = 1 + rarity * math.log(len(sessions) / holders)
            scores[item] += likeness * math.exp(-apart / decays["position_decay"]) * worth
    method = baseline("vstan", data, 7, decays | {"rarity": rarity})
    np.testing.assert_allclose(method.scores(np.array(prefix, dtype=np.int32)), scores, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    sessions=SESSIONS, prefix=st.integers(0, 6), reach=st.integers(1, 4), decay=st.sampled_from([0.3, 2.0])
)
def test_rules_are_their_definition(sessions: list[list[int]], prefix: int, reach: int, decay: float) -> None:
    scores = np.zeros(7)
    for index, session in enumerate(sessions):
        age = (len(sessions) - 1 - index) / len(sessions)
        for (i, a), (j, b) in itertools.combinations(enumerate(session), 2):
            if a == prefix and j - i <= reach:
                scores[b] += math.exp(-age / decay) / (j - i)
    method = baseline("rules", as_sessions(sessions), 7, {"reach": reach, "age_decay": decay})
    np.testing.assert_allclose(method.scores(np.array([prefix], dtype=np.int32)), scores, atol=1e-5)


def test_rules_reach_no_further_than_the_longest_session() -> None:
    data = as_sessions([[0, 1, 2, 3], [4], [3, 1]])
    found, wanted = (baseline("rules", data, 5, {"reach": reach}) for reach in (10**9, 3))
    for item in range(5):
        session = np.array([item], dtype=np.int32)
        np.testing.assert_array_equal(found.scores(session), wanted.scores(session))


@pytest.mark.parametrize("name", KINDS)
def test_every_baseline_answers_every_known_item(name: str) -> None:
    method = baseline(name, as_sessions([[0, 1, 0], [2]]), 4)
    for session in ([0], [2], [3], [3, 3, 0]):
        scores = method.scores(np.array(session, dtype=np.int32))
        assert scores.shape == (4,)
        assert np.isfinite(scores).all()


def test_options_are_checked() -> None:
    data = as_sessions([[0, 1]])
    with pytest.raises(InvalidOptionError, match="markov has no option 'reach'; known: age_decay"):
        baseline("markov", data, 2, {"reach": 3})
    with pytest.raises(InvalidOptionError, match="neighbors must be above 0"):
        baseline("sknn", data, 2, {"neighbors": 0})
    assert parse_options(["reach=3", "age_decay = 0.5"]) == {"reach": 3, "age_decay": 0.5}
    with pytest.raises(InvalidOptionError, match="--set takes name=number, got 'reach'"):
        parse_options(["reach"])


def test_only_the_newest_and_nearest_sessions_vote() -> None:
    data = as_sessions([[0, 1], [0, 2], [0, 3], [0, 3, 4, 5]])
    session = np.array([0], dtype=np.int32)
    assert set(np.flatnonzero(SessionKNN(data, 6, recent=2, neighbors=5).scores(session) > 0.1)) == {
        0,
        3,
        4,
        5,
    }
    assert set(np.flatnonzero(SessionKNN(data, 6, recent=4, neighbors=1).scores(session) > 0.1)) == {0, 3}


def test_ties_count_against_the_baseline() -> None:
    class Flat(Baseline):
        def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
            return np.array([1.0, 1.0, 1.0, 0.0])

    data = as_sessions([[0, 1], [3, 0, 3]])
    metrics = evaluate_baseline(Flat(data, 4), data)
    assert metrics["examples"] == 3
    # ranks 3, 3 and 4
    assert metrics["mrr@5"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 4) / 3)
    assert metrics["recall@1"] == 0


def test_an_unknown_baseline_is_named() -> None:
    with pytest.raises(InvalidOptionError, match="popular, markov, rules, sknn, stan, vstan"):
        baseline("gru", as_sessions([[0, 1]]), 2)


def test_metrics_of_known_ranks() -> None:
    metrics = ranking_metrics(np.array([1, 2, 0, 20, 21, 5]), (1, 5, 20))
    assert metrics["recall@1"] == pytest.approx(1 / 6)
    assert metrics["recall@5"] == pytest.approx(3 / 6)
    assert metrics["recall@20"] == pytest.approx(4 / 6)
    assert metrics["mrr@20"] == pytest.approx((1 + 1 / 2 + 1 / 20 + 1 / 5) / 6)
    assert metrics["ndcg@5"] == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(6)) / 6)
