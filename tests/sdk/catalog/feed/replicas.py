"""Recommenders of one bundle that follow a change feed, and the changes that are made to them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.changes import Change
from hiersrec_sdk.errors import InvalidArgumentError
from tests.sdk.bundles import DIMENSION, make_shop

SHOP = make_shop("string")
PATHS = {path[-1]: [*path] for path in SHOP.category_paths.values()}
IDS = st.sampled_from([*SHOP.ids[1:5], SHOP.ids[40], "new-1", "new-2"])
CATEGORIES = st.sampled_from(
    ["2/2", "2/5", "1/1", PATHS["2/8"], [*PATHS["1/1"], "fresh"], [*PATHS["1/3"], "fresh"]]
)
VECTORS = st.lists(st.integers(-8, 8).map(lambda number: number / 8), min_size=DIMENSION, max_size=DIMENSION)
RIGHT = st.one_of(
    st.fixed_dictionaries(
        {"id": IDS},
        optional={"category": CATEGORIES, "title": st.sampled_from(["A", "B"]), "vector": VECTORS},
    ).map(lambda item: {"upsert": item}),
    IDS.map(lambda own: {"remove": own}),
    st.builds(lambda own, to: {"move": {"id": own, "category": to}}, IDS, CATEGORIES),
    st.builds(lambda own, value: {"set_bias": {"id": own, "value": value}}, IDS, st.integers(-9, 9)),
)
WRONG: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"remove": 5},
        {"move": {"id": SHOP.ids[2], "category": "nowhere"}},
        {"move": {"id": "nobody", "category": "2/5"}},
        {"set_bias": {"id": "nobody", "value": 1}},
        {"upsert": {"id": "new-1", "vector": [1.0]}},
        {"upsert": {"id": "new-1", "category": ["nowhere", "deeper"]}},
        {"upsert": {"id": "new-2", "category": "fresh"}},  # unless there is one, and only one
        {"upsert": {"id": SHOP.ids[1], "numbers": {"weight": 3}}},
        {"upsert": {"id": "bare"}},
    ]
)
CHANGES = st.lists(RIGHT | WRONG, max_size=14)


def state(recommender: Recommender) -> dict[Any, Any]:
    """All that a catalog knows of its items, and what it recommends."""
    catalog = recommender.catalog.current
    rows = catalog.live_rows()
    ids = list(catalog.ids(rows))
    vectors, biases, clicks = catalog.vectors(rows), catalog.biases(rows), catalog.clicks_of(rows)
    known: dict[Any, Any] = {
        own: (
            vectors[at].tobytes(),
            float(biases[at]),
            int(clicks[at]),
            catalog.title(row),
            [catalog.categories_of(rows[at : at + 1], level).tolist() for level in range(3)],
        )
        for at, (row, own) in enumerate(zip(rows.tolist(), ids, strict=True))
    }
    known["categories"] = list(catalog.delta.categories.ids), list(catalog.delta.categories.parents)
    known["recommended"] = recommender.recommend([SHOP.ids[7]], 20, mode="exact").items
    return known


def change_directly(recommender: Recommender, changes: list[dict[str, Any]]) -> list[int]:
    """Make one after the other; returns which ones cannot be made."""
    wrong = []
    for number, each in enumerate(changes):
        try:
            recommender.catalog.make([Change.of(each)])
        except InvalidArgumentError:
            wrong.append(number)
    return wrong
