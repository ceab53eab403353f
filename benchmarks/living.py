"""What changes of the catalogue cost, and what they do to readers: ``python -m benchmarks.living BUNDLE --data DATA``.

One process, one thread for each library. Changes are made one by one and in batches, with ready vectors and through the
item encoder; ``recommend`` is timed before there are changes and after many; then some threads recommend while another
one upserts at a steady rate.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from benchmarks.one_thread import ensure_one_thread
from benchmarks.vectors.sessions import cases
from hiersrec_sdk import Item, Recommender


def quantiles(laps: list[float]) -> str:
    """Median and 99th percentile of seconds, as microseconds."""
    middle, most = np.quantile(laps, [0.5, 0.99]) * 1e6
    return f"median {middle:8,.0f} µs, p99 {most:8,.0f} µs"


def timed(call: Callable[[int], object], times: int) -> list[float]:
    """Seconds of each of ``times`` calls."""
    laps = []
    for at in range(times):
        started = time.perf_counter()
        call(at)
        laps.append(time.perf_counter() - started)
    return laps


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Data set, for its sessions."
)
@click.option("--calls", default=2_000, show_default=True, help="Of recommend, each time.")
@click.option("--upserts", default=10_000, show_default=True, help="Items that are added in all.")
@click.option("--rate", default=1_000, show_default=True, help="Upserts a second, while others read.")
@click.option("--threads", default=2, show_default=True, help="That recommend meanwhile.")
@click.option(
    "--reads", default=500, show_default=True, help="Calls of recommend a second and thread meanwhile."
)
@click.option("--seconds", default=10.0, show_default=True, help="That they do so.")
def main(
    bundle: Path, data: Path, calls: int, upserts: int, rate: int, threads: int, reads: int, seconds: float
) -> None:
    ensure_one_thread()
    recommender = Recommender.load(bundle)
    catalog = recommender.catalog
    sessions = [list(catalog.ids(rows)) for rows in cases(recommender, data, calls, 0, 5)]
    random = np.random.default_rng(0)
    base = catalog.item_vectors
    strings = recommender.config["item_id_type"] == "string"
    new_id: Callable[[int], Any] = (lambda at: f"new-{at}") if strings else (lambda at: -1 - at)
    leaves = [catalog.category(-1, int(at)).id for at in random.integers(0, len(catalog.ranges[-1]), upserts)]

    def item(at: int, described: bool = False) -> Item:
        if described:
            return Item(new_id(at), leaves[at % upserts])
        noise = 0.1 * random.standard_normal((base.shape[1],)).astype(np.float32)
        vector = base[int(random.integers(len(base)))] + noise
        return Item(new_id(at), leaves[at % upserts], vector=vector / np.linalg.norm(vector))

    def recommend(at: int, turn: int = 0) -> object:
        return recommender.recommend(sessions[at % len(sessions)], 20)

    timed(recommend, calls // 4)
    click.echo(f"{len(base):,} items, sessions of 5 clicks, candidates")
    quiet = timed(recommend, calls)
    click.echo(f"recommend, nothing changed           {quantiles(quiet)}")
    one = timed(lambda at: catalog.upsert([item(at)]), 300)
    click.echo(f"upsert of one ready vector           {quantiles(one)}")
    encoded = timed(lambda at: catalog.upsert([item(300 + at, described=True)]), 300)
    click.echo(f"upsert of one, encoded               {quantiles(encoded)}")
    seen = timed(lambda at: (catalog.upsert([item(600 + at)]), recommend(at)), 300)
    click.echo(f"upsert of one and the next recommend {quantiles(seen)}")
    started = time.perf_counter()
    rest = [item(at, described=True) for at in range(900, upserts)]
    catalog.upsert(rest)
    click.echo(f"upsert of {len(rest):,} at once, encoded    {1e3 * (time.perf_counter() - started):,.0f} ms")
    click.echo(f"recommend, {upserts:,} items added       {quantiles(timed(recommend, calls))}")
    with TemporaryDirectory(dir=bundle.absolute().parent) as folder:
        started = time.perf_counter()
        recommender.save(Path(folder) / "saved")
        click.echo(f"save                                 {1e3 * (time.perf_counter() - started):,.0f} ms")

    recommender = Recommender.load(bundle)
    catalog = recommender.catalog
    stop = threading.Event()
    laps: list[list[float]] = [[] for _ in range(threads)]

    def read(own: list[float], first: int, reads: int) -> None:
        began = time.perf_counter()
        while not stop.is_set():
            early = began + len(own) / reads - time.perf_counter() if reads else 0
            if early > 0:
                time.sleep(early)
            own += timed(partial(recommend, first + len(own)), 1)

    def race_for(writes: int, reads: int) -> tuple[list[float], int]:
        stop.clear()
        for own in laps:
            own.clear()
        readers = [threading.Thread(target=read, args=(own, 97 * at, reads)) for at, own in enumerate(laps)]
        for reader in readers:
            reader.start()
        began, made = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            while writes and made < writes * (time.perf_counter() - began):
                catalog.upsert([item(made)])
                made += 1
            time.sleep(0.0005)
        stop.set()
        for reader in readers:
            reader.join()
        return [lap for own in laps for lap in own], made

    for paced, what in ((reads, f"{reads:,} times a second each"), (0, "as fast as they can")):
        catalog.remove([new_id(at) for at in range(int(rate * seconds) + 1)])
        click.echo(f"recommend in {threads} threads, {what}")
        before, _ = race_for(0, paced)
        beside, made = race_for(rate, paced)
        after, _ = race_for(0, paced)
        for name, found in (
            ("nobody writes", before),
            (f"beside {made / seconds:,.0f} upserts/s", beside),
            (f"nobody writes, {made:,} items added", after),
        ):
            click.echo(f"  {name:35} {quantiles(found)}, {len(found):,} calls")
        slower = [np.quantile(beside, 0.99) / np.quantile(quiet, 0.99) for quiet in (before, after)]
        click.echo(f"  p99 beside them: {slower[0]:.2f}x of that before, {slower[1]:.2f}x of that after")


if __name__ == "__main__":
    main()
