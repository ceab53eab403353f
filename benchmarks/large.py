"""A catalogue of ten million items: ``python -m benchmarks.large --work WORK``.

Writes a bundle of random unit vectors under random ids, once, into WORK (10 million rows of 128 dimensions take 7 GB
and some minutes); its graphs are those of an untrained model. A fresh process then loads it without verification,
answers sessions, and changes the catalogue. One thread. Random vectors leave the kernel little to prune: trained ones
are ranked faster, see ``benchmarks.ranking``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.living import quantiles, timed
from benchmarks.one_thread import ensure_one_thread
from hiersrec_export import IR_VERSION, OPSET
from hiersrec_export.graphs import item_graph, session_graph
from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.bundle.folder import write_bundle
from hiersrec_sdk.catalog.ids import id_tables, item_id_tables
from hiersrec_sdk.ranking import Codes
from hiersrec_training.config import Config
from hiersrec_training.model import HierSRec, Shape

BRANCHING = (10, 10, 10)  # categories below each one, from the top level on
TOGETHER = 1 << 16  # rows that are drawn at once


def write(path: Path, rows: int, dimension: int, strings: bool) -> None:
    """Write the bundle."""
    random = np.random.default_rng(0)
    vectors = np.empty((rows, dimension), dtype=np.float32)
    for start in tqdm(range(0, rows, TOGETHER), "vectors", mininterval=2):
        some = random.standard_normal((min(TOGETHER, rows - start), dimension), dtype=np.float32)
        vectors[start : start + TOGETHER] = some / np.linalg.norm(some, axis=1, keepdims=True)
    numbers = random.permutation(rows) * 97 + 1_000
    ids: Any = [f"sku-{number:010d}" for number in numbers.tolist()] if strings else numbers
    click.echo("codes and ids…", err=True)
    tables: dict[str, NDArray[Any]] = {
        "item_vectors": vectors,
        "item_bias": random.standard_normal(rows, dtype=np.float32) / 10,
        "clicks": random.geometric(0.01, rows),
        **item_id_tables(ids),
        **Codes.of(vectors).tables(),
    }
    sizes = np.cumprod(BRANCHING).tolist()
    weights = random.lognormal(0, 1, sizes[-1])
    edges = np.concatenate([[0], np.rint(weights.cumsum() / weights.sum() * rows)]).astype(np.int64)
    for level, size in enumerate(sizes):
        of_level = edges[:: sizes[-1] // size]
        tables[f"category_ranges.{level}"] = np.stack([of_level[:-1], of_level[1:]], axis=1)
        parents = np.arange(size) // BRANCHING[level] if level else np.full(size, -1)
        tables[f"category_parents.{level}"] = parents.astype(np.int32)
        tables |= id_tables(f"category_ids.{level}", [f"{level}.{at}" for at in range(size)])
    torch.manual_seed(0)
    config = Config(dimension=dimension)
    model = HierSRec(Shape(1, sizes, text=False, numbers={}), config).eval()  # no graph holds an item
    about = {
        "item_id_type": "string" if strings else "int64",
        "category_id_type": "string",
        "items": rows,
        "dimension": dimension,
        "levels": [f"level {level}" for level in range(len(sizes))],
        "categories": sizes,
        "max_length": config.max_length,
        "candidate_share": 0.04,
        "preprocessing": {},
        "data": {},
        "metrics": {},
        "model": config.as_dict() | {"opset": OPSET, "ir_version": IR_VERSION},
    }
    click.echo(f"writing {path}…", err=True)
    write_bundle(
        path, about, tables, {"model.onnx": session_graph(model), "item_encoder.onnx": item_graph(model)}
    )


def resident() -> tuple[float, float]:
    """MB of this process that are in memory; and of them those that no file backs."""
    kinds = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    rss, anonymous = (int(kinds[kind].split()[0]) / 1024 for kind in ("Rss", "Anonymous"))
    return rss, anonymous


def measure(path: Path, calls: int) -> None:
    """In a fresh process."""
    before = resident()

    def say(what: str, said: str) -> None:
        rss, anonymous = (now - then for now, then in zip(resident(), before, strict=True))
        click.echo(f"{what:42} {said:42} resident + {rss:7,.0f} MB, of no file {anonymous:6,.0f} MB")

    started = time.perf_counter()
    recommender = Recommender.load(path, verify=False)
    say("load, not verified", f"{1e3 * (time.perf_counter() - started):,.0f} ms")
    catalog = recommender.catalog
    base = catalog.current
    n, random = len(catalog), np.random.default_rng(1)
    sessions = [list(base.ids(random.integers(0, n, 5))) for _ in range(calls)]

    def lap(what: str, call: Callable[[int], object], times: int) -> None:
        timed(call, min(times, 5))
        say(what, quantiles(timed(call, times)))

    lap("look up 5 ids", lambda at: base.rows(sessions[at]), calls)

    def recommend(at: int, share: float = 0.04) -> object:
        return recommender.recommend(sessions[at], candidates=share)

    lap("recommend, candidates 4 %", recommend, calls)
    lap("recommend, candidates 0.4 %", partial(recommend, share=0.004), calls)
    lap("recommend, exact", lambda at: recommender.recommend(sessions[at], mode="exact"), calls // 20)
    strings = recommender.config["item_id_type"] == "string"
    query = recommender.trace(sessions[0]).item_query
    leaf = recommender.recommend(sessions[0]).categories[0].category

    def seen(own: Any, length: int) -> float:
        """Milliseconds until an upsert of ``own``, by its vector better than all others, is recommended."""
        item = Item(own, leaf, vector=query * length)
        began = time.perf_counter()
        catalog.upsert([item])
        assert recommender.recommend(sessions[0])[0].item == own
        return 1e3 * (time.perf_counter() - began)

    new: Callable[[int], Any] = (lambda at: f"new-{at}") if strings else (lambda at: -1 - at)
    took = [seen(new(at), 10 + at) for at in range(20)]
    alone = timed(lambda at: catalog.upsert([Item(new(100 + at), leaf, vector=query)]), 200)
    say("upsert of a new item alone", quantiles(alone))
    say("upsert, until recommend shows it", f"first {took[0]:.1f} ms, median of 20 {np.median(took):.1f} ms")
    known = [base.ids(np.array([row]))[0] for row in random.integers(0, n, 20)]
    took = [seen(own, 40 + at) for at, own in enumerate(known)]
    say("the same of a known item", f"first {took[0]:.1f} ms, median of 20 {np.median(took):.1f} ms")
    say("set_bias of one", quantiles(timed(lambda at: catalog.set_bias([sessions[at][0]], 1.0), 20)))
    say("recommend, candidates 4 %, after that", quantiles(timed(recommend, calls)))
    table, bytes_of_id = base.item_vectors.nbytes, len(f"sku-{0:010d}") if strings else 8
    click.echo(f"item vectors {table / 2**20:,.0f} MB, ids {n * bytes_of_id / 2**20:,.0f} MB")


@click.command(help=__doc__)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder of the bundles.")
@click.option("--rows", default=10_000_000, show_default=True)
@click.option("--dimension", default=128, show_default=True)
@click.option("--strings", is_flag=True, help="Ids such as sku-0000000017, in place of integers.")
@click.option("--calls", default=200, show_default=True, help="Of recommend, each time.")
@click.option("--fresh", is_flag=True, hidden=True)
def main(work: Path, rows: int, dimension: int, strings: bool, calls: int, fresh: bool) -> None:
    ensure_one_thread()
    path = work / f"{rows}-{dimension}-{'strings' if strings else 'integers'}"
    if fresh:
        measure(path, calls)
        return
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        write(path, rows, dimension, strings)
    click.echo(f"{rows:,} items of {dimension} dimensions, ids are {'strings' if strings else 'int64'}")
    subprocess.run([sys.executable, "-m", "benchmarks.large", *sys.argv[1:], "--fresh"], check=True)


if __name__ == "__main__":
    main()
