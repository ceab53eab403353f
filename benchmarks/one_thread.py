"""One thread, the BLAS kernels of today, and an allocator that keeps what it has, for the whole process."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Final

_SET: Final = {
    **dict.fromkeys(("MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    # glibc: no large block on its own pages, nothing given back. Otherwise a peer whose scores take 256 MB pays for
    # fresh pages on each call, up to four times its own work on a virtual machine: that would flatter us.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
# A setting that picks old BLAS kernels would flatter us: it slows the OpenBLAS of NumPy and implicit.
_UNSET: Final = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def ensure_one_thread() -> None:
    """Start the process again, with the same arguments, where its environment asks for anything else.

    The libraries read these variables once, when they are loaded, so that setting them here would be too late.
    """
    env = one_thread(os.environ)
    if env != dict(os.environ):
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, sys.orig_argv, env)


def one_thread(env: Mapping[str, str]) -> dict[str, str]:
    """``env`` with one thread for every library, the allocator's settings, and no choice of BLAS kernels."""
    return {key: value for key, value in env.items() if key not in _UNSET} | _SET
