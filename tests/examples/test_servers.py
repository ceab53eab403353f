"""The servers of examples/ are stopped, recycled and crashed under load a few times, ``tests.stress.servers`` many.

Times are bounds for a machine that does much else. Where nothing else runs, each is below two seconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from hiersrec_sdk import Recommender
from tests.sdk.bundles import make_shop
from tests.stress.servers import EVENTS, SERVERS, Outcome, expected, happens, reload, started
from tests.waiting import wait_for

STOPPED = 25.0  # seconds; a worker that hangs would take gunicorn's 30


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(covisitation=True).write(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.mark.parametrize(
    ("name", "event"),
    [(name, event) for name, server in SERVERS.items() for event in EVENTS if happens(server, event)],
)
@pytest.mark.slow
def test_no_request_is_lost(name: str, event: str, bundle: Path, tmp_path: Path) -> None:
    found = EVENTS[event](SERVERS[name], bundle, tmp_path, 2)
    assert found.counts["answered"] > 0
    assert not found.counts["lost"], found.says
    assert len(found.seconds) >= 2
    assert event == "crash" or max(found.seconds) < STOPPED


@pytest.mark.parametrize("name", ["gunicorn, preload, gthread", "uvicorn, 2 workers"])
@pytest.mark.slow
def test_new_workers_load_the_bundle_anew(name: str, bundle: Path, tmp_path: Path) -> None:
    other = make_shop(covisitation=True, seed=1).write(tmp_path / "v2")
    (tmp_path / "v1").symlink_to(bundle)
    (tmp_path / "current").symlink_to("v1")
    wanted = expected(bundle)[1]
    with started(SERVERS[name], tmp_path / "current", tmp_path) as here:
        load = here.load
        there = list(Recommender.load(other).recommend(json.loads(load.body)["session"], 9).items)
        load.wanted = [wanted, there]
        with load.running():
            time.sleep(0.3)
            (tmp_path / "next").symlink_to("v2")
            (tmp_path / "next").rename(tmp_path / "current")
            reload(here)
            load.wanted = [there]
            time.sleep(0.3)
            load.stopping = time.monotonic()
            os.kill(here.pid, signal.SIGTERM)
            wait_for(lambda: not here.serving(), "it stops")
    assert there != wanted
    found = Outcome()
    found.add(load, here.log.read_text())
    assert not found.counts["lost"], found.says
    assert found.counts["answered"] > 20


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(
    "sent", [b"", b"POST /recommend HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"], ids=["idle", "slow"]
)
@pytest.mark.slow
def test_a_client_that_sends_nothing_more_does_not_delay_a_stop(
    name: str, sent: bytes, bundle: Path, tmp_path: Path
) -> None:
    with started(SERVERS[name], bundle, tmp_path) as here:
        clients = [socket.create_connection(("127.0.0.1", here.load.port)) for _ in range(4)]
        for client in clients:
            client.sendall(sent)
        time.sleep(0.3)
        here.load.stopping = time.monotonic()
        os.kill(here.pid, signal.SIGTERM)
    assert time.monotonic() - here.load.stopping < STOPPED
    for client in clients:
        client.close()
