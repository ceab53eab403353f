"""Latency of ``recommend``: one session of 1, 5 or 20 clicks, k = 20, the exported graph with random weights.

A random catalog, d = 128, of 1,000 leaf categories; ``candidates`` is 4 % of it. Each round asks for
the next of 200 random sessions.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.training_cost import simulated_log
from benchmarks.vectors import isotropic
from hiersrec_export.export import catalog_tables
from hiersrec_export.graphs import session_graph
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.write import write_bundle
from hiersrec_sdk.options import Mode
from hiersrec_training.config import Config
from hiersrec_training.model import HierSRec, Shape

K = 20


@pytest.fixture(scope="module", params=[43_097, 1_000_000], ids="{:_}".format)
def recommender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    write_random_bundle(path, request.param)
    return Recommender.load(path)


def write_random_bundle(path: Path, items: int) -> None:
    """A bundle of random vectors and an untrained model, from a seed."""
    torch.manual_seed(0)
    config, data = Config(), simulated_log(items, 1_000)
    # The graph holds no item, so the model needs no table of them.
    model = HierSRec(Shape(items=1, categories=data.tree.sizes, text=False, numbers={}), config)
    settings = {
        "item_id_type": "int64",
        "category_id_type": "int64",
        "items": items,
        "dimension": config.dimension,
        "levels": ["department", "aisle"],
        "categories": data.tree.sizes,
        "max_length": config.max_length,
        "candidate_share": 0.04,
        "model": config.as_dict(),
        **{name: {} for name in ("preprocessing", "data", "metrics")},
    }
    tables = catalog_tables(data, isotropic(items, config.dimension, 0.04, 1, 0).vectors)
    write_bundle(path, settings, tables, {"model.onnx": session_graph(model)})


@pytest.mark.parametrize("mode", ["candidates", "exact"])
@pytest.mark.parametrize("length", [1, 5, 20])
def test_recommend(benchmark: BenchmarkFixture, recommender: Recommender, length: int, mode: Mode) -> None:
    items = len(recommender.catalog)
    benchmark.group = f"recommend {mode}, {items:,} rows"
    rows = np.random.default_rng(1).integers(0, items, (200, length))
    sessions = cycle([list(recommender.catalog.ids(some)) for some in rows])
    example = recommender.recommend(next(sessions), K, mode=mode)
    benchmark.extra_info |= {"rows_scored": example.rows_scored, "bytes_read": example.bytes_read}

    result = benchmark.pedantic(
        lambda session: recommender.recommend(session, K, mode=mode),
        setup=lambda: ((next(sessions),), {}),
        rounds=20 if example.rows_scored > 100_000 else 400,
        warmup_rounds=5,
    )

    assert len(result) == K


def test_recommend_many(benchmark: BenchmarkFixture, recommender: Recommender) -> None:
    items, random = len(recommender.catalog), np.random.default_rng(1)
    benchmark.group = f"recommend_many, 256 sessions of 1 to 20 clicks, {items:,} rows"
    rows = [random.integers(0, items, random.integers(1, 21)) for _ in range(256)]
    sessions = [list(recommender.catalog.ids(some)) for some in rows]

    results = benchmark.pedantic(recommender.recommend_many, (sessions, K), rounds=3, warmup_rounds=1)

    assert [len(result) for result in results] == [K] * len(sessions)
