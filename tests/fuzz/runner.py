"""Runs cases in processes that may die, each of which is forked from one that has imported everything.

A worker runs some hundred cases, and writes into shared memory which one it is at. Where it dies or hangs, that case is
the finding, and another worker goes on behind it. Findings are grouped by how they ended and by the innermost line of
the project.
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Protocol

from hiersrec_sdk import _kernel
from tests.fuzz.chance import Chance
from tests.fuzz.parts import SCRATCH, remove
from tests.fuzz.use import WrongError
from tests.fuzz.warm import SANITIZED

HANG: Final = 20.0  # seconds
_CASES: Final = 400  # of one worker
_MEMORY: Final = 2 << 30  # bytes that a worker may have beside those that it begins with
_LARGEST_FILE: Final = 256 << 20  # bytes
_SANITIZER: Final = re.compile(r"AddressSanitizer: (\S+)|(runtime error: [a-z -]+)")
_NO_MEMORY: Final = (
    "allocator",
    "requested",
    "out-of-memory",
)  # C++ would raise, but the sanitizer ends the process
_PLACE: Final = re.compile(
    r'(hiersrec_sdk/[\w/]+\.(?:py|pyx))", line (\d+),? in (\S+)|(csrc/\w+\.(?:c|h|inc)|hiersrec_sdk/\w+\.pyx):(\d+)()'
)


class Case(Protocol):
    """A case: what it damages, in words; and a run, which returns how it ended in a word."""

    notes: list[str]

    def run(self, scratch: Path) -> str:
        """Try it in an empty folder. Whatever it raises is a finding."""
        ...


Make = Callable[[Chance], Case]
Targets = Mapping[str, Make]
"""What makes the cases of each target, by its name."""


@dataclass
class Finding:
    """Cases that ended alike.

    Attributes:
        target: what they damage.
        kind: the exception, the signal, the sanitizer's word for it, or "hang".
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


_Said = Finding | tuple[str, str, float]
"""A finding; or the target of a case, how it ended, and its seconds."""


@dataclass
class Report:
    """What came of a run.

    Attributes:
        findings: by their titles.
        ends: how often cases ended how, by target.
        seconds: that cases took, by target.
    """

    findings: dict[str, Finding] = field(default_factory=dict)
    ends: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, found: Finding) -> bool:
        """Count a finding; whether it is the first of its kind."""
        known = self.findings.get(found.title)
        if known is None:
            self.findings[found.title] = found
            return True
        first = found if found.seed < known.seed else known
        first.count = known.count + 1
        self.findings[found.title] = first
        return False

    def ended(self, target: str, end: str, seconds: float) -> None:
        """Count a case."""
        ends = self.ends.setdefault(target, {})
        ends[end] = ends.get(end, 0) + 1
        self.seconds[target] = self.seconds.get(target, 0.0) + seconds

    def __str__(self) -> str:
        lines = []
        for target, ends in sorted(self.ends.items()):
            total = sum(ends.values())
            told = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
            rate = total / max(self.seconds[target], 1e-9)
            lines.append(f"{target:<8} {total:>7,} cases, {rate:6.1f} a second and process: {told}")
        for title, found in sorted(self.findings.items()):
            lines += ["", f"{title}: {found.count:,} cases, the first {found.seed}"]
            lines += [f"    {ascii(note)[1:-1]}" for note in found.notes]
            lines += [f"    | {line}" for line in found.detail.splitlines()]
        kinds = len(self.findings)
        return "\n".join([*lines, "", f"{kinds} kinds of findings" if kinds else "nothing found"])


def run_one(targets: Targets, target: str, seed: int, show: Callable[[str], None]) -> Finding | None:
    """Run one case in this process, which a crash ends; what is damaged is shown first."""
    _prepare()
    _use_kernel(seed)
    case = _case(targets, target, seed)
    for note in (*case.notes, _kernel.isa()):
        show(note)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=SCRATCH))
    try:
        show(case.run(folder))
    except Exception as error:
        show("".join(traceback.format_exception(error)))
        return _finding(target, seed, case.notes, error)
    finally:
        remove(folder)
    return None


