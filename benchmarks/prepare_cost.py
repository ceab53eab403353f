"""What ``hiersrec prepare`` costs as the log grows: ``python -m benchmarks.prepare_cost --work /tmp/logs``.

On SIMULATED logs of 2024: sessions of six clicks in mean, many of them open at once as in a real log, over a skewed
million items. They are written in chunks, so that memory does not grow with the log. Each log is prepared by a process
of its own, whose peak of memory is measured.

The counts of every dataset are compared with those that NumPy finds in the simulated sessions. So a row of the table
also says that a log of that size was read right.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import IO, Any, Final, NamedTuple, cast

import click
import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.tables import table

START, STOP = 1_704_067_200, 1_735_689_600  # 2024, in Unix seconds
MEAN_LENGTH, LONGEST = 6, 50  # clicks of a session
LONGEST_GAP = 120  # seconds between two clicks of a session
SKEW = 0.9  # exponent of the items' Zipf law
TOGETHER = 250_000  # sessions that are made at once
TOPS, LEAVES = 40, 1_000  # categories of the item table
KINDS = ("csv", "csv.gz", "parquet")
TEST_DAYS, VALIDATION_FRACTION = 14, 0.1
MOST_EVENTS = 100_000_000

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """A log to simulate. It has about ``events`` clicks, and sessions of 1 to 50."""

    events: int
    items: int
    text_ids: bool = False
    kind: str = "csv"  # or csv.gz, parquet
    item_table: bool = False
    seed: int = 0

    @property
    def sessions(self) -> int:
        return max(1, self.events // MEAN_LENGTH)


class Chunk(NamedTuple):
    """Sessions in order of their first clicks, and their clicks end to end: int64 [sessions] and [clicks]."""

    lengths: Ints
    item: Ints
    time: Ints  # rising within each session

    @property
    def starts(self) -> Ints:
        """int64 [sessions]: the first click of each session."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def ends(self) -> Ints:
        """int64 [sessions]: the time of the last click of each session."""
        found: Ints = self.time[self.starts + self.lengths - 1]
        return found


class Shop:
    """A skewed demand for items."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.by_rank = np.random.default_rng([plan.seed, 0]).permutation(plan.items)
        self.demand = np.cumsum(np.arange(1, plan.items + 1) ** -SKEW)

    def chunks(self) -> Iterator[Chunk]:
        """The sessions, some at a time: the same ones each time."""
        for number, first in enumerate(range(0, self.plan.sessions, TOGETHER)):
            count = min(TOGETHER, self.plan.sessions - first)
            random = np.random.default_rng([self.plan.seed, 1, number])
            lengths = np.minimum(random.geometric(1 / MEAN_LENGTH, count), LONGEST)
            clicks = int(lengths.sum())
            begin, end = (self.began(at) for at in (first, first + count))
            gaps = random.integers(1, LONGEST_GAP + 1, clicks)
            starts = np.cumsum(lengths) - lengths
            gaps[starts] = 0
            passed = np.cumsum(gaps)
            first_click = np.sort(random.integers(begin, max(end, begin + 1), count))
            time = passed + np.repeat(first_click - passed[starts], lengths)
            rank = np.searchsorted(self.demand, random.random(clicks) * self.demand[-1])
            yield Chunk(lengths, self.by_rank[np.minimum(rank, self.plan.items - 1)], time)

    def began(self, sessions: int) -> int:
        """The time at which so many ``sessions`` have begun. The last ones end before the year does."""
        last = STOP - LONGEST * LONGEST_GAP
        return START + (last - START) * sessions // self.plan.sessions

    def rows(self) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Session, item and time of each click, in order of time, some at a time."""
        waiting = [np.empty(0, np.int64)] * 3
        first = 0
        for chunk in self.chunks():
            # ids that do not rise with time, each once: the factor is odd
            session = (first + np.arange(len(chunk.lengths))) * 2_654_435_761 % 2**32
            first += len(chunk.lengths)
            fresh = (np.repeat(session, chunk.lengths), chunk.item, chunk.time)
            columns = [np.concatenate(pair) for pair in zip(waiting, fresh, strict=True)]
            order = np.argsort(columns[2], kind="stable")
            # later sessions may click before these clicks
            done = int(np.searchsorted(columns[2][order], self.began(first)))
            waiting = [column[order[done:]] for column in columns]
            session, item, time = (column[order[:done]] for column in columns)
            yield session, item, time
        session, item, time = waiting
        yield session, item, time


class Log(NamedTuple):
    """A log on the disk, its clicks, and the ``counts`` that ``dataset.json`` must have."""

    path: Path
    items: Path | None  # the item table
    events: int
    counts: dict[str, Any]


