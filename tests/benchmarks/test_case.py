"""Which rows are candidates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.vectors import Case, clustered, isotropic, predicted_ranges
from benchmarks.vectors.isotropic import random_ranges

LEAVES = np.array([[0, 5], [5, 5], [5, 12], [12, 20]])


@pytest.mark.parametrize(
    ("logits", "need", "wanted"),
    [
        ([3, 2, 1, 0], 5, [[0, 5]]),
        ([3, 2, 1, 0], 6, [[0, 5], [5, 12]]),  # the one that crosses is taken
        ([2, 0, 1, 3], 9, [[12, 20], [0, 5]]),
        ([0, 9, 0, 0], 1, [[0, 5]]),  # empty categories are left out; equal ones go by their order
        ([1, 2, 3, 4], 20, [[12, 20], [5, 12], [0, 5]]),
    ],
)
def test_predicted_ranges(logits: list[float], need: int, wanted: list[list[int]]) -> None:
    assert predicted_ranges(np.array(logits, np.float32), LEAVES, need).tolist() == wanted


@pytest.mark.parametrize(("rows", "need"), [(1_000, 40), (10, 10), (10, 1), (7, 5)])
def test_random_ranges(rows: int, need: int) -> None:
    ranges = random_ranges(rows, need, np.random.default_rng(0))

    assert (ranges[:, 1] - ranges[:, 0]).sum() == need
    assert (ranges[1:, 0] >= ranges[:-1, 1]).all()
    assert ranges[0, 0] >= 0
    assert ranges[-1, 1] <= rows


@pytest.mark.parametrize("make", [clustered, isotropic])
def test_made_up_cases(make: Callable[..., Case]) -> None:
    case = make(rows=900, dimension=16, share=0.1, count=7, seed=3)

    assert case.vectors.shape == (900, 16)
    assert case.queries.shape == (7, 16)
    np.testing.assert_allclose(np.linalg.norm(case.vectors, axis=1), 1, rtol=1e-5)
    assert all((ranges[:, 1] - ranges[:, 0]).sum() >= 90 for ranges in case.ranges)
