"""Nothing happens behind the user's back: no socket, and no file but those asked for. The home folder stays empty."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hiersrec_sdk.ranking import available_backends
from tests.programs import program
from tests.sdk.bundles import Shop, forge, make_shop
from tests.sdk.encoders.test_forged_graphs import query_parts

ROOT = Path(__file__).resolve().parents[2]
SHOP = replace(make_shop("string", covisitation=True), top_p=None)

WORK = """
import pickle, sys, numpy
from hiersrec_sdk import Item, Recommender

bundle, out, backend = sys.argv[1:]
recommender = Recommender.load(bundle, backend=backend)
session = ["", "0"] * 3
recommender.recommend(session, exclude_seen=True)
recommender.recommend(session, mode="exact", threads=2)
recommender.recommend_many([session, session[:1]] * 40, threads=2, batch_size=8)
recommender.explain(session, "0")
recommender.similar_items("0")
recommender.session(session).recommend(3)
recommender.catalog.upsert([Item("new", vector=numpy.ones(6)), Item("0", title="other")])
recommender.catalog.set_bias(["new"], 2)
recommender.catalog.remove([""])
recommender.recommend(["new"])
recommender.save(out)
pickle.loads(pickle.dumps(recommender)).recommend(session)
threaded = Recommender.load(out, threads=2, verify=False, backend=backend)
threaded.recommend(session)
"""

Run = Callable[[Sequence[str], dict[str, str]], list[str]]
"""Runs Python with arguments and an environment; gives what it asked of the network, and wrote, by line."""


def environment(folder: Path) -> dict[str, str]:
    """Little, and a home folder that is empty."""
    (folder / "home").mkdir()
    variables = {"HOME": str(folder / "home"), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**variables, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled ``watch.c``."""
    compiler = shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, and Linux")
    library = tmp_path_factory.mktemp("watch") / "watch.so"
    source = Path(__file__).with_name("watch.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture(params=["preloaded", "strace"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """By a library that is preloaded, which needs a compiler alone; and by strace, which misses no call."""
    log = tmp_path / "log"
    if request.param == "preloaded":
        library = request.getfixturevalue("preloaded")

        def under_the_library(arguments: Sequence[str], variables: dict[str, str]) -> list[str]:
            variables = {**variables, "LD_PRELOAD": str(library), "WATCH_LOG": str(log)}
            done = subprocess.run([sys.executable, *arguments], env=variables, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return log.read_text().splitlines() if log.exists() else []

        return under_the_library

    strace = program("strace")
    if subprocess.run([strace, "-f", "true"], capture_output=True).returncode != 0:
        pytest.skip("needs to be allowed to use strace")

    def under_strace(arguments: Sequence[str], variables: dict[str, str]) -> list[str]:
        calls = "%network,open,openat,creat,mkdir,mkdirat,mknod,mknodat"
        command = [strace, "-f", "-qq", "-s", "4096", "-e", f"trace={calls}", "-o", str(log)]
        done = subprocess.run(
            [*command, sys.executable, *arguments], env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = []
        for line in log.read_text().splitlines():
            called = re.match(r"\d+ +(\w+)\((.*)", line)
            if called is None:  # a signal, or the end of an interrupted call
                continue
            call, rest = called.groups()
            path = re.search(r'"([^"]*)"', rest)
            if call.startswith(("open", "creat", "mk")):
                if call.startswith("open") and not re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", rest):
                    continue
                found.append(f"{call} {path[1] if path else rest}")
            else:
                found.append(f"{call} {rest}")
        return found

    return under_strace


def write(shop: Shop, path: Path) -> Path:
    """The bundle of a shop, with a graph that explains sessions of 6 items."""
    return forge(path, shop.config, shop.tensors, {**shop.files, "query_parts.onnx": query_parts([1, 6], 0)})


def unasked(calls: list[str], asked_for: Path) -> list[str]:
    """Those that do not write at the path that was asked for, or right beside it under a name that contains its own."""
    beside = re.compile(rf"(open|creat|mkdir)\w* {re.escape(str(asked_for.parent))}/[^/]*{asked_for.name}")
    return [call for call in calls if not beside.match(call) and not call.endswith(" /dev/null")]


@pytest.mark.parametrize("backend", available_backends())
@pytest.mark.slow
def test_a_recommender_asks_nobody_and_leaves_nothing(backend: str, run: Run, tmp_path: Path) -> None:
    bundle, out = write(SHOP, tmp_path / "bundle"), tmp_path / "out"
    calls = run(["-c", WORK, str(bundle), str(out), backend], environment(tmp_path))
    assert any(str(out) in call for call in calls)  # the watch sees what save() writes
    assert unasked(calls, out) == []
    assert [*(tmp_path / "home").rglob("*")] == []


@pytest.mark.parametrize("command", [["inspect"], ["recommend", "0"], ["explain", *["0"] * 7]])
def test_a_command_asks_nobody_and_leaves_nothing(command: list[str], run: Run, tmp_path: Path) -> None:
    bundle = write(SHOP, tmp_path / "bundle")
    name, *options = command
    calls = run(["-m", "hiersrec_sdk.cli", name, str(bundle), *options], environment(tmp_path))
    assert unasked(calls, tmp_path / "nothing") == []
    assert [*(tmp_path / "home").rglob("*")] == []


def test_the_watch_sees_sockets_and_files(run: Run, tmp_path: Path) -> None:
    code = "import socket, pathlib; socket.socket(); socket.socketpair(); pathlib.Path('~/x').expanduser().touch()"
    calls = run(["-c", code], environment(tmp_path))
    assert {"socket", "socketpair"} <= {call.partition(" ")[0] for call in calls}
    assert str(tmp_path / "home/x") in calls[-1]
    assert unasked(calls, tmp_path / "nothing") == calls


def value_after(code: str, variables: dict[str, str]) -> str:
    code += "; import os; print(os.environ.get('ORT_DISABLE_TELEMETRY'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_telemetry_is_off_unless_the_user_wants_it(tmp_path: Path) -> None:
    """From the first import of any part of the package on: onnxruntime reads it once, when it is first imported."""
    variables = environment(tmp_path)
    assert value_after("pass", variables) == "None"
    for module in ("hiersrec_sdk", "hiersrec_sdk.errors", "hiersrec_sdk.cli.main", "hiersrec_export"):
        expected = "None" if module == "hiersrec_export" else "1"
        assert value_after(f"import {module}", variables) == expected
    for chosen in ("0", "1", "", "no"):
        assert value_after("import hiersrec_sdk", {**variables, "ORT_DISABLE_TELEMETRY": chosen}) == chosen
