"""Training on a GPU, as far as a machine without one can show it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hiersrec_training.batches import Batches, Inputs
from hiersrec_training.config import Config
from hiersrec_training.covisitation import count_covisits
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.loop import Loop
from hiersrec_training.metrics import target_ranks
from hiersrec_training.model import Metadata
from hiersrec_training.objective import Objective
from hiersrec_training.run import load_model
from hiersrec_training.scored_examples import ScoredExamples, collect
from hiersrec_training.smoothing import ReverseEdges
from hiersrec_training.train import new_run, train
from hiersrec_training.validation import evaluate_model
from tests.conftest import quiet
from tests.training.gpu import OnGpu, to_gpu


def test_ranks_are_counted_there_and_brought_to_numpy() -> None:
    scores, targets = torch.rand(50, 9), torch.randint(0, 9, (50,))
    wanted = target_ranks(scores.numpy(), targets.numpy())
    np.testing.assert_array_equal(target_ranks(scores, targets), wanted)
    found = target_ranks(scores.as_subclass(OnGpu), targets.as_subclass(OnGpu))
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == np.int64


def test_validation_and_examples_are_those_of_the_cpu(
    tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    meta = Metadata.of(data, info.shape, info.config)

    def found() -> tuple[dict[str, float], dict[str, Any]]:
        examples = collect(model, meta, count_covisits(data.train, data.items), data.validation)
        return evaluate_model(model, meta, Batches(data.validation, 6, 16)), vars(examples)

    metrics, examples = found()
    monkeypatch.setattr(Inputs, "to", to_gpu)
    assert found()[0] == metrics
    for name, value in found()[1].items():
        np.testing.assert_array_equal(value, examples[name])


@pytest.mark.parametrize("sampled_above", [10, 1000])
def test_a_whole_run_needs_no_array_of_the_gpu(
    sampled_above: int, tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.from_dict(tiny_config.as_dict() | {"sampled_above": sampled_above})
    for name in ("cpu", "gpu"):
        train(tiny_data, tmp_path / name, config, device="cpu", progress=False, report=quiet)
        for inputs in (Inputs, ScoredExamples):
            monkeypatch.setattr(inputs, "to", to_gpu)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("cpu", "gpu"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "changed", [{}, {"id_dropout": 0.2}, {"neighbors": 0}, {"precision": "bfloat16"}], ids=str
)
def test_a_step_with_the_full_softmax_waits_for_no_result(
    changed: dict[str, Any], tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    """On the device "meta" tensors have no values: a result that would be waited for is an error there."""
    data, config = Dataset.load(tiny_data), Config.from_dict(tiny_config.as_dict() | changed)
    with on_meta(data, config, tmp_path) as (loop, prepared):
        losses = loop._step(prepared)
    assert {loss.device.type for loss in losses.values()} == {"meta"}
    assert loop.model.items.item is not None
    assert loop.model.items.item.weight.grad is not None


def test_a_step_with_the_sampled_softmax_has_to_know_which_items_are_drawn(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = Config.from_dict(tiny_config.as_dict() | {"sampled_above": 10})
    with (
        on_meta(Dataset.load(tiny_data), config, tmp_path) as (loop, prepared),
        pytest.raises(NotImplementedError, match="aten::_unique2"),
    ):
        loop._step(prepared)


@contextmanager
def on_meta(data: Dataset, config: Config, folder: Path) -> Iterator[tuple[Loop, Any]]:
    """A training on the device "meta", without an optimizer, which has no form for it; and its first step."""
    meta = torch.device("meta")
    loop = Loop(new_run(data, config, "cpu"), data, data.train, folder, False, quiet)
    prepared = loop._prepared(next(loop.batches.shuffled(0, 0)))
    loop.model.train()
    if config.neighbors:  # which is made once
        loop.model.items._reverse_edges = ReverseEdges(
            *(each.to(meta) for each in loop.model.items._connect_back())
        )
    loop.device, loop.model, loop.meta = meta, loop.model.to(meta), loop.meta.to(meta)
    clicks = np.bincount(data.train.items, minlength=data.items)
    loop.objective = Objective(loop.model, loop.meta, clicks, loop.objective.dtype)
    with patch.multiple(loop.optimizer, zero_grad=lambda: None, step=lambda rate: None):
        yield loop, prepared
