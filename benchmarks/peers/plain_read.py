"""The limit: a read of the bytes that a scan of int8 vectors has to read, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

from benchmarks.aligned import copied
from benchmarks.peers.peer import Answer, Peer, Setup

_WORD: Final = 8
_NOTHING: Final = np.empty(0, np.int64)


def build(setup: Setup) -> list[Peer]:
    return [PlainRead(*setup.vectors.shape)]


# Tried on 128 MB, on one thread of an AMD EPYC (Zen 5) whose other core was at work, medians: np.add.reduce 28.8 GB/s,
# np.bitwise_xor.reduce 27.9, this loop with 1, 2, 4, 6, 8 and 16 streams 28.9, 33.3, 33.9, 35.6, 32.0 and 30.6. The sum
# of a word takes a fraction of an instruction; several streams keep more lines of memory under way than the prefetcher
# of one does. So this is the fastest read that we know how to write, not the most convenient one.
@numba.njit(types.int64(types.int64[::1], types.Array(types.int64, 2, "C", readonly=True)), nogil=True)
def read(words: Any, ranges: Any) -> Any:
    """The sum of the int64 ``words`` in ``ranges`` int64 [m, 2]."""
    total = np.int64(0)
    for r in range(len(ranges)):
        own = words[ranges[r, 0] : ranges[r, 1]]  # a view, whose index from 0 on needs no check for its sign
        part = len(own) // 4
        a = b = c = d = np.int64(0)
        for i in range(part):
            a += own[i]
            b += own[part + i]
            c += own[2 * part + i]
            d += own[3 * part + i]
        for i in range(4 * part, len(own)):
            a += own[i]
        total += a + b + c + d
    return total


class PlainRead(Peer):
    """Reads the int8 codes: of the candidates; of the whole table; of the whole table once for a batch."""

    name = "plain-read"
    ranks_candidates = True

    def __init__(self, rows: int, dimension: int) -> None:
        # ones, not zeros: pages of zeros that nobody wrote to are one and the same page
        self._words = copied(np.ones(rows * dimension // _WORD, np.int64))
        self._row = dimension / _WORD
        self._whole = np.array([[0, len(self._words)]])

    def candidates(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        words = ranges * self._row
        read(self._words, words.astype(np.int64))
        rows = int((ranges[:, 1] - ranges[:, 0]).sum())
        return Answer(_NOTHING, 0, int(rows * self._row * _WORD))

    def exact(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        read(self._words, self._whole)
        return Answer(_NOTHING, 0, self._words.nbytes)

    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        return self.exact(queries[0], ranges[0])
