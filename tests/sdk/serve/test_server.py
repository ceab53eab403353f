"""``hiersrec serve`` as a process: reloads, stops and crashes under load, and clients that mean no good."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.cli import serve as serve_command
from hiersrec_sdk.cli.main import main
from hiersrec_sdk.serve.settings import Settings
from tests.examples.processes import free_port, running
from tests.sdk.bundles import make_shop
from tests.sdk.cli.run import RUNNER
from tests.sdk.serve.servers import LIMITS, SESSION, Load, Server, everything, limited, serving
from tests.waiting import PATIENCE, has_ended, wait_for

pytest.importorskip("uvloop", reason="needs the extra serve")
pytest.importorskip("httptools", reason="needs the extra serve")
server_module = pytest.importorskip("hiersrec_sdk.serve.server", reason="needs the extra serve")


@pytest.fixture(scope="module", autouse=True)
def _many_files() -> None:
    """Let this process have so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (-1, resource.RLIM_INFINITY) and hard < 2000:
        pytest.skip("needs 2,000 open files, see ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000) if soft > 0 else soft, hard))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker with tight limits."""
    with limited(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.mark.slow
def test_reloads_under_load(tmp_path: Path) -> None:
    """Renames, SIGHUP and a broken bundle, with two workers: every request is answered, at once."""
    first = make_shop("string").write(tmp_path / "bundle")
    other = make_shop("string", seed=1).write(tmp_path / "v2")
    by_digest = {Recommender.load(each).config["sha256"]: each for each in (first, other)}
    items = {digest: Recommender.load(each).recommend(SESSION).items for digest, each in by_digest.items()}
    before, after = by_digest
    with serving(tmp_path, "--workers=2") as server:
        wait_for(lambda: server.bundles == {before: 2}, "two workers")
        with Load(server.port) as load:
            first.rename(tmp_path / "v1")
            other.rename(tmp_path / "bundle")
            wait_for(lambda: server.bundles == {after: 2}, "the new bundle is not served")
            (tmp_path / "bundle").rename(tmp_path / "v2")
            (tmp_path / "v1").rename(tmp_path / "bundle")
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: server.bundles == {before: 2}, "the old bundle is not served again")
            # one that is broken
            (tmp_path / "bundle").rename(tmp_path / "v1")
            broken = make_shop("string", seed=2).write(tmp_path / "broken")
            (broken / "model.onnx").write_bytes(b"broken")
            broken.rename(tmp_path / "bundle")
            wait_for(lambda: server.ask("/readyz")[1]["reload_error"] is not None, "it is not noticed")
            assert server.ask("/readyz")[1]["ready"]
            time.sleep(0.2)
            assert server.bundles == {before: 2}
        assert not load.failures
        assert not load.retried
        assert set(load.answers) == set(items.values())
        assert str(tmp_path) not in json.dumps(server.ask("/readyz")[1])
        # a worker that dies while the bundle is broken cannot come back, but the other one serves
        os.kill(server.workers[0], signal.SIGKILL)
        wait_for(lambda: "cannot start" in server.log.read_text(), "no other worker tries")
        assert server.ask("/recommend", {"session": SESSION})[0] == 200
        (tmp_path / "bundle").rename(tmp_path / "broken")
        (tmp_path / "v2").rename(tmp_path / "bundle")
        wait_for(lambda: server.bundles == {after: 2}, "the worker does not come back")


@pytest.mark.slow
def test_a_worker_is_killed_under_load(tmp_path: Path) -> None:
    """Whoever sends again what was lost with the worker is answered."""
    make_shop("string").write(tmp_path / "bundle")
    with serving(tmp_path, "--workers=2") as server:
        wait_for(lambda: len(server.workers) == 2, "two workers")
        with Load(server.port) as load:
            first, second = server.workers
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: len(server.workers) == 2 and first not in server.workers, "it is not replaced")
            wait_for(lambda: sum(server.bundles.values()) == 2, "the dead one is still counted")
            assert second in server.workers
        assert not load.failures


@pytest.mark.slow
def test_a_worker_less(tmp_path: Path) -> None:
    make_shop("string").write(tmp_path / "bundle")
    with serving(tmp_path, "--workers=2") as server:
        wait_for(lambda: sum(server.bundles.values()) == 2, "two workers")
        server.process.send_signal(signal.SIGTTOU)
        wait_for(lambda: sum(server.bundles.values()) == 1, "the one that has ended is still counted")


