"""Text encoders: names, what is asked of an encoder, and models in the formats of model2vec and ONNX."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from hiersrec_sdk.encoders.text_encoder import OnnxTextEncoder
from hiersrec_sdk.errors import DataError, InvalidOptionError, MissingExtraError
from hiersrec_training.data import text_encoders
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.data.prepare import PrepareOptions, prepare
from hiersrec_training.data.text_encoders import encode_texts, load_text_encoder, without_folders
from tests.text_models import STATES, write_encoder, write_model

SHOP = """
import numpy as np

class Lengths:
    def encode(self, texts):
        return np.array([[len(text), 1.0] for text in texts])

def nothing():
    return 3

NUMBER = 3
"""


@pytest.fixture
def shop_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module of text encoders."""
    (tmp_path / "shop_texts.py").write_text(SHOP)
    (tmp_path / "shop_needs_more.py").write_text("import shop_lacks_this\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shop_texts", raising=False)
    return "shop_texts"


@pytest.fixture
def model2vec_folder(tmp_path: Path) -> Path:
    """Three words with vectors of two numbers."""
    model2vec = pytest.importorskip("model2vec", reason="needs model2vec: pip install '.[text]'")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "red": 1, "blue": 2, "shoe": 3}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    vectors = np.array([[9, 9], [1, 0], [0, 1], [3, 4]], np.float32)
    model2vec.StaticModel(vectors, tokenizer).save_pretrained(tmp_path / "static")
    return tmp_path / "static"


def prepared(folder: Path, encoder: str) -> Dataset:
    (folder / "log.txt").write_text("a b c d\nd c b a\n")
    table = "item,name,colour\na,Red shoe,Blue\nb,,red\nc,,\nd,hat,\n"
    (folder / "items.csv").write_text(table)
    return prepare(
        PrepareOptions(
            logs=[folder / "log.txt"],
            items=folder / "items.csv",
            text_columns=["name", "colour"],
            title_column="name",
            text_encoder=encoder,
            validation_fraction=0.0,
        ),
        lambda line: None,
    )


def test_a_model_of_model2vec_gives_the_mean_of_the_words(model2vec_folder: Path, tmp_path: Path) -> None:
    data = prepared(tmp_path, f"model2vec:{model2vec_folder}")
    assert data.vectors is not None
    wanted = np.array([[4 / 3, 5 / 3], [1, 0], [0, 0], [0, 0]])  # nothing is known of hats
    np.testing.assert_allclose(data.vectors, wanted, rtol=1e-6)
    assert data.text.null_count() == data.items  # not hashed as well
    assert data.title.to_list() == ["Red shoe", None, None, "hat"]
    assert data.settings["options"]["text_encoder"] == "model2vec:static"


@pytest.mark.usefixtures("model2vec_folder")
def test_folders_that_are_no_model2vec_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def download(*args: Any, **options: Any) -> None:
        pytest.fail("it asked the network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(DataError, match="there is no folder some/model"):
        load_text_encoder("model2vec:some/model")
    (tmp_path / "foreign").mkdir()
    with pytest.raises(DataError, match="foreign holds no model of model2vec"):
        load_text_encoder(f"model2vec:{tmp_path / 'foreign'}")
    (tmp_path / "static" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match="static holds no model of model2vec"):
        load_text_encoder(f"model2vec:{tmp_path / 'static'}")


def test_without_model2vec_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "model2vec", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hiersrec-sdk\[text\]'"):
        load_text_encoder(f"model2vec:{tmp_path}")


@pytest.fixture
def onnx_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sentence encoder, beside an empty cache."""
    monkeypatch.setenv("HIERSREC_CACHE", str(tmp_path / "cache"))
    return write_encoder(tmp_path / "sentences")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that ONNX sentence encoders have encoded since; two are kept together."""
    texts: list[str] = []
    encode = OnnxTextEncoder.encode

    def noting(self: OnnxTextEncoder, some: Sequence[str]) -> NDArray[np.float32]:
        vectors = encode(self, some)
        texts.extend(some)
        return vectors

    monkeypatch.setattr(OnnxTextEncoder, "encode", noting)
    monkeypatch.setattr(text_encoders, "_TOGETHER", 2)
    return texts


def test_a_sentence_encoder_gives_unit_vectors(onnx_folder: Path, tmp_path: Path) -> None:
    data = prepared(tmp_path, f"onnx:{onnx_folder}")
    wanted = OnnxTextEncoder(onnx_folder).encode(["Red shoe Blue", "red", "", "hat"])
    assert data.vectors is not None
    np.testing.assert_array_equal(data.vectors, wanted)
    assert data.vectors.any(axis=1).tolist() == [True, True, False, True]
    assert data.text.null_count() == data.items  # not hashed as well
    assert data.settings["options"]["text_encoder"] == "onnx:sentences"


def test_a_text_is_encoded_once(onnx_folder: Path, tmp_path: Path, encoded: list[str]) -> None:
    first = prepared(tmp_path, f"onnx:{onnx_folder}")
    assert sorted(encoded) == ["Red shoe Blue", "hat", "red"]
    second = prepared(tmp_path, f"onnx:{onnx_folder}")
    assert len(encoded) == 3
    assert second.fingerprint == first.fingerprint
    encoder = load_text_encoder(f"onnx:{onnx_folder}")
    assert encoder is not None
    some = encoder.encode(["red", "blue", "red", "blue"])
    assert encoded[3:] == ["blue"]
    np.testing.assert_array_equal(some[:2], some[2:])


def test_an_interrupted_encoding_goes_on(onnx_folder: Path, encoded: list[str]) -> None:
    texts = ["red", "blue", "green", "green hat", "blue shirt", "green shirt"]
    whole = OnnxTextEncoder(onnx_folder).encode(texts)
    encoded.clear()
    noting = OnnxTextEncoder.encode

    def stopping(self: OnnxTextEncoder, some: Sequence[str]) -> NDArray[np.float32]:
        if len(encoded) == 4:
            raise KeyboardInterrupt
        return noting(self, some)

    encoder = load_text_encoder(f"onnx:{onnx_folder}")
    assert encoder is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxTextEncoder, "encode", stopping)
        with pytest.raises(KeyboardInterrupt):
            encoder.encode(texts)
    np.testing.assert_array_equal(encoder.encode(texts), whole)
    assert len(encoded) == len(texts)


