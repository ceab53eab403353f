"""What ``prepare`` read, kept and set aside: printed as it goes, and kept for the dataset's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class PrepareReport:
    """Every click that was read is in ``read``; every one that is not in a part of the dataset is in ``dropped``."""

    report: Callable[[str], object]
    read: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def line(self, label: str, count: int, what: str) -> None:
        """Print one aligned line."""
        self.report(f"{label:<11}{count:>13,} {what}")

    def read_clicks(self, count: int, where: str) -> None:
        self.read += count
        self.line("read", count, f"clicks of {where}")

    def drop(self, count: int, why: str) -> None:
        """Note ``count`` clicks that were set aside; none is not worth a line."""
        if count:
            self.dropped[why] = self.dropped.get(why, 0) + count
            self.line("dropped", count, f"clicks: {why}")

    def history(self) -> str:
        """What became of the clicks, for the error where nothing is left."""
        reasons = [f"{count:,} dropped ({why})" for why, count in self.dropped.items()]
        return ", ".join([f"{self.read:,} clicks read", *reasons])
