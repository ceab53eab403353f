"""Processes that serve one bundle while they change, save and reload it: ``python -m tests.stress.soak --minutes 60``.

Every answer is compared with a plain scan of the snapshot that gave it, to the last bit. What a ``save`` acknowledged
has to be in every later bundle. The memory of each process is sampled, and must not grow.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np

from hiersrec_sdk import Item, Recommender, Result
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.errors import BundleError
from tests.sdk.bundles import Shop, make_shop

_ADDED: Final = 2_000  # most items that a process has added and not removed again
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def shop_to_serve() -> Shop:
    """A shop of 1,800 items whose scores are exact in float32."""
    return make_shop("string", times=30, dimension=40, stages=[16], covisitation=True)


def check(recommender: Recommender, session: list[Any], result: Result, k: int, allowed: Any) -> None:
    """Compare an answer with a scan of every row of its snapshot.

    Args:
        recommender: what answered.
        session: the ids that were asked for, of which one is known at least.
        result: the answer.
        k: how many items were asked for.
        allowed: bool [rows] of the snapshot, or None.

    Raises:
        AssertionError: the answer is wrong.
    """
    catalog = result._catalog
    assert isinstance(catalog, Catalog)
    rows = catalog.rows(session)
    vectors = catalog.vectors(rows[rows >= 0][-recommender.config["max_length"] :])
    encoded = recommender._pipeline.encoder.encode(vectors[None], np.array([len(vectors)]))
    scores = np.concatenate([segment.scores(encoded.item_query[0]) for segment in catalog.segments])
    scores[result._ranked.covisited] += result._ranked.offsets
    may = np.zeros(len(scores), dtype=bool)
    for start, stop in result.ranges:
        may[start:stop] = True
    if allowed is not None:
        may &= allowed
    scores[~may] = -np.inf
    right = np.lexsort((np.arange(len(scores)), -scores))[:k]
    right = right[scores[right] > -np.inf]
    assert result._rows.tolist() == right.tolist(), (session, result._rows.tolist(), right.tolist())
    assert result.scores.tolist() == scores[right].tolist()
    assert list(result.items) == list(catalog.ids(right))


class Server:
    """One process: threads that ask, one that changes the catalog, saves and reloads."""

    def __init__(self, bundle: Path, number: int, seed: int, folder: Path) -> None:
        self.bundle, self.number, self.seed, self.folder = bundle, number, seed, folder
        self.recommender = Recommender.load(bundle)
        self.stop = threading.Event()
        self.counts = dict.fromkeys(
            ("answers", "upserts", "moves", "removals", "biases", "saves", "refused", "reloads"), 0
        )
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self.counts[name] += by

    def ask(self, thread: int) -> None:
        """Ask until told to stop."""
        draw, shop = random.Random(f"{self.seed} {self.number} {thread}"), shop_to_serve()
        while not self.stop.is_set():
            recommender = self.recommender
            ids = [*shop.ids, *(self.new_id(at) for at in range(50))]
            session = [draw.choice(shop.ids), *draw.choices(ids, k=draw.randrange(6))]
            k, mode = draw.choice([1, 5, 20, 200]), draw.choice(["candidates", "exact", "auto"])
            category = draw.choice([None, None, shop.category_ids[-1][2]])
            options: Any = {"mode": mode, "exclude_seen": draw.random() < 0.3}
            if category is not None:
                options["categories"] = [category]
            if draw.random() < 0.2:
                result = recommender.recommend_many([session] * 3, k, threads=2, **options)[draw.randrange(3)]
            else:
                result = recommender.recommend(session, k, **options)
            self.count("answers")
            if result.mode == "popular":  # every item of the session was removed
                continue
            catalog = result._catalog
            assert isinstance(catalog, Catalog)
            allowed = None
            if category is not None:
                chosen = recommender.filter(categories=[category])
                allowed = np.concatenate(
                    [chosen.allows(np.arange(len(catalog.base))), chosen.allows_delta(catalog.delta)]
                )
            if options["exclude_seen"]:
                allowed = np.ones(catalog.stop, dtype=bool) if allowed is None else allowed
                seen = catalog.rows(session)
                allowed[seen[seen >= 0]] = False
            check(recommender, session, result, k, allowed)

    def new_id(self, at: int) -> str:
        return f"new-{self.number}-{at}"

    def change(self) -> None:
        """Change, save and reload until told to stop; acknowledged changes are appended to a file of this process."""
        draw, shop = random.Random(f"{self.seed} {self.number} changes"), shop_to_serve()
        leaves = list(shop.category_ids[-1])
        unsaved: dict[str, bool] = {}  # id: whether it is there
        with (self.folder / f"acknowledged-{self.number}.jsonl").open("a", buffering=1) as acknowledged:
            while not self.stop.is_set():
                time.sleep(draw.expovariate(200))
                catalog = self.recommender.catalog
                what = draw.random()
                item = self.new_id(draw.randrange(_ADDED))
                known = int(catalog.rows([item])[0]) >= 0
                if what < 0.6:
                    vector = [each / 8 for each in draw.choices(range(-8, 9), k=40)]
                    catalog.upsert([Item(item, draw.choice(leaves), vector=vector, title=f"title of {item}")])
                    unsaved[item] = True
                    self.count("upserts")
                elif what < 0.7 and known:
                    catalog.move(item, draw.choice(leaves))
                    self.count("moves")
                elif what < 0.85 and known:
                    catalog.remove([item])
                    unsaved[item] = False
                    self.count("removals")
                elif what < 0.95:
                    catalog.set_bias([draw.choice(shop.ids)], draw.randrange(-8, 9) / 8)
                    self.count("biases")
                elif what < 0.97:
                    try:
                        self.recommender.save(self.bundle)
                    except BundleError as error:
                        if "replaced" not in str(error):
                            raise
                        self.count("refused")
                        self.recommender = Recommender.load(self.bundle)
                    else:
                        acknowledged.write(json.dumps(unsaved) + "\n")
                        self.count("saves")
                    unsaved = {}
                elif what < 0.975:
                    self.recommender = Recommender.load(self.bundle, verify=draw.random() < 0.5)
                    unsaved = {}
                    self.count("reloads")

    def run(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except BaseException as error:  # whatever it is, it is what this program looks for
            self.wrong.append(f"{type(error).__name__}: {error}"[:2_000])
            self.stop.set()


def serve(bundle: Path, number: int, seed: int, threads: int, stop: Any, reports: Any, folder: Path) -> None:
    """The main function of one process."""
    server = Server(bundle, number, seed, folder)
    running = [
        *(threading.Thread(target=server.run, args=(server.ask, at)) for at in range(threads)),
        threading.Thread(target=server.run, args=(server.change,)),
    ]
    for thread in running:
        thread.start()
    while not server.stop.wait(5.0):
        reports.put((number, resident(), dict(server.counts), []))
        if stop.is_set():
            server.stop.set()
    for thread in running:
        thread.join()
    reports.put((number, resident(), dict(server.counts), server.wrong))


def resident() -> int:
    """Bytes of this process's own memory: resident pages but for those of files."""
    _, every, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (every - shared) * _PAGE


