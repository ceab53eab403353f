"""``hiersrec serve`` under an open-loop load: ``python -m benchmarks.serving BUNDLE DATA --out docs/results``.

The server has one core, the generator (``open_loop.py``) another one. Requests are those of Serenade's and ETUDE's
benchmarks: visitors of the test split of DATA, whose sessions grow by one click from request to request, k = 20. A
larger catalog is BUNDLE's trained table grown (``vectors.py``). Beside it, with ``--peer``: the same model as one ONNX
file that scores every item, in FastAPI (``plain_service.py``). Writes ``serving.md``.

First each server answers ``--rate`` requests a second for ``--seconds``, or for ten seconds where it cannot. Then the
rate grows by a fifth at a time, from there or from five, until the 90th percentile passes 50 ms.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from benchmarks.bundles import grown_bundle
from benchmarks.open_loop import Load, load
from benchmarks.studies.pages import write_page
from benchmarks.tables import table
from hiersrec_export.standalone import export_standalone
from hiersrec_training.data.dataset import Dataset

HOST = "127.0.0.1"
SLOW = 0.05  # seconds at the 90th percentile, where a server is full
GROWTH = 1.2  # of the rate from step to step
STEP_SECONDS = 10.0
START_SECONDS = 120.0
HEAD = [
    "server",
    "items",
    "requests/s",
    "seconds",
    "median ms",
    "p90 ms",
    "p99 ms",
    "worst ms",
    "failed",
    "late ms",
    "busy",
    "queue p99 ms",
]


def growing_sessions(data: Dataset, count: int, seed: int = 0) -> list[list[int | str]]:
    """The sessions of ``count`` requests: each visitor asks after each click, and several visitors at a time."""
    random = np.random.default_rng(seed)
    ids, found = data.item_ids.to_list(), []
    for at in random.permutation(len(data.test)).tolist():
        session = [ids[item] for item in data.test[at].tolist()]
        found += [session[:stop] for stop in range(1, len(session))]
        if len(found) >= count:
            break
    return [found[at] for at in random.permutation(len(found)).tolist()]


def request(session: Sequence[int | str]) -> bytes:
    """The whole HTTP message."""
    body = json.dumps({"session": session, "k": 20}).encode()
    head = (
        "POST /recommend HTTP/1.1",
        f"Host: {HOST}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*head, "", ""]).encode() + body


@contextmanager
def server(command: Sequence[str], port: int, cores: set[int], env: Mapping[str, str]) -> Iterator[int]:
    """Its process id, once it is ready; stopped at the end."""
    with subprocess.Popen(command, env={**os.environ, **env}) as process:
        os.sched_setaffinity(process.pid, cores)
        try:
            until = time.monotonic() + START_SECONDS
            while not _is_ready(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise click.ClickException(f"{' '.join(command)} did not start")
                time.sleep(0.1)
            yield process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        return int(listening.getsockname()[1])


def _memory(pid: int) -> float:
    """MiB of a process that no other shares, with its children's."""
    total = 0
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) in _family(pid):
            lines = (folder / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total / 1024


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _busy_seconds(pid: int) -> float:
    """Of cores, that a process and its children have taken."""
    fields = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in _family(pid)]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server:
    """A server that runs, and what it is asked."""

    name: str
    items: int
    port: int
    pid: int
    requests: Sequence[bytes]

    def load(self, rate: float, seconds: float) -> tuple[Load, list[str]]:
        """A load, and its row of the table."""
        before, began = _busy_seconds(self.pid), time.perf_counter()
        found = load(HOST, self.port, self.requests, rate, seconds)
        busy, lasted = _busy_seconds(self.pid) - before, time.perf_counter() - began
        queue = found.queue(busy / max(1, len(found.seconds)))
        return found, [
            *row(self.name, self.items, seconds, found),
            f"{100 * busy / lasted:.0f} %",
            f"{1e3 * float(np.quantile(queue, 0.99)):,.2f}" if not found.failed else "",
        ]


