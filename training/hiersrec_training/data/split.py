"""Filters, the split by time, and the checks that no split leaks into another."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import EmptyLogError, InvalidOptionError, LeakError
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_log import Log
from hiersrec_training.data.report import PrepareReport

_MICROSECONDS_A_DAY = 86_400e6
LONG_SESSION = 5  # clicks; shorter sessions recur by chance


def drop_short(clicks: pl.DataFrame, shortest: int, split: str, report: PrepareReport) -> pl.DataFrame:
    """Drop the sessions of fewer than ``shortest`` clicks."""
    kept = clicks.filter(pl.len().over("session") >= shortest)
    report.drop(clicks.height - kept.height, f"in sessions of fewer than {shortest} clicks, {split}")
    return kept


def drop_rare(clicks: pl.DataFrame, options: PrepareOptions, report: PrepareReport) -> pl.DataFrame:
    """Filter by item support and session length in turn, until both hold for all clicks that are left."""
    while True:
        kept = clicks.filter(pl.len().over("item") >= options.min_item_support)
        report.drop(
            clicks.height - kept.height,
            f"on items of fewer than {options.min_item_support} clicks in the training split",
        )
        if kept.height == clicks.height:
            return kept
        clicks = drop_short(kept, options.min_session_length, "training split", report)


def shuffle_sessions(clicks: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The sessions in a random order, the clicks within each as they were."""
    sessions = clicks["session"].unique().sort()
    order = pl.DataFrame(
        {
            "session": sessions,
            "position": np.random.default_rng(seed).permutation(len(sessions)).astype(np.uint32),
        }
    )
    shuffled = clicks.join(order, on="session", maintain_order="left").sort("position", maintain_order=True)
    return shuffled.drop("session").rename({"position": "session"})


def split_off_test(
    log: Log, clicks: pl.DataFrame, options: PrepareOptions
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Training and test splits of one log. The test split is whole sessions at its end."""
    if options.test_days is not None:
        if not log.has_time:
            raise InvalidOptionError("--test-days needs a log with times; use --test-fraction")
        end = pl.col("time").max()
        latest = clicks["time"].max()
        is_test = end.over("session") > pl.lit(latest) - round(options.test_days * _MICROSECONDS_A_DAY)
    elif options.test_fraction is not None:
        sessions = clicks["session"].unique().sort()
        kept = len(sessions) - round(options.test_fraction * len(sessions))
        is_test = pl.col("session").is_in(sessions[kept:].implode())
    else:
        is_test = pl.lit(False)
    return clicks.filter(~is_test), clicks.filter(is_test)


def check_logs(training: Log, test: Log) -> None:
    """Raise :class:`LeakError` where a given test log shares sessions with the training log, or begins before its
    end."""
    if training.session_ids is not None and test.session_ids is not None:
        shared = training.session_ids.filter(training.session_ids.is_in(test.session_ids.implode()))
        if len(shared):
            raise LeakError(
                f"{len(shared):,} sessions are in both the training and the test log, such as {shared[0]}; "
                "if the ids begin anew in each log, make them different"
            )
    if training.has_time and test.has_time:
        end = training.clicks["time"].max()
        begins = test.clicks.group_by("session").agg(pl.col("time").min())["time"]
        early = int((begins < end).sum())
        if early:
            raise LeakError(
                f"{early:,} of {len(begins):,} test sessions begin before the training log ends, "
                f"{_date(end)}: cut both at one time, or split one log with --test-days"
            )


def check_copies(training: pl.DataFrame, test: pl.DataFrame) -> None:
    """Raise :class:`LeakError` where more than half of the long test sessions are in the training split too."""
    known, asked = _session_digests(training, test)
    copies = int(np.isin(asked, known).sum())
    if copies * 2 > len(asked):
        raise LeakError(
            f"{copies:,} of the {len(asked):,} test sessions of {LONG_SESSION} clicks or more are in the training "
            "split too, click by click"
        )


def _session_digests(*splits: pl.DataFrame) -> list[NDArray[np.uint64]]:
    """A 64-bit polynomial hash of every long session of each split, equal for equal lists of items."""
    items = pl.concat([split.select("item") for split in splits])["item"].unique()
    codes = pl.DataFrame(
        {"item": items, "code": np.random.default_rng(0).integers(0, 2**64, len(items), dtype=np.uint64)}
    )
    digests = []
    for split in splits:
        long = split.filter(pl.len().over("session") >= LONG_SESSION).join(
            codes, on="item", maintain_order="left"
        )
        if long.is_empty():
            digests.append(np.zeros(0, np.uint64))
            continue
        lengths = long["session"].rle().struct.field("len").to_numpy().astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        position = np.arange(long.height) - np.repeat(starts, lengths)
        weights = np.cumprod(np.full(int(lengths.max()), 0x9E3779B97F4A7C15, np.uint64))
        digests.append(np.add.reduceat(long["code"].to_numpy() * weights[position], starts))
    return digests


def require_clicks(clicks: pl.DataFrame, split: str, report: PrepareReport) -> None:
    """Raise :class:`EmptyLogError` where ``clicks`` is empty, with the counts that the filters removed."""
    if clicks.is_empty():
        raise EmptyLogError(f"nothing is left for the {split} split: {report.history()}")


def _date(microseconds: object) -> str:
    return str(np.datetime64(int(str(microseconds)), "us").astype("datetime64[s]")).replace("T", " ")