def run(
    targets: Targets,
    *,
    first: int = 0,
    cases: int | None = None,
    seconds: float | None = None,
    processes: int = 1,
    hang: float = HANG,
    found: Callable[[Finding], object] = lambda _: None,
) -> Report:
    """Run the seeds from ``first`` on, the targets in turn.

    Args:
        targets: what makes the cases.
        first: the first seed.
        cases: of each target; None: as many as there is time for.
        seconds: how long; None: until the cases are done.
        processes: workers at a time.
        hang: seconds after which a case hangs; so it does if that happens twice.
        found: told of each finding that is the first of its kind.
    """
    until = float("inf") if seconds is None else time.monotonic() + seconds
    stop = sys.maxsize if cases is None else cases * len(targets)
    report = Report()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=SCRATCH))
    workers = [
        _Worker(folder / str(at), targets, first, range(at, stop, processes), until, hang)
        for at in range(processes)
    ]
    try:
        for worker in workers:
            worker.start()
        while running := [worker for worker in workers if worker.pid]:
            ready, _, _ = select.select([worker.pipe for worker in running], [], [], 1.0)
            for worker in running:
                for said in worker.said() if worker.pipe in ready else worker.watched():
                    if not isinstance(said, Finding):
                        report.ended(*said)
                    elif report.add(said):
                        found(said)
    finally:
        for worker in workers:
            worker.kill()
        remove(folder)
    return report


def kernel_file() -> str:
    """The file of the kernel that runs, and its instruction sets."""
    return f"{_kernel.__file__}, {', '.join(_kernel.available_isas())}"


class _Worker:
    """One worker after another, each forked where the last one ended.

    Args:
        folder: for its files.
        targets: what makes the cases.
        first: the first seed.
        numbers: of its cases. Number i is of target ``i % len(targets)`` and of seed ``first + i // len(targets)``.
        until: when to end, by the monotonic clock.
        hang: seconds after which a case hangs.
    """

    def __init__(
        self, folder: Path, targets: Targets, first: int, numbers: Sequence[int], until: float, hang: float
    ) -> None:
        self.pid = 0  # of the process that runs; 0: none
        self.pipe = -1  # from it
        self._folder, self._targets, self._first, self._until, self._hang = (
            folder,
            targets,
            first,
            until,
            hang,
        )
        self._numbers, self._next = numbers, 0
        self._died_at = -1  # the position of the newest case that ended a worker
        self._shared = mmap.mmap(-1, 16)  # the position of the case that runs, and when it began
        self._rest = b""

    def start(self) -> None:
        """Fork a worker that goes on with the next case."""
        remove(self._folder)
        self._folder.mkdir(parents=True)
        self._at(self._next)
        self.pipe, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.pipe)
            status = 1
            try:
                self._work(writing)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        self._rest = b""

    def watched(self) -> list[_Said]:
        """Nothing; but a worker that does not even end itself is ended."""
        _, began = struct.unpack("<qd", self._shared[:])
        if time.monotonic() - began > 2 * self._hang + 10:
            os.kill(self.pid, signal.SIGKILL)
        return []

    def said(self) -> list[_Said]:
        """What the worker says; and at its end what it died of, if it did. Then another one goes on."""
        block = os.read(self.pipe, 1 << 16)
        *lines, self._rest = (self._rest + block).split(b"\n")
        if block:
            return [_decoded(line) for line in lines]
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        self._next, began = struct.unpack("<qd", self._shared[:])
        said: list[_Said] = []
        if status:
            said = self._died(status, time.monotonic() - began)
            is_first = self._next != self._died_at
            self._died_at = self._next
            if is_first and any(isinstance(each, Finding) and each.kind == "hang" for each in said):
                said = []  # it is tried again, as a machine may have been too busy
            else:
                self._next += 1
        if self._next < len(self._numbers) and time.monotonic() < self._until:
            self.start()
        return said

    def kill(self) -> None:
        """End the worker, if it runs."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self.pipe)
            self.pid = 0

    def _at(self, position: int) -> float:
        now = time.monotonic()
        self._shared[:] = struct.pack("<qd", position, now)
        return now

    def _chosen(self, position: int) -> tuple[str, int]:
        """The target and the seed of a case."""
        number = self._numbers[position]
        return [*self._targets][number % len(self._targets)], self._first + number // len(self._targets)

    def _died(self, status: int, seconds: float) -> list[_Said]:
        target, seed = self._chosen(self._next)
        text = (self._folder / "stderr").read_text("utf-8", "replace").partition("Extension modules:")[0]
        report = _SANITIZER.search(text)
        if "Timeout (" in text:
            kind = "hang"
        elif report:
            kind = (report[1] or report[2]).strip()
        elif os.WIFSIGNALED(status):
            kind = signal.Signals(os.WTERMSIG(status)).name
        else:
            kind = f"exit {os.WEXITSTATUS(status)}"
        if kind in _NO_MEMORY:
            return [(target, "without memory", seconds)]
        shown = text[report.start() :] if report else text
        notes = _case(self._targets, target, seed).notes
        return [
            Finding(target, kind, _place(shown, 0), seed, notes, _lines(shown, 24, 0)),
            (target, "died", seconds),
        ]

    def _work(self, writing: int) -> None:
        errors = os.open(self._folder / "stderr", os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        _prepare()
        _limit()
        scratch = self._folder / "case"
        for position in range(self._next, self._next + _CASES):
            began = self._at(position)
            if position >= len(self._numbers) or began > self._until:
                return
            target, seed = self._chosen(position)
            os.ftruncate(2, 0)
            scratch.mkdir()
            _use_kernel(seed)
            faulthandler.dump_traceback_later(self._hang, exit=True, file=2)
            notes: list[str] = []
            try:
                case = _case(self._targets, target, seed)
                notes = case.notes
                end = case.run(scratch)
            except BaseException as error:
                end = "wrong"
                _say(writing, _finding(target, seed, notes, error))
            faulthandler.cancel_dump_traceback_later()
            remove(scratch)
            _say(writing, (target, end, time.monotonic() - began))
        self._at(self._next + _CASES)


def _case(targets: Targets, target: str, seed: int) -> Case:
    return targets[target](Chance(f"{target}:{seed}"))


def _prepare() -> None:
    """Have NumPy's warnings of invalid casts raised, and a crash say where it was."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", message=".*invalid value encountered in cast", category=RuntimeWarning)
    faulthandler.enable(2)


