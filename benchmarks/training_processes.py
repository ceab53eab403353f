"""What a second process brings to training: ``python -m benchmarks.training_processes DATA --out docs/results``.

DATA is the dataset folder of Diginetica. One process with two threads and two with one thread each take turns at the
same steps, without dropout, so that their losses can be compared. Then the same at five million SIMULATED items with
the sampled softmax, and what these figures come to on paper for 1e9 clicks on 8 GPUs. Writes
``training_processes.md``.

Take the machine for yourself: its loopback traffic is counted. At five million items it wants 12 GB of memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import click
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.studies.pages import write_page
from benchmarks.tables import table
from benchmarks.training_cost import simulated_log
from hiersrec_training.batches import Batch
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.distributed import ALONE, Ranks
from hiersrec_training.launch import launch
from hiersrec_training.loop import Loop
from hiersrec_training.train import new_run

BLOCK = 10  # steps of one, then of the other
SPARE = 2  # of each block, not timed: the caches are the other's
PROCESSES = 2

# on paper
CLICKS, CLICKS_A_SESSION, GPUS = 1e9, 5, 8
LINKS = {"NVLink, 450 GB/s": 450e9, "PCIe 4 or 200 Gbit/s, 25 GB/s": 25e9}


@dataclass
class Pace:
    """What steps took in one process and in several, and what those sent."""

    items: int
    softmax: str
    precision: str
    batch_sessions: int
    alone: list[float]  # seconds of each step
    shared: list[float]
    one_window: list[float]  # seconds of steps of a single window, in one process with one thread
    differences: list[float]  # of the losses, relative
    rows: list[int]  # of the item table that a step changes
    table_bytes: float  # of the item table's gradient that each rank hands over, a step
    other_bytes: float
    sent_bytes: float  # that each rank sends, a step


class Counter:
    """Counts the bytes of the tensors that are handed over to be summed or gathered."""

    def __init__(self) -> None:
        self.large = self.small = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        reduce, gather = dist.all_reduce, dist.all_gather

        def counted(call: Callable[..., Any], at: int) -> Callable[..., Any]:
            def counts(*args: Any, **options: Any) -> Any:
                tensor: Tensor = args[at]
                size = tensor.numel() * tensor.element_size()
                if tensor.numel() > 1 << 20 or at:  # the item table's, or the numbers of its rows
                    self.large += size
                else:
                    self.small += size
                return call(*args, **options)

            return counts

        dist.all_reduce, dist.all_gather = counted(reduce, 0), counted(gather, 1)
        try:
            yield
        finally:
            dist.all_reduce, dist.all_gather = reduce, gather


def loopback() -> int:
    """Bytes that were sent over the loopback device since the machine was started."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == "lo":
            return int(figures.split()[8])
    raise click.ClickException("there is no loopback device to count the traffic of")


