"""From a shop's logs and tables to a :class:`Dataset`: read, filter, split, check, count."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hiersrec_sdk.errors import DataError, EmptyLogError, InvalidOptionError, LeakError
from hiersrec_training.data.categorize import categorize
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.data.ids import unify_ids
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_items import Descriptions, describe_items, read_items
from hiersrec_training.data.read_log import Log, read_log
from hiersrec_training.data.read_table import existing, reading
from hiersrec_training.data.report import PrepareReport
from hiersrec_training.data.split import (
    check_copies,
    check_parts,
    drop_rare,
    drop_short,
    require_clicks,
    shuffle_sessions,
    split_off_test,
)
from hiersrec_training.data.text_encoders import encode_texts, load_text_encoder

__all__ = ["PrepareOptions", "prepare"]


def prepare(options: PrepareOptions, report: Callable[[str], object] = print) -> Dataset:
    """Read, filter and split a shop's logs.

    Sessions stand in order of their last click. The test part is split off first; then the training part's filters
    run until they agree; then the catalogue is the items clicked in what is left (training and validation part), and
    test clicks on other items are dropped.

    Args:
        report: called with each line of what was read, kept and dropped.

    Raises:
        InvalidOptionError: an option out of its range.
        MissingColumnError: a column that a table lacks.
        EmptyLogError: nothing is left, with what each filter removed.
        CategoryCycleError: the category tree has a cycle.
        LeakError: test data in the training part.
        DataError: a file that is missing, damaged or of another kind.
        MissingExtraError: the text encoder's package is not installed.
    """
    options.check()
    encoder = load_text_encoder(options.text_encoder)
    journal = PrepareReport(report)
    files = _describe_files(options)

    log = read_log(options.logs, options, journal)
    test_log = None if options.test_log is None else read_log([options.test_log], options, journal)
    if test_log is not None:
        check_parts(log, test_log)
    rows = None if options.items is None else read_items(options, journal)
    log, test_log, rows = _with_one_id_type(log, test_log, rows)
    if rows is not None and log.clicks["item"].is_in(rows["item"].implode()).not_().all():
        raise DataError(
            f"no item of the log is in {options.items}: the log has ids such as {log.clicks['item'][0]!r}, the table "
            f"such as {rows['item'][0]!r}; name the right columns with --item-column and --item-id-column"
        )

    training, test = _split(log, test_log, options, journal)
    clicked = training["item"].unique()
    catalog = clicked
    if options.all_items and rows is not None:
        catalog = pl.concat([clicked, rows["item"]]).unique()
    catalog = catalog.sort()
    known = test.filter(pl.col("item").is_in(catalog.implode()))
    journal.drop(test.height - known.height, "on items that the training part lacks, test part")
    test = drop_short(known, options.min_session_length, "test part", journal)
    if options.test_log or options.test_days or options.test_fraction:
        require_clicks(test, "test", journal)

    code = pl.DataFrame({"item": catalog}).with_row_index("code")  # code = item index
    sessions = _sessions(training, code)
    cut = len(sessions) - round(options.valid_fraction * len(sessions))
    if cut == 0:
        raise EmptyLogError(
            f"--valid-fraction {options.valid_fraction} leaves none of the {len(sessions)} sessions to train on"
        )
    categories = categorize(rows, training, code, options, journal)
    about = _describe(rows, catalog, options)
    if encoder is not None:  # its vectors stand for the text, which is not hashed as well
        encoded = encode_texts(encoder, options.text_encoder, about.text)
        about = about._replace(text=pl.Series([None] * len(catalog), dtype=pl.String), vectors=encoded)
    dataset = Dataset(
        item_ids=catalog.alias("id"),
        category=categories.category,
        extra_categories=categories.extra,
        clicks=np.bincount(sessions.items, minlength=len(catalog)).astype(np.int64),
        title=about.title,
        text=about.text,
        numbers=about.numbers,
        vectors=about.vectors,
        tree=categories.tree,
        train=sessions.part(0, cut),
        valid=sessions.part(cut, len(sessions)),
        test=_sessions(test, code),
        settings={
            "options": options.as_settings(),
            "files": files,
            "levels": categories.levels,
            "clicks_read": journal.read,
            "clicks_dropped": journal.dropped,
        },
    )
    _report_counts(dataset, journal)
    return dataset


def _describe_files(options: PrepareOptions) -> dict[str, list[dict[str, Any]]]:
    """Name and SHA-256 of every file that is read; the same data may not be given twice."""
    paths: dict[str, list[Path | None]] = {
        "logs": list(options.logs),
        "test_log": [options.test_log],
        "items": [options.items],
        "item_vectors": [options.item_vectors],
        "category_tree": [options.category_tree],
    }
    files: dict[str, list[dict[str, Any]]] = {}
    for role, given in paths.items():
        files[role] = []
        for path in filter(None, given):
            existing(path)
            with reading(path), path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[role].append({"name": path.name, "sha256": digest})
    digests = [file["sha256"] for file in files["logs"]]
    if any(file["sha256"] in digests for file in files["test_log"]):
        raise LeakError(f"the test log {options.test_log} is also a training log")
    if len(set(digests)) < len(digests):
        raise DataError(f"one log was given twice: {', '.join(str(path) for path in options.logs)}")
    return files


def _with_one_id_type(
    log: Log, test_log: Log | None, rows: pl.DataFrame | None
) -> tuple[Log, Log | None, pl.DataFrame | None]:
    """Item ids as int64 where all tables have whole numbers, else as strings."""
    frames = [log.clicks, None if test_log is None else test_log.clicks, rows]
    ids = iter(unify_ids([frame["item"] for frame in frames if frame is not None], "item"))
    first, second, third = [None if frame is None else frame.with_columns(item=next(ids)) for frame in frames]
    assert first is not None
    log = replace(log, clicks=first)
    if test_log is not None and second is not None:
        test_log = replace(test_log, clicks=second)
    return log, test_log, third


def _split(
    log: Log, test_log: Log | None, options: PrepareOptions, journal: PrepareReport
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The clicks of the training part (filtered) and of the test part (short sessions dropped)."""
    shortest = options.min_session_length
    clicks = drop_short(log.clicks, shortest, "all parts" if test_log is None else "training part", journal)
    require_clicks(clicks, "training", journal)
    if options.shuffle_seed is not None:
        if log.has_time:
            raise InvalidOptionError(
                "--shuffle-seed is for logs without times: a shuffled split learns from what came later"
            )
        clicks = shuffle_sessions(clicks, options.shuffle_seed)
    if test_log is None:
        training, test = split_off_test(log, clicks, options)
    else:
        training, test = clicks, drop_short(test_log.clicks, shortest, "test part", journal)
    require_clicks(training, "training", journal)
    check_copies(training, test)
    training = drop_rare(training, options, journal)
    require_clicks(training, "training", journal)
    return training, test