def _use_kernel(seed: int) -> None:
    """Each instruction set has its turn."""
    names = _kernel.available_isas()
    _kernel.use_isa(names[seed % len(names)])


def _limit() -> None:
    """Bound the memory and the files of this process."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not SANITIZED:  # whose shadow is larger than any memory
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _say(pipe: int, what: _Said) -> None:
    line = json.dumps(asdict(what) if isinstance(what, Finding) else what).encode() + b"\n"
    while line:
        line = line[os.write(pipe, line) :]


def _decoded(line: bytes) -> _Said:
    value = json.loads(line)
    return Finding(**value) if isinstance(value, dict) else (value[0], value[1], value[2])


def _finding(target: str, seed: int, notes: list[str], error: BaseException) -> Finding:
    text = "".join(traceback.format_exception(error))
    if isinstance(error, WrongError):
        cause = "".join(traceback.format_exception_only(error.__cause__)) if error.__cause__ else ""
        return Finding(target, str(error), "", seed, notes, _lines(text + cause, 0, 8))
    return Finding(target, type(error).__name__, _place(text, -1), seed, notes, _lines(text, 0, 12))


def _place(text: str, which: int) -> str:
    """A line of the project in a traceback, whose last one is the innermost, or in a report, whose first one is."""
    places = [
        f"{one or two}:{line or number} {function}".strip()
        for one, line, function, two, number, _ in _PLACE.findall(text)
    ]
    return places[which] if places else "elsewhere"


def _lines(text: str, first: int, last: int) -> str:
    """Some lines of a report, none of them long."""
    lines = [line[:300] for line in text.splitlines()]
    return "\n".join(lines[:first] + lines[len(lines) - last :])
