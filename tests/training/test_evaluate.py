"""The SDK's evaluation against PyTorch's: one protocol, two implementations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.bundle.write import write_bundle
from hiersrec_sdk.catalog.ids import id_tables
from hiersrec_sdk.errors import EmptyLogError
from hiersrec_training import covisitation
from hiersrec_training.batches import Batches
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.evaluate import _rank, evaluate
from hiersrec_training.model import Metadata
from hiersrec_training.run import load_model
from hiersrec_training.scored_examples import collect
from hiersrec_training.validation import evaluate_model


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> Dataset:
    return Dataset.load(tiny_data)


@pytest.fixture(scope="module")
def recommender(tiny_bundle: Path) -> Recommender:
    return Recommender.load(tiny_bundle)


@pytest.fixture
def encoder_alone(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The bundle without item biases and co-visitation scorer."""
    bundle = open_bundle(tiny_bundle)
    tables = {
        name: table
        for name, table in bundle.tables.items()
        if name != "item_bias" and not name.startswith("covisitation.")
    }
    config = {name: value for name, value in bundle.config.items() if name not in ("files", "sha256")}
    files = {name: (tiny_bundle / name).read_bytes() for name in bundle.config["files"]}
    del files["catalog.safetensors"]
    write_bundle(tmp_path / "bundle", config, tables, files)
    return tmp_path / "bundle"


def test_exact_mode_has_the_metrics_of_pytorch(
    tiny_run: Path, encoder_alone: Path, data: Dataset, recommender: Recommender
) -> None:
    model, info = load_model(tiny_run)
    assert model.covisitation.fitted
    # windows of sessions longer than the model are cut elsewhere, so compare on sessions that fit
    short = data.test.lengths <= info.config.max_length
    kept = [data.test[int(index)] for index in np.flatnonzero(short)]
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in kept])]).astype(np.int64)
    test = data.test.__class__(np.concatenate(kept), offsets)
    fitting = Dataset(**{**vars(data), "test": test})
    meta = Metadata.of(data, info.shape, info.config)
    found = evaluate(recommender, fitting, "test", mode="exact")
    assert found["examples"] == test.example_count
    covisits = covisitation.count_covisits(data.train, data.items)
    wanted = covisitation.measure(
        model.covisitation, covisits, collect(model, meta, covisits, test), slice(None)
    )
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=2e-2), name  # features are kept in float16 for fitting
    bare = evaluate(Recommender.load(encoder_alone), fitting, "test", mode="exact")
    for name, value in evaluate_model(model, meta, Batches(test, 6, 16)).items():
        assert bare[name] == pytest.approx(value, abs=1e-9), name
    assert bare["mrr@20"] != found["mrr@20"]
    assert found["candidate_coverage"] == 1
    assert found["rows_scored"] == data.items


def test_candidates_never_find_more_than_they_cover(data: Dataset, recommender: Recommender) -> None:
    exact = evaluate(recommender, data, "test", mode="exact")
    few = evaluate(recommender, data, "test", candidates=0.2)
    assert few["examples"] == exact["examples"] == data.test.example_count
    assert few["recall@20"] <= few["candidate_coverage"] <= 1
    assert few["rows_scored"] < exact["rows_scored"]
    assert few["category_accuracy_1"] == exact["category_accuracy_1"]
    assert few["candidates"] == 0.2
    every = evaluate(recommender, data, "test", candidates=1.0)
    assert {name: every[name] for name in exact if "@" in name} == {
        name: exact[name] for name in exact if "@" in name
    }


def test_a_tie_ranks_behind_its_equals(recommender: Recommender, data: Dataset) -> None:
    result = recommender.recommend(data.item_ids.to_list()[:2], k=6)
    tied = replace(result, scores=np.array([5, 4, 4, 4, 2, 1], dtype=np.float32))
    assert [_rank(tied, item) for item in result.items] == [1, 4, 4, 4, 5, 6]
    assert _rank(tied, "not there") == 0


def test_a_catalog_without_some_of_the_items(tiny_bundle: Path, data: Dataset) -> None:
    """A target that was removed is a miss, and has no category."""
    fewer = Recommender.load(tiny_bundle)
    targets = data.item_ids.to_list()[data.test.items[-1]]
    fewer.catalog.remove([targets])
    found = evaluate(fewer, data, "test")
    assert found["unknown_targets"] > 0
    assert found["recall@20"] < 1
    assert 0 < found["category_accuracy_0"] <= 1 - found["unknown_targets"] / found["examples"]


def test_an_empty_split_is_an_error(recommender: Recommender, data: Dataset) -> None:
    nothing = data.test.__class__(data.test.items[:0], data.test.offsets[:1])
    with pytest.raises(EmptyLogError, match="test split"):
        evaluate(recommender, Dataset(**{**vars(data), "test": nothing}), "test")


def test_category_accuracy_tells_categories_of_one_id_apart(
    tiny_bundle: Path, tmp_path: Path, data: Dataset, recommender: Recommender
) -> None:
    bundle = open_bundle(tiny_bundle)
    config = {name: value for name, value in bundle.config.items() if name not in ("files", "sha256")}
    files = {name: (tiny_bundle / name).read_bytes() for name in bundle.config["files"]}
    del files["catalog.safetensors"]
    repeated = id_tables("category_ids.1", ["a", "b", "c", "d"] * 2)
    write_bundle(tmp_path / "bundle", config, bundle.tables | repeated, files)
    found, wanted = evaluate(Recommender.load(tmp_path / "bundle"), data), evaluate(recommender, data)
    assert found["category_accuracy_1"] == wanted["category_accuracy_1"] < 1