def write_log(plan: Plan, folder: Path) -> Log:
    """Write the log of ``plan``, and its item table, into ``folder``."""
    shop, events = Shop(plan), 0
    path = folder / f"events.{plan.kind}"
    with _writer(path, plan.kind) as write:
        for session, item, time in shop.rows():
            events += len(time)
            columns = {"session": pl.Series(session), "item": pl.Series(item), "time": pl.Series(time)}
            frame = pl.DataFrame(columns)
            write(
                _with_text(frame, "session", "s", 6).pipe(_with_text, "item", "sku", 5)
                if plan.text_ids
                else frame
            )
    items = None
    if plan.item_table:
        items = folder / "items.parquet"
        top, leaf = categories_of(np.arange(plan.items), plan.items)
        frame = pl.DataFrame({"item": np.arange(plan.items), "department": top, "category": leaf})
        frame = _with_text(frame, "item", "sku", 5) if plan.text_ids else frame
        frame = _with_text(frame, "department", "d", 2).pipe(_with_text, "category", "c", 4)
        frame.write_parquet(items)
    return Log(path, items, events, count(plan))


def categories_of(item: Ints, items: int) -> tuple[Ints, Ints]:
    """The category of each item in both levels."""
    leaf = item * min(LEAVES, items) // items
    return leaf * TOPS // LEAVES, leaf


def count(plan: Plan) -> dict[str, Any]:
    """The counts of the dataset of ``plan``, from the sessions themselves.

    Sessions of one click are dropped. Those that end in the last days are the test split, without clicks on items that
    no other session has.
    """
    shop = Shop(plan)
    latest = max(int(chunk.ends[chunk.lengths > 1].max(initial=0)) for chunk in shop.chunks())
    clicked = np.zeros(plan.items, dtype=bool)
    training = examples = 0
    for chunk in shop.chunks():
        trained = (chunk.lengths > 1) & (chunk.ends <= latest - TEST_DAYS * 86_400)
        clicked[chunk.item[np.repeat(trained, chunk.lengths)]] = True
        training += int(trained.sum())
        examples += int((chunk.lengths[trained] - 1).sum())
    test = test_examples = 0
    for chunk in shop.chunks():
        tested = (chunk.lengths > 1) & (chunk.ends > latest - TEST_DAYS * 86_400)
        known = np.add.reduceat(clicked[chunk.item].astype(np.int64), chunk.starts)
        kept = known[tested & (known > 1)]
        test += len(kept)
        test_examples += int((kept - 1).sum())
    validation = round(VALIDATION_FRACTION * training)
    counts: dict[str, Any] = {
        "items": int(clicked.sum()),
        "train_sessions": training - validation,
        "validation_sessions": validation,
        "test_sessions": test,
        "train_and_validation_examples": examples,  # together: sessions that end in one second have no order
        "test_examples": test_examples,
    }
    if plan.item_table:
        levels = categories_of(np.flatnonzero(clicked), plan.items)
        counts["categories"] = [len(np.unique(level)) for level in levels]
    return counts


def counted(dataset: Path, names: Sequence[str]) -> dict[str, Any]:
    """The same counts, as the ``dataset`` says."""
    counts = json.loads((dataset / "dataset.json").read_text("utf-8"))["counts"]
    counts["train_and_validation_examples"] = counts["train_examples"] + counts["validation_examples"]
    return {name: counts[name] for name in names}


def _with_text(frame: pl.DataFrame, column: str, prefix: str, digits: int) -> pl.DataFrame:
    number = pl.col(column).cast(pl.String).str.zfill(digits)
    return frame.with_columns(pl.concat_str(pl.lit(f"{prefix}-"), number).alias(column))


@contextmanager
def _writer(path: Path, kind: str) -> Iterator[Any]:
    """A function that appends a frame to the file ``path``."""
    with ExitStack() as stack:
        if kind == "parquet":
            files: list[pq.ParquetWriter] = []

            def append(frame: pl.DataFrame) -> None:
                rows = frame.to_arrow()
                if not files:
                    files.append(stack.enter_context(pq.ParquetWriter(path, rows.schema)))
                files[0].write_table(rows)

            yield append
            return
        if kind == "csv.gz":
            file = cast("IO[bytes]", stack.enter_context(gzip.open(path, "wb", 1)))
        else:
            file = stack.enter_context(path.open("wb"))
        file.write(b"session,item,time\n")
        yield lambda frame: frame.write_csv(file, include_header=False)


