"""Processes that save, load and deploy bundles at one place: ``python -m tests.stress.saves --minutes 5``.

Savers each add an item of their own to one bundle and take an old one out, again and again; where another one was
faster they load again. A deployer exchanges that bundle with a copy of it, and another bundle with one of several
versions. Loaders load both. Nothing that a save has acknowledged may be missing, no loaded bundle may be mixed of two
versions, and there must be no error but the one that says to load again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.atomic import _EXCHANGE, PART, _rename, alone
from hiersrec_sdk.bundle import write_bundle
from hiersrec_sdk.errors import BundleError
from tests.sdk.bundles import DIMENSION, make_shop

SHOP = make_shop("string")
KEPT = 30  # items of each saver
VERSIONS = 6  # of the bundle that is deployed


def save_for_ever(name: str, folder: Path, stop: Any, counts: dict[str, int]) -> None:
    """Acknowledged items are in the file ``name``, one state a line."""
    bundle, kept, turn = folder / "bundle", list[str](), 0
    recommender = Recommender.load(bundle)
    with (folder / name).open("w", buffering=1) as acknowledged:
        while not stop.is_set():
            turn += 1
            new = [*kept, f"{name} {turn}"]
            gone, new = new[:-KEPT], new[-KEPT:]
            while True:
                recommender.catalog.upsert([Item(new[-1], "2/5", vector=[0.0] * DIMENSION)])
                recommender.catalog.remove(gone)
                try:
                    recommender.save(bundle)
                    break
                except BundleError as error:
                    if "load it again" not in str(error):
                        raise
                    counts["saves refused"] += 1
                recommender = Recommender.load(bundle)
            kept = new
            acknowledged.write(json.dumps(kept) + "\n")
            counts["saves"] += 1


def load_for_ever(name: str, folder: Path, stop: Any, counts: dict[str, int]) -> None:
    expected = json.loads((folder / "answers").read_text())
    while not stop.is_set():
        found = Recommender.load(folder / "deployed")
        result = found.recommend(SHOP.ids[3:6], 10)
        assert [*result.items, *result.scores.tolist()] == expected[found.config["data"]["name"]], (
            "a mixed version"
        )
        before = states(folder)
        catalog = Recommender.load(folder / "bundle").catalog
        wanted = before & states(folder, oldest=2)  # which may be taken out at this moment
        wrong = [own for own in wanted if catalog.rows([own])[0] < 0]
        assert not wrong, f"acknowledged, and not in the bundle: {wrong}"
        counts["loads"] += 2


def deploy_for_ever(name: str, folder: Path, stop: Any, counts: dict[str, int]) -> None:
    copy, chance = folder / "copy", random.Random(0)

    def exchange(path: Path) -> None:
        _rename(copy, path, _EXCHANGE)
        shutil.rmtree(copy)
        counts["deployments"] += 1

    while not stop.is_set():
        shutil.copytree(folder / f"version-{chance.randrange(VERSIONS)}", copy)
        exchange(folder / "deployed")
        with alone(folder):  # else it would put an older copy there, on which a save could build
            shutil.copytree(folder / "bundle", copy)
            exchange(folder / "bundle")
        time.sleep(0.05)


def states(folder: Path, oldest: int = 0) -> set[str]:
    """The ids that are acknowledged by now, of each saver but for the ``oldest``."""
    found = set()
    for file in folder.glob("saver-*"):
        lines = file.read_text().split("\n")
        if len(lines) > 1:
            found |= set(json.loads(lines[-2])[oldest:])
    return found


def _worker(work: Callable[..., None], name: str, folder: Path, stop: Any) -> None:
    counts: dict[str, int] = Counter()
    try:
        work(name, folder, stop, counts)
    except BaseException:
        stop.set()
        (folder / f"failed-{name}").write_text(traceback.format_exc())
    (folder / f"counts-{name}").write_text(json.dumps(counts))


def run(seconds: float, savers: int, loaders: int, folder: Path) -> dict[str, int]:
    """Run it in a new ``folder``; returns how much of what was done.

    Raises:
        AssertionError: something was lost or mixed, or an error got out.
    """
    answers = {}
    for version in range(VERSIONS):
        shop = make_shop("string", seed=version)
        path = folder / f"version-{version}"
        write_bundle(path, {**shop.config, "data": {"name": f"{version}"}}, shop.tensors, shop.files)
        result = Recommender.load(path).recommend(SHOP.ids[3:6], 10)
        answers[f"{version}"] = [*result.items, *result.scores.tolist()]
    (folder / "answers").write_text(json.dumps(answers))
    shutil.copytree(folder / "version-0", folder / "deployed")
    SHOP.write(folder / "bundle")
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    work = [(save_for_ever, f"saver-{at}") for at in range(savers)]
    work += [(load_for_ever, f"loader-{at}") for at in range(loaders)]
    work += [(deploy_for_ever, "deployer")]
    processes = [context.Process(target=_worker, args=(call, name, folder, stop)) for call, name in work]
    for process in processes:
        process.start()
    stop.wait(seconds)
    stop.set()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0, "a process hangs or died"
    failed = [file.read_text() for file in folder.glob("failed-*")]
    assert not failed, "\n".join(failed)
    catalog = Recommender.load(folder / "bundle").catalog
    found = set(catalog.ids(catalog.live_rows())) - set(SHOP.ids)
    assert found == states(folder), found ^ states(folder)
    assert not [path for path in folder.iterdir() if PART in path.name]
    counts: Counter[str] = Counter()
    for file in folder.glob("counts-*"):
        counts.update(json.loads(file.read_text()))
    return dict(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--savers", type=int, default=4)
    parser.add_argument("--loaders", type=int, default=4)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        counts = run(60 * given.minutes, given.savers, given.loaders, Path(folder))
    sys.stdout.write(", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())) + "\n")


if __name__ == "__main__":
    main()