def test_a_cache_that_cannot_be_written_is_done_without(
    onnx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HIERSREC_CACHE", str(tmp_path / "file"))
    encoder = load_text_encoder(f"onnx:{onnx_folder}")
    assert encoder is not None
    for times in (1, 2):
        assert encoder.encode(["red"]).any()
        assert encoded == ["red"] * times


def test_another_model_has_vectors_of_its_own(onnx_folder: Path, encoded: list[str]) -> None:
    for states in (STATES, -STATES):
        write_model(onnx_folder / "model.onnx", states=states)
        encoder = load_text_encoder(f"onnx:{onnx_folder}")
        assert encoder is not None
        np.testing.assert_array_equal(encoder.encode(["red"]), OnnxTextEncoder(onnx_folder).encode(["red"]))
    assert encoded == ["red"] * 4


def test_an_encoder_of_your_own(shop_module: str, tmp_path: Path) -> None:
    data = prepared(tmp_path, f"{shop_module}:Lengths")
    assert data.vectors is not None
    assert data.vectors.dtype == np.float32
    assert data.vectors.tolist() == [[13, 1], [3, 1], [0, 0], [3, 1]]
    assert data.settings["options"]["text_encoder"] == "shop_texts:Lengths"


def test_hashed_is_the_default_and_keeps_the_text(tmp_path: Path) -> None:
    assert load_text_encoder("hashed") is None
    data = prepared(tmp_path, "hashed")
    assert data.vectors is None
    assert data.text.to_list() == ["Red shoe Blue", "red", None, "hat"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("word2vec", "must be hashed, model2vec:FOLDER, onnx:FOLDER or MODULE:CALLABLE, got 'word2vec'"),
        (":Lengths", "must be hashed"),
        ("shop_texts:", "must be hashed"),
        (".shop_texts:Lengths", r"must be hashed.*got '\.shop_texts:Lengths'"),
        ("onnx:", "must be hashed.*got 'onnx:'"),
        ("model2vec:", "must be hashed.*got 'model2vec:'"),
        ("no_such_module:Lengths", "there is no module 'no_such_module'; install it"),
        ("shop_texts.inner:Lengths", "there is no module 'shop_texts.inner'"),
        ("shop_texts:Widths", "shop_texts has no callable 'Widths'"),
        ("shop_texts:NUMBER", "shop_texts has no callable 'NUMBER'"),
        ("shop_texts:nothing", r"nothing\(\) must return an object with a method encode"),
    ],
)
@pytest.mark.usefixtures("shop_module")
def test_a_wrong_name_says_what_would_be_right(name: str, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        load_text_encoder(name)


@pytest.mark.usefixtures("shop_module")
def test_a_missing_import_of_your_own_module_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match="shop_lacks_this"):
        load_text_encoder("shop_needs_more:Encoder")


class Fixed:
    """Returns ``answer`` whatever it is asked."""

    def __init__(self, answer: Any) -> None:
        self.answer: NDArray[np.float32] = answer

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros((3, 2)), r"must return shape \[2, width\] for 2 texts, got \[3, 2\]"),
        (np.zeros(2), r"got \[2\]"),
        (np.zeros((2, 0)), r"got \[2, 0\]"),
        ([[1.0, np.nan], [0.0, 0.0]], "not finite"),
        ([[1e300], [0.0]], "not finite"),
        ([[1.0], [0.0, 2.0]], "failed"),
        ([["a"], ["b"]], "failed"),
    ],
)
def test_an_encoder_that_breaks_its_promise(answer: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"--text-encoder mine:E .*{message}"):
        encode_texts(Fixed(answer), "mine:E", pl.Series(["a", None, "b"]))


def test_no_text_at_all() -> None:
    with pytest.raises(DataError, match="no item has a text"):
        encode_texts(Fixed(np.zeros((0, 2))), "mine:E", pl.Series([None, None], dtype=pl.String))


def test_names_are_noted_without_folders() -> None:
    assert without_folders("model2vec:/a/b/small/") == "model2vec:small"
    assert without_folders("onnx:models/../small") == "onnx:small"
    assert without_folders("module.inner:Encoder") == "module.inner:Encoder"
