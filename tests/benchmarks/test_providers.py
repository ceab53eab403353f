"""Providers are compared with the CPU, and timed in turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from benchmarks.providers import Difference, compared, main
from hiersrec_sdk import Recommender


def test_what_differs_is_counted(tiny_bundle: Path) -> None:
    recommender = Recommender.load(tiny_bundle)
    ids = list(recommender.catalog.ids(recommender.catalog.most_clicked(9)))
    wanted = [recommender.recommend([item]) for item in ids]
    assert compared(wanted, wanted) == Difference(0, 0.0)
    first = wanted[0]
    nearly = replace(first, scores=first.scores + np.abs(first.scores).max() * np.float32(1e-3))
    turned = replace(first, items=first.items[::-1])
    others, score = compared([first, first], [nearly, turned])
    assert others == 1
    assert abs(score - 1e-3) < 1e-6


def test_without_a_gpu_it_measures_the_cpu(tiny_bundle: Path, tiny_data: Path) -> None:
    options = [
        "--data",
        str(tiny_data),
        "--sessions",
        "40",
        "--batches",
        "8,16",
        "--threads",
        "1",
        "--rounds",
        "1",
    ]
    result = CliRunner().invoke(main, [str(tiny_bundle), *options])
    assert result.exit_code == 0, result.output
    assert "| threads | batch |" in result.stdout
    assert len([line for line in result.stdout.splitlines() if line.startswith("| 1 ")]) == 2
