"""A sentence encoder in ONNX: texts to vectors, for items whose model was trained with such vectors.

Its folder is laid out as sentence-transformers writes it. Serving needs none of this, but for new items with text.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.arguments import checked_threads, is_utf8
from hiersrec_sdk.cpus import Threads
from hiersrec_sdk.encoders.runtime import open_session, run_error
from hiersrec_sdk.errors import BundleCorruptError, DataError, MissingExtraError
from hiersrec_sdk.shown import shortened, shown

_MODELS: Final = ("model.onnx", "onnx/model.onnx")
_TOKENIZER: Final = "tokenizer.json"
_TRANSFORMER: Final = "sentence_bert_config.json"
# Files and settings that say how many tokens the model reads at most; the smallest one holds.
_LENGTHS: Final = (
    (_TRANSFORMER, "max_seq_length"),
    ("tokenizer_config.json", "model_max_length"),
    ("config.json", "max_position_embeddings"),
)
_UNLIMITED: Final = 1 << 20  # tokens, more than any model takes
_LONGEST: Final = 512  # tokens, where none of them is there
_POOLING: Final = "1_Pooling"  # its folder, where modules.json names no other
_MODULES: Final = {"Transformer", "Pooling", "Normalize"}  # of modules.json, all that is done here
_MEANS: Final[tuple[list[str], ...]] = (
    [],
    ["mean"],
    ["pooling_mode_mean_tokens"],
)  # modes of pooling, of both ways to write them
_FIRSTS: Final = (["cls"], ["pooling_mode_cls_token"])
_PROMPTS: Final = "config_sentence_transformers.json"
_IDS: Final = "input_ids"
_INPUTS: Final = (_IDS, "attention_mask", "token_type_ids")
_INTEGERS: Final[dict[str, type[np.int64 | np.int32]]] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
_FLOATS: Final = ("tensor(float)", "tensor(float16)", "tensor(double)")
_SENTENCE: Final = "sentence_embedding"
_TOGETHER: Final = 4096  # tokens of a batch
_METHOD: Final = b"1"  # of what is done below; another one where it gives other vectors


class OnnxTextEncoder:
    """An ONNX sentence encoder and its tokenizer, in a local folder.

    A vector is the mean of the states of a text's tokens, or the first of them if ``1_Pooling/config.json`` says
    so, or the graph's own output ``sentence_embedding``; then brought to unit length. A batch holds texts of one
    length, so that nothing is padded, and a vector does not depend on the texts beside it, unless the graph quantizes
    by batch.

    Args:
        folder: with ``model.onnx`` or ``onnx/model.onnx``, and ``tokenizer.json``.
        threads: of onnxruntime.

    Attributes:
        width: of the vectors.
        longest: tokens of a text; the model does not read what comes after them.
        digest: SHA-256, in hexadecimal, of everything that the vectors depend on.

    Raises:
        MissingExtraError: onnxruntime or tokenizers is not installed.
        DataError: the folder lacks the model or the tokenizer, or they cannot be used.
        InvalidThreadsError: ``threads`` is not an integer from 1 to 256, or "auto".
    """

    def __init__(self, folder: Path, threads: Threads = "auto") -> None:
        if not folder.is_dir():
            raise DataError(
                f"there is no folder {folder}: onnx:FOLDER takes a local one, nothing is downloaded"
            )
        path = _model_of(folder)
        self._name = str(path)
        content, tokenizer = _content(path), _content(folder / _TOKENIZER)
        self.longest = _longest(folder)
        _check_prompts(folder)
        lowers = _lowers(folder)
        self._tokenizer = _tokenizer(tokenizer, folder, self.longest, lowers)
        self._session = _session(content, self._name, threads)
        self._inputs = _inputs(self._session, self._name)
        self._output = _output(self._session, self._name)
        self._takes_first = self._output.is_of_tokens and _takes_first(folder)
        method = b"%s %d %d%s" % (_METHOD, self.longest, self._takes_first, b" lower" if lowers else b"")
        parts = (hashlib.sha256(part).digest() for part in (content, tokenizer, method))
        self.digest = hashlib.sha256(b"".join(parts)).hexdigest()
        self.width = 0
        anything = np.zeros((1, 3), dtype=np.int64)
        self.width = self.pooled(anything).shape[1]  # and it runs at all

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, width] of unit length; zeros for a text of which the tokenizer leaves nothing.

        Raises:
            DataError: a text is none, or not valid UTF-8; the graph fails, or gives what is no vector.
        """
        for at, text in enumerate(texts):
            if not isinstance(text, str) or not is_utf8(text):
                raise DataError(
                    f"text {at} of {len(texts)} must be a string of valid UTF-8, got {shown(text)}"
                )
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        encodings, lengths = self._tokens(texts)
        for batch in _batches(lengths):
            vectors[batch] = self._vectors([encodings[at] for at in batch])
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            text = texts[int(np.isfinite(norms).argmin())]
            raise DataError(f"{self._name} gives {shown(text)} a vector that is not finite, or too long")
        vectors /= np.where(norms > 0, norms, 1)
        return vectors

    def _tokens(self, texts: Sequence[str]) -> tuple[list[Any], NDArray[np.int64]]:
        """Encodings of the tokenizer, and int64 [texts]: how many tokens each has; 0 where all are special ones."""
        encodings = self._tokenizer.encode_batch(list(texts))
        lengths = [0 if all(each.special_tokens_mask) else len(each.ids) for each in encodings]
        return encodings, np.array(lengths, dtype=np.int64)

    def _vectors(self, encodings: Sequence[Any]) -> NDArray[np.float32]:
        """float32 [texts, width], not of unit length, for encodings of one length."""
        return self.pooled(
            np.array([each.ids for each in encodings]), np.array([each.type_ids for each in encodings])
        )

    def pooled(self, ids: NDArray[np.int64], types: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """float32 [texts, width], as the model gives them, for token ids [texts, tokens].

        Args:
            ids: of the tokens, special ones included.
            types: of the segments, of the shape of ``ids``; None: all 0.

        Raises:
            DataError: the graph fails, or gives an output of another shape.
        """
        values = (ids, np.ones_like(ids), np.zeros_like(ids) if types is None else types)
        given = dict(zip(_INPUTS, values, strict=True))
        feeds = {name: given[name].astype(dtype) for name, dtype in self._inputs.items()}
        try:
            (found,) = self._session.run([self._output.name], feeds)
        except Exception as error:
            failure = run_error(error, b"", self._name, ("cpu",), feeds)
            raise DataError(f"{failure}; do {self._name} and {_TOKENIZER} belong together?") from error
        shape = ids.shape if self._output.is_of_tokens else ids.shape[:1]
        width = self.width or found.shape[-1]
        if found.shape != (*shape, width) or not width:
            raise DataError(
                f"{self._name}: output {self._output.name!r} has shape {list(found.shape)} for {list(ids.shape)} "
                f"tokens; it must be {[*shape, width or 'width']}"
            )
        if self._output.is_of_tokens:
            found = found[:, 0] if self._takes_first else found.mean(axis=1, dtype=np.float32)
        with np.errstate(over="ignore"):  # it is not finite then, which is checked
            return np.asarray(found, dtype=np.float32)


class _Output(NamedTuple):
    """The output that is read; ``is_of_tokens``: a state for each token, not a vector for each text."""

    name: str
    is_of_tokens: bool


def _batches(lengths: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Indices of texts of the same length, not 0: some for each batch."""
    order = np.argsort(lengths, kind="stable")
    for same in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        if not len(same) or not lengths[same[0]]:
            continue
        most = max(1, _TOGETHER // int(lengths[same[0]]))
        for start in range(0, len(same), most):
            yield same[start : start + most]


def _model_of(folder: Path) -> Path:
    for name in _MODELS:
        if (folder / name).is_file():
            return folder / name
    others = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.onnx"))
    has = f"; it has {shortened(', '.join(others))}: give one of them that name" if others else ""
    raise DataError(f"{folder} holds no model: there is no {' or '.join(_MODELS)} in it{has}")


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise DataError(f"{path.parent} holds no {path.name}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _settings(folder: Path, name: str) -> Any:
    """The JSON value in a file of the folder; None where there is no such file."""
    if not (folder / name).exists():
        return None
    try:
        # not as strictly as a bundle's: some give a length of 10^30
        return json.loads(_content(folder / name))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / name} is not JSON: {error}") from error


def _longest(folder: Path) -> int:
    found = []
    for name, key in _LENGTHS:
        settings = _settings(folder, name)
        value = settings.get(key) if isinstance(settings, Mapping) else None
        if value is not None:
            if (
                type(value) not in (int, float) or not 3 <= value < math.inf
            ):  # one token between two special ones
                raise DataError(f"{folder / name}: {key} must be a number ≥ 3, got {shown(value)}")
            if value <= _UNLIMITED:  # Transformers writes 10^30 where there is no limit
                found.append(int(value))
    return min(found, default=_LONGEST)


def _check_prompts(folder: Path) -> None:
    """Refuse a model that reads a prompt before each text, as that is not done here."""
    settings = _settings(folder, _PROMPTS)
    name = settings.get("default_prompt_name") if isinstance(settings, Mapping) else None
    if name is None:
        return
    prompts = settings.get("prompts")
    if not isinstance(name, str) or not isinstance(prompts, Mapping) or prompts.get(name) != "":
        raise DataError(
            f"{folder / _PROMPTS} asks for the prompt {shown(name)} before each text, which is not done here: set "
            "default_prompt_name to null, and write the prompt into the texts if they need it"
        )


def _lowers(folder: Path) -> bool:
    """Whether texts are lower-cased before the tokenizer sees them."""
    settings = _settings(folder, _TRANSFORMER)
    return isinstance(settings, Mapping) and bool(settings.get("do_lower_case"))


def _takes_first(folder: Path) -> bool:
    """Whether the state of the first token is the vector, not the mean of all."""
    modules = _settings(folder, "modules.json")
    pooling = _POOLING
    for module in modules if isinstance(modules, list) else []:
        kind = str(module.get("type") if isinstance(module, Mapping) else module).rpartition(".")[2]
        if kind not in _MODULES:
            raise DataError(
                f"{folder / 'modules.json'} has a module {shown(kind)}, and only {', '.join(sorted(_MODULES))} are "
                f"known here: export the model with an output {_SENTENCE!r}"
            )
        if kind == "Pooling" and isinstance(module, Mapping):
            pooling = module.get("path", _POOLING)
            if not isinstance(pooling, str):
                raise DataError(
                    f"{folder / 'modules.json'}: path of Pooling must be a folder, got {shown(pooling)}"
                )
    name = f"{pooling}/config.json"
    settings = _settings(folder, name)
    if not isinstance(settings, Mapping):
        return False
    modes = _modes(settings)
    if modes in _MEANS:
        return False
    if modes in _FIRSTS:
        return True
    asked = shortened(", ".join(map(str, modes)))
    raise DataError(
        f"{folder / name} asks for the pooling {asked}, and only mean and cls are known here: export the model with an "
        f"output {_SENTENCE!r}"
    )


def _modes(settings: Mapping[str, Any]) -> list[Any]:
    """Modes of pooling: under one key since sentence-transformers 6, each under its own before."""
    mode = settings.get("pooling_mode")
    if mode is None:
        return sorted(key for key, is_on in settings.items() if key.startswith("pooling_mode_") and is_on)
    return mode if isinstance(mode, list) and mode else [mode]


def _tokenizer(content: bytes, folder: Path, longest: int, lowers: bool) -> Any:
    try:
        from tokenizers import Tokenizer, normalizers
    except ModuleNotFoundError as error:
        raise MissingExtraError("text", "--text-encoder onnx", error.name or "") from error
    try:
        tokenizer = Tokenizer.from_buffer(content)
        tokenizer.no_padding()
        tokenizer.enable_truncation(longest)
        if lowers:
            own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
            tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    except Exception as error:  # its errors have no base of their own
        raise DataError(
            f"{folder / _TOKENIZER} cannot be used: {shortened(error)}; it must be a file of the package tokenizers"
        ) from error
    return tokenizer


def _session(content: bytes, name: str, threads: Threads) -> Any:
    try:
        return open_session(content, name, threads=checked_threads(threads))
    except BundleCorruptError as error:
        raise DataError(str(error)) from error


def _inputs(session: Any, name: str) -> dict[str, type[np.int64 | np.int32]]:
    """Type of each input."""
    found: dict[str, type[np.int64 | np.int32]] = {}
    for value in session.get_inputs():
        if value.name not in _INPUTS:
            raise DataError(f"{name} has an input {shown(value.name)}; it may have {', '.join(_INPUTS)}")
        is_open = len(value.shape) == 2 and not any(isinstance(length, int) for length in value.shape)
        if value.type not in _INTEGERS or not is_open:
            raise DataError(
                f"{name}: input {value.name!r} is {value.type} {shown(value.shape)}; it must be tensor(int64) or "
                "tensor(int32) ['batch', 'length'], both open: export the model with dynamic axes"
            )
        found[value.name] = _INTEGERS[value.type]
    if _IDS not in found:
        raise DataError(f"{name} has no input {_IDS!r}; it has {', '.join(found) or 'none'}")
    return found


def _output(session: Any, name: str) -> _Output:
    """The output that is read."""
    values = {value.name: value for value in session.get_outputs() if value.type in _FLOATS}
    ranks = {name: len(value.shape) for name, value in values.items()}
    if ranks.get(_SENTENCE) == 2:
        return _Output(_SENTENCE, False)
    for output, rank in ranks.items():
        if rank == 3:
            return _Output(output, True)
    if list(ranks.values()) == [2]:
        return _Output(next(iter(ranks)), False)
    has = ", ".join(f"{value.name} {value.type} {value.shape}" for value in session.get_outputs())
    raise DataError(
        f"{name} has the outputs {shortened(has)}; one must be float [batch, length, width], the states of the tokens, "
        f"or {_SENTENCE!r} [batch, width]"
    )
