"""GRU4Rec (Hidasi et al., ICLR 2016; CIKM 2018): a GRU over the session, tied item vectors, full softmax."""

from __future__ import annotations

from torch import Tensor, nn

from benchmarks.studies.models.session_model import SessionModel


class GRU4Rec(SessionModel):
    def __init__(self, items: int, dimension: int, dropout: float, max_length: int) -> None:
        super().__init__(items, dimension, dropout, max_length)
        self.gru = nn.GRU(dimension, dimension, batch_first=True)
        self.out = nn.Linear(dimension, dimension)

    def queries(self, vectors: Tensor) -> Tensor:
        states: Tensor = self.gru(self.dropout(vectors))[0]
        query: Tensor = self.out(self.dropout(states))
        return query
