"""Top-k over ranges of rows, and all else that has native code: one interface, three backends with equal results.

>>> import numpy as np
>>> from hiersrec_sdk.ranking import Table, get_backend
>>> table = Table(np.eye(4, dtype=np.float32))
>>> query = np.array([1, 3, 2, 3], np.float32)
>>> get_backend("numpy").topk(table, query, np.array([[0, 4]]), 3).rows
array([1, 3, 2])
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from hiersrec_sdk.errors import BackendError, MissingKernelWarning
from hiersrec_sdk.ranking.backend import Backend
from hiersrec_sdk.ranking.candidates import Choice
from hiersrec_sdk.ranking.codes import Codes
from hiersrec_sdk.ranking.covisitation import CovisitationCounts, CovisitationScorer
from hiersrec_sdk.ranking.requests import Found, Request, Table
from hiersrec_sdk.shown import shown

__all__ = [
    "SLOWER_THAN_C",
    "Backend",
    "Choice",
    "Codes",
    "CovisitationCounts",
    "CovisitationScorer",
    "Found",
    "Request",
    "Table",
    "available_backends",
    "get_backend",
    "instruction_sets",
    "kernel_file",
    "missing_kernel",
]

_BACKENDS: Final = ("c", "numba", "numpy")  # in order of preference
_KERNEL: Final = "hiersrec_sdk._kernel"
SLOWER_THAN_C: Final = {"numba": (4, 20), "numpy": (10, 60)}
"""How many times as long a call takes with a backend as with ``"c"``, in mode ``"candidates"`` and in mode ``"exact"``,
measured with 43,097 items."""


def available_backends() -> tuple[str, ...]:
    """The backends that can be used here, best first: of ``"c"``, ``"numba"``, ``"numpy"``.

    ``"c"`` needs the compiled kernel, ``"numba"`` the package numba, which this does not import.
    """
    return tuple(name for name in _BACKENDS if _is_available(name))


def get_backend(name: str | None = None) -> Backend:
    """The backend ``name``, or the best that is available.

    ``"numba"`` compiles when it is first asked for, which takes seconds. If ``name`` is None and the compiled kernel
    is missing, a :class:`~hiersrec_sdk.errors.MissingKernelWarning` is issued, once.

    Raises:
        BackendError: there is no such backend, or not here.
    """
    if name is None:
        name = available_backends()[0]
        if name != "c":
            _warn_of_missing_kernel()
    elif not isinstance(name, str) or name not in _BACKENDS or not _is_available(name):
        raise BackendError(
            f"ranking backend {shown(name)} is not available here; available: {', '.join(available_backends())}"
        )
    try:
        backend: Backend = import_module(f"{__name__}.{name}_backend").BACKEND
    except ImportError as error:
        raise BackendError(f"ranking backend {name!r} cannot be loaded: {error}") from error
    return backend


def kernel_file() -> Path | None:
    """The file of the compiled kernel; None if there is none. Does not load it."""
    spec = find_spec(_KERNEL)
    return None if spec is None or spec.origin is None else Path(spec.origin)


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets that the compiled kernel has for this processor, the one in use first; none without it."""
    if not _is_available("c"):
        return ()
    get_backend("c")  # which reads HIERSREC_ISA
    kernel = import_module(_KERNEL)
    used: str = kernel.isa()
    return (used, *(name for name in kernel.available_isas() if name != used))


def _is_available(name: str) -> bool:
    if name == "c":
        try:
            import_module(_KERNEL)
        except ImportError:
            return False
    return name != "numba" or find_spec("numba") is not None


def missing_kernel() -> str:
    """A message: which file was imported without a usable kernel, how much slower that is, and what helps."""
    package = Path(__file__).resolve().parent.parent
    file = kernel_file()
    cause = (
        "it has no compiled kernel" if file is None else f"its compiled kernel {file} cannot be loaded here"
    )
    name = "Numba" if _is_available("numba") else "NumPy"
    slower, slower_exact = SLOWER_THAN_C[name.lower()]
    return (
        f"hiersrec_sdk was imported from {package / '__init__.py'}, and {cause}: {name} ranks instead. Results are "
        f"equal, but a call takes about {slower} times as long, {slower_exact} times in mode 'exact'. In a checkout, "
        "run 'pip install -e .'; or run 'pip install .' and start Python in another folder, since the checkout's files "
        "hide what was installed. Elsewhere, run 'pip install --force-reinstall hiersrec-sdk', which installs a wheel."
    )


_warned = False


def _warn_of_missing_kernel() -> None:
    """Say once that a slower backend ranks."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(missing_kernel(), MissingKernelWarning, stacklevel=3)


if kernel_file() is None:
    _warn_of_missing_kernel()
