"""What training costs as the catalog grows: ``python -m benchmarks.training_cost --out docs/results``.

On SIMULATED sessions and the CPU, with the default configuration and the trainer's own steps. Each catalog has a
process of its own: it counts the co-click graph, trains a number of steps, writes a checkpoint, ranks the validation
split and counts the co-visits; the co-visitation network is not fitted. Writes ``training_cost.md`` and ``.png``.

Take the machine for yourself; at five million items it wants 24 GB of memory and 20 GB of disk under --out for a while.
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import click
import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.studies.pages import Line, Panel, panels_picture, write_page
from benchmarks.tables import table
from benchmarks.timing import timed
from hiersrec_training import run
from hiersrec_training.config import Config
from hiersrec_training.covisitation import count_covisits
from hiersrec_training.data.dataset import CategoryTree, Dataset, Sessions
from hiersrec_training.loop import Loop
from hiersrec_training.neighbors import co_clicks
from hiersrec_training.train import new_run
from hiersrec_training.validation import evaluate_model

# steps before the clock starts; sampled, many: the moments of a row get their memory when a step first reaches it
WARM_UP = {"full": 5, "sampled": 50}
LEAST = 100  # items
LONGEST = 50  # clicks of a simulated session


COLUMNS = {  # of the table, with the format of each
    "items": ",",
    "softmax": "",
    "items clicked": ",",
    "items a step": ",",  # whose vectors it changes, here the last one
    "sessions a second": ",.0f",  # of training
    "graph, s": ".1f",
    "co-visits, s": ".1f",
    "checkpoint, s": ".1f",
    "ranked a second": ",.0f",  # positions of the validation split
    "peak memory, GB": ".1f",  # of the whole process
    "weights, MB": ",.0f",
}
Cost = dict[str, Any]
"""What one catalog and one softmax cost: by column, and the ``steps`` and ``threads``."""


def simulated_log(items: int, sessions: int, seed: int = 0) -> Dataset:
    """A SIMULATED data set, made directly as arrays: to measure costs with, never accuracy.

    Sessions of five clicks in mean over ``items`` in a category tree of two levels, without text or numbers. A fifth of
    the clicks go anywhere, by popularity (Zipf); the others stay near the click before, in its category.
    """
    random = np.random.default_rng(seed)
    leaves = max(1, min(1_000, items // 20))
    tops = max(1, min(40, leaves // 10))
    category = np.arange(items) * leaves // items  # of neighboring items the same
    starts = np.searchsorted(category, np.arange(leaves + 1))
    by_rank, popularity = random.permutation(items), np.cumsum(np.arange(1, items + 1) ** -0.9)

    def popular() -> NDArray[np.int64]:
        ranks = np.searchsorted(popularity, random.random(sessions) * popularity[-1])
        return np.asarray(by_rank[ranks])

    clicks = np.empty((sessions, LONGEST), np.int32)
    clicks[:, 0] = popular()
    for place in range(1, LONGEST):
        before = clicks[:, place - 1]
        near = before + random.integers(-10, 11, sessions)
        near = np.clip(near, starts[category[before]], starts[category[before] + 1] - 1)
        clicks[:, place] = np.where(random.random(sessions) < 0.2, popular(), near)
    lengths = np.minimum(1 + random.geometric(0.25, sessions), LONGEST)

    def split(part: slice) -> Sessions:
        there = np.arange(LONGEST) < lengths[part, None]
        return Sessions(clicks[part][there], np.concatenate([[0], lengths[part].cumsum()]))

    first = min(200, sessions // 10)
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, items)
    parents = [np.full(tops, -1, np.int32), (np.arange(leaves) * tops // leaves).astype(np.int32)]
    return Dataset(
        item_ids=pl.Series(np.arange(items)),
        category=category.astype(np.int32),
        extra_categories=[],
        clicks=np.bincount(clicks[np.arange(LONGEST) < lengths[:, None]], minlength=items),
        title=nothing,
        text=nothing,
        numbers={},
        tree=CategoryTree([list(range(tops)), list(range(leaves))], parents),
        train=split(slice(first, None)),
        validation=split(slice(first)),
        test=split(slice(0)),
    )


def measure(items: int, sampled: bool, sessions: int, steps: int, limit: float, scratch: Path) -> Cost:
    """Train ``steps``, or as many as begin within ``limit`` seconds; ``scratch``: folder for a checkpoint."""
    data = simulated_log(items, sessions)
    softmax = "sampled" if sampled else "full"
    config = Config(sampled_above=0 if sampled else items)
    (graph_seconds,) = timed(
        lambda _: co_clicks(data.train, items, config.neighbors, config.neighbor_window), 1
    )
    info = new_run(data, config, "cpu")
    with TemporaryDirectory(dir=scratch, prefix="training_cost-") as folder:
        loop = Loop(info, data, data.train, Path(folder), False, lambda line: None)
        loop.model.train()
        done = trained = 0
        began = perf_counter()
        warm_up = min(WARM_UP[softmax], len(loop.batches) // 2)
        for number, batch in enumerate(islice(loop.batches.shuffled(config.seed, 0), warm_up + steps)):
            if number <= warm_up:
                began = perf_counter()
            elif perf_counter() - began > limit:
                break
            loop._step(loop._prepared(batch))
            loop.state["step"] += 1
            if number >= warm_up:
                done, trained = done + 1, trained + len(batch.items)
        seconds = perf_counter() - began
        table = loop.model.items.item
        assert table is not None
        weight = table.weight
        assert weight.grad is not None
        rows = len(weight.grad.coalesce().values()) if sampled else items
        (checkpoint_seconds,) = timed(lambda _: loop._checkpoint(), 1)
        weights = (run.checkpoints(Path(folder))[-1] / "model.safetensors").stat().st_size
    validation = loop.validation
    assert validation is not None
    (ranking_seconds,) = timed(lambda _: evaluate_model(loop.model, loop.meta, validation), 1)
    (counts_seconds,) = timed(lambda _: count_covisits(data.train, items), 1)
    return {
        "items": items,
        "softmax": softmax,
        "items clicked": len(np.unique(data.train.items)),
        "items a step": rows,
        "sessions a second": trained / seconds,
        "graph, s": graph_seconds,
        "co-visits, s": counts_seconds,
        "checkpoint, s": checkpoint_seconds,
        "ranked a second": data.validation.example_count / ranking_seconds,
        "peak memory, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "weights, MB": weights / 1e6,
        "steps": done,
        "threads": info.threads,
    }


def in_a_process_of_its_own(items: int, sampled: bool, *rest: Any) -> Cost:
    """:func:`measure` there. Raises :class:`click.ClickException` where the process dies."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, items, sampled, *rest).result()
        except BrokenProcessPool:
            raise click.ClickException(
                f"the process with {items:,} items was killed: most likely it ran out of memory"
            ) from None


