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


WISHES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
    "websocket": b"Connection: upgrade\r\nUpgrade: websocket\r\n",
}
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE)


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("padding", [0, 3_000])
def test_a_wish_for_another_protocol_is_ignored(
    server: Server, wish: str, framing: str, padding: int
) -> None:
    """As Java's client has one by default. The body is the request's, in whatever pieces it comes."""
    how = b"Content-Length: %d" % len(LARGE) if framing == "length" else b"Transfer-Encoding: chunked"
    head = (
        b"POST /recommend HTTP/1.1\r\nHost: x\r\n" + WISHES[wish] + how + b"\r\nX-Padding: " + b"x" * padding
    )
    request = head + b"\r\n\r\n" + (LARGE if framing == "length" else CHUNKED)
    last = GET.replace(b"Host: x", b"Host: x\r\nConnection: close")
    wished = GET.replace(b"Host: x\r\n", b"Host: x\r\n" + WISHES[wish])
    for size in (1 << 20, 4 << 10, 500):
        with server.connect() as connection:
            sent = request + GET + wished + request + last
            for start in range(0, len(sent), size):
                connection.sendall(sent[start : start + size])
            assert _statuses(everything(connection)) == [200] * 5


def test_a_body_behind_such_a_wish_is_no_request(server: Server) -> None:
    """Though it looks like one, and begins where the parser gets its next piece."""
    inner = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\n" + WISHES["websocket"].replace(
        b"upgrade", b"upgrade, close"
    )
    head += b"Content-Length: %d\r\nX-Padding: " % len(inner)
    head += b"x" * (4096 - len(head) - 4) + b"\r\n\r\n"
    assert _statuses(server.answer_to(head + inner)) == [400]
    large = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"x" * 20_000)
    assert _statuses(server.answer_to(GET.replace(b"Host", WISHES["h2c"] + b"Host") + large)) == [200, 431]
