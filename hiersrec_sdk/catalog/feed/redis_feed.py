"""A change feed in a Redis stream, for replicas on several machines.

The entries of the stream KEY have the ids 0-1, 0-2, 0-3 ...: positions. The identity of the log is the string
``KEY:log``. Redis 7 or newer.

A server that is killed may lose the newest records, and give their positions to others. So each entry has a random
mark, and a feed that has seen an entry notices when another one is in its place.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any, Final, NamedTuple, cast
from urllib.parse import parse_qs, urlencode, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from hiersrec_sdk.atomic import is_time_limit
from hiersrec_sdk.catalog.feed.feed import Feed, Record
from hiersrec_sdk.errors import FeedBehindError, FeedError, FeedLostError, FeedMissingError
from hiersrec_sdk.shown import shortened, shown

_log = logging.getLogger(__name__)

_CONNECT_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 5.0  # beside the time that is waited for records
_FIELD: Final = b"change"
_MARK: Final = b"mark"

# Redis runs a script as a whole, so these are all or none, and do nothing to another log than the one that was opened.
_CHECK: Final = "if redis.call('GET', KEYS[2]) ~= ARGV[1] then return redis.error_reply('LOST') end\n"
_APPEND: Final = f"""{_CHECK}
local last
for at = 3, #ARGV do last = redis.call('XADD', KEYS[1], '0-*', 'change', ARGV[at], 'mark', ARGV[2]) end
return last
"""
_DROP: Final = f"{_CHECK} return redis.call('XTRIM', KEYS[1], 'MINID', ARGV[2])"

_UNREADABLE: Final = (
    "a change feed's URL must be as redis://user:password@host:6379/0?key=changes, and this cannot be read; in a "
    "password, write / as %2F, ? as %3F, # as %23, @ as %40"
)

# Options of the URL that would change the types and shapes of what the client returns.
_NOT_OPTIONS: Final = ("decode_responses", "encoding", "encoding_errors", "protocol")


class _Reach(NamedTuple):
    """What a stream holds: the positions of its oldest record, or of the next one where there is none, and of its
    newest one."""

    first: int
    last: int


class _Known(NamedTuple):
    """The newest record that a feed has read or written: position and mark."""

    position: int
    mark: bytes


class RedisFeed(Feed):
    """A change feed in a stream of a Redis server. An append is durable as far as the server's own settings say.

    Args:
        url: of the server and the key, such as ``redis://host:6379/0?key=changes``.
        make: whether to begin a log where there is none.
    """

    def __init__(self, url: str, make: bool = True) -> None:
        server, self.key, self.label = _parts(url)
        self._log_key, self._is_closed = f"{self.key}:log", False
        self._known = _Known(0, b"")
        with self._errors("cannot be used"):
            # A repeated append could come after what another replica has changed since. So nothing is tried again here.
            self._client = redis.Redis.from_url(
                server,
                protocol=2,
                socket_connect_timeout=_CONNECT_SECONDS,
                socket_timeout=_ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
            try:
                self._client.connection_pool.make_connection()  # which connects later
            except TypeError as error:
                raise FeedError(f"{self.label}: the URL has an option that there is not: {error}") from None
        self._append_script = self._client.register_script(_APPEND)
        self._drop_script = self._client.register_script(_DROP)
        with self._errors("cannot be reached"):
            version = str(self._client.info("server").get("redis_version", "0"))
        if int(version.partition(".")[0]) < 7:
            raise FeedError(f"{self.label}: a change feed needs Redis 7 or newer, and this is {version}")
        if make:
            with self._errors("cannot be made"):
                self._client.set(self._log_key, secrets.token_hex(16), nx=True)
        self.log = self._identity()
        if not self.log:
            raise FeedMissingError(f"there is no change feed {self.label}")
        self._reach()  # a stream that others write to is refused at once
        self._warn_of_loss()

    @property
    def first(self) -> int:
        return self._reach().first

    @property
    def last(self) -> int:
        return self._reach().last

    def read(self, after: int, most: int, wait: float = 0.0) -> list[Record]:
        records = self._read(after, most)
        if records or wait <= 0:
            return records
        with self._errors("cannot be read"):
            self._client.xread({self.key: f"0-{after}"}, count=1, block=max(1, round(1000 * wait)))
        return self._read(after, most)

    def drop(self, before: int) -> None:
        with self._errors("cannot be written"):
            self._run(self._drop_script, f"0-{max(before, 0)}")

    def close(self) -> None:
        self._is_closed = True
        self._client.close()

    def _append(self, changes: Sequence[bytes]) -> int:
        with self._errors("cannot be reached, and nothing was appended"):
            self._asked(0, 1)
        mark = secrets.token_hex(4).encode()
        try:
            with self._errors("cannot be written"):
                last = _position(self._run(self._append_script, mark, *changes))
        except FeedError as error:
            if not isinstance(error.__cause__, redis.ConnectionError | redis.TimeoutError):
                raise
            raise FeedError(
                f"{self.label} was cut off ({shortened(error.__cause__)}), and the changes may have been made: publish "
                "them again"
            ) from error.__cause__
        self._known = max(self._known, _Known(last, mark))
        return last

    def _run(self, script: Any, *arguments: Any) -> Any:
        """What a script returns.

        Raises:
            FeedLostError: the log is another one by now, or others write to the stream.
            redis.RedisError: it failed otherwise.
        """
        try:
            return script(keys=[self.key, self._log_key], args=[self.log, *arguments])
        except redis.ResponseError:
            self._check_log(self._identity())
            self._reach()
            raise

    def _read(self, after: int, most: int) -> list[Record]:
        """The records after a position that are there now."""
        with self._errors("cannot be read"):
            reach, entries = self._asked(after, most)
            self.check_reaches(after, *reach)
            records = [Record(_position(entry), fields.get(_FIELD, b"")) for entry, fields in entries]
        for expected, record in enumerate(records, after + 1):
            if record.position != expected:  # not dropped, as the log reaches back so far
                raise FeedBehindError(
                    f"{self.label} lacks record {expected}, which somebody has deleted: load the newest bundle that "
                    "hiersrec catalog compact has written"
                )
        if records:
            self._known = max(self._known, _Known(records[-1].position, entries[-1][1].get(_MARK, b"")))
        return records

    def _asked(self, after: int, most: int) -> tuple[_Reach, Any]:
        """What the log reaches now, and its entries after a position.

        Raises:
            FeedLostError: it is another log by now, has lost what is known of it, or others write to the stream.
            redis.RedisError: it failed otherwise.
        """
        known = self._known
        # The log comes last: if it is still the same, all before was of it. A transaction is refused by a server that
        # is out of memory.
        question = self._client.pipeline(transaction=False)
        question.xinfo_stream(self.key)
        question.xrange(self.key, f"0-{known.position}", f"0-{known.position}")
        question.xrange(self.key, f"(0-{after}", "+", count=most)
        question.get(self._log_key)
        about, same, entries, log = question.execute(raise_on_error=False)
        self._check_log(self._text(log))
        reach = self._reach_of(about)
        for found in (same, entries):
            if isinstance(found, Exception):
                raise found
        # a record that is known and not there was dropped, unless the log ends before it
        if known.position > reach.last or (same and same[0][1].get(_MARK, b"") != known.mark):
            raise FeedLostError(
                f"{self.label} has lost record {known.position}, maybe when the server was killed: load the newest "
                "bundle on every replica"
            )
        return reach, entries

    def _reach(self) -> _Reach:
        with self._errors("cannot be read"):
            about: Any
            try:
                about = self._client.xinfo_stream(self.key)
            except redis.ResponseError as error:
                about = error
            return self._reach_of(about)

    def _reach_of(self, about: Any) -> _Reach:
        """The reach that an answer to XINFO STREAM says.

        Raises:
            FeedLostError: others write to the stream.
            redis.RedisError: the answer is an error.
        """
        if isinstance(about, redis.ResponseError) and "no such key" in str(about):
            return _Reach(1, 0)
        if isinstance(about, Exception):
            raise about
        try:
            last = _position(about["last-generated-id"])
            oldest = about["first-entry"]
            return _Reach(last + 1 if oldest is None else _position(oldest[0]), last)
        except ValueError as error:
            raise FeedLostError(
                f"{self.label} has an entry {error}, which no change feed writes: use another key"
            ) from None

    def _identity(self) -> str:
        with self._errors("cannot be read"):
            return self._text(self._client.get(self._log_key))

    @staticmethod
    def _text(found: Any) -> str:
        if isinstance(found, Exception):
            raise found
        return "" if found is None else found.decode("ascii", "replace")

    def _check_log(self, log: str) -> None:
        """Raise :class:`FeedLostError` where the log is another one by now."""
        if log != self.log:
            found = (
                f"another log by now, {shown(log)}, and not {self.log}"
                if log
                else "gone: the server has lost it"
            )
            raise FeedLostError(
                f"{self.label} is {found}: load the newest bundle on every replica, and follow the new one"
            )

    def _warn_of_loss(self) -> None:
        """Log what the server may lose when it is killed."""
        try:
            found: Any = {**cast("Any", self._client.config_get("appendonly", "appendfsync"))}
        except redis.RedisError as error:  # not permitted, as in most hosted ones
            if (limit := _time_limit(error)) is not None:
                raise limit from None
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

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        if self._is_closed:
            raise FeedError(f"{self.label} was closed")
        try:
            yield
        except (redis.RedisError, OSError, ValueError) as error:
            if (limit := _time_limit(error)) is not None:
                raise limit from None
            raise FeedError(f"{self.label} {what}: {shortened(error)}") from error


def _time_limit(error: BaseException | None) -> BaseException | None:
    """The error of a signal handler that redis took for one of its socket; or None."""
    while error is not None:
        if is_time_limit(error) and not _is_of_a_socket(error):
            return error
        error = error.__context__
    return None


def _is_of_a_socket(error: BaseException) -> bool:
    """Whether a socket has raised it, plain or of TLS; what a signal handler raises comes from its own function."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals["__name__"].partition(".")[0] in ("redis", "socket", "ssl")


