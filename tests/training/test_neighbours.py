from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_training.data.dataset import Sessions
from hiersrec_training.neighbours import DECAY, co_clicks

SESSIONS = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=8), min_size=1, max_size=8)


def as_sessions(lists: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64)
    return Sessions(np.concatenate(lists).astype(np.int32), offsets)


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, width=st.integers(1, 5), window=st.integers(1, 4))
def test_neighbours_are_the_most_frequent_co_clicks(
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
        assert graph.neighbours[item, : len(best)].tolist() == best
        np.testing.assert_allclose(graph.counts[item, : len(best)], either[item, best], rtol=1e-5)
        assert not graph.counts[item, len(best) :].any()
