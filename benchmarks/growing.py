"""What a growing session costs: ``python -m benchmarks.growing RUN BUNDLE --data DATA``.

One thread, medians. By the length of the session: the session encoder's whole graph, as the bundle has it, and a graph
that reads the newest click alone beside what it kept of the ones before (keys, values, states' weights and vectors),
which gives the same answer as long as no click has left the window of ``max_length``. Then whole calls: ``recommend``
with all clicks, and ``session.add(click).recommend()``, which keeps the rows of the clicks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks.one_thread import ensure_one_thread
from benchmarks.vectors.sessions import cases
from hiersrec_export import OPSET
from hiersrec_export.graphs import session_graph
from hiersrec_sdk import Recommender, Session
from hiersrec_sdk.encoders.session_encoder import load_graph
from hiersrec_training.model import HierSRec
from hiersrec_training.run import load_model

LENGTHS = (1, 2, 5, 10, 20, 35, 50)


class StepGraph(nn.Module):
    """The session encoder for one more click. What it keeps of T earlier ones, oldest first: of each layer keys and
    values [2, heads, T, d / heads], what each state weighs [T], and the item vectors [T, d]."""

    def __init__(self, model: HierSRec) -> None:
        super().__init__()
        self.session, self.scale = model.session, model.wide.scale

    def forward(
        self, vector: Tensor, kept: Sequence[Tensor], weights: Tensor, vectors: Tensor
    ) -> tuple[Tensor, ...]:
        """From the newest item's vector [1, d] and what was kept: the answer, and what is to be kept."""
        session: Any = self.session
        d = vector.shape[1]
        x = vector * d**0.5
        distance = torch.arange(weights.shape[0], -1, -1)  # of each click, the newest last
        later = []
        for block, old in zip(session.blocks, kept, strict=True):
            attention: Any = block.attention
            q, k, v = attention.qkv(block.norm_attention(x)).view(3, attention.heads, 1, d // attention.heads)
            both = torch.cat([old, torch.stack([k, v])], dim=2)
            scores = q @ both[0].transpose(-1, -2) / (d // attention.heads) ** 0.5
            mixed = (scores + attention.distance[:, distance][:, None]).softmax(-1) @ both[1]
            x = x + attention.out(mixed.reshape(1, d))
            x = x + block.mlp(block.norm_mlp(x))
            later.append(both)
        state = session.norm(x)
        weights = torch.cat([weights, session.weigh(state)[0]])
        vectors = torch.cat([vectors, vector])
        own = (weights + session.weigh_distance[distance]).softmax(0)[None] @ vectors
        answer = session.answer(state, own)
        repeats = answer.repeats[0, distance] * self.scale
        return (answer.category_logits[-1], repeats, answer.query * self.scale, *later, weights, vectors)


def step_graph(model: HierSRec) -> bytes:
    d, heads, layers = model.config.dimension, model.config.heads, model.config.layers
    time = Dim("clicks", max=model.config.max_length - 1)
    kept = [torch.zeros(2, heads, 3, d // heads) for _ in range(layers)]
    program = torch.onnx.export(
        StepGraph(model).eval(),
        (torch.zeros(1, d), kept, torch.zeros(3), torch.zeros(3, d)),
        dynamic_shapes=(None, [{2: time}] * layers, {0: time}, {0: time}),
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def empty_step(model: HierSRec) -> list[Any]:
    """What the step graph keeps before the first click."""
    d, heads = model.config.dimension, model.config.heads
    kept = [np.zeros((2, heads, 0, d // heads), np.float32) for _ in range(model.config.layers)]
    return [*kept, np.zeros(0, np.float32), np.zeros((0, d), np.float32)]


def grow(session: Session, item: Any) -> None:
    session.add(item).recommend()
    session.undo()


def medians(calls: Sequence[Callable[[], object]], times: int) -> list[float]:
    """Microseconds of each; they take turns."""
    laps: list[list[float]] = [[] for _ in calls]
    for _ in range(times):
        for lap, call in zip(laps, calls, strict=True):
            started = time.perf_counter()
            call()
            lap.append(time.perf_counter() - started)
    return [1e6 * float(np.median(lap)) for lap in laps]


@click.command(help=__doc__)
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--data", type=click.Path(path_type=Path, exists=True), required=True, help="Data set, for its sessions."
)
@click.option("--times", default=1_000, show_default=True, help="Calls of each kind.")
def main(run: Path, bundle: Path, data: Path, times: int) -> None:
    ensure_one_thread()
    model, _ = load_model(run)
    d = model.config.dimension
    whole = load_graph(session_graph(model), "the whole graph", ("cpu",), 1)
    step = load_graph(step_graph(model), "the step graph", ("cpu",), 1)
    names = [value.name for value in step.get_inputs()]
    outputs = [value.name for value in step.get_outputs()]
    recommender = Recommender.load(bundle)
    items = [own for ids in cases(recommender, data, 40, 0, 5) for own in recommender.catalog.ids(ids)]
    vectors = np.random.default_rng(0).standard_normal((max(LENGTHS), d), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = empty_step(model)
    click.echo(
        "clicks   whole graph   one more click   recommend   session.add().recommend()   worst difference"
    )
    for length in range(1, model.config.max_length + 1):
        feeds = {"session_vectors": vectors[None, :length], "session_lengths": np.array([length])}
        more = dict(zip(names, [vectors[length - 1 : length], *kept], strict=True))
        logits, repeats, query, *later = step.run(outputs, more)
        if length in LENGTHS:
            wanted = whole.run(["category_logits", "repeat_logits", "item_query"], feeds)
            worst = max(
                float(np.abs(one.ravel() - other.ravel()).max() / np.abs(other).max())
                for one, other in zip((logits, repeats, query), wanted, strict=True)
            )
            growing = recommender.session(items[: length - 1])

            calls = (
                partial(whole.run, None, feeds),
                partial(step.run, None, more),
                partial(recommender.recommend, items[:length]),
                partial(grow, growing, items[length - 1]),
            )
            took = medians(calls, times)
            click.echo(
                f"{length:6} {took[0]:10,.0f} µs {took[1]:13,.0f} µs {took[2]:8,.0f} µs {took[3]:24,.0f} µs"
                f"{worst:19.1e}"
            )
        kept = later


if __name__ == "__main__":
    main()
