"""Requests that no sane client sends, to the servers of examples/ as they run: each is answered, and refused by 4xx."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection, HTTPResponse
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender
from tests.examples.processes import free_port, running
from tests.sdk.bundles import ITEMS, make_shop
from tests.waiting import PATIENCE, wait_for

JSON = "application/json"
SERVERS = {
    "fastapi": ("uvicorn", "examples.fastapi_service:app", "--no-access-log", "--port={port}"),
    "flask": ("gunicorn", "--config=examples/gunicorn.conf.py", "--workers=1", "--bind=127.0.0.1:{port}"),
}


class Service:
    """A running server."""

    def __init__(self, name: str, port: int, pid: int, log: Path, ids: list[Any]) -> None:
        self.name, self.port, self.pid, self.log, self.ids = name, port, pid, log, ids

    def ask(
        self, path: str, body: bytes | Iterable[bytes], kind: str | None = JSON, method: str = "POST"
    ) -> tuple[int, str]:
        """Status and text of the answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = {} if kind is None else {"Content-Type": kind}
        if isinstance(body, bytes):
            headers["Content-Length"] = str(len(body))
        else:
            headers["Transfer-Encoding"] = "chunked"
        try:
            connection.putrequest(method, path)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            return read(connection, body)
        finally:
            connection.close()

    def recommend(self, **asked: object) -> tuple[int, str]:
        return self.ask("/recommend", json.dumps(asked).encode())

    def is_well(self) -> bool:
        """Whether it answers a request as it should."""
        try:
            status, text = self.recommend(session=self.ids, k=3)
        except OSError:
            return False
        return status == 200 and len(json.loads(text)["items"]) == 3

    def resident(self) -> int:
        """MB of memory that its processes hold, the shared ones counted each time."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in (self.pid, *children)]
        lines = [line.split() for status in statuses for line in status.splitlines()]
        return sum(int(line[1]) for line in lines if line[0] == "VmRSS:") // 1024


def read(connection: HTTPConnection, body: bytes | Iterable[bytes]) -> tuple[int, str]:
    """Send ``body`` as far as it is taken, and read the answer, which may come before its end."""
    there = connection.sock
    try:
        if isinstance(body, bytes):
            there.sendall(body)
        else:
            for chunk in body:
                there.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            there.sendall(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has heard enough
    answer = HTTPResponse(there, method="POST")
    answer.begin()
    return answer.status, answer.read().decode()


@pytest.fixture(scope="module", params=["int64", "string"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(request.param).write(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture(scope="module", params=SERVERS)
def service(
    request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    log, port = tmp_path_factory.mktemp("log") / "log", free_port()
    catalog = Recommender.load(bundle).catalog
    command, *arguments = (word.format(port=port) for word in SERVERS[request.param])
    with running(command, *arguments, log=log, HIERSREC_BUNDLE=str(bundle)) as process:
        there = Service(request.param, port, process.pid, log, list(catalog.ids(catalog.most_clicked(3))))
        wait_for(lambda: there.is_well() or process.poll() is not None, "it answers")
        assert process.poll() is None, log.read_text()
        yield there
    assert "Traceback" not in log.read_text()


BODIES: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "a number": b"5",
    "a string": b'"item"',
    "no object": b"[]",
    "without a session": b"{}",
    "cut off": b'{"session": [',
    "no UTF-8": b"\xff\xfe\xff",
    "NUL": b"\x00",
    "NaN": b"NaN",
    "nested lists": b"[" * 60_000,
    "nested lists in a session": b'{"session": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "nested objects": b'{"session": ' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
    "a number of 5,000 digits": b'{"session": [1' + b"0" * 5_000 + b"]}",
    "k of 4,000 digits": b'{"session": [], "k": 1' + b"0" * 4_000 + b"}",
    "k below zero of 4,000 digits": b'{"session": [], "k": -1' + b"0" * 4_000 + b"}",
    "an option with a surrogate": b'{"session": [], "\\ud800": 1}',
    "a long option": b'{"session": [], "' + b"x" * 30_000 + b'": 1}',
    "a misspelled option": b'{"session": [], "exlude_seen": true}',
    "gzip": b"\x1f\x8b\x08\x00abc",
}
SESSIONS: dict[str, str] = {
    name: f'{{"session": {value}}}'
    for name, value in {
        "NaN": "NaN",
        "null": "null",
        "string": '"abc"',
        "number": "5",
        "object": '{"0": 1}',
        "NaN in it": "[NaN]",
        "infinity in it": "[1e400]",
        "float in it": "[1.5]",
        "true in it": "[true]",
        "null in it": "[null]",
        "list in it": "[[]]",
        "object in it": "[{}]",
        "both types": '["x", 1]',
    }.items()
}
VALUES = {
    "k": ["0", "-1", "1001", "1e3", "1.0", "true", "null", '"5"', "NaN", "[1]", "{}", "9" * 30],
    "exclude_seen": ["0", "1", '"yes"', "null", "[]", "NaN"],
    "max_per_category": ["0", "1.5", "true", "[]", str(2**63 - 1), str(2**63), "NaN"],
    "mode": ['"none"', "1", "null", "[]"],
    "in_stock": ["1", '"no"', "null"],
}


def refused(service: Service, path: str, body: bytes | Iterable[bytes], kind: str | None = JSON) -> int:
    """The status of the answer, which is a 4xx in JSON, or what the server itself says, and names no path."""
    method = "PUT" if path == "/stock" else "POST"
    status, text = service.ask(path, body, kind, method)
    assert 400 <= status < 500, text[:300]
    if status not in (400, 413):  # of the server, which may be no JSON
        assert json.loads(text)
    assert len(text) < 10_000
    assert str(Path.cwd()) not in text
    assert "/bundle" not in text
    assert ".py" not in text
    return status


@pytest.mark.parametrize(
    "body", [*BODIES.values(), *map(str.encode, SESSIONS.values())], ids=[*BODIES, *SESSIONS]
)
@pytest.mark.slow
def test_a_body_that_is_none(service: Service, body: bytes) -> None:
    refused(service, "/recommend", body)
    assert service.is_well()


@pytest.mark.parametrize(
    ("option", "value"), [(option, value) for option, values in VALUES.items() for value in values]
)
def test_a_value_that_is_none(service: Service, option: str, value: str) -> None:
    assert refused(service, "/recommend", f'{{"session": [], "{option}": {value}}}'.encode()) == 422


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", ";;", ""])
def test_another_content_type(service: Service, kind: str | None) -> None:
    body = json.dumps({"session": service.ids}).encode()
    assert refused(service, "/recommend", body, kind) in (415, 422)


@pytest.mark.parametrize("item", ["\ud800", "a\0b", "", "x" * 10_000, 2**63, -(2**63) - 1, 10**400])
def test_an_odd_id(service: Service, item: int | str) -> None:
    """An id that no catalog holds: skipped, if it is of the catalog's type."""
    status, text = service.recommend(session=[item], k=3)
    assert status in (200, 422)
    json.loads(text, parse_constant=pytest.fail)
    assert len(text) < 10_000


