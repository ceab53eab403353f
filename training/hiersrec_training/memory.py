"""Memory: what is freed is kept for the next step, and does not go back to the system; and how its lack shows."""

from __future__ import annotations

import ctypes
import platform
from typing import Final

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's <malloc.h>
_LARGEST = 2**31 - 1
# in messages of a CPU; of CUDA and NCCL; of cuBLAS, cuDNN and cuSPARSE
_LACK: Final = ("allocate memory", "out of memory", "_ALLOC_FAILED", "not enough memory")


def keep_freed() -> None:
    """Have glibc keep freed memory in this process, from now on. With another C library nothing happens.

    A step on the CPU takes and frees tables as large as the catalog. By default each comes from the system, which
    clears it page by page as it is first written, and goes back there.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _LARGEST)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory is missing, of the machine or of a GPU.

    On a GPU that is ``torch.OutOfMemoryError`` where PyTorch's own allocator finds none left. Libraries that allocate
    beside it only say so in the words of a ``RuntimeError``.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _LACK)
