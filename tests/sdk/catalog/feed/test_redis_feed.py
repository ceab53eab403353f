"""The change feed in a Redis stream, with a real server that is killed, emptied, cut off and misused."""

from __future__ import annotations

import itertools
import logging
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.changes import Change
from hiersrec_sdk.catalog.feed import open_feed
from hiersrec_sdk.catalog.feed.feed import Record
from hiersrec_sdk.errors import CatalogChangeError, FeedBehindError, FeedError, FeedLostError
from tests.examples.processes import free_port
from tests.programs import program
from tests.sdk.bundles import make_shop
from tests.sdk.catalog.feed.logs import changes, contents, records
from tests.sdk.catalog.feed.redis_server import Proxy, RedisServer, redis_server
from tests.waiting import wait_for

redis = pytest.importorskip("redis", reason="needs the extra redis")

KEYS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all that it survives; every test has a key of its own."""
    with redis_server(tmp_path_factory.mktemp("redis")) as started:
        yield started


def key_of(url: str) -> str:
    return url.partition("key=")[2]


@pytest.fixture
def url(server: RedisServer) -> str:
    return server.url(f"changes-{next(KEYS)}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop("string").write(tmp_path_factory.mktemp("followed") / "bundle")


class Log(RuleBasedStateMachine):
    """Several feeds of one stream, beside a list of all that was ever appended."""

    server: RedisServer  # set by the test

    @initialize()
    def make(self) -> None:
        self.url = self.server.url(f"log-{next(KEYS)}")
        self.feeds = [open_feed(self.url) for _ in range(3)]
        self.all: list[bytes] = []
        self.first = 1

    @rule(
        who=st.integers(0, 2),
        names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=200), max_size=4),
    )
    def append(self, who: int, names: list[str]) -> None:
        given_changes = [{"remove": name} for name in names]
        self.all += contents(given_changes)
        assert self.feeds[who].append(given_changes) == len(self.all)

    @rule(
        who=st.integers(0, 2),
        back=st.integers(-1, 12),
        most=st.integers(1, 9),
        wait=st.sampled_from([0.0, 0.001]),
    )
    def read(self, who: int, back: int, most: int, wait: float) -> None:
        after = max(len(self.all) - back, 0)
        feed = self.feeds[who]
        if after > len(self.all):
            with pytest.raises(FeedLostError, match=f"ends with record {len(self.all)}, .* up to {after}:"):
                feed.read(after, most, wait)
        elif after < self.first - 1:
            with pytest.raises(FeedBehindError, match=f"begins with record {self.first}, .* up to {after}:"):
                feed.read(after, most, wait)
        else:
            expected = self.all[after : after + most]
            assert feed.read(after, most, wait) == records(after + 1, expected)

    @rule(who=st.integers(0, 2), kept=st.integers(-2, 8))
    def drop(self, who: int, kept: int) -> None:
        before = len(self.all) + 1 - kept
        self.feeds[who].drop(before)
        self.first = max(self.first, min(before, len(self.all) + 1))

    @rule(who=st.integers(0, 2))
    def reopen(self, who: int) -> None:
        log = self.feeds[who].log
        self.feeds[who].close()
        self.feeds[who] = open_feed(self.url)
        assert self.feeds[who].log == log

    @invariant()
    def ends(self) -> None:
        for feed in getattr(self, "feeds", ()):
            assert (feed.first, feed.last) == (self.first, len(self.all))

    def teardown(self) -> None:
        for feed in getattr(self, "feeds", ()):
            feed.close()


def test_feeds_of_one_stream_are_one_list(server: RedisServer) -> None:
    class Here(Log):
        pass

    Here.server = server
    run_state_machine_as_test(Here, settings=settings(max_examples=10, stateful_step_count=20, deadline=None))


def test_writers_at_once(url: str) -> None:
    """Positions have no gap, and what is appended at once stays together."""

    def write(name: str) -> list[tuple[int, list[bytes]]]:
        with open_feed(url) as feed:
            batches = [changes(1 + number % 3, f"{name}-{number}") for number in range(25)]
            return [(feed.append(batch), contents(batch)) for batch in batches]

    with ThreadPoolExecutor(6) as threads:
        written = [batch for batches in threads.map(write, "abcdef") for batch in batches]
    expected: list[bytes] = []
    for last, batch in sorted(written, key=lambda each: each[0]):
        expected += batch
        assert len(expected) == last
    with open_feed(url) as feed:
        assert feed.read(0, 10**6) == records(1, expected)


def test_a_wait_ends_with_the_first_record(url: str) -> None:
    with open_feed(url) as feed, open_feed(url) as other, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(feed.read, 0, 10, 4.0)
        time.sleep(0.1)
        other.append(changes(1))
        assert waiting.result() == [Record(1, contents(changes(1))[0])]


def test_nothing_is_appended_where_one_is_no_change(url: str) -> None:
    with open_feed(url) as feed:
        with pytest.raises(CatalogChangeError):
            feed.append([*changes(2), {"paint": "red"}])
        assert feed.last == feed.append([]) == 0


def test_a_closed_feed(url: str) -> None:
    feed = open_feed(url)
    feed.close()
    for call in (
        lambda: feed.append(changes(1)),
        lambda: feed.read(0, 1),
        lambda: feed.drop(1),
        lambda: feed.last,
    ):
        with pytest.raises(FeedError, match="was closed"):
            call()


def test_dropped_records(url: str, bundle: Path) -> None:
    with open_feed(url) as feed:
        feed.append(changes(5))
        feed.drop(-3)
        assert feed.first == 1
        feed.drop(4)
        assert (feed.first, feed.last) == (4, 5)
        with pytest.raises(
            FeedBehindError, match="begins with record 4, and the catalog contains it up to 0"
        ):
            Recommender.load(bundle).follow(feed)
        with Recommender.load(bundle).follow(feed, after=3) as follower:
            assert follower.position == 5


def test_a_record_that_somebody_has_deleted(server: RedisServer, url: str) -> None:
    with open_feed(url) as feed:
        feed.append(changes(3))
        server.client().xdel(key_of(url), "0-2")
        with pytest.raises(FeedBehindError, match="lacks record 2, which somebody has deleted"):
            feed.read(0, 10)


def test_an_emptied_server(tmp_path: Path, bundle: Path) -> None:
    with redis_server(tmp_path) as server, open_feed(server.url()) as feed:
        follower = Recommender.load(bundle).follow(feed)
        follower.publish([{"remove": "0"}])
        server.client().flushall()
        for call in (lambda: feed.read(1, 1), lambda: feed.append(changes(1)), lambda: feed.drop(1)):
            with pytest.raises(FeedLostError, match="is gone: the server has lost it"):
                call()
        wait_for(lambda: isinstance(follower.error, FeedLostError), "the follower does not notice")
        # another log in its place is as long
        with open_feed(server.url()) as other:
            other.append(changes(3))
            assert other.log != feed.log
            for call in (lambda: feed.read(1, 1), lambda: feed.append(changes(1)), lambda: feed.drop(3)):
                with pytest.raises(FeedLostError, match="another log by now"):
                    call()
            assert (other.first, other.last) == (1, 3)
        follower.close()
        assert follower.position == 1


@contextmanager
def losing(server: RedisServer) -> Iterator[None]:
    """What is appended in the block is lost when the server is killed, at its end: it had not reached the disk."""
    kept = {each: each.read_bytes() for each in server.folder.rglob("*.aof*") if each.is_file()}
    yield
    server.kill()
    for path, content in kept.items():
        path.write_bytes(content)
    server.start()


def test_a_server_that_has_lost_the_newest_records(tmp_path: Path, bundle: Path) -> None:
    """Whoever had them notices, though others have their numbers by now."""
    with redis_server(tmp_path) as server, Recommender.load(bundle).follow(server.url()) as follower:
        follower.publish(changes(1))
        with losing(server):
            follower.publish(changes(2, "lost"))
            follower._stop.set()  # it reads nothing until others have appended
            follower._thread.join()
        with Recommender.load(bundle).follow(server.url()) as other:
            assert other.publish(changes(3, "b")) == 4  # it has contained nothing that was lost
        for call in (lambda: follower.feed.read(3, 1), lambda: follower.feed.append(changes(1))):
            with pytest.raises(FeedError):  # of which the first finds its connection broken
                call()
            with pytest.raises(FeedLostError, match="has lost record 3, maybe when the server was killed"):
                call()
        with open_feed(server.url()) as feed:
            assert feed.last == 4
            with losing(server):
                feed.append(changes(1, "lost"))
            with pytest.raises(FeedError):
                feed.read(5, 1)
            with pytest.raises(FeedLostError, match="has lost record 5"):
                feed.read(5, 1)


def test_a_server_that_is_killed_while_two_publish(tmp_path: Path, bundle: Path) -> None:
    """Nothing that was acknowledged is lost, and both catalogs are the same."""
    with redis_server(tmp_path) as server:
        recommenders = [Recommender.load(bundle) for _ in range(2)]
        followers = [each.follow(server.url()) for each in recommenders]
        acknowledged: dict[int, str] = {}
        failures: list[str] = []
        enough = threading.Event()

        def is_at_least(count: int) -> bool:
            return len(acknowledged) >= count

        def publish(name: str, publish_one: Callable[[list[dict[str, Any]]], int]) -> None:
            for number in itertools.count():
                item = f"{name}-{number}"
                while True:
                    try:
                        position = publish_one([{"upsert": {"id": item, "vector": [0.5] * 6}}])
                    except FeedError as error:
                        failures.append(str(error))
                        time.sleep(0.05)
                        continue
                    acknowledged[position] = item
                    break
                if enough.is_set():
                    return

        with ThreadPoolExecutor(4) as threads:
            # publish() mostly waits for the follower; append() is in the middle of one whenever the server is killed
            writers = {
                f"{kind}-{number}": call
                for number, follower in enumerate(followers)
                for kind, call in (("publish", follower.publish), ("append", follower.feed.append))
            }
            done = [threads.submit(publish, *each) for each in writers.items()]
            for _ in range(3):
                enough_for_now = len(acknowledged) + 40
                wait_for(partial(is_at_least, enough_for_now), "nothing is published")
                server.kill()
                time.sleep(0.2)
                server.start()
            enough.set()
            for each in done:
                each.result()
        assert failures
        with open_feed(server.url()) as feed:
            found = feed.read(0, 10**6)
            last = feed.last
        assert [record.position for record in found] == [*range(1, last + 1)]
        for position, item in acknowledged.items():
            change = Change.from_json(found[position - 1].content)
            assert (change.kind, change.id) == ("upsert", item)
        wait_for(lambda: {each.position for each in followers} == {last}, "one does not catch up")
        for follower in followers:
            follower.close()
        one, other = (each.catalog.current for each in recommenders)
        assert one.ids(one.live_rows()) == other.ids(other.live_rows())
        assert set(one.ids(one.live_rows())) >= set(acknowledged.values())
        answers = [each.recommend(["0"], 500, mode="exact").items for each in recommenders]
        assert answers[0] == answers[1]


def test_a_connection_that_is_cut_off(server: RedisServer, bundle: Path) -> None:
    key = f"changes-{next(KEYS)}"
    proxy = Proxy(server.port)
    recommender = Recommender.load(bundle)
    with (
        recommender.follow(server.url(key, proxy.port)) as follower,
        open_feed(server.url(key)) as direct,
    ):
        assert follower.publish([{"remove": "0"}]) == 1
        proxy.loses_answers = True
        with pytest.raises(
            FeedError, match=r"was cut off \(.*\), and the changes may have been made: publish"
        ):
            follower.publish([{"remove": "größe-3"}])
        assert direct.last == 2  # as here
        proxy.down()
        with pytest.raises(FeedError, match="cannot be reached, and nothing was appended"):
            follower.publish([{"remove": "größe-3"}])
        wait_for(lambda: follower.error is not None, "it does not notice")
        assert recommender.recommend(["0"], 3).items
        direct.append(
            [{"set_bias": {"id": "new", "value": 1.0}}, {"upsert": {"id": "n", "vector": [1.0] * 6}}]
        )
        assert direct.last == 4
        proxy.loses_answers = False
        proxy.up()
        wait_for(lambda: follower.position == 4 and follower.error is None, "it does not go on")
        assert follower.publish([{"remove": "größe-3"}]) == 5
        assert len(recommender.catalog) == 59
    proxy.down()


def test_a_time_limit_gets_through(url: str) -> None:
    """redis takes the error of a signal handler for one of its socket."""

    def stop(*_: object) -> None:
        raise TimeoutError("it takes too long")

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with open_feed(url) as feed:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(TimeoutError, match="it takes too long"):
                feed.read(0, 1, 4.0)
            assert feed.append(changes(1)) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_a_server_that_says_nothing(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its silence is an error of the feed, and no time limit; with TLS, it does not shake hands."""
    for name in ("_ANSWER_SECONDS", "_CONNECT_SECONDS"):
        monkeypatch.setattr(f"hiersrec_sdk.catalog.feed.redis_feed.{name}", 0.2)
    proxy = free_port()
    with (
        socket.create_server(("127.0.0.1", proxy)),
        pytest.raises(FeedError, match="cannot be reached: Timeout"),
    ):
        open_feed(f"{scheme}://127.0.0.1:{proxy}/0?key=a")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, str]]:
    """A server that speaks TLS too, and the URL of that."""
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    options += ["--tls-cert-file", str(folder / "cert.pem"), "--tls-key-file", str(folder / "key.pem")]
    with redis_server(folder, *options) as started:
        yield started, f"rediss://127.0.0.1:{port}/0?key=changes&ssl_cert_reqs=none&ssl_check_hostname=false"


