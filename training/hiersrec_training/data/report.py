"""The prepare report: what was read of each file, what was kept and set aside, and what looks unusual.

Printed line by line as it is found out, and kept in the settings of the dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hiersrec_training.data.columns import Column
from hiersrec_training.data.times import date


@dataclass
class FileReport:
    """What was read of one log.

    Attributes:
        name: of the file, without its folder.
        rows: clicks, before any were set aside.
        first, last: times of the first and the last click, ISO 8601 in UTC; None without times.
        times: the form of the times; None without.
        order: "oldest first", "newest first" or "mixed"; None without times.
    """

    name: str
    rows: int
    first: str | None = None
    last: str | None = None
    times: str | None = None
    order: str | None = None


@dataclass
class PrepareReport:
    """Counts of what was read and of what is in no split of the dataset, by reason, with an example of each.

    Attributes:
        show: takes each line for a person to read.
        read: clicks that were read.
        dropped: clicks that were dropped, by reason.
        examples: one example a reason, where there is one.
        files: what was read of each log.
        warnings: what is unusual.
    """

    show: Callable[[str], object]
    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    files: list[FileReport] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def line(self, label: str, count: int | None, what: str) -> None:
        """Print one aligned line."""
        number = "" if count is None else f"{count:,}"
        self.show(f"{label:<11}{number:>13} {what}")

    def file(self, found: FileReport) -> None:
        """Note what was read of a log."""
        self.files.append(found)
        self.read += found.rows
        self.line("read", found.rows, f"clicks of {found.name}")
        if found.times is not None and found.first is not None:
            self.line("", None, f"from {found.first} to {found.last} UTC, {found.times}, {found.order}")

    def drop(self, count: int, why: str, example: str = "") -> None:
        """Note ``count`` clicks that were dropped. Zero makes no line."""
        if count:
            self.dropped[why] = self.dropped.get(why, 0) + count
            self.note("dropped", count, f"clicks: {why}", example)

    def note(self, label: str, count: int, what: str, example: str = "") -> None:
        """Print a count of what was changed or set aside, with an example. Zero makes no line."""
        if count:
            if example:
                self.examples.setdefault(what, example)
            self.line(label, count, f"{what}, such as {example}" if example else what)

    def warn(self, what: str) -> None:
        """Note something unusual."""
        self.warnings.append(what)
        self.show(f"{'warning':<11}{'':>13} {what}")

    def column(self, column: Column, table: str) -> None:
        """Note the blanks that were stripped off a column, and the texts in it that stand for a missing value."""
        where = f"{column.role} of {Path(table).name}"
        self.note(
            "stripped", column.stripped, f"{where} of blanks around them", repr(column.stripped_example)
        )
        for text, count in column.missing_texts.most_common(3):
            self.line("missing", count, f"{where} written as {text} (--missing changes that)")

    def history(self) -> str:
        """A summary of the counts, for the error where nothing is left."""
        reasons = [f"{count:,} dropped ({why})" for why, count in self.dropped.items()]
        return ", ".join([f"{self.read:,} clicks read", *reasons])

    def as_settings(self) -> dict[str, Any]:
        """The report for the dataset's settings."""
        return {
            "clicks_read": self.read,
            "clicks_dropped": self.dropped,
            "examples": self.examples,
            "files": [asdict(found) for found in self.files],
            "warnings": self.warnings,
        }


def span(first: int, last: int) -> tuple[str, str]:
    """Two times in microseconds, for a :class:`FileReport`."""
    return date(first), date(last)
