"""The training loop, with checkpoints, early stop and resume."""

from __future__ import annotations

import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from hiersrec_sdk.atomic import write_file
from hiersrec_sdk.errors import (
    ConfigError,
    DivergedRunError,
    EmptyLogError,
    InterruptedRunError,
    RunError,
)
from hiersrec_training import cold_start, covisitation, run
from hiersrec_training.baselines import popularity_metrics
from hiersrec_training.batches import Batch, Batches, age_weights
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.losses import catalog_cross_entropy, sampled_cross_entropy
from hiersrec_training.memory import keep_freed
from hiersrec_training.metrics import ranked_together, ranking_metrics, target_ranks
from hiersrec_training.model import HierSRec, Metadata, Shape
from hiersrec_training.neighbours import co_clicks
from hiersrec_training.optimizer import Adam, schedule
from hiersrec_training.run import RunInfo

LOG_STEPS = 50  # steps whose mean losses make a line of metrics.jsonl
EXPLODED = 2.0  # a loss of so many times the first one is on its way to infinity


def train(
    data_path: Path,
    out: Path,
    config: Config,
    *,
    final: bool = False,
    validated_by: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    learning_rate: float | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
) -> RunInfo:
    """Train on a dataset folder and write the run folder ``out``.

    From then on the process keeps freed memory for reuse, see :func:`hiersrec_training.memory.keep_freed`.

    Args:
        data_path: a folder that ``prepare`` wrote.
        out: folder to write; it must not exist. Until the end it is called ``<out>.part``.
        config: settings; with ``resume`` those of the interrupted run hold instead.
        final: train on training and validation splits together for ``config.epochs``, without validation.
        validated_by: for a final run: a finished run of the same data that was validated. Its co-visitation scorer and
            cold-start bias are taken over, which cannot be fitted without a validation split.
        device: "auto", "cpu" or "cuda".
        resume: go on from the newest checkpoint of ``<out>.part``. On a CPU the weights come out as without the break;
            on a GPU they may differ by the order of its sums.
        learning_rate: with ``resume``: instead of the run's own; a run that diverged needs a lower one.
        progress: show a progress bar.
        report: takes lines for a person to read.

    Raises:
        RunError: ``out`` exists, there is nothing to resume, the data changed since, or a write failed.
        InterruptedRunError: SIGINT or SIGTERM arrived; a checkpoint was written first.
        DivergedRunError: the loss or the weights are no longer finite. The newest checkpoint from before that is kept;
            without one, nothing is.
    """
    data_path, out = Path(data_path), Path(out)
    keep_freed()
    data = Dataset.load(data_path)
    if out.exists():
        raise RunError(f"{out} exists already; choose another folder or remove it")
    folder = run.part_of(out)
    if validated_by is not None:
        _check_validated(validated_by, data, final)
    if resume:
        info = _to_resume(folder, data, data_path, learning_rate)
        config, final = info.config, info.final
        torch.set_num_threads(info.threads)  # another number would sum in another order
    else:
        if folder.exists():
            raise RunError(f"{folder} holds an interrupted run: go on with --resume, or remove it")
        about = {
            "path": str(data_path.resolve()),
            "fingerprint": data.fingerprint,
            "counts": data.counts,
            "settings": data.settings,
        }
        validated = None if validated_by is None else str(Path(validated_by).resolve())
        info = replace(new_run(data, config, device), data=about, final=final, validated_by=validated)
    sessions = data.train.then(data.validation) if final else data.train
    if not sessions.example_count:
        raise EmptyLogError(f"{data_path}: the training split has no session of two clicks")
    if final and info.validated_by is None:
        report("note: without a validated run (--validated-by) the model has no co-visitation scorer")
    if not final and not data.validation.example_count:
        raise EmptyLogError(
            f"{data_path}: the validation split is empty; train with --final, or prepare it anew"
        )
    try:
        # before there is a folder: settings that do not fit the data leave none
        loop = _Loop(info, data, sessions, folder, progress, report)
        folder.mkdir(parents=True, exist_ok=True)
        info.save(folder)
        loop.run()
        folder.rename(out)
        run.clear(out)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{folder} could not be written: {error}; go on with --resume") from error
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(
            error
        ):
            raise
        raise RunError(
            "there is not enough memory to train: lower batch_sessions, dimension, max_length or neighbours, or "
            f"sampled_above below {data.items:,} for a sampled softmax"
        ) from error
    return info


