"""The parts of a training step are found in the profile, and make up all of it."""

from __future__ import annotations

import pytest

from benchmarks.training_cost import simulated_log
from benchmarks.training_step import (
    ADAM,
    LOSS,
    PRODUCTS,
    SOFTMAX,
    VECTORS,
    milliseconds_by_part,
    plain_products,
    steps_of,
)


def test_every_part_takes_time() -> None:
    loop, batches = steps_of(simulated_log(400, 2_000), 3)
    parts = milliseconds_by_part(loop, batches)
    assert min(parts[name] for name in (PRODUCTS, SOFTMAX, LOSS, VECTORS, ADAM)) > 0
    positions = sum(len(batch.target) for batch in batches) / len(batches)
    milliseconds, operations = plain_products(loop, batches)
    assert milliseconds > 0
    assert operations == pytest.approx(6e-9 * positions * 400 * loop.config.dimension)
