from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.errors import OptionError
from hiersrec_training.baselines import Baseline, SessionKNN, baseline, evaluate_baseline
from hiersrec_training.dataset import Sessions
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


def test_only_the_newest_and_nearest_sessions_vote() -> None:
    data = as_sessions([[0, 1], [0, 2], [0, 3], [0, 3, 4, 5]])
    session = np.array([0], dtype=np.int32)
    assert set(np.flatnonzero(SessionKNN(data, 6, recent=2, neighbours=5).scores(session) > 0.1)) == {0, 3, 4, 5}
    assert set(np.flatnonzero(SessionKNN(data, 6, recent=4, neighbours=1).scores(session) > 0.1)) == {0, 3}


def test_ties_count_against_the_baseline() -> None:
    class Flat(Baseline):
        def scores(self, session: NDArray[np.int32]) -> NDArray[np.float64]:
            return np.array([1.0, 1.0, 1.0, 0.0])

    data = as_sessions([[0, 1], [3, 0, 3]])
    metrics = evaluate_baseline(Flat(data, 4), data)
    assert metrics["cases"] == 3
    # ranks 3, 3 and 4
    assert metrics["mrr@5"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 4) / 3)
    assert metrics["recall@1"] == 0


def test_an_unknown_baseline_is_named() -> None:
    with pytest.raises(OptionError, match="popular, markov, sknn"):
        baseline("gru", as_sessions([[0, 1]]), 2)


def test_metrics_of_known_ranks() -> None:
    metrics = ranking_metrics(np.array([1, 2, 0, 20, 21, 5]), (1, 5, 20))
    assert metrics["recall@1"] == pytest.approx(1 / 6)
    assert metrics["recall@5"] == pytest.approx(3 / 6)
    assert metrics["recall@20"] == pytest.approx(4 / 6)
    assert metrics["mrr@20"] == pytest.approx((1 + 1 / 2 + 1 / 20 + 1 / 5) / 6)
    assert metrics["ndcg@5"] == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(6)) / 6)
