"""Event logs: one click a row, or lists of clicks. Each file is read into the store of clicks, batch by batch."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError, InvalidOptionError, MissingColumnError
from hiersrec_training.data.clicks import ClickStore, Keys
from hiersrec_training.data.columns import Column
from hiersrec_training.data.descriptions import LatestDescriptions
from hiersrec_training.data.list_columns import ListColumns
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.progress import progress
from hiersrec_training.data.report import FileReport, PrepareReport
from hiersrec_training.data.tables import Batch, Table
from hiersrec_training.data.time_formats import YearlessTimes, with_zeros
from hiersrec_training.data.times import TimeColumn, date, parse_moment

_MISSING: Final = "(missing)"  # the type of an event without one
# columns of users, without the id at their end: of people first, then of their browsers and devices
_USERS: Final = (
    *(
        "user",
        "customer",
        "member",
        "shopper",
        "visitor",
        "fullvisitor",
        "domainuser",
        "networkuser",
        "userpseudo",
    ),
    *("u", "client", "anonymous", "guest", "distinct", "cookie", "device", "browser", "fingerprint"),
)
PAIR: Final = "\x1f"  # between a user and the id of one of their sessions
_SAMPLE: Final = 1_000_000  # rows in which users of session ids are looked for


@dataclass
class Known:
    """What all logs share: keys of items, sessions and users, codes of types of event, and times without a year."""

    items: Keys = field(default_factory=Keys)
    sessions: Keys = field(default_factory=Keys)
    events: dict[str, int] = field(default_factory=dict)
    yearless: YearlessTimes = field(default_factory=YearlessTimes)


class EventColumns:
    """Which columns of an event log have which role.

    Attributes:
        key: column that tells the sessions; None where each row is one.
        cut: whether it is the user, whose clicks are cut into sessions.
        user: column of the user whose sessions have the ids of ``key``; None where ids are unique.
        item, times, order, event: columns of the item, the time, the order of equal times and the type of event.
        about: columns that describe items, where there is no item table.
    """

    def __init__(self, table: Table, options: PrepareOptions, *, describes: bool) -> None:
        self.item = options.item_column or "item"
        self.key, self.cut = self._session_key(table, options)
        self.user = None if self.cut else options.user_column
        self.times = options.time_columns
        self.order = options.order_column
        self.event = options.event_column
        self.about = options.item_description_columns if options.items is None and describes else {}
        if self.cut and not self.times:
            raise InvalidOptionError(
                "sessions cannot be cut by user without a --time-column; give a --session-column"
            )
        if options.session_gap is not None and not self.cut:
            raise InvalidOptionError("--session-gap cuts the clicks of a user: give a --user-column alone")
        if self.item == self.key:
            raise InvalidOptionError(f"column {self.item!r} cannot be both the item and the session or user")

    def _session_key(self, table: Table, options: PrepareOptions) -> tuple[str | None, bool]:
        if options.session_column is not None:
            return options.session_column or None, False
        if options.user_column is not None:
            return options.user_column, True
        for column, cut in (("session", False), ("user", True)):
            if column in table.columns:
                return column, cut
        if options.list_separator is not None or table.is_list(self.item):
            return None, False
        near = [name for name in table.columns if name.lower() in ("session", "user")]
        hint = table.hint() or (
            f"give --{near[0].lower()}-column {near[0]}"
            if near
            else "name the right one with --session-column or --user-column, or the columns of a log without a header "
            "with --log-columns"
        )
        raise MissingColumnError(
            f"{table.name} has no column 'session' or 'user'; its columns are {', '.join(table.columns)}: {hint}"
        )

    @property
    def beside(self) -> list[str]:
        """The columns beside the item's that may hold lists where that one does."""
        names = (*self.times, self.order, self.event, *self.about)
        return [name for name in dict.fromkeys(names) if name not in (None, self.item)]

    @property
    def wanted(self) -> dict[str, str]:
        """The columns that are needed, each with the option that names it."""
        wanted = {}
        if self.key is not None:
            wanted[self.key] = "--user-column" if self.cut else "--session-column"
        if self.user is not None:
            wanted[self.user] = "--user-column"
        wanted[self.item] = "--item-column"
        wanted |= dict.fromkeys(self.times, "--time-column ('' for a log without times)")
        if self.order is not None:
            wanted[self.order] = "--order-column"
        if self.event is not None:
            wanted[self.event] = "--event-column"
        for column, option in self.about.items():
            wanted.setdefault(column, f"{option}, or give an item table with --items")
        return wanted


