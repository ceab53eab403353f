"""Training on a GPU beside the CPU. Skipped where there is none: test_gpu.py has what can be shown without one."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from hiersrec_export.export import export
from hiersrec_sdk import Recommender
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.loop import Loop
from hiersrec_training.run import RunInfo
from hiersrec_training.train import new_run, train
from hiersrec_training.validation import evaluate_model
from tests.conftest import quiet
from tests.training.dying import dies_at

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
DEVICE = "cuda"


def loop_of(data: Dataset, config: Config, device: str) -> Loop:
    loop = Loop(new_run(data, config, device), data, data.train, Path(), False, quiet)
    loop.model.train()
    return loop


def losses_of(loop: Loop, steps: int) -> list[float]:
    losses = []
    for batch in islice(loop.batches.shuffled(0, 0), steps):
        losses.append(loop._step(loop._prepared(batch))["loss"].item())
        loop.state["step"] += 1
    return losses


def test_losses_and_metrics_are_those_of_the_cpu(tiny_data: Path, tiny_config: Config) -> None:
    """Without dropout, whose masks differ."""
    data, config = Dataset.load(tiny_data), replace(tiny_config, dropout=0.0, precision="float32")
    loops = [loop_of(data, config, device) for device in ("cpu", DEVICE)]
    on_cpu, on_gpu = (losses_of(loop, 30) for loop in loops)
    assert on_gpu[:5] == pytest.approx(on_cpu[:5], rel=1e-4)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-2)  # rounding grows with the steps
    found = []
    for loop in loops:
        assert loop.validation is not None
        found.append(evaluate_model(loop.model, loop.meta, loop.validation))
    assert found[1] == pytest.approx(found[0], abs=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_with_the_full_softmax_waits_for_no_result(
    precision: str, tiny_data: Path, tiny_config: Config
) -> None:
    loop = loop_of(Dataset.load(tiny_data), replace(tiny_config, precision=precision), DEVICE)
    first, *others = islice(loop.batches.shuffled(0, 0), 6)
    loop._step(loop._prepared(first))  # makes what is made once
    prepared = [loop._prepared(batch) for batch in others]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for each in prepared:
            loop._step(each)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("sampled_above", [10, 1000])
@pytest.mark.parametrize("then", [DEVICE, "cpu"])
def test_a_run_is_interrupted_and_goes_on_and_is_exported(
    sampled_above: int, then: str, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    config = replace(tiny_config, sampled_above=sampled_above)

    def run(name: str, device: str, resume: bool = False) -> RunInfo:
        return train(
            tiny_data, tmp_path / name, config, device=device, resume=resume, progress=False, report=quiet
        )

    whole = run("whole", "cpu")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        dies_at(9, patch)
        run("run", DEVICE)
    info = run("run", then, resume=True)
    assert info.device == then
    assert info.metrics["recall@20"] == pytest.approx(
        whole.metrics["recall@20"], abs=0.2
    )  # other random numbers
    export(tmp_path / "run", tmp_path / "bundle", report=quiet)
    Recommender.load(tmp_path / "bundle")
