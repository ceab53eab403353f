"""The one door to onnxruntime: whatever imports it does so here. Sessions on the providers asked for.

From version 1.32 on, onnxruntime reports usage: its first import leaves a device id and a database below the cache of
the home folder, and asks the network. It reads from the environment whether it may, once, as it is imported. So the
answer is no from the import of ``hiersrec_sdk`` on, unless the user gave another one.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Final

import numpy as np

from hiersrec_sdk.arguments import checked_threads
from hiersrec_sdk.atomic import is_time_limit
from hiersrec_sdk.errors import (
    BundleCorruptError,
    HierSRecError,
    InvalidProvidersError,
    MissingExtraError,
    ProviderError,
)
from hiersrec_sdk.id_lists import listed
from hiersrec_sdk.shown import shortened, shown
from hiersrec_sdk.systems import after_fork_in_child

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Name here: name in onnxruntime, extra that installs it.
_PROVIDERS: Final = {"cpu": ("CPUExecutionProvider", "cpu"), "cuda": ("CUDAExecutionProvider", "gpu")}
# By default CUDA multiplies with 10 bits of mantissa, and gives other items than the CPU.
_SETTINGS: Final = {"cpu": {}, "cuda": {"use_tf32": "0"}}
# An ONNX file: y = Identity(x), of float32 [1].
_IDENTITY: Final = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)


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
    threads, providers = checked_threads(threads), checked_providers(providers)
    onnxruntime = import_onnxruntime(_PROVIDERS[providers[0]][1])
    _require(providers, onnxruntime.get_available_providers())
    if "cuda" in providers:
        _CUDA.prepare(onnxruntime)
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
    wanted = [(_PROVIDERS[provider][0], _SETTINGS[provider]) for provider in providers]
    try:
        # No fallback: it prints, and a later call could move to another provider unseen. No settings from the graph.
        session = onnxruntime.InferenceSession(
            model, options, wanted, enable_fallback=0, read_config_from_model=0
        )
    except Exception as error:  # onnxruntime's errors have no common base of their own
        _raise_if_from_outside(error)
        if providers != ("cpu",):
            open_session(model, name)  # raises, if it is the graph that is at fault
            raise ProviderError(
                f"{_named(providers)} did not start: {described(error)}; "
                "mend it, or ask for another provider: providers=('cpu',)"
            ) from error
        raise BundleCorruptError(f"{name} cannot be loaded: {described(error)}") from error
    # onnxruntime goes on without a provider that does not start, e.g. for want of a driver.
    if "cuda" in providers and _PROVIDERS["cuda"][0] not in session.get_providers():
        raise ProviderError(
            f"provider 'cuda' did not start: {_missing(onnxruntime)}; pip install 'hiersrec-sdk[gpu]' brings the "
            "libraries, the driver comes with the machine; or ask for another provider: providers=('cpu',)"
        )
    if "cuda" in providers:
        _CUDA.used_by = os.getpid()
    return session


class _Cuda:
    """What CUDA needs in this process."""

    def __init__(self) -> None:
        self.used_by = 0  # the process that has used it
        self._loaded = False
        self._lock = threading.Lock()
        after_fork_in_child(self._forked)

    def prepare(self, onnxruntime: Any) -> None:
        """Load the libraries of the packages that the extra "gpu" brings.

        Raises:
            ProviderError: this process was forked from one that has used CUDA.
        """
        if self.used_by not in (0, os.getpid()):
            raise ProviderError(
                "CUDA cannot be used in a process that was forked from one that has used it: load the recommender in "
                "each worker, without preload_app; or ask for another provider: providers=('cpu',)"
            )
        with self._lock:  # sys.stdout is one for all threads
            if not self._loaded:
                with redirect_stdout(StringIO()):  # it prints what it does not find
                    onnxruntime.preload_dlls()
                self._loaded = True

    def _forked(self) -> None:
        self._lock = threading.Lock()


_CUDA: Final = _Cuda()


def run_error(
    error: Exception, model: bytes, name: str, providers: Sequence[str], feeds: Any
) -> HierSRecError:
    """What to raise where onnxruntime raised ``error`` when the graph ``model`` ran on ``feeds``.

    Raises:
        Exception: ``error`` itself, where it is not onnxruntime's.
    """
    _raise_if_from_outside(error)
    if tuple(providers) != ("cpu",) and _on_cpu(model, name, feeds) is not None:
        return ProviderError(f"{name} failed to run on {_named(providers)}: {described(error)}")
    return BundleCorruptError(f"{name} failed to run: {described(error)}")


def not_finite(output: str, model: bytes, name: str, providers: Sequence[str], feeds: Any) -> HierSRecError:
    """What to raise where an ``output`` is NaN or infinite when the graph ``model`` ran on ``feeds``."""
    if tuple(providers) != ("cpu",):
        on_cpu = _on_cpu(model, name, feeds, [output])
        if on_cpu is not None and np.isfinite(on_cpu[0]).all():
            return ProviderError(
                f"{name}: output {output!r} is not finite on {_named(providers)}, and is where the CPU alone runs the "
                "graph, so the hardware or its libraries are at fault; ask for another provider: providers=('cpu',)"
            )
    return BundleCorruptError(
        f"{name}: output {output!r} is not finite: the file, or what it read, is damaged"
    )


def _on_cpu(model: bytes, name: str, feeds: Any, outputs: list[str] | None = None) -> list[Any] | None:
    """The ``outputs`` of the graph ``model``, by default all, where the CPU runs it; None if it fails there."""
    try:
        found: list[Any] = open_session(model, name).run(outputs, dict(feeds))
    except Exception as error:
        _raise_if_from_outside(error)
        return None
    return found


def _raise_if_from_outside(error: Exception) -> None:
    """Raise what a signal handler has raised while onnxruntime ran, such as the time limit of a task queue."""
    raiser = type(error).__module__.partition(".")[0]
    if isinstance(error, RecursionError) or raiser not in ("builtins", "onnxruntime") or is_time_limit(error):
        raise error


def checked_providers(value: Any) -> tuple[str, ...]:
    """``providers``, checked: names that are known here, whether onnxruntime has them or not; each once.

    Raises:
        InvalidProvidersError: not a list of names.
        ProviderError: one that is not known.
    """
    names = listed("providers", value, InvalidProvidersError, "names such as ('cpu',)")
    if not len(names) or not all(isinstance(name, str) for name in names):
        raise InvalidProvidersError(f"providers must be a list of names such as ('cpu',), got {shown(value)}")
    for name in names:
        if name not in _PROVIDERS:
            raise ProviderError(f"provider {shown(name)} is unknown; there are {_named(_PROVIDERS)}")
    return tuple(dict.fromkeys(map(str, names)))


def described(error: Exception) -> str:
    """The message of an error of onnxruntime, shortened to one line."""
    text = " ".join(str(error).split())
    # onnxruntime names a function of C++ before it, in some 600 characters
    cause = re.search(r"\b(?:CUDA|CUDNN|CUBLAS\w*) failure \d+: [^;]*", text)
    return shortened(cause.group().strip() if cause else text or type(error).__name__)


def available_providers() -> tuple[str, ...]:
    """The providers that the onnxruntime installed here was built with. Whether they start is another matter.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    present = import_onnxruntime().get_available_providers()
    return tuple(provider for provider, (name, _) in _PROVIDERS.items() if name in present)


def check_starts(provider: str) -> None:
    """Start ``provider``, and run a graph on it that gives back what it gets.

    Raises:
        HierSRecError: as :func:`open_session`; ProviderError also where it fails to run.
    """
    name, feeds = "the graph of a test", {"x": np.zeros(1, np.float32)}
    session = open_session(_IDENTITY, name, (provider,))
    try:
        session.run(None, feeds)
    except Exception as error:
        raise run_error(error, _IDENTITY, name, (provider,), feeds) from error


def _require(providers: Sequence[str], present: Sequence[str]) -> None:
    for provider in providers:
        name, extra = _PROVIDERS[provider]
        if name not in present:
            raise ProviderError(
                f"provider {provider!r} ({name}) is not in the onnxruntime installed here: pip uninstall "
                f"onnxruntime onnxruntime-gpu, then pip install 'hiersrec-sdk[{extra}]'; or ask for another provider. "
                f"There are {', '.join(present)}"
            )


def _missing(onnxruntime: Any) -> str:
    """What CUDA lacks: the library that is not there, or else a GPU."""
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).with_name("capi") / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return shortened(error)
    return "there is no driver, or no GPU that this onnxruntime can use"


def _named(providers: Any) -> str:
    return ", ".join(map(repr, providers))
