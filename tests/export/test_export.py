from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hiersrec_export import IR_VERSION, OPSET
from hiersrec_export import export as export_module
from hiersrec_export.export import catalog_tables, export, trained_vectors
from hiersrec_export.graphs import item_graph, principal_axes, query_parts_graph, rotate, session_graph
from hiersrec_export.parity import Parity, check_item_parity, check_parity, check_query_parts
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.encoders.runtime import import_onnxruntime
from hiersrec_sdk.errors import (
    BundleError,
    CatalogChangeError,
    DataError,
    ExportError,
    ProviderError,
    RunError,
)
from hiersrec_training.batches import Batches
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.model import HierSRec, Metadata
from hiersrec_training.run import RunInfo, load_model
from hiersrec_training.train import train
from hiersrec_training.validation import evaluate_model
from tests.conftest import Exported, quiet


@pytest.fixture(scope="module")
def loaded(tiny_run: Path, tiny_data: Path) -> tuple[HierSRec, RunInfo, Dataset]:
    return *load_model(tiny_run), Dataset.load(tiny_data)


@pytest.fixture(scope="module")
def graphs(loaded: tuple[HierSRec, RunInfo, Dataset]) -> tuple[bytes, bytes]:
    """Session graph and item graph, not rotated."""
    return session_graph(loaded[0]), item_graph(loaded[0])


def test_the_graph_has_the_contract_s_names_and_dynamic_axes(graphs: tuple[bytes, bytes]) -> None:
    proto = onnx.load_from_string(graphs[0])
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {
        "session_vectors": ["batch", "length", 16],
        "session_lengths": ["batch"],
        "category_logits": ["batch", 8],
        "category_logits_0": ["batch", 2],
        "repeat_logits": ["batch", "length"],
        "item_query": ["batch", 16],
    }
    assert (proto.ir_version, [(entry.domain, entry.version) for entry in proto.opset_import]) == (
        IR_VERSION,
        [("", OPSET)],
    )


def test_graphs_name_no_file_of_the_machine_that_made_them(graphs: tuple[bytes, bytes]) -> None:
    root = str(Path(__file__).resolve().parents[2]).encode()
    for graph in graphs:
        assert root not in graph
        assert b".py" not in graph


def test_parity_holds_and_a_wrong_graph_is_caught(
    loaded: tuple[HierSRec, RunInfo, Dataset], graphs: tuple[bytes, bytes]
) -> None:
    model, info, data = loaded
    vectors = trained_vectors(model, info, data)
    graph = graphs[0]
    parity = check_parity(model, graph, vectors, data.validation)
    assert parity.sessions == 2 * sum(range(1, 65))
    assert set(parity.worst) == {"category_logits", "category_logits_0", "repeat_logits", "item_query"}
    for at, weights in enumerate(onnx.load_from_string(graph).graph.initializer):
        changed = onnx.numpy_helper.to_array(weights) * np.float32(1.01) + np.float32(1e-3)
        if weights.data_type == onnx.TensorProto.FLOAT and np.unique(changed).size > 1:
            proto = onnx.load_from_string(graph)
            proto.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
            with pytest.raises(ExportError, match="differ"):
                check_parity(model, proto.SerializeToString(), vectors, data.validation)


def test_a_wrong_item_encoder_is_caught(
    loaded: tuple[HierSRec, RunInfo, Dataset], graphs: tuple[bytes, bytes]
) -> None:
    model, info, data = loaded
    meta = Metadata.of(data, info.shape, info.config)
    graph = graphs[1]
    assert check_item_parity(model, graph, meta) < 1e-5
    proto = onnx.load_from_string(graph)
    weights = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed = onnx.numpy_helper.to_array(weights) + np.float32(0.01)
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    with pytest.raises(ExportError, match=r"item_encoder\.onnx"):
        check_item_parity(model, proto.SerializeToString(), meta)


def test_an_item_with_a_given_vector_keeps_it_through_the_export(
    make_dataset: Callable[..., Dataset], tiny_config: Config, tmp_path: Path
) -> None:
    data = make_dataset()
    vectors = 30 * np.random.default_rng(0).standard_normal((data.items, 5)).astype(np.float32)
    replace(data, vectors=vectors).save(tmp_path / "data")
    train(tmp_path / "data", tmp_path / "run", tiny_config, device="cpu", progress=False, report=quiet)
    model, info = load_model(tmp_path / "run")
    meta = Metadata.of(Dataset.load(tmp_path / "data"), info.shape, info.config)
    assert check_item_parity(model, item_graph(model), meta) < 1e-5
    export(tmp_path / "run", tmp_path / "bundle", report=quiet)
    assert open_bundle(tmp_path / "bundle").config["preprocessing"]["vectors"] == {"width": 5, "from": "file"}
    assert "vectors of width 5, from a file of the shop" in (tmp_path / "bundle/README.md").read_text()
    encoder = import_onnxruntime().InferenceSession(tmp_path / "bundle/item_encoder.onnx")
    inputs = {value.name: value for value in encoder.get_inputs()}
    assert (inputs["vectors"].type, inputs["vectors"].shape) == ("tensor(float)", ["items", 5])
    feed = {name: getattr(meta, name).numpy() for name in inputs}
    (found,) = encoder.run(None, feed)
    (bare,) = encoder.run(None, {**feed, "vectors": np.zeros_like(feed["vectors"])})
    assert np.abs(found - bare).max() > 0.01


