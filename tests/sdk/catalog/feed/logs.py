"""Changes for the tests of feeds, and a system that fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hiersrec_sdk.catalog.changes import Change
from hiersrec_sdk.catalog.feed.feed import Feed, Record

END_AT, HEADER = 70, 125  # where the line with the end begins, and the records


def changes(count: int, name: str = "a") -> list[dict[str, Any]]:
    return [{"remove": f"{name}-{number}"} for number in range(count)]


def contents(given_changes: list[dict[str, Any]]) -> list[bytes]:
    return [Change.of(each).to_json() for each in given_changes]


def everything(feed: Feed, after: int | None = None) -> list[Record]:
    """All that is in the log."""
    return feed.read(feed.first - 1 if after is None else after, 10**6)


def records(first: int, given_contents: list[bytes]) -> list[Record]:
    return [Record(position, content) for position, content in enumerate(given_contents, first)]


class Disk:
    """Stands in the place of ``os`` in the module: fails as it is told."""

    def __init__(self, fails: Callable[[str, int], int | None]) -> None:
        self.fails, self.calls = fails, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _failing(self, name: str, at: int) -> int | None:
        self.calls += 1
        return self.fails(name, at)

    def pwrite(self, descriptor: int, content: Any, offset: int) -> int:
        failing = self._failing("pwrite", offset)
        if failing is not None and failing < 0:  # a short write
            return os.pwrite(descriptor, content[:-failing], offset)
        if failing:
            raise OSError(failing, os.strerror(failing))
        return os.pwrite(descriptor, content, offset)

    def fsync(self, descriptor: int) -> None:
        if failing := self._failing("fsync", 0):
            raise OSError(failing, os.strerror(failing))
        os.fsync(descriptor)

    def ftruncate(self, descriptor: int, size: int) -> None:
        if failing := self._failing("ftruncate", size):
            raise OSError(failing, os.strerror(failing))
        os.ftruncate(descriptor, size)


class OutOfTimeError(TimeoutError):
    """What a signal handler raises."""
