"""A stand-in for tensors of a GPU, on machines without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from hiersrec_training.batches import Inputs
from hiersrec_training.scored_examples import ScoredExamples

T = TypeVar("T", Inputs, ScoredExamples)


class OnGpu(Tensor):
    """A tensor that NumPy cannot read, and with it whatever is computed from it, until it is moved to the CPU."""

    def __array__(self, *given: Any, **options: Any) -> NoReturn:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def numpy(self, *given: Any, **options: Any) -> NoReturn:
        self.__array__()

    def cpu(self, *given: Any, **options: Any) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor)


def to_gpu(each: T, device: torch.device) -> T:
    """In the place of the method ``to`` of a dataclass."""
    there: dict[str, Any] = {
        name: value.as_subclass(OnGpu) for name, value in vars(each).items() if isinstance(value, Tensor)
    }
    return replace(each, **there)
