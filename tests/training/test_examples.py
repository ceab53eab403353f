from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.examples import Examples, Windows

SESSIONS = st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=9)


def as_sessions(lists: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64)
    return Sessions(np.array([item for clicks in lists for item in clicks], np.int32), offsets)


@settings(max_examples=60, deadline=None)
@given(lists=SESSIONS, longest=st.integers(1, 5), size=st.integers(1, 7))
def test_every_prefix_with_a_next_item_is_an_example(lists: list[list[int]], longest: int, size: int) -> None:
    sessions = as_sessions(lists)
    examples = Examples.of(sessions)
    wanted = [(clicks[:length], clicks[length]) for clicks in lists for length in range(1, len(clicks))]
    assert [(prefix.tolist(), target) for prefix, target in examples] == wanted
    assert len(examples) == sessions.example_count
    assert examples.targets.tolist() == [target for _, target in wanted]
    assert [prefix.tolist() for prefix, _ in examples.newest(longest)] == [
        prefix[-longest:] for prefix, _ in wanted
    ]
    chunks = list(examples.chunks(size))
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert [target for chunk in chunks for target in chunk.targets.tolist()] == examples.targets.tolist()


@settings(max_examples=60, deadline=None)
@given(lists=SESSIONS, longest=st.integers(1, 5))
def test_windows_hold_every_target_once(lists: list[list[int]], longest: int) -> None:
    windows = Windows.of(as_sessions(lists), longest)
    assert windows.length.max(initial=1) <= longest
    wanted = [
        (clicks[longest * ((length - 1) // longest) : length], clicks[length])
        for clicks in lists
        for length in range(1, len(clicks))
    ]
    assert [(prefix.tolist(), target) for prefix, target in windows.examples()] == wanted


def test_batches_hold_the_vectors_of_the_newest_items() -> None:
    examples = Examples.of(as_sessions([[1, 2, 3, 4], [5, 6]]))
    vectors = np.arange(7, dtype=np.float32)[:, None]
    batches = list(examples.batches(vectors, 2, 3))
    assert [some.targets.tolist() for some, _ in batches] == [[2, 6, 3], [4]]
    assert [padded[:, :, 0].tolist() for _, padded in batches] == [[[1, 0], [5, 0], [1, 2]], [[2, 3]]]


def test_a_sample_is_drawn_from_all_examples_and_the_same_each_time(
    make_dataset: Callable[..., Dataset],
) -> None:
    examples = Examples.of(make_dataset().train)
    some, again = examples.sample(50), examples.sample(50)
    assert len(some) == 50
    np.testing.assert_array_equal(some.start, again.start)
    np.testing.assert_array_equal(some.stop, again.stop)
    every = set(zip(examples.start.tolist(), examples.stop.tolist(), strict=True))
    assert len(every) == len(examples)
    assert set(zip(some.start.tolist(), some.stop.tolist(), strict=True)) <= every
    assert examples.sample(len(examples)) is examples
