"""Where a training step's time goes: ``python -m benchmarks.training_step DATA --out docs/results``.

DATA is the dataset folder of Diginetica, or another. The trainer's own steps, by torch.profiler. Beside each of the
three products with the whole catalog: what a plain ``torch.mm`` of the same shapes takes, by itself. On the CPU, first,
processes take turns that keep freed memory for the next step (``hiersrec_training/memory.py``) and that do not. Writes
``training_step.md``, or ``training_step_cuda.md``.

Take the machine for yourself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import click
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.studies.pages import write_page
from benchmarks.tables import table
from benchmarks.timing import timed
from hiersrec_training.batches import Batch, ahead
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.loop import Loop
from hiersrec_training.memory import keep_freed
from hiersrec_training.train import new_run

WARM_UP = 5  # steps before the clock starts
TIMES = 4  # that a product is taken between two looks at the clock
TURNS = 3  # of each way to treat freed memory
PRODUCTS, SOFTMAX, LOSS = "products with the catalog", "softmax over the catalog", "rest of the item loss"
VECTORS, ADAM, REST = "item vectors, smoothed, and back", "Adam", "session encoder, heads, all else"
PARTS = {  # operations whose time, with all that they call, makes a part; of the first, products and softmax are apart
    LOSS: ("_CatalogCrossEntropy", "_CatalogCrossEntropyBackward"),
    VECTORS: ("_SmoothUnit", "_SmoothUnitBackward"),
    ADAM: ("Optimizer.step#Adam.step",),
}


def steps_of(data: Dataset, steps: int, device: str = "cpu") -> tuple[Loop, list[Batch]]:
    """A trainer after its warm-up, and ``steps`` batches for it, from all over the epoch."""
    config = Config(sampled_above=data.items)
    loop = Loop(new_run(data, config, device), data, data.train, Path(), False, lambda line: None)
    loop.model.train()
    batches = list(islice(loop.batches.shuffled(config.seed, 0), WARM_UP + steps))
    take(loop, batches[:WARM_UP])
    return loop, batches[WARM_UP:]


def take(loop: Loop, batches: Sequence[Batch]) -> float:
    """Seconds of a step of each, one after the other. As in an epoch, a GPU has the next one made meanwhile."""
    each = map(loop._prepared, batches)
    begin = perf_counter()
    for prepared in ahead(each) if loop.device.type == "cuda" else each:
        losses = loop._step(prepared)
    finished([losses["loss"]])
    return perf_counter() - begin


def finished(results: list[Tensor]) -> list[Tensor]:
    """``results``, once a GPU has them, and all that it was told before."""
    if results[0].is_cuda:
        torch.cuda.synchronize()
    return results


def seconds_of_steps(path: Path, steps: int, device: str, keeps: bool) -> float:
    """Mean seconds of a step; ``keeps``: freed memory is kept."""
    with patch("hiersrec_training.loop.keep_freed", keep_freed if keeps else lambda: None):
        loop, batches = steps_of(Dataset.load(path), steps, device)
    return take(loop, batches) / len(batches)


def milliseconds_by_part(loop: Loop, batches: Sequence[Batch]) -> dict[str, float]:
    """Milliseconds of a step, by part; on a GPU the rest includes the time in which it has nothing to do."""
    items, on_gpu = loop.data.items, loop.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities, record_shapes=True) as profiled:
        total = take(loop, batches)
    found: Counter[str] = Counter()
    for event in profiled.key_averages(group_by_input_shape=True):
        if event.device_type.name != "CPU":  # a GPU's spans, whose operations are there too
            continue
        alone = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        shapes: list[Any] = event.input_shapes
        if event.key == "aten::mm" and any(items in shape for shape in shapes[:2]):
            found[PRODUCTS] += alone
        elif event.key == "aten::_softmax" and shapes[0][-1] == items:
            found[SOFTMAX] += alone
        for part, names in PARTS.items():
            if event.key in names:
                found[part] += event.device_time_total if on_gpu else event.cpu_time_total
    found[LOSS] -= found[PRODUCTS] + found[SOFTMAX]
    each = {part: found[part] / 1e3 / len(batches) for part in (PRODUCTS, SOFTMAX, *PARTS)}
    return each | {REST: 1e3 * total / len(batches) - sum(each.values())}


def plain_products(loop: Loop, batches: Sequence[Batch]) -> tuple[float, float]:
    """What the products of a step take by themselves: milliseconds, and their GFLOP."""
    dtype, items, d = loop.objective.dtype, loop.data.items, loop.config.dimension
    vectors = torch.randn(items, d, device=loop.device).to(dtype)
    seconds: dict[int, float] = {}
    total = operations = 0.0
    for batch in batches:
        positions = len(batch.target)
        if positions not in seconds:
            query = torch.randn(positions, d, device=loop.device).to(dtype)
            logits = query @ vectors.T
            seconds[positions] = sum(
                median(timed(product, 5)) / TIMES
                for product in (
                    lambda _, query=query: finished([query @ vectors.T for _ in range(TIMES)]),
                    lambda _, logits=logits: finished([logits @ vectors for _ in range(TIMES)]),
                    lambda _, logits=logits, query=query: finished([logits.T @ query for _ in range(TIMES)]),
                )
            )
        total += seconds[positions]
        operations += 3 * 2 * positions * items * d
    return 1e3 * total / len(batches), operations / len(batches) / 1e9


@click.command(help=__doc__)
@click.argument("path", metavar="DATA", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--steps", default=60, show_default=True, type=click.IntRange(1), help="Timed, after the warm-up."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the page.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
def main(path: Path, steps: int, out: Path, device: str) -> None:
    taken: dict[bool, list[float]] = {True: [], False: []} if device == "cpu" else {True: []}
    for _ in range(TURNS):
        for keeps, seconds in taken.items():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                seconds.append(pool.submit(seconds_of_steps, path, steps, device, keeps).result())
    loop, batches = steps_of(Dataset.load(path), steps, device)
    parts = milliseconds_by_part(loop, batches)
    plain, operations = plain_products(loop, batches)
    total = sum(parts.values())
    rows = [[part, f"{each:.1f}", f"{each / total:.0%}"] for part, each in parts.items()]
    rows.append(["a step, profiled", f"{total:.1f}", "100%"])
    kept, *others = (1e3 * median(each) for each in taken.values())
    given_back = f", and {others[0]:.1f} ms where freed memory goes back to the system" if others else ""
    on_gpu = device == "cuda"
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    positions = sum(len(batch.target) for batch in batches) / len(batches)
    precision = str(loop.objective.dtype).removeprefix("torch.")
    text = (
        f"{loop.data.items:,} items, {positions:.0f} positions a step in mean, {where}, the default configuration, "
        f"{steps} steps. Without the profiler a step takes {kept:.1f} ms{given_back} (medians of {TURNS} processes "
        f"each, in turn)."
        f"\n\nThe three products with the catalog are {operations:.1f} GFLOP a step in {precision}. By themselves, as "
        f"plain `torch.mm` of the same positions, they take {plain:.1f} ms: {operations / plain * 1e3:.0f} GFLOP a "
        "second."
    )
    command = (
        f"python -m benchmarks.training_step DATA --steps {steps}{' --device cuda' * on_gpu} --out {out}"
    )
    write_page(
        out,
        f"training_step{'_cuda' * on_gpu}",
        command,
        "A step of training",
        text,
        table(["part", "ms a step", "share"], rows),
    )


if __name__ == "__main__":
    main()