def test_a_supervisor_that_fails_stops_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as for want of memory for another one: they would serve on, and nothing would stop them."""
    did = list[str]()

    class Failing:
        def __init__(self, *_: Any) -> None: ...

        def run(self) -> None:
            raise MemoryError

        def terminate_all(self) -> None:
            did.append("terminate")

        def join_all(self) -> None:
            did.append("join")

    monkeypatch.setattr(server_module, "Workers", Failing)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    settings = Settings(bundle=str(tmp_path))
    with pytest.raises(MemoryError):
        server_module.run(settings, "127.0.0.1", 0, server_module.ServerConfig(settings, 1, 1, 1, False))
    assert did == ["terminate", "join"]


def test_a_stop_while_the_first_process_of_a_container_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops a signal that it does not handle."""
    before = signal.getsignal(signal.SIGTERM)

    def opened(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(serve_command, "open_source", opened)
    try:
        assert RUNNER.invoke(main, ["serve", str(tmp_path)]).exit_code == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_lets_running_requests_end(tmp_path: Path) -> None:
    make_shop("string", times=20).write(tmp_path / "bundle")
    sessions = [SESSION * 3] * 500
    answers: list[tuple[int, Any]] = []
    with (
        serving(tmp_path, "--drain-seconds=30") as server,
        server.connect() as idle,
        server.connect() as waiting,
    ):
        path = ("/recommend", {"sessions": sessions, "k": 100, "mode": "exact"})
        thread = threading.Thread(target=lambda: answers.append(server.ask(*path)))
        thread.start()
        body = b'{"session": []}'
        # half of a request is there: the other half comes when the server has begun to stop
        waiting.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "Shutting down" in server.log.read_text(), "it does not stop")
        waiting.sendall(body)
        late = everything(waiting)
        assert late.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in late
        assert everything(idle) == b""
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        thread.join()
        assert server.process.wait(PATIENCE) == 0
    ((status, found),) = answers
    assert status == 200
    assert len(found["results"]) == 500


def test_workers_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    make_shop("string").write(tmp_path / "bundle")
    with serving(tmp_path) as server:
        (worker,) = server.workers
        server.process.kill()
        server.process.wait()
        wait_for(lambda: has_ended(worker), "the worker goes on")


def test_workers_end_with_a_supervisor_that_is_killed_while_they_start(tmp_path: Path) -> None:
    make_shop("string").write(tmp_path / "bundle")
    arguments = "serve", str(tmp_path / "bundle"), f"--port={free_port()}", "--workers=2"
    with running("hiersrec", *arguments, log=tmp_path / "log") as process:
        # they have what they need of the supervisor, and have not loaded the bundle yet
        wait_for(
            lambda: sum(map(_has_imported_the_server, _group(process.pid) - {process.pid})) == 2,
            "two workers",
            every=0.01,
        )
        process.kill()
        process.wait()
        wait_for(lambda: not _group(process.pid), "processes go on")


