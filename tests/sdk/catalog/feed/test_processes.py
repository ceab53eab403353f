"""A change feed between processes that are killed at any moment: what was acknowledged is applied by all, in order."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hiersrec_sdk.catalog.feed import open_feed
from tests.sdk.catalog.feed import fleet
from tests.sdk.catalog.feed.replicas import SHOP

KILLS = 3


def start(*arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, fleet.__file__, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def lines(path: Path) -> list[str]:
    """The whole lines; of a writer that was killed, the last may be half a one."""
    return path.read_text().splitlines() if path.exists() else []


def test_a_fleet_whose_processes_are_killed(tmp_path: Path) -> None:
    bundle, feed, chance = SHOP.write(tmp_path / "bundle"), tmp_path / "feed", random.Random(0)
    noted = [tmp_path / "acknowledged-a", tmp_path / "acknowledged-b"]

    def writer(which: int) -> subprocess.Popen[str]:
        return start("write", bundle, feed, "ab"[which], noted[which])

    def follower(which: int) -> subprocess.Popen[str]:
        return start("follow", bundle, feed, tmp_path / f"saved-{which}")

    writers = [writer(0), writer(1)]
    followers = [follower(number) for number in range(3)]
    everything = [*writers, *followers]
    try:
        for number in range(KILLS):
            which, before = number % 2, len(lines(noted[number % 2]))
            until = time.monotonic() + 60
            while len(lines(noted[which])) < before + 5:
                assert time.monotonic() < until, "the writer wrote nothing"
                time.sleep(0.01)
            time.sleep(chance.random() * 0.05)
            kill(writers[which])
            writers[which] = writer(which)
            everything.append(writers[which])
        while not (tmp_path / "saved-0").exists():
            assert time.monotonic() < until + 60, "the follower saved nothing"
            time.sleep(0.01)
        kill(followers[0])
        for each in writers:
            kill(each)
        followers[0] = follower(0)
        everything.append(followers[0])
        said = [json.loads(each.communicate("", timeout=60)[0]) for each in followers]
    finally:
        for each in everything:
            if each.poll() is None:
                kill(each)

    with open_feed(feed) as log:
        found = [json.loads(record.content)["upsert"]["id"] for record in log.read(0, 10**6)]
        assert len(found) == log.last == len(set(found))
    for path in noted:
        for line in lines(path):
            if line.endswith("]"):
                position, item = json.loads(line)
                assert found[position - 1] == item
    base = SHOP.items
    for position, rejected, items in said:
        assert (position, rejected) == (len(found), 0)
        assert items[base:] == found  # each once, in the order of the log
