"""Two replicas of ``hiersrec serve`` behind HAProxy, with a change feed in Redis:
``python -m tests.stress.fleet BUNDLE --minutes 60``.

Clients recommend through HAProxy, with the configuration of deploy/, on connections that they keep, and ask once more
where a request failed. Meanwhile items come and go through its inner port, the feed is compacted into the bundle and a
copy of it deployed by renaming, and every so often a whole replica is killed and started again. Counts what failed at
first and for good, how long a change takes until both replicas serve it, and the memory of each replica by the minute:
the catalog keeps its size, and so should they.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import click
import numpy as np

from hiersrec_sdk import Recommender
from tests.examples.processes import free_port

HIERSREC: Final = str(Path(sys.executable).with_name("hiersrec"))
ROOT: Final = Path(__file__).resolve().parents[2]
TOKEN: Final = "a token of this test"
CLIENTS: Final = 4
ITEMS: Final = 20  # of one change
CHANGES_KEPT: Final = 50  # then their items are removed
RECORDS_KEPT: Final = 2_000  # of the feed, when it is compacted
PATIENCE: Final = 10.0  # seconds for an answer


class Client:
    """Asks a server on one connection, which is opened where there is none."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def ask(self, path: str, body: Any = None, token: bool = False) -> Any:
        """The answer of the server.

        Raises:
            OSError, HTTPException: there is none.
            ValueError: it is an error; holds its status and text.
        """
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {TOKEN}"} if token else {}
        )
        sent = None if body is None else json.dumps(body)
        try:
            self._connection.request("GET" if body is None else "POST", path, sent, headers)
            with self._connection.getresponse() as reply:
                content = reply.read()
        except BaseException:
            self.close()  # the next question needs a new one
            raise
        if reply.status != 200:
            raise ValueError(f"{reply.status}: {content[:200]!r}")
        return json.loads(content) if content else None

    def close(self) -> None:
        self._connection.close()


def ask(port: int, path: str, body: Any = None, token: bool = False) -> Any:
    """:meth:`Client.ask` on a connection for this question alone."""
    with closing(Client(port)) as client:
        return client.ask(path, body, token)


class Ports(NamedTuple):
    """Where HAProxy listens: for everybody, and for those who change the catalog."""

    outside: int
    inside: int