def test_an_encrypted_connection_that_stalls(
    encrypted: tuple[RedisServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = encrypted
    monkeypatch.setattr("hiersrec_sdk.catalog.feed.redis_feed._ANSWER_SECONDS", 3.0)
    with open_feed(url) as feed:
        assert feed.append(changes(2)) == 2
        with server.stopped(), pytest.raises(FeedError, match="Timeout reading from socket"):
            feed.append(changes(1))
        assert feed.read(0, 2) == records(1, contents(changes(2)))


def test_a_socket_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with (
        redis_server(tmp_path, "--unixsocket", str(path)),
        open_feed(f"unix://{path}?key=changes&db=0") as feed,
    ):
        assert feed.append(changes(1)) == 1
        assert feed.label == f"unix://{path}?key=changes"


SECRET = "hu/sh@?#1"


@pytest.mark.slow
def test_the_password_shows_nowhere(tmp_path: Path, bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with redis_server(tmp_path, "--requirepass", SECRET) as server:
        place = f"127.0.0.1:{server.port}/0?key=changes"
        url = f"redis://default:hu%2Fsh%40%3F%231@{place}"
        with Recommender.load(bundle).follow(url) as follower:
            follower.publish([{"remove": "0"}])
            feed = follower.feed
            said += [repr(follower), repr(feed), feed.label]
            assert feed.label == f"redis://{place}"
            server.kill()
            wait_for(lambda: follower.error is not None, "it does not notice")
            said += everything_said(follower.error)
            with pytest.raises(FeedError) as caught:
                follower.publish([{"remove": "0"}])
            said += everything_said(caught.value)
            server.start()
        for wrong in (
            f"redis://default:hu%2Fsh%40%3F%232@{place}",
            f"redis://default:hu/sh@{place}",
            f"redis://default:1234/hush@{place}",
            f"redis://default:1234#hush@{place}",
            f"redis://default:1234?hush@{place}",
            "redis://default:hush@127.0.0.1:port/0?key=a",
            f"redis://default:hush@{place}&decode_responses=1",
            f"redis://default:hush@127.0.0.1:{server.port}/0",
            f"redis://default:hush@127.0.0.1:{free_port()}/0?key=a",
        ):
            with pytest.raises(FeedError) as caught:
                open_feed(wrong)
            said += everything_said(caught.value)
    said += [record.getMessage() for record in caplog.records] + [caplog.text]
    for text in said:
        for part in ("hu%2F", "hu/", "hush", "sh@", "1234", SECRET):
            assert part not in text, text


def everything_said(error: BaseException | None) -> list[str]:
    """The lines of a traceback, without those of the code."""
    assert error is not None
    chain = "".join(traceback.TracebackException.from_exception(error).format())
    return [str(error), *(line for line in chain.splitlines() if not line.startswith("    "))]


def test_options_that_a_feed_cannot_have(url: str) -> None:
    for option in ("decode_responses=1", "protocol=3", "encoding=latin-1"):
        with pytest.raises(FeedError, match=f"the option {option.partition('=')[0]} cannot be given"):
            open_feed(f"{url}&{option}")
    with pytest.raises(FeedError, match=r"the URL has an option that there is not: .*'kez'"):
        open_feed(f"{url}&kez=1")
    for twice in ("key=b", "db=1&db=2"):
        with pytest.raises(FeedError, match=f"the option {twice[:2]}.* is given more than once"):
            open_feed(f"{url}&{twice}")


def test_a_stream_of_others(server: RedisServer, url: str) -> None:
    key = url.partition("key=")[2]
    server.client().xadd(key, {"temperature": 21})
    with pytest.raises(
        FeedLostError, match=r"has an entry '[0-9]+-0', which no change feed writes: use another"
    ):
        open_feed(url)


def test_a_stream_that_others_begin_to_write_to(server: RedisServer, url: str, bundle: Path) -> None:
    with open_feed(url) as feed:
        feed.append(changes(2))
        server.client().xadd(key_of(url), {"temperature": 21})
        for call in (lambda: feed.append(changes(1)), lambda: feed.read(2, 1), lambda: feed.last):
            with pytest.raises(FeedLostError, match="which no change feed writes"):
                call()


def test_entries_that_are_no_changes_are_skipped(server: RedisServer, url: str, bundle: Path) -> None:
    with open_feed(url) as feed:
        server.client().xadd(key_of(url), {"temperature": 21}, id="0-*")
        feed.append([{"remove": "0"}])
        with Recommender.load(bundle).follow(feed) as follower:
            assert (follower.position, follower.rejected) == (2, 1)


def test_a_key_of_another_type(server: RedisServer, url: str) -> None:
    server.client().set(url.partition("key=")[2], "text")
    with pytest.raises(FeedError, match="WRONGTYPE"):
        open_feed(url)


def test_redis_6_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda *_: {"redis_version": "6.2.14"})
    with pytest.raises(FeedError, match=r"needs Redis 7 or newer, and this is 6\.2\.14"):
        open_feed(url)


def test_what_the_server_may_lose_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(tmp_path) as server:
        for options, says in (
            ({"appendfsync": "always"}, ""),
            ({"appendfsync": "everysec"}, "has appendfsync everysec"),
            ({"appendonly": "no"}, "keeps no log on the disk"),
        ):
            for name, value in options.items():
                server.client().config_set(name, value)
            caplog.clear()
            open_feed(server.url()).close()
            assert says in caplog.text
            assert bool(caplog.records) == bool(says)


def test_a_change_that_the_server_has_no_memory_for(tmp_path: Path) -> None:
    """Nothing of it is appended, and reading goes on."""
    with (
        redis_server(tmp_path, "--maxmemory-policy", "noeviction") as server,
        open_feed(server.url()) as feed,
    ):
        feed.append(changes(2))
        server.client().config_set("maxmemory", "1mb")
        with pytest.raises(FeedError, match=r"cannot be written: .*maxmemory"):
            feed.append(changes(3))
        assert len(feed.read(0, 10)) == 2
        server.client().config_set("maxmemory", "0")
        assert feed.append(changes(1)) == 3
