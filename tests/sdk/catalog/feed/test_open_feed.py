"""What names a change feed, and what does not."""

from __future__ import annotations

import sys

import pytest

from hiersrec_sdk.catalog.feed import open_feed
from hiersrec_sdk.errors import FeedError, InvalidPathError, MissingExtraError


def test_redis_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "hiersrec_sdk.catalog.feed.redis_feed", raising=False)
    with pytest.raises(MissingExtraError, match=r"a change feed in Redis.*hiersrec-sdk\[redis\]") as caught:
        open_feed("redis://127.0.0.1/0?key=changes")
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.parametrize("source", [None, 1, b"changes.feed", ["changes.feed"]])
def test_no_path(source: object) -> None:
    with pytest.raises(InvalidPathError, match="feed"):
        open_feed(source)


@pytest.mark.parametrize("url", ["kafka://host/topic", "http://user:hush@host"])
def test_another_scheme(url: str) -> None:
    with pytest.raises(FeedError, match=r"a URL of redis://, not of (kafka|http)://$"):
        open_feed(url)
