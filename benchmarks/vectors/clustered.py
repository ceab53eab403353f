"""What a trained table looks like, without one: categories, styles within them, and the spectrum of Diginetica's.

The number and the sizes of the categories are Diginetica's. The other numbers were chosen so that distances, cosines
and variances, which a run prints, come near those of a model with the default configuration that was trained on it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from benchmarks.vectors.case import QUERY_LENGTH, Case, predicted_ranges, unit
from benchmarks.vectors.geometry import beside, geometry
from benchmarks.vectors.grow import grow, shares

SEEDS = 43_097  # rows that are drawn; a larger table is grown from them, as a trained one is
_CATEGORY = 43  # rows a category, on average
_STYLE = 12  # rows a style: what lies near each other within a category
_SPLIT = (0.54, 0.32, 0.14)  # of the variance: between categories, between styles, within a style
_UNEVEN = 0.3  # standard deviation of the logarithm of how far a category spreads
_SIZES = 1.8  # likewise of its size
_LEAN = (0.2, 0.7)  # how far a query leans from the row that it is near to others of the category


def clustered(rows: int, dimension: int, share: float, count: int, seed: int) -> Case:
    """``rows`` unit vectors in categories and ``count`` queries, each near a row.

    The candidates of a query are the categories whose mean is nearest to it, up to ``share`` of the rows.
    """
    random = np.random.default_rng(seed)
    seeds = min(rows, SEEDS)
    sizes = _sizes(seeds, random)
    edges = np.concatenate([[0], sizes.cumsum()])
    leaves = np.stack([edges[:-1], edges[1:]], axis=1)
    category = np.repeat(np.arange(len(sizes)), sizes)
    styles = -(-sizes // _STYLE)  # of each category; none belongs to two
    style = (styles.cumsum() - styles)[category] + random.integers(0, styles[category])
    scale = np.sqrt(spectrum(dimension)).astype(np.float32)

    def draw(many: int, part: float) -> NDArray[np.float32]:
        return random.standard_normal((many, dimension), np.float32) * scale * np.float32(math.sqrt(part))

    between, among, within = _SPLIT
    spread = np.exp(_UNEVEN * random.standard_normal((len(sizes), 1))).astype(np.float32)[category]
    inside = draw(int(styles.sum()), among)[style] + draw(seeds, within)
    table = unit(draw(len(sizes), between)[category] + spread * inside)
    near = random.integers(0, seeds, count)
    others = leaves[category[near], 0] + random.integers(0, sizes[category[near]], (3, count))
    lean = random.uniform(*_LEAN, (count, 1)).astype(np.float32)
    queries = unit(table[near] + lean * unit(table[others].mean(axis=0))) * np.float32(QUERY_LENGTH)
    grown = grow(table, leaves, rows, seed)
    means = np.stack([table[start:stop].mean(axis=0) for start, stop in leaves])
    need = math.ceil(share * rows)
    return Case(
        "clustered",
        grown.vectors,
        queries,
        [predicted_ranges(logits, grown.leaves, need) for logits in queries @ unit(means).T],
        beside(
            {
                f"drawn, {seeds:,} rows": geometry(table, leaves, queries),
                f"grown to {rows:,} rows": geometry(grown.vectors, grown.leaves, queries),
            }
        ),
    )


def spectrum(dimension: int) -> NDArray[np.float64]:
    """float64 [dimension]: variances along the principal axes, falling, of sum 1.

    In that order, because the tables of a bundle are rotated onto these axes too.
    """
    axis = np.arange(1, dimension + 1)
    falls = axis**-0.12 * np.exp(-axis / (2 * dimension))
    fallen: NDArray[np.float64] = falls / falls.sum()
    return fallen


def _sizes(rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    """int64 [categories]: rows of each, at least 1, very uneven."""
    many = max(1, rows // _CATEGORY)
    weights = np.exp(_SIZES * random.standard_normal(many))
    weights = np.minimum(weights, weights.sum() * max(0.02, 2 / many))
    return 1 + shares((weights * 1e6).astype(np.int64) + 1, rows - many)
