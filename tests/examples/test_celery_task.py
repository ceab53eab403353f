"""examples/celery_task.py in a real worker; the broker and the results are folders."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.errors import InvalidItemIdError
from tests.examples.processes import PATIENCE, running

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


def test_a_worker_answers(tasks: Any, settings: Path, tiny_bundle: Path) -> None:
    log = settings / "log"
    alone = ["--without-gossip", "--without-mingle"]
    arguments = ["--app", "examples.celery_task", "worker", "--concurrency", "2", *alone]
    with running(
        "celery",
        *arguments,
        log=log,
        HIERSREC_BUNDLE=str(tiny_bundle),
        CELERY_CONFIG_MODULE="celery_settings",
        PYTHONPATH=str(settings),
    ) as worker:
        asked = [tasks.recommend.delay(SESSION[:length], k=5) for length in (2, 1, 0)]
        wrong = tasks.recommend.delay([3])
        answers = [one.get(timeout=PATIENCE) for one in asked]
        with pytest.raises(InvalidItemIdError, match="item id at position 0 is 3"):
            wrong.get(timeout=PATIENCE)
    recommender = Recommender.load(tiny_bundle)
    for length, answer in zip((2, 1, 0), answers, strict=True):
        expected = recommender.recommend(SESSION[:length], 5)
        assert [(hit["item"], hit["title"]) for hit in answer] == [(hit.item, hit.title) for hit in expected]
        assert [hit["score"] for hit in answer] == pytest.approx(expected.scores.tolist())
    assert worker.returncode == 0, log.read_text()
