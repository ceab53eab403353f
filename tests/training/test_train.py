from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hiersrec_sdk.errors import DataError, EmptyLogError, InterruptedRunError, RunError
from hiersrec_training import loop as loop_module
from hiersrec_training import run as run_module
from hiersrec_training.baselines import baseline, evaluate_baseline
from hiersrec_training.batches import Batches
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.run import RunInfo, load_model, part_of
from hiersrec_training.train import train


def quiet(data: Path, out: Path, config: Config, **options: Any) -> RunInfo:
    return train(data, out, config, device="cpu", progress=False, report=lambda line: None, **options)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_learns_and_leaves_a_whole_run(tiny_run: Path, tiny_data: Path, tiny_config: Config) -> None:
    assert sorted(path.name for path in tiny_run.iterdir()) == [
        "curves.png",
        "metrics.jsonl",
        "model.safetensors",
        "run.json",
    ]
    assert not part_of(tiny_run).exists()
    model, info = load_model(tiny_run)
    assert info.config == tiny_config
    data = Dataset.load(tiny_data)
    popular = evaluate_baseline(baseline("popular", data.train, data.items), data.validation)
    assert info.metrics["mrr@20"] > 2 * popular["mrr@20"]
    assert info.metrics["category_accuracy_1"] > 0.6  # by chance: 0.125
    assert not model.training
    validations = [line for line in lines(tiny_run) if "validation" in line]
    assert [line["epoch"] for line in validations] == [1, 2]
    assert max(line["validation"]["mrr@20"] for line in validations) == info.metrics["mrr@20"]


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    quiet(tiny_data, tmp_path / "same", tiny_config)
    quiet(tiny_data, tmp_path / "other", Config.from_dict(tiny_config.as_dict() | {"seed": 5}))
    weights = [
        load_file(path / "model.safetensors") for path in (tiny_run, tmp_path / "same", tmp_path / "other")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["items.item.weight"], weights[2]["items.item.weight"])


