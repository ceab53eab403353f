"""Too little memory, in the words of everything that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hiersrec_sdk.errors import RunError
from hiersrec_training import distributed
from hiersrec_training import loop as loop_module
from hiersrec_training.config import Config
from hiersrec_training.memory import is_out_of_memory
from hiersrec_training.train import train
from tests.conftest import quiet

LACKS: list[Exception] = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried …"
    ),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("NCCL error: unhandled cuda error. Last error: Cuda failure 2 'out of memory'"),
]


@pytest.mark.parametrize("error", LACKS, ids=str)
def test_too_little_memory_is_the_same_error_whoever_says_so(
    error: Exception, tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_out_of_memory(error)

    def lacks(self: Any, batch: Any) -> None:
        with distributed._others():  # which takes other errors for the end of another process
            raise error

    monkeypatch.setattr(loop_module.Loop, "_step", lacks)
    with pytest.raises(RunError, match="not enough memory to train: lower batch_sessions"):
        train(tiny_data, tmp_path / "run", tiny_config, device="cpu", progress=False, report=quiet)


def test_pytorch_s_error_of_an_accelerator_is_one() -> None:
    kind = getattr(torch, "AcceleratorError", None)
    if kind is None:
        pytest.skip("this PyTorch has no torch.AcceleratorError")
    assert issubclass(kind, RuntimeError)


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: an illegal memory access was encountered"), OSError("out of memory")]
)
def test_other_errors_are_none(error: Exception) -> None:
    assert not is_out_of_memory(error)
