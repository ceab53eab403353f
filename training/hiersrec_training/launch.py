"""Start the ranks of a training on this machine, and end them all when one fails."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from hiersrec_sdk.cpus import available_cpus
from hiersrec_sdk.errors import HierSRecError, InterruptedRunError, RunError
from hiersrec_training.distributed import Ranks, joined, uses_gpus
from hiersrec_training.stop_signals import SIGNALS, stop_signals

T = TypeVar("T")
Report = Callable[[str], None]
POLL = 0.2  # seconds after which a signal is passed on, at most
GRACE = 30.0  # seconds that ranks have to end by themselves after one has raised an error, mostly that of all
_PR_SET_PDEATHSIG = 1


def launch(processes: int, job: Callable[[Ranks, Report], T], report: Report, device: str) -> T:
    """Run ``job`` in as many new processes, the ranks of a group; returns what it returns on rank 0.

    Each has its share of the CPUs, unless ``OMP_NUM_THREADS`` says otherwise. SIGINT and SIGTERM are passed on to
    them; a second one ends them.

    Args:
        processes: at least 1.
        job: gets its ranks, and a ``report``. It travels by pickle, as does what it returns.
        report: takes the lines that rank 0 reports.
        device: "cpu" leaves the GPUs alone; "auto" or "cuda" gives each rank one.

    Raises:
        HierSRecError: the first that a rank has raised.
        RunError: a rank was killed, or ended by an error of another kind, whose traceback is on stderr.
        InterruptedRunError: a signal arrived.
    """
    context = get_context("spawn")  # a fork would inherit threads that hold locks
    resource_tracker.ensure_running()  # else the first process starts it, which unblocks signals
    with TemporaryDirectory(prefix="hiersrec-") as folder, stop_signals() as caught:
        group = _Group(processes, caught, report)
        try:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until a rank is ready for them
            try:
                for rank in range(processes):
                    receiver, sender = context.Pipe(duplex=False)
                    about = (Ranks(rank, processes), Path(folder) / "meeting", job, sender, device)
                    process = context.Process(target=_rank, args=about, name=f"rank {rank}")
                    process.start()
                    sender.close()  # so that the rank's end closes the pipe
                    group.add(process, receiver)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            group.watch()
        finally:
            group.kill()
    if group.failure is not None:
        raise group.failure
    returned: T = group.returned
    return returned


class _Group:
    """The processes that were started, seen from outside."""

    def __init__(self, size: int, caught: list[int], report: Report) -> None:
        self.size, self.caught, self.report = size, caught, report
        self.processes: list[SpawnProcess] = []
        self.pipes: dict[Connection, int] = {}  # of the ranks that have not ended; with the rank
        self.errors: dict[int, HierSRecError] = {}  # that a rank has raised
        self.failure: Exception | None = None  # the first
        self.returned: Any = None

    def add(self, process: SpawnProcess, pipe: Connection) -> None:
        self.pipes[pipe] = len(self.processes)
        self.processes.append(process)

    def watch(self) -> None:
        """Pass lines and signals on until every rank has ended, or one has failed and the others had their time."""
        passed_on, deadline = False, float("inf")
        while self.pipes and time.monotonic() < deadline:
            # a rank that was killed is the cause of what others then report
            ready = wait([*self.pipes], POLL)
            ended = [rank for pipe, rank in [*self.pipes.items()] if pipe in ready and not self._reads(pipe)]
            failures = [failure for rank in ended if (failure := self._failure(rank)) is not None]
            if failures and self.failure is None:
                is_raised, self.failure = min(failures, key=lambda one: one[0])
                deadline = time.monotonic() + GRACE * is_raised
            if self.caught and not passed_on:
                passed_on = True
                for process in self.processes:
                    if process.pid is not None and process.is_alive():
                        os.kill(process.pid, self.caught[0])

    def _reads(self, pipe: Connection) -> bool:
        """Take a message; returns whether there was one, else the rank has closed ``pipe``, which is to say, ended."""
        rank = self.pipes[pipe]
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):
            pipe.close()
            del self.pipes[pipe]
            self.processes[rank].join()
            return False
        if kind == "line":
            self.report(value)
        elif kind == "error":
            self.errors[rank] = value
        elif rank == 0:
            self.returned = value
        return True

    def _failure(self, rank: int) -> tuple[bool, Exception] | None:
        """Whether the ended ``rank`` has raised an error itself, and the error; None where all went well."""
        code = self.processes[rank].exitcode
        if not code:
            return None
        if rank in self.errors:
            return True, self.errors[rank]
        if self.caught:
            return True, InterruptedRunError(f"stopped by signal {self.caught[0]}")
        if code < 0:
            cause = f"was killed by {signal.Signals(-code).name}"
            cause += ", maybe for want of memory" if -code == signal.SIGKILL else ""
            return False, RunError(
                f"rank {rank} of {self.size} {cause}; the others were stopped: go on with --resume"
            )
        return True, RunError(
            f"rank {rank} of {self.size} ended with exit status {code}, the others were stopped: see its error above"
        )

    def kill(self) -> None:
        """End the ranks that have not ended."""
        for process in self.processes:
            process.kill()
            process.join()


def _rank(
    ranks: Ranks, meeting: Path, job: Callable[[Ranks, Report], Any], pipe: Connection, device: str
) -> None:
    """What a started process does."""
    os.setsid()  # Ctrl-C in a terminal reaches the starter, which passes it on
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # nobody else would stop it
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the machine's name resolves to
    tqdm.set_lock(
        threading.RLock()
    )  # its own is a semaphore of the system, which a killed rank would leave there
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cpus() // ranks.size))
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        with joined(ranks, ranks.rank, f"file://{meeting}", device):
            pipe.send(("value", job(ranks, lambda line: pipe.send(("line", line)))))
    except BaseException as error:
        if isinstance(error, HierSRecError):
            pipe.send(("error", error))
        elif not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        if uses_gpus(device):  # at the end of Python, NCCL would wait for the other ranks
            os._exit(1)
        sys.exit(1)
