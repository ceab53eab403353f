"""What training costs as the catalogue grows: ``python -m benchmarks.training_cost --out docs/results``.

On SIMULATED sessions and the CPU, with the default configuration and the trainer's own steps. Each catalogue has a
process of its own: it counts the co-click graph, trains a number of steps, writes a checkpoint, ranks the validation
part and counts the links of the wide part, which is not fitted. Writes ``training_cost.md`` and ``training_cost.png``.

Take the machine for yourself; at five million items it wants 24 GB of memory and 20 GB of disk under --out for a while.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice, pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import click
from tqdm import tqdm

from benchmarks.simulated_log import simulated_log
from benchmarks.studies.pages import Line, Panel, panels_picture, table, write_page
from hiersrec_training import run
from hiersrec_training.config import Config
from hiersrec_training.links import links_of
from hiersrec_training.neighbours import co_clicks
from hiersrec_training.train import _Loop, evaluate_model, new_run

# steps before the clock starts; sampled, many: the moments of a row get their memory when a step first reaches it
WARM_UP = {"full": 5, "sampled": 50}
LEAST = 100  # items
T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Of one catalogue and one softmax. ``clicked``: items with a click; ``rows``: items that a step changes, here the
    last one; ``speed``: training sessions a second; ``ranked``: positions a second, ranked in validation; ``peak``, of
    the whole process, and ``weights``: bytes."""

    items: int
    clicked: int
    softmax: str
    steps: int
    rows: int
    speed: float
    graph_seconds: float
    links_seconds: float
    checkpoint_seconds: float
    ranked: float
    peak: int
    weights: int
    threads: int


