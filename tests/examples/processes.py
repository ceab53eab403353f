"""Servers that the examples are run in, as processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


@contextmanager
def running(
    command: str, *arguments: str, log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """``command arguments`` in the project's folder, asked to stop at the end; what it prints goes to ``log``."""
    with log.open("wb") as printed:
        process = subprocess.Popen(
            [sys.executable, Path(sys.executable).with_name(command), *arguments],
            cwd=ROOT,
            env=quiet(environment),
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
            process.terminate()
            process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def quiet(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of these servers, and with ``environment``."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "GUNICORN_"))
    }
    return {**kept, "HTTP_PROXY": "", "http_proxy": "", **environment}
