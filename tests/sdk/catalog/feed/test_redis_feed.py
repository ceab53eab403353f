"""The change feed in Redis, against a real server that is killed, restarted, cut off and emptied."""

from __future__ import annotations

import logging
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.feed import Feed, open_feed
from hiersrec_sdk.errors import CatalogChangeError, FeedBehindError, FeedError, FeedLostError
from tests.examples.processes import free_port
from tests.sdk.bundles import make_shop

redis = pytest.importorskip("redis", reason="needs redis: pip install '.[redis]'")
pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="needs redis-server: apt-get install redis-server"
)

PATIENCE = 30.0


class Server:
    """A Redis server of its own, which waits for the disk before it acknowledges."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0?key=changes"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "always"]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        wait_until(self.answers)

    def answers(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self.client().ping())
        return False

    def client(self) -> Any:
        return redis.Redis(port=self.port, socket_timeout=5)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def wait_until(done: Callable[[], bool]) -> None:
    stop = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < stop, "it takes too long"
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop("string").write(tmp_path_factory.mktemp("shop") / "bundle")


def ids_of(feed: Feed, after: int = 0) -> list[tuple[int, bytes]]:
    return [(record.position, record.content) for record in feed.read(after, 1_000)]


def test_records_of_several_writers_have_positions_without_gaps(server: Server) -> None:
    def append(name: str) -> None:
        with open_feed(server.url) as feed:
            for at in range(20):
                feed.append([{"remove": f"{name}-{at}-{each}"} for each in range(at % 3 + 1)])

    threads = [threading.Thread(target=append, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with open_feed(server.url) as feed:
        records = feed.read(0, 1_000)
        assert [record.position for record in records] == [*range(1, 118)]
        assert (feed.first, feed.last) == (1, 117)
        for name in "abc":
            mine = [
                each.content for each in records if each.content.startswith(f'{{"remove":"{name}'.encode())
            ]
            assert mine == [
                f'{{"remove":"{name}-{at}-{each}"}}'.encode()
                for at in range(20)
                for each in range(at % 3 + 1)
            ]
        assert feed.read(100, 5) == records[100:105]
        assert feed.read(117, 5) == feed.read(117, 5, 0.05) == []


def test_what_was_dropped_is_missed_by_those_who_lack_it(server: Server) -> None:
    with open_feed(server.url) as feed:
        feed.append([{"remove": str(at)} for at in range(10)])
        feed.drop(5)
        assert (feed.first, feed.last) == (5, 10)
        assert [position for position, _ in ids_of(feed, 4)] == [*range(5, 11)]
        with pytest.raises(
            FeedBehindError, match=r"begins with record 5, and the catalog contains it up to 3"
        ):
            feed.read(3, 5)
        feed.drop(11)
        assert (feed.first, feed.last) == (11, 10)
        assert feed.append([{"remove": "a"}]) == 11


def test_a_log_that_is_gone_or_another_one(server: Server) -> None:
    with open_feed(server.url) as feed:
        feed.append([{"remove": "0"}])
        server.client().flushall()
        with pytest.raises(FeedLostError, match="is gone"):
            feed.read(1, 5)
        with pytest.raises(FeedLostError):
            feed.append([{"remove": "1"}])
        with open_feed(server.url) as other:
            assert other.last == 0
            with pytest.raises(FeedLostError, match="another log"):
                feed.append([{"remove": "1"}])
            other.append([{"remove": "1"}])
            server.client().delete("changes")
            with pytest.raises(FeedLostError, match="has lost"):
                other.read(1, 5)


@pytest.mark.parametrize("kill", ["server", "connection"])
def test_nothing_acknowledged_is_lost_by_a_server_that_dies(server: Server, bundle: Path, kill: str) -> None:
    acknowledged: list[str] = []
    recommenders = [Recommender.load(bundle, verify=False) for _ in range(2)]
    followers = [recommender.follow(server.url) for recommender in recommenders]
    stop = threading.Event()

    def publish(number: int) -> None:
        at = 0
        while not stop.is_set():
            at += 1
            item = {"id": f"new-{number}-{at}", "vector": [0.5] * 6}
            try:
                followers[number].publish([{"upsert": item}])
            except FeedError:
                continue
            acknowledged.append(str(item["id"]))

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        before = len(acknowledged)
        wait_until(lambda before=before: len(acknowledged) > before + 5)  # type: ignore[misc]
        if kill == "server":
            server.kill()
            server.start()
        else:
            server.client().client_kill_filter(_type="normal", skipme=True)
    stop.set()
    for thread in threads:
        thread.join()
    with open_feed(server.url) as feed:
        last = feed.last
    wait_until(lambda: all(follower.position == last for follower in followers))
    for recommender, follower in zip(recommenders, followers, strict=True):
        assert (recommender.catalog.rows(acknowledged) >= 0).all()
        assert follower.rejected == 0
        follower.close()
    one, other = (recommender.catalog.current for recommender in recommenders)
    assert one.feed == other.feed
    assert one.delta.columns.ids == other.delta.columns.ids


def test_a_server_that_is_away_is_an_error_that_passes(server: Server, bundle: Path) -> None:
    recommender = Recommender.load(bundle, verify=False)
    with recommender.follow(server.url) as follower:
        server.kill()
        wait_until(lambda: follower.error is not None)
        assert len(recommender.recommend(["0"]).items) == 20
        with pytest.raises(FeedError, match="may have been made: publish them again"):
            follower.publish([{"remove": "0"}])
        with pytest.raises(CatalogChangeError, match="follows a change feed"):
            recommender.catalog.remove(["0"])
        server.start()
        wait_until(lambda: follower.error is None)
        assert follower.publish([{"remove": "0"}]) >= 1
        assert recommender.catalog.rows(["0"])[0] < 0


def test_a_password_shows_nowhere(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "hiersrec_sdk")
    server.client().config_set("requirepass", "sesame")
    url = server.url.replace("://", "://:wrong-sesame@")
    with pytest.raises(FeedError) as refused:
        open_feed(url)
    with open_feed(server.url.replace("://", "://:sesame@")) as feed:
        feed.append([{"remove": "0"}])
        assert "sesame" not in repr(feed) + feed.label
        redis.Redis(port=server.port, password="sesame").flushall()
        with pytest.raises(FeedLostError) as lost:
            feed.append([{"remove": "0"}])
    assert "sesame" not in f"{refused.value} {lost.value} {caplog.text}"


def test_a_stream_of_others_is_refused(server: Server) -> None:
    server.client().xadd("changes", {"something": "else"})
    with open_feed(server.url) as feed, pytest.raises(FeedLostError, match="which no change feed writes"):
        feed.read(0, 5)
    server.client().set("text", "no stream")
    with (
        open_feed(server.url.replace("changes", "text")) as feed,
        pytest.raises(FeedError, match="cannot be"),
    ):
        feed.append([{"remove": "0"}])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://127.0.0.1/0", "names no key"),
        ("redis://127.0.0.1/0?key=", "names no key"),
        ("redis://127.0.0.1:port/0?key=a", "must be as"),
        ("redis://127.0.0.1/0?key=a&nonsense=1", "cannot be used|cannot be reached"),
        ("redis://127.0.0.1:1/0?key=a", "cannot be reached"),
        ("http://127.0.0.1/changes", "not of http://"),
    ],
)
def test_wrong_urls(url: str, message: str) -> None:
    with pytest.raises(FeedError, match=message):
        open_feed(url)


def test_what_a_server_may_lose_is_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hiersrec_sdk")
    open_feed(server.url).close()
    assert not caplog.records
    server.client().config_set("appendfsync", "everysec")
    open_feed(server.url).close()
    assert "appendfsync everysec" in caplog.text
    server.client().config_set("appendonly", "no")
    open_feed(server.url).close()
    assert "a restart loses changes" in caplog.text
