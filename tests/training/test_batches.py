from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_training.batches import Batch, Batches, age_weights, ahead
from hiersrec_training.data.dataset import Sessions

SESSIONS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=9)


def as_sessions(lists: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64)
    return Sessions(np.concatenate(lists).astype(np.int32), offsets)


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, max_length=st.integers(1, 5), size=st.integers(1, 4), seed=st.integers(0, 9))
def test_every_click_but_the_first_is_a_target_once(
    sessions: list[list[int]], max_length: int, size: int, seed: int
) -> None:
    data = as_sessions(sessions)
    batches = Batches(data, max_length, size, np.arange(1, len(data) + 1, dtype=np.float32))
    wanted = Counter(
        (clicks[position - 1], clicks[position], float(number))
        for number, clicks in enumerate(sessions, 1)
        for position in range(1, len(clicks))
    )
    for epoch in (list(batches.in_order()), list(batches.shuffled(seed, 3))):
        assert len(epoch) == len(batches)
        found: Counter[tuple[int, int, float]] = Counter()
        for batch in epoch:
            newest = batch.items[batch.there].tolist()
            found.update(zip(newest, batch.target.tolist(), batch.weight.tolist(), strict=True))
            assert batch.items.shape[1] <= max_length
            assert not batch.items[~batch.there].any()
        assert found == wanted


def test_an_epoch_goes_on_where_it_was_left() -> None:
    random = np.random.default_rng(0)
    data = as_sessions([random.integers(0, 9, random.integers(2, 9)).tolist() for _ in range(50)])
    batches = Batches(data, 4, 8)
    whole, rest = list(batches.shuffled(1, 2)), list(batches.shuffled(1, 2, first=5))
    assert len(rest) == len(whole) - 5
    for a, b in zip(whole[5:], rest, strict=True):
        assert torch.equal(a.items, b.items)
        assert torch.equal(a.target, b.target)
    other = list(batches.shuffled(1, 3))
    assert any(not torch.equal(a.items, b.items) for a, b in zip(whole, other, strict=True))


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, max_length=st.integers(1, 5), size=st.integers(1, 9), step=st.integers(1, 4))
def test_parts_of_a_batch_have_each_window_once_with_its_positions(
    sessions: list[list[int]], max_length: int, size: int, step: int
) -> None:
    data = as_sessions(sessions)
    batches = Batches(data, max_length, size, np.arange(1, len(data) + 1, dtype=np.float32))
    for batch in batches.in_order():
        whole = windows_of(batch)
        parts = [batch.every(step, first) for first in range(step)]
        assert [windows_of(part) for part in parts] == [whole[first::step] for first in range(step)]
        assert all(part.items.shape[1] == batch.items.shape[1] for part in parts)


def windows_of(batch: Batch) -> list[tuple[list[int], list[int], list[float]]]:
    """Of each window the clicks, targets and weights."""
    lengths = batch.there.sum(1).tolist()
    targets, weights = batch.target.split(lengths), batch.weight.split(lengths)
    rows = zip(batch.items, lengths, targets, weights, strict=True)
    return [
        (items[:length].tolist(), target.tolist(), weight.tolist()) for items, length, target, weight in rows
    ]


def test_the_clicks_up_to_each_position_are_those_of_its_window() -> None:
    inputs = next(Batches(as_sessions([[5, 6, 5, 7], [1, 2]]), 10, 4).in_order()).inputs()
    # the short session comes first: position 0 is click 1 of it
    assert inputs.click_position.tolist() == [0, 1, 2, 2, 3, 3, 3]
    assert inputs.click_item.tolist() == [1, 5, 5, 6, 5, 6, 5]
    assert inputs.click_distance.tolist() == [0, 0, 1, 0, 2, 1, 0]
    assert inputs.starts == [0, 1, 2, 4, 7]


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, max_length=st.integers(1, 5), step=st.integers(1, 9))
def test_inputs_are_what_their_batch_says(sessions: list[list[int]], max_length: int, step: int) -> None:
    for whole in Batches(as_sessions(sessions), max_length, 4).in_order():
        batch = whole.every(step, step - 1)  # it may have no window
        inputs = batch.inputs()
        vectors = torch.randn(*batch.items.shape, 3)
        assert torch.equal(inputs.at_positions(vectors), vectors[batch.there])
        found: list[list[int]] = [[] for _ in batch.target]
        distances: list[list[int]] = [[] for _ in batch.target]
        for position, item, distance in zip(
            inputs.click_position.tolist(),
            inputs.click_item.tolist(),
            inputs.click_distance.tolist(),
            strict=True,
        ):
            found[position].append(item)
            distances[position].append(distance)
        windows = [clicks for clicks, *_ in windows_of(batch)]
        assert found == [clicks[: stop + 1] for clicks in windows for stop in range(len(clicks))]
        assert distances == [list(range(len(clicks)))[::-1] for clicks in found]
        assert inputs.starts == [0, *np.cumsum([len(clicks) for clicks in found]).tolist()]


def test_what_is_made_ahead_comes_in_order_and_fails_where_it_is_used() -> None:
    assert list(ahead(iter(range(5)))) == list(range(5))
    assert list(ahead(iter([]))) == []
    failing = ahead(1 // (2 - number) for number in range(5))
    assert [next(failing), next(failing)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(failing)


def test_weights_fall_with_age() -> None:
    weights = age_weights(1000, 1.0)
    assert abs(weights.mean() - 1) < 1e-5
    assert abs(weights[0] / weights[-1] - np.exp(-1)) < 1e-5
    assert np.all(age_weights(3, 0.0) == 1)
    assert len(age_weights(1, 1.0)) == 1
