"""The prepare report: what was read of each file, what was kept and set aside, and what looks unusual.

Printed line by line as it is found out, and kept in the settings of the dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hiersrec_training.data.columns import Column, Fractions
from hiersrec_training.data.options import MISSING_TEXTS
from hiersrec_training.data.text import Skipped


@dataclass
class FileReport:
    """What was read of one log.

    Attributes:
        name: of the file, without its folder.
        rows: clicks, before any were set aside.
        first, last: times of the first and the last click, in UTC; None without times.
        times: the form of the times, and the zone they were taken in; None without.
        order: "oldest first", "newest first" or "in no order of time"; None without times.
        sessions: sessions that begin in it, with their ``median_length`` and the ``longest``, in clicks.
        repeats: clicks that repeat another one exactly.
        tied: clicks with the same time as the one before in their session.
    """

    name: str
    rows: int
    first: str | None = None
    last: str | None = None
    times: str | None = None
    order: str | None = None
    sessions: int = 0
    median_length: float = 0.0
    longest: int = 0
    repeats: int = 0
    tied: int = 0


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
        """Note something unusual, once."""
        if what in self.warnings:
            return
        self.warnings.append(what)
        self.show(f"{'warning':<11}{'':>13} {what}")

    def sessions(self, found: FileReport, *, has_order: bool) -> None:
        """Say how many sessions a log has."""
        if found.sessions:
            lengths = f"the median of {found.median_length:g} clicks, the longest of {found.longest:,}"
            self.line("formed", found.sessions, f"sessions of {found.name}, {lengths}")
        if found.tied and found.order == "in no order of time" and not has_order:
            self.warn(
                f"{found.tied:,} clicks of {found.name} have the time of the click before them in their session, and "
                "the file is in no order of time: these stay in the order of the file"
            )

    def skipped(self, name: str, lines: Skipped, rows: int) -> None:
        """Note the lines of a text file that are no rows."""
        self.note("skipped", lines.comments, f"comment lines of {name}")
        self.note("skipped", lines.headers, f"lines of {name} that repeat its header")
        what = f"rows of {name} with another number of fields"
        self.note("skipped", lines.malformed, what, lines.examples.get("malformed", ""))
        if lines.malformed * 10 > rows:
            self.warn(f"{lines.malformed:,} rows of {name} were left out, beside {rows:,} that were read")

    def column(self, column: Column, name: str, *, unquotes: bool = False) -> None:
        """Note the blanks that were stripped off a column, and the texts in it that stand for a missing value."""
        where = f"{column.role} of {name}"
        self.note(
            "stripped", column.stripped, f"{where} of blanks around them", repr(column.stripped_example)
        )
        what = f"{column.role} of {name} written as fractions, taken as integers"
        self.note("changed", column.floats, what, column.floats_example)
        if column.quoted and not unquotes:
            self.warn(
                f"{column.quoted:,} {column.role} of {name} are in quotes, such as {column.quoted_example}, which are "
                "part of them: --quote '\"' takes them off where fields are quoted"
            )
        if column.odd_quotes:
            example = column.odd_quotes_example
            help_ = '--quote "\'" takes them off where fields are quoted'
            if example.startswith("="):
                help_ = "export them without the formula"
            self.warn(
                f"{column.odd_quotes:,} {where} are in quotes, such as {example}, which are part of them: {help_}"
            )
        if column.rounded:
            self.warn(
                f"{column.rounded:,} {where} look like numbers that a spreadsheet has rounded, such as "
                f"{column.rounded_example}: different ones may have become one; export them as text"
            )
        for text, count in column.missing_texts.most_common(12):
            hint = " (--no-default-missing keeps it)" if text in MISSING_TEXTS else ""
            self.line("missing", count, f"{where} written as {text}{hint}")

    def fractions(self, found: Fractions, role: str) -> None:
        """Note the ids of a role that are written as fractions, and what was made of them."""
        if not found.other:
            what = f"different {role} written as fractions, taken as integers"
            self.note("changed", found.distinct, what, found.example)
            return
        what = f"different {role} written as fractions that stay so, as {found.other} does"
        self.note("kept", found.distinct, what, found.example)
        if found.both:
            self.warn(
                f"{found.both:,} {role} are there with and without .0, and mean different ones: others have fractions, "
                f"such as {found.other}; write them in one way if they mean the same"
            )

    def compare_files(self, files: list[FileReport], zone: str | None, *, needs_zone: bool) -> None:
        """Warn where the logs differ in a way that suggests that one of them was misread.

        Args:
            files: the reports of the logs.
            zone: the one that was named for times without a zone.
            needs_zone: nothing else is in that zone.
        """
        dated = [found for found in files if found.times and found.first and found.last]
        naive = [found.name for found in dated if "without a zone" in str(found.times)]
        if zone is not None and needs_zone and dated and not naive:
            self.warn(f"--time-zone {zone} has no effect: all times have a zone, or count in UTC")
        if zone is None and naive and len(naive) < len(dated):
            self.warn(
                f"times of {', '.join(naive)} have no zone and are taken as UTC, those of the other logs have one: "
                "give --time-zone if that is wrong"
            )
        rates = []
        for found in dated:
            first, last = (np.datetime64(str(moment)) for moment in (found.first, found.last))
            seconds = int((last - first).astype(np.int64))
            if found.rows >= 1000 and seconds > 0:
                rates.append((found.rows / seconds, found.name))
        if rates and max(rates)[0] > 10 * min(rates)[0]:
            factor = max(rates)[0] / min(rates)[0]
            self.warn(f"{max(rates)[1]} has {factor:,.0f} times as many clicks an hour as {min(rates)[1]}")

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
