"""How far apart the rows of a table lie, so that a reader can judge how alike two tables are."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.vectors.case import unit
from benchmarks.vectors.grow import nearest

_PERCENTILES: Final = (5, 25, 50, 75, 95)
_SAMPLE: Final = 1_000


def geometry(
    vectors: NDArray[np.float32], leaves: NDArray[np.int64], queries: NDArray[np.float32], seed: int = 0
) -> dict[str, list[float]]:
    """Percentiles 5, 25, 50, 75, 95 by name, from a sample of a thousand rows and a hundred queries.

    Distances to the nearest member of the category and to a random one; cosines between a query and its best, 20th best
    and top 0.1 % row; last the share of the variance of the table in its first 8, 16, 32, 64, 96 principal axes.
    """
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False))
    leaf = leaves[leaves[:, 1].searchsorted(rows, side="right")]
    alone = leaf[:, 1] - leaf[:, 0] < 2
    rows, leaf = rows[~alone], leaf[~alone]
    close = [
        nearest(vectors[start:stop], rows[leaf[:, 0] == start] - start)
        for start, stop in np.unique(leaf, axis=0).tolist()
    ]
    other = rows + random.integers(1, leaf[:, 1] - leaf[:, 0])
    other = np.where(other < leaf[:, 1], other, other - (leaf[:, 1] - leaf[:, 0]))
    pairs = np.linalg.norm(vectors[rows] - vectors[other], axis=1)

    random = np.random.default_rng(seed)  # the same queries, whatever the table
    asked = unit(queries[random.choice(len(queries), min(100, len(queries)), replace=False)])
    places = [0, 19, max(19, len(vectors) // 1_000)]
    best = []
    for query in asked:  # one at a time: at 10M rows a hundred would be 4 GB of scores
        cosines = vectors @ query
        at = [max(0, len(cosines) - 1 - place) for place in places]
        best.append(np.partition(cosines, at)[at])
    some = vectors[random.integers(0, len(vectors), min(50_000, len(vectors)))]
    values = np.linalg.eigvalsh(np.cov(some.T))[::-1]
    axes = [min(axis, len(values)) for axis in (8, 16, 32, 64, 96)]
    return {
        "distance to the nearest of the category": _percentiles(np.concatenate(close)),
        "distance to a random one of it": _percentiles(pairs),
        **{
            f"cosine of a query and its {name}": _percentiles(column)
            for name, column in zip(("best row", "20th row", "row at 0.1 %"), np.array(best).T, strict=True)
        },
        f"variance in the first {', '.join(map(str, axes))} axes": [
            float(values[:axis].sum() / values.sum()) for axis in axes
        ],
    }


def beside(tables: dict[str, dict[str, list[float]]]) -> list[str]:
    """Lines that show the geometry of several tables beside each other, by the tables' names."""
    wide = max(map(len, tables))
    lines = ["percentiles: " + ", ".join(map(str, _PERCENTILES))]
    for name in next(iter(tables.values())):
        lines.append(name)
        for table, values in tables.items():
            lines.append(f"    {table:{wide}}  " + "  ".join(f"{value:6.3f}" for value in values[name]))
    return lines


def _percentiles(values: NDArray[np.floating[Any]]) -> list[float]:
    found: list[float] = np.percentile(values, _PERCENTILES).tolist()
    return found
