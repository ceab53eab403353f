"""The steps, validations and checkpoints of one training run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from signal import SIGINT
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hiersrec_sdk.errors import DivergedRunError, InterruptedRunError, RunError
from hiersrec_training import cold_start, covisitation, curves, run
from hiersrec_training.baselines import popularity_metrics
from hiersrec_training.batches import Batch, Batches, Inputs, age_weights, ahead
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.distributed import ALONE, Ranks
from hiersrec_training.memory import keep_freed
from hiersrec_training.model import BatchEdges, HierSRec, Metadata
from hiersrec_training.neighbors import co_clicks
from hiersrec_training.objective import Objective
from hiersrec_training.optimizer import Adam, schedule
from hiersrec_training.run import RunInfo
from hiersrec_training.stop_signals import stop_signals
from hiersrec_training.trackers import Line, Log
from hiersrec_training.validation import evaluate_model

LOG_STEPS = 50  # steps whose mean losses make a line of metrics.jsonl
EXPLODED = 2.0  # a loss of so many times the first one is on its way to infinity

AfterEpoch = Callable[[int, Mapping[str, float]], None]
"""Told of each epoch that is over: its number from 1, and its validation metrics."""


class _Prepared(NamedTuple):
    """What a step reads."""

    inputs: Inputs  # the windows that are this rank's
    positions: int  # of all ranks' windows
    edges: BatchEdges  # of all ranks' windows too

    def to(self, device: torch.device) -> _Prepared:
        return self._replace(inputs=self.inputs.to(device), edges=self.edges.to(device))

    def pinned(self) -> _Prepared:
        """In memory that a GPU copies by itself, while the CPU goes on."""
        return self._replace(inputs=self.inputs.pinned(), edges=self.edges.pinned())


class Loop:
    """The state that the steps of one run share."""

    def __init__(
        self,
        info: RunInfo,
        data: Dataset,
        sessions: Sessions,
        folder: Path,
        progress: bool,
        report: Callable[[str], None],
        ranks: Ranks = ALONE,
        after_epoch: AfterEpoch | None = None,
    ) -> None:
        config = info.config
        self.info, self.config, self.folder = info, config, folder
        self.progress, self.report, self.ranks = progress, report, ranks
        self.after_epoch = after_epoch
        self.log: Log | None = None  # of rank 0
        self.device = torch.device(info.device)
        if self.device.type == "cpu":
            keep_freed()
        torch.manual_seed(config.seed)
        self.model = HierSRec(info.shape, config)
        clicks = np.bincount(sessions.items, minlength=data.items)
        self.model.items.know_clicks(clicks)
        if config.neighbors:
            sizes = (data.items, config.neighbors, config.neighbor_window)
            ranks.once(lambda: self.model.items.connect(co_clicks(sessions, *sizes)))
            ranks.copy(self.model.items.neighbors, self.model.items.co_clicks)
        if info.validated_by is not None and not run.checkpoints(folder):  # a checkpoint holds the scorer
            self._take_over(Path(info.validated_by))
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
        dtype = torch.bfloat16 if info.precision == "bfloat16" else torch.float32
        self.objective = Objective(self.model, self.meta, clicks, dtype, ranks)
        # "epochs": those that are over, validation and all; "bad": of them, those since the best
        self.state: dict[str, Any] = {
            "step": 0,
            "epochs": 0,
            "bad": 0,
            "best": -1.0,
            "best_epoch": 0,
            "seconds": 0.0,
        }
        self.recent: dict[str, list[Tensor]] = {}  # losses since the last line of metrics.jsonl

    def _take_over(self, validated_by: Path) -> None:
        """The co-visitation scorer and the cold-start bias of a validated run."""
        try:
            validated, its_info = run.load_model(validated_by)
        except RunError as error:
            raise RunError(f"the validated run (--validated-by) cannot be read: {error}") from error
        self.model.covisitation.load_state_dict(validated.covisitation.state_dict())
        self.info.cold_start = its_info.cold_start

    def run(self) -> None:
        """All epochs; leaves the kept weights in ``model.safetensors`` and the figures in ``run.json``.

        Whatever is written is written by rank 0.
        """
        self.state |= run.load_checkpoint(self.folder, self.model, self.optimizer)
        self._check_folder()
        self.recent = {
            name: [*torch.tensor(values, device=self.device)]
            for name, values in self.state.pop("recent", {}).items()
        }
        self.ranks.once(self._begin_log)
        try:
            self._train()
        finally:
            self._end_log()

    def _check_folder(self) -> None:
        """Raise :class:`RunError` where the ranks have loaded different checkpoints, or some of them none."""
        steps = self.ranks.gathered((self.state["step"], self.state["epochs"]))
        if len(set(steps)) > 1:
            found = ", ".join(str(step) for step, _ in steps)
            raise RunError(
                f"the processes do not share the folder {self.folder}: their newest checkpoints there are, by rank, of "
                f"the steps {found} (0: none). Put it where all of them see it, then go on with --resume"
            )

    def _train(self) -> None:
        started = time.perf_counter() - self.state["seconds"]
        self.report(
            f"{sum(p.numel() for p in self.model.parameters()):,} parameters, {self.steps:,} steps in "
            f"{self.config.epochs} epochs, {self.info.device}, {self._processes()}softmax over "
            f"items {'sampled' if self.model.items.is_sampled else 'full'} in {self.info.precision}"
        )
        is_saved = True
        with stop_signals() as stop:
            for epoch in range(self.state["epochs"], self.config.epochs):
                if self.state["bad"] >= self.config.patience:
                    self.report(f"no better for {self.state['bad']} epochs: stopped")
                    break
                self._epoch(epoch, stop, started)
                self.ranks.once(self._check_model)
                metrics = self._validate(epoch)
                self.state |= {"epochs": epoch + 1, "seconds": time.perf_counter() - started}
                is_saved = self.ranks.once(self._checkpoint)
                if self.after_epoch is not None:
                    self.ranks.once(partial(self.after_epoch, epoch + 1, metrics))
            if signal := self.ranks.largest(max(stop, default=0)):
                raise self._interrupted(signal, is_saved)
        try:
            self.info = self.ranks.once(self._finish)
        except KeyboardInterrupt:
            raise self._interrupted(SIGINT, is_saved) from None

    def _processes(self) -> str:
        return f"{self.ranks.size} processes, " if self.ranks.size > 1 else ""

    def _finish(self) -> RunInfo:
        """Fit what is fitted after the encoder, and write ``model.safetensors`` and ``run.json``.

        The kept weights stay beside them until the run has its name: a resumed run does all this again.
        """
        run.load_weights(self.model, run.kept_weights(self.folder, self.state["best_epoch"]))
        if self.validation is not None:
            self._compare_with_popularity()
            if self.config.covisitation:
                self._fit_covisitation()
        run.save_weights(self.model, self.folder / "model.safetensors")
        self.info.finished = True
        self.info.best_epoch = self.state["best_epoch"]
        self.info.metrics = self.state.get("metrics", {})
        self.info.seconds = round(self.state["seconds"], 1)
        self.info.save(self.folder)
        return self.info

    def _fit_covisitation(self) -> None:
        """Fit the co-visitation scorer beside the kept weights, on the validation split."""
        started = time.perf_counter()
        covisits = covisitation.count_covisits(self.sessions, self.data.items)
        self.optimizer.zero_grad()  # a GPU needs their memory
        self.optimizer.load({})
        some = (self.model, self.meta, covisits, self.data.validation, self.report, self.progress)
        self.info.covisitation_metrics = covisitation.fit_on(*some)
        if self.info.covisitation_metrics:
            self.info.cold_start = cold_start.choose_bias(*some)
        self.state["seconds"] += time.perf_counter() - started

    def _epoch(self, epoch: int, stop: list[int], started: float) -> None:
        done = self.state["step"] - epoch * len(self.batches)
        self.model.train()
        recent = self.recent
        each = map(self._prepared, self.batches.shuffled(self.config.seed, epoch, done))
        bar = tqdm(
            ahead(each) if self.device.type == "cuda" else each,
            desc=f"epoch {epoch + 1}/{self.config.epochs}",
            total=len(self.batches),
            initial=done,
            unit="step",
            disable=not self.progress,
            mininterval=1.0,
        )
        for prepared in bar:
            for name, value in self._step(prepared).items():
                recent.setdefault(name, []).append(value.detach())
            self.state["step"] += 1
            step = self.state["step"]
            signal = self.ranks.largest(max(stop, default=0))
            logs = step % LOG_STEPS == 0 or step == (epoch + 1) * len(self.batches)
            saves = bool(signal) or step % self.config.checkpoint_steps == 0
            if logs or saves:
                self.ranks.once(partial(self._check_losses, recent["loss"]))
            if logs:
                figures = {
                    name: round(torch.stack(values).mean().item(), 5) for name, values in recent.items()
                }
                recent.clear()
                self.state["loss"] = figures["loss"]
                bar.set_postfix(loss=f"{figures['item_loss']:.3f}")
                self.ranks.once(partial(self._log, {"step": step, "epoch": epoch + 1, **figures}))
            if saves:
                self.state["seconds"] = time.perf_counter() - started
                is_saved = self.ranks.once(self._checkpoint)
                if signal:
                    bar.close()
                    raise self._interrupted(signal, is_saved)

    def _prepared(self, batch: Batch) -> _Prepared:
        prepared = _Prepared(
            self.ranks.share(batch).inputs(), len(batch.target), self.model.items.edges_of(batch)
        )
        return prepared.pinned() if self.device.type == "cuda" else prepared

    def _step(self, prepared: _Prepared) -> dict[str, Tensor]:
        """Take a step, and return its losses. A GPU that trains with the full softmax is not waited for."""
        step = self.state["step"]
        inputs, positions, edges = prepared.to(self.device)
        # each step has its own random numbers, so a resumed run needs no generator state
        torch.manual_seed(self.config.seed * 1_000_003 + step)
        self.optimizer.zero_grad()
        with self.model.items.without(edges):
            losses = self.objective.losses(inputs, positions)
        losses["loss"].backward()
        losses = self.ranks.sum(self.model, losses)
        self.optimizer.step(self.config.learning_rate * schedule(step / self.steps, self.config.warmup))
        return losses

    def _validate(self, epoch: int) -> dict[str, float]:
        """The metrics. Keeps the weights if they are the best so far; without a validation split the newest are."""
        if self.validation is None:
            self._keep(epoch, {})
            return {}
        metrics = evaluate_model(self.model, self.meta, self.validation, self.progress, self.ranks)
        line = {"step": self.state["step"], "epoch": epoch + 1, "validation": metrics}
        self.ranks.once(lambda: self._log(line))
        self.report(
            f"epoch {epoch + 1}: validation Recall@20 {metrics['recall@20']:.4f}, MRR@20 {metrics['mrr@20']:.4f}"
        )
        if metrics["mrr@20"] > self.state["best"]:
            self.state |= {"best": metrics["mrr@20"], "bad": 0}
            self._keep(epoch, metrics)
        else:
            self.state["bad"] += 1
        return metrics

    def _keep(self, epoch: int, metrics: dict[str, float]) -> None:
        self.state |= {"best_epoch": epoch + 1, "metrics": metrics}
        self.ranks.once(lambda: run.save_weights(self.model, run.kept_weights(self.folder, epoch + 1)))

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
        batch = next(self.batches.in_order()).inputs().to(self.device)
        training = self.model.training
        self.model.eval()
        losses = self.objective.losses(batch)
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

    def _interrupted(self, signal: int, is_saved: bool) -> InterruptedRunError:
        """The error of a run that a signal stopped, after its checkpoint was written, or was not."""
        found = run.checkpoints(self.folder)
        if is_saved:
            how = "go on with --resume"
        elif found:
            how = f"--resume goes on from {found[-1].name}, since no checkpoint is written of a model that diverges"
        else:
            how = f"there is no checkpoint: remove {self.folder} and begin anew with a lower learning_rate"
        return InterruptedRunError(f"stopped by signal {signal} at step {self.state['step']}: {how}")

    def _checkpoint(self) -> bool:
        """Write a checkpoint, unless the model is on its way to diverge: then the one before stays, to go back to.

        Returns:
            Whether it was written.
        """
        loss, first = self._check_model(), self.state.get("first")
        if first is not None and loss > EXPLODED * first:
            self.report(
                f"warning: the loss is {loss:.4g} at step {self.state['step']:,}, and was {first:.4g} in the first: no "
                f"checkpoint is written of this model. {_remedy(self.config)}"
            )
            return False
        recent = {name: torch.stack(values).tolist() for name, values in self.recent.items()}
        run.save_checkpoint(self.folder, self.model, self.optimizer, self.state | {"recent": recent})
        return True

    def _begin_log(self) -> None:
        """Open what takes the curves, without the steps and validations after the checkpoint, which are done again."""
        state = self.state
        self.log = Log(self.folder, self.info, state["step"], state["epochs"], self.report)
        self.info.save(self.folder)

    def _log(self, line: Line) -> None:
        if self.log is not None:
            self.log.write(line)

    def _end_log(self) -> None:
        if self.log is not None:
            self.log.close(self.info.finished)
            if self.folder.exists():  # not after a divergence that left nothing
                curves.draw(self.folder)


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