def as_text(costs: Sequence[Cost]) -> str:
    return table([*COLUMNS], [[format(cost[name], form) for name, form in COLUMNS.items()] for cost in costs])


def as_picture(costs: Sequence[Cost]) -> bytes:
    panels = []
    for column, says in (("sessions a second", "training sessions a second"), ("peak memory, GB",) * 2):
        lines = []
        for softmax, color in (("full", "tab:orange"), ("sampled", "tab:blue")):
            some = [cost for cost in costs if cost["softmax"] == softmax]
            xs, ys = [cost["items"] for cost in some], [cost[column] for cost in some]
            lines.append(Line(f"{softmax} softmax", xs, ys, color))
        panels.append(Panel([line for line in lines if line.x], "items", says, log=True, zero=True))
    return panels_picture(panels, "What training costs as the catalog grows (SIMULATED)")


def _sizes(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in value.split(",")})
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of integers such as 43000,500000") from None
    if not LEAST <= sizes[0] <= sizes[-1] < 2**31:
        raise click.BadParameter(f"a catalog must have {LEAST} to 2^31 - 1 items, got {value}")
    return sizes


@click.command(help=__doc__)
@click.option("--sizes", default="43000,500000,5000000", show_default=True, callback=_sizes, help="Items.")
@click.option("--sessions", default=200_000, show_default=True, type=click.IntRange(1_000), help="A catalog.")
@click.option(
    "--steps", default=150, show_default=True, type=click.IntRange(1), help="Timed, after the warm-up."
)
@click.option("--limit", default=180.0, show_default=True, help="Seconds of the steps, at most.")
@click.option(
    "--both-to", default=500_000, show_default=True, help="Larger catalogs have the sampled softmax only."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for table and picture.")
def main(sizes: list[int], sessions: int, steps: int, limit: float, both_to: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    costs = []
    for items in sizes:
        for sampled in (False, True) if items <= both_to else (True,):
            costs.append(in_a_process_of_its_own(items, sampled, sessions, steps, limit, out))
    text = (
        f"SIMULATED: {sessions:,} made-up sessions of five clicks in mean over each catalog; items with a category "
        f"of two levels and no text. On the CPU, threads: {costs[-1]['threads']}. The default configuration, but for "
        f"the softmax, which by default is sampled above {Config().sampled_above:,} items. {steps} steps timed, or as "
        f"many as begin within {limit:g} s; a sampled step reaches the items of its sessions and of its sample, and "
        f"their up to {Config().neighbors} neighbors. The peak of memory is that of a process that counts the graph, "
        "trains, writes a checkpoint, ranks validation examples among all items, and counts the co-visits; it does not "
        "fit the co-visitation network."
    )
    command = (
        f"python -m benchmarks.training_cost --sizes {','.join(map(str, sizes))} --sessions {sessions} \\\n"
    )
    command += f"    --steps {steps} --limit {limit:g} --both-to {both_to} --out {out}"
    write_page(out, "training_cost", command, "The cost of training", text, as_text(costs), as_picture(costs))


if __name__ == "__main__":
    main()
