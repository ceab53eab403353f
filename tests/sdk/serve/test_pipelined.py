"""Requests that are sent before the answers to those before them have come."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sdk.bundles import make_shop
from tests.sdk.serve.servers import SESSION, Server, everything, limited, serving

pytest.importorskip("uvloop", reason="needs the extra serve")
pytest.importorskip("httptools", reason="needs the extra serve")

LARGE = json.dumps({"session": ["unknown"] * 4500, "k": 1}).encode()
POST = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(LARGE) + LARGE
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker with tight limits."""
    with limited(tmp_path_factory.mktemp("server")) as started:
        yield started


def test_a_body_is_no_part_of_the_next_head(server: Server) -> None:
    last = GET.replace(b"Host: x", b"Host: x\r\nConnection: close")
    with server.connect() as connection:
        connection.sendall(POST + last[:20])
        time.sleep(0.3)
        connection.sendall(last[20:])
        assert _statuses(everything(connection)) == [200, 200]


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 20_000, 431),
        (b"GET /" + b"x" * 9_000, 431),
        (b"nonsense\r\n\r\n", 400),
        (b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400),
        (b"GET /healthz HT", 408),
    ],
    ids=["header", "url", "no request", "chunk", "late"],
)
@pytest.mark.parametrize("before", [POST, GET * 3, POST + GET], ids=["one", "three", "two"])
def test_a_refusal_comes_after_the_answers_before_it(
    server: Server, before: bytes, rest: bytes, status: int
) -> None:
    answers = _statuses(server.answer_to(before + rest))
    assert answers == [200] * before.count(b"HTTP/1.1") + [status]


def test_a_slow_answer_takes_no_time_from_the_next_head(tmp_path: Path) -> None:
    """Nothing may be read meanwhile, so that the client cannot be late."""
    make_shop("string", times=20).write(tmp_path / "bundle")
    body = json.dumps({"sessions": [SESSION * 3] * 1000, "k": 100, "mode": "exact"}).encode()
    post = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with serving(tmp_path, "--head-seconds=0.1") as server, server.connect() as connection:
        connection.sendall(post + GET[:20])
        found = connection.recv(1)
        connection.sendall(GET[20:].replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert _statuses(found + everything(connection)) == [200, 200]


def _statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", answers)]
