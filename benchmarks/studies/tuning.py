"""Settings of the baselines, chosen on the validation split as ours are.

What was tried is kept in a file, and not tried again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.studies.models import MODELS, Settings, fit
from hiersrec_training.baselines import KINDS, baseline, evaluate_baseline
from hiersrec_training.data.dataset import Dataset, Sessions

GRID: list[dict[str, Any]] = [
    {"dropout": dropout, "learning_rate": rate} for rate in (2e-3, 5e-3) for dropout in (0.25, 0.45)
]  # of the neural baselines
SPACE: Mapping[str, tuple[float, ...]] = {
    "recent": (500, 1000, 5000),
    "neighbors": (50, 100, 500, 1000),
    "click_decay": (1.5, 3.0, 10.0, float("inf")),
    "age_decay": (0.25, 0.5, 1.0, float("inf")),
    "position_decay": (1.0, 3.0, 5.0, 10.0),
    "match_decay": (2.0, 5.0, 20.0),
    "rarity": (0.1, 0.3, 1.0),
    "reach": (3, 5, 10),
}
SAMPLE = 2_000  # validation sessions that a draw is measured on


class Tried:
    """``file`` holds a JSON object a line: name, settings, fingerprint of the ``data``, and the metrics that they gave.
    Processes may share it."""

    def __init__(self, file: Path, data: Dataset) -> None:
        self.file, self.data = file, data.fingerprint

    def once(self, name: str, settings: dict[str, Any], measure: Callable[[], Any]) -> Any:
        """What ``measure()`` gave for ``settings``, now or before."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        for line in map(json.loads, lines):
            if (line["name"], line["settings"], line.get("data")) == (name, settings, self.data):
                return line["metrics"]
        metrics = measure()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            line = {"name": name, "settings": settings, "data": self.data, "metrics": metrics}
            file.write(json.dumps(line) + "\n")
        return metrics


def digest(bundle: Path) -> str:
    """SHA-256 of all that a bundle holds."""
    return str(json.loads((bundle / "config.json").read_text("utf-8"))["sha256"])


def tune_neural(name: str, data: Dataset, epochs: int, tried: Tried, newest: int) -> tuple[Settings, int]:
    """The best of ``GRID`` by MRR@20 on the validation split, and its best epoch, counted from 1.

    Trained on the ``newest`` so many training sessions.
    """
    newest = min(newest, len(data.train))
    found = []
    for options in GRID:
        settings = replace(Settings(epochs=epochs), **options)
        train = partial(
            train_and_measure, name, settings, data.train.newest(newest), data.items, data.validation
        )
        metrics = tried.once(f"tune {name} on {newest}", asdict(settings), train)
        found += [(epoch["mrr@20"], at, settings) for at, epoch in enumerate(metrics, 1)]
        click.echo(
            f"{name}, {options}: MRR@20 {[round(100 * epoch['mrr@20'], 2) for epoch in metrics]}", err=True
        )
    _, at, settings = max(found, key=lambda row: row[0])
    return settings, at


def train_and_measure(
    name: str,
    settings: Settings,
    sessions: Sessions,
    items: int,
    measured: Sessions,
    until: int | None = None,
) -> list[dict[str, float]]:
    """:func:`fit` of the neural baseline ``name``, with products in the precision that ours are trained with."""
    native = torch.cpu.get_capabilities().get("avx512_bf16", False)
    dtype = torch.bfloat16 if native else torch.float32
    return fit(
        MODELS[name], settings, sessions, items, measured, dtype, until=until, progress=sys.stderr.isatty()
    )


def tune_counting(name: str, data: Dataset, draws: int, tried: Tried) -> dict[str, float]:
    """The best options of a baseline without gradients, by MRR@20 on 2,000 validation sessions: its defaults, or one
    of ``draws`` random ones."""
    defaults = KINDS[name][1]
    some = np.sort(np.random.default_rng(0).permutation(len(data.validation))[:SAMPLE])
    clicks = [data.validation[int(index)] for index in some]
    offsets = np.concatenate([[0], np.cumsum([len(each) for each in clicks])]).astype(np.int64)
    sample = Sessions(np.concatenate(clicks), offsets)
    random = np.random.default_rng(1)
    options = [dict(defaults)]
    if defaults:
        options += [{key: float(random.choice(SPACE[key])) for key in defaults} for _ in range(draws)]
    found = []
    for each in options:
        metrics = tried.once(
            f"tune {name} on {len(sample)}", each, partial(_measure, name, each, data, sample)
        )
        found.append((metrics["mrr@20"], each))
    best = max(found, key=lambda row: row[0])
    click.echo(
        f"{name}: MRR@20 {100 * found[0][0]:.2f} by default, {100 * best[0]:.2f} with {best[1]}", err=True
    )
    return best[1]


def _measure(name: str, options: dict[str, float], data: Dataset, sample: Sessions) -> dict[str, float]:
    return evaluate_baseline(baseline(name, data.train, data.items, options), sample)
