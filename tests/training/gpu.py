"""A stand-in for tensors of a GPU, on machines without one."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from hiersrec_training.batches import Inputs


class OnGpu(Tensor):
    """A tensor that NumPy cannot read, and with it whatever is computed from it, until it is moved to the CPU."""

    def __array__(self, *given: Any, **options: Any) -> NoReturn:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def numpy(self, *given: Any, **options: Any) -> NoReturn:
        self.__array__()

    def cpu(self, *given: Any, **options: Any) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor)


def to_gpu(inputs: Inputs, device: torch.device) -> Inputs:
    """In the place of ``Inputs.to``."""
    return inputs._each(lambda tensor: tensor.as_subclass(OnGpu))
