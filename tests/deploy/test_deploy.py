"""The files of deploy/: what HAProxy lets through, and which wheel the image gets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.examples.processes import ROOT
from tests.programs import program
from tests.stress.fleet import Ports, proxied
from tests.waiting import PATIENCE, wait_for

OPEN = ("/", "/items?query=boots", "/docs", "/openapi.json")
INNER = (
    "/metrics",
    "/info",
    "/readyz",
    "/%6detrics",
    "//metrics",
    "/metrics/",
    "/./metrics",
    "/items/../metrics",
)


class _Replica(BaseHTTPRequestHandler):
    """Answers, or fails but for HAProxy's checks; and counts what it was asked."""

    wbufsize = -1  # an answer in one piece
    asked: ClassVar[list[str]]
    checks: ClassVar[Counter[int]]  # by port
    fails = False

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_check = self.path == "/readyz" and "Host" not in self.headers
        if is_check:
            self.checks[self.connection.getsockname()[1]] += 1
        else:
            self.asked.append(self.path)
        self.send_response(503 if self.fails and not is_check else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def replica() -> type[_Replica]:
    class Replica(_Replica):
        asked: ClassVar[list[str]] = []
        checks: ClassVar[Counter[int]] = Counter()

    return Replica


@pytest.fixture(scope="module")
def ports(replica: type[_Replica], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    program("haproxy")
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), replica) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with proxied([server.server_port for server in servers], tmp_path_factory.mktemp("haproxy")) as found:
        wait_for(lambda: _status(found.inside, "/readyz") == 200, "HAProxy does not start")
        yield found
    for server in servers:
        server.shutdown()
        server.server_close()


def _status(port: int, path: str, method: str = "GET", **headers: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, json.dumps({}) if method == "POST" else None, headers)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


def test_the_published_port_lets_through_what_is_listed(ports: Ports, replica: type[_Replica]) -> None:
    """Whatever address the client has: these have one of this machine."""
    for path in OPEN:
        assert _status(ports.outside, path) == 200
    for path in ("/recommend", "/categories", "/similar", "/explain"):
        assert _status(ports.outside, path, "POST") == 200
    replica.asked.clear()
    for path in INNER:
        assert _status(ports.outside, path, **{"X-Forwarded-For": "127.0.0.1"}) == 403
    for name in ("upsert", "remove", "move", "bias"):
        assert _status(ports.outside, f"/catalog/{name}", "POST", Authorization="Bearer secret") == 403
    assert not replica.asked


def test_the_inner_port_lets_everything_through(ports: Ports) -> None:
    for path in ("/metrics", "/info", *OPEN):
        assert _status(ports.inside, path) == 200
    for path in ("/catalog/upsert", "/recommend"):
        assert _status(ports.inside, path, "POST") == 200


@pytest.mark.slow
def test_only_what_changes_nothing_is_asked_twice(
    ports: Ports, replica: type[_Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, times in (("/catalog/upsert", 1), ("/%63atalog/upsert", 1), ("/recommend", 3)):
        replica.checks.clear()  # what has failed is taken out, until it has passed some
        wait_for(lambda: sum(count > 3 for count in replica.checks.values()) == 2, "no checks")
        replica.asked.clear()
        monkeypatch.setattr(replica, "fails", True)
        assert _status(ports.inside, path, "POST") == 503  # its body is sent after the headers
        monkeypatch.setattr(replica, "fails", False)
        assert replica.asked == [path] * times


def test_it_starts_without_the_address_of_a_replica(replica: type[_Replica], tmp_path: Path) -> None:
    """As Docker has none for one that is stopped."""
    program("haproxy")
    with ThreadingHTTPServer(("127.0.0.1", 0), replica) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with proxied([server.server_port], tmp_path) as found:  # replica-2 keeps its name
            wait_for(lambda: _status(found.outside, "/recommend", "POST") == 200, "HAProxy does not start")
        server.shutdown()


def test_compose_publishes_the_outer_port_alone() -> None:
    text = (ROOT / "deploy/compose.yaml").read_text("utf-8")
    assert re.findall(r"^ +ports: (.*)$", text, re.M) == [
        '["127.0.0.1:8080:8080"]',
        '["127.0.0.1:9090:9090"]',
    ]


def _wheel(folder: Path, name: str, version: str) -> None:
    """A wheel with a module and no needs, but for extras of that name."""
    module, about = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    needs = "".join(
        f"Provides-Extra: {extra}\nRequires-Dist: needed-by-{extra}; extra == '{extra}'\n"
        for extra in (("cpu", "serve", "redis") if name == "hiersrec-sdk" else ())
    )
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{module}.py", "")
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")


def test_the_image_gets_the_wheel_of_the_checkout(tmp_path: Path) -> None:
    """Though there is a newer release. The lines of the Dockerfile run, with other folders."""
    _wheel(tmp_path / "wheels", "hiersrec-sdk", "0.0")
    _wheel(tmp_path / "index", "hiersrec-sdk", "9.0")
    for extra in ("cpu", "serve", "redis"):
        _wheel(tmp_path / "index", f"needed-by-{extra}", "1.0")
    (tmp_path / "constraints.txt").touch()
    text = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    lines = re.sub(r"^ *#.*\n", "", text, flags=re.M).replace("\\\n", "")
    found = re.search(r"^RUN --mount=\S+ +(.*?) && useradd", lines, re.M)
    assert found is not None
    command = (
        found[1]
        .replace("/wheels", str(tmp_path / "wheels"))
        .replace("/tmp/constraints", f"{tmp_path}/constraints")
    )
    command = command.replace("pip install", f"{sys.executable} -m pip install --no-index --no-cache-dir")
    environment = {
        **os.environ,
        "PIP_FIND_LINKS": str(tmp_path / "index"),
        "PIP_TARGET": str(tmp_path / "out"),
    }
    subprocess.run(["/bin/sh", "-c", command], env=environment, check=True, capture_output=True, text=True)
    installed = sorted(each.stem for each in (tmp_path / "out").glob("*.dist-info"))
    assert installed == [
        "hiersrec_sdk-0.0",
        *(f"needed_by_{extra}-1.0" for extra in ("cpu", "redis", "serve")),
    ]
