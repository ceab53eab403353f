"""Every step's values of one call, for bug reports and for whoever wants to see how an answer comes about."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.results import Result


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What :meth:`Recommender.recommend` computed on its way, in the order of its steps. ``print()`` shows it.

    Attributes:
        rows: int64 [length], the catalogue rows of the newest known items, which the encoder read.
        unknown_ids: how many ids of the session that the catalogue lacks.
        session_vectors: float32 [length, d], read by the encoder.
        category_logits: for each level, the top first, float32 [categories].
        repeat_logits: float32 [length], or None where the model has none.
        item_query: float32 [d].
        ranges: int64 [m, 2], rows ``[start, stop)`` of the candidates, the most probable categories first.
        linked: int64 [n], rows that rank whatever the candidates are: the session's own and those linked to them.
        boosts: float32 [n], added to their scores.
        best: int64 [results], the rows that were recommended, best first.
        scores: float32 [results].
        result: the answer.
        seconds: of each step: "look up", "encode", "choose", "rank".
    """

    rows: NDArray[np.int64]
    unknown_ids: int
    session_vectors: NDArray[np.float32]
    category_logits: tuple[NDArray[np.float32], ...]
    repeat_logits: NDArray[np.float32] | None
    item_query: NDArray[np.float32]
    ranges: NDArray[np.int64]
    linked: NDArray[np.int64]
    boosts: NDArray[np.float32]
    best: NDArray[np.int64]
    scores: NDArray[np.float32]
    result: Result
    seconds: dict[str, float]

    def __str__(self) -> str:
        lines = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "seconds":
                value = ", ".join(f"{step} {1e6 * took:.0f} µs" for step, took in value.items())
            lines.append(f"{field.name:<16} {_shown(value)}")
        return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return "; ".join(map(_shown, value))
    if isinstance(value, np.ndarray):
        text = np.array2string(value, precision=4, threshold=12, edgeitems=3, separator=" ").replace("\n", "")
        return f"{value.dtype} {list(value.shape)} {text}"
    return str(value)
