"""Exceptions from outside, raised at chosen lines of the SDK: what Ctrl-C, a time limit or a full memory do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

import hiersrec_sdk

SDK = str(Path(hiersrec_sdk.__file__).parent)


class Interruption:
    """Raises ``error`` before the ``at``-th line that :meth:`during` runs of some files of the SDK; counts them.

    A subclass may do something else there, by another :meth:`handle`.

    Args:
        at: which one; 0: none.
        error: what is raised.
        files: names of the files, such as "writer.py"; none: every file.
        opcodes: before each opcode, not each line.

    Attributes:
        lines: how many lines ran, the interrupted one included.
        where: file and line of the interruption; None where the call ended before.
    """

    def __init__(
        self,
        at: int,
        error: type[BaseException] = KeyboardInterrupt,
        files: Collection[str] = (),
        opcodes: bool = False,
    ) -> None:
        self.at, self.error, self.files, self.opcodes = at, error, files, opcodes
        self.lines = 0
        self.where: tuple[str, int] | None = None

    def during(self, call: Callable[[], object]) -> BaseException | None:
        """Run ``call``; returns what it raised, if that is ``error`` or a consequence of it."""
        before = sys.gettrace()
        try:
            sys.settrace(self._enter)
            call()
        except BaseException as error:
            if self.where is None:
                raise
            return error.with_traceback(None)  # whose frames would keep what they hold
        finally:
            sys.settrace(before)
        return None

    def _enter(self, frame: FrameType, event: str, value: Any) -> Any:
        file = frame.f_code.co_filename
        if frame.f_code.co_name == "__del__":  # Python hides what is raised there
            return None
        if not file.startswith(SDK) or (self.files and Path(file).name not in self.files):
            return None
        frame.f_trace_opcodes = self.opcodes
        return self._line

    def _line(self, frame: FrameType, event: str, value: Any) -> Any:
        if event == ("opcode" if self.opcodes else "line") and self.where is None:
            self.lines += 1
            if self.lines == self.at:
                self.where = Path(frame.f_code.co_filename).name, frame.f_lineno
                sys.settrace(None)
                self.handle()
        return self._line

    def handle(self) -> None:
        """What a signal handler does there."""
        raise self.error("from outside")


def lines_of(call: Callable[[], object], files: Collection[str] = (), opcodes: bool = False) -> int:
    """How many lines of these files ``call`` runs."""
    counted = Interruption(0, files=files, opcodes=opcodes)
    counted.during(call)
    return counted.lines


def first_visits(call: Callable[[], object], files: Collection[str] = ()) -> list[int]:
    """For each line of these files that ``call`` runs, the :attr:`Interruption.at` of the first time."""

    class Visits(Interruption):
        def _line(self, frame: FrameType, event: str, value: Any) -> Any:
            if event == "line":
                self.lines += 1
                found.setdefault((frame.f_code.co_filename, frame.f_lineno), self.lines)
            return self._line

    found: dict[tuple[str, int], int] = {}
    Visits(0, files=files).during(call)
    return [*found.values()]
