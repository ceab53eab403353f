"""Filters: which rows they let through, against sets; and what they refuse."""

from __future__ import annotations

import copy
import json
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk import Filter, Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.catalog.filters import prepare
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import CategoryTree, NewCategories, label, parse_name, resolve
from hiersrec_sdk.errors import (
    AmbiguousCategoryError,
    InvalidArgumentError,
    InvalidFilterError,
    InvalidItemIdError,
    NaNItemIdError,
    UnknownCategoryError,
)
from tests.sdk.bundles import ITEMS, Shop, make_shop, runs

SHOPS = {
    "strings": make_shop("string"),
    "integers": make_shop("int64", seed=1, full=False),
    "repeated strings": make_shop("string", seed=2, repeated=True),
    "repeated integers": make_shop("int64", seed=3, full=False, repeated=True),
}
# A category that has no category below it may be its own one, with its own id.
SHOPS["strings"].category_ids[2][4] = SHOPS["strings"].category_ids[1][1]
SHOPS["strings"].category_ids[2][2] = SHOPS["strings"].category_ids[0][0]
NAMES = ("allow", "exclude", "categories", "exclude_categories")


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Catalog]:
    folder = tmp_path_factory.mktemp("filters")
    return {name: Catalog.of(open_bundle(shop.write(folder / name))) for name, shop in SHOPS.items()}


def restricted(shop: Shop, arguments: dict[str, Any]) -> set[int]:
    """The rows that ``arguments`` let through."""
    rows = set(range(ITEMS))
    for name, ids in arguments.items():
        if name in ("allow", "exclude"):
            named = {row for row, own in enumerate(shop.ids) if own in set(ids)}
        else:
            named = set().union(*(shop.rows_of_category(own) for own in ids))
        rows = rows & named if name in ("allow", "categories") else rows - named
    return rows


@st.composite
def arguments_of(draw: st.DrawFn, shop: Shop) -> dict[str, Any]:
    items = st.lists(st.sampled_from(shop.ids) | st.just(shop.stranger), max_size=50)
    categories = st.lists(
        st.sampled_from([name for name in names_of(shop) if len(shop.named(name)) == 1]), max_size=5
    )
    drawn = {
        name: draw(st.none() | (items if name in ("allow", "exclude") else categories)) for name in NAMES
    }
    return {name: ids for name, ids in drawn.items() if ids is not None}


def names_of(shop: Shop) -> list[Any]:
    """Every id, and every path with and without its repeats."""
    paths = shop.category_paths.values()
    without = [tuple(own for own, _ in runs(path)) for path in paths]
    return [*dict.fromkeys((*(path[-1] for path in paths), *paths, *without))]


def rows_of(found: Filter) -> set[int]:
    return set(np.flatnonzero(found.allows(np.arange(ITEMS))).tolist())


@settings(max_examples=300, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(SHOPS)))
def test_a_filter_is_a_set_of_rows(data: st.DataObject, name: str, catalogs: dict[str, Catalog]) -> None:
    shop, catalog = SHOPS[name], catalogs[name]
    first, second = data.draw(arguments_of(shop)), data.draw(arguments_of(shop))
    right = restricted(shop, first)
    found = prepare(catalog, **first)
    assert rows_of(found) == right
    assert len(found) == found.items == len(right)
    assert found.eligible.tolist() == [len(right & {*range(*span)}) for span in shop.ranges[-1]]
    assert found.bitmap.shape == (1,)
    both = prepare(catalog, found, **second)
    assert rows_of(both) == right & restricted(shop, second)
    assert rows_of(found) == right  # is left as it was


