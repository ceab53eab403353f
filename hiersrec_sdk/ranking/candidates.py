"""Which categories are candidates, in NumPy: the definition that ``csrc/categories.c`` gives the same bits as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.arrays import FLOAT32, INT64, array_of

_LANES: Final = 16


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
    Choice,
]
"""See :func:`choose`."""


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
        logits: float32 [categories], at least one. A NaN counts as -infinity.
        ranges: int64 [categories, 2], the rows of each.
        eligible: int64 [categories], eligible rows of each; None: all of them.
        first: int64, distinct categories: they are taken in any case, before all others, in this order; or None.
        rows: how many rows the categories must hold to be enough.
        least: how many eligible rows they must hold.
        top_p: how much of the softmax of the logits they must hold; 0 asks for none, from 1 on all are taken. Where the
            largest logit is infinite, all are equally probable.
        ordered: how many categories to name with their probabilities, even if fewer are taken.

    Raises:
        TypeError: an argument is not an array, or of the wrong dtype.
        ValueError: a wrong shape or layout, no category, ``first`` outside of the categories or not distinct, or a
            negative ``ordered``.
    """
    _check(logits, ranges, eligible, first, ordered)
    logits = np.where(np.isnan(logits), np.float32(-np.inf), logits)
    order = (-logits).argsort(kind="stable")
    if first is not None:
        order = np.concatenate([first, order[~np.isin(order, first)]])
    with np.errstate(all="ignore"):  # of infinities
        odds = _exponential(logits - logits.max())
    total = _sum_of(odds)
    sizes = ranges[:, 1] - ranges[:, 0]
    enough = sizes[order].cumsum() >= rows
    enough &= (sizes if eligible is None else eligible)[order].cumsum() >= least
    enough &= (odds[order].cumsum(dtype=np.float64) >= top_p * total) & (top_p < 1)
    if first is not None and len(first):
        enough[: len(first) - 1] = False
    taken = int(enough.argmax()) + 1 if enough.any() else len(order)
    best = tuple((at, float(odds[at]) / total) for at in order[:ordered].tolist())
    return Choice(order[:taken], ranges[order[:taken]], best)


def _check(
    logits: NDArray[np.float32],
    ranges: NDArray[np.int64],
    eligible: NDArray[np.int64] | None,
    first: NDArray[np.int64] | None,
    ordered: int,
) -> None:
    categories = len(array_of("logits", logits, FLOAT32, (None,)))
    if not categories:
        raise ValueError("logits must be those of at least one category, got none")
    array_of("ranges", ranges, INT64, (categories, 2))
    if eligible is not None:
        array_of("eligible", eligible, INT64, (categories,))
    if first is not None and len(array_of("first", first, INT64, (None,))):
        if not 0 <= first.min() <= first.max() < categories:
            raise ValueError(f"first: categories must be in [0, {categories})")
        if len(np.unique(first)) < len(first):
            raise ValueError("first: categories must be distinct")
    if ordered < 0:
        raise ValueError(f"ordered must be an integer ≥ 0, got {ordered}")


def _exponential(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """exp(x) for x ≤ 0, float32, by the polynomial of ``csrc/categories.c``: a library's exp has other bits."""
    x = np.where(x > -87, x, np.float32(-87))  # below, 0 for all that a sum can tell
    whole = (x * np.float32(1.44269504) - np.float32(0.5)).astype(np.int32)
    power = ((whole + 127) << 23).view(np.float32)  # 2 to the power of `whole`
    rounded = whole.astype(np.float32)
    r = x - rounded * np.float32(0.693359375) + rounded * np.float32(2.12194440e-4)
    p = np.full_like(r, 1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + np.float32(coefficient)
    found: NDArray[np.float32] = (p * r * r + r + np.float32(1)) * power
    return found


def _sum_of(values: NDArray[np.float32]) -> float:
    """Their sum in float64, in the order of ``csrc/categories.c``: 16 lanes, what is left over in the first."""
    whole = len(values) // _LANES * _LANES
    lanes = np.zeros((whole // _LANES + 1, _LANES))
    lanes[1:] = values[:whole].reshape(-1, _LANES)
    lanes = np.add.accumulate(lanes)[-1]
    lanes[0] = np.add.accumulate(np.append(lanes[:1], values[whole:]))[-1]
    return float(np.add.accumulate(lanes)[-1])
