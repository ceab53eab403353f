"""ONNX sentence encoders: vectors as NumPy computes them, odd texts, and folders that are damaged."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

from hiersrec_sdk.encoders import text_encoder
from hiersrec_sdk.encoders.text_encoder import OnnxTextEncoder
from hiersrec_sdk.errors import DataError, InvalidThreadsError, MissingExtraError
from tests.text_models import (
    SPECIAL,
    STATES,
    WIDTH,
    WORDS,
    write_encoder,
    write_json,
    write_model,
    write_tokenizer,
)

LONGEST = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_encoder(tmp_path / "encoder")


@cache
def tiny(mode: str) -> OnnxTextEncoder:
    """An encoder that reads 8 tokens, with the pooling ``mode``."""
    with tempfile.TemporaryDirectory() as folder:
        write_encoder(Path(folder))
        write_json(Path(folder) / "sentence_bert_config.json", {"max_seq_length": LONGEST})
        write_json(Path(folder) / "1_Pooling" / "config.json", {f"pooling_mode_{mode}": True})
        return OnnxTextEncoder(Path(folder), threads=1)


def expected(texts: Sequence[Sequence[str]], mode: str) -> NDArray[np.float64]:
    """What NumPy makes of words."""
    vocabulary = [*SPECIAL, *WORDS]
    found = np.zeros((len(texts), WIDTH))
    for row, words in enumerate(texts):
        if not words:
            continue
        tokens = ["[CLS]", *words[: LONGEST - 2], "[SEP]"]
        states = STATES[[vocabulary.index(token) if token in vocabulary else 1 for token in tokens]]
        vector = states[0] if mode == "cls_token" else states.mean(axis=0, dtype=np.float64)
        found[row] = vector / np.linalg.norm(vector)
    return found


texts_of_words = st.lists(st.lists(st.sampled_from([*WORDS, "unheard"]), max_size=12), max_size=20)


@pytest.mark.parametrize("mode", ["mean_tokens", "cls_token"])
@given(texts=texts_of_words)
def test_vectors_are_those_of_numpy(mode: str, texts: list[list[str]]) -> None:
    encoder = tiny(mode)
    found = encoder.encode([" ".join(words) for words in texts])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(texts, mode), atol=1e-6)


@given(texts=texts_of_words, together=st.integers(1, 40))
def test_a_vector_does_not_depend_on_the_batch(texts: list[list[str]], together: int) -> None:
    encoder = tiny("mean_tokens")
    joined = [" ".join(words) for words in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_encoder, "_TOGETHER", together)
        found = encoder.encode(joined)
    for text, vector in zip(joined, found, strict=True):
        np.testing.assert_array_equal(encoder.encode([text])[0], vector)


@given(st.lists(st.text(), max_size=5))
def test_any_text_has_a_vector_or_none(texts: list[str]) -> None:
    lengths = np.linalg.norm(tiny("mean_tokens").encode(texts), axis=1)
    assert all(length == 0 or abs(length - 1) < 1e-6 for length in lengths)


@pytest.mark.parametrize("wrong", [None, 7, b"red", "a\ud800"])
def test_what_is_no_text_is_named(wrong: Any) -> None:
    with pytest.raises(DataError, match=r"^text 2 of 4 must be a string of valid UTF-8, got "):
        tiny("mean_tokens").encode(["red", "shoe", wrong, "hat"])


@pytest.mark.parametrize("pooling", ["1_Pooling", "2_Pooling"])
@pytest.mark.parametrize(
    ("settings", "mode"),
    [
        ({"pooling_mode": "cls"}, "cls_token"),
        ({"pooling_mode": ["cls"]}, "cls_token"),
        ({"pooling_mode": "mean"}, "mean_tokens"),
        ({"pooling_mode": ["mean"], "pooling_mode_cls_token": True}, "mean_tokens"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls_token"),
        ({"pooling_mode_mean_tokens": False}, "mean_tokens"),
    ],
)
def test_pooling_of_every_version_and_place(
    folder: Path, settings: dict[str, Any], mode: str, pooling: str
) -> None:
    """sentence-transformers 6 writes the mode under one key; modules.json says where."""
    other = {"2_Pooling": "1_Pooling", "1_Pooling": "2_Pooling"}[pooling]
    write_json(folder / other / "config.json", {"pooling_mode": "max"})
    write_json(
        folder / pooling / "config.json", {"embedding_dimension": WIDTH, "include_prompt": True, **settings}
    )
    modules = "sentence_transformers.sentence_transformer.modules"
    write_json(
        folder / "modules.json",
        [{"type": f"{modules}.Transformer", "path": ""}, {"type": f"{modules}.Pooling", "path": pooling}],
    )
    found = OnnxTextEncoder(folder).encode(["red shoe"])
    np.testing.assert_allclose(found, expected([["red", "shoe"]], mode), atol=1e-6)


def test_texts_are_lower_cased_where_the_model_says_so(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    for normalizer in (None, {"type": "NFC"}):
        write_json(folder / "tokenizer.json", {**tokenizer, "normalizer": normalizer})
        write_json(folder / "sentence_bert_config.json", {"do_lower_case": False})
        cased = OnnxTextEncoder(folder)
        write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
        lowered = OnnxTextEncoder(folder)
        assert cased.digest != lowered.digest
        np.testing.assert_array_equal(lowered.encode(["RED Shoe"]), cased.encode(["red shoe"]))
        assert (cased.encode(["RED Shoe"]) != cased.encode(["red shoe"])).any()


def test_a_prompt_of_no_words_is_none(folder: Path) -> None:
    wanted = OnnxTextEncoder(folder)
    for prompts in (
        {"prompts": {"query": "query: "}, "default_prompt_name": None},
        {"prompts": {"document": ""}, "default_prompt_name": "document"},
    ):
        write_json(folder / "config_sentence_transformers.json", prompts)
        assert OnnxTextEncoder(folder).digest == wanted.digest


def test_odd_texts() -> None:
    odd = ["", "   \n", "\x00\x07\x7f", "👟", "red " * 100_000, "RED", "é" * 5_000]
    found = tiny("mean_tokens").encode(odd)
    assert not found[:3].any()  # the tokenizer leaves nothing of them
    np.testing.assert_allclose(np.linalg.norm(found[3:], axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found[5], tiny("mean_tokens").encode(["red"])[0])


def test_an_encoder_tells_its_width_and_length(folder: Path) -> None:
    assert (OnnxTextEncoder(folder).width, OnnxTextEncoder(folder).longest) == (WIDTH, 512)
    write_json(folder / "tokenizer_config.json", {"model_max_length": int(1e30)})
    write_json(folder / "config.json", {"max_position_embeddings": 64})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": None})
    assert OnnxTextEncoder(folder).longest == 64


def test_the_graph_may_give_the_vector_of_the_text(folder: Path) -> None:
    alone = STATES[[2, 4, 3]].sum(axis=0)
    for output in ("sentence_embedding", "anything"):
        write_model(folder / "model.onnx", output=output)
        write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_max_tokens": True})  # is in the graph
        found = OnnxTextEncoder(folder).encode(["red"])[0]
        np.testing.assert_allclose(found, alone / np.linalg.norm(alone), atol=1e-6)


def test_other_inputs_and_places(folder: Path) -> None:
    wanted = OnnxTextEncoder(folder).encode(["red shoe"])
    (folder / "model.onnx").unlink()
    write_model(
        folder / "onnx" / "model.onnx",
        inputs=("input_ids", "token_type_ids", "attention_mask"),
        integers=TensorProto.INT32,
    )
    np.testing.assert_array_equal(OnnxTextEncoder(folder).encode(["red shoe"]), wanted)


def test_a_digest_tells_encoders_apart(folder: Path, tmp_path: Path) -> None:
    digests = [OnnxTextEncoder(folder).digest]
    assert OnnxTextEncoder(write_encoder(tmp_path / "copy")).digest == digests[0]
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 9})
    digests.append(OnnxTextEncoder(folder).digest)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    digests.append(OnnxTextEncoder(folder).digest)
    write_tokenizer(folder, WORDS[::-1])
    digests.append(OnnxTextEncoder(folder).digest)
    write_model(folder / "model.onnx", states=2 * STATES)
    digests.append(OnnxTextEncoder(folder).digest)
    assert len(set(digests)) == len(digests)


def damaged(folder: Path, what: str) -> None:
    """Damage a folder."""
    files: dict[str, tuple[str, bytes | None]] = {
        "no model": ("model.onnx", None),
        "no tokenizer": ("tokenizer.json", None),
        "cut model": ("model.onnx", b"\x08\x0a"),
        "foreign tokenizer": ("tokenizer.json", b"{}"),
        "binary tokenizer": ("tokenizer.json", b"\xff\xfe"),
        "no json": ("config.json", b"{"),
        "deep json": ("config.json", b"[" * 100_000),
    }
    values: dict[str, tuple[str, Any]] = {
        "length of text": ("sentence_bert_config.json", {"max_seq_length": "256"}),
        "length of 2": ("config.json", {"max_position_embeddings": 2}),
        "other pooling": (
            "1_Pooling/config.json",
            {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False},
        ),
        "other pooling of 6": (
            "1_Pooling/config.json",
            {"embedding_dimension": 5, "pooling_mode": "lasttoken"},
        ),
        "two poolings of 6": ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}),
        "no pooling of 6": ("1_Pooling/config.json", {"pooling_mode": []}),
        "odd pooling of 6": ("1_Pooling/config.json", {"pooling_mode": 7}),
        "odd path": ("modules.json", [{"type": "sentence_transformers.models.Pooling", "path": 7}]),
        "a prompt": (
            "config_sentence_transformers.json",
            {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"},
        ),
        "an odd prompt": ("config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": [7]}),
        "an unknown prompt": ("config_sentence_transformers.json", {"default_prompt_name": "query"}),
        "dense": ("modules.json", [{"type": "sentence_transformers.models.Dense"}]),
        "odd modules": ("modules.json", [7]),
    }
    graphs: dict[str, dict[str, Any]] = {
        "other input": {"inputs": ("input_ids", "pixels")},
        "fixed shape": {"shape": (1, 16)},
        "whole numbers out": {"output_type": TensorProto.INT64},
    }
    if what in files:
        name, content = files[what]
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content)
    elif what in values:
        write_json(folder / values[what][0], values[what][1])
    elif what == "other name":
        (folder / "onnx").mkdir()
        (folder / "model.onnx").rename(folder / "onnx" / "model_O4.onnx")
    else:
        write_model(folder / "model.onnx", **graphs[what])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no model", r"holds no model: there is no model.onnx or onnx/model.onnx in it$"),
        ("other name", r"it has onnx/model_O4.onnx: give one of them that name"),
        ("no tokenizer", r"holds no tokenizer.json"),
        ("cut model", r"model.onnx cannot be loaded"),
        ("foreign tokenizer", r"tokenizer.json cannot be used"),
        ("binary tokenizer", r"tokenizer.json cannot be used"),
        ("no json", r"config.json is not JSON"),
        ("deep json", r"config.json is not JSON"),
        ("length of text", r"max_seq_length must be a number ≥ 3, got '256'"),
        ("length of 2", r"max_position_embeddings must be a number ≥ 3, got 2"),
        (
            "other pooling",
            r"1_Pooling/config.json asks for the pooling pooling_mode_max_tokens, and only mean and cls",
        ),
        (
            "other pooling of 6",
            r"asks for the pooling lasttoken, and only mean and cls are known here: export",
        ),
        ("two poolings of 6", r"asks for the pooling cls, mean, and only mean and cls are known here"),
        ("no pooling of 6", r"asks for the pooling \[\], and only mean and cls are known here"),
        ("odd pooling of 6", r"asks for the pooling 7, and only mean and cls are known here"),
        ("odd path", r"modules.json: path of Pooling must be a folder, got 7"),
        (
            "a prompt",
            r"config_sentence_transformers.json asks for the prompt 'query' before each text.* to null",
        ),
        ("an odd prompt", r"asks for the prompt \[7\] before each text"),
        ("an unknown prompt", r"asks for the prompt 'query' before each text"),
        ("dense", r"has a module 'Dense', and only Normalize, Pooling, Transformer"),
        ("odd modules", r"has a module '7'"),
        ("other input", r"has an input 'pixels'; it may have input_ids, attention_mask, token_type_ids"),
        ("fixed shape", r"input 'input_ids' is tensor\(int64\) \[1, 16\]; .* both open"),
        ("whole numbers out", r"has the outputs last_hidden_state tensor\(int64\).*one must be float"),
    ],
)
def test_a_damaged_folder_says_what_is_wrong(folder: Path, what: str, message: str) -> None:
    damaged(folder, what)
    with pytest.raises(DataError, match=message):
        OnnxTextEncoder(folder)


def test_a_length_without_limit_is_none(folder: Path) -> None:
    """Transformers writes 10^30 where a model sets none."""
    before = OnnxTextEncoder(folder).encode(["red boots"])
    write_json(folder / "tokenizer_config.json", {"model_max_length": 1000000000000000019884624838656})
    np.testing.assert_array_equal(OnnxTextEncoder(folder).encode(["red boots"]), before)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nothing is downloaded"):
        OnnxTextEncoder(tmp_path / "all-MiniLM-L6-v2")


def test_outputs_that_are_no_vectors(folder: Path) -> None:
    states = STATES.copy()
    states[4] = np.inf
    write_model(folder / "model.onnx", states=states)
    with pytest.raises(DataError, match="gives 'blue red' a vector that is not finite"):
        OnnxTextEncoder(folder).encode(["blue", "blue red", "blue red blue"])
    states[4] = 1e38
    write_model(folder / "model.onnx", states=states)
    with pytest.raises(DataError, match="a vector that is not finite, or too long"):
        OnnxTextEncoder(folder).encode(["red"])
    flat = np.zeros(len(STATES), dtype=np.float32)
    write_model(folder / "model.onnx", states=flat, lengths=("batch", "width"))
    with pytest.raises(DataError, match=r"has shape \[1, 4\] for \[1, 4\] tokens; it must be \[1, 3\]"):
        OnnxTextEncoder(folder).encode(["red", "red shoe"])


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    write_tokenizer(folder, [*WORDS, "coat"])
    encoder = OnnxTextEncoder(folder)
    encoder.encode(["hat"])
    with pytest.raises(DataError, match=r"failed to run.*do .*model.onnx and tokenizer.json belong together"):
        encoder.encode(["coat"])


def test_what_is_not_installed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tokenizers", None)
        with pytest.raises(MissingExtraError, match=r"pip install 'hiersrec-sdk\[text\]'"):
            OnnxTextEncoder(folder)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hiersrec-sdk\[cpu\]'"):
        OnnxTextEncoder(folder)


@pytest.mark.parametrize("threads", [0, 1.5, "many", 10_000])
def test_threads_are_checked(folder: Path, threads: Any) -> None:
    with pytest.raises(InvalidThreadsError, match="threads must be an integer"):
        OnnxTextEncoder(folder, threads=threads)
