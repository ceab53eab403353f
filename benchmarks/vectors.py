"""What is ranked: tables of vectors, grown or random, with queries and the candidates of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_QUERY_LENGTH: Final = 1 / 0.07  # scores are cosines over a temperature: the default model's
_SEEDS: Final = (
    43_097  # rows that ``clustered`` draws; a larger table is grown from them, as a trained one is
)
_RANGES: Final = 20  # that the candidates of an isotropic query lie in
_FEW: Final = 8  # members below which a category says too little about its own spread
_CHUNK: Final = 1 << 14


@dataclass(frozen=True, eq=False)
class Case:
    """A table with the queries that are asked of it.

    Attributes:
        name: "bundle", "falling" or "isotropic".
        vectors: float32 [n, d].
        bias: float32 [n], added to the scores, or None.
        queries: float32 [m, d].
        ranges: for each query int64 [r, 2], the rows ``[start, stop)`` of its candidates: disjoint, the best first.
    """

    name: str
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    queries: NDArray[np.float32]
    ranges: Sequence[NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Grown:
    """A table that was grown, or thinned out.

    Attributes:
        vectors: float32 [rows, d].
        source: int64 [rows]: the old row that each new one is, or lies near.
        kept: int64 [old rows]: where each old row lies now, -1 where it was left out.
        leaves: int64 [categories, 2]: the rows ``[start, stop)`` of each leaf category.
    """

    vectors: NDArray[np.float32]
    source: NDArray[np.int64]
    kept: NDArray[np.int64]
    leaves: NDArray[np.int64]


def isotropic(rows: int, dimension: int, share: float, count: int, seed: int, falling: bool = False) -> Case:
    """Random directions: the worst case for pruning, where no part of a vector says more than another.

    ``falling``: the variance falls along the axes, as that of a trained table does along its principal axes.
    """
    random = np.random.default_rng(seed)
    axis = np.arange(dimension) / dimension
    scale = (np.exp(-2 * axis) if falling else np.ones(dimension)).astype(np.float32)

    def draw(count: int) -> NDArray[np.float32]:
        return unit(random.standard_normal((count, dimension), np.float32) * scale)

    vectors = empty((rows, dimension), np.float32)
    for start in range(0, rows, _CHUNK):  # in parts, so that no second table is in memory
        vectors[start : start + _CHUNK] = draw(min(_CHUNK, rows - start))
    ranges = [random_ranges(rows, math.ceil(share * rows), random) for _ in range(count)]
    return Case("falling" if falling else "isotropic", vectors, None, draw(count) * _QUERY_LENGTH, ranges)


def predicted_ranges(logits: NDArray[np.float32], leaves: NDArray[np.int64], need: int) -> NDArray[np.int64]:
    """Rows of the most probable categories that together hold ``need`` rows; the one that crosses is taken.

    Args:
        logits: float32 [categories].
        leaves: int64 [categories, 2], the rows of each, in order.
        need: how many rows, at most all of them.

    Returns:
        int64 [m, 2], disjoint, none empty: the most probable category first.
    """
    order = np.argsort(-logits, kind="stable")
    held = (leaves[order, 1] - leaves[order, 0]).cumsum()
    ranges = leaves[order[: int(held.searchsorted(need)) + 1]]
    return ranges[ranges[:, 0] < ranges[:, 1]]


def random_ranges(rows: int, need: int, random: np.random.Generator) -> NDArray[np.int64]:
    """int64 [m, 2]: ``need`` of ``rows`` rows in up to 20 ranges of like length, in order, disjoint."""
    pieces = min(_RANGES, need)
    edges = np.arange(pieces + 1) * need // pieces
    gaps = np.sort(random.integers(0, rows - need + 1, pieces))  # rows left out before each range
    return np.stack([edges[:-1] + gaps, edges[1:] + gaps], axis=1)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """``vectors`` float32 [..., d] at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    made: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return made


