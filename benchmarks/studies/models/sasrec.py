"""SASRec (Kang and McAuley, ICDM 2018): a causal Transformer of two layers, tied item vectors; with the full softmax
in place of one sampled negative, as Klenitskiy and Vasilev (RecSys 2023) found it to need."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.studies.models.session_model import SessionModel, causal_mask


class SASRec(SessionModel):
    def __init__(self, items: int, dimension: int, dropout: float, max_length: int) -> None:
        super().__init__(items, dimension, dropout, max_length)
        self.place = nn.Embedding(max_length, dimension)
        nn.init.normal_(self.place.weight, std=dimension**-0.5)
        layer = nn.TransformerEncoderLayer(
            dimension, 2, 4 * dimension, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, nn.LayerNorm(dimension), enable_nested_tensor=False)

    def queries(self, vectors: Tensor) -> Tensor:
        length = vectors.shape[1]
        x = vectors + self.place.weight[:length]
        states: Tensor = self.layers(self.dropout(x), mask=causal_mask(length, vectors.device))
        return states
