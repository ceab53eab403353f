from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_training import neighbors
from hiersrec_training.covisitation import count_covisits
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.neighbors import DECAY, CoClicks, co_clicks, near_pairs

ITEMS = 9
SESSIONS = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=8), min_size=1, max_size=8)


def as_sessions(lists: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64)
    return Sessions(np.array([item for clicks in lists for item in clicks], np.int32), offsets)


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, width=st.integers(1, 5), window=st.integers(1, 4))
def test_neighbors_are_the_most_frequent_co_clicks(
    sessions: list[list[int]], width: int, window: int
) -> None:
    after = np.zeros((8, 8))
    for clicks in sessions:
        for (i, a), (j, b) in itertools.combinations(enumerate(clicks), 2):
            if a != b and j - i <= window:
                after[a, b] += DECAY ** (j - i - 1)
    either = after + after.T
    graph = co_clicks(as_sessions(sessions), 8, width, window)
    assert graph.window == window
    for item in range(8):
        best = [other for other in np.lexsort((range(8), -either[item].round(5))) if either[item, other]][
            :width
        ]
        assert graph.neighbors[item, : len(best)].tolist() == best
        np.testing.assert_allclose(graph.counts[item, : len(best)], either[item, best], rtol=1e-5)
        assert not graph.counts[item, len(best) :].any()


def all_at_once(sessions: Sessions, items: int, width: int, window: int) -> CoClicks:
    """The graph from the distinct pairs of the whole log in one array."""
    session = np.repeat(np.arange(len(sessions)), sessions.lengths)
    clicked = sessions.items.astype(np.int64)
    keys: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    weights: list[NDArray[np.float64]] = [np.empty(0)]
    for distance in range(1, window + 1):
        first, second = clicked[:-distance], clicked[distance:]
        keep = (session[:-distance] == session[distance:]) & (first != second)
        keys += [first[keep] * items + second[keep], second[keep] * items + first[keep]]
        weights.append(np.full(2 * keep.sum(), DECAY ** (distance - 1)))
    pairs, pair = np.unique(np.concatenate(keys), return_inverse=True)
    counts = np.bincount(pair, np.concatenate(weights), len(pairs)).astype(np.float32)
    graph = CoClicks(np.zeros((items, width), np.int32), np.zeros((items, width), np.float32), window)
    for item in range(items):
        best = np.flatnonzero(pairs // items == item)
        best = best[np.lexsort((pairs[best] % items, -counts[best]))][:width]
        graph.neighbors[item, : len(best)] = pairs[best] % items
        graph.counts[item, : len(best)] = counts[best]
    return graph


@settings(max_examples=80, deadline=None)
@given(
    lists=st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=8), max_size=12),
    window=st.integers(1, 5),
    together=st.integers(1, 30),
)
def test_pairs_in_slices_are_those_of_every_session(
    lists: list[list[int]], window: int, together: int
) -> None:
    wanted = sorted(
        (a, b, later - earlier)
        for clicks in lists
        for earlier, a in enumerate(clicks)
        for later, b in enumerate(clicks)
        if a != b and 0 < abs(later - earlier) <= window
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "CLICKS_TOGETHER", together)
        slices = list(near_pairs(as_sessions(lists), ITEMS, window))
    found = [
        (int(pairs.source[pair]), int(pairs.target[pair]), int(distance))
        for pairs in slices
        for pair, distance in zip(pairs.pair, pairs.distance, strict=True)
    ]
    assert sorted(found) == wanted
    distinct = [
        pair for pairs in slices for pair in zip(pairs.source.tolist(), pairs.target.tolist(), strict=True)
    ]
    assert distinct == sorted(set(distinct))


@pytest.mark.parametrize("together", [1, 500, 1 << 16])
def test_the_graph_and_the_counts_are_bit_for_bit_those_of_all_pairs_at_once(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    lengths = random.geometric(0.2, 600)
    clicks = (random.pareto(1, lengths.sum()) * 5).astype(np.int32) % 70
    sessions = Sessions(clicks, np.concatenate([[0], lengths.cumsum()]))
    covisits = count_covisits(sessions, 70, 10)
    monkeypatch.setattr(neighbors, "CLICKS_TOGETHER", together)
    graph, wanted = co_clicks(sessions, 70, 6, 4), all_at_once(sessions, 70, 6, 4)
    np.testing.assert_array_equal(graph.neighbors, wanted.neighbors)
    np.testing.assert_array_equal(graph.counts, wanted.counts)
    again = count_covisits(sessions, 70, 10)
    for name in ("offsets", "rows", "counts"):
        np.testing.assert_array_equal(getattr(again, name), getattr(covisits, name))
