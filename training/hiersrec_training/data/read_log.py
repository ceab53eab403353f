"""Logs of one or several files, as sessions in order of time."""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError, EmptyLogError, InvalidOptionError
from hiersrec_training.data.clicks import ClickStore, LogSessions, Rules, Tally
from hiersrec_training.data.descriptions import LatestDescriptions
from hiersrec_training.data.kinds import suffix_of
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_events import PAIR, EventColumns, EventFile, Known
from hiersrec_training.data.read_sessions import SessionFile
from hiersrec_training.data.report import FileReport, PrepareReport
from hiersrec_training.data.split import session_digests
from hiersrec_training.data.tables import Origin, Table, open_table, text_format, unescaped

_EVENTS: Final = 20  # types of event that are listed


@dataclass(frozen=True)
class Log:
    """A log, read.

    Attributes:
        sessions: in order of their last clicks, or of the log where there are no times; items are keys.
        items: int64, the keys of all items, in order.
        about: what it says about the items; None where it was not asked.
    """

    sessions: LogSessions
    items: NDArray[np.int64]
    about: LatestDescriptions | None = None


class LogReader:
    """Reads logs with the same keys for items and sessions.

    Args:
        options: of ``prepare``.
        report: takes the counts.
        work: folder for temporary files.
    """

    def __init__(self, options: PrepareOptions, report: PrepareReport, work: Path) -> None:
        self._options, self._report, self._work = options, report, work
        self.known = Known()

    def read(self, sources: Sequence[Any], *, describes: bool) -> Log:
        """Read one log of one or several files.

        Args:
            sources: paths, or frames.
            describes: the log may say something about items.

        Raises:
            MissingColumnError: an event log lacks a column.
            EmptyLogError: no click is left.
            DataError: a file is missing, damaged, not of the format that its name says, or of two meanings.
            InvalidOptionError: options that this kind of log does not have.
        """
        names = ", ".join(_name(source, number) for number, source in enumerate(sources))
        formats = {self._format_of(source) for source in sources}
        if len(formats) > 1:
            raise InvalidOptionError(
                "event logs and session files cannot be read together: give --format, or one kind"
            )
        (log_format,) = formats
        self._check_options(log_format, names)
        log = (
            self._read_sessions(sources)
            if log_format == "sessions"
            else self._read_events(sources, describes=describes)
        )
        if not len(log.sessions):
            raise EmptyLogError(f"no click is left of {names}: {self._report.history()}")
        return log

    def _format_of(self, source: Any) -> str:
        if self._options.log_format != "auto":
            return self._options.log_format
        is_text = isinstance(source, str | Path) and suffix_of(Path(source)) == ".txt"
        return "sessions" if is_text else "events"

    def _check_options(self, log_format: str, names: str) -> None:
        given = ", ".join(self._options.given_for(log_format))
        if given and log_format == "sessions":
            raise InvalidOptionError(
                f"{names} is read as one session a line, which has no {given}: for one event a row give --format "
                r"events and --separator, such as --separator '\t'; or leave these options out"
            )
        if given:
            raise InvalidOptionError(
                f"{names} is read as one event a row, which has no {given}: for one session a line give --format "
                "sessions"
            )

    def _read_sessions(self, sources: Sequence[Any]) -> Log:
        options, report = self._options, self._report
        store, firsts = ClickStore(self._work), [0]
        for number, source in enumerate(sources):
            if not isinstance(source, str | Path):
                raise InvalidOptionError("--format sessions is for text files; a frame holds events")
            file = SessionFile(Path(source), number, firsts[-1], options, report, self._work)
            firsts.append(firsts[-1] + file.read(self.known.items, store))
        rules = Rules(
            first_rows=np.array(firsts, np.int64),
            reversed_files=np.zeros(len(sources), bool),
            longest=options.max_session_length,
        )
        sessions, tally = store.sessions(rules)
        self._report_formed(sessions, firsts, tally)
        self._report_tally(tally, lambda row: "")
        return Log(sessions, store.items)

    def _read_events(self, sources: Sequence[Any], *, describes: bool) -> Log:
        options, report, known = self._options, self._report, self.known
        tables = [self._open(source, number) for number, source in enumerate(sources)]
        columns = EventColumns(tables[0], options, describes=describes)
        for table in tables:
            table.require(columns.wanted)
        about = None
        if columns.about:
            keeps_older = options.cuts_test_split
            about = LatestDescriptions(
                list(columns.about),
                options.missing_texts,
                together=options.category_columns,
                keeps_older=keeps_older,
            )
        store, firsts, found = ClickStore(self._work), [0], []
        events: Counter[str] = Counter()
        for number, table in enumerate(tables):
            file = EventFile(table, number, firsts[-1], columns, options, known, about)
            firsts.append(firsts[-1] + file.read(store) + 1)
            found.append(file.report(report))
            events.update(file.events)
        known.yearless.check(", ".join(_name(source, number) for number, source in enumerate(sources)))
        zone = options.time_zone
        report.compare_files(found, zone, needs_zone=options.since is None and options.until is None)
        kept = [code for event, code in known.events.items() if event in options.events]
        rules = Rules(
            first_rows=np.array(firsts, np.int64),
            reversed_files=np.array([each.order == "newest first" for each in found]),
            longest=options.max_session_length,
            has_time=bool(columns.times),
            has_order=columns.order is not None,
            gap=round(options.gap * 60e6) if columns.cut else None,
            per_file=bool(options.session_per_file),
            has_ids=columns.key is not None and not columns.cut,
            events=np.array(kept, np.int32) if options.events else None,
            drop_repeats=options.drop_repeats,
        )
        sessions, tally = store.sessions(rules)
        if options.session_per_file is None:
            self._check_shared(tally, rules, len(sessions))

        def place(row: int) -> str:
            for table, (first, after) in zip(tables, pairwise(firsts), strict=True):
                if first <= row < after:
                    return table.place(row - first)
            return ""

        if columns.cut:
            what = f"sessions by {columns.key} at gaps of {options.gap:g} minutes"
            report.line("cut", len(sessions), what)
        self._report_formed(sessions, firsts, tally)
        if columns.key is not None:
            self._warn_of_top(tally, store.clicks, cut=columns.cut)
        if events and not options.events:
            shown = ", ".join(f"{event} {count:,}" for event, count in events.most_common(_EVENTS))
            report.line(
                "events", len(events), f"types of event, all kept (--event keeps some alone): {shown}"
            )
        self._report_tally(tally, place)
        missing = [event for event in options.events if event not in known.events]
        if missing:
            report.warn(f"no event is of type {', '.join(missing)}; the types are {', '.join(known.events)}")
        return Log(sessions, store.items, about)

    def _warn_of_top(self, tally: Tally, clicks: int, *, cut: bool) -> None:
        """Warn of a user or session with a large share of all clicks."""
        if tally.top < 100 or tally.top * 20 <= clicks:
            return
        who = str(self.known.sessions.decode(np.array([tally.top_key]))[0])
        kind = "user" if cut else "session"
        self._report.warn(
            f"{kind} {who.replace(PAIR, ', ')!r} has {tally.top / clicks:.0%} of the clicks: is it a bot, or does it "
            f"stand for no {kind}? --missing '{who.rpartition(PAIR)[2]}' leaves it out"
        )

    def has_rows(self, path: Path) -> bool:
        """Whether there is more in a log than its header. A session file has none."""
        if self._format_of(path) == "sessions":
            return path.stat().st_size > 0
        table = self._open(path)
        return any(len(batch.numbers) for batch in table.batches(table.columns[:1]))

    def _open(self, source: Any, number: int = 0) -> Table:
        options = self._options
        separator = unescaped(options.separator)
        origin = Origin(_name(source, number), separator, "--separator", options.log_columns, "--log-columns")
        return open_table(source, text_format(options, self._report.warn), self._work, origin, EmptyLogError)

    def _check_shared(self, tally: Tally, rules: Rules, sessions: int) -> None:
        """Refuse session ids that are in several logs, far apart."""
        if tally.apart * 10 < tally.shared or tally.apart * 100 < sessions or not tally.shared:
            if tally.shared:
                self._report.warn(
                    f"{tally.shared:,} session ids are in several logs, and each is taken as one session: "
                    "--session-per-file takes it as one in each, --session-across-files says that this is right"
                )
            return
        example = str(self.known.sessions.decode(np.array([tally.example]))[0]).replace(PAIR, ", ")
        far = "an hour or more apart" if rules.has_time else "which have no times"
        raise DataError(
            f"{tally.shared:,} session ids are in several logs, {far}, such as {example}: give --session-per-file if "
            "ids begin anew in each log, or --session-across-files if they are one session"
        )

    def _report_formed(self, sessions: LogSessions, firsts: list[int], tally: Tally) -> None:
        """Complete the reports of the files with their sessions, which belong to the file where they begin."""
        file = np.searchsorted(firsts, sessions.row, side="right") - 1
        newest = self._report.files[len(self._report.files) - len(firsts) + 1 :]
        for number, found in enumerate(newest):
            lengths = sessions.lengths[file == number]
            found.sessions = len(lengths)
            found.repeats = int(tally.repeats[number])
            found.tied = int(tally.tied[number])
            if len(lengths):
                found.median_length = float(np.median(lengths))
                found.longest = int(lengths.max())
            self._report.sessions(found, has_order=self._options.order_column is not None)
        if len(newest) > 1:
            self._warn_of_copies(sessions, file, newest)

    def _warn_of_copies(
        self, sessions: LogSessions, file: NDArray[np.int64], files: list[FileReport]
    ) -> None:
        """Warn of a log whose sessions are in another one too, click by click and at the same times.

        Args:
            sessions: of all logs.
            file: int64 [sessions], the log where each begins.
            files: the reports of the logs.
        """
        digests = session_digests(sessions, 2)
        file = file[sessions.lengths >= 2]
        if sessions.begin is not None:
            digests = digests ^ sessions.begin[sessions.lengths >= 2].astype(np.uint64)
        distinct, which = np.unique(digests, return_inverse=True)
        first = np.full(len(distinct), len(files))
        np.minimum.at(first, which, file)
        copies = np.bincount(file[first[which] < file], minlength=len(files))
        sizes = np.bincount(file, minlength=len(files))
        for found, count, size in zip(files, copies.tolist(), sizes.tolist(), strict=True):
            if count > 1 and count * 10 >= 9 * size:
                self._report.warn(
                    f"{count:,} of the {size:,} sessions of {found.name} are in the logs before it too, click by "
                    "click: was one log given twice?"
                )

    def _report_tally(self, tally: Tally, place: Callable[[int], str]) -> None:
        options, report = self._options, self._report
        others = ", ".join(event for event in self.known.events if event not in options.events)
        report.drop(tally.other_events, f"not of event type {', '.join(options.events)}, but {others}")
        repeats = int(tally.repeats.sum())
        what = "that repeat another: the same session, item, time and type"
        if options.drop_repeats:
            report.drop(repeats, what, place(tally.repeat_row))
        else:
            report.note(
                "repeated", repeats, f"clicks {what}; --drop-repeats drops them", place(tally.repeat_row)
            )
            if repeats * 100 > report.read:
                report.warn(f"{repeats / report.read:.1%} of the clicks repeat another")
        report.drop(
            tally.cut_clicks,
            f"the oldest of {tally.cut_sessions:,} sessions longer than --max-session-length "
            f"{options.max_session_length}, the longest of {tally.longest:,} clicks",
        )
        report.note("long", tally.days, "sessions of one id that last a day or more")


def expanded(sources: Sequence[Any], is_pattern: bool) -> list[Any]:
    """The logs; the files of each pattern, in order of their names, if they are patterns.

    Raises:
        DataError: a pattern that no file matches.
    """
    if not is_pattern:
        return list(sources)
    found: list[Any] = []
    for source in sources:
        if not isinstance(source, str | Path):
            found.append(source)
            continue
        matches = sorted(glob.glob(str(source), recursive=True), key=_natural)  # noqa: PTH207 (may be absolute)
        # markers such as _SUCCESS are no logs
        files = [path for path in map(Path, matches) if path.is_file() and path.name[0] not in "._"]
        if not files:
            raise DataError(f"no file matches {source}")
        found += files
    return found


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which part-2 is before part-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split("([0-9]+)", name)]


def _name(source: Any, number: int) -> str:
    """The name of a log, for people."""
    return Path(source).name if isinstance(source, str | Path) else f"log {number + 1}"
