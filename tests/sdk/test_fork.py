"""A process that forks after it has loaded a bundle: its children answer right, and end at once in every way."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from hiersrec_sdk import Recommender
from tests.sdk import forked

ROOT = Path(__file__).resolve().parents[2]


def run(program: str | Path, *arguments: object) -> str:
    """What a Python program prints."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            *(("-c",) if isinstance(program, str) else ()),
            program,
            *map(str, arguments),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("used", ["used", "unused"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_way_out_of_a_child(tiny_bundle: Path, threads: int, used: str) -> None:
    found = json.loads(run(Path(forked.__file__), tiny_bundle, threads, used))
    assert {name: (status, said) for name, (_, status, said) in found.items()} == {
        name: (status, "right") for name, (_, status) in forked.ENDS.items()
    }
    slow = {name: seconds for name, (seconds, _, _) in found.items() if seconds > 5}
    assert not slow  # a fraction of a second where nothing else runs


BUSY = """
import os, sys, threading, time
from hiersrec_sdk import Recommender

bundle, threads, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
recommender = Recommender.load(bundle, threads=threads)
ids = list(recommender.catalog.ids(recommender.catalog.most_clicked(8)))
wanted = [recommender.recommend(ids[:n], 9).items for n in range(9)]

def work(at):
    while True:
        at = at % 8 + 1
        recommender.recommend(ids[:at], 9)
        recommender.explain(ids[:at], ids[0])
        recommender.recommend_many([ids[:at]] * 5, 9, threads=2)

def load():
    while True:
        Recommender.load(bundle, threads=threads).recommend(ids, 9)

for target, arguments in ((work, (1,)), (work, (5,)), (load, ())):
    threading.Thread(target=target, args=arguments, daemon=True).start()
for _ in range(times):
    child = os.fork()
    if not child:
        sys.exit([recommender.recommend(ids[:n], 9).items for n in range(9)] != wanted)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.slow
def test_a_fork_while_other_threads_call_and_load(tiny_bundle: Path, threads: int) -> None:
    assert run(BUSY, tiny_bundle, threads, 30).split() == ["0"] * 30


def test_a_dropped_recommender_takes_its_graphs_along(tiny_bundle: Path) -> None:
    """At once: the garbage collector may come in a child, where they cannot be taken down."""
    recommender = Recommender.load(tiny_bundle)
    ids = list(recommender.catalog.ids(recommender.catalog.most_clicked(4)))
    gc.disable()
    try:
        for _ in range(2):
            recommender.recommend(ids)
            recommender.explain(ids, ids[0])
        graph = weakref.ref(recommender._pipeline.encoder._graph())
        del recommender
        assert graph() is None
    finally:
        gc.enable()
