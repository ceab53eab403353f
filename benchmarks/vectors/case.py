"""One table with the queries that are asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Scores are cosines over a temperature: the length of every query of the default model.
QUERY_LENGTH = 1 / 0.07


@dataclass(frozen=True, eq=False)
class Case:
    """A table, its queries, and the candidates of each query.

    Attributes:
        name: "bundle", "clustered" or "isotropic".
        vectors: float32 [n, d].
        queries: float32 [m, d].
        ranges: for each query int64 [r, 2], the rows ``[start, stop)`` of its candidates: disjoint, the best first.
        notes: lines for a person, on how alike the table is to what it stands for.
    """

    name: str
    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]
    ranges: Sequence[NDArray[np.int64]]
    notes: Sequence[str] = field(default=())

    @property
    def rows(self) -> int:
        return len(self.vectors)

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])


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


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """``vectors`` float32 [..., d] at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    made: NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return made