def test_other_methods_and_paths(service: Service) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        assert service.ask("/recommend", b"", method=method)[0] == 405
    assert service.ask("/recommend", b"", method="FOO")[0] in (
        400,
        405,
    )  # 400 where uvicorn parses with httptools
    for path in ("/none", "/../../etc/passwd", "/%00", "/%FF"):
        status, text = service.ask(path, b"", method="GET")
        assert status in (400, 404)
        assert str(Path.cwd()) not in text


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("megabytes", [5, 300])
def test_a_large_body_is_refused_and_not_kept(service: Service, megabytes: int, chunked: bool) -> None:
    before = service.resident()
    piece = b" " * 1_000_000
    body = repeat(piece, megabytes) if chunked else piece * megabytes
    assert refused(service, "/recommend", body) == 413
    assert service.resident() < before + 20
    assert service.is_well()


def test_a_body_just_too_large_whose_beginning_would_do(service: Service) -> None:
    most = {"fastapi": 4 << 20, "flask": 64 << 10}[service.name]
    beginning = json.dumps({"session": service.ids, "k": 3}).encode()
    allowed = beginning + b" " * (most - 1 - len(beginning))
    for body in (allowed, iter([allowed])):
        assert service.ask("/recommend", body)[0] == 200
    for body in (allowed + b"  ", iter([allowed, b"  "])):
        assert refused(service, "/recommend", body) == 413


def test_clients_that_stop_in_the_middle(service: Service) -> None:
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    ends = (
        b"",
        b"POST /rec",
        head,
        head + b"Content-Length: 50\r\n\r\n{",
        head + b"Content-Length: -5\r\n\r\n{}",
    )
    for sent in ends * 4:
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(sent)
    assert service.is_well()


def test_many_answers_of_the_largest_size_at_once(service: Service) -> None:
    found: list[tuple[int, str]] = []

    def ask() -> None:
        found.append(service.recommend(session=service.ids * 300, k=1_000))

    clients = [threading.Thread(target=ask) for _ in range(16)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert {status for status, _ in found} == {200}
    for _, text in found:
        assert len(json.loads(text, parse_constant=pytest.fail)["items"]) == ITEMS


CHANGES: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "an object": b"{}",
    "numbers": b"[1]",
    "without an id": b"[{}]",
    "NaN as id": b'[{"id": NaN}]',
    "a float as id": b'[{"id": 1e3}]',
    "a list as id": b'[{"id": []}]',
    "a surrogate as id": b'[{"id": "\\ud800", "category": 0}]',
    "a surrogate as title": b'[{"id": "a", "title": "\\ud800"}]',
    "a surrogate as text": b'[{"id": "a", "text": "\\ud800"}]',
    "a surrogate as category": b'[{"id": "a", "category": "\\ud800"}]',
    "a surrogate as number": b'[{"id": "a", "numbers": {"\\ud800": 1}}]',
    "NaN as number": b'[{"id": "a", "numbers": {"price": NaN}}]',
    "infinity as number": b'[{"id": "a", "numbers": {"price": 1e400}}]',
    "no category": b'[{"id": "a", "category": []}]',
    "a category within": b'[{"id": "a", "category": [[]]}]',
    "a large id": b'[{"id": ' + b"9" * 30 + b', "category": 0}]',
    "an unknown field": b'[{"id": "a", "vector": [1, 2]}]',
    "1,001 items": json.dumps([{"id": 5, "title": "x"}] * 1_001).encode(),
    "100,000 items": json.dumps([{"id": at} for at in range(100_000)]).encode(),
    "nested": b"[" * 100_000,
}


@pytest.mark.parametrize("body", CHANGES.values(), ids=CHANGES)
def test_a_change_that_is_none(service: Service, body: bytes) -> None:
    if service.name == "fastapi":
        refused(service, "/items", body)
        assert service.is_well()


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"{}", b"[NaN]", b"[[]]", b"[true]", json.dumps(["x"] * 100_001).encode(), b"[" * 100_000],
)
def test_a_stock_that_is_none(service: Service, body: bytes) -> None:
    if service.name == "fastapi":
        refused(service, "/stock", body)
        assert service.is_well()