def measure(items: int, sampled: bool, sessions: int, steps: int, limit: float, scratch: Path) -> Cost:
    """Train ``steps``, or as many as begin within ``limit`` seconds; ``scratch``: folder for a checkpoint."""
    data = simulated_log(items, sessions)
    softmax = "sampled" if sampled else "full"
    config = Config(sampled_above=0 if sampled else items)
    graph_seconds, _ = _timed(
        lambda: co_clicks(data.train, items, config.neighbours, config.neighbour_window)
    )
    info = new_run(data, config, "cpu")
    with TemporaryDirectory(dir=scratch, prefix="training_cost-") as folder:
        loop = _Loop(info, data, data.train, Path(folder), False, lambda line: None)
        loop.model.train()
        done = trained = 0
        began = time.perf_counter()
        warm_up = min(WARM_UP[softmax], len(loop.batches) // 2)
        batches = islice(loop.batches.shuffled(config.seed, 0), warm_up + steps)
        total = min(len(loop.batches), warm_up + steps)
        bar = tqdm(batches, f"{items:,} items, {softmax}", total, unit="step", disable=None)  # on a terminal
        for number, batch in enumerate(bar):
            if number <= warm_up:
                began = time.perf_counter()
            elif time.perf_counter() - began > limit:
                break
            loop._step(batch)
            loop.state["step"] += 1
            if number >= warm_up:
                done, trained = done + 1, trained + len(batch.items)
        bar.close()
        seconds = time.perf_counter() - began
        table = loop.model.items.item
        assert table is not None
        gradient = table.weight.grad
        assert gradient is not None
        rows = len(gradient.coalesce().values()) if sampled else items
        checkpoint_seconds, _ = _timed(loop._checkpoint)
        weights = (run.checkpoints(Path(folder))[-1] / "model.safetensors").stat().st_size
    valid = loop.valid
    assert valid is not None
    ranking_seconds, _ = _timed(lambda: evaluate_model(loop.model, loop.meta, valid))
    links_seconds, links = _timed(lambda: links_of(data.train, items))
    return Cost(
        items=items,
        clicked=int((links.popularity[:, -1] > 0).sum()),
        softmax=softmax,
        steps=done,
        rows=rows,
        speed=trained / seconds,
        graph_seconds=graph_seconds,
        links_seconds=links_seconds,
        checkpoint_seconds=checkpoint_seconds,
        ranked=data.valid.cases / ranking_seconds,
        peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        weights=weights,
        threads=info.threads,
    )


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def in_a_process_of_its_own(items: int, sampled: bool, *rest: Any) -> Cost:
    """:func:`measure` there. Raises :class:`click.ClickException` where the process dies."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(measure, items, sampled, *rest).result()
        except BrokenProcessPool:
            raise click.ClickException(
                f"the process with {items:,} items was killed: most likely it ran out of memory"
            ) from None


def as_table(costs: Sequence[Cost]) -> str:
    head = [
        "items",
        "softmax",
        "items clicked",
        "items a step",
        "sessions a second",
        "graph, s",
        "links, s",
        "checkpoint, s",
        "ranked a second",
        "peak memory, GB",
        "weights, MB",
    ]
    rows = [
        [
            f"{cost.items:,}",
            cost.softmax,
            f"{cost.clicked:,}",
            f"{cost.rows:,}",
            f"{cost.speed:,.0f}",
            f"{cost.graph_seconds:.1f}",
            f"{cost.links_seconds:.1f}",
            f"{cost.checkpoint_seconds:.1f}",
            f"{cost.ranked:,.0f}",
            f"{cost.peak / 1e9:.1f}",
            f"{cost.weights / 1e6:,.0f}",
        ]
        for cost in costs
    ]
    return table(head, rows)


def as_words(costs: Sequence[Cost]) -> str:
    """What the table says."""
    said = []
    by_items: dict[int, dict[str, Cost]] = {}
    for cost in costs:
        by_items.setdefault(cost.items, {})[cost.softmax] = cost
    for both in by_items.values():
        if len(both) == 2:
            times = both["sampled"].speed / both["full"].speed
            said.append(
                f"At {both['full'].items:,} items the sampled softmax trains {times:.2f} times as fast."
            )
    sampled = [both["sampled"] for both in by_items.values() if "sampled" in both]
    for few, many in pairwise(sampled):
        longer, more = few.speed / many.speed, (many.peak - few.peak) / (many.items - few.items)
        said.append(
            f"From {few.items:,} to {many.items:,} items a sampled step takes {longer:.2f} times as long, and the peak "
            f"of memory grows by {more / 1e3:.1f} kB an item."
        )
    return " ".join(said)


def as_picture(costs: Sequence[Cost]) -> bytes:
    def lines(value: Callable[[Cost], float]) -> list[Line]:
        found = []
        for softmax, color in (("full", "tab:orange"), ("sampled", "tab:blue")):
            some = [cost for cost in costs if cost.softmax == softmax]
            if some:
                found.append(
                    Line(f"{softmax} softmax", [c.items for c in some], [value(c) for c in some], color)
                )
        return found

    return panels_picture(
        [
            Panel(lines(lambda cost: cost.speed), "items", "training sessions a second", log=True, zero=True),
            Panel(lines(lambda cost: cost.peak / 1e9), "items", "peak memory, GB", log=True, zero=True),
        ],
        "What training costs as the catalogue grows (SIMULATED)",
    )


def _sizes(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in value.split(",")})
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 43000,500000") from None
    if not LEAST <= sizes[0] <= sizes[-1] < 2**31:
        raise click.BadParameter(f"a catalogue has from {LEAST} to 2^31 - 1 items, not {value}")
    return sizes


@click.command(help=__doc__)
@click.option(
    "--sizes",
    default="43000,500000,5000000",
    show_default=True,
    callback=_sizes,
    help="Items of each catalogue.",
)
@click.option(
    "--sessions", default=200_000, show_default=True, type=click.IntRange(1_000), help="Of each catalogue."
)
@click.option(
    "--steps", default=150, show_default=True, type=click.IntRange(1), help="Timed, after the warm-up."
)
@click.option("--limit", default=180.0, show_default=True, help="Seconds of the steps, at most.")
@click.option(
    "--both-to",
    default=500_000,
    show_default=True,
    help="Catalogues up to this size train with the full and with the sampled softmax, larger ones with the sampled.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder for the table and the picture."
)
def main(sizes: list[int], sessions: int, steps: int, limit: float, both_to: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    costs = []
    for items in sizes:
        for sampled in (False, True) if items <= both_to else (True,):
            costs.append(in_a_process_of_its_own(items, sampled, sessions, steps, limit, out))
    text = (
        f"SIMULATED: {sessions:,} made-up sessions of five clicks in mean over each catalogue; items with a category "
        f"of two levels and no text. On the CPU, threads: {costs[-1].threads}. The default configuration, but for the "
        f"softmax, which by default is sampled above {Config().sampled_above:,} items. {steps} steps timed, or as many "
        f"as begin within {limit:g} s; a sampled step reaches the items of its sessions and of its sample, and their "
        f"up to {Config().neighbours} neighbours. The peak of memory is that of a process that counts the graph, "
        "trains, writes a checkpoint, ranks validation cases among all items, and counts the links; it does not fit "
        "the wide part."
    )
    command = (
        f"python -m benchmarks.training_cost --sizes {','.join(map(str, sizes))} --sessions {sessions} \\\n"
    )
    command += f"    --steps {steps} --limit {limit:g} --both-to {both_to} --out {out}"
    write_page(
        out,
        "training_cost",
        command,
        "The cost of training",
        f"{text}\n\n{as_words(costs)}".rstrip(),
        as_table(costs),
        as_picture(costs),
    )


if __name__ == "__main__":
    main()
