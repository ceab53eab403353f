"""Fixtures of the tests of feeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hiersrec_sdk.catalog.feed.file_feed import FileFeed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "changes.feed"


@pytest.fixture
def feed(path: Path) -> Iterator[FileFeed]:
    with FileFeed(path) as made:
        yield made
