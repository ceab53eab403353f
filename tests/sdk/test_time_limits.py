"""A time limit that a signal handler raises, as task queues do, gets out of every call as it is.

``TimeoutError`` is the hardest one: Python takes it for an error of the system, as a file that is missing is one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Item, Recommender
from hiersrec_sdk.bundle.opened import _Descriptor
from tests.sdk.bundles import DIMENSION, make_shop
from tests.sdk.interruptions import Interruption, first_visits

SHOP = make_shop("string", full=True)
PATH = SHOP.category_paths[1, 0]
NUMBERS = count()
CALLS: dict[str, Callable[[Recommender, Path], Any]] = {
    "load": lambda _, bundle: Recommender.load(bundle),
    "recommend": lambda recommender, _: recommender.recommend(SHOP.ids[3:6], 5),
    "recommend, filters": lambda recommender, _: recommender.recommend(
        SHOP.ids[3:6], 5, exclude=SHOP.ids[:2], allow=SHOP.ids[1:20], max_per_category=2, mode="exact"
    ),
    "recommend_many": lambda recommender, _: recommender.recommend_many([SHOP.ids[3:6], SHOP.ids[:1]], 5),
    "similar_items": lambda recommender, _: recommender.similar_items(SHOP.ids[3], 5),
    "explain": lambda recommender, _: recommender.explain(SHOP.ids[3:6], SHOP.ids[9]),
    "upsert": lambda recommender, _: recommender.catalog.upsert(
        [
            Item("new", (*PATH, f"new {next(NUMBERS)}"), vector=[0.1] * DIMENSION),
            Item(SHOP.ids[2], SHOP.category_ids[-1][0]),
        ]
    ),
    "move": lambda recommender, _: recommender.catalog.move(SHOP.ids[3], SHOP.category_ids[-1][1]),
    "set_bias": lambda recommender, _: recommender.catalog.set_bias(SHOP.ids[4:9], 0.5),
    "save": lambda recommender, bundle: recommender.save(bundle.with_name("saved")),
}


def lines_of(method: Callable[..., Any]) -> set[tuple[str, int]]:
    lines, first = inspect.getsourcelines(method)
    return {("opened.py", at) for at in range(first, first + len(lines))}


# Python goes on after an error in __del__, which the garbage collector may call anywhere.
IN_DEL = lines_of(_Descriptor.__del__) | lines_of(_Descriptor.is_open)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.slow
def test_a_time_limit_gets_out_of_every_line(name: str, tmp_path: Path) -> None:
    bundle = SHOP.write(tmp_path / "bundle")
    recommender = Recommender.load(bundle)

    def call() -> None:
        CALLS[name](recommender, bundle)

    reached = 0
    for at in first_visits(call):
        interruption = Interruption(at, TimeoutError)
        raised = interruption.during(call)
        if interruption.where is not None:  # a call may take fewer lines when it is made again
            reached += 1
            if raised is None and interruption.where in IN_DEL:
                continue
            assert type(raised) is TimeoutError, interruption.where
    assert reached > 20
