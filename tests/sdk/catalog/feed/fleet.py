"""Programs of a fleet that shares a change feed.

``fleet.py write BUNDLE FEED NAME ACKNOWLEDGED`` publishes changes until it is killed, and notes each in the file
ACKNOWLEDGED before the next. ``fleet.py follow BUNDLE FEED SAVED`` follows, and saves its bundle to SAVED now and then;
at the end of its input it prints its position, how many it rejected, and its items.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.feed import open_feed


def write(feed: str, name: str, acknowledged: str) -> None:
    """A writer has no catalog to wait for. Each change sets the bias of an item to the number of the change."""
    with Path(acknowledged).open("a+") as noted, open_feed(feed) as log:
        noted.seek(0)
        number = sum(1 for _ in noted) * 1000  # none that a killed one may have begun
        while True:
            number += 1
            item = {"id": f"{name}-{number}", "category": "2/2", "vector": [0.5] * 6, "title": f"{number}"}
            position = log.append([{"upsert": item}])
            noted.write(json.dumps([position, item["id"]]) + "\n")
            noted.flush()


def follow(bundle: str, feed: str, saved: str) -> None:
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    recommender = Recommender.load(saved if Path(saved).exists() else bundle)
    with recommender.follow(feed) as follower:
        while not ended.wait(0.2):
            recommender.save(saved)
        last = follower.feed.last
        while follower.position < last:
            ended.wait(0)
            threading.Event().wait(0.01)
        catalog = recommender.catalog.current
        rows = catalog.live_rows()
        items = list(catalog.ids(rows))  # in the order in which they came
        print(json.dumps([follower.position, follower.rejected, items]), flush=True)
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*sys.argv[3:])
    else:
        follow(*sys.argv[2:])
