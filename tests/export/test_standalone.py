"""One ONNX file answers as the recommender does in mode "exact"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from hiersrec_export import IR_VERSION, OPSET, standalone
from hiersrec_export.standalone import export_standalone, padded
from hiersrec_export.standalone_graph import Tables, standalone_graph
from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.bundle.write import write_bundle
from hiersrec_sdk.cli.main import main
from hiersrec_sdk.encoders.runtime import import_onnxruntime
from hiersrec_sdk.errors import BundleMissingError, ExportError
from hiersrec_sdk.ranking.covisitation import FEATURES, REACH
from tests.sdk.bundles import ITEMS, MAX_LENGTH, Shop, make_shop


def quiet(line: str) -> None:
    pass


class Both:
    """A bundle as a recommender and as a standalone model."""

    def __init__(self, bundle: Path, out: Path) -> None:
        export_standalone(bundle, out, report=quiet)
        self.path = out
        self.recommender = Recommender.load(bundle)
        self.catalog = self.recommender.catalog.current
        self.ids = Tables.of(self.catalog).ids
        self.model = import_onnxruntime().InferenceSession(out, providers=["CPUExecutionProvider"])
        self.about = self.model.get_modelmeta().custom_metadata_map
        strings = isinstance(self.ids[0], str)
        self.padding: Any = self.about["padding"] if strings else int(self.about["padding"])

    def run(self, sessions: Any, k: int) -> dict[str, Any]:
        names = [value.name for value in self.model.get_outputs()]
        feed = {"session": sessions, "k": np.array([k], dtype=np.int64)}
        return dict(zip(names, self.model.run(names, feed), strict=True))

    def compare(self, sessions: Sequence[Sequence[Any]], k: int, tolerance: float) -> None:
        """Every answer to ``sessions``, padded at their ends; ``tolerance`` 0: they are the same to the last bit."""
        found = self.run(padded(sessions, self.padding), k)
        for at, session in enumerate(sessions):
            real = [item_id for item_id in session if item_id != self.padding]
            result = self.recommender.recommend(real, k, mode="exact")
            assert found["known"][at] == len(real) - result.unknown_ids
            scores, items = found["scores"][at], found["items"][at].tolist()
            assert scores.dtype == np.float32
            limit = tolerance * max(1.0, float(np.abs(result.scores).max()))
            np.testing.assert_allclose(scores, result.scores, rtol=0, atol=limit)
            longer = self.recommender.recommend(real, k + 1, mode="exact").scores
            apart = np.abs(np.diff(longer)) > limit
            sure = np.append(True, apart)[: len(items)] & np.append(apart, True)[: len(items)]
            if not tolerance:
                sure[:] = True
            assert [item_id for item_id, is_sure in zip(items, sure, strict=True) if is_sure] == [
                item_id for item_id, is_sure in zip(result.items, sure, strict=True) if is_sure
            ]
            shown = result.categories
            chances = [hit.probability for hit in shown] or [0] * found["probabilities"].shape[1]
            np.testing.assert_allclose(found["probabilities"][at], chances, rtol=1e-4, atol=1e-6)
            if shown and np.abs(np.diff(chances)).min(initial=1) > 1e-5:
                assert found["categories"][at].tolist()[:-1] == [hit.category for hit in shown][:-1]


def with_all_features(shop: Shop) -> Shop:
    """A shop whose co-visitation scorer reads every feature."""
    assert shop.covisitation is not None
    random = np.random.default_rng(5)
    weight, shift, out = (
        random.standard_normal(shape).astype(np.float32) for shape in ((FEATURES, 7), (7,), (8,))
    )
    return replace(
        shop, covisitation=replace(shop.covisitation, hidden_weight=weight, hidden_bias=shift, weight=out)
    )


# Scores of all but the last are exact in float32, in any order of the sums.
SHOPS = {
    "bare": make_shop(full=False),
    "bare strings": make_shop("string", seed=1, full=False, covisitation=True),
    "full": make_shop(seed=2),
    "full strings": make_shop("string", seed=3, covisitation=True),
    "no bias": replace(make_shop("string", seed=4, covisitation=True), bias=None),
    "features": with_all_features(make_shop(seed=6, covisitation=True)),
}
LONGEST = {"features": REACH + 4}  # of which the older ones link to nothing


def write(name: str, path: Path) -> Path:
    shop = SHOPS[name]
    config = shop.config | {"max_length": LONGEST.get(name, MAX_LENGTH)}
    write_bundle(path, config, shop.tensors, shop.files)
    return path


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    folder = tmp_path_factory.mktemp("shops")
    return {name: Both(write(name, folder / name), folder / f"{name}.onnx") for name in SHOPS}


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tiny_bundle, tmp_path_factory.mktemp("tiny") / "model.onnx")


def sessions_of(
    ids: Sequence[Any], strangers: Sequence[Any], longest: int
) -> st.SearchStrategy[list[list[Any]]]:
    few = st.sampled_from(ids[:4])  # so that items stand in a session more than once
    one = st.lists(st.sampled_from(ids) | few | st.sampled_from(strangers), max_size=longest + 5)
    return st.lists(one, min_size=1, max_size=6)


ks = st.integers(1, 12) | st.integers(1, ITEMS + 5)


@given(data=st.data(), name=st.sampled_from(sorted(SHOPS)), k=ks)
def test_it_answers_as_the_recommender(
    shops: dict[str, Both], data: st.DataObject, name: str, k: int
) -> None:
    shop, both = SHOPS[name], shops[name]
    sessions = data.draw(sessions_of(shop.ids, [shop.stranger, both.padding], LONGEST.get(name, MAX_LENGTH)))
    both.compare(sessions, k, 1e-4 if name == "features" else 0)


@given(data=st.data(), k=st.integers(1, 60))
def test_a_trained_model_answers_as_the_recommender(tiny: Both, data: st.DataObject, k: int) -> None:
    assert tiny.catalog.covisitation is not None
    tiny.compare(data.draw(sessions_of(tiny.ids, ["stranger", ""], 6)), k, 1e-4)


@pytest.mark.parametrize("name", ["full", "full strings"])
def test_sessions_without_a_known_item_get_popular_ones(shops: dict[str, Both], name: str) -> None:
    both = shops[name]
    both.compare([[], [SHOPS[name].stranger] * 3], 10, 0)
    empty = padded([[]], both.padding)
    found = both.run(empty, 10**9)
    assert (empty.shape, found["known"].tolist(), found["items"].shape) == ((1, 0), [0], (1, ITEMS))
    assert not found["probabilities"].any()


def test_padding_is_an_id_that_no_item_has(shops: dict[str, Both]) -> None:
    """The empty string is an item of the shops with strings."""
    for name, both in shops.items():
        assert both.padding not in SHOPS[name].ids
    assert shops["full"].padding == -(2**63)
    assert shops["full strings"].padding == "-"


@given(data=st.data())
@example(data=None)
@pytest.mark.slow
def test_a_changed_catalog_answers_as_the_recommender(
    changed: dict[str, Both], data: st.DataObject | None
) -> None:
    for name, both in changed.items():
        deleted = SHOPS[name].ids[7]
        new = "new" if both.about["item_id_type"] == "string" else 4
        moved = SHOPS[name].ids[20]
        if data is None:
            sessions = [[new], [deleted], [moved, deleted], [deleted, new], [new, moved, SHOPS[name].ids[30]]]
        else:
            sessions = data.draw(
                sessions_of([new, moved, deleted, *SHOPS[name].ids], [both.padding], MAX_LENGTH)
            )
        both.compare(sessions, 12, 1e-4)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    folder = tmp_path_factory.mktemp("changed")
    both = {}
    for name in ("full strings", "features", "bare"):
        shop = SHOPS[name]
        recommender = Recommender.load(write(name, folder / name))
        catalog, vector = recommender.catalog, np.linspace(-1, 1, 6, dtype=np.float32)
        new: list[Any] = ["new", "newer"] if shop.id_type == "string" else [4, 5]
        leaf = shop.category_ids[-1]
        catalog.upsert(
            [Item(item_id, leaf[5], vector=vector) for item_id in (*new, shop.ids[3], shop.ids[40])]
        )
        catalog.move(shop.ids[20], leaf[2])
        catalog.remove([new[1], *shop.ids[7:12]])
        catalog.set_bias([shop.ids[2], new[0]], 1.5)
        recommender.save(folder / f"{name} changed")
        both[name] = Both(folder / f"{name} changed", folder / f"{name}.onnx")
        assert both[name].about["items"] == str(ITEMS - 4)
    return both


def test_the_file_says_what_it_is(tiny: Both, tiny_bundle: Path) -> None:
    proto = onnx.load(tiny.path)
    onnx.checker.check_model(proto, full_check=True)
    config = open_bundle(tiny_bundle).config
    assert tiny.about == {
        "format": "hiersrec-standalone",
        "version": "1",
        "bundle_sha256": config["sha256"],
        "items": "48",
        "item_id_type": "string",
        "max_length": "6",
        "padding": "",
    }
    assert proto.ir_version == IR_VERSION
    assert [(one.domain, one.version) for one in proto.opset_import] == [("", OPSET), ("ai.onnx.ml", 2)]
    values = {
        value.name: (value.type, value.shape)
        for value in (*tiny.model.get_inputs(), *tiny.model.get_outputs())
    }
    assert values == {
        "session": ("tensor(string)", ["batch", "length"]),
        "k": ("tensor(int64)", [1]),
        "items": ("tensor(string)", ["batch", "best"]),
        "scores": ("tensor(float)", ["batch", "best"]),
        "known": ("tensor(int64)", ["batch"]),
        "categories": ("tensor(string)", ["batch", 5]),
        "probabilities": ("tensor(float)", ["batch", 5]),
    }
    encoder = onnx.load(tiny_bundle / "model.onnx").graph.node
    inside = [node for node in proto.graph.node if node.name.startswith("encoder/")]
    assert [node.op_type for node in inside] == [node.op_type for node in encoder]


def test_a_wrong_model_is_not_written(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(name: str) -> Any:
        def build(*arguments: Any) -> onnx.ModelProto:
            model = standalone_graph(*arguments)
            weights = next(one for one in model.graph.initializer if one.name == name)
            changed = onnx.numpy_helper.to_array(weights).copy()
            changed[3:7] += np.array(changed.size, dtype=changed.dtype)
            weights.CopyFrom(onnx.numpy_helper.from_array(changed, name))
            return model

        return build

    for name in ("item_vectors", "covisitation.item_weight", "covisitation.session_weight", "item_bias"):
        monkeypatch.setattr(standalone, "standalone_graph", wrong(name))
        with pytest.raises(ExportError, match="differ by"):
            export_standalone(tiny_bundle, tmp_path / "model.onnx", report=quiet)
        assert not list(tmp_path.iterdir())


def test_errors_say_what_is_wrong(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds at most 10,000 of them: serve the bundle"):
        export_standalone(tiny_bundle, tmp_path / "model.onnx", largest=10_000, report=quiet)
    with pytest.raises(BundleMissingError):
        export_standalone(tmp_path / "nothing", tmp_path / "model.onnx", report=quiet)
    assert not list(tmp_path.iterdir())
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ExportError, match="exists already"):
        export_standalone(tiny_bundle, tmp_path / "model.onnx", report=quiet)


def test_the_configuration_for_triton_is_that_of_the_file(tiny: Both) -> None:
    text = (Path(__file__).resolve().parents[2] / "examples/node/README.md").read_text()
    types = {"TYPE_STRING": "tensor(string)", "TYPE_INT64": "tensor(int64)", "TYPE_FP32": "tensor(float)"}
    said = [
        (name, types[data_type], [int(size) for size in dims.split(",")])
        for name, data_type, dims in re.findall(r'name: "(\w+)", data_type: (\w+), dims: \[(.*?)\]', text)
    ]
    assert said == [
        (value.name, value.type, [size if isinstance(size, int) else -1 for size in value.shape])
        for value in (*tiny.model.get_inputs(), *tiny.model.get_outputs())
    ]


def test_the_command_takes_a_bundle(tiny_run: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    def export(*arguments: str | Path) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["export", *map(str, arguments)])
        return result.exit_code, result.output

    one = tmp_path / "one.onnx"
    code, output = export(tiny_bundle, "--standalone", one)
    assert (code, "agree on" in output) == (0, True), output
    for arguments, message in (
        ([tiny_bundle, "--standalone", one], "exists already"),
        ([tiny_bundle], "is a bundle"),
        ([tiny_bundle, "--out", tmp_path / "b", "--standalone", tmp_path / "two.onnx"], "is a bundle"),
        ([tiny_run, "--standalone", tmp_path / "two.onnx"], "--out BUNDLE"),
        ([tiny_run, "--out", tmp_path / "b", "--standalone", one], "exists already"),
    ):
        code, output = export(*arguments)
        assert (code, message in output) == (1, True), output
    assert [path.name for path in tmp_path.iterdir()] == ["one.onnx"]
