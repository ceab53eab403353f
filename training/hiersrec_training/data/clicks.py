"""Clicks of a log of any size, brought into sessions: written to disk by session, then sorted part by part.

Every click is a record of 48 bytes. A hash of its session or user picks one of 32 files, so that all clicks of a
session are in one file, and each file is small enough to be sorted in memory.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_training.data.columns import as_canonical_ints
from hiersrec_training.data.progress import progress

_PARTS: Final = 32  # files that are open at once
_RECORD: Final = np.dtype(
    [
        *(("key", "i8"), ("time", "i8"), ("order", "i8"), ("row", "i8"), ("item", "i8")),
        *(("file", "i4"), ("event", "i4")),
    ]
)
_IN_MEMORY: Final = 1 << 20  # bytes of a part that are not yet written to disk
_TEXT_KEYS: Final = -(1 << 62)  # keys of ids that are texts begin here and go down


class Keys:
    """Turns ids, integers or texts, into int64 keys and back. Equal ids have equal keys, in any batch.

    An integer is its own key, also where it was read as text, if it is written back as the same text.
    """

    def __init__(self) -> None:
        self._texts = pl.Categorical(pl.Categories.random())
        # Polars forgets the codes of texts when no series has this type any more
        self._kept = pl.Series([], dtype=self._texts)

    def encode(self, ids: pl.Series) -> NDArray[np.int64]:
        """int64 [ids]: the key of each id, Int64 or String without nulls."""
        if ids.dtype == pl.Int64:
            number, is_int = ids, (ids > _TEXT_KEYS).fill_null(False)
        else:
            number, is_int = as_canonical_ints(ids)
            is_int &= (number > _TEXT_KEYS).fill_null(False)
        if is_int.all():
            return number.to_numpy().astype(np.int64, copy=False)
        keys = number.fill_null(0).to_numpy().astype(np.int64)
        others = ~is_int.to_numpy()
        codes = (
            ids.filter(pl.Series(others))
            .cast(pl.String)
            .cast(self._texts)
            .to_physical()
            .to_numpy()
            .astype(np.int64)
        )
        keys[others] = _TEXT_KEYS - codes
        return keys

    def decode(self, keys: NDArray[np.int64]) -> pl.Series:
        """The ids of keys: Int64 where all are integers, else String."""
        texts = keys <= _TEXT_KEYS
        if not texts.any():
            return pl.Series(keys, dtype=pl.Int64)
        ids = pl.Series(keys, dtype=pl.Int64).cast(pl.String)
        codes = pl.Series(_TEXT_KEYS - keys[texts], dtype=pl.UInt32)
        return ids.scatter(np.flatnonzero(texts), codes.cat.to(self._texts).cast(pl.String))


@dataclass(frozen=True)
class LogSessions:
    """Sessions of a log, end to end.

    Attributes:
        items: int64 [clicks], keys of the items at first; int32 item indices once they are known.
        offsets: int64 [sessions + 1].
        begin, end: int64 [sessions], microseconds of the first and the last click; None without times.
        row: int64 [sessions], the row of the log where each begins.
        key: int64 [sessions], keys of the sessions' own ids; None where sessions were cut by user.
    """

    items: NDArray[Any]
    offsets: NDArray[np.int64]
    begin: NDArray[np.int64] | None
    end: NDArray[np.int64] | None
    row: NDArray[np.int64]
    key: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [sessions]: clicks of each session."""
        return np.diff(self.offsets)

    def take(self, order: NDArray[np.int64]) -> LogSessions:
        """The sessions of ``order``, in this order."""
        lengths = self.lengths[order]
        offsets = _offsets(lengths)
        items = np.empty(int(offsets[-1]), self.items.dtype)
        block = 1 << 20  # sessions, as the index of every click takes memory
        for at in range(0, len(order), block):
            part = slice(at, at + block)
            starts, where = self.offsets[:-1][order[part]], offsets[at : at + block + 1]
            index = np.repeat(starts - where[:-1], lengths[part]) + np.arange(where[0], where[-1])
            items[where[0] : where[-1]] = self.items[index]
        return LogSessions(items, offsets, *self._about(order))

    def select(self, keep: NDArray[np.bool]) -> LogSessions:
        """The sessions for which ``keep`` holds, bool [sessions]."""
        if keep.all():
            return self
        lengths = self.lengths
        items = self.items[np.repeat(keep, lengths)]
        return LogSessions(items, _offsets(lengths[keep]), *self._about(keep))

    def keep_clicks(self, keep: NDArray[np.bool]) -> LogSessions:
        """The clicks for which ``keep`` holds, bool [clicks]; sessions may become empty."""
        kept = np.concatenate([[0], keep.cumsum(dtype=np.int64)])[self.offsets]
        return replace(self, items=self.items[keep], offsets=kept)

    def with_items(self, items: NDArray[Any]) -> LogSessions:
        """The same sessions with other names for the items."""
        return replace(self, items=items)

    def _about(self, which: NDArray[Any]) -> tuple[Any, Any, Any, Any]:
        """What there is beside the clicks, of some sessions."""

        def of(values: NDArray[np.int64] | None) -> Any:
            return None if values is None else values[which]

        return of(self.begin), of(self.end), of(self.row), of(self.key)

    @classmethod
    def concatenate(cls, parts: list[LogSessions]) -> LogSessions:
        """All sessions of the parts."""

        def joined(name: str) -> Any:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        lengths = np.concatenate([part.lengths for part in parts])
        return cls(
            joined("items"), _offsets(lengths), *(joined(name) for name in ("begin", "end", "row", "key"))
        )