class Prepared(NamedTuple):
    """What a command cost: ``seconds`` by the clock, and the ``peak`` of its resident memory in bytes."""

    seconds: float
    peak: int


def prepare(log: Log, out: Path) -> Prepared:
    """Run ``hiersrec prepare`` on ``log`` and measure it.

    The peak is that of this process alone, or of the one that starts it, which is small: it made no log.

    Raises:
        click.ClickException: the command failed.
    """
    command = [sys.executable, "-m", "hiersrec_sdk.cli", "prepare", str(log.path), "--out", str(out)]
    command += ["--session-column", "session", "--item-column", "item", "--time-column", "time"]
    command += ["--test-days", str(TEST_DAYS), "--validation-fraction", str(VALIDATION_FRACTION)]
    if log.items is not None:
        command += [
            "--items",
            str(log.items),
            "--category-column",
            "department",
            "--category-column",
            "category",
        ]
    said = out.with_suffix(".txt")
    with said.open("wb") as file:
        began = perf_counter()
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)  # of this child; RUSAGE_CHILDREN is the largest of all
        seconds = perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        last = said.read_text("utf-8", "replace")[-2_000:]
        raise click.ClickException(f"prepare ended with {child.returncode} after {seconds:.0f} s:\n{last}")
    return Prepared(seconds, usage.ru_maxrss * 1024)


def measure(plan: Plan, folder: Path) -> list[str]:
    """Simulate the log of ``plan`` in ``folder`` and prepare it: a row of the table.

    Raises:
        click.ClickException: ``prepare`` failed, or the dataset is another one.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        log = pool.submit(write_log, plan, folder).result()
    cost = prepare(log, folder / "dataset")
    found = counted(folder / "dataset", list(log.counts))
    wrong = [
        f"{name} {found[name]} instead of {wanted}"
        for name, wanted in log.counts.items()
        if found[name] != wanted
    ]
    if wrong:
        raise click.ClickException(f"the dataset of {log.events:,} events is wrong: {'; '.join(wrong)}")
    return [
        f"{log.events:,}",
        f"{log.path.stat().st_size / 1e6:,.0f}",
        f"{cost.seconds:,.1f}",
        f"{log.events / cost.seconds:,.0f}",
        f"{cost.peak / 1e9:.2f}",
        f"{found['items']:,}",
        f"{sum(found[f'{name}_sessions'] for name in ('train', 'validation', 'test')):,}",
    ]


COLUMNS: Final = ["events", "file, MB", "seconds", "events a second", "peak memory, GB", "items", "sessions"]


def _sizes(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in value.split(",")})
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of integers such as 1000000,3000000") from None
    if not 1_000 <= sizes[0] <= sizes[-1] <= MOST_EVENTS:
        raise click.BadParameter(f"a log must have 1,000 to {MOST_EVENTS:,} events, got {value}")
    return sizes


@click.command(help=__doc__)
@click.option(
    "--events", default="1000000,3000000,10000000", show_default=True, callback=_sizes, help="Of a log."
)
@click.option(
    "--items", default=1_000_000, show_default=True, type=click.IntRange(100, 10**8), help="Of the shop."
)
@click.option(
    "--kind",
    default="csv",
    show_default=True,
    type=click.Choice(KINDS),
    help="Of log.",
)
@click.option("--text-ids", is_flag=True, help="Ids such as s-000123 and sku-00001 instead of integers.")
@click.option("--item-table", is_flag=True, help="An item table too, with two levels of categories.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for logs and datasets.")
@click.option("--keep", is_flag=True, help="Leave logs and datasets in --work.")
def main(
    events: list[int], items: int, kind: str, text_ids: bool, item_table: bool, work: Path, keep: bool
) -> None:
    rows = []
    for size in events:
        plan = Plan(size, items, text_ids, kind, item_table)
        folder = work.absolute() / f"prepare_cost-{size}-{kind}"
        if folder.exists():
            raise click.ClickException(f"{folder} exists already: remove it or name another --work")
        folder.mkdir(parents=True)
        try:
            rows.append(measure(plan, folder))
        finally:
            if not keep:
                shutil.rmtree(folder)
        click.echo(f"{rows[-1][0]} events: {rows[-1][2]} s, {rows[-1][4]} GB, counts as simulated", err=True)
    ids = "ids are text" if text_ids else "ids are integers"
    extra = ", with an item table" if item_table else ""
    click.echo(f"SIMULATED: {kind}, {ids}, a skewed {items:,} items{extra}; {os.cpu_count()} cores\n")
    click.echo(table(COLUMNS, rows))


if __name__ == "__main__":
    main()
