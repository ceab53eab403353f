"""Latency of ``recommend``: one session of 1, 5 or 20 clicks, k = 20, the exported graph with random weights.

A random catalogue, d = 128, of 1,000 leaf categories of uneven size; ``candidates`` is 4 % of it. Each round asks for
the next of 200 random sessions.
"""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from hiersrec_export.graphs import session_graph
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import write_bundle
from hiersrec_sdk.catalog.ids import id_tables, item_id_tables
from hiersrec_sdk.options import Mode
from hiersrec_sdk.ranking import Codes
from hiersrec_training.config import Config
from hiersrec_training.model import HierSRec, Shape

CATEGORIES = [20, 150, 1_000]
K = 20


@pytest.fixture(scope="module", params=[43_097, 1_000_000], ids="{:_}".format)
def recommender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    write_random_bundle(path, request.param)
    return Recommender.load(path)


def write_random_bundle(path: Path, items: int) -> None:
    """A bundle of random vectors and an untrained model, from a seed."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    config = Config()
    # The graph holds no item, so the model needs no table of them.
    model = HierSRec(Shape(items=1, categories=CATEGORIES, text=False, numbers={}), config)
    vectors = random.standard_normal((items, config.dimension), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tables: dict[str, NDArray[Any]] = {
        "item_vectors": vectors,
        **Codes.of(vectors).tables(),
        "clicks": random.integers(0, 1_000, items),
        **item_id_tables(random.permutation(10 * items)[:items].tolist()),
    }
    weights = random.pareto(1.5, CATEGORIES[-1]) + 0.1
    edges = np.round(np.cumsum([0, *weights]) / weights.sum() * items).astype(np.int64)
    for level in reversed(range(len(CATEGORIES))):
        size = CATEGORIES[level]
        above = CATEGORIES[level - 1] if level else 1
        parents = np.sort(random.permutation(np.arange(size) % above))
        tables[f"category_ranges.{level}"] = np.stack([edges[:-1], edges[1:]], axis=1)
        tables[f"category_parents.{level}"] = (parents if level else np.full(size, -1)).astype(np.int32)
        tables |= id_tables(f"category_ids.{level}", range(size))
        edges = edges[np.searchsorted(parents, np.arange(above + 1))]
    settings = {
        "item_id_type": "int64",
        "category_id_type": "int64",
        "items": items,
        "dimension": config.dimension,
        "levels": ["department", "aisle", "shelf"],
        "categories": CATEGORIES,
        "max_length": config.max_length,
        "candidate_share": 0.04,
        "model": config.as_dict(),
        "preprocessing": {},
        "data": {"name": "random"},
        "metrics": {},
    }
    write_bundle(path, settings, tables, {"model.onnx": session_graph(model)})


@pytest.mark.parametrize("mode", ["candidates", "exact"])
@pytest.mark.parametrize("length", [1, 5, 20])
def test_recommend(benchmark: BenchmarkFixture, recommender: Recommender, length: int, mode: Mode) -> None:
    items = len(recommender.catalog)
    benchmark.group = f"recommend {mode}, {items:,} rows"
    rows = np.random.default_rng(1).integers(0, items, (200, length))
    sessions = cycle([list(recommender.catalog.ids(own)) for own in rows])
    example = recommender.recommend(next(sessions), K, mode=mode)
    benchmark.extra_info |= {
        "backend": recommender.backend,
        "rows_scored": example.rows_scored,
        "bytes_read": example.bytes_read,
    }

    rounds = 20 if example.rows_scored > 100_000 else 400
    result = benchmark.pedantic(
        lambda session: recommender.recommend(session, K, mode=mode),
        setup=lambda: ((next(sessions),), {}),
        rounds=rounds,
        warmup_rounds=5,
    )

    assert len(result) == K


def test_recommend_many(benchmark: BenchmarkFixture, recommender: Recommender) -> None:
    items = len(recommender.catalog)
    benchmark.group = f"recommend_many, 256 sessions of 1 to 20 clicks, {items:,} rows"
    random = np.random.default_rng(1)
    sessions = [
        list(recommender.catalog.ids(random.integers(0, items, random.integers(1, 21)))) for _ in range(256)
    ]

    results = benchmark.pedantic(recommender.recommend_many, (sessions, K), rounds=3, warmup_rounds=1)

    assert [len(result) for result in results] == [K] * len(sessions)