def empty(shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """``np.empty(shape, dtype)`` on a cache line, as every table of a bundle is; NumPy's own are on 16 bytes."""
    wanted = np.dtype(dtype)
    size = int(np.prod(shape)) * wanted.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(wanted).reshape(shape)


def grow(vectors: NDArray[np.float32], leaves: NDArray[np.int64], rows: int, seed: int = 0) -> Grown:
    """A table of ``rows`` rows like ``vectors`` float32 [n, d], each category its share of them.

    Old rows stay as they are. A new row starts from an old one ``v`` of its category and is

        m + a (v - m) + b (c (x - y) + s (z - w)) / sqrt(2),   a^2 + b^2 = c^2 + s^2 = 1,   at the length of v

    where ``m`` is the mean of the category, and ``x``, ``y``, ``z``, ``w`` are members and ``c`` is a number that are
    drawn anew each time. So the new rows have the mean and the covariance of the old ones, in every direction, and with
    ``a = 1 - e^2 / (2 t)``, ``t`` the variance of the category summed over the dimensions, a new row lies at the
    distance ``e`` from ``v`` on average: ``e`` is the distance between ``v`` and the member nearest to it. Categories
    of fewer than 8 members take ``t``, ``e`` and the differences from the larger ones. Within a category the rows are
    in random order, as those of a trained table are in no order that helps: new rows beside their source would flatter
    a kernel that drops whole blocks.

    With fewer ``rows`` than there are, random old rows of each category are left out.

    Args:
        vectors: float32 [n, d].
        leaves: int64 [categories, 2], the rows of each, in order: they split ``[0, n)``.
        rows: at least 1.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    wanted = shares(leaves[:, 1] - leaves[:, 0], rows)
    edges = np.concatenate([[0], wanted.cumsum()])
    pool = _Pool(vectors, leaves, random)
    grown = empty((rows, vectors.shape[1]), np.float32)
    source = np.empty(rows, np.int64)
    kept = np.full(len(vectors), -1, np.int64)
    for (start, stop), first, size in zip(leaves.tolist(), edges[:-1].tolist(), wanted.tolist(), strict=True):
        places = first + random.permutation(size)
        stay = random.permutation(np.arange(start, stop))[:size]
        old, new = places[: len(stay)], places[len(stay) :]
        kept[stay], source[old], grown[old] = old, stay, vectors[stay]
        for at in range(0, len(new), _CHUNK):
            part = new[at : at + _CHUNK]
            source[part] = random.integers(start, stop, len(part))
            grown[part] = pool.near(source[part], start, stop)
    return Grown(grown, source, kept, np.stack([edges[:-1], edges[1:]], axis=1))


def shares(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """``total`` split in proportion to ``sizes``, in integers: the largest remainders are rounded up."""
    whole, rest = np.divmod(sizes * total, sizes.sum())
    whole[np.argsort(-rest, kind="stable")[: total - whole.sum()]] += 1
    return whole


def nearest(members: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [n]: the distance from each of ``members`` to the one nearest to it; inf where it is alone."""
    squares = np.einsum("ij,ij->i", members, members)
    found = np.empty(len(members), np.float32)
    for at in range(0, len(members), 1_024):
        part = np.arange(at, min(at + 1_024, len(members)))
        distances = squares[part, None] + squares - 2 * (members[part] @ members.T)
        distances[part - at, part] = np.inf
        found[part] = np.sqrt(np.maximum(distances.min(axis=1, initial=np.inf), 0))
    return found


class _Pool:
    """What new rows are drawn from."""

    def __init__(
        self, vectors: NDArray[np.float32], leaves: NDArray[np.int64], random: np.random.Generator
    ) -> None:
        self._vectors = vectors
        self._random = random
        self._leaf = np.repeat(leaves, leaves[:, 1] - leaves[:, 0], axis=0)  # of each row
        self._nearest = np.full(len(vectors), np.inf, np.float32)
        large = leaves[leaves[:, 1] - leaves[:, 0] >= _FEW]
        for start, stop in leaves[leaves[:, 1] - leaves[:, 0] > 1].tolist():
            self._nearest[start:stop] = nearest(vectors[start:stop])
        # Where every category is small, nothing says how far apart its members are: they are taken to be one.
        self._large = np.concatenate([np.arange(*leaf) for leaf in large] or [np.empty(0, np.int64)])
        weights = large[:, 1] - large[:, 0]
        variances = [float(vectors[start:stop].var(axis=0).sum()) for start, stop in large.tolist()]
        self._variance = float(weights @ variances / weights.sum()) if len(large) else 0.0

    def near(self, rows: NDArray[np.int64], start: int, stop: int) -> NDArray[np.float32]:
        """float32 [len(rows), d]: a new row near each of ``rows``, which lie in the category ``[start, stop)``."""
        sources, members = self._vectors[rows], self._vectors[start:stop]
        if stop - start >= _FEW:
            drawn_from, variance = np.arange(start, stop), float(members.var(axis=0).sum())
            distance = self._nearest[rows]
        elif len(self._large):
            drawn_from, variance = self._large, self._variance
            distance = self._nearest[self._random.choice(drawn_from, len(rows))]
        else:
            return sources
        mean = members.mean(axis=0)
        part = 1 - distance**2 / (2 * variance) if variance else np.ones(len(rows))
        a = np.clip(part, 0, 1).astype(np.float32)[:, None]
        angle = self._random.uniform(0, 2 * np.pi, (len(rows), 1)).astype(np.float32)
        step = np.cos(angle) * self._differences(drawn_from, len(rows))
        step += np.sin(angle) * self._differences(drawn_from, len(rows))
        near = unit(mean + a * (sources - mean) + np.sqrt(1 - a**2) * step)
        scaled: NDArray[np.float32] = near * np.linalg.norm(sources, axis=1, keepdims=True)
        return scaled

    def _differences(self, drawn_from: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        """float32 [count, d]: the difference of two members of one category over sqrt(2), one of ``drawn_from``."""
        first = self._random.choice(drawn_from, count)
        start, size = self._leaf[first, 0], self._leaf[first, 1] - self._leaf[first, 0]
        # another one, as the difference of a row and itself would be no draw
        second = start + (first - start + self._random.integers(1, size)) % size
        # Two different ones of n are n / (n - 1) further apart than two independent draws, in the mean of the squares.
        scale = np.sqrt((size - 1) / (2 * size)).astype(np.float32)[:, None]
        found: NDArray[np.float32] = (self._vectors[first] - self._vectors[second]) * scale
        return found
