"""The change feed: an ordered log of catalog changes that every replica follows."""

from __future__ import annotations

from typing import Any

from hiersrec_sdk.catalog.feed.feed import Feed
from hiersrec_sdk.catalog.feed.file_feed import FileFeed
from hiersrec_sdk.catalog.feed.follower import Follower, Readers
from hiersrec_sdk.catalog.snapshot import FeedPosition
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.errors import FeedError, MissingExtraError
from hiersrec_sdk.paths import as_path

__all__ = ["Feed", "FeedPosition", "Follower", "Readers", "follow", "open_feed"]

_REDIS = ("redis://", "rediss://", "unix://")


def open_feed(source: Any, *, make: bool = True) -> Feed:
    """Open a change feed; a log that is not there is made, empty.

    Args:
        source: the path of a file, such as ``"changes.feed"``; or the URL of a Redis server with the key of a stream,
            such as ``"redis://host/0?key=changes"`` (extra ``redis``; also ``rediss://`` and ``unix://``).
        make: False: a log that is not there is an error, as where a mistyped name would make another one.

    Raises:
        FeedCorruptError: the file is damaged, or is no change feed.
        FeedMissingError: there is no log, and ``make`` is False.
        FeedError: it cannot be opened, or the server not be reached.
        MissingExtraError: redis is not installed, for a URL.
        InvalidPathError: ``source`` is neither.
    """
    if isinstance(source, Feed):
        return source
    if isinstance(source, str) and source.startswith(_REDIS):
        try:
            from hiersrec_sdk.catalog.feed.redis_feed import RedisFeed
        except ModuleNotFoundError as error:
            raise MissingExtraError("redis", "a change feed in Redis", error.name or "redis") from error
        return RedisFeed(source, make)
    if isinstance(source, str) and "://" in source:
        scheme = source.partition("://")[0]
        raise FeedError(f"a change feed is the path of a file, or a URL of redis://, not of {scheme[:20]}://")
    return FileFeed(as_path(source, "feed"), make)


def follow(catalog: MutableCatalog, readers: Readers, source: Any, after: int | None = None) -> Follower:
    """Follow a change feed, which is closed with what this returns if it was not opened before.

    See :meth:`hiersrec_sdk.Recommender.follow`.
    """
    if isinstance(source, Feed):
        return Follower(catalog, readers, source, after)
    feed = open_feed(source)
    try:
        return Follower(catalog, readers, feed, after, owns_feed=True)
    except BaseException:
        feed.close()
        raise
