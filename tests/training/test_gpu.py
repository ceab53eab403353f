"""Training on a GPU, as far as a machine without one can show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hiersrec_training.batches import Batch, Batches
from hiersrec_training.config import Config
from hiersrec_training.covisitation import count_covisits
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.metrics import target_ranks
from hiersrec_training.model import Metadata
from hiersrec_training.run import load_model
from hiersrec_training.scored_examples import collect
from hiersrec_training.train import train
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
    monkeypatch.setattr(Batch, "to", to_gpu)
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
        monkeypatch.setattr(Batch, "to", to_gpu)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("cpu", "gpu"))
    assert all(torch.equal(first[name], second[name]) for name in first)
