"""The bundle's ONNX graphs in onnxruntime: sessions on the providers asked for, and checks of what a graph has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from hiersrec_sdk.errors import (
    BundleCorruptError,
    InvalidProvidersError,
    InvalidThreadsError,
    MissingExtraError,
    ProviderError,
)
from hiersrec_sdk.shown import shown

# Name here: name in onnxruntime, extra that installs it.
_PROVIDERS: Final = {"cpu": ("CPUExecutionProvider", "cpu"), "cuda": ("CUDAExecutionProvider", "gpu")}

Values = Mapping[str, tuple[str, list[int | None]]]
"""What a graph has to have: type and shape by name, None for a length that differs from call to call."""


def load_graph(model: bytes, name: str, providers: Sequence[str], threads: int) -> Any:
    """An ``onnxruntime.InferenceSession`` that runs on ``providers``."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidThreadsError(f"threads must be an integer ≥ 1, or 'auto', got {threads!r}")
    if isinstance(providers, str) or not providers:
        raise InvalidProvidersError(f"providers must be a list of names such as ('cpu',), got {providers!r}")
    for provider in providers:
        if provider not in _PROVIDERS:
            known = ", ".join(map(repr, _PROVIDERS))
            raise ProviderError(f"provider {shown(provider)} is unknown; there are {known}")
    try:
        onnxruntime = import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(_PROVIDERS[providers[0]][1], "running a model", "onnxruntime") from error
    _require(providers, onnxruntime.get_available_providers(), "is not in the onnxruntime installed here")

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    # idle threads leave the cores free
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            model, options, [_PROVIDERS[provider][0] for provider in providers]
        )
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise BundleCorruptError(f"{name} cannot be loaded: {error}") from error
    # onnxruntime goes on without a provider that does not start, e.g. for want of a driver.
    _require(providers, session.get_providers(), "did not start: its driver or libraries are missing")
    session.disable_fallback()  # nor may a later call move to another one unseen
    return session


def _require(providers: Sequence[str], present: Sequence[str], otherwise: str) -> None:
    for provider in providers:
        name, extra = _PROVIDERS[provider]
        if name not in present:
            raise ProviderError(
                f"provider {provider!r} ({name}) {otherwise}: pip uninstall onnxruntime onnxruntime-gpu, then "
                f"pip install 'hiersrec-sdk[{extra}]'; or ask for another provider. There are {', '.join(present)}"
            )


def check_values(what: str, values: Sequence[Any], wanted: Values) -> None:
    """Raise :class:`BundleCorruptError` where the graph's ``values`` are not those ``wanted``."""
    present = {value.name: value for value in values}
    for name, (dtype, shape) in wanted.items():
        if name not in present:
            raise BundleCorruptError(
                f"{what} {name!r} is missing; the graph has {', '.join(present) or 'none'}"
            )
        value = present[name]
        # A length that the graph leaves open has a name or None; it is taken on trust.
        fits = len(value.shape) == len(shape) and all(
            have == want if isinstance(have, int) else True
            for have, want in zip(value.shape, shape, strict=True)
        )
        if value.type != dtype or not fits:
            raise BundleCorruptError(
                f"{what} {name!r} is {value.type} {value.shape}; it should be {dtype} "
                f"{['any' if want is None else want for want in shape]}"
            )
