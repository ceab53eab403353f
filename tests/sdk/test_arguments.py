"""Every argument of every public callable, and odd values for it: an answer, or an error of the SDK, and nothing else.

An answer must be the one to the plain value that the odd one means.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections import UserList, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_sdk import Item, Recommender, Result, errors
from hiersrec_sdk.ranking import get_backend
from hiersrec_sdk.shown import shown
from tests.sdk.bundles import Shop, make_shop
from tests.sdk.odd_values import NO, Odd, TheirsError, odd_values

ODD = odd_values()
Call = Callable[[Any], Any]


@dataclass(frozen=True)
class Shops:
    """Two recommenders: of string ids, and of integer ones."""

    strings: tuple[Shop, Recommender]
    integers: tuple[Shop, Recommender]
    path: Path


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shops]:
    folder = tmp_path_factory.mktemp("shops")
    (folder / "here").mkdir()
    before = Path.cwd()
    os.chdir(folder / "here")  # strings are paths to save to
    made = {name: make_shop(name, covisitation=True) for name in ("string", "int64")}
    loaded = {name: (shop, Recommender.load(shop.write(folder / name))) for name, shop in made.items()}
    yield Shops(loaded["string"], loaded["int64"], folder / "string")
    os.chdir(before)


def hits(result: Result) -> Any:
    return result.items, result.scores.tolist(), result.mode, result.unknown_ids


def calls(shops: Shops, name: str) -> dict[str, Call]:
    """For each argument of each public callable, a call with that argument."""
    shop, recommender = shops.strings if name == "string" else shops.integers
    catalog, ids, path = recommender.catalog, shop.ids, str(shops.path)
    category = shop.category_ids[0][0]
    row = len(ids)  # of an item that is changed again and again

    def recommend(argument: str) -> Call:
        return lambda value: hits(recommender.recommend(ids[5:8], **{"k": 4, argument: value}))

    def many(argument: str) -> Call:
        return lambda value: [
            hits(each)
            for each in recommender.recommend_many([ids[5:8], ids[:1]], **{"k": 4, argument: value})
        ]

    def load(argument: str) -> Call:
        return lambda value: Recommender.load(path, **{argument: value}).backend

    def pretrained(argument: str) -> Call:
        given: dict[str, Any] = {"repo": "shop/none", "local_files_only": True, "cache_dir": "cache"}
        return lambda value: Recommender.from_pretrained(**given | {argument: value})

    def prepared(argument: str) -> Call:
        def call(value: Any) -> Any:
            chosen = recommender.filter(**{argument: value})
            return chosen.items, chosen.eligible.tolist()

        return call

    def upserted(argument: str) -> Call:
        def call(value: Any) -> Any:
            given = {"id": ids[0], "vector": [1.0] * 6} | {argument: value}
            catalog.upsert([Item(**given)])
            return state(argument, given["id"])

        return call

    def state(argument: str, item_id: Any) -> Any:
        at = int(catalog.rows([item_id])[0])
        if argument == "category":
            return [catalog.categories_of(np.array([at]), level).tolist() for level in (0, -1)]
        return (
            catalog.title(at),
            catalog.vectors(np.array([at])).tolist(),
            catalog.biases(np.array([at])).tolist(),
        )

    def biased(items: Any, values: Any) -> Any:
        catalog.set_bias(items, values)
        return catalog.biases(catalog.rows(ids)).tolist()

    def moved(item: Any, to: Any) -> Any:
        catalog.move(item, to)
        return catalog.categories_of(catalog.rows([ids[1]]), 0).tolist()

    def removed(items: Any) -> Any:
        catalog.upsert([{"id": each, "vector": [1.0] * 6} for each in ids[:3]])
        catalog.remove(items)
        return catalog.rows(ids[:3]).tolist() == [-1] * 3

    options = [
        each
        for each in inspect.signature(Recommender.recommend).parameters
        if each not in ("self", "session")
    ]
    session = recommender.session
    return {
        "recommend session": lambda value: hits(recommender.recommend(value, 4)),
        **{f"recommend {argument}": recommend(argument) for argument in options},
        "recommend_many sessions": lambda value: [
            hits(each) for each in recommender.recommend_many(value, 4)
        ],
        "recommend_many one session": lambda value: [
            hits(each) for each in recommender.recommend_many([ids[:2], value], 4)
        ],
        **{f"recommend_many {argument}": many(argument) for argument in (*options, "batch_size")},
        "recommend_many output": lambda value: type(recommender.recommend_many([], 4, output=value)).__name__,
        **{
            f"filter {argument}": prepared(argument)
            for argument in inspect.signature(Recommender.filter).parameters
            if argument != "self"
        },
        "session items": lambda value: session(value).items,
        "session.add item": lambda value: session().add(value).items,
        "session.recommend k": lambda value: hits(session(ids[:2]).recommend(value)),
        "session.recommend allow": lambda value: hits(session(ids[:2]).recommend(3, allow=value)),
        "explain session": lambda value: recommender.explain(value, ids[3]).score,
        "explain item": lambda value: recommender.explain(ids[:2], value).score,
        "explain on_unknown": lambda value: recommender.explain(ids[:2], ids[3], on_unknown=value).score,
        "categories session": lambda value: recommender.categories(value),
        "categories k": lambda value: recommender.categories(ids[:2], value),
        "categories level": lambda value: recommender.categories(ids[:2], level=value),
        "categories on_unknown": lambda value: recommender.categories(ids[:2], on_unknown=value),
        "similar_items item": lambda value: recommender.similar_items(value, 3),
        "similar_items k": lambda value: recommender.similar_items(ids[3], value),
        "similar_items filter": lambda value: recommender.similar_items(ids[3], 3, filter=value),
        "trace session": lambda value: recommender.trace(value, 3).best.tolist(),
        "trace k": lambda value: recommender.trace(ids[:2], value).best.tolist(),
        "load path": lambda value: Recommender.load(value).backend,
        **{f"load {argument}": load(argument) for argument in ("providers", "backend", "threads", "verify")},
        **{
            f"from_pretrained {argument}": pretrained(argument)
            for argument in inspect.signature(Recommender.from_pretrained).parameters
        },
        "save path": lambda value: recommender.save(value),
        "get_backend name": lambda value: get_backend(value).name,
        "upsert items": lambda value: catalog.upsert(value),
        "upsert an item": lambda value: catalog.upsert([value]),
        **{f"Item {argument}": upserted(argument) for argument in inspect.signature(Item).parameters},
        "Item numbers of a column": lambda value: upserted("numbers")({"price": value}),
        "move item": lambda value: moved(value, category),
        "move category": lambda value: moved(ids[1], value),
        "remove ids": removed,
        "set_bias ids": lambda value: biased(value, 1.0),
        "set_bias values": lambda value: biased([ids[3]], value),
        "set_bias values of six": lambda value: biased(ids[10:16], value),
        "filter.allows rows": lambda value: recommender.filter(exclude=ids[::2]).allows(value).tolist(),
        "catalog.rows ids": lambda value: catalog.rows(value).tolist(),
        "catalog.ids rows": lambda value: list(catalog.ids(value)),
        "catalog.title row": lambda value: catalog.title(value),
        "catalog.category level": lambda value: catalog.category(value, 0),
        "catalog.category index": lambda value: catalog.category(2, value),
        "catalog.find_category name": lambda value: catalog.find_category(value),
        "catalog.category_label path": lambda value: catalog.category_label(value),
        "catalog.categories_of rows": lambda value: catalog.categories_of(value).tolist(),
        "catalog.categories_of level": lambda value: catalog.categories_of(
            np.array([row - 1]), value
        ).tolist(),
        "catalog.vectors rows": lambda value: catalog.vectors(value).tolist(),
        "catalog.biases rows": lambda value: catalog.biases(value).tolist(),
        "catalog.clicks_of rows": lambda value: catalog.clicks_of(value).tolist(),
    }


OURS = errors.HierSRecError


def fault(call: Call, odd: Odd) -> str | None:
    """What is wrong with the outcome of a call, or None."""
    try:
        found = call(odd.make())
    except OURS as error:
        if type(error) is errors.BundleCorruptError and not isinstance(
            odd.plain, str | bytes | bytearray | memoryview
        ):
            return f"{type(error).__name__}: {error}"
        return None if len(str(error)) < 1_500 else f"a message of {len(str(error))} characters"
    except TheirsError:
        return None
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if odd.plain is NO:
        return f"accepted: {shown(found)}"
    try:
        wanted = call(odd.plain)
    except TheirsError:
        return None
    except Exception as error:
        return f"accepted, but not its plain value: {type(error).__name__}: {str(error)[:100]}"
    # by their repr, as NaN does not equal itself; but Python refuses that of large integers
    same = found == wanted or repr(found) == repr(wanted)
    return None if same else f"{shown(found)}, but of its plain value {shown(wanted)}"


@pytest.mark.parametrize("name", ["string", "int64"])
@pytest.mark.slow
def test_every_argument(name: str, shops: Shops) -> None:
    faults = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for argument, call in calls(shops, name).items():
            for odd in ODD:
                if argument == "Item numbers" and isinstance(odd.make(), Mapping):
                    continue
                found = fault(call, odd)
                if found is not None:
                    faults.append(f"{argument}, {odd.name}: {found}")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)


def test_an_index_of_a_result(shops: Shops) -> None:
    """It is that of a tuple, whatever is given."""
    result = shops.strings[1].recommend(shops.strings[0].ids[5:8], 4)
    hits = tuple(result)
    for odd in ODD:
        found, wanted = (_at(sequence, odd.make()) for sequence in (result, hits))
        assert found == wanted, odd.name


def _at(sequence: Any, index: Any) -> Any:
    try:
        return sequence[index]
    except Exception as error:
        return type(error)


def _objects(values: list[Any]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "deque": deque,
    "UserList": UserList,
    "iterator": iter,
    "generator": lambda values: (value for value in values),
    "array of objects": _objects,
    "pandas": lambda values: pd.Series(values, dtype=object),
}
COLUMNS: dict[str, Callable[[list[Any]], Any]] = {
    "array": np.array,
    "strided": lambda values: np.repeat(np.array(values), 2)[::2],
    "pandas": pd.Series,
    "index": pd.Index,
    "Polars": pl.Series,
    "Arrow": pa.array,
    "Arrow, in chunks": lambda values: pa.chunked_array([values[:1], values[1:]]),
    **CONTAINERS,
}


@given(data=st.data(), name=st.sampled_from(["string", "int64"]))
def test_a_list_of_ids_is_the_same_in_every_form(data: st.DataObject, name: str, shops: Shops) -> None:
    shop, _ = shops.strings if name == "string" else shops.integers
    known = st.sampled_from(shop.ids)
    # an array of NumPy loses "\0" at the end of a text
    one_kind = (
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=3)
        if name == "string"
        else st.integers(-(2**63), 2**63 - 1)
    )
    any_kind = st.one_of(
        known,
        st.text(max_size=2),
        st.integers(),
        st.floats(),
        st.none(),
        st.booleans(),
        st.binary(max_size=2),
    )
    mixed = data.draw(st.booleans())
    ids = data.draw(st.lists(any_kind if mixed else known | one_kind, min_size=0 if mixed else 1, max_size=6))
    made = data.draw(st.sampled_from([*(CONTAINERS if mixed else COLUMNS).values()]))
    for argument, call in calls(shops, name).items():
        if argument.split()[-1] in ("session", "allow", "exclude") and not argument.startswith(
            "recommend_many"
        ):
            assert outcome(call, made(ids)) == outcome(call, ids), argument
    many = calls(shops, name)["recommend_many one session"]
    assert outcome(many, made(ids)) == outcome(many, ids)


def outcome(call: Call, value: Any) -> Any:
    """The answer, or the class of the error."""
    try:
        return call(value)
    except OURS as error:
        return type(error)
