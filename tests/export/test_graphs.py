"""The exported graphs answer as the model does, whatever its architecture; rotation keeps scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_export.export import trained_vectors
from hiersrec_export.graphs import item_graph, principal_axes, query_parts_graph, rotate, session_graph
from hiersrec_export.parity import check_item_parity, check_parity, check_query_parts
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_training.config import Config
from hiersrec_training.covisitation import count_covisits
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.model import HierSRec, Metadata, Shape
from hiersrec_training.run import load_model


def table(items: int, d: int, seed: int) -> NDArray[np.float32]:
    """Rows that vary much more along some directions than along others."""
    random = np.random.default_rng(seed)
    spread = random.standard_normal((d, d)) * np.geomspace(1, 1e-3, d)
    return (random.standard_normal((items, d)) @ spread.T).astype(np.float32)


@given(st.integers(1, 40), st.integers(1, 16), st.integers(0, 1000))
def test_scores_stay_and_the_first_dimensions_hold_most(items: int, d: int, seed: int) -> None:
    vectors = table(items, d, seed)
    axes = principal_axes(vectors)
    np.testing.assert_allclose(axes.T @ axes, np.eye(d), atol=1e-6)  # with fewer items than dimensions too
    rotated = rotate(vectors, axes)
    assert rotated.dtype == np.float32
    query = np.random.default_rng(seed).standard_normal((1, d)).astype(np.float32)
    scale = np.linalg.norm(query) * np.linalg.norm(vectors, axis=1).max()
    np.testing.assert_allclose(rotated @ rotate(query, axes)[0], vectors @ query[0], atol=1e-5 * scale)
    moments = np.square(rotated.astype(np.float64)).sum(axis=0)
    assert np.all(moments[1:] <= moments[:-1] + 1e-6 * moments.sum())


def test_equal_tables_have_equal_axes_whatever_their_order() -> None:
    vectors = table(50, 8, 1)
    axes = principal_axes(vectors)
    np.testing.assert_allclose(principal_axes(vectors[::-1]), axes, atol=1e-5)
    np.testing.assert_array_equal(principal_axes(vectors), axes)
    assert np.all(axes[np.abs(axes).argmax(axis=0), np.arange(8)] > 0)


def test_a_table_of_zeros_has_axes() -> None:
    axes = principal_axes(np.zeros((3, 5), np.float32))
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-6)


@pytest.mark.parametrize("length", [1, 3, 6])
def test_a_rotated_bundle_ranks_as_the_model_does(
    tiny_bundle: Path, tiny_run: Path, tiny_data: Path, length: int
) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    vectors = trained_vectors(model, info, data)
    stored = open_bundle(tiny_bundle).tables["item_vectors"]
    moments = np.square(stored.astype(np.float64)).sum(axis=0)
    assert np.all(moments[1:] <= moments[:-1] + 1e-6)
    recommender = Recommender.load(tiny_bundle)
    scorer, bias = model.covisitation.exported(count_covisits(data.train, data.items))
    ids = data.item_ids.to_list()
    for start in range(8):
        session = data.test.items[start * 7 : start * 7 + length].astype(np.int64)
        with torch.no_grad():
            served = model.serve(torch.from_numpy(vectors[session])[None], torch.tensor([length]))
        scores = vectors @ served.query[0].numpy()
        np.add.at(scores, session, served.repeats[0].numpy())
        scores += bias
        items, offsets = scorer.score_offsets(session)
        scores[items] += offsets
        result = recommender.recommend([ids[item] for item in session], k=data.items, mode="exact")
        np.testing.assert_allclose(result.scores, np.sort(scores)[::-1], atol=1e-4)
        found = dict(zip(result.items, result.scores.tolist(), strict=True))
        np.testing.assert_allclose([found[item_id] for item_id in ids], scores, atol=1e-4)


def random_model(shape: Shape, config: Config) -> HierSRec:
    """A model none of whose weights is 0 or 1."""
    torch.manual_seed(0)
    model = HierSRec(shape, config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
        model.covisitation.scale.fill_(0.8)
    return model


@pytest.mark.parametrize("conditioning", ["all", "top", "leaf", "none"])
@pytest.mark.parametrize(("sizes", "layers", "heads"), [([5], 1, 4), ([2, 5], 2, 1), ([1, 3, 7], 1, 2)])
@pytest.mark.slow
def test_graphs_of_any_architecture_answer_as_pytorch(
    conditioning: str, sizes: list[int], layers: int, heads: int
) -> None:
    config = Config(
        dimension=16, layers=layers, heads=heads, max_length=7, category_conditioning=conditioning
    )
    model = random_model(Shape(items=9, categories=sizes, text=False, numbers={}), config)
    vectors = F.normalize(torch.randn(9, 16), dim=1).numpy()
    axes = principal_axes(vectors)
    sessions = Sessions(np.arange(9, dtype=np.int32), np.array([0, 2, 9]))
    for rotation in (None, axes):
        graph, parts = session_graph(model, rotation), query_parts_graph(model, rotation)
        assert max(check_parity(model, graph, vectors, sessions, rotation).worst.values()) < 1e-5
        assert check_query_parts(graph, parts, rotate(vectors, rotation), sessions, 7) < 1e-5


@pytest.mark.parametrize(
    "inputs", ["id", "category", "text", "numbers", "vectors", "category text numbers vectors", "id text"]
)
def test_the_item_graph_places_an_item_by_the_metadata_that_the_model_reads(
    inputs: str, make_dataset: Callable[..., Dataset], tiny_config: Config
) -> None:
    data, config = make_dataset(), replace(tiny_config, item_inputs=inputs)
    vectors = np.random.default_rng(0).standard_normal((data.items, 5)).astype(np.float32)
    vectors[::4] = 0
    data = replace(data, vectors=vectors)
    shape = Shape.of(data, config)
    model = random_model(shape, config)
    graph, meta = item_graph(model), Metadata.of(data, shape, config)
    read = {"category_path"} | {
        name
        for given, name in (("text", "tokens"), ("numbers", "number_bins"), ("vectors", "vectors"))
        if given in inputs.split()
    }
    assert {value.name for value in onnx.load_from_string(graph).graph.input} == read
    assert check_item_parity(model, graph, meta) < 1e-5