def test_a_failed_parity_check_leaves_no_bundle(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: HierSRec, axes: NDArray[np.float32]) -> bytes:
        with torch.no_grad():
            model.session.item_head.bias.add_(0.01)
            graph = session_graph(model, axes)
            model.session.item_head.bias.sub_(0.01)
        return graph

    monkeypatch.setattr(export_module, "session_graph", wrong)
    with pytest.raises(ExportError, match="item_query"):
        export(tiny_run, tmp_path / "bundle", report=quiet)
    assert not list(tmp_path.iterdir())


def test_rows_follow_the_tree_and_ids_find_their_vectors(
    tiny_bundle: Path, loaded: tuple[HierSRec, RunInfo, Dataset]
) -> None:
    model, info, data = loaded
    catalog = Recommender.load(tiny_bundle).catalog
    vectors = trained_vectors(model, info, data)
    rows = catalog.rows(data.item_ids.to_list())
    assert sorted(rows.tolist()) == list(range(data.items))
    np.testing.assert_array_equal(catalog.base.table.vectors[rows], rotate(vectors, principal_axes(vectors)))
    np.testing.assert_array_equal(catalog.clicks_of(rows), data.clicks)
    assert np.array_equal(catalog.categories_of(rows), data.category)
    assert np.array_equal(catalog.categories_of(rows, 0), data.category // 4)
    assert catalog.category(1, 5).id == data.tree.ids[1][5]
    assert catalog.title(int(rows[7])) == "Item 7"
    for leaf in range(8):
        wanted = {int(rows[item]) for item, extra in enumerate(data.extra_categories) if leaf in extra}
        assert set(catalog.base.tables.extra_of(np.array([leaf])).tolist()) == wanted


def test_integer_ids_stay_integers(make_dataset: Callable[..., Dataset]) -> None:
    data = make_dataset(string_ids=False)
    tables = catalog_tables(data, np.zeros((data.items, 4), np.float32), np.zeros(data.items, np.float32))
    assert tables["item_ids"].dtype == np.int64
    assert sorted(tables["item_ids"].tolist()) == list(range(100, 148))


def test_the_item_encoder_gives_the_vectors_of_unseen_items(
    tiny_bundle: Path, loaded: tuple[HierSRec, RunInfo, Dataset]
) -> None:
    model, info, data = loaded
    meta = Metadata.of(data, info.shape, info.config)
    axes = principal_axes(trained_vectors(model, info, data))
    encoder = import_onnxruntime().InferenceSession(tiny_bundle / "item_encoder.onnx")
    names = [value.name for value in encoder.get_inputs()]
    inputs = {name: getattr(meta, name).numpy() for name in names}
    (found,) = encoder.run(["item_vectors"], inputs)
    with torch.no_grad():
        wanted = F.normalize(model.items.from_metadata(meta), dim=1).numpy() @ axes
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    one = {name: value[:1, :1] if name == "tokens" else value[:1] for name, value in inputs.items()}
    assert encoder.run(None, one)[0].shape == (1, 16)


def test_an_item_that_nobody_clicked_is_placed_by_its_metadata(
    make_dataset: Callable[..., Dataset], tiny_config: Config, tmp_path: Path
) -> None:
    data = make_dataset()
    unclicked = int(data.test.items[0])
    parts: dict[str, Any] = {}
    for name in ("train", "validation"):
        sessions = [
            [i for i in getattr(data, name)[s] if i != unclicked] for s in range(len(getattr(data, name)))
        ]
        sessions = [clicks for clicks in sessions if len(clicks) > 1]
        offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in sessions])]).astype(np.int64)
        parts[name] = data.train.__class__(np.concatenate(sessions).astype(np.int32), offsets)
    replace(data, **parts).save(tmp_path / "data")
    train(tmp_path / "data", tmp_path / "run", tiny_config, device="cpu", progress=False, report=quiet)
    model, info = load_model(tmp_path / "run")
    kept = Dataset.load(tmp_path / "data")
    with torch.no_grad():
        meta = Metadata.of(kept, info.shape, info.config)
        cold = F.normalize(model.items.from_metadata(meta), dim=1)[unclicked].numpy()
        assert model.items.item is not None
        model.items.item.weight[unclicked] += 10
    np.testing.assert_array_equal(trained_vectors(model, info, kept)[unclicked], cold)
    batches = Batches(kept.validation, info.config.max_length, info.config.batch_sessions)
    assert evaluate_model(model, meta, batches) == info.metrics  # nor does it disturb the validation


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (Parity(64, {"item_query": 3e-6}), "on cuda too: 3.0e-06"),
        (
            Parity(64, {"item_query": 2e-3}),
            "warning: PyTorch and onnxruntime on cuda differ by 2.0e-03, above 1e-04: do not serve",
        ),
        (ProviderError("there is no driver"), "not compared on cuda: there is no driver"),
    ],
)
def test_other_providers_are_compared_and_never_keep_a_bundle_from_the_cpu(
    there: Parity | Exception, said: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compared(*arguments: Any, provider: str = "cpu", **options: Any) -> Parity:
        if provider == "cpu":
            return check_parity(*arguments, **options)
        if isinstance(there, Exception):
            raise there
        return there

    lines: list[str] = []
    monkeypatch.setattr(export_module, "available_providers", lambda: ("cpu", "cuda"))
    monkeypatch.setattr(export_module, "check_parity", compared)
    export(tiny_run, tmp_path / "bundle", report=lines.append)
    assert [line for line in lines if line.startswith(said)]
    Recommender.load(tmp_path / "bundle")


def test_each_step_is_named_before_it_begins(tiny_export: Exported) -> None:
    assert [line.split()[0] for line in tiny_export.steps] == [
        "preparing",
        "checking",
        "calibrating",
        "writing",
    ]


def test_the_model_card_and_the_config_say_what_was_trained(tiny_bundle: Path, tiny_config: Config) -> None:
    config = open_bundle(tiny_bundle).config
    assert config["model"]["dimension"] == tiny_config.dimension
    assert config["metrics"]["validation"]["mrr@20"] > 0
    graphs = {"model.onnx", "item_encoder.onnx", "query_parts.onnx"}
    assert set(config["files"]) == {*graphs, "catalog.safetensors", "README.md", "calibration.png"}
    card = (tiny_bundle / "README.md").read_text()
    assert f"{config['metrics']['validation']['mrr@20']:.4f}" in card
    assert "48 items" in card
    assert not any(path.suffix in (".pkl", ".pt") for path in tiny_bundle.iterdir())


@pytest.mark.parametrize(
    ("inputs", "known"), [("id category", set()), ("id text", {"text"}), ("numbers category", {"numbers"})]
)
@pytest.mark.slow
def test_the_bundle_knows_the_metadata_that_the_model_reads(
    inputs: str, known: set[str], tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    """Items added later may have no other: it would be taken and have no effect."""
    config = replace(tiny_config, epochs=1, covisitation=False, item_inputs=inputs)
    train(tiny_data, tmp_path / "run", config, device="cpu", progress=False, report=quiet)
    export(tmp_path / "run", tmp_path / "bundle", report=quiet)
    recommender = Recommender.load(tmp_path / "bundle")
    preprocessing = recommender.config["preprocessing"]
    assert {name for name, about in preprocessing.items() if about} == set(known)
    for name, value in (("text", "word1 group2"), ("numbers", {"price": 3.0})):
        given: dict[str, Any] = {"id": f"new {name}", "category": "left.1", name: value}
        if name in known:
            recommender.catalog.upsert([given])
        else:
            with pytest.raises(CatalogChangeError, match=f"the model was not trained with {name}"):
                recommender.catalog.upsert([given])


def test_errors_say_what_is_wrong(
    tiny_run: Path, tiny_bundle: Path, tmp_path: Path, make_dataset: Callable[..., Dataset]
) -> None:
    def attempt(message: str, error: type[Exception], run: Path, out: Path, **options: Any) -> None:
        with pytest.raises(error, match=message):
            export(run, out, report=quiet, **options)

    attempt("exists already", BundleError, tiny_run, tiny_bundle)
    attempt("is not a training run", RunError, tmp_path, tmp_path / "bundle")
    attempt("is not a dataset", DataError, tiny_run, tmp_path / "bundle", data_path=tmp_path)
    make_dataset(seed=3).save(tmp_path / "other")
    attempt("not the data set", ExportError, tiny_run, tmp_path / "bundle", data_path=tmp_path / "other")
    assert not (tmp_path / "bundle").exists()


@torch.no_grad()
def test_what_is_no_number_does_not_pass_for_parity(tiny_run: Path, tiny_data: Path) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    vectors = trained_vectors(model, info, data)
    graph, parts = session_graph(model), query_parts_graph(model)
    with pytest.raises(ExportError, match=r"the parts of the query differ from it by nan"):
        check_query_parts(
            graph, parts, np.full_like(vectors, np.nan), data.validation, info.config.max_length
        )
    for weight in model.items.category.parameters():
        weight.fill_(torch.nan)
    meta = Metadata.of(data, info.shape, info.config)
    with pytest.raises(ExportError, match=r"differ by nan \(relative\) in item_encoder\.onnx"):
        check_item_parity(model, item_graph(model), meta)
