"""The report of ``prepare``: how much it read, kept and dropped. Printed as it goes, and kept in the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class PrepareReport:
    """Counts of the clicks that were read, and of those that are in no split of the dataset, by reason.

    ``show`` takes each line for a person to read.
    """

    show: Callable[[str], object]
    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def line(self, label: str, count: int, what: str) -> None:
        """Print one aligned line."""
        self.show(f"{label:<11}{count:>13,} {what}")

    def read_clicks(self, count: int, where: str) -> None:
        self.read += count
        self.line("read", count, f"clicks of {where}")

    def drop(self, count: int, why: str) -> None:
        """Note ``count`` clicks that were dropped. Zero makes no line."""
        if count:
            self.dropped[why] = self.dropped.get(why, 0) + count
            self.line("dropped", count, f"clicks: {why}")

    def history(self) -> str:
        """A summary of the counts, for the error where nothing is left."""
        reasons = [f"{count:,} dropped ({why})" for why, count in self.dropped.items()]
        return ", ".join([f"{self.read:,} clicks read", *reasons])