class Rules(NamedTuple):
    """How clicks become sessions.

    Attributes:
        first_rows: int64 [files + 1], the first row of each file.
        reversed_files: bool [files], whether a file goes from the newest click to the oldest.
        longest: clicks that a session keeps, the newest.
        has_time: whether clicks have times; otherwise they are in order of the rows.
        has_order: whether a column orders the clicks of a session that have equal times.
        gap: microseconds without an event that end a session; None where ids tell the sessions.
        per_file: an id is a new session in each file.
        has_ids: sessions have ids of the shop, which may be in several files.
        events: codes of the types of event to keep; None keeps all.
        drop_repeats: leave out exact repeats.
    """

    first_rows: NDArray[np.int64]
    reversed_files: NDArray[np.bool]
    longest: int
    has_time: bool = False
    has_order: bool = False
    gap: int | None = None
    per_file: bool = False
    has_ids: bool = False
    events: NDArray[np.int32] | None = None
    drop_repeats: bool = False


@dataclass
class Tally:
    """What was noticed while clicks became sessions.

    Attributes:
        repeats: int64 [files], clicks that repeat another one exactly; ``repeat_row``: the row of one.
        tied: int64 [files], clicks with the same time as the one before in their session.
        other_events: clicks of a type of event that is not kept.
        cut_sessions, cut_clicks, longest: sessions that are too long, the clicks cut off, and the longest.
        shared: session ids that are in several files; ``apart``: those of them with an hour or more between the
            files, or without times; ``example``: the key of one.
        days: sessions that last a day or more, where ids tell the sessions.
        top, top_key: clicks of the session or user with the most, and its key.
    """

    repeats: NDArray[np.int64]
    tied: NDArray[np.int64]
    repeat_row: int = -1
    other_events: int = 0
    cut_sessions: int = 0
    cut_clicks: int = 0
    longest: int = 0
    shared: int = 0
    apart: int = 0
    example: int = 0
    days: int = 0
    top: int = 0
    top_key: int = 0


