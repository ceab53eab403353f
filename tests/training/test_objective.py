"""The items that a sampled softmax draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.loop import Loop
from hiersrec_training.train import new_run
from tests.conftest import quiet


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53], ids=["least", "largest"])
def test_an_item_without_a_chance_is_never_drawn(
    number: float,
    tiny_config: Config,
    tmp_path: Path,
    make_dataset: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its logarithm is infinite, and so would be the loss of that step, however often it is done again."""
    data = make_dataset()
    kept = ~np.isin(data.train.items, [0, 1, data.items - 1])  # which no item is drawn before, and after
    session = np.repeat(np.arange(len(data.train)), data.train.lengths)[kept]
    offsets = np.concatenate([[0], np.bincount(session, minlength=len(data.train)).cumsum()]).astype(np.int64)
    sessions = Sessions(data.train.items[kept], offsets)
    config = replace(tiny_config, sampled_above=10, neighbors=0, id_dropout=0.2)
    loop = Loop(new_run(data, config, "cpu"), data, sessions, tmp_path, False, quiet)
    loop.model.train()
    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.full(size, number, **options))
    losses = loop.objective.losses(next(loop.batches.in_order()).inputs())
    assert all(loss.isfinite() for loss in losses.values())
