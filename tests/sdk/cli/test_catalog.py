"""``hiersrec catalog``: changes from the command line, into a bundle or to a change feed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.feed import open_feed
from hiersrec_sdk.catalog.feed.file_feed import FileFeed
from tests.sdk.bundles import make_shop
from tests.sdk.cli.run import failed, passed

ITEMS = len(make_shop("string").ids)
CHANGES = [{"remove": "größe-3"}, {"set_bias": {"id": "0", "value": 1.5}}]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_shop("string").write(tmp_path / "bundle")


@pytest.fixture
def changes(tmp_path: Path) -> Path:
    path = tmp_path / "changes.jsonl"
    path.write_text("".join(json.dumps(change) + "\n" for change in CHANGES))
    return path


def removed(bundle: Path) -> bool:
    return len(Recommender.load(bundle).catalog) == ITEMS - 1


def test_changes_go_to_a_feed_and_are_compacted(bundle: Path, changes: Path, tmp_path: Path) -> None:
    feed = tmp_path / "changes.feed"
    assert failed("catalog", "apply", bundle, changes, "--feed", feed) == (
        f"Error: there is no change feed {feed}; --new-feed begins it\n"
    )
    assert not feed.exists()
    said = passed("catalog", "apply", bundle, changes, "--feed", feed, "--new-feed")
    assert said.startswith(("1 set_bias, 1 remove", "1 remove, 1 set_bias"))
    assert said.endswith(f"published to {feed}, up to record 2\n")
    assert not removed(bundle)
    said = passed("catalog", "compact", bundle, "--feed", feed, "--keep", "1")
    assert said == (
        f"{bundle} contains {feed} up to record 2, which begins with record 2 now; 0 records were skipped\n"
    )
    assert removed(bundle)
    with Recommender.load(bundle).follow(feed) as follower:
        assert follower.position == 2


def test_compact_makes_no_log(bundle: Path, tmp_path: Path) -> None:
    """A bundle that contained a feed of a wrong name could not follow the right one."""
    before = (bundle / "config.json").read_bytes()
    wrong = tmp_path / "chnages.feed"
    assert (
        failed("catalog", "compact", bundle, "--feed", wrong) == f"Error: there is no change feed {wrong}\n"
    )
    assert not wrong.exists()
    open_feed(wrong).close()
    said = passed("catalog", "compact", bundle, "--feed", wrong)
    assert said == f"{wrong} holds no record: {bundle} is left as it is\n"
    assert (bundle / "config.json").read_bytes() == before


def test_a_change_that_another_one_has_overtaken(
    bundle: Path, changes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The changes are in the feed already: they are not published again."""
    append, feed = FileFeed.append, tmp_path / "changes.feed"

    def late(log: FileFeed, some: Iterable[Any]) -> int:
        monkeypatch.setattr(FileFeed, "append", append)
        with open_feed(feed) as other:
            other.append([{"remove": "0"}])
        return append(log, some)

    monkeypatch.setattr(FileFeed, "append", late)
    said = failed("catalog", "apply", bundle, changes, "--feed", feed, "--new-feed")
    assert said.startswith("Error: line 2: change 2 of 2 was skipped by every replica")
    assert said.endswith("all up to line 2 are published\n")
    with open_feed(feed) as log:
        assert log.last == 3


def test_compact_of_another_key_of_redis(bundle: Path, changes: Path, tmp_path: Path) -> None:
    from tests.sdk.catalog.feed.redis_server import redis_server  # skips without the extra redis

    with redis_server(tmp_path) as redis:
        passed("catalog", "apply", bundle, changes, "--feed", redis.url("changes"), "--new-feed")
        for command in (("apply", bundle, changes), ("compact", bundle)):
            assert "there is no change feed" in failed("catalog", *command, "--feed", redis.url("chnages"))
        assert not redis.client().keys("chnages*")
        assert not removed(bundle)
        passed("catalog", "compact", bundle, "--feed", redis.url("changes"))
        assert removed(bundle)
