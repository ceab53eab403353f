"""What changes of the catalog cost, and what they do to readers: ``python -m benchmarks.catalog_updates --help``.

One process, one thread for each library. Changes are made one by one and in batches, with ready vectors and through the
item encoder; ``recommend`` is timed before there are changes and after many; then some threads recommend while another
one upserts at a steady rate, and while changes come through a feed that another process writes: upserts of new items
and of known ones, and item biases.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from benchmarks.bundles import examples, grown_bundle, items_to_upsert, random_sessions
from benchmarks.timing import Lap, ensure_one_thread, quantiles, slowest, timed, timed_in_thread
from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.catalog.feed.file_feed import FileFeed

CLICKS = 5  # of each session


def changes(recommender: Recommender, sessions: list[list[Any]], upserts: int, folder: Path) -> None:
    """Changes of a catalog that nobody else reads."""
    catalog, calls = recommender.catalog, len(sessions)
    some = min(300, upserts // 4)
    items = items_to_upsert(recommender, upserts)
    described = [Item(item.id, item.category) for item in items[2 * some :]]

    def recommend(at: int) -> object:
        return recommender.recommend(sessions[at % calls])

    def say(what: str, call: Callable[[int], object], times: int) -> None:
        click.echo(f"{what:40} {quantiles(timed(call, times))}")

    timed(recommend, calls // 4)
    say("recommend, nothing changed", recommend, calls)
    say("upsert of one ready vector", lambda at: catalog.upsert([items[at]]), some)
    say(
        "upsert of one, and the next recommend",
        lambda at: (catalog.upsert([items[some + at]]), recommend(at)),
        some,
    )
    say("upsert of one, encoded", lambda at: catalog.upsert([described[at]]), some)
    took = timed(lambda at: catalog.upsert(described[some:]), 1)[0]
    click.echo(f"{f'upsert of {len(described) - some:,} at once, encoded':40} {1e3 * took:,.0f} ms")
    say(f"recommend, {upserts:,} items added", recommend, calls)
    known = [catalog.ids(np.array([row]))[0] for row in range(some)]
    say("set_bias of an item of the bundle", lambda at: catalog.set_bias([known[at]], 1.0), some)
    say("remove of an item of the bundle", lambda at: catalog.remove([known[at]]), some)
    say("recommend after that", recommend, calls)
    took = timed(lambda at: recommender.save(folder / "saved"), 1)[0]
    click.echo(f"{'save':40} {1e3 * took:,.0f} ms")


def readers(
    recommender: Recommender,
    sessions: list[list[Any]],
    threads: int,
    reads: int,
    rate: int,
    seconds: float,
    feed: Path | None = None,
) -> tuple[list[Lap], int]:
    """The calls of ``recommend`` of ``threads`` threads, ``reads`` a second each (0: as many as they can).

    Meanwhile ``rate`` items a second are upserted one by one; with a ``feed``, another process publishes as many
    changes there. How many were made in all.
    """
    if feed is not None:
        with recommender.follow(feed) as follower, publisher(recommender, feed, rate, seconds):
            beside = readers(recommender, sessions, threads, reads, 0, seconds)
            return beside[0], follower.position
    stop = threading.Event()
    laps: list[list[Lap]] = [[] for _ in range(threads)]
    items = items_to_upsert(recommender, min(1_000, len(recommender.catalog) // 2))

    def read(mine: list[Lap], asked: Any) -> None:
        began = time.perf_counter()
        while not (mine and stop.is_set()):  # once at least, however late this thread begins
            early = began + len(mine) / reads - time.perf_counter() if reads else 0
            if early > 0:
                time.sleep(early)
            session = next(asked)
            mine.append(timed_in_thread(partial(recommender.recommend, session)))

    running = [
        threading.Thread(target=read, args=(mine, islice(cycle(sessions), 97 * at, None)))
        for at, mine in enumerate(laps)
    ]
    for reader in running:
        reader.start()
    began, made = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        while made < rate * min(seconds, time.perf_counter() - began):
            item = items[made % len(items)]
            new: Any = f"{item.id}.{made}" if isinstance(item.id, str) else item.id - 1_000_000 * made
            recommender.catalog.upsert([Item(new, item.category, vector=item.vector)])
            made += 1
        time.sleep(0.0005)
    stop.set()
    for reader in running:
        reader.join()
    return [lap for mine in laps for lap in mine], made


@contextmanager
def publisher(recommender: Recommender, feed: Path, rate: int, seconds: float) -> Iterator[None]:
    """Another process publishes ``rate`` changes a second to ``feed`` meanwhile."""
    items = items_to_upsert(recommender, min(1_000, len(recommender.catalog) // 2), known=True)
    some: list[dict[str, Any]] = [
        {"upsert": {"id": item.id, "category": item.category, "vector": item.vector}} for item in items
    ]
    known = [item.id for item in items[1::2]]
    some[::4] = [{"set_bias": {"id": known[at % len(known)], "value": 0.5}} for at in range(len(some[::4]))]
    process = get_context("spawn").Process(target=publish, args=(feed, some, rate, seconds), daemon=True)
    process.start()
    while FileFeed(feed).last == 0 and process.is_alive():  # until it has begun
        time.sleep(0.01)
    yield
    process.join()


def publish(feed: Path, changes: list[dict[str, Any]], rate: int, seconds: float) -> None:
    """Append ``changes`` again and again, some at a time."""
    with FileFeed(feed) as log:
        began, made = time.perf_counter(), 0
        while (now := time.perf_counter() - began) < seconds + 1:
            due = max(1, int(rate * now) - made)
            log.append(islice(cycle(changes), made % len(changes), made % len(changes) + due))
            made += due
            time.sleep(0.01)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--data", type=click.Path(path_type=Path), help="Data set whose test sessions ask.")
@click.option("--rows", default=0, help="Grow the catalog to so many items.")
@click.option("--calls", default=2_000, show_default=True, help="Of recommend, each time.")
@click.option("--upserts", default=10_000, show_default=True, help="Items that are added in all.")
@click.option("--rate", default=1_000, show_default=True, help="Upserts a second, while others read.")
@click.option("--threads", default=2, show_default=True, help="That recommend meanwhile.")
@click.option(
    "--reads", default=500, show_default=True, help="Calls of recommend a second and thread meanwhile."
)
@click.option("--seconds", default=10.0, show_default=True, help="That they do so.")
def main(
    bundle: Path,
    data: Path | None,
    rows: int,
    calls: int,
    upserts: int,
    rate: int,
    threads: int,
    reads: int,
    seconds: float,
) -> None:
    """What upserts cost, and what they do to those who recommend meanwhile."""
    small = Recommender.load(bundle, verify=False)
    drawn = examples(small, data, calls, 0, CLICKS) if data else random_sessions(small, CLICKS, calls, 0)
    sessions = [list(small.catalog.ids(found)) for found in drawn]
    with grown_bundle(bundle, rows) as path, TemporaryDirectory(dir=bundle.absolute().parent) as folder:
        load = partial(Recommender.load, path, verify=False)
        recommender = load()
        items = len(recommender.catalog)
        click.echo(f"{items:,} items, sessions of {CLICKS} clicks, candidates")
        changes(recommender, sessions, upserts, Path(folder))
        for paced, what in ((reads, f"{reads:,} times a second each"), (0, "as fast as they can")):
            recommender = load()
            click.echo(f"recommend in {threads} threads, {what}")
            for written, feed in (
                (0, None),
                (rate, None),
                (0, None),
                (rate, Path(folder) / f"{paced}.feed"),
                (0, None),
            ):
                laps, made = readers(recommender, sessions, threads, paced, written, seconds, feed)
                added = len(recommender.catalog) - items
                what = "upserts/s" if feed is None else "changes/s by a feed"
                beside = (
                    f"beside {made / seconds:,.0f} {what}" if written else f"nobody writes, {added:,} added"
                )
                found = quantiles([lap.seconds for lap in laps])
                click.echo(f"  {beside:38} {found}, {len(laps):,} calls\n    {slowest(laps)}")


if __name__ == "__main__":
    ensure_one_thread()
    main()
