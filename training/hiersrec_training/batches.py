"""Sessions as padded batches: windows of the model's length, sessions of like length together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hiersrec_training.data.dataset import Sessions


@dataclass(frozen=True)
class Batch:
    """B sessions of T clicks at most and the P positions among them that have a next click, in row-major order."""

    items: Tensor  # int64 [B, T], padded with 0 at the end
    there: Tensor  # bool [B, T]
    target: Tensor  # int64 [P], the next click
    weight: Tensor  # float32 [P]

    def to(self, device: torch.device) -> Batch:
        return Batch(*(field.to(device) for field in (self.items, self.there, self.target, self.weight)))

    def own(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every pair of a position and a click up to it: position int64 [O] (sorted), item [O], distance [O]."""
        length = self.items.shape[1]
        place = torch.arange(length, device=self.items.device)
        pairs = self.there[:, :, None] & (place[:, None] >= place)  # [B, T, T]
        position = torch.cumsum(self.there.flatten(), 0).view_as(self.there) - 1
        row, state, click = pairs.nonzero(as_tuple=True)
        return position[row, state], self.items[row, click], state - click

    def co_clicks(self, window: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each distance up to ``window``: the pairs of different items that follow each other at it, the targets
        among them: first int64 [N], second [N]."""
        length = self.there.sum(1)  # [B]
        clicks = F.pad(self.items, (0, 1))  # [B, T + 1]
        newest = self.target[length.cumsum(0) - 1]
        clicks.scatter_(1, length[:, None], newest[:, None])
        there = torch.arange(clicks.shape[1], device=clicks.device) <= length[:, None]
        for distance in range(1, min(window, clicks.shape[1] - 1) + 1):
            first, second = clicks[:, :-distance], clicks[:, distance:]
            pairs = there[:, distance:] & (first != second)
            yield distance, first[pairs], second[pairs]


class Batches:
    """Windows of sessions in batches. A session longer than ``max_length + 1`` clicks is cut into windows that share
    one click, so that every click but the first is a target once.

    ``weights`` float32 [sessions] weigh the positions of each session; None weighs all alike.
    """

    def __init__(
        self, sessions: Sessions, max_length: int, size: int, weights: NDArray[np.float32] | None = None
    ) -> None:
        lengths = sessions.lengths
        windows = np.maximum(0, -(-(lengths - 1) // max_length))
        session = np.repeat(np.arange(len(sessions)), windows)
        number = np.arange(len(session)) - np.repeat(np.cumsum(windows) - windows, windows)
        self.start = sessions.offsets[session] + number * max_length
        self.length = np.minimum(max_length, sessions.offsets[session + 1] - self.start - 1)
        self.weight = np.ones(len(session), np.float32) if weights is None else weights[session]
        self.clicks = sessions.items
        self.size = size

    def __len__(self) -> int:
        """Batches of one epoch."""
        return -(-len(self.start) // self.size)

    def in_order(self) -> Iterator[Batch]:
        """Every window once, the short ones first."""
        return (batch for batch, _ in self.with_windows())

    def with_windows(self) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        """As :meth:`in_order`, and which windows each batch holds; ``start`` says where they begin in the clicks."""
        order = np.argsort(self.length, kind="stable")
        for begin in range(0, len(order), self.size):
            windows = order[begin : begin + self.size]
            yield self._batch(windows), windows

    def shuffled(self, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``first`` on, in an order that seed and epoch decide."""
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self.start))
        order = order[np.argsort(self.length[order], kind="stable")]
        numbers = random.permutation(len(self))
        for number in numbers[first:]:
            yield self._batch(order[number * self.size : (number + 1) * self.size])

    def _batch(self, windows: NDArray[np.int64]) -> Batch:
        length = self.length[windows]
        place = np.arange(length.max())
        there = place < length[:, None]
        click = self.start[windows][:, None] + np.minimum(place, length[:, None] - 1)
        items = np.where(there, self.clicks[click], 0).astype(np.int64)
        weight = np.broadcast_to(self.weight[windows][:, None], there.shape)
        return Batch(
            items=torch.from_numpy(items),
            there=torch.from_numpy(there),
            target=torch.from_numpy(self.clicks[click + 1][there].astype(np.int64)),
            weight=torch.from_numpy(weight[there].astype(np.float32)),
        )


def age_weights(sessions: int, decay: float) -> NDArray[np.float32]:
    """Weights of sessions in order of time, exp(-decay) from the newest to the oldest, with a mean of 1."""
    age = np.arange(sessions)[::-1] / max(1, sessions - 1)
    weights = np.exp(-decay * age)
    scaled: NDArray[np.float32] = (weights / weights.mean()).astype(np.float32)
    return scaled