class ClickStore:
    """Takes the clicks of a log in any order, in batches."""

    def __init__(self, work: Path) -> None:
        self._files: list[IO[bytes]] = [_spooled(work) for _ in range(_PARTS)]
        self._items: list[pl.Series] = []
        self.clicks = 0

    def add(
        self,
        key: NDArray[np.int64],
        time: NDArray[np.int64] | None,
        row: NDArray[np.int64],
        item: NDArray[np.int64],
        file: int,
        event: NDArray[np.int32] | None = None,
        order: NDArray[np.int64] | None = None,
    ) -> None:
        """Add clicks: keys of session or user, microseconds, rows of the log, keys of items, their file, codes of
        events, and numbers that order clicks of equal times."""
        if not len(key):
            return
        records = np.zeros(len(key), _RECORD)
        records["key"], records["row"], records["item"], records["file"] = key, row, item, file
        if time is not None:
            records["time"] = time
        if event is not None:
            records["event"] = event
        if order is not None:
            records["order"] = order
        mixed = key.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        part = (mixed >> np.uint64(59)).astype(np.int8)
        by_part = np.argsort(part, kind="stable")
        edges = np.searchsorted(part[by_part], np.arange(_PARTS + 1))
        records = records[by_part]
        for number, file_of_part in enumerate(self._files):
            chosen = records[edges[number] : edges[number + 1]]
            if len(chosen):
                file_of_part.write(chosen.tobytes())
        self.clicks += len(key)
        self._items.append(pl.Series(item).unique())
        if len(self._items) == 64:
            self._items = [pl.concat(self._items).unique()]

    @property
    def items(self) -> NDArray[np.int64]:
        """int64: the keys of all items, in order."""
        if not self._items:
            return np.zeros(0, np.int64)
        return pl.concat(self._items).unique().sort().to_numpy()

    def sessions(self, rules: Rules) -> tuple[LogSessions, Tally]:
        """The sessions, in order of their last clicks, or of the rows where there are no times. Items are keys."""
        files = len(rules.reversed_files)
        tally = Tally(repeats=np.zeros(files, np.int64), tied=np.zeros(files, np.int64))
        parts = []
        for file in progress(self._files, lambda: _PARTS, "forming sessions", lambda _: 1, unit="parts"):
            file.seek(0)
            records = np.frombuffer(file.read(), _RECORD)
            file.close()
            if len(records):
                parts.append(_form(records, rules, tally))
        if not parts:
            empty = np.zeros(0, np.int64)
            return LogSessions(empty, np.zeros(1, np.int64), None, None, empty, None), tally
        together = LogSessions.concatenate(parts)
        del parts
        order = np.argsort(together.row, kind="stable")
        if together.end is not None:
            order = order[np.argsort(together.end[order], kind="stable")]
        return together.take(order), tally


def _spooled(work: Path) -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(work))


