"""``hiersrec quickstart``: from nothing to a page, and what it does with what is there already."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.cli import quickstart
from tests.sdk.cli.run import SMALL, failed, hiersrec, passed
from tests.waiting import PATIENCE

pytest.importorskip("torch", reason="needs the extra train")

FOLDERS = ("shop", "data", "run", "bundle")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop and a model that take seconds."""
    monkeypatch.setattr(quickstart, "_SHOP", ("--items", "120", "--sessions", "600"))
    monkeypatch.setattr(quickstart, "_SETTINGS", tuple(SMALL))


@pytest.fixture
def finished(shop: Path, tmp_path: Path) -> Path:
    """The folder of a quickstart that has a bundle."""
    for name in FOLDERS:
        shutil.copytree(shop / name, tmp_path / "quick" / name)
    return tmp_path / "quick"


@pytest.mark.usefixtures("small")
def test_from_nothing_to_recommendations(tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    printed = passed("quickstart", "--no-serve", "--out", out)
    assert printed.startswith("SIMULATED data")
    for number, name in enumerate(("simulate", "prepare", "train", "export"), 1):
        assert f"[{number}/4]" in printed
        assert f"$ hiersrec {name}" in printed
    assert f"$ hiersrec recommend '{out}/bundle' sku-" in printed
    assert "items ranked" in printed
    assert "SIMULATED" in (out / "bundle/README.md").read_text()
    assert len(Recommender.load(out / "bundle").recommend(["sku-00017"], k=3)) == 3


@pytest.mark.usefixtures("small")
def test_what_is_finished_is_kept(finished: Path) -> None:
    shutil.rmtree(finished / "bundle")
    before = {name: (finished / name).stat().st_mtime_ns for name in FOLDERS[:3]}
    printed = passed("quickstart", "--no-serve", "--out", finished)
    assert printed.count("is there already") == 3
    assert "$ hiersrec train" not in printed
    assert before == {name: (finished / name).stat().st_mtime_ns for name in before}
    assert (finished / "bundle/config.json").is_file()


@pytest.mark.usefixtures("small")
@pytest.mark.slow
def test_an_interrupted_training_goes_on(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run", "bundle"):
        shutil.rmtree(finished / name)
    monkeypatch.setattr(quickstart, "_SETTINGS", (*SMALL, "--set", "epochs=3"))
    with interrupted_after_an_epoch():
        line = hiersrec("quickstart", "--no-serve", "--out", finished).stderr
    assert f"run hiersrec quickstart --out {finished} again to go on" in line
    assert (finished / "run.part").is_dir()
    printed = passed("quickstart", "--no-serve", "--out", finished)
    assert "run --resume" in printed
    assert (finished / "bundle").is_dir()


@contextmanager
def interrupted_after_an_epoch() -> Iterator[None]:
    """Send SIGINT to this process when the first epoch was validated."""
    from hiersrec_training.loop import Loop

    with pytest.MonkeyPatch.context() as patched:
        validate = Loop._validate

        def validated(self: Loop, epoch: int) -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGINT)
            return validate(self, epoch)

        patched.setattr(Loop, "_validate", validated)
        yield


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert f"{tmp_path} has data, but no shop" in failed("quickstart", "--no-serve", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    (tmp_path / "file").touch()
    assert "is not a folder" in failed("quickstart", "--no-serve", "--out", tmp_path / "file")


def test_a_port_that_is_taken_is_an_error_before_any_work(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"--port {port} cannot be used" in failed(
            "quickstart", "--out", tmp_path / "q", "--port", port
        )
    assert "--host a..b cannot be used" in failed("quickstart", "--out", tmp_path / "q", "--host", "a..b")
    assert "0 to 65535" in failed("quickstart", "--out", tmp_path / "q", "--port", "65536")
    assert not (tmp_path / "q").exists()


def test_missing_extras_are_named_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = {"train": ["onnx", "torch"], "serve": ["uvicorn"]}
    monkeypatch.setattr(
        quickstart, "lacking", lambda extras: {name: lacking[name] for name in extras if name in lacking}
    )
    line = failed("quickstart", "--out", tmp_path / "q")
    assert "needs the extras 'train,serve' (onnx, torch, uvicorn are missing)" in line
    assert "pip install 'hiersrec-sdk[train,serve]'" in line
    line = failed("quickstart", "--out", tmp_path / "q", "--no-serve")
    assert "needs the extra 'train' (onnx, torch are missing)" in line
    assert not (tmp_path / "q").exists()


def test_the_page_is_served_and_opened(finished: Path, tmp_path: Path) -> None:
    """In a process of its own, whose browser writes down what it is to show."""
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "hiersrec_sdk.cli", "quickstart", "--out", str(finished)]
    command += ["--port", "0", "--browser"]
    server = subprocess.Popen(
        command,
        env={**os.environ, "BROWSER": f"{browser} %s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        end = time.monotonic() + PATIENCE
        while not opened.exists() and server.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        url = opened.read_text().strip() if opened.exists() else ""
        assert url.startswith("http://127.0.0.1:")
        connection = HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
        connection.request("GET", "/")
        assert b"<!doctype html>" in connection.getresponse().read().lower()
        connection.close()
    finally:
        server.send_signal(signal.SIGINT)
        printed, _ = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0, printed.decode()
    assert f"serving on {url}" in printed.decode()
