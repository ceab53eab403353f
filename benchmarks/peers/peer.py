"""One who ranks, and what it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Work = Literal["candidates", "exact", "batch"]


class Answer(NamedTuple):
    """Rows of the best ``k``, best first: int64 [k], for a batch [b, k]; what it took, where the peer tells."""

    rows: NDArray[np.int64]
    rows_scored: int | None = None
    bytes_read: int | None = None


@dataclass(frozen=True, eq=False)
class Setup:
    """What a peer is built from: ``vectors`` float32 [n, d]; ``cache`` is a folder for what takes long to build."""

    vectors: NDArray[np.float32]
    k: int
    cache: Path | None
    report: Callable[[str], None]


class Peer(ABC):
    """Ranks a table that it was given when it was made, on one thread.

    Attributes:
        name: what its rows are called.
        ours: whether it is part of this project.
        works: what it can be asked.
        ranks_candidates: whether it ranks the candidates alone where it is asked for them; else it ranks all rows, as a
            server without our layout has to.
    """

    name: str
    ours: ClassVar[bool] = False
    works: ClassVar[tuple[Work, ...]] = ("candidates", "exact", "batch")
    ranks_candidates: ClassVar[bool] = False

    def candidates(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        """The best of the rows in ``ranges`` int64 [m, 2] for ``query`` float32 [d]."""
        return self.exact(query, ranges)

    @abstractmethod
    def exact(self, query: NDArray[np.float32], ranges: NDArray[np.int64]) -> Answer:
        """The best of all rows. The candidates are a hint that a peer may use."""

    @abstractmethod
    def batch(self, queries: NDArray[np.float32], ranges: Sequence[NDArray[np.int64]]) -> Answer:
        """The best of all rows for each of ``queries`` float32 [b, d]; ``ranges`` are the hint for each."""


def rows_in(ranges: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of ``ranges`` int64 [m, 2], one by one."""
    return np.concatenate([np.arange(start, stop) for start, stop in ranges.tolist()])
