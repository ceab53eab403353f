"""Folders of tiny sentence encoders, as sentence-transformers lays them out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WORDS = ("red", "blue", "green", "shoe", "shirt", "hat")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WIDTH = 5
STATES = np.random.default_rng(0).normal(size=(len(SPECIAL) + len(WORDS), WIDTH)).astype(np.float32)
"""What the encoder gives for each token, wherever it stands."""


def write_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> None:
    """Words in lower case, [UNK] for others, between [CLS] and [SEP]; pads and truncates, which must not be used."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers: pip install '.[text]'")
    vocabulary = {token: at for at, token in enumerate((*SPECIAL, *words))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens([*SPECIAL])
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_model(
    path: Path,
    *,
    states: NDArray[np.float32] = STATES,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
    shape: Sequence[Any] = ("batch", "length"),
    integers: int = TensorProto.INT64,
    output: str = "last_hidden_state",
    output_type: int = TensorProto.FLOAT,
    lengths: Sequence[Any] | None = None,
) -> None:
    """A graph that looks up the states of tokens: ``output`` is them, or their sum where it is no last_hidden_state.

    ``lengths``: those of the output that the graph declares; by default those that it has.
    """
    nodes = [helper.make_node("Gather", ["states", "input_ids"], ["found"])]
    if output == "last_hidden_state":
        nodes.append(helper.make_node("Cast", ["found"], [output], to=output_type))
    else:
        nodes.append(helper.make_node("ReduceSum", ["found", "one"], [output], keepdims=0))
    if lengths is None:
        lengths = [*shape, WIDTH] if output == "last_hidden_state" else [shape[0], WIDTH]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, integers, shape) for name in inputs],
        [helper.make_tensor_value_info(output, output_type, lengths)],
        [numpy_helper.from_array(states, "states"), numpy_helper.from_array(np.array([1]), "one")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_encoder(folder: Path, **settings: Any) -> Path:
    """A whole encoder; ``settings`` as for :func:`write_model`."""
    write_tokenizer(folder)
    write_model(folder / "model.onnx", **settings)
    return folder


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