def lost(bundle: Path, folder: Path, processes: int) -> list[str]:
    """Items whose saved state the bundle lacks."""
    catalog = Recommender.load(bundle).catalog
    missing: list[str] = []
    for number in range(processes):
        state: dict[str, bool] = {}
        for line in (folder / f"acknowledged-{number}.jsonl").read_text().splitlines():
            state |= json.loads(line)
        for item, there in state.items():
            if (int(catalog.rows([item])[0]) >= 0) != there:
                missing.append(f"{item}: saved as {'there' if there else 'removed'}")
    return missing


@click.command(help=__doc__)
@click.option("--minutes", type=float, default=60.0, show_default=True)
@click.option("--processes", type=int, default=2, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True, help="Threads of each that ask.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(minutes: float, processes: int, threads: int, seed: int) -> None:
    context = multiprocessing.get_context("spawn")
    stop, reports = context.Event(), context.Queue()
    began = time.monotonic()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = shop_to_serve().write(folder / "bundle")
        running = [
            context.Process(target=serve, args=(bundle, at, seed, threads, stop, reports, folder))
            for at in range(processes)
        ]
        for process in running:
            process.start()
        memory: list[list[int]] = [[] for _ in running]
        counts: list[dict[str, int]] = [{} for _ in running]
        wrong: list[str] = []
        said = began
        while any(process.is_alive() for process in running) or not reports.empty():
            if time.monotonic() - began > 60 * minutes or wrong:
                stop.set()
            try:
                number, size, counted, found = reports.get(timeout=1.0)
            except Exception:  # the queue is empty for now
                continue
            memory[number].append(size)
            counts[number] = counted
            wrong += found
            if time.monotonic() - said > 60:
                said = time.monotonic()
                summary(began, memory, counts)
        for process in running:
            process.join()
            if process.exitcode:
                wrong.append(f"a process ended with {process.exitcode}")
        summary(began, memory, counts)
        if not wrong:
            wrong += lost(bundle, folder, processes)
            left = [path.name for path in folder.iterdir() if not path.name.startswith("acknowledged")]
            if left != ["bundle"]:
                wrong.append(f"left behind: {left}")
    for each in wrong:
        click.echo(f"WRONG {each}")
    if wrong:
        raise SystemExit(1)
    click.echo("nothing wrong, nothing lost")


def summary(began: float, memory: list[list[int]], counts: list[dict[str, int]]) -> None:
    """Print the counts of all processes together, and the memory of each: in the first fifth, and now."""
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    figures = ", ".join(f"{count:,} {name}" for name, count in total.items())
    spans: list[str] = []
    for sizes in filter(None, memory):
        fifth = max(1, len(sizes) // 5)
        spans.append(f"{np.median(sizes[:fifth]) / 1e6:.0f} to {np.median(sizes[-fifth:]) / 1e6:.0f} MB")
    click.echo(f"{(time.monotonic() - began) / 60:.1f} min: {figures}; memory {'; '.join(spans)}")


if __name__ == "__main__":
    main()
