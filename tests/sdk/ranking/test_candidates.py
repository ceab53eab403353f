"""Which categories are candidates: C and NumPy against a plain loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.ranking import available_backends, get_backend
from hiersrec_sdk.ranking.candidates import Choice, choose
from tests.sdk.ranking.cases import needs_kernel

CHOOSERS = {name: get_backend(name).choose for name in available_backends()}


def plain(
    logits: list[float],
    ranges: list[list[int]],
    eligible: list[int] | None,
    first: list[int] | None,
    rows: int,
    least: int,
    top_p: float,
    ordered: int,
) -> tuple[list[int], list[list[int]], list[tuple[int, float]]]:
    """The definition: one category after the other until they are enough."""
    largest = max(logits)
    odds = [math.exp(logit - largest) for logit in logits]
    total = math.fsum(odds)
    ahead = [] if first is None else first
    order = ahead + sorted(set(range(len(logits))) - set(ahead), key=lambda at: (-logits[at], at))
    taken: list[int] = []
    for category in order:
        enough = (
            sum(ranges[at][1] - ranges[at][0] for at in taken) >= rows
            and sum(ranges[at][1] - ranges[at][0] if eligible is None else eligible[at] for at in taken)
            >= least
            and math.fsum(odds[at] for at in taken) >= top_p * total
            and top_p < 1
        )
        if taken and enough and len(taken) >= len(ahead):
            break
        taken.append(category)
    return taken, [ranges[at] for at in taken], [(at, odds[at] / total) for at in order[:ordered]]


@st.composite
def questions(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of ``choose``; top_ps lie between sums of probabilities, since the last bits of these may differ."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    categories = draw(st.integers(1, 40) | st.sampled_from([63, 64, 65, 1_000]))
    digits = draw(st.integers(0, 4))  # few: many ties
    logits = np.round(rng.standard_normal(categories) * draw(st.sampled_from([0, 1, 3, 30, 200])), digits)
    logits = logits.astype(np.float32)
    if draw(st.booleans()):
        logits[rng.random(categories) < 0.3] = -np.inf
        logits[rng.integers(categories)] = 1
    items = draw(st.integers(0, 5_000))
    cuts = np.sort(rng.integers(0, items + 1, categories - 1))
    ranges = np.stack([np.append(0, cuts), np.append(cuts, items)], axis=1)
    sizes = ranges[:, 1] - ranges[:, 0]
    first = rng.permutation(categories)[: draw(st.integers(1, 6))] if draw(st.booleans()) else None
    eligible = rng.integers(0, sizes + 1) if draw(st.booleans()) else None
    top_p = draw(st.sampled_from([0.0, 0.0, 1.0, 2.0]) | st.floats(0, 1, exclude_min=True))
    if 0 < top_p < 1:
        ahead = [] if first is None else first.tolist()
        order = ahead + [at for at in (-logits).argsort(kind="stable").tolist() if at not in set(ahead)]
        odds = np.exp(logits.astype(np.float64) - logits.max())
        reached = np.append(0, odds[order].cumsum() / odds.sum())
        after = int(np.searchsorted(reached, top_p))
        top_p = float((reached[after - 1] + reached[after]) / 2) if after < len(reached) else 0.5
        if np.abs(reached - top_p).min() < 1e-5:
            top_p = 0.0
    return {
        "logits": logits,
        "ranges": ranges,
        "eligible": eligible,
        "first": first,
        "rows": draw(st.integers(0, items + 3)),
        "least": draw(st.integers(0, 30) | st.integers(0, items + 3)),
        "top_p": top_p,
        "ordered": draw(st.integers(0, 8)),
    }


def as_list(array: NDArray[Any] | None) -> Any:
    return None if array is None else array.tolist()


@settings(max_examples=500, deadline=None)
@given(question=questions())
def test_every_choice_is_that_of_the_plain_loop(question: dict[str, Any]) -> None:
    values = [as_list(value) if isinstance(value, np.ndarray) else value for value in question.values()]
    taken, ranges, best = plain(*values)
    first, *others = (chooser(*question.values()) for chooser in CHOOSERS.values())
    for found in (first, *others):
        assert isinstance(found, Choice)
        assert found.best == first.best  # to the last bit
        assert found[0].dtype == found[1].dtype == np.int64
        assert found[0].tolist() == taken
        assert found[1].tolist() == ranges
        assert [at for at, _ in found[2]] == [at for at, _ in best]
        assert [chance for _, chance in found[2]] == pytest.approx(
            [chance for _, chance in best], rel=1e-5, abs=1e-30
        )
        assert all(type(at) is int and type(chance) is float for at, chance in found[2])


RANGES = np.array([[0, 10], [10, 10], [10, 25], [25, 30]])


def taken_by_all(
    logits: list[float],
    *,
    eligible: list[int] | None = None,
    first: list[int] | None = None,
    rows: int = 0,
    least: int = 0,
    top_p: float = 0.0,
) -> list[int]:
    """The categories that every backend takes."""
    values = np.array(logits, np.float32)
    counts, ahead = (None if value is None else np.array(value, np.int64) for value in (eligible, first))
    answers = {
        tuple(chooser(values, RANGES, counts, ahead, rows, least, top_p, 5)[0].tolist())
        for chooser in CHOOSERS.values()
    }
    assert len(answers) == 1
    return list(answers.pop())


def test_the_category_that_reaches_it_is_the_last() -> None:
    logits = [1.0, 3.0, 2.0, 0.0]  # sizes 10, 0, 15, 5
    assert taken_by_all(logits, rows=15) == [1, 2]
    assert taken_by_all(logits, rows=16) == [1, 2, 0]
    assert taken_by_all(logits, rows=31) == [1, 2, 0, 3]  # there are no more
    assert taken_by_all(logits) == [1]


def test_the_lower_index_comes_first_among_equals() -> None:
    assert taken_by_all([2.0, 2.0, 2.0, 2.0], rows=26) == [0, 1, 2, 3]
    assert taken_by_all([0.0, 2.0, 2.0, 2.0], rows=20) == [1, 2, 3]
    assert taken_by_all([-0.0, 0.0, -0.0, 0.0], rows=10) == [0]


def test_eligible_rows_count_beside_rows() -> None:
    assert taken_by_all([4.0, 3.0, 2.0, 1.0], rows=5, least=6, eligible=[1, 0, 5, 5]) == [0, 1, 2]
    assert taken_by_all([4.0, 3.0, 2.0, 1.0], rows=26, least=1, eligible=[1, 0, 5, 5]) == [0, 1, 2, 3]


def test_mass_counts_beside_rows() -> None:
    logits = [math.log(value) for value in (0.5, 0.3, 0.15, 0.05)]
    assert taken_by_all(logits, top_p=0.4) == [0]
    assert taken_by_all(logits, top_p=0.7) == [0, 1]
    assert taken_by_all(logits, top_p=0.7, rows=11) == [0, 1, 2]
    assert taken_by_all(logits, top_p=0.999) == [0, 1, 2, 3]
    for everything in (1.0, 1.5):
        assert taken_by_all(logits, top_p=everything) == [0, 1, 2, 3]
    assert taken_by_all([0.0, -1e4, -np.inf, -100.0], top_p=0.9999) == [0]


def test_those_that_come_first_are_taken_in_any_case() -> None:
    assert taken_by_all([4.0, 3.0, 2.0, 1.0], first=[3, 1]) == [3, 1]
    assert taken_by_all([4.0, 3.0, 2.0, 1.0], first=[3, 1], rows=6) == [3, 1, 0]
    assert taken_by_all([4.0, 3.0, 2.0, 1.0], first=[3, 1], rows=16) == [3, 1, 0, 2]
    assert taken_by_all([math.log(0.9), 0.0, -9.0, -9.0], first=[2], top_p=0.4) == [2, 1]


def test_numpy_is_what_serves_numba() -> None:
    assert CHOOSERS["numpy"] is choose
    assert CHOOSERS.get("numba", choose) is choose


@needs_kernel
def test_a_nan_does_not_keep_the_choice_from_ending() -> None:
    logits = np.zeros(50, dtype=np.float32)
    logits[49] = np.nan
    ranges = np.stack([np.arange(50), np.arange(1, 51)], axis=1)
    taken, _, _ = get_backend("c").choose(logits, ranges, None, None, 50, 1, 0.0, 5)
    assert sorted(taken.tolist()) == list(range(50))