class Replica:
    """One server, which may be killed and started again."""

    def __init__(self, bundle: Path, feed: str) -> None:
        self.port = free_port()
        self._command = [HIERSREC, "serve", str(bundle)]
        self._command += ["--port", str(self.port), "--feed", feed]
        self.start()

    def start(self) -> None:
        # a group of its own, so that a kill is that of a machine
        self._process = subprocess.Popen(
            self._command, env={**os.environ, "HIERSREC_TOKEN": TOKEN}, start_new_session=True
        )

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait_until_ready(self, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while True:
            with suppress(OSError, http.client.HTTPException, ValueError):
                ask(self.port, "/readyz")
                return
            if time.monotonic() > until:
                raise TimeoutError(f"replica {self.port} is not ready after {seconds:g} s")
            time.sleep(0.1)

    def memory(self) -> float:
        """MiB that only its processes have."""
        total = 0
        for at in self._pids():
            with suppress(OSError):
                lines = Path(f"/proc/{at}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
        return total / 1024

    def _pids(self) -> list[int]:
        found = [self._process.pid]
        for at in found:
            with suppress(OSError):
                found += map(int, Path(f"/proc/{at}/task/{at}/children").read_text().split())
        return found


class Fleet:
    """Everything that runs, and what was counted of it."""

    def __init__(
        self, bundle: Path, feed: str, ports: Ports, replicas: list[Replica], rate: float, seed: int
    ) -> None:
        self.bundle, self.feed, self.ports, self.replicas = bundle, feed, ports, replicas
        self.rate, self.seed = rate, seed
        recommender = Recommender.load(bundle)
        catalog = recommender.catalog
        self.ids = catalog.ids(np.arange(min(len(catalog), 5_000)))
        self.leaves = [catalog.category(-1, at).path for at in range(recommender.config["categories"][-1])]
        self.counts: Counter[str] = Counter()
        self.says: list[str] = []
        self.seconds: list[float] = []
        self.visible: list[float] = []
        self.memory: list[list[float]] = []  # MiB, by minute and replica
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def count(self, name: str, error: Exception | None = None) -> None:
        with self._lock:
            self.counts[name] += 1
            if error is not None:
                self.says.append(f"{name}: {type(error).__name__}: {error}")
                if name == "failed for good":
                    click.echo(f"{time.strftime('%X')} {self.says[-1]}")

    def clients(self, number: int) -> None:
        """Recommend at a part of the rate; ask again once. Time counts from when a request was due."""
        draw, due = random.Random(f"{self.seed} {number}"), time.monotonic()
        client = Client(self.ports.outside)
        while not self.stop.is_set():
            due += draw.expovariate(self.rate / CLIENTS)
            if (left := due - time.monotonic()) > 0:
                self.stop.wait(left)
            body = {"session": draw.choices(self.ids, k=draw.randint(1, 6)), "k": 20}
            for attempt in ("failed at first", "failed for good"):
                try:
                    assert len(client.ask("/recommend", body)["items"]) == 20
                except (OSError, http.client.HTTPException, ValueError, AssertionError, KeyError) as error:
                    self.count(attempt, error)
                else:
                    self.count("answered")
                    self.seconds.append(time.monotonic() - due)
                    break
        client.close()

    def changes(self) -> None:
        """Upsert, and see how long both replicas take to serve it; later remove."""
        draw, number = random.Random(f"{self.seed} changes"), 0
        while not self.stop.wait(0.5):
            number += 1
            ids = self._new_ids(number)
            items = [{"id": each, "category": list(draw.choice(self.leaves))} for each in ids]
            try:
                ask(self.ports.inside, "/catalog/upsert", {"items": items}, token=True)
                if number > CHANGES_KEPT:
                    old = self._new_ids(number - CHANGES_KEPT)
                    ask(self.ports.inside, "/catalog/remove", {"ids": old}, token=True)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.count("change failed", error)
                continue
            self.count("changes")
            started = time.monotonic()
            for replica in self.replicas:
                while not self.stop.is_set() and time.monotonic() < started + PATIENCE:
                    with suppress(OSError, http.client.HTTPException, ValueError):
                        ask(replica.port, "/similar", {"item": ids[-1], "k": 1})
                        break
                    time.sleep(0.005)
            self.visible.append(time.monotonic() - started)

    def _new_ids(self, number: int) -> list[Any]:
        strings = isinstance(self.ids[0], str)
        return [f"new-{number}-{at}" if strings else -1 - number * ITEMS - at for at in range(ITEMS)]

    def deployments(self, every: float) -> None:
        """Compact the feed into the bundle; after as long again, rename a copy of the bundle over it."""
        spare = self.bundle.with_name("next")
        while not self.stop.wait(every):
            command = [HIERSREC, "catalog", "compact", str(self.bundle), "--feed", self.feed]
            done = subprocess.run(
                [*command, "--keep", str(RECORDS_KEPT)], capture_output=True, text=True, check=False
            )
            self.count("compactions", RuntimeError(done.stderr) if done.returncode else None)
            if self.stop.wait(every):
                break
            shutil.copytree(self.bundle, spare)
            old = self.bundle.with_name("old")
            self.bundle.rename(old)
            spare.rename(self.bundle)
            shutil.rmtree(old)
            self.count("deployments")

    def kills(self, every: float) -> None:
        """Kill one replica after the other."""
        at = 0
        while not self.stop.wait(every):
            replica = self.replicas[at % len(self.replicas)]
            at += 1
            replica.kill()
            self.stop.wait(2)
            replica.start()
            replica.wait_until_ready()
            self.count("kills")

    def run(self, minutes: float, deploy: float, kill: float) -> None:
        work = [threading.Thread(target=self.clients, args=(at,)) for at in range(CLIENTS)]
        work += [
            threading.Thread(target=self.changes),
            threading.Thread(target=self.deployments, args=(deploy,)),
            threading.Thread(target=self.kills, args=(kill,)),
        ]
        for thread in work:
            thread.start()
        until = time.monotonic() + 60 * minutes
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(60, left))
            self.memory.append([replica.memory() for replica in self.replicas])
            shown = ", ".join(f"{each:.0f}" for each in self.memory[-1])
            click.echo(f"{dict(self.counts)}; memory {shown} MiB")
        self.stop.set()
        for thread in work:
            thread.join()


@contextmanager
def started(*command: str) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def proxied(ports: list[int], folder: Path) -> Iterator[Ports]:
    """HAProxy before these servers; the ports that it listens on."""
    found = Ports(free_port(), free_port())
    text = (ROOT / "deploy/haproxy.cfg").read_text()
    for listening, each in zip((8080, 8081), found, strict=True):
        text = text.replace(f"bind :{listening}", f"bind 127.0.0.1:{each}")
    for number, each in enumerate(ports, 1):
        text = text.replace(f"replica-{number}:8080", f"127.0.0.1:{each}")
    (folder / "haproxy.cfg").write_text(text)
    with started("haproxy", "-f", str(folder / "haproxy.cfg")):
        yield found


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--rate", default=100.0, show_default=True, help="Recommendations a second.")
@click.option("--deploy-seconds", default=45.0, show_default=True, help="Between two deployments.")
@click.option("--kill-seconds", default=60.0, show_default=True, help="Between two kills of a replica.")
@click.option("--seed", default=0, show_default=True)
def main(
    bundle: Path, minutes: float, rate: float, deploy_seconds: float, kill_seconds: float, seed: int
) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        current = folder / "current"
        shutil.copytree(bundle, current)
        redis = free_port()
        options = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(folder))
        stack.enter_context(started("redis-server", "--port", str(redis), "--bind", "127.0.0.1", *options))
        feed = f"redis://127.0.0.1:{redis}/0?key=changes"
        replicas = [Replica(current, feed) for _ in range(2)]
        for replica in replicas:
            stack.callback(replica.kill)
        for replica in replicas:
            replica.wait_until_ready()
        ports = stack.enter_context(proxied([replica.port for replica in replicas], folder))
        time.sleep(3)
        fleet = Fleet(current, feed, ports, replicas, rate, seed)
        fleet.run(minutes, deploy_seconds, kill_seconds)
    p50, p99 = 1e3 * np.quantile(fleet.seconds, [0.5, 0.99])
    seen = np.array(fleet.visible)
    click.echo(f"answered: median {p50:.1f} ms, p99 {p99:.1f} ms, worst {1e3 * max(fleet.seconds):.0f} ms")
    if len(seen):
        click.echo(
            f"a change is served by both after: median {np.median(seen):.3f} s, p99 {np.quantile(seen, 0.99):.3f} s; "
            "with a replica killed meanwhile, until it is back"
        )
    quarter = -(-len(fleet.memory) // 4)
    early, late = np.median(fleet.memory[:quarter]), np.median(fleet.memory[-quarter:])
    click.echo(f"memory of a replica: median of the first quarter {early:.0f} MiB, of the last {late:.0f}")
    click.echo("\n".join(f"{count:>8}  {says}" for says, count in Counter(fleet.says).most_common(20)))
    click.echo(str(dict(fleet.counts)))
    if fleet.counts["failed for good"]:
        raise click.ClickException("requests failed twice")


if __name__ == "__main__":
    main()
