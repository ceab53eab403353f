"""Training: from a dataset folder to a run folder, anew or from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError

from hiersrec_sdk.arguments import is_integer
from hiersrec_sdk.cpus import available_cpus
from hiersrec_sdk.errors import (
    ConfigError,
    DataError,
    DivergedRunError,
    EmptyLogError,
    InvalidOptionError,
    RunError,
)
from hiersrec_sdk.ranking.requests import MAX_DIMENSION
from hiersrec_sdk.shown import shown
from hiersrec_training import run
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.distributed import ALONE, Ranks, from_environment, started_by_torchrun
from hiersrec_training.launch import launch
from hiersrec_training.locks import LOCK, alone
from hiersrec_training.loop import AfterEpoch, Loop
from hiersrec_training.memory import is_out_of_memory
from hiersrec_training.model import Shape
from hiersrec_training.run import RunInfo
from hiersrec_training.trackers import check_installed, check_names

P = ParamSpec("P")
T = TypeVar("T")
_COMMAND: Final = "hiersrec train"
_OF_CALLER: Final = "is_of_caller"  # attribute of the errors that the caller's functions raise


def train(
    data_path: Path,
    out: Path,
    config: Config,
    *,
    final: bool = False,
    validated_by: Path | None = None,
    device: str = "auto",
    processes: int = 1,
    resume: bool = False,
    learning_rate: float | None = None,
    progress: bool = True,
    report: Callable[[str], None] = print,
    log: Sequence[str] = (),
    after_epoch: AfterEpoch | None = None,
) -> RunInfo:
    """Train on a dataset folder and write the run folder ``out``.

    On a CPU the process keeps freed memory for reuse from then on, see :func:`hiersrec_training.memory.keep_freed`.

    Args:
        data_path: a folder that ``prepare`` wrote.
        out: folder to write; it must not exist. Until the end it is called ``<out>.part``.
        config: settings; with ``resume`` those of the interrupted run hold instead.
        final: train on training and validation splits together for ``config.epochs``, without validation.
        validated_by: for a final run: a finished run of the same data that was validated. Its co-visitation scorer and
            cold-start bias are taken over, which cannot be fitted without a validation split. Its settings must be
            those of ``config``, but for the seed and the number of epochs.
        device: "auto", "cpu" or "cuda".
        processes: how many to start on this machine, which share the sessions of each step. On a GPU each has one to
            itself. Under ``torchrun`` this process is already one of several.
        resume: go on from the newest checkpoint of ``<out>.part``. On a CPU and with as many processes as before, the
            weights come out as without the break; otherwise they may differ by the order of sums, and on another device
            by random numbers and precision too. ``device`` "auto" is then that of the run. ``final``, ``validated_by``
            and ``log`` are left out, or are what the run began with.
        learning_rate: with ``resume`` alone: instead of the run's own; a run that diverged needs a lower one.
        progress: show a progress bar.
        report: takes lines for a person to read.
        log: what gets the curves beside ``metrics.jsonl``: some of "tensorboard", "mlflow" and "wandb". A resumed run
            goes on with those that it began with.
        after_epoch: called when an epoch is validated and its checkpoint is written, with its number from 1 and its
            validation metrics. What it raises ends the run, which can be resumed. With ``processes`` it travels by
            pickle.

    Raises:
        InvalidOptionError: ``processes`` is less than one, or two of them would share a GPU; ``log`` names something
            else; an argument does not go with ``resume``, or ``learning_rate`` goes without it.
        MissingExtraError: a package that ``log`` needs is missing.
        RunError: ``out`` exists or another process trains it, there is nothing to resume, the data changed since, a
            write failed, or one of several processes was killed.
        InterruptedRunError: SIGINT or SIGTERM arrived; a checkpoint was written first.
        DivergedRunError: the loss or the weights are no longer finite. The newest checkpoint from before that is kept;
            without one, nothing is.
    """
    if not is_integer(processes, 1):
        raise InvalidOptionError(f"processes must be an integer ≥ 1, got {shown(processes)}")
    if processes > 1 and started_by_torchrun():
        raise InvalidOptionError(
            "processes cannot be given under torchrun, which has started them: leave it out"
        )
    check_names(log)
    if learning_rate is not None and not resume:
        raise InvalidOptionError("learning_rate goes with resume: a new run has that of its config")
    wanted = _Wanted(
        Path(data_path),
        Path(out),
        config,
        final,
        None if validated_by is None else Path(validated_by),
        device,
        resume,
        learning_rate,
        progress,
        tuple(log),
        after_epoch,
    )
    if processes > 1:
        return launch(processes, wanted.run, report, wanted.joins_on)
    with from_environment(wanted.joins_on) as ranks:
        return wanted.run(ranks, report)


@dataclass(frozen=True)
class _Wanted:
    """The arguments of :func:`train`."""

    data_path: Path
    out: Path
    config: Config
    final: bool
    validated_by: Path | None
    device: str
    resume: bool
    learning_rate: float | None
    progress: bool
    log: tuple[str, ...] = ()
    after_epoch: AfterEpoch | None = None

    @property
    def joins_on(self) -> str:
        """The device, or "auto", as far as it is known before ranks have met."""
        if self.resume and self.device == "auto":
            with suppress(RunError):  # which comes again
                return RunInfo.load(run.part_of(self.out)).device
        return self.device

    def run(self, ranks: Ranks, report: Callable[[str], None]) -> RunInfo:
        """Train on one of ``ranks``."""
        report = _as_of_caller(report) if ranks.is_first else _ignore
        data = Dataset.load(self.data_path)
        with ExitStack() as held:  # the lock of the folder, on the first of the ranks
            return self._run(data, ranks, report, held)

    def _run(self, data: Dataset, ranks: Ranks, report: Callable[[str], None], held: ExitStack) -> RunInfo:
        info = ranks.once(lambda: self._begin(data, ranks, held))
        ranks.check_devices(info.device)
        folder = run.part_of(self.out)
        torch.set_num_threads(info.threads)
        sessions = data.train.then(data.validation) if info.final else data.train
        if info.final and info.validated_by is None:
            report("note: without a validated run (--validated-by) the model has no co-visitation scorer")
        try:
            # before there is a folder: settings that do not fit the data leave none
            loop = Loop(
                info,
                data,
                sessions,
                folder,
                self.progress and ranks.is_first,
                report,
                ranks,
                None if self.after_epoch is None else _as_of_caller(self.after_epoch),
            )
            ranks.once(lambda: self._save(info, held))
            loop.run()
            ranks.once(lambda: _rename(folder, self.out, report))
        except (OSError, SafetensorError) as error:
            if hasattr(error, _OF_CALLER):
                raise
            raise RunError(f"{folder} could not be written: {error}; go on with --resume") from error
        except (MemoryError, RuntimeError) as error:
            if hasattr(error, _OF_CALLER) or not is_out_of_memory(error):
                raise
            raise RunError(
                "there is not enough memory to train: lower batch_sessions, dimension, max_length or neighbors, or "
                f"sampled_above below {data.items:,} for a sampled softmax"
            ) from error
        info = loop.info
        if info.metrics:
            report(
                f"best epoch {info.best_epoch}: encoder's validation Recall@20 {info.metrics['recall@20']:.4f}, "
                f"MRR@20 {info.metrics['mrr@20']:.4f}"
            )
        report(f"trained in {info.seconds:,.0f} s; written to {self.out}")
        return info

    def _begin(self, data: Dataset, ranks: Ranks, held: ExitStack) -> RunInfo:
        """What ``run.json`` is to say, after all checks. The folder of a resumed run is locked from here on."""
        if self.out.exists():
            raise RunError(f"{self.out} exists already; choose another folder or remove it")
        folder = run.part_of(self.out)
        if self.resume:
            if (folder / "run.json").exists():  # else there is none, or a new one that locks it first
                held.enter_context(alone(folder, _COMMAND))
            info = _to_resume(folder, data, self.data_path, self.learning_rate, self.device, ranks)
            self._check_resumed(folder, info)
        elif folder.exists():
            if (folder / LOCK).exists():
                with alone(folder, _COMMAND):  # else it is not interrupted
                    pass
            raise RunError(f"{folder} holds an interrupted run: go on with --resume, or remove it")
        else:
            if self.validated_by is not None:
                _check_validated(self.validated_by, data, self.config, self.final)
            info = new_run(data, self.config, self.device, ranks)
            info.data = {
                "path": str(self.data_path.resolve()),
                "fingerprint": data.fingerprint,
                "counts": data.counts,
                "settings": data.settings,
            }
            info.final = self.final
            info.validated_by = self._validated_by
            info.trackers = dict.fromkeys(self.log, "")
        check_installed(info.trackers)
        if not (data.train.example_count or (info.final and data.validation.example_count)):
            raise EmptyLogError(f"{self.data_path}: the training split has no session of two clicks")
        if not info.final and not data.validation.example_count:
            raise EmptyLogError(
                f"{self.data_path}: the validation split is empty; train with --final, or prepare it anew"
            )
        return info

    def _save(self, info: RunInfo, held: ExitStack) -> None:
        """Make the folder of a new run, locked from here on, and write ``run.json``."""
        folder = run.part_of(self.out)
        try:
            folder.mkdir(parents=True, exist_ok=self.resume)
        except FileExistsError:
            raise RunError(
                f"another {_COMMAND} has begun {folder} meanwhile: wait for it, or choose another folder"
            ) from None
        if not self.resume:
            held.enter_context(alone(folder, _COMMAND))
        info.save(folder)

    @property
    def _validated_by(self) -> str | None:
        return None if self.validated_by is None else str(self.validated_by.resolve())

    def _check_resumed(self, folder: Path, info: RunInfo) -> None:
        """Raise :class:`InvalidOptionError` for an argument that the interrupted run did not begin with."""
        for name, given, its in (
            ("final", self.final or None, info.final),
            ("validated_by", self._validated_by, info.validated_by),
            ("log", sorted(set(self.log)) or None, sorted(info.trackers)),
        ):
            if given is not None and given != its:
                raise InvalidOptionError(
                    f"{folder} began with {name}={its!r}, and resume keeps that: leave {name} out, got {given!r}"
                )


def _ignore(line: str) -> None:
    """The report of a rank that is not the first."""


def _as_of_caller(call: Callable[P, T]) -> Callable[P, T]:
    """``call``, whose errors can be told from those of the training: a closed pipe is no full disk."""

    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            setattr(error, _OF_CALLER, True)  # which travels to other ranks with it
            raise

    return called


def _threads() -> int:
    """How many threads a process computes with: as PyTorch has it, which knows of no quota of a container."""
    threads = torch.get_num_threads()
    return threads if "OMP_NUM_THREADS" in os.environ else min(threads, available_cpus())


def _rename(folder: Path, out: Path, report: Callable[[str], None]) -> None:
    folder.rename(out)
    try:
        run.clear(out)
    except OSError as error:  # the run is whole all the same
        report(f"warning: {out} is finished, but what only its training needed could not be removed: {error}")


def new_run(data: Dataset, config: Config, device: str, ranks: Ranks = ALONE) -> RunInfo:
    """The ``run.json`` of a run that is about to begin. It does not name its data yet."""
    device = _device(device)
    if data.vectors is not None and (width := data.vectors.shape[1]) > MAX_DIMENSION:
        raise DataError(
            f"the items' vectors have {width:,} numbers, of which a model reads {MAX_DIMENSION:,} at most: prepare the "
            "data with shorter ones"
        )
    return RunInfo(
        config=config,
        shape=Shape.of(data, config),
        data={},
        final=False,
        device=device,
        precision=_precision(config, data, device),
        threads=_threads(),
        processes=ranks.size,
        versions={"torch": torch.__version__, "numpy": np.__version__},
    )


def _to_resume(
    folder: Path, data: Dataset, data_path: Path, learning_rate: float | None, device: str, ranks: Ranks
) -> RunInfo:
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
    if device == "auto":
        if info.device == "cuda" and not torch.cuda.is_available():
            raise RunError(
                f"{folder} was trained on cuda, and this PyTorch finds no GPU: go on with --resume --device cpu"
            )
        device = info.device
    device = _device(device)
    if device != info.device:
        info.device, info.precision, info.threads = device, _precision(info.config, data, device), _threads()
    if info.processes != ranks.size:
        # as many threads as before are only wanted for sums in the same order
        info.processes, info.threads = ranks.size, _threads()
    return info


def _check_validated(folder: Path, data: Dataset, config: Config, final: bool) -> None:
    info = run.finished_run(folder)
    if not final:
        raise RunError(f"only a final run (--final) takes over what {folder} found on the validation split")
    if info.final:
        raise RunError(f"{folder} was trained on its validation split too (--final): it was not validated")
    if info.data["fingerprint"] != data.fingerprint:
        raise RunError(f"{folder} was trained on another data set: its findings do not hold for this one")
    if unlike := config.unlike(info.config):
        theirs = ", ".join(f"{name}={getattr(info.config, name)}" for name in unlike)
        raise RunError(
            f"{folder} was trained with {theirs}: its findings hold for no other settings. Keep those, or "
            "validate a run with yours first"
        )


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device cuda was asked for, but this PyTorch finds no GPU; use --device cpu")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu or cuda, got {name!r}")
    return name


def _precision(config: Config, data: Dataset, device: str) -> str:
    """The setting, or bfloat16 where the processor multiplies it natively; emulated, it is slower than float32.

    A sampled softmax is one of float32.
    """
    if config.is_sampled(data.items):
        return "float32"
    if config.precision != "auto":
        return config.precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if torch.cpu.get_capabilities().get("avx512_bf16", False) else "float32"
