"""Thousands of clients that send nothing, or one byte at a time, and what others notice of them:
``python -m tests.stress.connections BUNDLE --connections 10000``.

A server has one core. Half of the clients connect and are silent, the other half send a head a byte a second; whenever
the server closes a connection they open another one. Requests at a steady rate, each timed from the moment it was due,
are answered before, meanwhile and after.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from benchmarks.open_loop import load
from benchmarks.serving import HOST, request, server
from hiersrec_sdk import Recommender
from tests.examples.processes import free_port

HEAD: Final = b"POST /recommend HTTP/1.1\r\nHost: x\r\n"
AT_ONCE: Final = 100  # connections that are being opened


def crowd(port: int, count: int, opened: Synchronized[int], closed: Synchronized[int]) -> None:
    """The clients, until the process is ended."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(_crowd(port, count, opened, closed))


async def _crowd(port: int, count: int, opened: Synchronized[int], closed: Synchronized[int]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def client(number: int) -> None:
        while True:
            with suppress(OSError):
                async with gate:
                    reader, writer = await asyncio.open_connection(HOST, port)
                opened.value += 1
                reading = asyncio.create_task(reader.read(1 << 16))
                for at in range(len(HEAD) if number % 2 else 0):
                    if reading.done():
                        break
                    writer.write(HEAD[at : at + 1])
                    await asyncio.sleep(1)
                await reading
                closed.value += 1
                writer.close()
            await asyncio.sleep(1)

    await asyncio.gather(*(client(number) for number in range(count)))


@click.command(help=__doc__)
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--connections", default=10_000, show_default=True)
@click.option("--rate", default=200.0, show_default=True, help="Requests a second of everybody else.")
@click.option("--seconds", default=20.0, show_default=True, help="Of each part.")
def main(bundle: Path, connections: int, rate: float, seconds: float) -> None:
    catalog = Recommender.load(bundle, verify=False).catalog
    sessions = np.random.default_rng(0).integers(len(catalog), size=(1_000, 5))
    requests = [request(list(catalog.ids(rows))) for rows in sessions]
    port = free_port()
    command = [str(Path(sys.executable).with_name("hiersrec")), "serve", str(bundle), "--port", str(port)]
    context: Any = get_context("spawn")
    opened, closed = context.Value("q", 0), context.Value("q", 0)

    def say(what: str) -> None:
        found = load(HOST, port, requests, rate, seconds)
        times = [1e3 * found.quantile(share) for share in (0.5, 0.9, 0.99)]
        said = {"p50": times[0], "p90": times[1], "p99": times[2]}
        shown = json.dumps({key: round(value, 2) for key, value in said.items()})
        click.echo(f"{what:12} {shown} ms, {found.failed} of {len(found.seconds) + found.failed} failed")

    with server(command, port, {0}, {}):
        load(HOST, port, requests, rate, 2)  # warm
        say("alone")
        process = context.Process(target=crowd, args=(port, connections, opened, closed), daemon=True)
        process.start()
        while opened.value < connections and process.is_alive():
            asyncio.run(asyncio.sleep(0.1))
        say("in a crowd")
        click.echo(
            f"{connections:,} clients: {opened.value:,} connections, {closed.value:,} closed by the server"
        )
        process.kill()
        process.join()
        say("afterwards")


if __name__ == "__main__":
    main()
