"""Padded batches of windows of sessions, windows of like length together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hiersrec_training.data.dataset import Sessions
from hiersrec_training.examples import Examples, Windows

T = TypeVar("T")


@dataclass(frozen=True)
class Inputs:
    """A batch as the model reads it: B windows of T clicks at most, their P positions, and O clicks up to a position.

    All that depends on the lengths of windows is worked out before it goes to a GPU, which otherwise would have to say
    how large each of its results is before the next computation can begin.
    """

    items: Tensor  # int64 [B, T], padded with 0 at the end
    position: Tensor  # int64 [P], each position's place in the B · T clicks, rising
    target: Tensor  # int64 [P], the next click
    weight: Tensor  # float32 [P]
    click_position: Tensor  # int64 [O], sorted
    click_item: Tensor  # int64 [O]
    click_distance: Tensor  # int64 [O], to the newest click of the position
    starts: list[int]  # [P + 1], where each position's clicks begin among the O, and where the last ones end

    def at_positions(self, table: Tensor) -> Tensor:
        """The rows of ``table`` [B, T, d] at the positions: [P, d]."""
        return table.flatten(0, 1).index_select(0, self.position)

    def to(self, device: torch.device) -> Inputs:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Inputs:
        """In memory that a GPU copies by itself, while the CPU goes on."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **changed)


@dataclass(frozen=True)
class Batch:
    """B windows of T clicks at most, and their P positions, each with a next click, in row-major order. On the CPU."""

    items: Tensor  # int64 [B, T], padded with 0 at the end
    there: Tensor  # bool [B, T]
    target: Tensor  # int64 [P], the next click
    weight: Tensor  # float32 [P]

    def every(self, step: int, first: int) -> Batch:
        """The windows number ``first``, ``first + step`` and so on, which may be none."""
        chosen = torch.arange(len(self.items)) % step == first
        positions = chosen[:, None].expand_as(self.there)[self.there]
        return Batch(self.items[chosen], self.there[chosen], self.target[positions], self.weight[positions])

    def inputs(self) -> Inputs:
        """The batch as the model reads it."""
        length = self.items.shape[1]
        position = self.there.flatten().nonzero()[:, 0]
        clicks = position % max(1, length) + 1  # up to each position
        starts = F.pad(clicks.cumsum(0), (1, 0))
        click_position = torch.arange(len(position)).repeat_interleave(clicks)
        distance = clicks[click_position] - 1 - torch.arange(len(click_position)) + starts[click_position]
        return Inputs(
            items=self.items,
            position=position,
            target=self.target,
            weight=self.weight,
            click_position=click_position,
            click_item=self.items.flatten()[position[click_position] - distance],
            click_distance=distance,
            starts=starts.tolist(),
        )

    def co_clicks(self, window: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The pairs of different items that many clicks apart, for each distance up to ``window``, targets included.

        Yields:
            The distance; the earlier items int64 [N]; the later items [N].
        """
        length = self.there.sum(1)  # [B]
        clicks = F.pad(self.items, (0, 1))  # [B, T + 1]
        newest = self.target[length.cumsum(0) - 1]
        clicks.scatter_(1, length[:, None], newest[:, None])
        there = torch.arange(clicks.shape[1]) <= length[:, None]
        for distance in range(1, min(window, clicks.shape[1] - 1) + 1):
            first, second = clicks[:, :-distance], clicks[:, distance:]
            pairs = there[:, distance:] & (first != second)
            yield distance, first[pairs], second[pairs]


def ahead(each: Iterator[T]) -> Iterator[T]:
    """The same ones, each made by a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        found = [thread.submit(next, each, None)]
        while (one := found.pop().result()) is not None:
            found.append(thread.submit(next, each, None))
            yield one


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
