"""examples/celery_task.py in a real worker; the broker and the results are folders.

No process is killed here: with such a broker the processes of a worker share one lock, and one that waits for a task
holds it. Those of Redis and RabbitMQ have a pipe each.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.errors import InvalidArgumentError, InvalidItemIdError
from tests.examples.processes import running
from tests.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow

SESSION = ["item-3", "item-11"]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """A module of settings: what one side puts into the folder ``queue``, the other takes out."""
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    folders = {"data_folder_in": str(tmp_path / "queue"), "data_folder_out": str(tmp_path / "queue")}
    (tmp_path / "celery_settings.py").write_text(
        "broker_url = 'filesystem://'\n"
        f"broker_transport_options = {folders | {'control_folder': str(tmp_path / 'control')}!r}\n"
        f"result_backend = {(tmp_path / 'results').as_uri()!r}\n"
        "worker_enable_remote_control = False\n"
    )
    return tmp_path


@pytest.fixture
def tasks(settings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example's module as a client imports it: without a bundle."""
    monkeypatch.syspath_prepend(settings)
    monkeypatch.setenv("CELERY_CONFIG_MODULE", "celery_settings")
    monkeypatch.delenv("HIERSREC_BUNDLE", raising=False)
    yield importlib.import_module("examples.celery_task")
    for name in ("examples.celery_task", "celery_settings"):
        sys.modules.pop(name, None)


@contextmanager
def worker(settings: Path, bundle: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A worker with two processes, and its log."""
    log = settings / "log"
    alone = ["--without-gossip", "--without-mingle", "--loglevel=INFO"]
    with running(
        "celery",
        *["--app", "examples.celery_task", "worker", "--concurrency", "2", *alone, *options],
        log=log,
        HIERSREC_BUNDLE=str(bundle),
        CELERY_CONFIG_MODULE="celery_settings",
        PYTHONPATH=str(settings),
    ) as process:
        yield process, log
    assert process.returncode == 0, log.read_text()


def test_a_worker_answers(tasks: Any, settings: Path, tiny_bundle: Path) -> None:
    with worker(settings, tiny_bundle):
        asked = [tasks.recommend.delay(SESSION[:length], k=5) for length in (2, 1, 0)]
        wrong = tasks.recommend.delay([3])
        much = tasks.recommend.delay(SESSION, k=1_001)
        answers = [one.get(timeout=PATIENCE) for one in asked]
        with pytest.raises(InvalidItemIdError, match="item id at position 0 is 3"):
            wrong.get(timeout=PATIENCE)
        with pytest.raises(InvalidArgumentError, match="up to 1,000"):
            much.get(timeout=PATIENCE)
    recommender = Recommender.load(tiny_bundle)
    for length, answer in zip((2, 1, 0), answers, strict=True):
        expected = recommender.recommend(SESSION[:length], 5)
        assert [(hit["item"], hit["title"]) for hit in answer] == [(hit.item, hit.title) for hit in expected]
        assert [hit["score"] for hit in answer] == pytest.approx(expected.scores.tolist())


def test_a_worker_that_is_stopped_leaves_its_tasks_to_the_next(
    tasks: Any, settings: Path, tiny_bundle: Path
) -> None:
    asked = [tasks.recommend.delay(SESSION, k=5) for _ in range(300)]
    with worker(settings, tiny_bundle) as (process, _):
        asked[0].get(timeout=PATIENCE)
        process.terminate()
        process.wait(PATIENCE)
    with worker(settings, tiny_bundle) as (_, log):
        wait_for(lambda: " ready." in log.read_text(), "another worker")
        assert all(len(one.get(timeout=PATIENCE)) == 5 for one in asked)


def test_processes_are_recycled(tasks: Any, settings: Path, tiny_bundle: Path) -> None:
    with worker(settings, tiny_bundle, "--max-tasks-per-child=5") as (_, log):
        asked = [tasks.recommend.delay(SESSION, k=5) for _ in range(40)]
        assert all(len(one.get(timeout=PATIENCE)) == 5 for one in asked)
    assert len(set(re.findall(r"ForkPoolWorker-\d+", log.read_text()))) >= 6
