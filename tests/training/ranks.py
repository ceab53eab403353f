"""What the ranks of :mod:`tests.training.test_distributed` do: started processes import it by name."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from hiersrec_sdk.errors import HierSRecError, RunError
from hiersrec_training import distributed
from hiersrec_training.batches import Batch
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.distributed import ALONE, Ranks
from hiersrec_training.loop import Loop
from hiersrec_training.run import RunInfo
from hiersrec_training.train import _Wanted, new_run
from hiersrec_training.validation import evaluate_model

STEPS = 200


class Trained(NamedTuple):
    """What some steps came to; ``weights``: a digest of all weights and moments of each rank."""

    losses: list[dict[str, float]]
    metrics: dict[str, float]
    weights: list[str]


def steps_of(data_path: Path, config: Config, ranks: Ranks = ALONE, steps: int = STEPS) -> Trained:
    """Train that many steps."""
    data = Dataset.load(data_path)
    with TemporaryDirectory() as folder:
        info = new_run(data, config, "cpu", ranks)
        loop = Loop(info, data, data.train, Path(folder), False, ignore, ranks)
    loop.model.train()
    losses: list[dict[str, float]] = []
    while len(losses) < steps:
        for batch in loop.batches.shuffled(config.seed, len(losses)):
            losses.append({name: loss.item() for name, loss in loop._step(loop._prepared(batch)).items()})
            loop.state["step"] += 1
    assert loop.validation is not None
    metrics = evaluate_model(loop.model, loop.meta, loop.validation, ranks=ranks)
    return Trained(
        losses, metrics, ranks.gathered(_digest({**loop.model.state_dict(), **loop.optimizer.state()}))
    )


def _digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


class Sums(nn.Module):
    """Parameters with every kind of gradient: small, large, none, and sparse, of a small and a large table."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.other = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(()))
        self.large, self.unused = nn.Parameter(torch.zeros(40, 5)), nn.Parameter(torch.zeros(7))
        self.rows = nn.Parameter(torch.zeros(9, 2))
        self.many_rows = nn.Parameter(torch.zeros(400, 3))

    def draw(self, random: torch.Generator) -> None:
        """Small integers, whose sums are exact."""
        for parameter in (self.small, self.other, self.large):
            parameter.grad = torch.randint(-9, 9, parameter.shape, generator=random).float()
        for table in (self.rows, self.many_rows):
            reached = int(torch.randint(0, len(table), (), generator=random))
            rows = torch.randint(
                0, len(table), (1, reached), generator=random
            )  # some more than once, or none
            values = torch.randint(-9, 9, (reached, table.shape[1]), generator=random).float()
            table.grad = torch.sparse_coo_tensor(rows, values, table.shape, check_invariants=True)


def wrong_sums(ranks: Ranks) -> list[str]:
    """The parameters whose gradients are not the sums of those of all ranks, and what is wrong with those."""
    wrong = []
    distributed.SMALL = 100
    for case in range(20):
        random = torch.Generator().manual_seed(case * ranks.size + ranks.rank)
        module = Sums()
        module.draw(random)
        every = ranks.gathered({name: one.grad for name, one in module.named_parameters()})
        loss = torch.tensor(float(ranks.rank + 1))
        if ranks.sum(module, {"loss": loss})["loss"] != sum(range(1, ranks.size + 1)):
            wrong.append("loss")
        for name, parameter in module.named_parameters():
            gradients = [one[name] for one in every]
            if name == "unused":
                wrong += [name] * (parameter.grad is not None)
                continue
            assert parameter.grad is not None
            total = sum(gradient.to_dense() for gradient in gradients if gradient is not None)
            wrong += [name] * (not torch.equal(parameter.grad.to_dense(), torch.as_tensor(total)))
            if parameter.grad.is_sparse:
                rows = parameter.grad.coalesce().indices()[0]
                reached = torch.cat([one.coalesce().indices()[0] for one in gradients if one is not None])
                wrong += [f"{name}: rows"] * (rows.tolist() != torch.unique(reached).tolist())
    distributed.SMALL = 1 << 20
    return wrong


class Found(NamedTuple):
    """What two ranks found out."""

    full: Trained
    sampled: Trained
    wrong_sums: list[list[str]]
    errors: list[str]
    numbers: list[list[float]]
    divergence: list[tuple[str, str]]
    stopped: list[tuple[str, str]]
    resumed: dict[Path, RunInfo]
    largest: list[int]
    processes: int


def everything(
    data: Path,
    config: Config,
    work: Path,
    to_resume: list[Path],
    ranks: Ranks,
    report: Callable[[str], None],
) -> Found:
    """All that needs two ranks, in one start of them. ``to_resume``: interrupted runs."""
    report(f"rank {ranks.rank}")
    full = steps_of(data, config, ranks)
    sampled = steps_of(data, replace(config, sampled_above=10), ranks)

    def fails() -> None:
        raise RunError(f"rank {ranks.rank} fails")

    try:
        ranks.once(fails)
        error = ""
    except RunError as caught:
        error = str(caught)
    torch.manual_seed(7)
    common = float(torch.rand(()))
    ranks.own_random_numbers()
    numbers = [common, float(torch.rand(()))]
    return Found(
        full,
        sampled,
        ranks.gathered(wrong_sums(ranks)),
        ranks.gathered(error),
        ranks.gathered(numbers),
        ranks.gathered(_diverges(data, config, work, ranks)),
        ranks.gathered(_is_stopped(data, config, work, ranks)),
        {run: _wanted(data, run, config, resume=True).run(ranks, ignore) for run in to_resume},
        ranks.gathered(ranks.largest(3 - ranks.rank)),
        new_run(Dataset.load(data), config, "cpu", ranks).processes,
    )


def _diverges(data: Path, config: Config, work: Path, ranks: Ranks) -> tuple[str, str]:
    """The error of a rank where the loss of rank 1's share is NaN at step 10."""

    def spoil(share: Batch) -> Batch:
        return replace(share, weight=share.weight * float("nan"))

    return _error(_wanted(data, work / "diverged", config), ranks, 10, spoil)


def _is_stopped(data: Path, config: Config, work: Path, ranks: Ranks) -> tuple[str, str]:
    """The error of a rank where rank 1 gets a signal in step 10."""

    def signals(share: Batch) -> Batch:
        os.kill(os.getpid(), signal.SIGTERM)
        return share

    return _error(_wanted(data, work / "stopped", config), ranks, 10, signals)


def _wanted(data: Path, out: Path, config: Config, resume: bool = False) -> _Wanted:
    return _Wanted(data, out, config, False, None, "cpu", resume, None, False)


def _error(wanted: _Wanted, ranks: Ranks, step: int, change: Callable[[Batch], Batch]) -> tuple[str, str]:
    """The kind and the words of what is raised on a rank where rank 1's share of one step changes."""
    original, shares = Ranks.share, count(1)

    def changed(self: Ranks, batch: Batch) -> Batch:
        share = original(self, batch)
        return change(share) if next(shares) == step and self.rank == 1 else share

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ranks, "share", changed)
        try:
            wanted.run(ranks, ignore)
        except HierSRecError as error:
            return type(error).__name__, str(error)
    return "", ""


def ignore(line: str) -> None:
    """Takes a line and prints nothing."""


def fails_alone(ranks: Ranks, report: Callable[[str], None]) -> int:
    """Rank 1 has a bug; rank 0 waits for it."""
    if ranks.rank == 1:
        raise ZeroDivisionError
    return ranks.largest(0)