class EventFile:
    """Reads one event log into the store.

    Args:
        table: of the events.
        number: of the file among the logs.
        first: the row of its first line.
        columns: their roles.
        options: of ``prepare``.
        known: keys of items and sessions.
        about: takes what the log says about items; None where that is not asked for.
    """

    def __init__(
        self,
        table: Table,
        number: int,
        first: int,
        columns: EventColumns,
        options: PrepareOptions,
        known: Known,
        about: LatestDescriptions | None,
    ) -> None:
        self._table, self._number, self._first = table, number, first
        self._columns, self._options, self._known, self._about = columns, options, known, about
        self._since = parse_moment(options.since, "--since", options.time_zone)
        self._until = parse_moment(options.until, "--until", options.time_zone)

        def column(name: str, role: str, option: str) -> Column:
            return Column(name, role, option, table.name, options.missing_texts)

        who = "user" if columns.cut else "session"
        self._key = column(columns.key or "", f"{who} ids", f"--{who}-column")
        self._user = column(columns.user or "", "user ids", "--user-column")
        self._item = column(columns.item, "item ids", "--item-column")
        self._times = [column(name, "times", "--time-column") for name in columns.times]
        self._order_column = column(columns.order or "", "numbers that order clicks", "--order-column")
        self._event = column(columns.event or "", "types of event", "--event-column")
        self._time = TimeColumn(
            table.place,
            column=" ".join(columns.times),
            unit=options.time_unit or "auto",
            form=options.time_format,
            zone=options.time_zone,
            accepts_future=options.until is not None,
            accepts_past=options.since is not None,
        )
        self._order = _Order()
        self._span: tuple[int, int] | None = None
        self._rows = 0
        self._empty_lists = 0
        self._on_the_hour = self._at_midnight = True  # all times; days without a time of day are at midnight
        self._dropped: dict[str, tuple[int, str]] = {}
        # columns of users that nobody named, although session ids might begin anew for each
        has_ids = columns.key is not None and not columns.cut and columns.user is None
        self._doubted = _users(table) if has_ids else []
        self._users_hint = ""
        self.events: Counter[str] = Counter()  # clicks of each type
        self._list_keys: list[NDArray[np.int64]] = []  # of rows that hold lists of items
        self._lists = ListColumns(table, columns.item, columns.beside, columns.about, options.list_separator)

    def read(self, store: ClickStore) -> int:
        """Add all clicks; the number of the last row."""
        table, last = self._table, 0
        wanted = [*self._columns.wanted, *self._doubted]
        batches = table.batches(list(dict.fromkeys(wanted)))
        for batch in progress(
            batches, table.size, f"reading {Path(table.name).name}", lambda each: len(each.numbers)
        ):
            if len(batch.numbers):
                last = int(batch.numbers[-1])
                self._look_for_users(batch)
                clicks = self._lists.explode(batch)
                if clicks.frame is not batch.frame:
                    self._empty_lists += len(np.setdiff1d(batch.numbers, clicks.numbers))
                self._add(clicks, store, from_lists=clicks.frame is not batch.frame)
        self._time.check()
        return last

    def _look_for_users(self, batch: Batch) -> None:
        """Refuse session ids that belong to several users, unless someone said what tells the sessions."""
        key = self._columns.key
        if key is None or batch.numbers[0] > _SAMPLE:
            return
        for user in self._doubted:
            several, example = self._of_several(batch.frame[key], batch.frame[user])
            if not several:
                continue
            hint = (
                f"{several:,} session ids of {self._table.name} belong to several users of column {user!r}, such as "
                f"{example}: give --user-column {user} beside --session-column {key}"
            )
            if self._options.session_column is None:
                raise DataError(
                    f"{hint} if ids begin anew for each user, or --session-column {key} alone if they do not"
                )
            self._users_hint = f"{hint}, if ids begin anew for each user"
            return

    def _of_several(self, sessions: pl.Series, users: pl.Series) -> tuple[int, str]:
        """How many session ids belong to several users, and one; 0 where they are less than a hundredth."""
        column = Column(
            users.name, "user ids", "--user-column", self._table.name, self._options.missing_texts
        )
        try:
            named = column.texts(users)
        except DataError:  # not a column of users then
            return 0, ""
        pairs = pl.DataFrame({"session": sessions, "user": named}).drop_nulls()
        found = pairs.group_by("session", maintain_order=True).agg(
            users=pl.col("user").n_unique(), count=pl.len()
        )
        several = found.filter(pl.col("users") > 1)
        if several.height * 100 <= found.filter(pl.col("count") > 1).height:
            return 0, ""
        return several.height, str(several["session"][0])

    def report(self, report: PrepareReport) -> FileReport:
        """Report what was read."""
        name = Path(self._table.name).name
        found = FileReport(name, self._rows)
        if self._span is not None and self._time.form is not None:
            found.first, found.last = date(self._span[0]), date(self._span[1])
            found.times = self._time.form.describe(self._options.time_zone)
            found.order = self._order.name
        report.file(found)
        if found.order == "newest first":
            report.line("reversed", found.rows, f"clicks of {name}, which goes from the newest to the oldest")
        report.skipped(name, self._table.skipped, self._rows)
        for column in (self._key, self._user, self._item, *self._times, self._order_column, self._event):
            report.column(column, name, unquotes=self._table.unquotes)
        for why, (count, example) in self._dropped.items():
            report.drop(count, why, example)
        if self._users_hint:
            report.warn(self._users_hint)
        report.note("skipped", self._empty_lists, f"rows of {name} without items in their list")
        on_the_hour = self._on_the_hour and not self._at_midnight
        if self._lists.unlike:
            report.warn(
                f"--list-separator {self._options.list_separator!r} is in none of the cells of "
                f"{self._columns.item!r}, such as {self._lists.unlike!r}"
            )
        if self._columns.cut and self._span is not None and on_the_hour and self._options.gap <= 60:
            report.warn(
                f"all times of {name} are on the full hour, so that a gap of {self._options.gap:g} minutes ends a "
                "session with each hour: give --session-gap 61 or more"
            )
        if self._time.twice:
            report.warn(
                f"{self._time.twice:,} times of {name} are in the hour that comes twice when clocks go back: they are "
                "taken as the first one"
            )
        if self._list_keys:
            keys = np.concatenate(self._list_keys)
            if len(np.unique(keys)) < len(keys):
                report.warn(
                    f"{len(keys):,} rows of {name} hold lists, with {len(np.unique(keys)):,} different session ids: "
                    "rows of one id are joined; --session-column '' makes each row a session"
                )
        report.drop(self._time.unreadable, "unreadable time", self._time.unreadable_example)
        gap = f"a time that --time-zone {self._options.time_zone} does not have, as clocks go forward then"
        report.drop(self._time.skipped, gap, self._time.skipped_example)
        return found

    def _add(self, batch: Batch, store: ClickStore, *, from_lists: bool) -> None:
        columns = self._columns
        numbers, frame = batch
        self._rows += len(numbers)
        item = self._item.ids(frame[columns.item])
        keep = self._keep(pl.repeat(True, len(item), eager=True), item.is_not_null(), "no item id", numbers)
        key = time = event = order = None
        if columns.key is not None:
            key = self._key.whole_ids(frame[columns.key])
            if columns.user is not None:
                pair = pl.DataFrame({"user": self._user.whole_ids(frame[columns.user]), "session": key})
                keep = self._keep(keep, pair["user"].is_not_null(), "no user id", numbers)
                key = pair.select(key=pl.concat_str(pl.all(), separator=PAIR))["key"]
            keep = self._keep(
                keep, key.is_not_null(), f"no {'user' if columns.cut else 'session'} id", numbers
            )
        if self._times:
            values = self._time_values(frame)
            keep = self._keep(keep, values.is_not_null(), "no time", numbers)
            time = self._time.read(values.set(~keep, None), numbers)
            keep &= time.is_not_null()  # it counts the unreadable ones
            if self._since is not None:
                keep = self._keep(keep, time >= self._since, f"before --since {self._options.since}", numbers)
            if self._until is not None:
                keep = self._keep(
                    keep, time < self._until, f"not before --until {self._options.until}", numbers
                )
        if columns.order is not None:
            number = self._order_column.integers(frame[columns.order])
            keep = self._keep(keep, number.is_not_null(), "no number that orders it", numbers)
            order = number.fill_null(0).to_numpy()
        if columns.event is not None:
            event = self._event_codes(self._event.texts(frame[columns.event]))
        if not keep.all():
            mask = keep.to_numpy()
            item, numbers, frame = item.filter(keep), numbers[mask], frame.filter(keep)
            key = None if key is None else key.filter(keep)
            time = None if time is None else time.filter(keep)
            event = None if event is None else event[mask]
            order = None if order is None else order[mask]
        if not len(numbers):
            return
        if event is not None:
            names = list(self._known.events)
            self.events.update(
                {names[code]: int(count) for code, count in enumerate(np.bincount(event)) if count}
            )
        rows = numbers + self._first
        keys = rows if key is None else self._known.sessions.encode(key)
        if from_lists and self._columns.key is not None and not self._columns.cut:
            new = np.diff(numbers, prepend=-1) != 0
            self._list_keys.append(keys[new])
        items = self._known.items.encode(item)
        times = None if time is None else time.to_numpy()
        if times is not None:
            first, last = self._span or (times[0], times[0])
            self._span = min(int(times.min()), int(first)), max(int(times.max()), int(last))
            self._order.note(keys, times)
            if self._time.is_yearless:
                self._known.yearless.note(times)
            self._on_the_hour &= not bool((times % 3_600_000_000).any())
            self._at_midnight &= self._on_the_hour and self._time.are_midnights(times)
        store.add(keys, times, rows, items, self._number, event, order)
        if self._about is not None:
            self._about.add(items, times, rows, frame, self._table.name)

    def _time_values(self, frame: pl.DataFrame) -> pl.Series:
        """The values of the time column, or of several joined by a space."""
        if len(self._times) == 1:
            return self._times[0].times(frame[self._times[0].name])
        parts = {}
        forms = (self._options.time_format or "").split(" ")
        for number, column in enumerate(self._times):
            values = frame[column.name]
            text = column.texts(values.cast(pl.String) if values.dtype in (pl.Date, pl.Time) else values)
            # each part gets the zeros that its part of the format asks for
            parts[str(number)] = with_zeros(text, forms[number]) if len(forms) == len(self._times) else text
        return pl.DataFrame(parts).select(time=pl.concat_str(pl.all(), separator=" "))["time"]

    def _keep(self, keep: pl.Series, good: pl.Series, why: str, numbers: NDArray[np.int64]) -> pl.Series:
        """The rows to keep that are ``good``; the others are counted under ``why``."""
        lost = keep & ~good.fill_null(False)
        if not lost.any():
            return keep
        count, example = self._dropped.get(why, (0, ""))
        example = example or self._table.place(int(numbers[int(lost.arg_max() or 0)]))
        self._dropped[why] = count + int(lost.sum()), example
        return keep & ~lost

    def _event_codes(self, events: pl.Series) -> NDArray[np.int32]:
        """int32: a number for each type of event."""
        known, events = self._known.events, events.fill_null(_MISSING)
        for event in events.unique(maintain_order=True):
            known.setdefault(event, len(known))
        return events.replace_strict(known, return_dtype=pl.Int32).to_numpy()


