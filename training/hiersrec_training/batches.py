"""Padded batches of windows of sessions, windows of like length together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hiersrec_training.data.dataset import Sessions
from hiersrec_training.examples import Examples, Windows


@dataclass(frozen=True)
class Batch:
    """B windows of T clicks at most, and their P positions, each with a next click, in row-major order."""

    items: Tensor  # int64 [B, T], padded with 0 at the end
    there: Tensor  # bool [B, T]
    target: Tensor  # int64 [P], the next click
    weight: Tensor  # float32 [P]

    def to(self, device: torch.device) -> Batch:
        return Batch(*(field.to(device) for field in (self.items, self.there, self.target, self.weight)))

    def every(self, step: int, first: int) -> Batch:
        """The windows number ``first``, ``first + step`` and so on, which may be none."""
        chosen = torch.arange(len(self.items), device=self.items.device) % step == first
        positions = chosen[:, None].expand_as(self.there)[self.there]
        return Batch(self.items[chosen], self.there[chosen], self.target[positions], self.weight[positions])

    def session_items(self) -> tuple[Tensor, Tensor, Tensor]:
        """Every pair of a position and a click up to it: position int64 [O] (sorted), item [O], distance [O]."""
        length = self.items.shape[1]
        at = torch.arange(length, device=self.items.device)
        pairs = self.there[:, :, None] & (at[:, None] >= at)  # [B, T, T]
        position = torch.cumsum(self.there.flatten(), 0).view_as(self.there) - 1
        row, state, click = pairs.nonzero(as_tuple=True)
        return position[row, state], self.items[row, click], state - click

    def co_clicks(self, window: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The pairs of different items that many clicks apart, for each distance up to ``window``, targets included.

        Yields:
            The distance; the earlier items int64 [N]; the later items [N].
        """
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
    """The windows of sessions (see :class:`~hiersrec_training.examples.Windows`), in padded batches of ``size``.

    ``weights`` float32 [sessions] weigh the positions of each session; None weighs all alike.
    """

    def __init__(
        self, sessions: Sessions, max_length: int, size: int, weights: NDArray[np.float32] | None = None
    ) -> None:
        self.windows = Windows.of(sessions, max_length)
        session = self.windows.session
        self.weight = np.ones(len(session), np.float32) if weights is None else weights[session]
        self.size = size

    def __len__(self) -> int:
        """Batches of one epoch."""
        return -(-len(self.windows) // self.size)

    def in_order(self) -> Iterator[Batch]:
        """Every window once, the short ones first."""
        return (batch for batch, _ in self.with_examples())

    def with_examples(self) -> Iterator[tuple[Batch, Examples]]:
        """Every window once, the short ones first, and the examples of each batch in the order of its targets."""
        order = np.argsort(self.windows.length, kind="stable")
        for begin in range(0, len(order), self.size):
            chosen = order[begin : begin + self.size]
            yield self._batch(chosen), self.windows.examples(chosen)

    def shuffled(self, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``first`` on, in an order that seed and epoch decide."""
        random = np.random.default_rng([seed, epoch])
        order = random.permutation(len(self.windows))
        order = order[np.argsort(self.windows.length[order], kind="stable")]
        numbers = random.permutation(len(self))
        for number in numbers[first:]:
            yield self._batch(order[number * self.size : (number + 1) * self.size])

    def _batch(self, chosen: NDArray[np.int64]) -> Batch:
        clicks, length = self.windows.clicks, self.windows.length[chosen]
        position = np.arange(length.max())
        there = position < length[:, None]
        click = self.windows.start[chosen][:, None] + np.minimum(position, length[:, None] - 1)
        items = np.where(there, clicks[click], 0).astype(np.int64)
        weight = np.broadcast_to(self.weight[chosen][:, None], there.shape)
        return Batch(
            items=torch.from_numpy(items),
            there=torch.from_numpy(there),
            target=torch.from_numpy(clicks[click + 1][there].astype(np.int64)),
            weight=torch.from_numpy(weight[there].astype(np.float32)),
        )


def age_weights(sessions: int, decay: float) -> NDArray[np.float32]:
    """Weights float32 [sessions], in order of time: exp(-decay) from the newest to the oldest, with a mean of 1."""
    age = np.arange(sessions)[::-1] / max(1, sessions - 1)
    weights = np.exp(-decay * age)
    scaled: NDArray[np.float32] = (weights / weights.mean()).astype(np.float32)
    return scaled
