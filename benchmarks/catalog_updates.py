"""What changes of the catalog cost, and what they do to readers: ``python -m benchmarks.catalog_updates --help``.

One process, one thread for each library. Changes are made one by one and in batches, with ready vectors and through the
item encoder; ``recommend`` is timed before there are changes and after many; then some threads recommend while another
one upserts at a steady rate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from benchmarks.bundles import examples, grown_bundle, items_to_upsert, random_sessions
from benchmarks.timing import ensure_one_thread, quantiles, timed
from hiersrec_sdk import Item, Recommender

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
) -> tuple[list[float], int]:
    """Seconds of each ``recommend`` of ``threads`` threads, ``reads`` a second each (0: as many as they can).

    Meanwhile ``rate`` items a second are upserted one by one; how many were in all.
    """
    stop = threading.Event()
    laps: list[list[float]] = [[] for _ in range(threads)]
    items = items_to_upsert(recommender, min(1_000, len(recommender.catalog) // 2))

    def read(mine: list[float], asked: Any) -> None:
        began = time.perf_counter()
        while not stop.is_set():
            early = began + len(mine) / reads - time.perf_counter() if reads else 0
            if early > 0:
                time.sleep(early)
            mine += timed(lambda at: recommender.recommend(next(asked)), 1)

    running = [
        threading.Thread(target=read, args=(mine, islice(cycle(sessions), 97 * at, None)))
        for at, mine in enumerate(laps)
    ]
    for reader in running:
        reader.start()
    began, made = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        while rate and made < rate * (time.perf_counter() - began):
            item = items[made % len(items)]
            new: Any = f"{item.id}.{made}" if isinstance(item.id, str) else item.id - 1_000_000 * made
            recommender.catalog.upsert([Item(new, item.category, vector=item.vector)])
            made += 1
        time.sleep(0.0005)
    stop.set()
    for reader in running:
        reader.join()
    return [lap for mine in laps for lap in mine], made


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
            for written in (0, rate, 0):
                laps, made = readers(recommender, sessions, threads, paced, written, seconds)
                added = len(recommender.catalog) - items
                beside = (
                    f"beside {made / seconds:,.0f} upserts/s" if made else f"nobody writes, {added:,} added"
                )
                click.echo(f"  {beside:38} {quantiles(laps)}, {len(laps):,} calls")


if __name__ == "__main__":
    ensure_one_thread()
    main()
