"""Text encoders: an item's text as a vector of fixed width, made once, when a data set is prepared.

    hashed             the default, no encoder: the model learns a vector for each hash bucket of words
    model2vec:FOLDER   static embeddings, the mean over a text's tokens; from a local folder, nothing is downloaded
    onnx:FOLDER        a sentence encoder in ONNX and its tokenizer, from a local folder too
    MODULE:CALLABLE    your own: called without arguments, it returns a :class:`TextEncoder`

The vectors become columns of the catalog, so that serving needs no text encoder.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hiersrec_sdk.encoders.text_cache import TextCache
from hiersrec_sdk.encoders.text_encoder import OnnxTextEncoder
from hiersrec_sdk.errors import DataError, InvalidOptionError, MissingExtraError
from hiersrec_sdk.ranking.requests import MAX_DIMENSION
from hiersrec_training.data.progress import progress

HASHED = "hashed"
_MODEL2VEC = "model2vec:"
_ONNX = "onnx:"
_TOGETHER = 1024  # texts that are kept together in the cache


class TextEncoder(Protocol):
    """An object that turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, m], finite; a row of zeros where a text says nothing."""
        ...


class Model2Vec:
    """A model in the format of model2vec, in a local folder.

    Raises:
        MissingExtraError: model2vec is not installed.
        DataError: there is no such folder, or it holds no such model.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():  # model2vec would take it for a model's name on a hub
            raise DataError(
                f"there is no folder {folder}: model2vec:FOLDER takes a local one, nothing is downloaded"
            )
        try:
            from model2vec import StaticModel
        except ModuleNotFoundError as error:
            raise MissingExtraError("text", "--text-encoder model2vec", error.name or "") from error
        try:
            self._model = StaticModel.from_pretrained(folder)
        except Exception as error:  # the readers of its files raise all kinds
            raise DataError(f"{folder} holds no model of model2vec: {error}") from error

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, m]: zeros for a text without known tokens."""
        return self._model.encode(list(texts), use_multiprocessing=False).astype(np.float32)


class CachedOnnx:
    """An ONNX sentence encoder that encodes a text once: its vectors are kept in the cache of text vectors.

    Raises:
        MissingExtraError: onnxruntime or tokenizers is not installed.
        DataError: there is no such folder, or it holds no such model.
    """

    def __init__(self, folder: Path) -> None:
        self._encoder = OnnxTextEncoder(folder)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, m] of unit length: zeros for a text of which the tokenizer leaves nothing.

        Whatever ends it early, what was encoded until then is in the cache.
        """
        cache = TextCache(self._encoder.digest, self._encoder.width)
        found = cache.find(texts)
        left = sorted({text for text in texts if text not in found}, key=lambda text: (len(text), text))
        batches = [left[start : start + _TOGETHER] for start in range(0, len(left), _TOGETHER)]
        for batch in progress(batches, lambda: len(left), "encoding", len, unit="texts"):
            vectors = self._encoder.encode(batch)
            cache.add(batch, vectors)
            found.update(zip(batch, vectors, strict=True))
        return np.stack([found[text] for text in texts])


_LOCAL: dict[str, Callable[[Path], TextEncoder]] = {_MODEL2VEC: Model2Vec, _ONNX: CachedOnnx}


def load_text_encoder(name: str) -> TextEncoder | None:
    """The encoder called ``name``; None for ``hashed``.

    Raises:
        InvalidOptionError: no such name, module or callable, or it does not return a :class:`TextEncoder`.
        MissingExtraError: what it needs is not installed.
        DataError: there is no such folder, or it holds no such model.
    """
    if name == HASHED:
        return None
    for start, encoder_of in _LOCAL.items():
        if name.startswith(start) and name != start:  # without a folder it would be the current one
            return encoder_of(Path(name.removeprefix(start)))
    module, _, attribute = name.partition(":")
    if not module or not attribute or module.startswith("."):  # which would be relative to no package
        raise InvalidOptionError(
            f"--text-encoder must be {HASHED}, {_MODEL2VEC}FOLDER, {_ONNX}FOLDER or MODULE:CALLABLE, got {name!r}"
        )
    try:
        make = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that this one imports
        raise InvalidOptionError(
            f"--text-encoder {name}: there is no module {error.name!r}; install it, or add its folder to PYTHONPATH"
        ) from None
    if not callable(make):
        raise InvalidOptionError(f"--text-encoder {name}: {module} has no callable {attribute!r}")
    encoder: TextEncoder = make()
    if not callable(getattr(encoder, "encode", None)):
        raise InvalidOptionError(
            f"--text-encoder {name}: {attribute}() must return an object with a method encode(texts)"
        )
    return encoder


def encode_texts(encoder: TextEncoder, name: str, texts: pl.Series) -> NDArray[np.float32]:
    """Vectors float32 [texts, m], zeros where a text is null.

    Args:
        encoder: makes them.
        name: of the encoder, for messages.
        texts: strings with nulls.

    Raises:
        DataError: there is no text at all, or the encoder does not return one finite vector a text.
    """
    there = texts.is_not_null().to_numpy()
    if not there.any():
        raise DataError(f"--text-encoder {name}: no item has a text")
    known = texts.drop_nulls().to_list()
    try:
        with np.errstate(over="ignore"):  # it would not be finite then
            found = np.asarray(encoder.encode(known), dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"--text-encoder {name} failed: {error}") from error
    if found.ndim != 2 or len(found) != len(known) or not found.shape[1]:
        raise DataError(
            f"--text-encoder {name} must return shape [{len(known)}, width] for {len(known)} texts, got "
            f"{list(found.shape)}"
        )
    if found.shape[1] > MAX_DIMENSION:
        raise DataError(
            f"--text-encoder {name} returned vectors of {found.shape[1]:,} numbers, of which a model reads "
            f"{MAX_DIMENSION:,} at most"
        )
    if not np.isfinite(found).all():
        raise DataError(f"--text-encoder {name} returned values that are not finite")
    vectors = np.zeros((len(texts), found.shape[1]), dtype=np.float32)
    vectors[there] = found
    return vectors


def without_folders(name: str) -> str:
    """The name as it is noted in a data set: a folder by its own name, without the path to it."""
    for start in _LOCAL:
        if name.startswith(start):
            return start + Path(name.removeprefix(start)).resolve().name
    return name
