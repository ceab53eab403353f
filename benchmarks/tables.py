"""Tables for a person, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """The ``rows`` below their ``head``; the first ``text`` columns are text, the others are figures."""
    widths = [max(3, *map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * width if at < text else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    lines = [
        [
            cell.ljust(width) if at < text else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (head, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """Mean of percentages and, of several, their standard deviation."""
    return f"{fmean(values):.2f} %" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
