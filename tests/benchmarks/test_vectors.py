"""Which rows are candidates; a table that is grown keeps its rows, its tree and its geometry."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.vectors import grow, isotropic, nearest, predicted_ranges, random_ranges, shares, unit

SIZES = np.array([40, 0, 300, 1, 7, 120])
DIMENSION = 12


@pytest.fixture(scope="module")
def leaves() -> NDArray[np.int64]:
    stops = SIZES.cumsum()
    return np.stack([stops - SIZES, stops], axis=1)


@pytest.fixture(scope="module")
def vectors(leaves: NDArray[np.int64]) -> NDArray[np.float32]:
    """Clusters that are longer in some directions than in others, of unit vectors."""
    random = np.random.default_rng(0)
    means = np.repeat(random.standard_normal((len(SIZES), DIMENSION)), SIZES, axis=0)
    spread = random.standard_normal((SIZES.sum(), DIMENSION)) * np.linspace(0.8, 0.1, DIMENSION)
    return unit((means + spread).astype(np.float32))


def test_larger(vectors: NDArray[np.float32], leaves: NDArray[np.int64]) -> None:
    rows = 20_000
    grown = grow(vectors, leaves, rows, seed=1)

    assert grown.vectors.shape == (rows, DIMENSION)
    assert (grown.vectors[grown.kept] == vectors).all()
    assert (grown.source[grown.kept] == np.arange(len(vectors))).all()
    sizes = grown.leaves[:, 1] - grown.leaves[:, 0]
    assert (abs(sizes - SIZES / SIZES.sum() * rows) < 1).all()
    assert (grown.leaves[1:, 0] == grown.leaves[:-1, 1]).all()
    assert grown.leaves[0, 0] == 0
    assert grown.leaves[-1, 1] == rows
    for (start, stop), (old_start, old_stop) in zip(grown.leaves, leaves, strict=True):
        assert ((grown.source[start:stop] >= old_start) & (grown.source[start:stop] < old_stop)).all()
    np.testing.assert_allclose(np.linalg.norm(grown.vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("leaf", [0, 2, 5])
def test_geometry_of_a_category(vectors: NDArray[np.float32], leaves: NDArray[np.int64], leaf: int) -> None:
    grown = grow(vectors, leaves, 40_000, seed=1)
    old, new = vectors[slice(*leaves[leaf])], grown.vectors[slice(*grown.leaves[leaf])]

    variance, covariance = old.var(axis=0).sum(), np.cov(old.T, bias=True)
    assert np.linalg.norm(new.mean(axis=0) - old.mean(axis=0)) < 0.1 * np.sqrt(variance)
    assert new.var(axis=0).sum() == pytest.approx(variance, rel=0.1)
    assert np.linalg.norm(np.cov(new.T, bias=True) - covariance) < 0.2 * np.linalg.norm(covariance)

    # a new row lies as far from its source as that one's nearest neighbor does, in the mean of the squares
    sources = grown.source[slice(*grown.leaves[leaf])]
    added = ~np.isin(np.arange(*grown.leaves[leaf]), grown.kept)
    apart = np.linalg.norm(new - vectors[sources], axis=1)[added]
    wanted = nearest(old)[sources[added] - leaves[leaf, 0]]
    assert np.square(apart).mean() == pytest.approx(np.square(wanted).mean(), rel=0.2)


def test_rows_of_a_category_are_mixed(vectors: NDArray[np.float32], leaves: NDArray[np.int64]) -> None:
    grown = grow(vectors, leaves, 20_000, seed=1)

    sources = grown.source[slice(*grown.leaves[2])]
    assert (sources[1:] == sources[:-1]).mean() < 0.02


def test_a_category_of_one(vectors: NDArray[np.float32], leaves: NDArray[np.int64]) -> None:
    grown = grow(vectors, leaves, 20_000, seed=1)

    start, stop = grown.leaves[3]
    apart = np.linalg.norm(grown.vectors[start:stop] - vectors[leaves[3, 0]], axis=1)
    assert stop - start > 10
    assert (apart < 1.5).all()
    assert (apart > 0.01).sum() == stop - start - 1


def test_smaller(vectors: NDArray[np.float32], leaves: NDArray[np.int64]) -> None:
    grown = grow(vectors, leaves, 50, seed=1)

    kept = np.flatnonzero(grown.kept >= 0)
    assert len(kept) == 50
    assert (grown.vectors[grown.kept[kept]] == vectors[kept]).all()
    assert grown.leaves[-1, 1] == 50


def test_same_seed_same_table(vectors: NDArray[np.float32], leaves: NDArray[np.int64]) -> None:
    one, other, third = (grow(vectors, leaves, 2_000, seed).vectors for seed in (1, 1, 2))

    assert (one == other).all()
    assert (one != third).any()


def test_only_small_categories() -> None:
    vectors = np.eye(6, dtype=np.float32)
    grown = grow(vectors, np.array([[0, 2], [2, 6]]), 60)

    assert (grown.vectors == vectors[grown.source]).all()


def test_shares() -> None:
    assert shares(np.array([3, 0, 1]), 8).tolist() == [6, 0, 2]
    assert shares(np.array([1, 1, 1]), 4).tolist() == [2, 1, 1]
    assert shares(np.array([5, 3]), 3).tolist() == [2, 1]


def test_nearest() -> None:
    members = np.array([[0, 0], [3, 4], [0, 1]], np.float32)

    np.testing.assert_allclose(nearest(members), [1, np.sqrt(18), 1], rtol=1e-6)
    assert nearest(members[:1]).tolist() == [np.inf]


@pytest.mark.parametrize(
    ("logits", "need", "expected"),
    [
        ([3, 2, 1, 0], 5, [[0, 5]]),
        ([3, 2, 1, 0], 6, [[0, 5], [5, 12]]),  # the one that crosses is taken
        ([2, 0, 1, 3], 9, [[12, 20], [0, 5]]),
        ([0, 9, 0, 0], 1, [[0, 5]]),  # empty categories are left out; equal ones go by their order
        ([1, 2, 3, 4], 20, [[12, 20], [5, 12], [0, 5]]),
    ],
)
def test_predicted_ranges(logits: list[float], need: int, expected: list[list[int]]) -> None:
    ranges = np.array([[0, 5], [5, 5], [5, 12], [12, 20]])
    assert predicted_ranges(np.array(logits, np.float32), ranges, need).tolist() == expected


@pytest.mark.parametrize(("rows", "need"), [(1_000, 40), (10, 10), (10, 1), (7, 5)])
def test_random_ranges(rows: int, need: int) -> None:
    ranges = random_ranges(rows, need, np.random.default_rng(0))

    assert (ranges[:, 1] - ranges[:, 0]).sum() == need
    assert (ranges[1:, 0] >= ranges[:-1, 1]).all()
    assert ranges[0, 0] >= 0
    assert ranges[-1, 1] <= rows


@pytest.mark.parametrize("falling", [False, True])
def test_random_vectors(falling: bool) -> None:
    case = isotropic(rows=900, dimension=16, share=0.1, count=7, seed=3, falling=falling)

    assert case.vectors.shape == (900, 16)
    assert case.queries.shape == (7, 16)
    np.testing.assert_allclose(np.linalg.norm(case.vectors, axis=1), 1, rtol=1e-5)
    assert all((ranges[:, 1] - ranges[:, 0]).sum() >= 90 for ranges in case.ranges)
    first, last = case.vectors[:, :4].var(), case.vectors[:, -4:].var()
    assert (first > 2 * last) == falling
