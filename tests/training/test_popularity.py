from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_training.batches import Batches
from hiersrec_training.dataset import Sessions
from hiersrec_training.popularity import STATISTICS, WINDOWS, item_statistics, slot_statistics

ITEMS = 6
SESSIONS = st.lists(st.lists(st.integers(0, ITEMS - 2), min_size=2, max_size=5), min_size=1, max_size=30)


def as_sessions(lists: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64)
    return Sessions(np.concatenate(lists).astype(np.int32), offsets)


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, share=st.floats(0, 1))
def test_statistics_are_their_definition(sessions: list[list[int]], share: float) -> None:
    span, upto = len(sessions), round(share * len(sessions))
    found = item_statistics(as_sessions(sessions), ITEMS, upto)
    assert found.shape == (ITEMS, STATISTICS)
    assert np.isfinite(found).all()
    for item in range(ITEMS):
        holders = [index for index, clicks in enumerate(sessions[:upto]) if item in clicks]
        for column, window in enumerate((*WINDOWS, math.inf)):
            start = 0 if math.isinf(window) else max(0, upto - round(window * span))
            clicks = sum(clicks.count(item) for clicks in sessions[start:upto])
            scale = 2 if math.isinf(window) else 1
            assert found[item, column] == np.float32(math.log1p(clicks) / scale)
        age = (upto - holders[0]) / span if holders else 0.0
        since = (upto - holders[-1]) / span if holders else 1.0
        np.testing.assert_allclose(found[item, 5], age, rtol=1e-6)
        np.testing.assert_allclose(found[item, 6], math.log(since + 1e-3) / 3 + 1, rtol=1e-5)
        assert found[item, 8] == (not holders)
        np.testing.assert_allclose(found[item, 9], upto / span, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, slots=st.integers(1, 9), seed=st.integers(0, 9))
def test_no_session_sees_its_own_or_later_clicks(sessions: list[list[int]], slots: int, seed: int) -> None:
    data = as_sessions(sessions)
    statistics = slot_statistics(data, ITEMS, slots)
    assert len(statistics) == slots + 1
    batches = Batches(data, 10, 3, slots=slots)
    epoch = list(batches.shuffled(seed, 0))
    assert len(epoch) == len(batches)
    for batch in epoch:
        assert 0 <= batch.slot < slots
        first = next(index for index in range(len(data)) if index * slots // len(data) == batch.slot)
        np.testing.assert_array_equal(statistics[batch.slot], item_statistics(data, ITEMS, first))
        members = {tuple(clicks) for index, clicks in enumerate(sessions) if index * slots // len(data) == batch.slot}
        for row, there in zip(batch.items.tolist(), batch.there.sum(1).tolist(), strict=True):
            assert any(list(clicks[:-1]) == row[:there] for clicks in members)
    np.testing.assert_array_equal(statistics[-1], item_statistics(data, ITEMS, len(data)))


def test_without_slots_every_item_is_alike() -> None:
    before, after = slot_statistics(as_sessions([[0, 1]]), ITEMS, 0)
    assert not before.any()
    assert not after.any()
