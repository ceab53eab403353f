"""Adam for a model whose item table may have sparse gradients, and the schedule of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hiersrec_training.model import HierSRec


def schedule(share: float, warmup: float) -> float:
    """Learning rate after a ``share`` of all steps, as a share of its peak.

    It rises in a line over the first ``warmup`` of the steps, then falls along half a cosine to 0.
    """
    if share < warmup:
        return (share + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


class Adam:
    """Adam that, in a table with sparse gradients, reads and writes only the rows that have one.

    The moments of the other rows are left alone, where plain Adam would let them decay. So a step costs by the rows it
    reaches, not by the size of the catalog.
    """

    def __init__(self, model: HierSRec) -> None:
        self._parameters = list(model.parameters())
        table = model.items.item
        sparse = [table.weight] if table is not None and table.sparse else []
        dense = [
            parameter for parameter in self._parameters if all(parameter is not other for other in sparse)
        ]
        self._optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(dense, fused=True)]
        if sparse:
            self._optimizers.append(torch.optim.SparseAdam(sparse))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self, learning_rate: float) -> None:
        """Change the parameters by their gradients."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Moments and counted steps, on the CPU, by ``<number of the parameter>.<name>``."""
        return {
            f"{index}.{name}": torch.as_tensor(value).detach().cpu().contiguous()
            for index, parameter in enumerate(self._parameters)
            for optimizer in self._optimizers
            for name, value in optimizer.state.get(parameter, {}).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over the :meth:`state` of an optimizer of the same model.

        Raises:
            ValueError: it is of another model.
        """
        for optimizer in self._optimizers:
            optimizer.state.clear()
        for key, value in state.items():
            index, _, name = key.partition(".")
            if not index.isdecimal() or int(index) >= len(self._parameters):
                raise ValueError(f"there is no parameter for {key!r}")
            parameter = self._parameters[int(index)]
            for optimizer in self._optimizers:
                if any(parameter is one for one in optimizer.param_groups[0]["params"]):
                    # SparseAdam counts its steps in an int, the fused one in a tensor beside the parameter
                    counts = name == "step" and not value.is_floating_point()
                    optimizer.state[parameter][name] = value.item() if counts else value.to(parameter.device)
