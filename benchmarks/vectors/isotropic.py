"""Random directions: the worst case for pruning, where no part of a vector says more than another."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmarks.aligned import empty
from benchmarks.vectors.case import QUERY_LENGTH, Case, unit

RANGES = 20  # that the candidates of a query lie in


def isotropic(rows: int, dimension: int, share: float, count: int, seed: int) -> Case:
    """``rows`` random unit vectors and ``count`` random queries, each with random ranges of ``share`` of the rows."""
    random = np.random.default_rng(seed)
    vectors = empty((rows, dimension), np.float32)
    for start in range(0, rows, 1 << 16):  # in parts, so that no second table is in memory
        part = vectors[start : start + (1 << 16)]
        part[:] = unit(random.standard_normal(part.shape, np.float32))
    queries = unit(random.standard_normal((count, dimension), np.float32)) * np.float32(QUERY_LENGTH)
    need = math.ceil(share * rows)
    return Case("isotropic", vectors, queries, [random_ranges(rows, need, random) for _ in range(count)])


def random_ranges(rows: int, need: int, random: np.random.Generator) -> NDArray[np.int64]:
    """int64 [m, 2]: ``need`` of ``rows`` rows in up to :data:`RANGES` ranges of like length, in order, disjoint."""
    pieces = min(RANGES, need)
    edges = np.arange(pieces + 1) * need // pieces
    gaps = np.sort(random.integers(0, rows - need + 1, pieces))  # rows left out before each range
    return np.stack([edges[:-1] + gaps, edges[1:] + gaps], axis=1)
