"""What the neural baselines have in common: an item table, and a query after each click."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn


class SessionModel(nn.Module):
    """An item scores ``query · vector``."""

    def __init__(self, items: int, dimension: int, dropout: float, max_length: int) -> None:
        super().__init__()
        self.item = nn.Embedding(items, dimension)
        nn.init.normal_(self.item.weight, std=dimension**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.max_length = max_length

    def table(self) -> Tensor:
        """Vectors of the whole catalog: float32 [items, d]."""
        return self.item.weight

    @abstractmethod
    def queries(self, vectors: Tensor) -> Tensor:
        """After each click: [B, T, d], from rows of the table for the clicks [B, T, d]. No query sees a later click."""


def causal_mask(length: int, device: torch.device) -> Tensor:
    """bool [T, T]: true where the row may not look, at later columns."""
    return torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
