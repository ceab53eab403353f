"""The runner of the fuzzer: whatever a case does, it is found, grouped, and the next case runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from hiersrec_sdk.ranking.codes import Codes
from tests.fuzz import runner
from tests.fuzz.use import WrongError

Act = Callable[[Path], object]


@dataclass
class Fake:
    """A case that does what it was told."""

    act: Act
    notes: list[str] = field(default_factory=lambda: ["a fake"])

    def run(self, scratch: Path) -> str:
        self.act(scratch)
        return "used"


def fuzz(act: Act, cases: int = 3, processes: int = 2, hang: float = 30.0) -> runner.Report:
    """Run cases that ``act``, each between two that do nothing."""
    targets = {"good": lambda _: Fake(lambda _: None), "bad": lambda _: Fake(act)}
    report = runner.run(targets, first=10, cases=cases, processes=processes, hang=hang)
    assert report.ends["good"] == {"used": cases}
    assert sum(report.ends["bad"].values()) == cases
    return report


def only(report: runner.Report) -> runner.Finding:
    (found,) = report.findings.values()
    return found


@dataclass
class Modulus:
    """A number that does something when it divides another one."""

    act: Callable[[], object]

    def __rmod__(self, other: int) -> int:
        self.act()
        return other


def raise_wrong(scratch: Path) -> None:
    raise WrongError("an answer is wrong")


def raise_in_the_project(scratch: Path) -> None:
    Codes.of(np.zeros((0, 3), np.float32))


def raise_elsewhere(scratch: Path) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_cases_that_end_well_are_counted(processes: int) -> None:
    report = fuzz(lambda scratch: (scratch / "file").touch(), cases=7, processes=processes)
    assert not report.findings
    assert report.ends["bad"] == {"used": 7}
    assert "7 cases" in str(report)
    assert str(report).endswith("nothing found")


@pytest.mark.parametrize(
    ("act", "kind", "place"),
    [
        (raise_wrong, "an answer is wrong", ""),
        (raise_in_the_project, "ValueError", "hiersrec_sdk/ranking/codes.py"),
        (raise_elsewhere, "KeyboardInterrupt", "elsewhere"),
        (lambda _: os._exit(3), "exit 3", "elsewhere"),
        (lambda _: signal.raise_signal(signal.SIGSEGV), "SIGSEGV", "elsewhere"),
        (lambda _: os.kill(os.getpid(), 9), "SIGKILL", "elsewhere"),
    ],
)
def test_whatever_else_a_case_does_is_a_finding(act: Act, kind: str, place: str) -> None:
    found = only(fuzz(act))
    assert (found.target, found.kind, found.seed, found.count) == ("bad", kind, 10, 3)
    assert found.place.startswith(place)
    assert found.notes == ["a fake"]


def test_a_hang_is_ended_and_found() -> None:
    started = time.monotonic()
    found = only(fuzz(lambda _: time.sleep(100), cases=1, hang=1.0))
    assert found.kind == "hang"
    assert "File" in found.detail
    assert time.monotonic() - started < 60


def test_a_case_that_was_slow_once_is_no_finding(tmp_path: Path) -> None:
    def slow_at_first(scratch: Path) -> None:
        if not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            time.sleep(100)

    report = fuzz(slow_at_first, cases=1, hang=1.0)
    assert not report.findings
    assert report.ends["bad"] == {"used": 1}


def test_a_crash_names_the_innermost_line_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> None:
        signal.raise_signal(signal.SIGSEGV)

    monkeypatch.setattr("hiersrec_sdk.ranking.codes.BLOCK", Modulus(crash))
    found = only(fuzz(lambda _: Codes.of(np.zeros((1, 3), np.float32)), cases=1))
    assert found.kind == "SIGSEGV"
    assert found.place.startswith("hiersrec_sdk/ranking/codes.py:")


def test_findings_of_one_kind_are_one_with_the_smallest_seed() -> None:
    report = runner.Report()
    for seed in (5, 3, 9):
        first = report.add(runner.Finding("tables", "ValueError", "a.py:1 f", seed, [str(seed)], ""))
        assert first is (seed == 5)
    report.add(runner.Finding("tables", "ValueError", "a.py:2 f", 1, [], ""))
    assert [(found.seed, found.count) for found in report.findings.values()] == [(3, 3), (1, 1)]
    assert "2 kinds of findings" in str(report)


def test_reports_of_sanitizers_and_tracebacks_name_a_line() -> None:
    report = (
        "#0 0x7f in add_to /somewhere/csrc/categories.c:65\n#1 0x7f in choose /somewhere/csrc/topk.c:93\n"
    )
    assert runner._place(report, 0) == "csrc/categories.c:65"
    first, last = (
        f'  File "/a/hiersrec_sdk/{file}.py", line 3, in <module>\n' for file in ("plan", "cli/main")
    )
    assert runner._place(first + last, -1) == "hiersrec_sdk/cli/main.py:3 <module>"
    fault = '  File "/a/hiersrec_sdk/plan.py", line 3 in plan\n  File "/a/hiersrec_sdk/search.py", line 7 in best\n'
    assert runner._place(fault, 0) == "hiersrec_sdk/plan.py:3 plan"
    assert runner._place("nothing", 0) == "elsewhere"
