"""examples/flask_app.py, in this process and under a real gunicorn."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from examples.flask_app import create_app
from hiersrec_sdk import Recommender
from tests.examples.processes import free_port, running
from tests.waiting import PATIENCE, wait_for

SESSION = ["item-3", "item-11"]
_OPENER = build_opener(ProxyHandler({}))


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"session": SESSION, "k": -1}, "InvalidKError"),
        ({"session": [7]}, "InvalidItemIdError"),
        ({"k": 5}, "InvalidSessionError"),
        (5, "InvalidArgumentError"),
        ({"session": SESSION, "exlude_seen": True}, "InvalidArgumentError"),
        ({"session": SESSION, "k": 1_001}, "InvalidArgumentError"),
    ],
)
def test_says_what_is_wrong(tiny_bundle: Path, body: object, error: str) -> None:
    answer = create_app(str(tiny_bundle)).test_client().post("/recommend", json=body)
    assert (answer.status_code, answer.get_json()["error"]) == (422, error)


def ask(url: str) -> tuple[list[str], int]:
    """The ids, and the process id of the worker that answered."""
    body = json.dumps({"session": SESSION, "k": 10}).encode()
    with _OPENER.open(
        Request(f"{url}/recommend", body, {"Content-Type": "application/json"}), timeout=PATIENCE
    ) as reply:
        answer: dict[str, Any] = json.load(reply)
        return [hit["item"] for hit in answer["items"]], int(reply.headers["X-Worker"])


def is_up(url: str) -> bool:
    try:
        with _OPENER.open(f"{url}/health", timeout=PATIENCE) as reply:
            return bool(json.load(reply) == {"items": 48})
    except (URLError, ConnectionError):
        return False


def test_workers_share_what_the_master_loaded(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    expected = list(Recommender.load(tiny_bundle).recommend(SESSION, 10).items)
    url, log = f"http://127.0.0.1:{(port := free_port())}", tmp_path / "log"
    arguments = ["--config", "examples/gunicorn.conf.py", "--bind", f"127.0.0.1:{port}"]
    with running("gunicorn", *arguments, log=log, HIERSREC_BUNDLE=str(bundle)) as master:
        wait_for(lambda: is_up(url) or master.poll() is not None, "gunicorn answers")
        assert master.poll() is None, log.read_text()
        workers: set[int] = set()

        def ask_several(many: int) -> bool:
            with ThreadPoolExecutor(8) as pool:
                for ids, worker in pool.map(ask, [url] * 16):
                    assert ids == expected
                    workers.add(worker)
            return len(workers) >= many

        wait_for(lambda: ask_several(2), "both workers answer")
        assert len(workers) == 2
        assert master.pid not in workers

        # A worker that is started later has what the master loaded: the bundle is not read again.
        shutil.rmtree(bundle)
        os.kill(min(workers), signal.SIGTERM)
        wait_for(lambda: ask_several(3), "a third worker answers")
    assert master.returncode == 0, log.read_text()
    assert "Traceback" not in log.read_text()
