"""``hiersrec recommend --sessions``: recommendations for every session of some files, with several processes."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

import click
from click.core import ParameterSource

from hiersrec_sdk import Recommender
from hiersrec_sdk.arguments import is_integer
from hiersrec_sdk.cli.common import INTEGER, PATH, SectionOption
from hiersrec_sdk.cpus import MOST_THREADS, available_cpus
from hiersrec_sdk.errors import InvalidOptionError
from hiersrec_sdk.integrations.batch import BatchRecommender
from hiersrec_sdk.integrations.processes import make_shards
from hiersrec_sdk.integrations.session_files import check_sessions, open_files
from hiersrec_sdk.integrations.shards import Shards
from hiersrec_sdk.paths import real_path
from hiersrec_sdk.shown import shown

_Command = TypeVar("_Command", bound=Callable[..., Any])
_SECONDS: Final = 10.0  # between two lines of progress

_MANY = partial(click.option, cls=SectionOption, section="Many sessions")
_OPTIONS: Final = (
    _MANY(
        "--sessions",
        type=PATH,
        metavar="FILE|FOLDER",
        help="Parquet file with a session in each row, or the folder of several, in the order of their names.",
    ),
    _MANY(
        "--out", type=PATH, help="Folder to write: part-00000.parquet and so on, with a row for each session."
    ),
    _MANY(
        "--session-column",
        default="items",
        show_default=True,
        metavar="COLUMN",
        help="Column of lists of item ids, oldest first.",
    ),
    _MANY(
        "--keep",
        multiple=True,
        metavar="COLUMN",
        help="Column to carry over, such as a visitor's id; repeatable.",
    ),
    _MANY("--processes", type=INTEGER, help="Processes that share the work.  [default: one for each CPU]"),
    _MANY(
        "--shard-sessions", type=INTEGER, default=50_000, show_default=True, help="Sessions of a file of OUT."
    ),
    _MANY(
        "--batch-size",
        type=INTEGER,
        default=64,
        show_default=True,
        help="Sessions that are encoded together.",
    ),
    _MANY(
        "--on-bad",
        type=click.Choice(["error", "skip"]),
        default="error",
        show_default=True,
        help="What to do about a session that is null or holds a null: name it and write nothing, or give it no items.",
    ),
    _MANY(
        "--progress/--no-progress",
        default=True,
        help="Show a progress bar, or a line now and then where there is no terminal.  [default: progress]",
    ),
)


_NAMES: Final = ("session_column", "keep", "processes", "shard_sessions", "batch_size", "on_bad", "progress")


def batch_options(command: _Command) -> _Command:
    """Give a command the options of :func:`recommend_sessions`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def taken_out(options: dict[str, Any], sessions: Path | None) -> dict[str, Any]:
    """What :func:`recommend_sessions` alone takes, out of the ``options`` of a command.

    Raises:
        click.UsageError: one was given, but no ``sessions``.
    """
    context = click.get_current_context()
    for name in _NAMES:
        if sessions is None and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} needs --sessions")
    return {name: options.pop(name) for name in _NAMES}


def recommend_sessions(
    bundle: Path,
    recommender: Recommender,
    sessions: Path,
    out: Path,
    *,
    k: int,
    options: dict[str, Any],
    session_column: str,
    keep: tuple[str, ...],
    processes: int | None,
    shard_sessions: int,
    batch_size: int,
    on_bad: Any,
    progress: bool,
) -> None:
    """Recommend for each of ``sessions``, and write shards to the folder ``out``, but those that are there.

    Args:
        bundle, recommender: the bundle, and what was loaded from there and verified.
        options: other arguments of :meth:`Recommender.recommend`.

    Raises:
        InvalidOptionError, UnknownCategoryError, AmbiguousCategoryError: an option is out of its range.
        DataError: the sessions cannot be used.
        JobError: ``out`` is of another job, or a process has ended.
    """
    processes = available_cpus() if processes is None else processes
    _check_count("--processes", processes, MOST_THREADS)
    _check_count("--shard-sessions", shard_sessions)
    names = ("categories", "exclude_categories")
    recommender.filter(**{name: options[name] for name in names})  # which raises now, not in each process
    recommend = BatchRecommender(
        bundle,
        k=k,
        session_column=session_column,
        keep=keep,
        on_bad=on_bad,
        verify=False,
        batch_size=batch_size,
        **options,
    )
    if real_path(out) == real_path(sessions):
        raise InvalidOptionError("--out must be another folder than that of --sessions")
    files = open_files(sessions.absolute(), recommend)
    shards = Shards(recommend, files, out.absolute(), shard_sessions)
    given = {
        "k": k,
        "session-column": session_column,
        "keep": keep,
        "batch-size": batch_size,
        "on-bad": on_bad,
    }
    given |= {name.replace("_", "-"): value for name, value in options.items()}
    given["category"], given["exclude-category"] = given.pop("categories"), given.pop("exclude-categories")
    if not shards.is_begun(given):
        if on_bad == "error":
            check_sessions(files, recommend)
        shards.begin(given)
    done = shards.done()
    missing = sorted(set(range(len(shards))) - set(done))
    there = sum(len(shards.sessions(shard)) for shard in done)
    with _ended_by_sigterm(), _shown(files.rows, there, progress) as answered:
        make_shards(shards, missing, processes, answered)
    skipped = shards.skipped() if on_bad == "skip" else 0
    click.echo(
        f"{files.rows:,} sessions{f', {skipped:,} of them bad and skipped' if skipped else ''}; "
        f"{len(shards):,} files written to {out}{f', {len(done):,} of them before' if done else ''}"
    )


def _check_count(option: str, value: int, most: int | None = None) -> None:
    if not is_integer(value, 1) or (most is not None and value > most):
        bound = "≥ 1" if most is None else f"from 1 to {most}"
        raise InvalidOptionError(f"{option} must be an integer {bound}, got {shown(value)}")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise, as SIGINT does, so that the processes end too."""

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not in the main thread: whoever runs the thread handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _shown(total: int, there: int, progress: bool) -> Iterator[Callable[[int], object]]:
    """A function that is told how many sessions were answered, and shows it."""
    if not progress:
        yield lambda count: None
        return
    try:
        tqdm = import_module("tqdm").tqdm if sys.stderr.isatty() else None
    except ImportError:
        tqdm = None
    if tqdm is None:
        yield _Lines(total, there).add
        return
    with tqdm(total=total, initial=there, unit=" sessions", unit_scale=True) as bar:
        yield bar.update


class _Lines:
    """Lines of progress on stderr."""

    def __init__(self, total: int, there: int) -> None:
        self._total, self._there, self._count = total, there, 0
        self._began = self._last = time.monotonic()

    def add(self, count: int) -> None:
        """So many more sessions were answered."""
        self._count += count
        now = time.monotonic()
        if now - self._last < _SECONDS:
            return
        self._last = now
        speed = self._count / (now - self._began)
        left = (self._total - self._there - self._count) / speed
        click.echo(
            f"{self._there + self._count:,} of {self._total:,} sessions, {speed:,.0f} a second, {left:,.0f} s left",
            err=True,
        )
