"""A change feed in memory, as ``Recommender.follow`` makes one: whoever follows it applies its changes."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.change_file import apply
from hiersrec_sdk.errors import CatalogChangeError


class Log:
    """Changes in order, and those who follow them."""

    def __init__(self) -> None:
        self.changes: list[Mapping[str, Any]] = []
        self.followers: list[Follower] = []
        self.lock = threading.RLock()


class Follower:
    """Applies a log to one recommender."""

    def __init__(self, recommender: Recommender, log: Log) -> None:
        self._recommender, self._log = recommender, log
        self.position = self.lag = self.rejected = 0
        self.error: Exception | None = None
        self.is_closed = False
        with log.lock:
            log.followers.append(self)
            self.catch_up()

    def catch_up(self) -> None:
        lines = [json.dumps(change) for change in self._log.changes[self.position :]]
        apply(self._recommender.catalog, lines)
        self.position = len(self._log.changes)

    def publish(self, changes: Sequence[Mapping[str, Any]]) -> int:
        assert not self.is_closed
        with self._log.lock:
            try:
                apply(self._recommender.catalog, [json.dumps(change) for change in changes])
            except CatalogChangeError as error:
                raise error.__cause__ or error from None
            self._log.changes += changes
            self.position = len(self._log.changes)
            for follower in self._log.followers:
                follower.catch_up()
            return self.position

    def close(self) -> None:
        self.is_closed = True


def fake_feeds(monkeypatch: pytest.MonkeyPatch) -> dict[str, Log]:
    """Have ``Recommender.follow`` follow logs in memory; returns them by name."""
    logs: dict[str, Log] = {}

    def follow(recommender: Recommender, feed: str) -> Follower:
        return Follower(recommender, logs.setdefault(feed, Log()))

    monkeypatch.setattr(Recommender, "follow", follow, raising=False)
    return logs
