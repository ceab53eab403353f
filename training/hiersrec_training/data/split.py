"""Filters, the split by time, and the checks that no split leaks into another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.errors import EmptyLogError, InvalidOptionError, LeakError
from hiersrec_training.data.clicks import Keys, LogSessions
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.report import PrepareReport
from hiersrec_training.data.times import DAY, date

LONG_SESSION = 5  # clicks; shorter sessions recur by chance


def drop_short(sessions: LogSessions, shortest: int, split: str, report: PrepareReport) -> LogSessions:
    """Drop the sessions of fewer than ``shortest`` clicks."""
    kept = sessions.select(sessions.lengths >= shortest)
    dropped = len(sessions.items) - len(kept.items)
    report.drop(dropped, f"in sessions of fewer than {shortest} clicks, {split}")
    return kept


def drop_rare(sessions: LogSessions, options: PrepareOptions, report: PrepareReport) -> LogSessions:
    """Filter by item support and session length in turn, until both hold for all clicks that are left."""
    while True:
        common = np.bincount(sessions.items) >= options.min_item_support
        keep = common[sessions.items]
        report.drop(
            int((~keep).sum()),
            f"on items of fewer than {options.min_item_support} clicks in the training split",
        )
        if keep.all():
            return sessions
        sessions = drop_short(
            sessions.keep_clicks(keep), options.min_session_length, "training split", report
        )


def shuffle_sessions(sessions: LogSessions, seed: int) -> LogSessions:
    """The sessions in a random order, the clicks within each as they were."""
    return sessions.take(np.random.default_rng(seed).permutation(len(sessions)).argsort())


def split_off_test(sessions: LogSessions, options: PrepareOptions) -> tuple[LogSessions, LogSessions]:
    """Training and test splits of one log. The test split is whole sessions at its end.

    Raises:
        InvalidOptionError: ``--test-days`` for a log without times.
        EmptyLogError: it takes the whole log.
    """
    is_test = np.zeros(len(sessions), bool)
    if options.test_days is not None:
        if sessions.end is None or sessions.begin is None:
            raise InvalidOptionError("--test-days needs a log with times; use --test-fraction")
        first, last = int(sessions.begin.min()), int(sessions.end.max())
        is_test = sessions.end > last - round(options.test_days * DAY)
        if is_test.all():
            raise EmptyLogError(
                f"--test-days {options.test_days:g} leaves no session for training: the log covers "
                f"{(last - first) / DAY:.3g} days, from {date(first)} to {date(last)}; give fewer days, or "
                "--test-fraction"
            )
    elif options.test_fraction is not None:
        count = round(options.test_fraction * len(sessions))
        if not count:
            raise EmptyLogError(
                f"--test-fraction {options.test_fraction:g} of {len(sessions):,} sessions is none: give a larger one"
            )
        is_test[len(sessions) - count :] = True
    return sessions.select(~is_test), sessions.select(is_test)


def check_logs(training: LogSessions, test: LogSessions, ids: Keys, *, per_file: bool) -> None:
    """Raise :class:`LeakError` where a given test log shares sessions with the training log, or begins before its
    end.

    Args:
        training: sessions of the training log.
        test: sessions of the test log.
        ids: turns keys of sessions into their ids.
        per_file: session ids begin anew in each file, so that equal ones are no copies.
    """
    if training.key is not None and test.key is not None and not per_file:
        shared = np.intersect1d(training.key, test.key)
        if len(shared):
            raise LeakError(
                f"{len(shared):,} sessions are in both the training and the test log, such as "
                f"{ids.decode(shared[:1])[0]}; give --session-per-file if the ids begin anew in each log"
            )
    if training.end is not None and test.begin is not None:
        end = int(training.end.max())
        early = int((test.begin < end).sum())
        if early:
            raise LeakError(
                f"{early:,} of {len(test):,} test sessions begin before the training log ends, "
                f"{date(end)}: cut both at one time, or split one log with --test-days"
            )


def check_copies(training: LogSessions, test: LogSessions, report: PrepareReport) -> None:
    """Raise :class:`LeakError` where more than half of the long test sessions are in the training split too; warn where
    nearly all are, and none is long."""
    known, asked = session_digests(training, LONG_SESSION), session_digests(test, LONG_SESSION)
    if not len(asked) and len(test) > 1:
        copies = int(np.isin(session_digests(test, 2), session_digests(training, 2)).sum())
        if copies * 10 >= 9 * len(test):
            report.warn(
                f"{copies:,} of the {len(test):,} test sessions are in the training split too, click by click; they "
                "are short, so it may be chance"
            )
    copies = int(np.isin(asked, known).sum())
    if copies * 2 > len(asked):
        raise LeakError(
            f"{copies:,} of the {len(asked):,} test sessions of {LONG_SESSION} clicks or more are in the training "
            "split too, click by click; give --allow-copies if visitors do repeat each other, as in a funnel of few "
            "pages"
        )


def session_digests(sessions: LogSessions, shortest: int) -> NDArray[np.uint64]:
    """A 64-bit polynomial hash of every session of ``shortest`` clicks or more, equal for equal lists of items."""
    digests = [np.zeros(0, np.uint64)]
    long = np.flatnonzero(sessions.lengths >= shortest)
    block = 1 << 18  # sessions, as the products take memory
    for at in range(0, len(long), block):
        part = sessions.take(long[at : at + block])
        lengths, starts = part.lengths, part.offsets[:-1]
        position = np.arange(len(part.items)) - np.repeat(starts, lengths)
        weights = np.cumprod(np.full(int(lengths.max()), 0x9E3779B97F4A7C15, np.uint64))
        # an odd multiple of each index, mixed, so that sums of products rarely agree by chance
        codes = (part.items.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
        codes ^= codes >> np.uint64(29)
        digests.append(np.add.reduceat(codes * weights[position], starts))
    return np.concatenate(digests)


def require_clicks(sessions: LogSessions, split: str, report: PrepareReport) -> None:
    """Raise :class:`EmptyLogError` where no click is left, with the counts that the filters removed."""
    if not len(sessions.items):
        raise EmptyLogError(f"nothing is left for the {split} split: {report.history()}")