def _form(records: NDArray[Any], rules: Rules, tally: Tally) -> LogSessions:
    """The sessions of one part."""
    row = records["row"]
    if rules.reversed_files.any():
        file = records["file"]
        mirrored = rules.first_rows[file] + rules.first_rows[file + 1] - 1 - row
        row = np.where(rules.reversed_files[file], mirrored, row)
    # by session and time; where the times are equal by the column of the order, then by row
    order = np.argsort(row, kind="stable")
    if rules.has_order:
        order = order[np.argsort(records["order"][order], kind="stable")]
    if rules.has_time:
        order = order[np.argsort(records["time"][order], kind="stable")]
    if rules.per_file:
        order = order[np.argsort(records["file"][order], kind="stable")]
    order = order[np.argsort(records["key"][order], kind="stable")]
    records, row = records[order], row[order]
    key, time = records["key"], records["time"]
    new = np.ones(len(records), bool)
    new[1:] = key[1:] != key[:-1]
    _note_shared(records, new, rules, tally)
    begins = np.flatnonzero(new)
    most = np.diff(np.append(begins, len(records)))
    if most.max() > tally.top:
        tally.top, tally.top_key = int(most.max()), int(key[begins[most.argmax()]])
    if rules.per_file:
        new[1:] |= records["file"][1:] != records["file"][:-1]
    if rules.gap is not None:
        new[1:] |= np.diff(time) > rules.gap
    number = new.cumsum() - 1

    if rules.events is not None:
        keep = np.isin(records["event"], rules.events)
        tally.other_events += int((~keep).sum())
        records, row, number, time = records[keep], row[keep], number[keep], time[keep]
    if rules.has_time and len(records):
        repeated = _repeats(records, number)
        if repeated.any():
            tally.repeats += np.bincount(records["file"][repeated], minlength=len(tally.repeats))
            tally.repeat_row = int(records["row"][repeated][0])
        if rules.drop_repeats:
            records, row, number, time = (each[~repeated] for each in (records, row, number, time))
        same = np.flatnonzero((np.diff(number) == 0) & (np.diff(time) == 0)) + 1
        tally.tied += np.bincount(records["file"][same], minlength=len(tally.tied))

    starts = np.flatnonzero(np.diff(number, prepend=-1))
    lengths = np.diff(np.append(starts, len(records)))
    if len(lengths) and lengths.max() > rules.longest:
        over = lengths > rules.longest
        tally.cut_sessions += int(over.sum())
        tally.cut_clicks += int((lengths[over] - rules.longest).sum())
        tally.longest = max(tally.longest, int(lengths.max()))
        position = np.arange(len(records)) - np.repeat(starts, lengths)
        keep = position >= np.repeat(lengths - rules.longest, lengths)
        records, row, time = records[keep], row[keep], time[keep]
        lengths = np.minimum(lengths, rules.longest)
        starts = _offsets(lengths)[:-1]
    begin = end = None
    if rules.has_time:
        begin, end = time[starts], time[starts + lengths - 1]
        if rules.has_ids:
            tally.days += int((end - begin >= 86_400_000_000).sum())
    first = row[starts] if not len(lengths) else np.minimum.reduceat(row, starts)
    keys = records["key"][starts] if rules.has_ids else None
    return LogSessions(records["item"].copy(), _offsets(lengths), begin, end, first, keys)


def _note_shared(records: NDArray[Any], new: NDArray[np.bool], rules: Rules, tally: Tally) -> None:
    """Count the ids that are in several files, and those of them whose clicks there are far apart."""
    if not rules.has_ids or len(rules.reversed_files) == 1:
        return
    changes = np.zeros(len(records), bool)
    changes[1:] = (records["file"][1:] != records["file"][:-1]) & ~new[1:]
    far = changes.copy()
    if rules.has_time:
        far[1:] &= np.abs(np.diff(records["time"])) >= 3_600_000_000
    tally.shared += len(np.unique(records["key"][changes]))
    apart = np.unique(records["key"][far])
    tally.apart += len(apart)
    if len(apart):
        tally.example = int(apart[0])


def _repeats(records: NDArray[Any], number: NDArray[np.int64]) -> NDArray[np.bool]:
    """bool [records]: whether a click of the same session, time, order, item and type came before."""
    time = records["time"]
    near = np.zeros(len(records), bool)
    same = (np.diff(number) == 0) & (np.diff(time) == 0)
    near[1:] |= same
    near[:-1] |= same
    tied = np.flatnonzero(near)
    repeated = np.zeros(len(records), bool)
    if len(tied):
        order = np.lexsort(
            (
                *(tied, records["order"][tied], records["event"][tied], records["item"][tied]),
                *(time[tied], number[tied]),
            )
        )
        tied = tied[order]
        equal = np.ones(len(tied) - 1, bool)
        for values in (number, time, records["item"], records["event"], records["order"]):
            equal &= values[tied][1:] == values[tied][:-1]
        # the clicks of a list have one row, and are no repeats of each other
        begins = np.concatenate([[0], np.flatnonzero(~equal) + 1])
        sizes = np.diff(np.append(begins, len(tied)))
        rows = records["row"][tied]
        repeated[tied[rows != np.repeat(rows[begins], sizes)]] = True
    return repeated


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