@pytest.mark.parametrize("name", sorted(SHOPS))
def test_every_category_by_every_name(name: str, catalogs: dict[str, Catalog]) -> None:
    shop, catalog = SHOPS[name], catalogs[name]
    ambiguous = 0
    for own in names_of(shop):
        nodes = shop.named(own)
        if len(nodes) == 1:
            rows = shop.rows_of_category(own)
            assert catalog.find_category(own) == nodes[0]
            assert rows_of(prepare(catalog, categories=[own])) == rows
            assert rows_of(prepare(catalog, exclude_categories=[own])) == set(range(ITEMS)) - rows
            if isinstance(own, tuple):
                others: list[Any] = [list(own), np.array(own), [*np.array(own)]]
                assert [catalog.find_category(other) for other in others] == nodes * 3
            continue
        ambiguous += 1
        with pytest.raises(
            AmbiguousCategoryError, match=f"^categories: {len(nodes)} categories are called"
        ) as caught:
            prepare(catalog, categories=[own])
        for node in nodes[:4]:  # each path that it lists names one of them
            path = catalog.category(*node).path
            assert json.dumps(list(path)) in str(caught.value)
            assert catalog.find_category(path) == node
    assert (ambiguous > 0) == name.startswith("repeated")


@pytest.mark.parametrize("name", sorted(SHOPS))
def test_a_label_is_read_back(name: str, catalogs: dict[str, Catalog]) -> None:
    shop, catalog = SHOPS[name], catalogs[name]
    for node, path in shop.category_paths.items():
        found = catalog.category(*node)
        assert found.id == path[-1]
        assert found.path == path[: len(found.path)]
        assert path[len(found.path) :] == found.path[-1:] * (len(path) - len(found.path))
        text = catalog.category_label(found.path)
        assert catalog.find_category(parse_name(text, catalog.category_id_type)) == catalog.find_category(
            found.path
        )
        assert text.startswith("[") == (shop.named(path[-1]) != shop.named(found.path))


@pytest.mark.parametrize("own", ["[", "[1]", '["a"]', "a", "007", "[x]", "[[1]]", "\n", '["a", null]', "[]"])
def test_a_label_of_any_id_is_read_back(own: str) -> None:
    tree = CategoryTree(
        (np.array([[0, 1], [1, 2]]),),
        (np.array([-1, -1], np.int32),),
        (StringTable.from_strings([own, "b"]),),
        "string",
    )
    text = label(tree, NewCategories(), (own,))
    assert resolve(tree, NewCategories(), parse_name(text, "string")) == (0, 0)


def test_items_that_are_listed_in_a_category_are_of_it(catalogs: dict[str, Catalog]) -> None:
    # Leaf 1 has no row of its own: all its items have their rows in other categories.
    assert rows_of(prepare(catalogs["strings"], categories=["2/1"])) == {0, 59}
    assert rows_of(prepare(catalogs["strings"], categories=["2/3"])) == {17, 40}
    assert rows_of(prepare(catalogs["strings"], categories=["1/2"])) == {*range(25, 58), 4, 40, 2}
    assert len(prepare(catalogs["strings"], categories=["2/1"], exclude_categories=["2/8"])) == 1


def test_one_id_at_several_levels(catalogs: dict[str, Catalog]) -> None:
    catalog = catalogs["strings"]
    assert catalog.find_category("1/1") == (1, 1)
    assert catalog.find_category(np.str_("0/0")) == (0, 0)
    integer: Any = np.int32(101)
    assert catalogs["integers"].find_category(integer) == (1, 1)
    wrongs: list[Any] = [
        True,
        101.0,
        None,
        "101",
        [101],
        np.bool(True),
        np.timedelta64(101),
        (),
        (0, 1, True),
    ]
    for wrong in wrongs:
        with pytest.raises(UnknownCategoryError):
            catalogs["integers"].find_category(wrong)


def test_an_unknown_category_is_shown_what_there_is(catalogs: dict[str, Catalog]) -> None:
    catalog = catalogs["repeated strings"]
    for name, message in (
        ("c77", r"no category 'c77' of type str; .* strings, such as 'c5'; spelled alike: 'c7'"),
        (("c5",), r"""no category \["c5"\]; .*; 'c5' stands at \["c0", "c5"\] or \["c1", "c5"\]$"""),
        (("c1", "c77"), r"""no category \["c1", "c77"\]; .*; spelled alike: 'c7'"""),
        ((), r"no category \[\]; category ids of this catalog are strings, such as 'c5'$"),
    ):
        with pytest.raises(UnknownCategoryError, match=message):
            catalog.find_category(name)


