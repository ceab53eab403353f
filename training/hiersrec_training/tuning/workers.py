"""Processes that train: each one training at a time, and watched after every epoch.

A training that crashes, or that the system kills for want of memory, takes its process along and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from hiersrec_sdk.cpus import available_cpus
from hiersrec_sdk.errors import InterruptedRunError
from hiersrec_sdk.shown import shortened
from hiersrec_training.config import Config

_POLL: Final = 0.2  # seconds until a signal is looked for
_LEAVE: Final = 10.0  # seconds for a process to end by itself


@dataclass(frozen=True)
class Job:
    """A training. ``name``: what the study calls it; ``out``: its run folder, of which a part is resumed."""

    name: str
    data: Path
    out: Path
    config: Config
    device: str


@dataclass(frozen=True)
class Epoch:
    """An epoch that is over: its number from 1, and its validation metrics."""

    number: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Ended:
    """A training that is over: whole, given up, without a result, or interrupted by a signal."""

    how: Literal["done", "given up", "failed", "interrupted"]
    message: str = ""


class _GivenUpError(Exception):
    """The study does not want the next epoch."""


class Workers:
    """Up to ``most`` processes that share the processors and the GPUs. Leaving the context ends them."""

    def __init__(self, most: int) -> None:
        self._most, self._threads = most, max(1, available_cpus() // most)
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, Job]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker, _ in self._busy.values():
            worker.end(at_once=True)
        for worker in self._idle:
            worker.end(at_once=False)

    def run(
        self,
        next_job: Callable[[], Job | None],
        on_epoch: Callable[[Job, Epoch], bool],
        on_end: Callable[[Job, Ended], None],
        stop: Sequence[int],
    ) -> None:
        """Train until ``next_job`` has no more; it is asked whenever a process is free.

        Args:
            next_job: the next training, or None.
            on_epoch: whether a training is worth its next epoch.
            on_end: told of every training that is over.
            stop: signals that arrived; with the first one, every training is told to write a checkpoint and end.
        """
        told = False
        while True:
            while len(self._busy) < self._most and not stop and (job := next_job()) is not None:
                worker = self._idle.pop() if self._idle else _Worker(self._threads, self._free_number())
                worker.pipe.send(job)
                self._busy[worker.pipe] = worker, job
            if not self._busy:
                return
            for pipe in wait(list(self._busy), _POLL):
                assert isinstance(pipe, Connection)
                worker, job = self._busy[pipe]
                message = worker.message()
                if isinstance(message, Epoch):
                    with suppress(OSError):  # it died meanwhile, and its next message says so
                        pipe.send(on_epoch(job, message))
                    continue
                del self._busy[pipe]
                if worker.is_alive:
                    self._idle.append(worker)
                on_end(job, message)
            if stop and not told:
                told = True
                for worker, _ in self._busy.values():
                    worker.interrupt()

    def _free_number(self) -> int:
        """The lowest one that no process has."""
        taken = {worker.number for worker in self._idle} | {
            worker.number for worker, _ in self._busy.values()
        }
        return next(number for number in count() if number not in taken)


class _Worker:
    """A process, and the pipe to it. ``number``: from 0, of those that work at once."""

    def __init__(self, threads: int, number: int) -> None:
        self.number = number
        context = multiprocessing.get_context("spawn")  # a fork would share the threads of PyTorch
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, threads, number), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def is_alive(self) -> bool:
        return not self.pipe.closed

    def message(self) -> Epoch | Ended:
        """The next one; the end of the process is one too."""
        try:
            message: Epoch | Ended = self.pipe.recv()
            return message
        except (EOFError, OSError):
            self.pipe.close()
            self._process.join()
            code = self._process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            hint = ", which the system sends for want of memory" if code == -signal.SIGKILL else ""
            return Ended("failed", f"its process ended with {how}{hint}")

    def interrupt(self) -> None:
        """Let it write a checkpoint, and end the training."""
        self._process.terminate()

    def end(self, at_once: bool) -> None:
        self.pipe.close()  # an idle one ends by that
        if not at_once:
            self._process.join(_LEAVE)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, threads: int, number: int) -> None:
    """The work of a process: to train what comes through ``pipe``."""
    # Ctrl-C reaches every process of a terminal; the study decides what becomes of the training
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)  # while there is nothing to write a checkpoint of
    import torch

    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # the study is over
        while True:
            pipe.send(_train(pipe, pipe.recv(), number))


def choose_gpu(device: str, number: int) -> None:
    """Have the process of that ``number`` train on a GPU of its own, as far as there are enough.

    PyTorch would take the first one for all of them.
    """
    import torch

    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())


def _leave(number: int, frame: Any) -> None:
    sys.exit(128 + number)


def _train(pipe: Connection, job: Job, number: int) -> Ended:
    from hiersrec_training.run import part_of
    from hiersrec_training.train import train

    def after_epoch(epoch: int, metrics: Mapping[str, float]) -> None:
        pipe.send(Epoch(epoch, metrics))
        if not pipe.recv():
            raise _GivenUpError

    options: dict[str, Any] = {"resume": part_of(job.out).exists(), "device": job.device}
    try:
        choose_gpu(job.device, number)
        train(
            job.data,
            job.out,
            job.config,
            progress=False,
            report=lambda line: None,
            after_epoch=after_epoch,
            **options,
        )
    except _GivenUpError:
        return Ended("given up")
    except InterruptedRunError:
        return Ended("interrupted")
    except EOFError:
        os._exit(1)  # nobody is left to tell
    except Exception as error:
        return Ended("failed", shortened(" ".join(str(error).split())) or type(error).__name__)
    return Ended("done")
