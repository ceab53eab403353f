"""A change feed in a Redis stream, for replicas on several machines.

The entries of the stream KEY have the ids 0-1, 0-2, 0-3 ...: positions. The identity of the log is the string
``KEY:log``. Redis 7 or newer.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from hiersrec_sdk.atomic import is_time_limit
from hiersrec_sdk.catalog.feed.feed import Feed, Record
from hiersrec_sdk.errors import FeedBehindError, FeedError, FeedLostError
from hiersrec_sdk.shown import shortened, shown

_log = logging.getLogger(__name__)

_CONNECT_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 5.0  # beside the time that is waited for records
_FIELD: Final = b"change"

# All or none: Redis runs a script as a whole. It adds nothing to another log than the one that was opened.
_APPEND: Final = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return redis.error_reply('LOST') end
local last
for at = 2, #ARGV do last = redis.call('XADD', KEYS[1], '0-*', 'change', ARGV[at]) end
return last
"""


class RedisFeed(Feed):
    """A change feed in a stream of a Redis server. An append is durable as far as the server's own settings say.

    Args:
        url: of the server and the key, such as ``redis://host:6379/0?key=changes``.
    """

    def __init__(self, url: str) -> None:
        server, self.key, self.label = _parts(url)
        with self._errors("cannot be used"):
            # A repeated append could come after what another replica has changed since. So nothing is tried again here.
            self._client = redis.Redis.from_url(
                server,
                socket_connect_timeout=_CONNECT_SECONDS,
                socket_timeout=_ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        with self._errors("cannot be reached"):
            version = str(self._info("server").get("redis_version", "0"))
            if int(version.partition(".")[0]) < 7:
                raise FeedError(f"{self.label}: a change feed needs Redis 7 or newer, and this is {version}")
            self._client.set(f"{self.key}:log", secrets.token_hex(16), nx=True)
            self.log = self._identity()
            self._append_script = self._client.register_script(_APPEND)
        self._warn_of_loss()

    @property
    def first(self) -> int:
        with self._errors("cannot be read"):
            return self._reach()[0]

    @property
    def last(self) -> int:
        with self._errors("cannot be read"):
            return self._reach()[1]

    def read(self, after: int, most: int, wait: float = 0.0) -> list[Record]:
        with self._errors("cannot be read"):
            self._check_log()
            first, last = self._reach()
            self.check_reaches(after, first, last)
            if after < last:
                entries = self._client.xrange(self.key, f"(0-{after}", "+", count=most)
            elif wait > 0:
                streams = self._client.xread(
                    {self.key: f"0-{after}"}, count=most, block=max(1, round(1000 * wait))
                )
                entries = [entry for _, found in cast("Any", streams) for entry in found]
            else:
                return []
        records = [
            Record(_position(entry), fields.get(_FIELD, b"")) for entry, fields in cast("Any", entries)
        ]
        for expected, record in enumerate(records, after + 1):
            if record.position != expected:  # dropped in between, or not written by a feed
                raise FeedBehindError(
                    f"{self.label} lacks record {expected}: load the newest bundle that hiersrec catalog compact has "
                    "written"
                )
        return records

    def drop(self, before: int) -> None:
        with self._errors("cannot be written"):
            self._check_log()
            self._client.xtrim(self.key, minid=f"0-{before}", approximate=False)

    def close(self) -> None:
        self._client.close()

    def _append(self, changes: Sequence[bytes]) -> int:
        try:
            return _position(
                self._append_script(keys=[self.key, f"{self.key}:log"], args=[self.log, *changes])
            )
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise FeedError(
                f"{self.label} was cut off ({self._why(error)}), and the changes may have been made: publish them again"
            ) from error
        except redis.ResponseError as error:
            if "LOST" in str(error):
                self._check_log()
            raise FeedError(f"{self.label} cannot be written: {self._why(error)}") from error
        except redis.RedisError as error:
            raise FeedError(f"{self.label} cannot be written: {self._why(error)}") from error

    def _reach(self) -> tuple[int, int]:
        """The positions of the oldest record, or of the next one where there is none, and of the newest one."""
        try:
            about: Any = self._client.xinfo_stream(self.key)
        except redis.ResponseError as error:
            if "no such key" in str(error):
                return 1, 0
            raise
        last = _position(about["last-generated-id"])
        oldest = about["first-entry"]
        return (last + 1 if oldest is None else _position(oldest[0])), last

    def _identity(self) -> str:
        found: Any = self._client.get(f"{self.key}:log")
        return "" if found is None else found.decode("ascii", "replace")

    def _check_log(self) -> None:
        """Raise :class:`FeedLostError` where the log is another one by now."""
        with self._errors("cannot be read"):
            log = self._identity()
        if log != self.log:
            found = (
                f"another log by now, {log}, and not {self.log}" if log else "gone: the server has lost it"
            )
            raise FeedLostError(
                f"{self.label} is {found}: load the newest bundle on every replica, and follow the new one"
            )

    def _warn_of_loss(self) -> None:
        """Log what the server may lose when it is killed."""
        try:
            found: Any = {**cast("Any", self._client.config_get("appendonly", "appendfsync"))}
        except redis.RedisError:  # not permitted, as in most hosted ones
            _log.info("%s: how the server keeps changes on the disk cannot be asked", self.label)
            return
        if found.get("appendonly") != "yes":
            _log.warning("%s keeps no log on the disk (appendonly no): a restart loses changes", self.label)
        elif found.get("appendfsync") != "always":
            _log.warning(
                "%s has appendfsync %s: a machine that loses its power loses the changes of the last second; "
                "appendfsync always keeps them",
                self.label,
                found.get("appendfsync"),
            )

    def _info(self, section: str) -> dict[str, Any]:
        return self._client.info(section)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError, ValueError) as error:
            if is_time_limit(error):
                raise
            raise FeedError(f"{self.label} {what}: {self._why(error)}") from error

    def _why(self, error: Exception) -> str:
        return shortened(error)


def _position(entry: Any) -> int:
    """The position of the entry with this id.

    Raises:
        FeedLostError: it is none.
    """
    text = entry.decode("ascii", "replace") if isinstance(entry, bytes) else str(entry)
    milliseconds, _, number = text.partition("-")
    if milliseconds != "0" or not number.isdecimal():
        raise FeedLostError(
            f"the stream has an entry {shown(text)}, which no change feed writes: use another key"
        )
    return int(number)


def _parts(url: str) -> tuple[str, str, str]:
    """The URL of a server, the key, and how messages call it: without user and password.

    Raises:
        FeedError: there is no key.
    """
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, keep_blank_values=True)
        port = parts.port
    except ValueError as error:
        raise FeedError(
            "a change feed's URL must be as redis://host:6379/0?key=changes, and this cannot be read"
        ) from error
    key = options.pop("key", [""])[-1]
    place = f"{parts.hostname or ''}{f':{port}' if port else ''}{parts.path}"
    if not key:
        raise FeedError(f"{parts.scheme}://{place} names no key: add ?key=changes")
    server = urlunsplit(parts._replace(query=urlencode(options, doseq=True)))
    return server, key, f"{parts.scheme}://{place}?key={key}"
