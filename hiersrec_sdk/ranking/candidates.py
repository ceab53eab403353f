"""Which categories are candidates, in NumPy: the definition that ``csrc/categories.c`` is held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray


class Choice(NamedTuple):
    """Categories by higher logit, then lower index.

    Attributes:
        taken: int64 [taken], best first.
        ranges: int64 [taken, 2], their rows, in this order.
        best: the best ``ordered`` categories, taken or not, with their probabilities.
    """

    taken: NDArray[np.int64]
    ranges: NDArray[np.int64]
    best: tuple[tuple[int, float], ...]


Choose: TypeAlias = Callable[
    [
        NDArray[np.float32],
        NDArray[np.int64],
        NDArray[np.int64] | None,
        NDArray[np.int64] | None,
        int,
        int,
        float,
        int,
    ],
    tuple[NDArray[np.int64], NDArray[np.int64], tuple[tuple[int, float], ...]],
]
"""See :func:`choose`, whose arguments and values it has."""


def choose(
    logits: NDArray[np.float32],
    ranges: NDArray[np.int64],
    eligible: NDArray[np.int64] | None,
    first: NDArray[np.int64] | None,
    rows: int,
    least: int,
    top_p: float,
    ordered: int,
) -> Choice:
    """Take categories, the most probable first, until they are enough; the one that reaches it is taken.

    Args:
        logits: float32 [categories], none of them NaN.
        ranges: int64 [categories, 2], the rows of each.
        eligible: int64 [categories], eligible rows of each; None: all of them.
        first: at least one distinct category: they are taken in any case, before all others, in this order; or None.
        rows: they are enough once they hold so many rows,
        least: so many eligible ones,
        top_p: and so much of the softmax of the logits; 0 asks for none, from 1 on all are taken.
        ordered: so many are named with their probabilities, even if fewer are taken.
    """
    order = (-logits).argsort(kind="stable")
    if first is not None:
        order = np.concatenate([first, order[~np.isin(order, first)]])
    odds = np.exp(logits - logits.max())
    total = float(odds.sum(dtype=np.float64))
    sizes = ranges[:, 1] - ranges[:, 0]
    enough = sizes[order].cumsum() >= rows
    enough &= (sizes if eligible is None else eligible)[order].cumsum() >= least
    enough &= (odds[order].cumsum(dtype=np.float64) >= top_p * total) & (top_p < 1)
    if first is not None:
        enough[: len(first) - 1] = False
    taken = int(enough.argmax()) + 1 if enough.any() else len(order)
    best = tuple((at, float(odds[at]) / total) for at in order[:ordered].tolist())
    return Choice(order[:taken], ranges[order[:taken]], best)
