from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_export import graphs
from hiersrec_export.export import trained_vectors
from hiersrec_export.graphs import SessionGraph, principal_axes, rotate, session_graph
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_training.covisitation import count_covisits
from hiersrec_training.data.dataset import Dataset
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
            *_, repeats, query = SessionGraph(model)(
                torch.from_numpy(vectors[session])[None], torch.tensor([length])
            )
        scores = vectors @ query[0].numpy()
        np.add.at(scores, session, repeats[0].numpy())
        scores += bias
        items, offsets = scorer.score_offsets(session)
        scores[items] += offsets
        result = recommender.recommend([ids[item] for item in session], k=data.items, mode="exact")
        np.testing.assert_allclose(result.scores, np.sort(scores)[::-1], atol=1e-4)
        found = dict(zip(result.items, result.scores.tolist(), strict=True))
        np.testing.assert_allclose([found[item_id] for item_id in ids], scores, atol=1e-4)


def test_a_graph_filled_with_weights_is_the_one_that_tracing_makes(
    tiny_run: Path, tiny_bundle: Path, traced_once: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests trace each architecture once, see tests/traced_once.py."""
    model, _ = load_model(tiny_run)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    axes = principal_axes(table(50, model.config.dimension, 1))
    filled = onnx.load_from_string(session_graph(model, axes)).graph
    monkeypatch.setattr(graphs, "_export", traced_once)
    traced = onnx.load_from_string(session_graph(model, axes)).graph
    assert filled.node == traced.node
    for one, other in zip(filled.initializer, traced.initializer, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(one), onnx.numpy_helper.to_array(other))
