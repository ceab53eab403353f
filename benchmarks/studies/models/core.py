"""CORE-trm (Hou et al., SIGIR 2022): the session is a weighted sum of its own item vectors, so that sessions and items
share one space; weights by a Transformer; cosine scores over a temperature, dropout on the item vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.studies.models.session_model import SessionModel, causal_mask

TEMPERATURE = 0.07


class CORE(SessionModel):
    def __init__(self, items: int, dimension: int, dropout: float, max_length: int) -> None:
        super().__init__(items, dimension, dropout, max_length)
        self.place = nn.Embedding(max_length, dimension)
        nn.init.normal_(self.place.weight, std=dimension**-0.5)
        layer = nn.TransformerEncoderLayer(
            dimension, 2, 4 * dimension, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(dimension), enable_nested_tensor=False)
        self.weigh = nn.Linear(dimension, 1)

    def table(self) -> Tensor:
        return F.normalize(self.item.weight, dim=1)

    def queries(self, vectors: Tensor) -> Tensor:
        length = vectors.shape[1]
        vectors = self.dropout(vectors)
        mask = causal_mask(length, vectors.device)
        states = self.layers(vectors * vectors.shape[2] ** 0.5 + self.place.weight[:length], mask=mask)
        weights = self.weigh(states).transpose(1, 2).expand(-1, length, -1)  # [B, T, T], of each click
        sums = weights.masked_fill(mask, -torch.inf).softmax(-1) @ vectors
        return F.normalize(sums, dim=-1) / TEMPERATURE
