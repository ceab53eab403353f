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
from hiersrec_training.data.categories import categorize
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.data.options import PrepareOptions
from hiersrec_training.data.read_items import Descriptions, describe_items, read_items
from hiersrec_training.data.read_log import Log, read_log
from hiersrec_training.data.read_table import existing, reading, unify_ids
from hiersrec_training.data.report import PrepareReport
from hiersrec_training.data.split import (
    check_copies,
    check_logs,
    drop_rare,
    drop_short,
    require_clicks,
    shuffle_sessions,
    split_off_test,
)
from hiersrec_training.data.text_encoders import encode_texts, load_text_encoder

__all__ = ["PrepareOptions", "prepare"]


def prepare(options: PrepareOptions, show: Callable[[str], object] = print) -> Dataset:
    """Read, filter and split a shop's logs.

    Sessions are in order of their last click. The test split is split off first. Then the filters of the training split
    run until they agree. The items still clicked in it, the validation split included, are the catalog; test clicks on
    other items are dropped.

    Args:
        options: of the command line.
        show: takes each line of the report, for a person to read.

    Raises:
        InvalidOptionError: an option out of its range.
        MissingColumnError: a column that a table lacks.
        EmptyLogError: nothing is left, with the counts that each filter removed.
        CategoryCycleError: the category tree has a cycle.
        LeakError: test data in the training split.
        DataError: a file that is missing, damaged or of another kind.
        MissingExtraError: the text encoder's package is not installed.
    """
    options.check()
    encoder = load_text_encoder(options.text_encoder)
    report = PrepareReport(show)
    files = _describe_files(options)

    log = read_log(options.logs, options, report)
    test_log = None if options.test_log is None else read_log([options.test_log], options, report)
    if test_log is not None:
        check_logs(log, test_log)
    rows = None if options.items is None else read_items(options, report)
    log, test_log, rows = _with_one_id_type(log, test_log, rows)
    if rows is not None and log.clicks["item"].is_in(rows["item"].implode()).not_().all():
        raise DataError(
            f"no item of the log is in {options.items}: the log has ids such as {log.clicks['item'][0]!r}, the table "
            f"such as {rows['item'][0]!r}; name the right columns with --item-column and --item-id-column"
        )

    training, test = _split(log, test_log, options, report)
    clicked = training["item"].unique()
    catalog = clicked
    if options.all_items and rows is not None:
        catalog = pl.concat([clicked, rows["item"]]).unique()
    catalog = catalog.sort()
    known = test.filter(pl.col("item").is_in(catalog.implode()))
    report.drop(test.height - known.height, "on items that the training split lacks, test split")
    test = drop_short(known, options.min_session_length, "test split", report)
    if options.test_log or options.test_days or options.test_fraction:
        require_clicks(test, "test", report)

    code = pl.DataFrame({"item": catalog}).with_row_index("code")  # code = item index
    sessions = _sessions(training, code)
    cut = len(sessions) - round(options.validation_fraction * len(sessions))
    if cut == 0:
        raise EmptyLogError(
            f"--validation-fraction {options.validation_fraction} leaves none of the {len(sessions)} sessions for "
            "training"
        )
    placing = rows
    if options.log_category_column is not None:  # an item that moved is where it was last
        latest = (
            training.filter(pl.col("category").is_not_null()).reverse().unique("item", maintain_order=True)
        )
        placing = latest.select("item", pl.col("category").alias("category:0"))
    categories = categorize(placing, catalog, options, report)
    about = _describe(rows, catalog, options)
    if encoder is not None:  # its vectors replace the text, which is not hashed as well
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
        validation=sessions.part(cut, len(sessions)),
        test=_sessions(test, code),
        settings={
            "options": options.as_settings(),
            "files": files,
            "levels": categories.levels,
            "clicks_read": report.read,
            "clicks_dropped": report.dropped,
        },
    )
    _report_counts(dataset, report)
    return dataset


def _describe_files(options: PrepareOptions) -> dict[str, list[dict[str, Any]]]:
    """Name and SHA-256 of every file that is read. No file may be given twice."""
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
    """Item ids as int64 where all tables have integers, else as strings."""
    frames = [log.clicks, None if test_log is None else test_log.clicks, rows]
    ids = iter(unify_ids([frame["item"] for frame in frames if frame is not None], "item"))
    first, second, third = [None if frame is None else frame.with_columns(item=next(ids)) for frame in frames]
    assert first is not None
    log = replace(log, clicks=first)
    if test_log is not None and second is not None:
        test_log = replace(test_log, clicks=second)
    return log, test_log, third


def _split(
    log: Log, test_log: Log | None, options: PrepareOptions, report: PrepareReport
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The clicks of the training split (filtered) and of the test split (short sessions dropped)."""
    shortest = options.min_session_length
    clicks = drop_short(log.clicks, shortest, "all splits" if test_log is None else "training split", report)
    require_clicks(clicks, "training", report)
    if options.shuffle_seed is not None:
        if log.has_time:
            raise InvalidOptionError(
                "--shuffle-seed is for logs without times: a shuffled split learns from what came later"
            )
        clicks = shuffle_sessions(clicks, options.shuffle_seed)
    if test_log is None:
        training, test = split_off_test(log, clicks, options)
    else:
        training, test = clicks, drop_short(test_log.clicks, shortest, "test split", report)
    require_clicks(training, "training", report)
    check_copies(training, test)
    training = drop_rare(training, options, report)
    require_clicks(training, "training", report)
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


def _report_counts(dataset: Dataset, report: PrepareReport) -> None:
    report.line("items", dataset.items, "in the catalog")
    for level, size in zip(dataset.settings["levels"], dataset.tree.sizes, strict=True):
        report.line("categories", size, f"in {level}")
    if dataset.vectors is not None:
        known = int(dataset.vectors.any(axis=1).sum())
        report.line("vectors", known, f"items with a vector of {dataset.vectors.shape[1]} numbers")
    train, validation, test = dataset.train, dataset.validation, dataset.test
    report.line(
        "training",
        train.example_count + validation.example_count,
        f"training examples of {len(train) + len(validation):,} sessions, of them",
    )
    report.line("", validation.example_count, f"validation examples of the last {len(validation):,} sessions")
    hint = "" if len(test) else "; --test-days, --test-fraction or --test-log makes a test split"
    report.line("test", test.example_count, f"test examples of {len(test):,} sessions{hint}")
