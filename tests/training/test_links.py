from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_training.data.dataset import Sessions
from hiersrec_training.links import RECENT, WINDOW, by_rows, links_of, without

ITEMS = 8
SESSIONS = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9), min_size=1, max_size=12)


def as_sessions(lists: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64)
    return Sessions(np.concatenate(lists).astype(np.int32), offsets)


@settings(max_examples=100, deadline=None)
@given(sessions=SESSIONS, width=st.integers(1, ITEMS))
def test_links_are_their_definition(sessions: list[list[int]], width: int) -> None:
    after, directly = np.zeros((ITEMS, ITEMS), int), np.zeros((ITEMS, ITEMS), int)
    for clicks in sessions:
        for (i, a), (j, b) in itertools.combinations(enumerate(clicks), 2):
            if a != b and j - i <= WINDOW:
                after[a, b] += 1
                directly[a, b] += j - i == 1
    either = after + after.T
    links = links_of(as_sessions(sessions), ITEMS, width)
    for item in range(ITEMS):
        start, stop = links.offsets[item : item + 2]
        best = [int(other) for other in np.lexsort((range(ITEMS), -either[item])) if either[item, other]][
            :width
        ]
        assert links.rows[start:stop].tolist() == best
        wanted = np.stack([after[item, best], after[best, item], directly[item, best]], axis=1)
        np.testing.assert_array_equal(links.counts[start:stop], wanted)
    for column, share in enumerate((*RECENT, 1.0)):
        newest = sessions[round((1 - share) * len(sessions)) :]
        counts = [sum(clicks.count(item) for clicks in newest) for item in range(ITEMS)]
        np.testing.assert_allclose(
            links.popularity[:, column], [math.log1p(count) for count in counts], rtol=1e-6
        )


@settings(max_examples=60, deadline=None)
@given(
    sessions=SESSIONS,
    seed=st.integers(0, 99),
    session=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9),
)
def test_rows_have_the_links_of_their_items(sessions: list[list[int]], seed: int, session: list[int]) -> None:
    links = links_of(as_sessions(sessions), ITEMS)
    order = np.random.default_rng(seed).permutation(ITEMS)  # row to item
    row = np.argsort(order)
    items, features = links.features(np.array(session))
    rows, again = by_rows(links, order).features(row[session])
    place = np.argsort(row[items])
    np.testing.assert_array_equal(rows, row[items][place])
    np.testing.assert_allclose(again, features[place], rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    sessions=SESSIONS,
    gone=st.sets(st.integers(0, ITEMS - 1)),
    clicks=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9),
)
def test_items_without_clicks_are_linked_to_none(
    sessions: list[list[int]], gone: set[int], clicks: list[int]
) -> None:
    links = links_of(as_sessions(sessions), ITEMS)
    left = without(links, np.isin(np.arange(ITEMS), [*gone]))
    for item in range(ITEMS):
        before, after = slice(*links.offsets[item : item + 2]), slice(*left.offsets[item : item + 2])
        kept = [row not in gone and item not in gone for row in links.rows[before].tolist()]
        assert left.rows[after].tolist() == links.rows[before][kept].tolist()
        np.testing.assert_array_equal(left.counts[after], links.counts[before][kept])
        np.testing.assert_array_equal(left.popularity[item], links.popularity[item] * (item not in gone))
    assert set(left.features(np.array(clicks))[0].tolist()) <= {*clicks, *range(ITEMS)} - (gone - {*clicks})