def _position(entry: Any) -> int:
    """The position of the entry with this id.

    Raises:
        ValueError: it is none; says the id.
    """
    text = entry.decode("ascii", "replace") if isinstance(entry, bytes) else str(entry)
    milliseconds, _, number = text.partition("-")
    if milliseconds != "0" or not number.isdecimal():
        raise ValueError(shown(text))
    return int(number)


def _parts(url: str) -> tuple[str, str, str]:
    """The URL of a server, the key, and how messages call it: without user and password.

    Raises:
        FeedError: it cannot be read, has no key, or an option that a feed cannot have.
    """
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, keep_blank_values=True)
        port = parts.port
    except ValueError:  # whose text may hold a part of the password
        raise FeedError(_UNREADABLE) from None
    if "@" in parts.path or parts.fragment or any("@" in name for name in options):
        raise FeedError(_UNREADABLE)
    several = [name for name, values in options.items() if len(values) > 1]
    key = options.pop("key", [""])[-1]
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    place = f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path}"
    if not key:
        raise FeedError(f"{place} names no key: add ?key=changes")
    if several:
        raise FeedError(f"{place}: the option {several[0]} is given more than once")
    for name in _NOT_OPTIONS:
        if name in options:
            raise FeedError(f"{place}?key={key}: the option {name} cannot be given for a change feed")
    # not by urlunsplit, which may write unix:///path as unix:/path
    query = urlencode(options, doseq=True)
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{query}", key, f"{place}?key={key}"