def _group(leader: int) -> set[int]:
    """The processes of a process group that run."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = file.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                found.add(int(file.parent.name))
    return found


def _has_imported_the_server(pid: int) -> bool:
    with suppress(OSError):
        return "httptools" in Path(f"/proc/{pid}/maps").read_text()
    return False


@pytest.mark.slow
def test_starts_that_fail_leave_nothing(tmp_path: Path) -> None:
    """What a dead worker has counted stays."""
    bundle = make_shop("string").write(tmp_path / "bundle")
    (tmp_path / "temporary").mkdir()
    with serving(tmp_path, "--workers=2", TMPDIR=str(tmp_path / "temporary")) as server:
        wait_for(lambda: sum(server.bundles.values()) == 2, "two workers")
        for _ in range(20):
            server.ask("/recommend", {"session": SESSION})
        wait_for(lambda: _answered(server) == 20, "not all were counted")  # each is, after its answer
        bundle.rename(tmp_path / "away")
        killed = server.workers[0]
        os.kill(killed, signal.SIGKILL)
        log = tmp_path / "log"
        wait_for(lambda: log.read_text().count("cannot start") >= 3, "no other worker tries")
        (tmp_path / "away").rename(bundle)
        wait_for(lambda: sum(server.bundles.values()) == 2, "the worker does not come back")
        (folder,) = (tmp_path / "temporary").glob("hiersrec-metrics-*")

        def are_of_workers() -> bool:
            pids = {int(file.stem.rpartition("_")[2]) for file in folder.iterdir()}
            return pids <= {killed, *server.workers}

        wait_for(are_of_workers, "files of a start that failed stay")
        assert _answered(server) == 20


def _answered(server: Server) -> float:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(r'^hiersrec_requests_total\{route="/recommend",status="200"\} ([\d.]+)$', text, re.M)
    assert found is not None
    return float(found[1])


def test_preloaded_by_gunicorn(tmp_path: Path) -> None:
    """The app is made before gunicorn forks; the workers serve, reload, and end at once."""
    pytest.importorskip("gunicorn", reason="needs gunicorn, of the extra examples")
    make_shop("string").write(tmp_path / "bundle")
    port, log = free_port(), tmp_path / "log"
    arguments = (
        "--preload",
        "--workers=2",
        "--worker-class=uvicorn.workers.UvicornWorker",
        f"--bind=127.0.0.1:{port}",
    )
    environment = {
        "HIERSREC_BUNDLE": str(tmp_path / "bundle"),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
    }
    (tmp_path / "metrics").mkdir()
    app = "hiersrec_sdk.serve:app"
    with running("gunicorn", *arguments, app, log=log, **environment) as process:
        server = Server(port, tmp_path, log, process)
        wait_for(server.is_ready, "gunicorn does not start")
        (before,) = server.bundles
        wait_for(lambda: server.bundles == {before: 2}, "two workers")
        make_shop("string", seed=1).write(tmp_path / "fresh")
        (tmp_path / "bundle").rename(tmp_path / "old")
        (tmp_path / "fresh").rename(tmp_path / "bundle")
        wait_for(lambda: [*server.bundles.values()] == [2] and before not in server.bundles, "no reload")
        assert server.ask("/recommend", {"session": SESSION})[0] == 200


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        (b"nonsense\r\n\r\n", 400, "InvalidRequest"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "InvalidRequest"),
        (b"POST /recommend HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "InvalidRequest"),
        (b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n", 413, "BodyTooLarge"),
        (b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\nx", 413, "BodyTooLarge"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * 8000 + b"\r\n\r\n", 431, "HeadTooLarge"),
        (b"GET /" + b"x" * 8000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, "HeadTooLarge"),
        (
            b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(2000)) + b"\r\n",
            431,
            "HeadTooLarge",
        ),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000, 431, "HeadTooLarge"),  # it never ends
        (b"GET / HTTP/1.1\r\nHo", 408, "HeadTimeout"),
        (b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", 408, "BodyTimeout"),
    ],
    ids=lambda value: value[:40].decode() if isinstance(value, bytes) else str(value),
)
def test_requests_that_are_none(server: Server, request_: bytes, status: int, kind: str) -> None:
    head, _, body = server.answer_to(request_).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["type"] == kind
    assert server.is_ready()


def test_heads_that_are_wrong_are_counted(server: Server) -> None:
    server.answer_to(b"nonsense\r\n\r\n")
    server.answer_to(b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * 8000 + b"\r\n\r\n")
    text = server.answer_to(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").decode()
    for status in (400, 431):
        assert f'hiersrec_requests_total{{route="head",status="{status}"}}' in text


def test_an_endless_body(server: Server) -> None:
    """It is cut off, and others are answered meanwhile."""
    sent = 0
    with server.connect() as connection:
        connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while sent < 1 << 30:
                connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                sent += 0x10000
                assert sent < 64 << 20, "nobody stops it"
    assert server.is_ready()


def test_a_body_that_nobody_reads_is_cut_off(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(1000):
                connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
    assert server.is_ready()


@pytest.mark.parametrize("line", [b"0\r\nX: ", b"1;x="], ids=["trailer", "extension of a chunk"])
def test_a_line_in_a_chunked_body_has_a_limit(server: Server, line: bytes) -> None:
    """The parser keeps it to itself until it is complete."""
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 431 " in server.answer_to(head + line + b"x" * 20_000).splitlines()[0]


def test_short_trailers_are_read(server: Server) -> None:
    body = json.dumps({"session": SESSION}).encode()
    chunks = b"%x;a=b\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(body), body)
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 200 " in server.answer_to(head + chunks).splitlines()[0]


@pytest.mark.slow
def test_an_answer_that_is_not_read(tmp_path: Path) -> None:
    """Its connection ends, while one that is read slowly goes on."""
    make_shop("string", times=20).write(tmp_path / "bundle")
    body = json.dumps({"sessions": [["0"]] * 1000, "k": 100}).encode()
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)

    with serving(tmp_path, *LIMITS) as server:
        (worker,) = server.workers
        time.sleep(0.5)  # until the connection on which it was asked whether it is ready has ended
        open_before, whole = _sockets(worker), 0
        with server.connect() as reads:
            reads.sendall(head + body)
            while part := reads.recv(1 << 18):
                whole += len(part)
                if whole > 1 << 22:
                    break
                time.sleep(0.1)
        wait_for(lambda: _sockets(worker) == open_before)
        with socket.socket() as waits:
            waits.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            waits.connect(("127.0.0.1", server.port))
            waits.sendall(head + body)
            wait_for(lambda: _sockets(worker) > open_before, "it is not accepted")
            wait_for(lambda: _sockets(worker) == open_before, "it is kept")
            assert len(everything(waits)) < whole


def _sockets(pid: int) -> int:
    return sum(str(each.readlink()).startswith("socket:") for each in Path(f"/proc/{pid}/fd").iterdir())


def test_blank_lines_do_not_keep_a_connection(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        found = b""
        while not found.endswith(b'{"status":"ok"}'):
            found += connection.recv(4096)
        connection.sendall(b"\r\n")
        assert everything(connection) == b""


def test_slow_and_idle_clients_harm_nobody(server: Server) -> None:
    """1,000 connections, of which some are silent, some send half a head, and some half a body."""
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(1000)]
        for connection in connections[400:700]:
            connection.sendall(b"GET / HT")
        for connection in connections[700:]:
            connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        for _ in range(20):
            assert server.ask("/recommend", {"session": SESSION})[0] == 200
        answers = [everything(connection) for connection in connections]
    assert all(not answer for answer in answers[:400])
    assert all(b" 408 " in answer for answer in answers[400:])


def test_a_byte_now_and_then_gives_no_more_time(server: Server) -> None:
    began = b"GET / HTTP/1.1\r\nX: ", b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"
    for head in began:
        with server.connect() as connection:
            connection.sendall(head)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                for _ in range(200):
                    connection.sendall(b"x")
                    time.sleep(0.05)
    assert server.is_ready()


def test_many_requests_on_one_connection(server: Server) -> None:
    """Also such as are sent before the answers to those before them have come."""
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
    assert server.answer_to(one * 20 + last).count(b"HTTP/1.1 200 OK") == 21


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["{folder}/none"], "there is no such folder"),
        (["{folder}/damaged"], "is truncated"),
        (["{folder}/bundle", "--port={port}"], "--port {port} cannot be used: Address already in use"),
        (["{folder}/bundle", "--port=65536"], "--port must be an integer from 0 to 65535, got 65536"),
        (["{folder}/bundle", "--workers=0"], "--workers must be an integer ≥ 1, got 0"),
        (["{folder}/bundle", "--max-k=0"], "max_k must be an integer ≥ 1, got 0"),
        (["{folder}/bundle", "--body-seconds=0"], "body_seconds must be a number above 0, got 0.0"),
        (["{folder}/bundle", "HIERSREC_TOKEN="], "HIERSREC_TOKEN is empty"),
        (["{folder}/bundle", "--feed={folder}/bundle/config.json"], "config.json is no change feed"),
        (["{folder}/bundle", "--feed=kafka://host/topic"], "a URL of redis://, not of kafka://"),
        (["{folder}/bundle", "--feed=redis://127.0.0.1:{port}"], "names no key: add ?key=changes"),
        (["{folder}/bundle", "HIERSREC_MAX_K=-1"], "max_k must be an integer ≥ 1, got -1"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_served(server: Server, options: list[str], says: str) -> None:
    """One line, at once: no worker is started."""
    damaged = server.folder / "damaged"
    if not damaged.exists():
        shutil.copytree(server.folder / "bundle", damaged)
        (damaged / "model.onnx").write_bytes(b"")
    given = [option.format(folder=server.folder, port=server.port) for option in options]
    environment = dict(option.split("=") for option in given if option.startswith("HIERSREC_"))
    given = [option for option in given if not option.startswith("HIERSREC_")]
    result = RUNNER.invoke(main, ["serve", *given], env=environment)
    assert result.exit_code == 1
    assert says.format(port=server.port) in result.stderr
    assert len(result.stderr.splitlines()) == 1
