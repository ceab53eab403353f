"""The ranks: processes that train one model together, each on its share of every batch.

Every rank holds the whole model and makes the whole batch. It computes the losses of its share of the windows, divided
by the positions of the whole batch, and the gradients of all ranks are summed. So all ranks take the step that one
process would take, and their weights stay equal bit for bit.

This is not ``DistributedDataParallel``: that wraps a module with one ``forward``, where a step here calls several
parts of the model; and it would send the item table's sparse gradients row by row as often as ranks reach the row. Nor
is there much to overlap: the gradient of the item table, the largest by far, is the last of the backward pass.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hiersrec_sdk.errors import InvalidOptionError, RunError
from hiersrec_sdk.shown import shortened
from hiersrec_training.batches import Batch
from hiersrec_training.memory import is_out_of_memory

T = TypeVar("T")
SMALL = 1 << 20  # numbers of a gradient that is sent together with others
# rank 0 may count the graph for hours; a rank that dies is noticed by its closed connections, and by who started it
LONGEST_WAIT = timedelta(days=30)
LAST_WORDS = 3.0  # seconds that a rank leaves to whoever ends it, after another rank was lost


@dataclass(frozen=True)
class Ranks:
    """This process among the ``size`` that train together; by default it is alone.

    All ranks call the methods in one order: each waits for the others.

    Attributes:
        rank: its number, from 0.
        size: of the whole group.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes and reports."""
        return self.rank == 0

    def check_devices(self, device: str) -> None:
        """Raise :class:`InvalidOptionError` where ranks have a GPU in common: each needs one to itself.

        How many a rank sees says nothing: some clusters show each rank its own one alone.
        """
        if device != "cuda" or self.size == 1:
            return
        mine = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        gpus = len(set(self.gathered(str(mine))))
        if gpus < self.size:
            raise InvalidOptionError(
                f"on device cuda there must be a GPU for each process, got {self.size} processes and {gpus} "
                f"GPU{'s' * (gpus > 1)}; start fewer with --processes, or use --device cpu"
            )

    def share(self, batch: Batch) -> Batch:
        """The windows of ``batch`` that are this rank's: every ``size``-th, since the lengths rise. May be none."""
        return batch if self.size == 1 else batch.every(self.size, self.rank)

    def some(self, each: Iterable[T]) -> Iterator[T]:
        """Every ``size``-th of ``each``: together the ranks have them all."""
        return islice(each, self.rank, None, self.size)

    def own_random_numbers(self) -> None:
        """From here on other random numbers than those of other ranks, which so far were the same.

        Otherwise a window would have its dropout mask in common with one of each other rank.
        """
        if self.rank:
            torch.manual_seed(torch.initial_seed() ^ (self.rank << 53))

    def once(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on rank 0, which alone does it, once all have come here. Its error is everybody's."""
        if self.size == 1:
            return work()
        found: list[list[T] | Exception] = [[]]
        with _others():
            dist.all_reduce(torch.zeros(1))  # a barrier; NCCL's own would be one of GPUs
        if self.is_first:
            try:
                found = [[work()]]
            except Exception as error:
                found = [error]
        with _others():
            dist.broadcast_object_list(found, device=torch.device("cpu"))
        (outcome,) = found
        if isinstance(outcome, Exception):
            raise outcome
        return outcome[0]

    def copy(self, *tensors: Tensor) -> None:
        """Give ``tensors`` the values that they have on rank 0."""
        if self.size > 1:
            with _others():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)

    def gathered(self, value: T) -> list[T]:
        """The ``value`` of each rank."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        with _others():
            dist.all_gather_object(values, value)
        return values

    def largest(self, number: int) -> int:
        """The largest ``number`` of a rank."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        with _others():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def sum(self, module: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum the gradients of ``module`` over the ranks, in place; returns the sums of the ``losses``.

        A table with sparse gradients sends the rows that a step reaches, never the table.
        """
        if self.size == 1:
            return losses
        small = [torch.stack([loss.detach().float() for loss in losses.values()])]
        with _others():
            for parameter in module.parameters():
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse:
                    gradient = parameter.grad = self._with_rows_of_all(gradient.coalesce())
                    gradient = gradient.values()
                if gradient.numel() > SMALL:
                    dist.all_reduce(gradient)
                else:
                    small.append(gradient)
            together = torch.cat([tensor.flatten() for tensor in small])
            dist.all_reduce(together)
        for tensor, total in zip(small, together.split([one.numel() for one in small]), strict=True):
            tensor.copy_(total.view_as(tensor))
        return dict(zip(losses, small[0], strict=True))

    def _with_rows_of_all(self, gradient: Tensor) -> Tensor:
        """``gradient``, coalesced, with zeros in the rows that only other ranks reach: each rank then has the same.

        So only indices travel to all. Values are summed along a ring, and what a rank sends hardly grows with the
        number of ranks, though most reach the same rows: those of the sampled items and of their neighbors.
        """
        (rows,) = gradient.indices()
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        longest = int(torch.cat(counts).max())
        padded = rows.new_full((longest,), -1)
        padded[: len(rows)] = rows
        each = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(each, padded)
        union = torch.unique(torch.cat(each))
        union = union[torch.searchsorted(union, 0) :]  # without the padding
        values = gradient.values()
        wide = values.new_zeros(len(union), values.shape[1])
        wide[torch.searchsorted(union, rows)] = values
        return torch.sparse_coo_tensor(
            union[None], wide, gradient.shape, is_coalesced=True, check_invariants=False
        )


ALONE = Ranks()


def uses_gpus(device: str) -> bool:
    """Whether ranks that are told to train on ``device`` have GPUs to use."""
    return device != "cpu" and torch.cuda.is_available()


@contextmanager
def joined(ranks: Ranks, local_rank: int, init_method: str, device: str) -> Iterator[Ranks]:
    """Meet the other ranks: over gloo on CPUs, and NCCL on GPUs, of which each rank has one.

    With ``device`` "cpu" no GPU is touched: a rank that did would take memory of it.
    """
    has_gpus = uses_gpus(device)
    if has_gpus and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpus else "gloo",
        init_method=init_method,
        rank=ranks.rank,
        world_size=ranks.size,
        timeout=LONGEST_WAIT,
    )
    try:
        yield ranks
    except BaseException:
        if not has_gpus:  # NCCL would wait for the other ranks, which may wait for this one
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()


@contextmanager
def from_environment(device: str) -> Iterator[Ranks]:
    """The ranks that ``torchrun`` has started, to train on ``device``; without it, this process alone."""
    if not started_by_torchrun():
        yield ALONE
        return
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    with joined(Ranks(rank, size), local_rank, "env://", device) as ranks:
        yield ranks


def started_by_torchrun() -> bool:
    """Whether this process is one of several that ``torchrun`` has started."""
    return dist.is_torchelastic_launched()


@contextmanager
def _others() -> Iterator[None]:
    """Turn a failure to reach the other ranks into a :class:`RunError`.

    It is never the first error of a training, so whoever started the ranks is given time to find that one.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        time.sleep(LAST_WORDS)
        raise RunError(
            f"another process of this training does not answer, so this one cannot go on ({shortened(error)}); "
            "--resume goes on from the newest checkpoint"
        ) from error
