"""The rows of a ranking benchmark: from times and answers to medians and ratios, and to a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import READ, Answer, Peer, Work

_HEAD: Final = (
    "work",
    "by",
    "median",
    "10-90 %",
    "to a read",
    "ours faster",
    "recall",
    "ranks",
    "rows scored",
    "bytes read",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One peer at one work.

    Attributes:
        work: "candidates", "exact" or "batch".
        by: who.
        median_us: microseconds a query.
        spread: from the 10th to the 90th percentile of the times, as a part of the median.
        ratio: of the median to that of the plain read of the int8 bytes of this work; None without one.
        slower: of the median to that of our fastest; None without ours.
        best: whether it is our fastest of this work.
        recall: of the ids of a float32 scan, of the rows that it ranks, mean; None for the plain read.
        recall_exact: likewise of a float32 scan of all rows.
        ranks: "candidates" or "all": which rows it ranks in this work.
        ids_equal: whether the ids are those of the float32 scan, in its order, for every query timed.
        queries: how many were timed.
        rows_scored: mean a query; None where the peer does not tell.
        bytes_read: likewise.
    """

    work: Work
    by: str
    median_us: float
    spread: float
    ratio: float | None = None
    slower: float | None = None
    best: bool = False
    recall: float | None = None
    recall_exact: float | None = None
    ranks: str = "all"
    ids_equal: bool | None = None
    queries: int = 0
    rows_scored: float | None = None
    bytes_read: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def row_of(
    work: Work,
    peer: Peer,
    nanoseconds: Sequence[int],
    answers: Sequence[Answer],
    truth: Sequence[NDArray[np.int64]],
    truth_exact: Sequence[NDArray[np.int64]],
    queries: int,
) -> Row:
    """The row of ``peer``, but for what compares it with others.

    Args:
        nanoseconds: of each answer.
        answers: each to ``queries`` queries.
        truth: for each answer int64 [queries, k], the ids of a float32 scan of the rows that the peer ranks.
        truth_exact: likewise of all rows.
    """
    times = np.array(nanoseconds) / 1_000 / queries
    low, median, high = np.percentile(times, [10, 50, 90])
    reads = peer.name == READ
    ranks = "candidates" if work == "candidates" and peer.ranks_candidates else "all"
    told = all(answer.rows_scored is not None for answer in answers)
    return Row(
        work=work,
        by=peer.name,
        median_us=float(median),
        spread=float((high - low) / median),
        recall=None if reads else recall([answer.rows for answer in answers], truth),
        recall_exact=None if reads else recall([answer.rows for answer in answers], truth_exact),
        ranks=ranks,
        ids_equal=None
        if reads
        else all(
            np.array_equal(np.atleast_2d(answer.rows), right)
            for answer, right in zip(answers, truth, strict=True)
        ),
        queries=len(answers) * queries,
        rows_scored=float(np.mean([answer.rows_scored or 0 for answer in answers])) / queries
        if told
        else None,
        bytes_read=float(np.mean([answer.bytes_read or 0 for answer in answers])) / queries if told else None,
    )


def recall(found: Sequence[NDArray[np.int64]], truth: Sequence[NDArray[np.int64]]) -> float:
    """Mean share of the ids of each query of ``truth`` that ``found`` has; both hold arrays [k] or [b, k]."""
    pairs = [
        (set(own), set(right))
        for some, wanted in zip(found, truth, strict=True)
        for own, right in zip(np.atleast_2d(some).tolist(), np.atleast_2d(wanted).tolist(), strict=True)
    ]
    return float(np.mean([len(own & right) / len(right) for own, right in pairs]))


def compared(rows: Sequence[Row], ours: Sequence[str]) -> list[Row]:
    """The ``rows`` of one work, fastest first, with their ratios; ``ours`` are the names of those of this project."""
    read = next((row.median_us for row in rows if row.by == READ), None)
    best = min((row.median_us for row in rows if row.by in ours), default=None)
    return [
        replace(
            row,
            ratio=None if read is None else row.median_us / read,
            slower=None if best is None else row.median_us / best,
            best=row.by in ours and row.median_us == best,
        )
        for row in sorted(rows, key=lambda row: row.median_us)
    ]


def as_table(rows: Sequence[Row]) -> str:
    """The rows for a person, in their order. Our fastest is marked with ``**``, ids of a float32 scan with ``=``."""
    lines = [_HEAD, *map(_cells, rows)]
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for at, line in enumerate(lines):
        if at > 1 and line[0] != lines[at - 1][0]:
            texts.append("")
        names, numbers = line[:2], line[2:]
        cells = [cell.ljust(width) for cell, width in zip(names, wide[:2], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(numbers, wide[2:], strict=True)]
        texts.append("  ".join(cells).rstrip())
    return "\n".join(texts)


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        row.work,
        row.by + (" **" if row.best else ""),
        f"{row.median_us:,.1f} us",
        f"{100 * row.spread:.0f} %",
        number(row.ratio, ",.2f") + "x" * (row.ratio is not None),
        number(row.slower, ",.1f") + "x" * (row.slower is not None),
        number(row.recall, ".4f") + "=" * bool(row.ids_equal),
        row.ranks if row.recall is not None else "",
        number(row.rows_scored, ",.0f"),
        number(row.bytes_read, ",.0f"),
    )
