"""Which ids are right: those of a float32 scan by the C kernel, which has no codes to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.hiersrec import aligned_codes
from benchmarks.vectors import Case
from hiersrec_sdk.ranking import Table, get_backend


class FloatScan:
    """Scores every row that is asked for, and nothing else."""

    def __init__(self, case: Case, k: int) -> None:
        self._table = Table(case.vectors)
        self._backend = get_backend("c")
        self._whole = np.array([[0, case.rows]])
        self._k = k

    def __call__(
        self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]] | None = None
    ) -> NDArray[np.int64]:
        """int64 [b, k]: for each of ``queries`` float32 [b, d] the best rows of its ranges, by default of all."""
        chosen = [self._whole] * len(queries) if ranges is None else ranges
        return np.stack(
            [
                self._backend.topk(self._table, query, own, self._k).rows
                for query, own in zip(queries, chosen, strict=True)
            ]
        )


def check(case: Case, k: int, count: int) -> dict[str, int]:
    """Of the first ``count`` queries, for how many the codes give the ids of a float32 scan, by work."""
    table, backend, scan = (
        Table(case.vectors, codes=aligned_codes(case.vectors)),
        get_backend("c"),
        FloatScan(case, k),
    )
    equal = {"candidates": 0, "exact": 0}
    for query, ranges in zip(case.queries[:count], case.ranges[:count], strict=True):
        near = backend.topk(table, query, ranges, k).rows
        exact = backend.topk(table, query, ranges, k, everything=True).rows
        equal["candidates"] += np.array_equal(near, scan(query[None], [ranges])[0])
        equal["exact"] += np.array_equal(exact, scan(query[None])[0])
    return equal
