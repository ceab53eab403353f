"""A change feed between processes that are killed at any moment: what was acknowledged is applied by all, in order."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.feed import open_feed
from tests.sdk.catalog.feed.replicas import SHOP
from tests.waiting import wait_for

KILLS = 6


def start(call: Callable[[], None]) -> int:
    """A process that ends with ``call``: forked, as a new Python takes seconds to start."""
    child = os.fork()
    if not child:
        try:
            call()
            os._exit(0)
        finally:
            os._exit(1)
    return child


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def write(feed: Path, name: str, noted: Path) -> None:
    """Append until it is killed, and note each item with its position before the next one."""
    with noted.open("a") as notes, open_feed(feed) as log:
        number = 0
        while True:
            number += 1
            item = {"id": f"{name}-{number}", "category": "2/2", "vector": [0.5] * 6}
            position = log.append([{"upsert": item}])
            notes.write(json.dumps([position, item["id"]]) + "\n")
            notes.flush()
            time.sleep(0.005)


def follow(bundle: Path, feed: Path, saved: Path, end: Path) -> None:
    """Follow from the newest bundle, saving it now and then; at the end, save what there is."""
    recommender = Recommender.load(saved if saved.exists() else bundle)
    with recommender.follow(feed) as follower:
        while not end.exists():
            recommender.save(saved)
            time.sleep(0.1)
        last = follower.feed.last
        wait_for(lambda: follower.position == last)
        wait_for(lambda: follower.rejected == 0)
        recommender.save(saved)


def notes(path: Path) -> list[tuple[int, str]]:
    """Without the last line where a kill has left half of it."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [tuple(json.loads(line)) for line in lines if line.endswith("]")]


def test_a_fleet_whose_processes_are_killed(tmp_path: Path) -> None:
    bundle, feed, end = SHOP.write(tmp_path / "bundle"), tmp_path / "feed", tmp_path / "end"
    saved = [tmp_path / f"saved-{number}" for number in range(3)]
    noted: list[Path] = []
    chance = random.Random(0)

    def writer() -> int:
        noted.append(tmp_path / f"noted-{len(noted)}")
        return start(lambda: write(feed, noted[-1].name, noted[-1]))

    def follower(number: int) -> int:
        return start(lambda: follow(bundle, feed, saved[number], end))

    followers = [follower(number) for number in range(3)]
    writers = [(writer(), noted[0]), (writer(), noted[1])]
    try:
        for number in range(KILLS):
            process, path = writers[number % 2]
            wait_for(partial(lambda path: len(notes(path)) > 5, path))
            time.sleep(chance.random() * 0.05)
            kill(process)
            writers[number % 2] = writer(), noted[-1]
            if number == KILLS // 2:
                wait_for(saved[0].exists)
                kill(followers[0])
                followers[0] = follower(0)
        while writers:
            kill(writers.pop()[0])
        open_feed(feed).close()  # which takes in what the last ones have left
        end.touch()
        while followers:
            assert os.waitstatus_to_exitcode(os.waitpid(followers.pop(), 0)[1]) == 0
    finally:
        for process in [*followers, *(process for process, _ in writers)]:
            kill(process)

    with open_feed(feed) as log:
        found = [json.loads(record.content)["upsert"]["id"] for record in log.read(0, 10**6)]
        assert len(found) == log.last == len(set(found))
        assert log.read(log.last, 1) == []
    for position, item in [note for path in noted for note in notes(path)]:
        assert found[position - 1] == item
    for path in saved:
        catalog = Recommender.load(path).catalog.current
        assert catalog.feed is not None
        assert catalog.feed.position == len(found)
        items = list(catalog.ids(catalog.live_rows()))
        assert items[SHOP.items :] == found  # each once, in the order of the log
