"""Sessions that are asked, and what `recommend` answers to each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from hiersrec_sdk import Recommender
from tests.sdk.bundles import Shop


def sessions_of(shop: Shop, count: int, seed: int = 0) -> list[list[Any]]:
    """Sessions of up to nine clicks: some empty, some with unknown ids, some of nothing else."""
    random = np.random.default_rng(seed)
    known = [*shop.ids, shop.stranger]
    found = [
        [known[at] for at in random.integers(len(known), size=random.integers(10))] for _ in range(count)
    ]
    found[1:2], found[2:3] = [[]], [[shop.stranger]]
    return found[:count]


def answers(
    recommender: Recommender, sessions: list[list[Any]], k: int = 10, **options: Any
) -> dict[str, Any]:
    """The columns of the results."""
    results = [recommender.recommend(session, k, **options) for session in sessions]
    return {
        "items": [[*result.items] for result in results],
        "scores": [result.scores.tolist() for result in results],
        "mode": [result.mode for result in results],
        "unknown_ids": [result.unknown_ids for result in results],
    }


def table_of(sessions: list[Any], shop: Shop, column: str = "items") -> Any:
    """An Arrow table of them, with the columns ``visitor``, their positions, and ``when``."""
    item = pa.string() if shop.id_type == "string" else pa.int64()
    count = len(sessions)
    return pa.table(
        {
            "visitor": pa.array(range(count), pa.int64()),
            column: pa.array(sessions, pa.list_(item)),
            "when": pa.array([None if at % 3 else f"day {at}" for at in range(count)], pa.string()),
        }
    )
