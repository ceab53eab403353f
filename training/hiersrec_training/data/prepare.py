"""From a shop's logs and tables to a :class:`Dataset`: read, filter, split, check, count."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.errors import DataError, EmptyLogError, InvalidOptionError, LeakError
from hiersrec_training.data.categories import categorize
from hiersrec_training.data.clicks import LogSessions
from hiersrec_training.data.columns import unify_ids, without_fractions
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.data.descriptions import LatestDescriptions
from hiersrec_training.data.files import OUT_OF_ROOM, existing, opened, reading
from hiersrec_training.data.kinds import is_delimited, is_text
from hiersrec_training.data.options import PrepareOptions, flag
from hiersrec_training.data.read_items import (
    Descriptions,
    describe_items,
    item_rows,
    read_items,
    read_parents,
)
from hiersrec_training.data.read_log import LogReader, expanded
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
from hiersrec_training.data.times import DAY, date

__all__ = ["PrepareOptions", "prepare"]


def prepare(options: PrepareOptions, show: Callable[[str], object] = print) -> Dataset:
    """Read, filter and split a shop's logs.

    Sessions are in order of their last click. The test split is split off first. Then the filters of the training split
    run until they agree. The items still clicked in it, the validation split included, are the catalog; test clicks on
    other items are dropped.

    Args:
        options: of the command line. Logs and tables are paths, or Polars, pandas or Arrow tables.
        show: takes each line of the report, for a person to read.

    Raises:
        InvalidOptionError: an option out of its range, or one that the logs do not have.
        MissingColumnError: a column that a table lacks.
        EmptyLogError: nothing is left, with the counts that each filter removed.
        CategoryCycleError: the category tree has a cycle.
        LeakError: test data in the training split.
        DataError: a file that is missing, damaged, of another kind, or of two meanings.
        MissingExtraError: the text encoder's package is not installed.

    >>> import polars as pl
    >>> log = pl.DataFrame({"session": ["a", "a", "b", "b"], "item": [7, 8, 7, 9], "time": [1.7e9, 1.7e9 + 9] * 2})
    >>> data = prepare(PrepareOptions(logs=[log], validation_fraction=0), show=lambda line: None)
    >>> data.item_ids.to_list(), len(data.train)
    ([7, 8, 9], 2)
    """
    options.check()
    encoder = load_text_encoder(options.text_encoder)
    report = PrepareReport(show)
    logs = expanded(options.logs, options.glob)
    files = _describe_files(options, logs)
    _check_text_options(options, logs)
    try:
        with tempfile.TemporaryDirectory(prefix="hiersrec-prepare-") as folder:
            reader = LogReader(options, report, Path(folder))
            _refuse_copies(logs, [file["sha256"] for file in files["logs"]], reader)
            read = _read(logs, options, report, reader, Path(folder))
    except OSError as error:
        if error.errno not in OUT_OF_ROOM:
            raise
        raise DataError(
            f"{error.strerror} in the folder for temporary files, {tempfile.gettempdir()}: the environment variable "
            "TMPDIR names another one"
        ) from error
    training, test = _split(read.sessions, read.test_sessions, options, report)
    rows = read.rows if read.about is None else _rows_of_log(read.about, training, test, options, report)
    catalog, training, test = _catalog(read, training, test, options, report)
    sessions = _sessions(training)
    cut = len(sessions) - round(options.validation_fraction * len(sessions))
    if cut == 0:
        raise EmptyLogError(
            f"--validation-fraction {options.validation_fraction} leaves none of the {len(sessions)} sessions for "
            "training"
        )
    categories = categorize(rows, read.parents, catalog, options, report)
    about = _describe(rows, catalog, options, report)
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
        test=_sessions(test),
        settings={"options": options.as_settings(), "files": files, "levels": categories.levels},
    )
    _report_counts(dataset, report)
    dataset.settings["report"] = report.as_settings()
    return dataset


def _check_text_options(options: PrepareOptions, logs: list[Any]) -> None:
    """Refuse options of text files, and of those with separators, where there are none."""
    of_log, of_items, of_tree = [*logs, options.test_log], [options.items], [options.category_tree]
    separated = "text files with separators, such as csv"
    for sources, holds, kind, names in (
        ([*of_log, *of_items, *of_tree], is_text, "text files", ("encoding",)),
        ([*of_items, *of_tree], is_text, "text files", ("item_encoding",)),
        (
            [*of_log, *of_items, *of_tree],
            is_delimited,
            separated,
            ("quote", "multiline", "comment", "skip_malformed"),
        ),
        (of_log, is_delimited, separated, ("separator", "log_columns")),
        (of_items, is_delimited, separated, ("item_separator", "item_columns")),
        (of_tree, is_delimited, separated, ("tree_separator",)),
    ):
        given = [name for name in names if options.given(name) and getattr(options, name) != "utf-8"]
        if given and not any(map(holds, sources)):
            raise InvalidOptionError(f"{', '.join(map(flag, given))}: for {kind}, and none is read here")


class _Read(NamedTuple):
    """All that was read.

    ``item_ids``: of every item clicked in a log, in order; the sessions hold indices of it. ``rows``: of the item
    table. ``about``: what the log says about its items, where there is no table. ``parents``: of the category tree.
    """

    item_ids: pl.Series
    sessions: LogSessions
    test_sessions: LogSessions | None
    rows: pl.DataFrame | None
    about: _About | None
    parents: pl.DataFrame | None


class _About(NamedTuple):
    """What a log says about its items; ``keys`` of the items, in order, and the id of each."""

    latest: LatestDescriptions
    keys: NDArray[np.int64]
    ids: pl.Series


def _read(
    logs: list[Any], options: PrepareOptions, report: PrepareReport, reader: LogReader, work: Path
) -> _Read:
    """Read logs and tables."""
    log = reader.read(logs, describes=True)
    test_log = None if options.test_log is None else reader.read([options.test_log], describes=False)
    if test_log is not None:
        check_logs(
            log.sessions, test_log.sessions, reader.known.sessions, per_file=bool(options.session_per_file)
        )
    rows = None if options.items is None else read_items(options, report, work)
    parents = None if options.category_tree is None else read_parents(options, report, work)
    _warn_of_times(log.sessions, report)

    keys = log.items if test_log is None else np.union1d(log.items, test_log.items)
    columns = [reader.known.items.decode(keys), *([] if rows is None else [rows["item"]])]
    columns, fractions = without_fractions(columns)
    report.fractions(fractions, "item ids")
    ids, *others = unify_ids(columns)
    if rows is not None:
        (table_ids,) = others
        rows = rows.with_columns(table_ids.alias("item"))
        if not ids.is_in(table_ids.implode()).any():
            table = options.items if isinstance(options.items, str | Path) else "the item table"
            raise DataError(
                f"no item of the log is in {table}: the log has ids such as {ids[0]!r}, the table such as "
                f"{table_ids[0]!r}; name the right columns with --item-column and --item-id-column"
            )
    item_ids = ids.unique().sort()  # several keys may be one id, such as 12 and 12.0
    rank = item_ids.search_sorted(ids).to_numpy().astype(np.int32)
    sessions = log.sessions.with_items(_indices(log.sessions.items, keys, rank))
    test_sessions = None
    if test_log is not None:
        test_sessions = test_log.sessions.with_items(_indices(test_log.sessions.items, keys, rank))
    about = None if log.about is None else _About(log.about, keys, ids)
    return _Read(item_ids, sessions, test_sessions, rows, about, parents)


def _catalog(
    read: _Read, training: LogSessions, test: LogSessions, options: PrepareOptions, report: PrepareReport
) -> tuple[pl.Series, LogSessions, LogSessions]:
    """The ids of the catalog, and both splits with indices of it; test clicks on other items are dropped."""
    ids = read.item_ids
    catalog = ids.filter(pl.Series(np.bincount(training.items, minlength=len(ids)) > 0))
    if options.all_items and read.rows is not None:
        catalog = pl.concat([catalog, read.rows["item"]]).unique()
    catalog = catalog.sort()
    index = np.full(len(ids), -1, np.int32)
    known = ids.is_in(catalog.implode()).to_numpy()
    index[known] = catalog.search_sorted(ids.filter(pl.Series(known))).to_numpy()
    training, test = training.with_items(index[training.items]), test.with_items(index[test.items])
    report.drop(int((test.items < 0).sum()), "on items that the training split lacks, test split")
    test = drop_short(test.keep_clicks(test.items >= 0), options.min_session_length, "test split", report)
    if options.test_log is not None or options.test_days or options.test_fraction:
        require_clicks(test, "test", report)
    return catalog, training, test


def _describe_files(options: PrepareOptions, logs: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """Name and SHA-256 of every file that is read, of its content where it is packed. No log is the test log too."""
    sources: dict[str, list[Any]] = {
        "logs": logs,
        "test_log": [options.test_log],
        "items": [options.items],
        "item_vectors": [options.item_vectors],
        "category_tree": [options.category_tree],
    }
    files: dict[str, list[dict[str, Any]]] = {}
    for role, given in sources.items():
        files[role] = []
        for source in given:
            if isinstance(source, str | Path):
                files[role].append({"name": Path(source).name, "sha256": _digest(Path(source))})
    digests = [file["sha256"] for file in files["logs"]]
    if any(file["sha256"] in digests for file in files["test_log"]):
        raise LeakError(f"the test log {options.test_log} is also a training log")
    return files


def _refuse_copies(logs: list[Any], digests: list[str], reader: LogReader) -> None:
    """Raise :class:`DataError` for a log that was given twice; parts without a row are alike, and that is well.

    Args:
        logs: paths and frames.
        digests: of the paths among them.
        reader: of the logs.
    """
    copies: dict[str, list[Path]] = {}
    for path, digest in zip((Path(log) for log in logs if isinstance(log, str | Path)), digests, strict=True):
        copies.setdefault(digest, []).append(path)
    for paths in copies.values():
        if len(paths) > 1 and reader.has_rows(paths[0]):
            raise DataError(f"one log was given twice: {', '.join(map(str, paths))} have the same content")


def _digest(path: Path) -> str:
    existing(path)
    with reading(path), opened(path) as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def _indices(items: NDArray[np.int64], keys: NDArray[np.int64], rank: NDArray[np.int32]) -> NDArray[np.int32]:
    """int32 [items]: the rank of each key, found in blocks to save memory."""
    found = np.empty(len(items), np.int32)
    block = 1 << 22
    for at in range(0, len(items), block):
        found[at : at + block] = rank[keys.searchsorted(items[at : at + block])]
    return found


def _split(
    sessions: LogSessions, test_log: LogSessions | None, options: PrepareOptions, report: PrepareReport
) -> tuple[LogSessions, LogSessions]:
    """The training split (filtered) and the test split (short sessions dropped)."""
    shortest = options.min_session_length
    sessions = drop_short(sessions, shortest, "all splits" if test_log is None else "training split", report)
    require_clicks(sessions, "training", report)
    if options.shuffle_seed is not None:
        if sessions.end is not None:
            raise InvalidOptionError(
                "--shuffle-seed is for logs without times: a shuffled split learns from what came later"
            )
        sessions = shuffle_sessions(sessions, options.shuffle_seed)
    if test_log is None:
        training, test = split_off_test(sessions, options)
    else:
        training, test = sessions, drop_short(test_log, shortest, "test split", report)
    require_clicks(training, "training", report)
    if not options.allow_copies:
        check_copies(training, test, report)
    _warn_of_splits(training, test, report)
    training = drop_rare(training, options, report)
    require_clicks(training, "training", report)
    return training, test


def _warn_of_times(sessions: LogSessions, report: PrepareReport) -> None:
    """Warn where a few sessions at either end are further from the others than all others from each other."""
    if sessions.end is None or len(sessions) < 10:
        return
    end, few = sessions.end, max(1, len(sessions) // 100)
    gaps = np.diff(end)
    newest = int(gaps[-few:].argmax()) + len(gaps) - few
    oldest = int(gaps[:few].argmax())
    for gap, count, which, span in (
        (gaps[newest], len(gaps) - newest, "after", end[newest] - end[0]),
        (gaps[oldest], oldest + 1, "before", end[-1] - end[oldest + 1]),
    ):
        if gap > max(int(span), DAY):
            at = end[newest + 1] if which == "after" else end[oldest]
            option = "--until" if which == "after" else "--since"
            report.warn(
                f"{count:,} sessions end {gap / DAY:,.0f} days {which} all others, such as at {date(int(at))}: "
                f"{option} leaves them out"
            )


def _warn_of_splits(training: LogSessions, test: LogSessions, report: PrepareReport) -> None:
    """Warn of a test split that is tiny or most of the log."""
    share = len(test) / (len(training) + len(test))
    if not len(test) or 0.01 <= share <= 0.5:
        return
    when = ""
    if training.end is not None and test.begin is not None and test.end is not None:
        first, last = date(int(test.begin.min())), date(int(test.end.max()))
        when = f"; training ends {date(int(training.end.max()))}, the test split goes from {first} to {last}"
    report.warn(f"the test split is {share:.2%} of the sessions, {len(test):,}{when}")


def _sessions(found: LogSessions) -> Sessions:
    """The sessions of a dataset."""
    time = None if found.end is None else found.end // 1_000_000
    return Sessions(found.items.astype(np.int32, copy=False), found.offsets, time)


def _rows_of_log(
    about: _About, training: LogSessions, test: LogSessions, options: PrepareOptions, report: PrepareReport
) -> pl.DataFrame | None:
    """What the log says about its items, as rows of an item table; nothing that it first says in the test split."""
    until = None
    if options.cuts_test_split and options.shuffle_seed is None:
        # sessions are in order of their last click; without times, of their first row
        until = int(test.row.min()) - 1 if training.end is None else int(training.end.max())
    ids, newest, changed = about.latest.rows(about.keys, about.ids, until)
    what = "items that the log describes otherwise after the training split: the older values count"
    report.note("older", changed, what)
    return item_rows(ids, newest, "the log", options, report) if len(ids) else None


def _describe(
    rows: pl.DataFrame | None, catalog: pl.Series, options: PrepareOptions, report: PrepareReport
) -> Descriptions:
    if rows is None:
        nothing = pl.Series([None] * len(catalog), dtype=pl.String)
        return Descriptions(nothing, nothing, {}, None)
    return describe_items(rows, catalog, tuple(options.number_columns), report)


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
