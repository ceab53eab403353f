from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_training.dataset import Sessions
from hiersrec_training.graph import co_clicks

SESSIONS = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=8), min_size=1, max_size=8)


def as_sessions(lists: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64)
    return Sessions(np.concatenate(lists).astype(np.int32), offsets)


@settings(max_examples=60, deadline=None)
@given(sessions=SESSIONS, width=st.integers(1, 5), window=st.integers(1, 4))
def test_neighbours_are_the_most_frequent_co_clicks(sessions: list[list[int]], width: int, window: int) -> None:
    counts: dict[int, Counter[int]] = {item: Counter() for item in range(8)}
    for clicks in sessions:
        for i, a in enumerate(clicks):
            for b in clicks[i + 1 : i + 1 + window]:
                if a != b:
                    counts[a][b] += 1
                    counts[b][a] += 1
    graph = co_clicks(as_sessions(sessions), 8, width, window)
    for item, near in counts.items():
        best = sorted(near.items(), key=lambda pair: (-pair[1], pair[0]))[:width]
        assert graph.neighbours[item, : len(best)].tolist() == [other for other, _ in best]
        roots = np.sqrt([count for _, count in best])
        np.testing.assert_allclose(graph.weights[item, : len(best)], roots / roots.sum() if len(best) else roots, 1e-5)
        assert not graph.weights[item, len(best) :].any()
