"""Freed memory is kept for the next step, and does not go back to the system."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's <malloc.h>
_LARGEST = 2**31 - 1


def keep_freed() -> None:
    """Have glibc keep freed memory in this process, from now on. With another C library nothing happens.

    A step on the CPU takes and frees tables as large as the catalog. By default each comes from the system, which
    clears it page by page as it is first written, and goes back there.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST)
