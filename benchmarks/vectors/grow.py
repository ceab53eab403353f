"""A larger table with the geometry of a trained one: new rows near old ones of the same category."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.aligned import empty

_FEW = 8  # members below which a category says too little of its own spread
_CHUNK = 1 << 14


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
    sizes = leaves[:, 1] - leaves[:, 0]
    wanted = shares(sizes, rows)
    edges = np.concatenate([[0], wanted.cumsum()])
    pool = _Pool(vectors, leaves, random)
    grown = empty((rows, vectors.shape[1]), np.float32)
    source = np.empty(rows, np.int64)
    kept = np.full(len(vectors), -1, np.int64)
    for (start, stop), first, last in zip(
        leaves.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True
    ):
        members = np.arange(start, stop)
        places = first + random.permutation(last - first)
        stay = random.permutation(members)[: last - first]
        old, new = places[: len(stay)], places[len(stay) :]
        kept[stay], source[old], grown[old] = old, stay, vectors[stay]
        for at in range(0, len(new), _CHUNK):
            part = new[at : at + _CHUNK]
            source[part] = random.integers(start, stop, len(part))
            grown[part] = pool.near(source[part], start, stop)
    return Grown(grown, source, kept, np.stack([edges[:-1], edges[1:]], axis=1))


def shares(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """``total`` split in proportion to ``sizes``, in whole numbers: the largest remainders are rounded up."""
    whole, rest = np.divmod(sizes * total, sizes.sum())
    whole[np.argsort(-rest, kind="stable")[: total - whole.sum()]] += 1
    return whole


def nearest(members: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [len(rows)]: from each of ``rows`` of ``members`` to the member nearest to it; inf where it is alone."""
    squares = np.einsum("ij,ij->i", members, members)
    found = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), 1_024):
        part = rows[at : at + 1_024]
        distances = squares[part, None] + squares - 2 * (members[part] @ members.T)
        distances[np.arange(len(part)), part] = np.inf
        found[at : at + 1_024] = np.sqrt(np.maximum(distances.min(axis=1, initial=np.inf), 0))
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
        variance = weight = 0.0
        for start, stop in leaves[leaves[:, 1] - leaves[:, 0] > 1].tolist():
            members = vectors[start:stop]
            self._nearest[start:stop] = nearest(members, np.arange(stop - start))
            if stop - start >= _FEW:
                variance += float(members.var(axis=0).sum()) * (stop - start)
                weight += stop - start
        # Where every category is small, nothing says how far apart its members are: they are taken to be one.
        self._variance = variance / weight if weight else 0.0
        large = leaves[:, 1] - leaves[:, 0] >= _FEW
        self._large = np.concatenate([np.arange(*leaf) for leaf in leaves[large]] or [np.empty(0, np.int64)])

    def near(self, rows: NDArray[np.int64], start: int, stop: int) -> NDArray[np.float32]:
        """float32 [len(rows), d]: a new row near each of ``rows``, which lie in the category ``[start, stop)``."""
        own = self._vectors[rows]
        members = self._vectors[start:stop]
        if stop - start >= _FEW:
            from_rows, variance, distance = (
                np.arange(start, stop),
                float(members.var(axis=0).sum()),
                self._nearest[rows],
            )
        elif len(self._large):
            from_rows, variance = self._large, self._variance
            distance = self._nearest[self._random.choice(from_rows, len(rows))]
        else:
            return own
        mean = members.mean(axis=0)
        part = 1 - distance**2 / (2 * variance) if variance else np.ones(len(rows))
        a = np.clip(part, 0, 1).astype(np.float32)[:, None]
        angle = self._random.uniform(0, 2 * np.pi, (len(rows), 1)).astype(np.float32)
        step = np.cos(angle) * self._differences(from_rows, len(rows))
        step += np.sin(angle) * self._differences(from_rows, len(rows))
        near = mean + a * (own - mean) + np.sqrt(1 - a**2) * step
        lengths = np.maximum(np.linalg.norm(near, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        scaled: NDArray[np.float32] = near * (np.linalg.norm(own, axis=1, keepdims=True) / lengths)
        return scaled

    def _differences(self, from_rows: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        """float32 [count, d]: differences of two members of one category over the root of 2, one of ``from_rows``."""
        first = self._random.choice(from_rows, count)
        start, size = self._leaf[first, 0], self._leaf[first, 1] - self._leaf[first, 0]
        # another one, as the difference of a row and itself would be no draw
        second = start + (first - start + self._random.integers(1, size)) % size
        # Two different ones of n are n / (n - 1) further apart than two independent draws, in the mean of the squares.
        scale = np.sqrt((size - 1) / (2 * size)).astype(np.float32)[:, None]
        found: NDArray[np.float32] = (self._vectors[first] - self._vectors[second]) * scale
        return found