@pytest.mark.parametrize("step", [1, 7, 9, 12, 20])
@pytest.mark.slow
def test_a_killed_and_resumed_run_gives_the_same_weights(
    tiny_run: Path,
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    """Killed without warning: what is on the disk is the newest checkpoint, and log lines after it."""
    original = loop_module.Loop._step

    def dies(self: Any, batch: Any) -> Any:
        if self.state["step"] == step:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setattr(loop_module, "LOG_STEPS", 3)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop_module.Loop, "_step", dies)
        quiet(tiny_data, tmp_path / "run", tiny_config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(RunError, match="--resume"):
        quiet(tiny_data, tmp_path / "run", tiny_config)
    with pytest.raises(RunError, match="not finished"):
        load_model(tmp_path / "run")
    info = quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)
    whole, resumed = (load_file(path / "model.safetensors") for path in (tiny_run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert info.metrics == RunInfo.load(tiny_run).metrics
    steps = [(line["step"], "validation" in line) for line in lines(tmp_path / "run")]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_with_a_checkpoint(
    tiny_run: Path,
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    original = loop_module.Loop._step

    def signals(self: Any, batch: Any) -> Any:
        if self.state["step"] == 4:
            os.kill(os.getpid(), number)
        return original(self, batch)

    with monkeypatch.context() as patch, pytest.raises(InterruptedRunError, match="step 5"):
        patch.setattr(loop_module.Loop, "_step", signals)
        quiet(tiny_data, tmp_path / "run", tiny_config)
    quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)
    whole, resumed = (load_file(path / "model.safetensors") for path in (tiny_run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (3, "--resume goes on from checkpoint-00000003"),
        (0, "there is no checkpoint: remove .*lower learning_rate"),
    ],
)
def test_a_signal_while_it_diverges_says_what_is_left(
    written: int,
    message: str,
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = loop_module.Loop._step

    def signals(self: Any, batch: Any) -> Any:
        if self.state["step"] == 4:
            monkeypatch.setattr(loop_module, "EXPLODED", 0.0)
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch)

    monkeypatch.setattr(loop_module.Loop, "_step", signals)
    config = replace(tiny_config, checkpoint_steps=written or 1_000)
    with pytest.raises(InterruptedRunError, match=f"stopped by signal 2 at step 5: {message}"):
        quiet(tiny_data, tmp_path / "run", config)


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize(
    ("moment", "epoch"),
    [("validation", 1), ("validation", 2), ("last step", 1), ("last step", 2), ("end", 1)],
)
@pytest.mark.slow
def test_a_break_between_two_epochs_changes_nothing(
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    epoch: int,
    final: bool,
) -> None:
    """Killed before an epoch's validation is noted, asked to stop in its last step, killed after its checkpoint."""
    whole = quiet(tiny_data, tmp_path / "whole", tiny_config, final=final)
    steps = loop_module.Loop._epoch
    last = epoch * len(batches_of(tiny_data, tiny_config, final))
    with monkeypatch.context() as patch:
        if moment == "validation":
            validate = loop_module.Loop._validate

            def dies(self: Any, number: int) -> None:
                validate(self, number)
                if number == epoch - 1:
                    raise KeyboardInterrupt

            patch.setattr(loop_module.Loop, "_validate", dies)
        elif moment == "last step":
            original = loop_module.Loop._step

            def signals(self: Any, batch: Any) -> Any:
                if self.state["step"] == last - 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                return original(self, batch)

            patch.setattr(loop_module.Loop, "_step", signals)
        else:

            def stops(self: Any, number: int, *rest: Any) -> None:
                if number == epoch:
                    raise KeyboardInterrupt
                steps(self, number, *rest)

            patch.setattr(loop_module.Loop, "_epoch", stops)
        with pytest.raises((KeyboardInterrupt, InterruptedRunError)):
            quiet(tiny_data, tmp_path / "run", tiny_config, final=final)
    info = quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)
    assert (info.best_epoch, info.metrics, info.final) == (whole.best_epoch, whole.metrics, final)
    weights, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    noted = [line["epoch"] for line in lines(tmp_path / "run") if "validation" in line]
    assert noted == ([] if final else [1, 2])


def batches_of(data_path: Path, config: Config, final: bool) -> Batches:
    data = Dataset.load(data_path)
    sessions = data.train.then(data.validation) if final else data.train
    return Batches(sessions, config.max_length, config.batch_sessions)


@pytest.mark.slow
def test_resume_holds_in_bfloat16_with_two_threads(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.from_dict(tiny_config.as_dict() | {"precision": "bfloat16", "epochs": 1})
    original = loop_module.Loop._step

    def dies(self: Any, batch: Any) -> Any:
        if self.state["step"] == 9:
            raise KeyboardInterrupt
        return original(self, batch)

    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # else the CPUs of this machine are the most
    torch.set_num_threads(2)
    try:
        quiet(tiny_data, tmp_path / "whole", config)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(loop_module.Loop, "_step", dies)
            quiet(tiny_data, tmp_path / "run", config)
        torch.set_num_threads(1)  # the run remembers
        assert quiet(tiny_data, tmp_path / "run", config, resume=True).threads == 2
    finally:
        torch.set_num_threads(1)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_final_trains_on_both_splits_without_validation(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    info = quiet(tiny_data, tmp_path / "run", tiny_config, final=True)
    data = Dataset.load(tiny_data)
    assert info.final
    assert info.best_epoch == tiny_config.epochs
    assert info.metrics == {}
    sessions = data.train.then(data.validation)
    windows = sum(-(-(length - 1) // tiny_config.max_length) for length in sessions.lengths.tolist())
    loop = loop_module.Loop(info, data, sessions, tmp_path, False, lambda line: None)
    assert len(loop.batches.windows) == windows
    assert loop.steps == tiny_config.epochs * len(loop.batches)


def test_training_stops_early_and_keeps_the_best_epoch(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([0.3, 0.5, 0.4, 0.2, 0.9])
    monkeypatch.setattr(loop_module, "evaluate_model", lambda *_: {"mrr@20": next(figures), "recall@20": 0.5})
    config = Config.from_dict(tiny_config.as_dict() | {"epochs": 5, "patience": 2})
    info = quiet(tiny_data, tmp_path / "run", config)
    assert info.best_epoch == 2
    assert info.metrics["mrr@20"] == 0.5
    assert [line["epoch"] for line in lines(tmp_path / "run") if "validation" in line] == [1, 2, 3, 4]


def test_sampled_softmax_learns_too(tiny_data: Path, tiny_config: Config, tmp_path: Path) -> None:
    reports: list[str] = []
    config = Config.from_dict(tiny_config.as_dict() | {"sampled_above": 10})
    info = train(tiny_data, tmp_path / "run", config, device="cpu", progress=False, report=reports.append)
    assert "sampled" in reports[0]
    data = Dataset.load(tiny_data)
    popular = evaluate_baseline(baseline("popular", data.train, data.items), data.validation)
    assert info.metrics["mrr@20"] > 2 * popular["mrr@20"]


def test_a_sampled_run_holds_its_sparse_moments_over_a_break(
    tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.from_dict(tiny_config.as_dict() | {"sampled_above": 10})
    original = loop_module.Loop._step

    def dies(self: Any, batch: Any) -> Any:
        if self.state["step"] == 9:
            raise KeyboardInterrupt
        return original(self, batch)

    quiet(tiny_data, tmp_path / "whole", config)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop_module.Loop, "_step", dies)
        quiet(tiny_data, tmp_path / "run", config)
    quiet(tiny_data, tmp_path / "run", config, resume=True)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_sampled_step_leaves_the_items_it_does_not_reach(
    tmp_path: Path, tiny_config: Config, make_dataset: Callable[..., Dataset]
) -> None:
    make_dataset(items=600).save(tmp_path / "data")
    data = Dataset.load(tmp_path / "data")
    config = Config.from_dict(tiny_config.as_dict() | {"sampled_above": 10, "epochs": 1})
    info = quiet(tmp_path / "data", tmp_path / "run", config)
    loop = loop_module.Loop(info, data, data.train, tmp_path, False, lambda line: None)
    assert loop.model.items.item is not None
    weights = loop.model.items.item.weight
    for batch in list(loop.batches.in_order())[:2]:
        before = weights.detach().clone()
        loop._step(loop._prepared(batch))
        assert weights.grad is not None
        assert weights.grad.is_sparse
        reached = weights.grad.coalesce().indices()[0]
        changed = (weights != before).any(1).nonzero()[:, 0]
        assert set(changed.tolist()) <= set(reached.tolist())
        assert set(batch.items[batch.there].tolist()) <= set(changed.tolist())
        assert len(reached) < 300


def test_the_sampled_loss_of_a_step_tends_to_the_full_one(
    tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    data = Dataset.load(tiny_data)
    config = Config.from_dict(tiny_config.as_dict() | {"samples": 200_000, "dropout": 0.0})
    info = quiet(tiny_data, tmp_path / "run", config)
    loop = loop_module.Loop(info, data, data.train, tmp_path, False, lambda line: None)
    torch.nn.init.normal_(loop.model.session.repeat_head.weight)
    loop.model.eval()
    for batch in list(loop.batches.in_order())[:3]:
        inputs = batch.inputs()
        full, sampled = loop.objective._full(inputs), loop.objective._sampled(inputs)
        torch.testing.assert_close(full["item_loss"], sampled["item_loss"], rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(full["category_loss_1"], sampled["category_loss_1"])


def test_errors_say_what_is_wrong(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path, make_dataset: Callable[..., Dataset]
) -> None:
    with pytest.raises(RunError, match="exists already"):
        quiet(tiny_data, tiny_run, tiny_config)
    with pytest.raises(RunError, match="no interrupted run"):
        quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)
    with pytest.raises(DataError, match="is not a dataset"):
        quiet(tmp_path, tmp_path / "run", tiny_config)
    if not torch.cuda.is_available():
        with pytest.raises(RunError, match="no GPU"):
            train(tiny_data, tmp_path / "run", tiny_config, device="cuda")
    with pytest.raises(RunError, match="is not a training run"):
        load_model(tmp_path)
    assert not list(tmp_path.iterdir())


def test_vectors_that_no_run_could_hold_are_refused_before_the_training(
    tiny_config: Config, tmp_path: Path, make_dataset: Callable[..., Dataset]
) -> None:
    data = make_dataset()
    replace(data, vectors=np.zeros((data.items, 65_537), np.float32)).save(tmp_path / "data")
    with pytest.raises(DataError, match="vectors have 65,537 numbers, of which a model reads 65,536 at most"):
        quiet(tmp_path / "data", tmp_path / "run", tiny_config)
    assert not part_of(tmp_path / "run").exists()


def test_a_data_set_without_validation_split_needs_final(
    tiny_config: Config, tmp_path: Path, make_dataset: Callable[..., Dataset]
) -> None:
    data = make_dataset()
    empty = data.validation.__class__(data.validation.items[:0], data.validation.offsets[:1])
    replace(data, validation=empty).save(tmp_path / "data")
    with pytest.raises(EmptyLogError, match="--final"):
        quiet(tmp_path / "data", tmp_path / "run", tiny_config)
    assert quiet(tmp_path / "data", tmp_path / "run", tiny_config, final=True).best_epoch == 2


def test_a_run_is_resumed_with_its_own_data_only(
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    make_dataset: Callable[..., Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def dies(self: Any, batch: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop_module.Loop, "_step", dies)
        quiet(tiny_data, tmp_path / "run", tiny_config)
    make_dataset(seed=1).save(tmp_path / "other")
    with pytest.raises(RunError, match="other data"):
        quiet(tmp_path / "other", tmp_path / "run", tiny_config, resume=True)


def test_a_full_disk_leaves_no_run_but_what_can_be_resumed(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run_module.save_weights

    def full(model: Any, path: Path) -> None:
        if path.parent.name.startswith("checkpoint-00000014-0000.part-"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        original(model, path)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "save_weights", full)
        try:
            with pytest.raises(RunError, match="--resume"):
                quiet(tiny_data, tmp_path / "run", tiny_config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "run").exists()
    quiet(tiny_data, tmp_path / "run", tiny_config, resume=True)
    whole, resumed = (load_file(path / "model.safetensors") for path in (tiny_run, tmp_path / "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"half a header", r"model\.safetensors does not hold"),
        ("model.safetensors", None, r"model\.safetensors does not hold"),
        ("run.json", b"{", r"run\.json cannot be read"),
        ("run.json", b"[]", "does not describe"),
        ("run.json", b'{"format": "hiersrec-run", "schema_version": 99}', "schema version 99.*upgrade"),
        (
            "run.json",
            b'{"format": "hiersrec-run", "schema_version": 1}',
            "schema version 1.*hiersrec train DATA",
        ),
        ("run.json", b'{"format": "hiersrec-run"}', "schema version None"),
        ("run.json", b'{"format": "hiersrec-run", "schema_version": 3}', "not as this version writes it"),
    ],
)
def test_a_damaged_run_is_named(
    tiny_run: Path, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")
    path = tmp_path / "run" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError, match=message):
        load_model(tmp_path / "run")


@pytest.mark.parametrize("sampled_above", [10, 1000])
def test_items_that_nobody_clicked_are_no_negatives(
    sampled_above: int, tmp_path: Path, tiny_config: Config, make_dataset: Callable[..., Dataset]
) -> None:
    data = make_dataset()
    cold = np.arange(data.items) % 6 == 0
    kept = ~cold[data.train.items]
    session = np.repeat(np.arange(len(data.train)), data.train.lengths)[kept]
    offsets = np.concatenate([[0], np.bincount(session, minlength=len(data.train)).cumsum()]).astype(np.int64)
    train = data.train.__class__(data.train.items[kept], offsets)
    replace(data, train=train).save(tmp_path / "data")
    data = Dataset.load(tmp_path / "data")
    changed = {"sampled_above": sampled_above, "epochs": 1, "neighbors": 0, "id_dropout": 0.2}
    config = Config.from_dict(tiny_config.as_dict() | changed)
    info = quiet(tmp_path / "data", tmp_path / "run", config)
    loop = loop_module.Loop(info, data, data.train, tmp_path, False, lambda line: None)
    assert loop.model.items.item is not None
    before = loop.model.items.item.weight.detach().clone()
    for batch in list(loop.batches.in_order())[:3]:
        loop._step(loop._prepared(batch))
    same = (loop.model.items.item.weight.detach() == before).all(1).numpy()
    assert same[cold].all()
    assert not same[~cold].all()