def row(name: str, items: int, seconds: float, found: Load) -> list[str]:
    times = [1e3 * found.quantile(share) for share in (0.5, 0.9, 0.99, 1.0)]
    shown = [f"{each:,.2f}" for each in times]
    late = 1e3 * float(np.quantile(found.late, 0.99)) if len(found.late) else 0.0
    return [
        name,
        f"{items:,}",
        f"{found.rate:,.0f}",
        f"{seconds:,.0f}",
        *shown,
        f"{found.failed:,}",
        f"{late:.2f}",
    ]


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--items", default=0, help="Rows to grow the catalog to. [the bundle's]")
@click.option("--rate", default=1_000.0, show_default=True, help="Requests a second.")
@click.option("--seconds", default=60.0, show_default=True, help="Of that rate.")
@click.option("--peer", is_flag=True, help="Measure plain_service.py too.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the page.")
def main(bundle: Path, data: Path, items: int, rate: float, seconds: float, peer: bool, out: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise click.ClickException("it takes two cores: one for the server, one for the generator")
    requests = [request(session) for session in growing_sessions(Dataset.load(data), 50_000)]
    rows, notes = [], []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        served = stack.enter_context(grown_bundle(bundle, items))
        count = json.loads((served / "config.json").read_text())["items"]
        port = _free_port()
        scripts = Path(sys.executable).parent
        serve = [str(scripts / "hiersrec"), "serve", str(served), "--port", str(port)]
        servers = {"hiersrec serve": (serve, dict[str, str]())}
        if peer:
            export_standalone(served, folder / "model.onnx", report=lambda line: None)
            plain = [
                str(scripts / "uvicorn"),
                "benchmarks.plain_service:app",
                "--port",
                str(port),
                "--no-access-log",
            ]
            servers["FastAPI, ONNX, all items"] = (
                [*plain, "--log-level", "warning"],
                {"HIERSREC_STANDALONE": str(folder / "model.onnx")},
            )
        os.sched_setaffinity(0, {cores[1]})
        for name, (command, env) in servers.items():
            with ExitStack() as running:
                pid = running.enter_context(server(command, port, {cores[0]}, env))
                asked = Server(name, count, port, pid, requests)
                asked.load(min(rate, 50), 2)
                asked.load(rate, STEP_SECONDS)  # warm: every page of the tables has to be read once
                before = _memory(pid)
                found, shown = asked.load(rate, STEP_SECONDS)
                is_enough = found.quantile(0.9) < SLOW
                if is_enough:
                    found, shown = asked.load(rate, seconds)
                rows.append(shown)
                notes.append(f"{name}: {before:,.0f} MiB before the load, {_memory(pid):,.0f} after it.")
                if not is_enough:  # another one, which has no requests left to answer
                    running.close()
                    pid = running.enter_context(server(command, port, {cores[0]}, env))
                    asked = replace(asked, pid=pid)
                    asked.load(5, 2)
                rows += _to_the_limit(asked, rate if is_enough else 5)
    text = (
        "The time of a request counts from the moment it was due. A failed one counts as endless. The last row of a "
        "server is the first whose 90th percentile is above 50 ms. "
        "“late” is the 99th percentile of how much later than due the generator sent them, “busy” the share of the "
        "server's core that its processes took. “queue p99” is what the 99th percentile would be if each request "
        "took the same time of the core, and nothing else happened: a queue of the same requests. "
        + " ".join(notes)
    )
    options = {"items": items or None, "rate": f"{rate:g}", "seconds": f"{seconds:g}"}
    words = [f"--{key} {value}" for key, value in options.items() if value is not None] + ["--peer"] * peer
    command_line = f"python -m benchmarks.serving BUNDLE DATA {' '.join(words)} --out {out}"
    write_page(out, "serving", command_line, "Serving under load", text, table(HEAD, rows))


def _to_the_limit(asked: Server, rate: float) -> Iterator[list[str]]:
    """The rows of higher and higher rates, up to the first one at which the server is too slow."""
    is_fast_enough = True
    while is_fast_enough:
        rate *= GROWTH
        found, shown = asked.load(rate, STEP_SECONDS)
        is_fast_enough = found.quantile(0.9) <= SLOW
        yield shown


if __name__ == "__main__":
    main()