def pace(
    data_path: Path | None,
    items: int,
    config: Config,
    steps: int,
    ranks: Ranks,
    report: Callable[[str], None],
) -> Pace:
    """Take ``steps`` in one process and in several, in turns.

    ``data_path``: None simulates a log over ``items``, and takes the steps in several processes alone, for want of
    memory.
    """
    data = simulated_log(items, 200_000) if data_path is None else Dataset.load(data_path)
    softmax = "sampled" if config.is_sampled(data.items) else "full"
    report(f"{data.items:,} items, {softmax} softmax, batches of {config.batch_sessions:,} sessions")
    shared = _loop(data, config, ranks)
    alone = _loop(data, config, ALONE) if ranks.is_first and data_path is not None else None
    threads, batches = torch.get_num_threads(), _batches(shared)
    found = Pace(
        data.items, softmax, shared.info.precision, config.batch_sessions, [], [], [], [], [], 0, 0, 0
    )
    counter, sent, taken = Counter(), 0, 0
    for _ in range(steps // BLOCK):
        block = [next(batches) for _ in range(BLOCK)]
        losses: list[float] = []
        if alone is not None:
            torch.set_num_threads(threads * ranks.size)
            losses = _take(alone, block, found.alone, [])
            torch.set_num_threads(threads)
        ranks.once(lambda: None)  # the others wait here for rank 0
        before = loopback()
        with counter.counting():
            together = _take(shared, block, found.shared, found.rows)
        sent, taken = sent + loopback() - before, taken + BLOCK
        pairs = zip(losses, together, strict=False)
        found.differences += [abs(one - other) / one for one, other in pairs]
    if alone is not None:  # last, since it changes the weights
        _take(alone, [batch.every(len(batch.items), 0) for batch in block], found.one_window, [])
    found.table_bytes, found.other_bytes = counter.large / taken, counter.small / taken
    found.sent_bytes = sent / taken / ranks.size
    return found


def _rows(loop: Loop) -> int:
    table = loop.model.items.item
    assert table is not None
    assert table.weight.grad is not None
    return table.weight.grad._nnz() if table.weight.grad.is_sparse else len(table.weight)


def _loop(data: Dataset, config: Config, ranks: Ranks) -> Loop:
    info = new_run(data, config, "cpu", ranks)
    with TemporaryDirectory() as folder:
        loop = Loop(info, data, data.train, Path(folder), False, lambda line: None, ranks)
    loop.model.train()
    return loop


def _batches(loop: Loop) -> Iterator[Batch]:
    return chain.from_iterable(loop.batches.shuffled(loop.config.seed, epoch) for epoch in count())


def _take(loop: Loop, batches: Sequence[Batch], laps: list[float], rows: list[int]) -> list[float]:
    """Take a step of each; returns the losses.

    Adds the seconds of those after the first few to ``laps``, and of each the rows that it changes to ``rows``.
    """
    losses = []
    for at, batch in enumerate(batches):
        began = perf_counter()
        losses.append(loop._step(loop._prepared(batch))["loss"].item())
        if at >= SPARE:
            laps.append(perf_counter() - began)
        rows.append(_rows(loop))
        loop.state["step"] += 1
    return losses


def speeds(paces: Sequence[Pace]) -> str:
    """One process with all threads, beside several that share them."""
    rows = []
    for one in paces:
        alone, shared, fixed = (float(np.median(laps)) for laps in (one.alone, one.shared, one.one_window))
        rows.append(
            [
                f"{one.items:,}",
                one.softmax,
                one.precision,
                f"{one.batch_sessions:,}",
                f"{1 / alone:.2f}",
                f"{1 / shared:.2f}",
                f"{alone / shared:.2f}",
                f"{fixed * 1e3:,.0f}",
                f"{max(one.differences):.1e}",
            ]
        )
    head = [
        "items",
        "softmax",
        "precision",
        "sessions a step",
        "1 process, steps/s",
        f"{PROCESSES} processes, steps/s",
    ]
    return table([*head, "ratio", "fixed, ms", "largest difference of a loss"], rows, text=3)


def traffic(paces: Sequence[Pace]) -> str:
    """What each rank sends in a step."""
    rows = []
    for one in paces:
        rows.append(
            [
                f"{one.items:,}",
                one.softmax,
                f"{one.batch_sessions:,}",
                f"{np.mean(one.rows):,.0f}",
                *(f"{size / 1e6:,.2f}" for size in (one.table_bytes, one.other_bytes, one.sent_bytes)),
                f"{one.items * 4 * Config().dimension / 1e6:,.0f}",
            ]
        )
    head = [
        "items",
        "softmax",
        "sessions a step",
        "rows changed",
        "item table, MB",
        "the rest, MB",
        "sent, MB",
    ]
    return table([*head, "whole table, MB"], rows, text=2)


def on_paper() -> str:
    """A step of 8 GPUs over catalogs that are clicked by 1e9 clicks: computed, never run."""
    config = Config()
    row, index = 4 * config.dimension, 8
    state = (
        3 * row + 2 * 4 * config.neighbors + index * 2
    )  # weights, moments, neighbors and counts, categories
    sessions = CLICKS / CLICKS_A_SESSION
    ring = 2 * (GPUS - 1) / GPUS
    rows = []
    for items in (10_000_000, 100_000_000):
        for batch in (1_024, 8_192):
            # no item twice, and every item with all its neighbors: so many at most
            reached = min(items, (batch * CLICKS_A_SESSION + config.samples) * (1 + config.neighbors))
            own = min(items, (batch / GPUS * CLICKS_A_SESSION + config.samples) * (1 + config.neighbors))
            kinds = {
                "every card has all": (items * state, ring * reached * row + (GPUS - 1) * own * index),
                "row-wise shards": (items * state / GPUS, (GPUS - 1) / GPUS * own * (index + 2 * row)),
                "dense all-reduce": (items * state, ring * items * row),
            }
            for kind, (memory, sent) in kinds.items():
                steps = sessions / batch
                minutes = [f"{sent * steps / speed / 60:,.1f}" for speed in LINKS.values()]
                figures = [f"{memory / 1e9:,.0f}", f"{sent / 1e6:,.0f}", f"{steps:,.0f}", *minutes]
                rows.append([f"{items:,}", kind, f"{batch:,}", *figures])
    head = ["items", "item table", "sessions a step", "GB a card", "MB sent a step", "steps an epoch"]
    return table([*head, *(f"minutes an epoch: {name}" for name in LINKS)], rows, text=2)


TEXT = """
Measured on {cpus} CPU cores, over gloo. Not run on a GPU.

**One process with {cpus} threads beside {ranks} processes with {each} each**, in turns of {block} steps: the default
configuration, without dropout, since the masks of several ranks are not those of one process. Medians of the steps,
but for the first {spare} of each turn. *Fixed*: a step of a single window in one process with {each} of the threads.
That part, which is the vectors of all items and their update, every rank does for itself. *Largest difference*: of
the loss of one step in one process and in several, relative, over all steps. Sums in another order are rounded
otherwise.
"""

SENT = """
**What a rank sends in a step**, of {ranks}. *Item table* and *the rest* are the sizes of the gradients that it hands
over; *sent* is what the machine's loopback device carried, by rank. With N ranks, a sum along a ring sends 2 (N - 1)
/ N times the size, and indices are sent N - 1 times. *Whole table*: what a dense sum would hand over. Catalogs of
more than {above:,} items train with the sampled softmax, here on SIMULATED sessions.
"""

PAPER = """
**On paper: {clicks:,.0f} clicks on {gpus} GPUs.** This part is computed from the sizes above, and was not run.
Sessions have {length} clicks. A step reaches at most its clicks and {samples:,} sampled items, each with its
{neighbors} neighbors. A row is {row} bytes; with moments, neighbors and categories an item takes {state:,} bytes of
a card. *Every card has all* is what this project does: the values of the reached rows are summed along a ring, and
their indices gathered. *Row-wise shards* is TorchRec's way for what one card does not hold: each row and its moments
are on one card; a card asks the owners for the rows that its share reaches, and sends their gradients back. *Dense
all-reduce* is what this project avoids. An H100 holds 80 GB: 100 million items need shards. Minutes are of traffic
alone, at the full speed of the link in each direction, with nothing of it hidden behind the computation. What a GPU
computes meanwhile was not measured.
"""


@click.command(help=__doc__)
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--steps", default=20, show_default=True, type=click.IntRange(BLOCK), help="On DATA.")
@click.option(
    "--batches", default="128,512", show_default=True, help="Sessions a step on DATA; more take fewer steps."
)
@click.option(
    "--items", default=5_000_000, show_default=True, type=click.IntRange(300_000), help="SIMULATED."
)
@click.option(
    "--simulated-steps", default=10, show_default=True, type=click.IntRange(BLOCK), help="On those."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the page.")
def main(data: Path, steps: int, batches: str, items: int, simulated_steps: int, out: Path) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    usual = Config(dropout=0.0)
    sizes = [int(size) for size in batches.split(",")]
    jobs = [
        (data, 0, replace(usual, batch_sessions=size), max(BLOCK, steps * sizes[0] // size)) for size in sizes
    ]
    jobs.append((data, 0, replace(usual, batch_sessions=sizes[0], precision="float32"), steps))
    real = [launch(PROCESSES, partial(pace, *job), click.echo, "cpu") for job in jobs]
    simulated = launch(PROCESSES, partial(pace, None, items, usual, simulated_steps), click.echo, "cpu")
    cpus = torch.get_num_threads()
    config = Config()
    written = [
        TEXT.format(
            cpus=cpus, ranks=PROCESSES, each=cpus // PROCESSES, block=BLOCK, spare=SPARE, steps=steps
        ),
        speeds(real),
        SENT.format(ranks=PROCESSES, above=config.sampled_above),
        traffic([real[0], simulated]),
        PAPER.format(
            clicks=CLICKS,
            gpus=GPUS,
            length=CLICKS_A_SESSION,
            samples=config.samples,
            neighbors=config.neighbors,
            row=4 * config.dimension,
            state=12 * config.dimension + 8 * config.neighbors + 16,
        ),
        on_paper(),
    ]
    text, *parts = (part.strip() for part in written)
    command = f"python -m benchmarks.training_processes DATA --steps {steps} --batches {batches} \\\n"
    command += f"    --items {items} --simulated-steps {simulated_steps} --out {out}"
    tables = "\n\n".join(parts)
    write_page(out, "training_processes", command, "Training with several processes", text, tables)


if __name__ == "__main__":
    main()
