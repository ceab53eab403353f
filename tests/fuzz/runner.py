"""Runs cases in processes that may die: each is forked from one that has imported everything, and does some hundred cases.

A worker writes into shared memory which case it is at. Where it dies or hangs, that case is the finding, and another worker
goes on behind it. Findings are grouped by how they ended and by the innermost line of the project.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import re
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from tests.fuzz.chance import Chance
from tests.fuzz.parts import SCRATCH, remove
from tests.fuzz.warm import SANITIZED
from tests.fuzz.use import Wrong

ROOT: Final = Path(__file__).resolve().parents[2]
HANG: Final = 20.0  # seconds
_CASES: Final = 400  # of one worker
_MEMORY: Final = 2 << 30  # bytes that a worker may have beside those that it begins with
_FILE: Final = 256 << 20  # bytes of the largest file that it may write
_NO_MEMORY: Final = ("allocator", "requested", "out-of-memory")  # where C++ would raise, the sanitizer ends the process
_PROJECT: Final = re.compile(r"(hiersrec_sdk/[\w/]+\.(?:py|pyx)|csrc/\w+\.(?:c|h|inc))\D{1,10}(\d+)(?:, in |:\d+)?(\w*)")


class Case(Protocol):
    """A case: what it damages, in words; and a run, which returns how it ended in a word."""

    notes: list[str]

    def run(self, scratch: Path) -> str:
        """Try it in an empty folder. Whatever it raises is a finding."""
        ...


Make = Callable[[Chance], Case]


@dataclass
class Finding:
    """Cases that ended alike.

    Attributes:
        target: what they damage.
        kind: the exception, the signal, or "hang".
        place: the innermost line of the project.
        seed: the smallest of a case.
        notes: what that case damaged.
        detail: traceback or report of it.
        count: how many cases.
    """

    target: str
    kind: str
    place: str
    seed: int
    notes: list[str]
    detail: str
    count: int = 1

    @property
    def title(self) -> str:
        """What was found, in a line."""
        return f"{self.target}: {self.kind}{self.place and f' at {self.place}'}"

    @property
    def key(self) -> tuple[str, str, str]:
        return self.target, self.kind, self.place


@dataclass
class Report:
    """What came of a run: findings, and for each target how often cases ended how."""

    findings: dict[tuple[str, str, str], Finding] = field(default_factory=dict)
    ends: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, found: Finding) -> bool:
        """Count a finding; whether it is the first of its kind."""
        known = self.findings.get(found.key)
        if known is None:
            self.findings[found.key] = found
            return True
        known.count += 1
        if found.seed < known.seed:
            known.seed, known.notes, known.detail = found.seed, found.notes, found.detail
        return False

    def ended(self, target: str, end: str, seconds: float) -> None:
        """Count a case."""
        ends = self.ends.setdefault(target, {})
        ends[end] = ends.get(end, 0) + 1
        self.seconds[target] = self.seconds.get(target, 0.0) + seconds

    def __str__(self) -> str:
        lines = []
        for target in sorted(self.ends):
            ends, seconds = self.ends[target], self.seconds[target]
            total = sum(ends.values())
            told = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
            lines.append(f"{target:<8} {total:>7,} cases, {total / max(seconds, 1e-9):6.1f} a second and process: {told}")
        for found in sorted(self.findings.values(), key=lambda each: each.key):
            lines += ["", f"{found.title}: {found.count:,} cases, the first {found.seed}"]
            lines += [f"    {ascii(note)[1:-1]}" for note in found.notes]
            lines += [f"    | {line}" for line in found.detail.splitlines()]
        count = len(self.findings)
        lines += ["", "nothing found" if not count else f"{count} kinds of findings"]
        return "\n".join(lines)


def run_one(make: Make, target: str, seed: int, show: Callable[[str], None]) -> Finding | None:
    """Run one case in this process; a crash ends it."""
    _prepare()
    case = make(Chance(f"{target}:{seed}"))
    for note in case.notes:
        show(note)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=SCRATCH))
    try:
        show(case.run(folder))
    except BaseException as error:
        traceback.print_exc()
        return _finding(target, seed, case.notes, error)
    finally:
        remove(folder)
    return None


def run(
    targets: Mapping[str, Make],
    *,
    first: int = 0,
    cases: int | None = None,
    seconds: float | None = None,
    processes: int = 1,
    hang: float = HANG,
    found: Callable[[Finding], None] = lambda _: None,
) -> Report:
    """Run the seeds from ``first`` on, the targets in turn.

    Args:
        targets: what makes the cases of each target.
        first: the first seed.
        cases: of each target; None: as many as there is time for.
        seconds: how long; None: until the cases are done.
        processes: workers at a time.
        hang: seconds after which a case hangs.
        found: told of each finding that is the first of its kind.
    """
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    report = Report()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=SCRATCH))
    plan = [(target, make) for target, make in targets.items()]
    stop = len(plan) * cases if cases is not None else sys.maxsize
    workers = [_Worker(folder / str(at), plan, first, at, processes, stop, until, hang) for at in range(processes)]
    try:
        for worker in workers:
            worker.start()
        while running := [worker for worker in workers if worker.pid]:
            ready, _, _ = select.select([worker.pipe for worker in running], [], [], 1.0)
            for worker in running:
                for each in worker.read(worker.pipe in ready):
                    if isinstance(each, Finding):
                        if report.add(each):
                            found(each)
                    else:
                        report.ended(*each)
    finally:
        for worker in workers:
            worker.kill()
        remove(folder)
    return report


class _Worker:
    """One worker after another. Case i is of target ``i % len(plan)`` and of seed ``first + i // len(plan)``; the
    worker takes every ``step``-th case."""

    def __init__(
        self,
        folder: Path,
        plan: Sequence[tuple[str, Make]],
        first: int,
        begin: int,
        step: int,
        stop: int,
        until: float,
        hang: float,
    ) -> None:
        self.folder, self.plan, self.first, self.step, self.stop = folder, plan, first, step, stop
        self.until, self.hang = until, hang
        self.shared = mmap.mmap(-1, 16)  # the case that runs, and when it began
        self.next = begin
        self.pid = 0
        self.pipe = -1
        self.rest = b""

    def start(self) -> None:
        """Fork a worker that goes on with case ``next``."""
        remove(self.folder)
        self.folder.mkdir(parents=True)
        self.shared[:] = struct.pack("<qd", self.next, time.monotonic())
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            os.close(reading)
            status = 1
            try:
                self._work(writing)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        self.pid, self.pipe, self.rest = pid, reading, b""

    def read(self, ready: bool) -> list[Finding | tuple[str, str, float]]:
        """What the worker says; and what it died of."""
        if not ready:
            _, began = struct.unpack("<qd", self.shared[:])
            if time.monotonic() - began > 2 * self.hang + 10:  # it does not even end itself
                os.kill(self.pid, signal.SIGKILL)
            return []
        block = os.read(self.pipe, 1 << 16)
        *lines, self.rest = (self.rest + block).split(b"\n")
        said: list[Finding | tuple[str, str, float]] = [_decoded(line) for line in lines]
        if block:
            return said
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        at, began = struct.unpack("<qd", self.shared[:])
        if status:
            target, make = self.plan[at % len(self.plan)]
            seed = self.first + at // len(self.plan)
            found = self._died(target, make, seed, status)
            if found.kind in _NO_MEMORY:
                end = "without memory"
            else:
                end = "died"
                said.append(found)
            said.append((target, end, time.monotonic() - began))
            at += self.step
        self.next = at
        if self.next < self.stop and time.monotonic() < self.until:
            self.start()
        return said

    def kill(self) -> None:
        """End the worker, if it runs."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.pipe)
            self.pid = 0
        self.shared.close()

    def _died(self, target: str, make: Make, seed: int, status: int) -> Finding:
        text = (self.folder / "stderr").read_text("utf-8", "replace")
        notes = make(Chance(f"{target}:{seed}")).notes
        text = text.partition("Extension modules:")[0]
        report = re.search(r"AddressSanitizer: (\S+)|(runtime error: [a-z -]+)", text)
        shown = text[report.start() :] if report else text
        if "Timeout (" in text:
            kind = "hang"
        elif report:
            kind = (report[1] or report[2]).strip()
        elif os.WIFSIGNALED(status):
            kind = signal.Signals(os.WTERMSIG(status)).name
        else:
            kind = f"exit {os.WEXITSTATUS(status)}"
        return Finding(target, kind, _innermost(text, first=True), seed, notes, _lines(shown, 24, 0))

    def _work(self, writing: int) -> None:
        errors = os.open(self.folder / "stderr", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        _prepare()
        _limit()
        at = self.next
        for _ in range(_CASES):
            began = time.monotonic()
            self.shared[:] = struct.pack("<qd", at, began)
            if at >= self.stop or began > self.until:
                return
            target, make = self.plan[at % len(self.plan)]
            seed = self.first + at // len(self.plan)
            os.ftruncate(2, 0)
            faulthandler.dump_traceback_later(self.hang, exit=True, file=2)
            scratch = self.folder / "case"
            scratch.mkdir()
            case: Case | None = None
            try:
                case = make(Chance(f"{target}:{seed}"))
                end = case.run(scratch)
            except BaseException as error:
                end = "wrong"
                _say(writing, _finding(target, seed, [] if case is None else case.notes, error))
            faulthandler.cancel_dump_traceback_later()
            remove(scratch)
            _say(writing, (target, end, time.monotonic() - began))
            at += self.step
            self.shared[:] = struct.pack("<qd", at, time.monotonic())


def _prepare() -> None:
    """Have NumPy's warnings of invalid casts raised, and a crash say where it was."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", message=".*invalid value encountered in cast", category=RuntimeWarning)
    faulthandler.enable(2)


def _limit() -> None:
    """Bound the memory and the files of this process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not SANITIZED:  # whose shadow is larger than any memory
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _say(pipe: int, what: Finding | tuple[str, str, float]) -> None:
    value = what.__dict__ if isinstance(what, Finding) else what
    line = json.dumps(value).encode() + b"\n"
    while line:
        line = line[os.write(pipe, line) :]


def _decoded(line: bytes) -> Finding | tuple[str, str, float]:
    value = json.loads(line)
    return Finding(**value) if isinstance(value, dict) else (value[0], value[1], value[2])


def _finding(target: str, seed: int, notes: list[str], error: BaseException) -> Finding:
    text = "".join(traceback.format_exception(error))
    if isinstance(error, Wrong):
        return Finding(target, str(error), "", seed, notes, _lines(text, 0, 12))
    return Finding(target, type(error).__name__, _innermost(text, first=False), seed, notes, _lines(text, 0, 12))


def _lines(text: str, first: int, last: int) -> str:
    """Some lines of a report, none of them long."""
    lines = [line[:300] for line in text.splitlines()]
    return "\n".join(lines[:first] + lines[-last:] if last else lines[:first])


def _innermost(text: str, first: bool) -> str:
    """The innermost line of the project in a traceback, which is its first one in the reports of a crash."""
    places = [f"{file}:{line} {function}".strip() for file, line, function in _PROJECT.findall(text)]
    return "elsewhere" if not places else places[0 if first else -1]