def _sessions(clicks: pl.DataFrame, code: pl.DataFrame) -> Sessions:
    """Clicks in order of session and time, as item indices end to end."""
    items = clicks.join(code, on="item", maintain_order="left")["code"].to_numpy().astype(np.int32)
    lengths = clicks["session"].rle().struct.field("len").to_numpy() if len(items) else np.zeros(0, np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    time = None
    if clicks["time"].null_count() == 0:
        time = clicks["time"].to_numpy()[offsets[1:] - 1] // 1_000_000
    return Sessions(items, offsets, time)


def _describe(rows: pl.DataFrame | None, catalog: pl.Series, options: PrepareOptions) -> Descriptions:
    if rows is None:
        nothing = pl.Series([None] * len(catalog), dtype=pl.String)
        return Descriptions(nothing, nothing, {}, None)
    return describe_items(rows, catalog, tuple(options.number_columns))


def _report_counts(dataset: Dataset, journal: PrepareReport) -> None:
    journal.line("items", dataset.items, "in the catalogue")
    for level, size in zip(dataset.settings["levels"], dataset.tree.sizes, strict=True):
        journal.line("categories", size, f"in {level}")
    if dataset.vectors is not None:
        known = int(dataset.vectors.any(axis=1).sum())
        journal.line("vectors", known, f"items with a vector of {dataset.vectors.shape[1]} numbers")
    train, valid, test = dataset.train, dataset.valid, dataset.test
    journal.line(
        "training",
        train.cases + valid.cases,
        f"training cases of {len(train) + len(valid):,} sessions, of them",
    )
    journal.line("", valid.cases, f"validation cases of the last {len(valid):,} sessions")
    journal.line("test", test.cases, f"test cases of {len(test):,} sessions")