def new_run(data: Dataset, config: Config, device: str) -> RunInfo:
    """The ``run.json`` of a run that is about to begin. It does not name its data yet."""
    device = _device(device)
    return RunInfo(
        config=config,
        shape=Shape.of(data, config),
        data={},
        final=False,
        device=device,
        precision="float32" if config.is_sampled(data.items) else _precision(config, device),
        threads=torch.get_num_threads(),
        versions={"torch": torch.__version__, "numpy": np.__version__},
    )


class _Loop:
    """The state that the steps of one run share."""

    def __init__(
        self,
        info: RunInfo,
        data: Dataset,
        sessions: Sessions,
        folder: Path,
        progress: bool,
        report: Callable[[str], None],
    ) -> None:
        config = info.config
        self.info, self.config, self.folder = info, config, folder
        self.progress, self.report = progress, report
        self.device = torch.device(info.device)
        self.dtype = torch.bfloat16 if info.precision == "bfloat16" else torch.float32
        torch.manual_seed(config.seed)
        self.model = HierSRec(info.shape, config)
        if config.neighbours:
            self.model.items.connect(
                co_clicks(sessions, data.items, config.neighbours, config.neighbour_window)
            )
        if info.validated_by is not None:
            validated, its_info = run.load_model(Path(info.validated_by))
            self.model.covisitation.load_state_dict(validated.covisitation.state_dict())
            info.cold_start = its_info.cold_start
        self.model.to(self.device)
        self.meta = Metadata.of(data, info.shape, config).to(self.device)
        weights = age_weights(len(sessions), config.age_decay)
        self.batches = Batches(sessions, config.max_length, config.batch_sessions, weights)
        self.sessions, self.data = sessions, data
        self.validation = (
            None if info.final else Batches(data.validation, config.max_length, config.batch_sessions)
        )
        self.steps = len(self.batches) * config.epochs
        self.optimizer = Adam(self.model)
        self.sampled = config.is_sampled(data.items)
        counts = np.bincount(sessions.items, minlength=data.items)
        # metadata that learn to place items by themselves must not learn that nobody wants items without clicks
        negative = (counts > 0) if config.id_dropout else np.ones(data.items, dtype=bool)
        self.negatives = torch.from_numpy(np.flatnonzero(negative)).to(self.device)
        # position of an item among them
        self.negative_of = torch.from_numpy(np.cumsum(negative) - 1).to(self.device)
        chances = np.where(negative, counts + 1.0, 0.0)
        self.chances = torch.from_numpy(chances**0.75 / (chances**0.75).sum()).to(self.device)
        self.cumulated = self.chances.cumsum(0)
        # "epochs": those that are over, validation and all; "bad": of them, those since the best
        self.state: dict[str, Any] = {
            "step": 0,
            "epochs": 0,
            "bad": 0,
            "best": -1.0,
            "best_epoch": 0,
            "seconds": 0.0,
        }

    def run(self) -> None:
        """All epochs; leaves the kept weights in ``model.safetensors`` and the figures in ``run.json``."""
        self.state |= run.load_checkpoint(self.folder, self.model, self.optimizer)
        self._cut_log()
        started = time.perf_counter() - self.state["seconds"]
        self.report(
            f"{sum(p.numel() for p in self.model.parameters()):,} parameters, {self.steps:,} steps in "
            f"{self.config.epochs} epochs, {self.info.device}, softmax over items "
            f"{'sampled' if self.sampled else 'full'} in {self.info.precision}"
        )
        with _stop_signals() as stop:
            for epoch in range(self.state["epochs"], self.config.epochs):
                if self.state["bad"] >= self.config.patience:
                    self.report(f"no better for {self.state['bad']} epochs: stopped")
                    break
                self._epoch(epoch, stop, started)
                self._check_model()
                self._validate(epoch)
                self.state |= {"epochs": epoch + 1, "seconds": time.perf_counter() - started}
                self._checkpoint()
        if self.validation is not None:
            self._compare_with_popularity()
            if self.config.covisitation:
                self._fit_covisitation()
        self.info.finished = True
        self.info.best_epoch = self.state["best_epoch"]
        self.info.metrics = self.state.get("metrics", {})
        self.info.seconds = round(self.state["seconds"], 1)
        self.info.save(self.folder)

    def _fit_covisitation(self) -> None:
        """Fit the co-visitation scorer beside the kept weights, on the validation split, and save it with them."""
        weights = self.folder / "model.safetensors"
        run.load_weights(self.model, weights)
        started = time.perf_counter()
        covisits = covisitation.count_covisits(self.sessions, self.data.items)
        model = self.model.cpu()
        meta = self.meta.to(torch.device("cpu"))
        some = (model, meta, covisits, self.data.validation, self.report, self.progress)
        self.info.covisitation_metrics = covisitation.fit_on(*some)
        if self.info.covisitation_metrics:
            self.info.cold_start = cold_start.choose_bias(*some)
        run.save_weights(model, weights)
        self.state["seconds"] += time.perf_counter() - started

    def _epoch(self, epoch: int, stop: list[int], started: float) -> None:
        done = self.state["step"] - epoch * len(self.batches)
        self.model.train()
        recent: dict[str, list[Tensor]] = {}  # losses since the last line of metrics.jsonl
        bar = tqdm(
            self.batches.shuffled(self.config.seed, epoch, done),
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            total=len(self.batches),
            initial=done,
            unit="step",
            disable=not self.progress,
            mininterval=1.0,
        )
        for batch in bar:
            for name, value in self._step(batch.to(self.device)).items():
                recent.setdefault(name, []).append(value.detach())
            self.state["step"] += 1
            step = self.state["step"]
            logs = step % LOG_STEPS == 0 or step == (epoch + 1) * len(self.batches)
            saves = bool(stop) or step % self.config.checkpoint_steps == 0
            if logs or saves:
                self._check_losses(recent["loss"])
            if logs:
                figures = {
                    name: round(torch.stack(values).mean().item(), 5) for name, values in recent.items()
                }
                recent.clear()
                self.state["loss"] = figures["loss"]
                bar.set_postfix(loss=f"{figures['item_loss']:.3f}")
                self._log({"step": step, "epoch": epoch + 1, **figures})
            if saves:
                self.state["seconds"] = time.perf_counter() - started
                self._checkpoint()
            if stop:
                bar.close()
                raise InterruptedRunError(f"stopped by signal {stop[0]} at step {step}: go on with --resume")

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        step = self.state["step"]
        # each step has its own random numbers, so a resumed run needs no generator state
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        self.optimizer.zero_grad()
        with self.model.items.without(batch):
            losses = self._sampled_losses(batch) if self.sampled else self._full_losses(batch)
        losses["loss"].backward()
        self.optimizer.step(self.config.learning_rate * schedule(step / self.steps, self.config.warmup))
        return losses

    def _full_losses(self, batch: Batch) -> dict[str, Tensor]:
        table, clicked = self.model.items.all_and_some(self.meta, batch.items.flatten(), self.dtype)
        states, sums = self.model.session.read(clicked.view(*batch.items.shape, -1))
        answer = self.model.session.answer(states[batch.there], sums[batch.there])
        repeats, target = self.model.repeat_offsets(batch, answer), batch.target
        if len(self.negatives) < len(table):
            table, target = table[self.negatives], self.negative_of[target]
            repeats = repeats._replace(item=self.negative_of[repeats.item])
        item_loss = catalog_cross_entropy(answer.query, table, repeats, target, batch.weight, self.dtype)
        return self._joint(item_loss, answer.category_logits, batch)

    def _sampled_losses(self, batch: Batch) -> dict[str, Tensor]:
        drawn = torch.searchsorted(
            self.cumulated, torch.rand(self.config.samples, device=self.device).double()
        )
        drawn = drawn.clamp_max(len(self.chances) - 1)  # the sum may end a rounding below 1
        sampled, times = torch.unique(drawn, return_counts=True)
        expected = torch.log(self.config.samples * self.chances[sampled] / times).float()
        parts = [batch.items.flatten(), batch.target, sampled]
        needed, at = torch.unique(torch.cat(parts), return_inverse=True)
        clicked, target, sampled = at.split([len(part) for part in parts])
        vectors = self.model.items.some_vectors(needed, self.meta)
        states, sums = self.model.session.read(F.embedding(clicked.view_as(batch.items), vectors))
        answer = self.model.session.answer(states[batch.there], sums[batch.there])
        repeats = self.model.repeat_offsets(batch, answer)
        item_loss = sampled_cross_entropy(
            answer.query,
            vectors,
            repeats._replace(item=torch.searchsorted(needed, repeats.item)),
            target,
            batch.weight,
            sampled,
            expected,
        )
        return self._joint(item_loss, answer.category_logits, batch)

    def _joint(self, item_loss: Tensor, category_logits: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        positions = len(batch.target)
        losses = {"item_loss": item_loss / positions}
        total = losses["item_loss"]
        path = self.meta.category_path[batch.target]  # [P, L]
        for level, logits in enumerate(category_logits):
            each = F.cross_entropy(logits, path[:, level], reduction="none")
            losses[f"category_loss_{level}"] = (each * batch.weight).sum() / positions
            total = total + self.config.category_weight * losses[f"category_loss_{level}"]
        return {"loss": total, **losses}

    def _validate(self, epoch: int) -> None:
        """Keep the weights if they are the best so far; without a validation split the newest are."""
        if self.validation is None:
            self._keep(epoch, {})
            return
        metrics = evaluate_model(self.model, self.meta, self.validation, self.progress)
        self._log({"step": self.state["step"], "epoch": epoch + 1, "validation": metrics})
        self.report(
            f"epoch {epoch + 1}: validation Recall@20 {metrics['recall@20']:.4f}, MRR@20 {metrics['mrr@20']:.4f}"
        )
        if metrics["mrr@20"] > self.state["best"]:
            self.state |= {"best": metrics["mrr@20"], "bad": 0}
            self._keep(epoch, metrics)
        else:
            self.state["bad"] += 1

    def _keep(self, epoch: int, metrics: dict[str, float]) -> None:
        self.state |= {"best_epoch": epoch + 1, "metrics": metrics}
        run.save_weights(self.model, self.folder / "model.safetensors")

    def _check_losses(self, losses: list[Tensor]) -> None:
        """Raise :class:`DivergedRunError` where one of the ``losses``, of the newest steps, is not finite.

        They are looked at together and not step by step, for which a GPU would have to wait.
        """
        found = torch.stack(losses).tolist()
        self.state.setdefault("first", found[0])
        for at, loss in enumerate(found):
            if not math.isfinite(loss):
                before = found[at - 1] if at else self.state.get("loss")
                step = self.state["step"] - len(losses) + at + 1
                raise self._diverged(step, f"the loss is {loss}" + _was(before))

    def _check_weights(self) -> None:
        """Raise :class:`DivergedRunError` where a weight is not finite, or too large to compute with."""
        if (name := run.diverged_weight(self.model)) is not None:
            what = f"{name} has weights that are not finite or beyond {run.LARGEST_WEIGHT:.0e}"
            raise self._diverged(self.state["step"], what + _was(self.state.get("loss"), "the loss"))

    @torch.no_grad()
    def _check_model(self) -> float:
        """:meth:`_check_weights`, and the loss of some sessions: finite weights may still overflow together.

        The newest step changed weights, and no step has seen what became of them.
        """
        self._check_weights()
        batch = next(self.batches.in_order()).to(self.device)
        training = self.model.training
        self.model.eval()
        losses = self._sampled_losses(batch) if self.sampled else self._full_losses(batch)
        self.model.train(training)
        if not math.isfinite(loss := losses["loss"].item()):
            raise self._diverged(self.state["step"], f"the loss is {loss}" + _was(self.state.get("loss")))
        return loss

    def _diverged(self, step: int, what: str) -> DivergedRunError:
        """The error of a run that diverged at ``step``. Its newest checkpoint is kept; without one, nothing is."""
        rate, epoch = self.config.learning_rate, 1 + (step - 1) // len(self.batches)
        message = (
            f"training diverged at step {step:,} of {self.steps:,}, in epoch {epoch} of {self.config.epochs}: {what}. "
            f"{_remedy(self.config)}. "
        )
        found = run.checkpoints(self.folder)
        if not found:
            shutil.rmtree(self.folder)
            return DivergedRunError(f"{message}There was no checkpoint yet, so nothing was kept")
        self.info.diverged = {"step": step, "learning_rate": rate}
        self.info.save(self.folder)
        return DivergedRunError(
            f"{message}{found[-1]} was kept: go on from there with --resume --set learning_rate={rate / 10:g}, or "
            f"remove {self.folder}"
        )

    def _compare_with_popularity(self) -> None:
        """Warn of a model that ranks worse than the number of clicks does. That may be for want of data or training."""
        popular = popularity_metrics(self.sessions, self.data.validation, self.data.items)["mrr@20"]
        if self.state["best"] < popular:
            self.report(
                f"warning: the model ranks worse than the number of clicks does: validation MRR@20 "
                f"{self.state['best']:.4f}, by clicks alone {popular:.4f}. Train longer (epochs), or "
                f"{_remedy(self.config).lower()}"
            )

    def _checkpoint(self) -> None:
        """Write a checkpoint, unless the model is on its way to diverge: then the one before stays, to go back to."""
        loss, first = self._check_model(), self.state.get("first")
        if first is not None and loss > EXPLODED * first:
            self.report(
                f"warning: the loss is {loss:.4g} at step {self.state['step']:,}, and was {first:.4g} in the first: no "
                f"checkpoint is written of this model. {_remedy(self.config)}"
            )
            return
        run.save_checkpoint(self.folder, self.model, self.optimizer, self.state)

    def _log(self, line: dict[str, Any]) -> None:
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _cut_log(self) -> None:
        """Drop the lines after the checkpoint: those steps and validations are done again."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            kept = [line for line in lines if self._is_past(json.loads(line))]
            write_file(path, "".join(kept))

    def _is_past(self, line: dict[str, Any]) -> bool:
        return bool(
            line["epoch"] <= self.state["epochs"]
            if "validation" in line
            else line["step"] <= self.state["step"]
        )


def _was(loss: float | None, name: str = "it") -> str:
    return "" if loss is None else f"; {name} was {loss:.4g} before"


def _remedy(config: Config) -> str:
    """The settings to change after a divergence: the learning rate, and others that are far from their defaults."""
    usual = Config()
    found = [f"Lower learning_rate, now {config.learning_rate:g} (by default {usual.learning_rate:g})"]
    if config.temperature < usual.temperature / 100:
        found.append(f"raise temperature, now {config.temperature:g} ({usual.temperature:g})")
    if config.category_weight > usual.category_weight * 100:
        found.append(f"lower category_weight, now {config.category_weight:g} ({usual.category_weight:g})")
    return ", or ".join(found)


@torch.no_grad()
def evaluate_model(
    model: HierSRec, meta: Metadata, batches: Batches, progress: bool = False
) -> dict[str, float]:
    """Ranking metrics of every example, with every item ranked; ties count against the model."""
    model.eval()
    device = meta.category_path.device
    table = model.items.all_vectors(meta)
    ranks = []
    right = np.zeros(meta.category_path.shape[1])
    for batch in tqdm(batches.in_order(), "validation", len(batches), disable=not progress, leave=False):
        batch = batch.to(device)
        states, sums = model.session.read(F.embedding(batch.items, table))
        answer = model.session.answer(states[batch.there], sums[batch.there])
        repeats = model.repeat_offsets(batch, answer)
        for rows, some in repeats.chunks(len(batch.target), ranked_together(len(table))):
            scores = answer.query[rows] @ table.T
            repeats.add_to(scores, rows, some)
            ranks.append(target_ranks(scores, batch.target[rows]))
        path = meta.category_path[batch.target]
        for level, logits in enumerate(answer.category_logits):
            right[level] += int((logits.argmax(1) == path[:, level]).sum())
    every = np.concatenate(ranks)
    accuracy = {f"category_accuracy_{level}": float(count) / len(every) for level, count in enumerate(right)}
    return ranking_metrics(every) | accuracy


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that SIGINT and SIGTERM append to, so that no step is cut in the middle. A second signal is obeyed."""
    caught: list[int] = []

    def catch(number: int, frame: Any) -> None:
        caught.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    try:
        previous = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever runs the thread handles signals
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _to_resume(folder: Path, data: Dataset, data_path: Path, learning_rate: float | None) -> RunInfo:
    if not folder.exists():
        raise RunError(f"there is no interrupted run {folder} to resume")
    info = RunInfo.load(folder)
    if info.data["fingerprint"] != data.fingerprint:
        raise RunError(f"{folder} was trained on other data than {data_path}: it cannot be resumed with it")
    if learning_rate is not None:
        info.config = replace(info.config, learning_rate=learning_rate)
    if info.diverged and info.config.learning_rate >= info.diverged["learning_rate"]:
        rate = info.diverged["learning_rate"]
        raise DivergedRunError(
            f"{folder} diverged at step {info.diverged['step']:,} with learning_rate={rate:g}: go on from its "
            f"checkpoint with a lower one, such as --resume --set learning_rate={rate / 10:g}, or remove it"
        )
    info.data["path"] = str(data_path.resolve())  # the data set may have moved
    _device(info.device)
    return info


def _check_validated(folder: Path, data: Dataset, final: bool) -> None:
    info = run.finished_run(folder)
    if not final:
        raise RunError(f"only a final run (--final) takes over what {folder} found on the validation split")
    if info.final:
        raise RunError(f"{folder} was trained on its validation split too (--final): it was not validated")
    if info.data["fingerprint"] != data.fingerprint:
        raise RunError(f"{folder} was trained on another data set: its findings do not hold for this one")


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device cuda was asked for, but this PyTorch finds no GPU; use --device cpu")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda, got {name!r}")
    return name


def _precision(config: Config, device: str) -> str:
    """The setting, or bfloat16 where the processor multiplies it natively; emulated, it is slower than float32."""
    if config.precision != "auto":
        return config.precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if torch.cpu.get_capabilities().get("avx512_bf16", False) else "float32"
