"""A program that loads a bundle and forks children, which answer and then end: ``forked.py BUNDLE THREADS USED``.

With USED "used", every graph has run before the fork, otherwise none. Each child ends in a way of its own; those are
really its main program's, so that no test runner stands between. Prints, as JSON, for each of ENDS how many seconds
the child took, its exit status, and whether it answered as the parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from hiersrec_sdk import Recommender

LIMIT = 20.0  # seconds after which a child counts as hanging


def sigterm_handled() -> None:
    def leave(*_: object) -> None:
        sys.exit(0)  # as gunicorn's workers

    signal.signal(signal.SIGTERM, leave)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LIMIT)


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(LIMIT)


def through_c() -> None:
    ctypes.CDLL(None).exit(0)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LIMIT)


def forks_again() -> None:
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


ENDS: dict[str, tuple[Callable[[], object], int]] = {  # and the exit code
    "end of the program": (lambda: None, 0),
    "sys.exit": (sys.exit, 0),
    "sys.exit with a status": (lambda: sys.exit(7), 7),
    "exception": (lambda: 1 / 0, 1),
    "SIGTERM, handled": (sigterm_handled, 0),
    "SIGTERM": (killed, -signal.SIGTERM),
    "SIGINT": (interrupted, -signal.SIGINT),
    "exit of C": (through_c, 0),
    "os._exit": (lambda: os._exit(0), 0),
    "a child of its own": (forks_again, 0),
}


def answers(recommender: Recommender) -> list[object]:
    """What every graph says."""
    catalog = recommender.catalog
    ids = list(catalog.ids(catalog.most_clicked(8)))
    single = [recommender.recommend(ids[:n], 9).items for n in range(6)]
    many = [result.items for result in recommender.recommend_many([ids[:n] for n in range(6)], 9, threads=2)]
    why = str(recommender.explain(ids[:3], ids[4]))
    catalog.upsert([{"id": "new", "category": ("left", "left.1"), "text": "word1 group1"}])
    encoded = catalog.vectors(catalog.rows(["new"])).tobytes()
    catalog.remove(["new"])
    return [single, many, why, encoded]


def main() -> None:
    bundle, threads, used = sys.argv[1:]
    wanted = answers(Recommender.load(bundle, threads=int(threads)))
    recommender = Recommender.load(bundle, threads=int(threads))
    if used == "used":
        assert answers(recommender) == wanted
    printed: dict[str, Any] = {}
    for name, (end, _) in ENDS.items():
        started = time.monotonic()
        answered, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, b"right" if answers(recommender) == wanted else b"wrong")
            os.close(write)
            end()
            return  # the end of the program
        os.close(write)
        said = os.read(answered, 100).decode()  # which waits until the child has answered, or is no more
        os.close(answered)
        status: int | None = None
        while status is None and time.monotonic() < started + LIMIT:
            done, value = os.waitpid(child, os.WNOHANG)
            status = os.waitstatus_to_exitcode(value) if done else None
            time.sleep(0.005)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        printed[name] = [time.monotonic() - started, status, said]
    sys.stdout.write(json.dumps(printed))


if __name__ == "__main__":
    main()
