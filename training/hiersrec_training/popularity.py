"""How much an item is clicked at one time of the log, and since when: what its popularity bias is made of.

Each part of the training sessions is trained with the statistics of the sessions before it, as serving has those of
all training sessions before what comes: no session sees clicks that came after it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hiersrec_training.dataset import Sessions

WINDOWS = (0.01, 0.03, 0.1, 0.3)  # newest shares of a log whose clicks are counted apart
STATISTICS = len(WINDOWS) + 6
LONG_AGO = 1.0  # age of what was never clicked, as a share of the log
RECENT = 1e-3  # below this share of the log, times since a click are alike


def item_statistics(sessions: Sessions, items: int, upto: int) -> NDArray[np.float32]:
    """Statistics of every item over the first ``upto`` sessions: float32 [items, STATISTICS].

    Logarithms of the clicks in the newest windows and in all of these sessions, the time since the first click, the
    logarithm of that since the last, clicks by time, whether there is none, and how much of a log these sessions are.
    Windows and times are shares of all sessions: a log needs no dates. The constants bring all of them to the order
    of 1.
    """
    span = max(1, len(sessions))
    stop = sessions.offsets[upto]
    session = np.repeat(np.arange(upto), sessions.lengths[:upto])
    clicked = sessions.items[:stop]
    counts = []
    for window in WINDOWS:
        start = sessions.offsets[max(0, upto - round(window * span))]
        counts.append(np.log1p(np.bincount(clicked[start:], minlength=items)))
    total = np.bincount(clicked, minlength=items)
    first, last = np.full(items, upto), np.zeros(items, dtype=np.int64)
    first[clicked[::-1]] = session[::-1]  # of repeated indices the last assignment stays
    last[clicked] = session
    never = total == 0
    age = np.where(never, 0.0, (upto - first) / span)
    since = np.where(never, LONG_AGO, (upto - last) / span)
    every = np.log1p(total)
    columns = [
        *counts, every / 2, age, np.log(since + RECENT) / 3 + 1, (every - np.log(age + 0.02)) / 3, never,
        np.full(items, upto / span),
    ]  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float32)


def slot_statistics(sessions: Sessions, items: int, slots: int) -> list[NDArray[np.float32]]:
    """The statistics before each of ``slots`` equal parts of the sessions, and after the last: slots + 1 arrays.

    Without slots there are two arrays of zeros: every item is alike, at any time.
    """
    if not slots:
        return [np.zeros((items, STATISTICS), np.float32)] * 2
    edges = [-(-slot * len(sessions) // slots) for slot in range(slots + 1)]  # where ``session * slots // n`` rises
    return [item_statistics(sessions, items, upto) for upto in edges]
