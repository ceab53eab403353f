"""The one door to onnxruntime: whatever imports it does so here. Sessions on the providers asked for.

From version 1.32 on, onnxruntime reports usage: its first import leaves a device id and a database below the cache of
the home folder, and asks the network. It reads from the environment whether it may, once, as it is imported. So the
answer is no from the import of ``hiersrec_sdk`` on, unless the user gave another one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import numpy as np

from hiersrec_sdk.cpus import MOST_THREADS
from hiersrec_sdk.errors import (
    BundleCorruptError,
    HierSRecError,
    InvalidProvidersError,
    InvalidThreadsError,
    MissingExtraError,
    ProviderError,
)
from hiersrec_sdk.shown import shown

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Name here: name in onnxruntime, extra that installs it.
_PROVIDERS: Final = {"cpu": ("CPUExecutionProvider", "cpu"), "cuda": ("CUDAExecutionProvider", "gpu")}
_MOST_SHOWN: Final = 300  # characters of a message of onnxruntime


def import_onnxruntime(extra: str = "cpu") -> Any:
    """The module ``onnxruntime``.

    Raises:
        MissingExtraError: it is not installed; names the ``extra`` that does.
    """
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError(extra, "running a model", "onnxruntime") from error


def open_session(model: bytes, name: str, providers: Sequence[str] = ("cpu",), threads: int = 1) -> Any:
    """An ``onnxruntime.InferenceSession`` that runs the graph ``model`` on ``providers``; messages call it ``name``.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ProviderError: a provider is unknown, not in this onnxruntime, or did not start.
        BundleCorruptError: onnxruntime refuses the graph.
        InvalidThreadsError: ``threads`` is not an integer from 1 to 256.
        InvalidProvidersError: ``providers`` is not a list of names.
    """
    threads, providers = _checked_threads(threads), checked_providers(providers)
    onnxruntime = import_onnxruntime(_PROVIDERS[providers[0]][1])
    _require(providers, onnxruntime.get_available_providers(), "is not in the onnxruntime installed here")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # nothing but what ends the process: errors are raised
    # idle threads leave the cores free
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # else the first bytes decide, and a file may be one thing to the reader here and another to onnxruntime
    options.add_session_config_entry("session.load_model_format", "ONNX")
    names = [_PROVIDERS[provider][0] for provider in providers]
    try:
        # No fallback: it prints, and a later call could move to another provider unseen. No settings from the graph.
        session = onnxruntime.InferenceSession(
            model, options, names, enable_fallback=0, read_config_from_model=0
        )
    except Exception as error:  # onnxruntime's errors have no common base of their own
        if providers != ("cpu",):
            open_session(model, name)  # raises, if it is the graph that is at fault
            raise ProviderError(
                f"{_named(providers)} did not start: {described(error)}; "
                "mend it, or ask for another provider: providers=('cpu',)"
            ) from error
        raise BundleCorruptError(f"{name} cannot be loaded: {described(error)}") from error
    # onnxruntime goes on without a provider that does not start, e.g. for want of a driver.
    _require(providers, session.get_providers(), "did not start: its driver or libraries are missing")
    return session


def run_error(
    error: Exception, model: bytes, name: str, providers: Sequence[str], feeds: Any
) -> HierSRecError:
    """What to raise where onnxruntime raised ``error`` when the graph ``model`` ran on ``feeds``."""
    if tuple(providers) != ("cpu",):
        try:
            open_session(model, name).run(None, feeds)
        except Exception:
            pass  # the graph fails everywhere
        else:
            return ProviderError(f"{name} failed to run on {_named(providers)}: {described(error)}")
    return BundleCorruptError(f"{name} failed to run: {described(error)}")


def checked_providers(providers: Any) -> tuple[str, ...]:
    """``providers`` as a tuple of names.

    Raises:
        InvalidProvidersError: not a list or tuple of strings, or one comes twice.
        ProviderError: one that is not known here.
    """
    is_list = isinstance(providers, list | tuple) and len(providers) > 0
    if not is_list or not all(isinstance(provider, str) for provider in providers):
        raise InvalidProvidersError(
            f"providers must be a list of names such as ('cpu',), got {shown(providers)}"
        )
    for provider in providers:
        if provider not in _PROVIDERS:
            raise ProviderError(f"provider {shown(provider)} is unknown; there are {_named(_PROVIDERS)}")
    if len(set(providers)) < len(providers):
        raise InvalidProvidersError(f"providers must name each one once, got {shown(providers)}")
    return tuple(providers)


def described(error: Exception) -> str:
    """The message of an error of onnxruntime, shortened to one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST_SHOWN else f"{text[:100]} ... {text[105 - _MOST_SHOWN :]}"


def _checked_threads(threads: Any) -> int:
    is_integer = isinstance(threads, int | np.integer) and not isinstance(threads, bool)
    if not is_integer or not 1 <= threads <= MOST_THREADS:
        raise InvalidThreadsError(
            f"threads must be an integer from 1 to {MOST_THREADS}, or 'auto', got {shown(threads)}"
        )
    return int(threads)


def _require(providers: Sequence[str], present: Sequence[str], otherwise: str) -> None:
    for provider in providers:
        name, extra = _PROVIDERS[provider]
        if name not in present:
            raise ProviderError(
                f"provider {provider!r} ({name}) {otherwise}: pip uninstall onnxruntime onnxruntime-gpu, then "
                f"pip install 'hiersrec-sdk[{extra}]'; or ask for another provider. There are {', '.join(present)}"
            )


def _named(providers: Any) -> str:
    return ", ".join(map(repr, providers))