def _users(table: Table) -> list[str]:
    """The columns that seem to hold users, the likeliest first."""
    rank = {}
    for name in (*table.columns, *table.nested()):
        if name not in table.unusable and not table.is_list(name):
            for part in (name, name.rpartition(".")[2]):
                letters = re.sub("[^a-z]", "", part.lower())
                # idVisitor, of Matomo
                stem = letters.removeprefix("id") if letters.startswith("idv") else letters.removesuffix("id")
                if stem in _USERS and letters != "u":
                    rank[name] = _USERS.index(stem)
    return sorted(rank, key=lambda name: rank[name])


class _Order:
    """Finds out in which order the rows of a file are, by neighbors of one session and by all neighbors."""

    def __init__(self) -> None:
        self._ups = self._downs = self._session_ups = self._session_downs = 0

    def note(self, keys: NDArray[np.int64], times: NDArray[np.int64]) -> None:
        """Look at some rows."""
        steps = np.diff(times)
        self._ups += int((steps > 0).sum())
        self._downs += int((steps < 0).sum())
        steps = steps[keys[1:] == keys[:-1]]
        self._session_ups += int((steps > 0).sum())
        self._session_downs += int((steps < 0).sum())

    @property
    def name(self) -> str:
        """The order: a tenth of the neighbors of one session may deviate; a hundredth of all, where those are few."""
        ups, downs, most = self._session_ups, self._session_downs, 9
        if (ups + downs) * 100 < self._ups + self._downs:
            ups, downs, most = self._ups, self._downs, 99
        if downs > most * ups:
            return "newest first"
        return "in no order of time" if downs * most > ups else "oldest first"