def test_a_catalog_that_does_not_end_with_a_word(tmp_path: Path) -> None:
    shop = make_shop(times=3)  # 180 rows: of the third word of 64 bits, 52 count
    catalog = Catalog.of(open_bundle(shop.write(tmp_path / "bundle")))
    found = prepare(catalog, exclude=[shop.ids[0], shop.ids[179]])
    again = prepare(catalog, found)
    for one in (found, again):
        assert len(one) == 178
        assert one.allows(np.array([0, 1, 63, 64, 127, 128, 178, 179])).tolist() == [
            False,
            *[True] * 6,
            False,
        ]
        assert [int(word).bit_count() for word in one.bitmap] == [63, 64, 51]


def test_threads_make_and_use_filters(catalogs: dict[str, Catalog]) -> None:
    catalog, shop = catalogs["strings"], SHOPS["strings"]
    catalog.__dict__.pop("_category_places", None)  # computed when it is first asked for
    everything = [own for ids in shop.category_ids for own in ids] * 10
    base = prepare(catalog, exclude=shop.ids[:3])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda own: rows_of(prepare(catalog, base, categories=[own])), everything))
    assert found == [shop.rows_of_category(own) - {0, 1, 2} for own in everything]


def test_a_filter_says_what_it_is_and_cannot_be_changed(catalogs: dict[str, Catalog]) -> None:
    found: Any = prepare(catalogs["strings"], allow=["0"])
    assert repr(found) == "Filter(items=1)"
    with pytest.raises(FrozenInstanceError):
        found.items = 5
    assert copy.copy(found) is copy.deepcopy([found])[0] is found
    with pytest.raises(TypeError, match="a filter is of the recommender that made it"):
        pickle.dumps(found)


FAULTS: list[tuple[dict[str, Any], type[InvalidArgumentError], str]] = [
    *(
        ({name: wrong}, InvalidFilterError, f"^{name} must be a list of (item|category) ids, got ")
        for name in NAMES
        for wrong in ("0", b"0", {"0": 1}, 5, 1.5, math.nan)
    ),
    (
        {"allow": [5]},
        InvalidItemIdError,
        "^allow: item id at position 0 is 5, of type int; the ids of this catalog are",
    ),
    (
        {"exclude": ["0", None]},
        InvalidItemIdError,
        "^exclude: item id at position 1 is None; the ids of this catalog",
    ),
    ({"exclude": [math.nan]}, NaNItemIdError, "^exclude: item id at position 0 is NaN, a missing value"),
    (
        {"categories": ["hats"]},
        UnknownCategoryError,
        "^categories: there is no category 'hats' of type str; .*'2/0'$",
    ),
    (
        {"exclude_categories": [0]},
        UnknownCategoryError,
        "^exclude_categories: there is no category 0 of type int",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "message"), FAULTS)
def test_no_filter(
    arguments: dict[str, Any], error: type[InvalidArgumentError], message: str, catalogs: dict[str, Catalog]
) -> None:
    with pytest.raises(error, match=message) as caught:
        prepare(catalogs["strings"], **arguments)
    assert type(caught.value) is error


def test_ids_of_another_type(catalogs: dict[str, Catalog]) -> None:
    with pytest.raises(InvalidItemIdError, match=r"allow: item id at position 0 is '0', .*are integers"):
        prepare(catalogs["integers"], allow=["0"])
    with pytest.raises(
        UnknownCategoryError, match=r"no category '101' of type str; .* integers, such as 200"
    ):
        prepare(catalogs["integers"], categories=["101"])


def test_a_filter_of_another_catalog(catalogs: dict[str, Catalog]) -> None:
    with pytest.raises(InvalidFilterError, match="filter was made by another recommender: rows differ"):
        prepare(catalogs["strings"], prepare(catalogs["integers"]))


def test_seen_are_all_items_of_a_session_longer_than_the_model_reads(tmp_path: Path) -> None:
    shop = make_shop()
    recommender = Recommender.load(shop.write(tmp_path / "bundle"))
    session = shop.ids[: 2 * recommender.config["max_length"]]
    for mode in ("candidates", "exact"):
        result = recommender.recommend(session, len(shop.ids), mode=mode, exclude_seen=True)
        assert not set(session) & set(result.items)
        assert len(result) == len(shop.ids) - len(session)
