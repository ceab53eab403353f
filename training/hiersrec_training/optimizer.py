"""Adam for a model whose item table may have sparse gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hiersrec_training.model import HierSRec


class Adam:
    """Adam; of a table with sparse gradients a step reads and writes only the rows that have one.

    There the moments of the other rows stand still, which plain Adam would let decay: a step costs by the rows that
    it reaches, not by the catalogue.
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
        """Take over what :meth:`state` gave of an optimizer of the same model.

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
                if any(parameter is own for own in optimizer.param_groups[0]["params"]):
                    # SparseAdam counts its steps in an int, the fused one in a tensor beside the parameter
                    counts = name == "step" and not value.is_floating_point()
                    optimizer.state[parameter][name] = value.item() if counts else value.to(parameter.device)
