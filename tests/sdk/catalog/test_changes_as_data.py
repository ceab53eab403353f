"""Catalog changes as data: to JSON and back, what is refused, and which of them are made at once."""

from __future__ import annotations

import json
import math
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiersrec_sdk import Item
from hiersrec_sdk.bundle.strict_json import parse_json
from hiersrec_sdk.catalog.changes import KINDS, LONGEST, Change, together
from hiersrec_sdk.errors import CatalogChangeError, InvalidArgumentError, InvalidItemIdError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
IDS = st.integers(-(2**63), 2**63 - 1) | TEXT
CATEGORIES = st.none() | IDS | st.lists(IDS, max_size=3)
NUMBERS = st.dictionaries(TEXT, st.none() | st.floats(allow_infinity=False), max_size=3)
VECTORS = st.none() | st.lists(st.integers(0, 2**32 - 1), max_size=9).map(
    lambda bits: np.array(bits, dtype="<u4").view("<f4")
)
BIASES = st.floats(-(2.0**49), 2.0**49, width=32)
ITEMS: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    id=IDS,
    category=CATEGORIES,
    text=st.none() | TEXT,
    title=st.none() | TEXT,
    numbers=NUMBERS,
    vector=VECTORS,
    metadata_vector=VECTORS,
)
CHANGES = st.one_of(
    st.builds(lambda item: {"upsert": item}, ITEMS),
    st.builds(lambda own: {"remove": own}, IDS),
    st.builds(lambda own, to: {"move": {"id": own, "category": to}}, IDS, CATEGORIES.filter(bool)),
    st.builds(lambda own, value: {"set_bias": {"id": own, "value": value}}, IDS, BIASES),
)


def bits(vector: Any) -> bytes | None:
    return None if vector is None else np.asarray(vector, dtype="<f4").tobytes()


def said(change: Change) -> tuple[Any, ...]:
    """All that a change says; NaN and None say the same of a number."""
    item = change.item
    parts: tuple[Any, ...] = ()
    if item is not None:
        numbers = {
            column: None if value is None or math.isnan(value) else struct.pack("d", value)
            for column, value in item.numbers.items()
        }
        parts = (item.category, item.text, item.title, numbers, bits(item.vector), bits(item.metadata_vector))
    return change.kind, type(change.id), change.id, struct.pack("d", change.bias), change.number, parts


@given(CHANGES, st.integers(0, 9))
def test_json_and_back(given_change: dict[str, Any], number: int) -> None:
    change = Change.of(given_change, number)
    content = change.to_json()
    assert b"\n" not in content
    assert parse_json(content).keys() == given_change.keys()
    assert said(Change.from_json(content, number)) == said(change)
    assert Change.from_json(content).to_json() == content


@given(CHANGES)
def test_lists_of_numbers_and_text_say_the_same(given_change: dict[str, Any]) -> None:
    """What a person writes into a change file."""
    change = Change.of(given_change)
    plain = json.loads(change.to_json())
    item = plain.get("upsert", {})
    for name in ("vector", "metadata_vector"):
        if name in item:
            vector = getattr(change.item, name)
            if not np.isfinite(vector).all():
                return
            item[name] = vector.tolist()
    assert said(Change.from_json(json.dumps(plain).encode())) == said(change)


def test_an_item_object_is_as_good_as_a_mapping() -> None:
    item = Item("a", ["x", "y"], "words", {"price": 3}, title="A", vector=[0.5])
    assert said(Change.from_json(Change.of({"upsert": item}).to_json())) == said(Change.of({"upsert": item}))


@pytest.mark.parametrize(
    ("given_change", "message"),
    [
        (5, "must be an object with one key of upsert, remove, move, set_bias, got 5"),
        ({}, "one key of"),
        ({"delete": "a"}, "one key of"),
        ({"remove": "a", "move": "b"}, "one key of"),
        ({5: "a"}, "one key of"),
        ({"remove": None}, "None must be an int64 or UTF-8 text"),
        ({"remove": ["a"]}, "must be an int64 or UTF-8 text"),
        ({"remove": True}, "must be an int64 or UTF-8 text"),
        ({"remove": 2**63}, "must be an int64 or UTF-8 text"),
        ({"remove": "\ud800"}, "must be an int64 or UTF-8 text"),
        ({"set_bias": {"id": "a"}}, "must have the keys id and value"),
        ({"set_bias": {"id": "a", "value": 1, "more": 2}}, "must have the keys id and value"),
        ({"set_bias": "a"}, "must have the keys id and value"),
        ({"set_bias": {"id": "a", "value": math.nan}}, "values must be finite"),
        ({"set_bias": {"id": "a", "value": 1e16}}, "values must be finite"),
        ({"set_bias": {"id": "a", "value": "1"}}, "values must be a list of numbers"),
        ({"set_bias": {"id": "a", "value": [1, 2]}}, "got 2"),
        ({"set_bias": {"id": 1.5, "value": 1}}, "must be an int64 or UTF-8 text"),
        ({"move": {"id": "a"}}, "must have the keys id and category"),
        ({"move": {"id": "a", "category": None}}, "no category was given"),
        ({"move": {"id": "a", "category": 1.5}}, "category must be"),
        ({"upsert": "a"}, "must be an Item or a mapping"),
        ({"upsert": {}}, "without an id"),
        ({"upsert": {"id": "a", "colour": 1}}, "no field 'colour'"),
        ({"upsert": {"id": "a", "vector": "abc"}}, "must be a list of numbers"),
        ({"upsert": {"id": "a", "vector": {"float32": "abc"}}}, "vector must be .*base64 of float32"),
        ({"upsert": {"id": "a", "vector": {"float32": "AAA="}}}, "vector must be .*base64 of float32"),
        ({"upsert": {"id": "a", "vector": {"float32": 5}}}, "vector must be .*base64 of float32"),
        ({"upsert": {"id": "a", "vector": {"float32": "é"}}}, "vector must be .*base64 of float32"),
        ({"upsert": {"id": "a", "vector": {"float64": ""}}}, "vector must be .*must have the keys float32"),
        ({"upsert": {"id": "a", "metadata_vector": {}}}, "metadata_vector must be"),
    ],
)
def test_what_is_no_change(given_change: Any, message: str) -> None:
    with pytest.raises((CatalogChangeError, InvalidItemIdError), match=message) as raised:
        Change.of(given_change)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b'{"remove":"a"', "is not JSON"),
        (b'{"remove":"a","remove":"b"}', "'remove' stands twice"),
        (b'{"set_bias":{"id":"a","value":NaN}}', "NaN is no number"),
        (b"[" * 1000, "nested"),
        (b'{"remove":"%b"}' % (b"x" * LONGEST), "longer than 1,048,576 bytes"),
        (b'["remove"]', "must be an object with one key"),
    ],
)
def test_json_that_is_no_change(content: bytes, message: str) -> None:
    with pytest.raises(CatalogChangeError, match=message):
        Change.from_json(content)


@pytest.mark.parametrize(
    ("given_change", "message"),
    [
        ({"remove": "x" * LONGEST}, "the change has 1,048,589 bytes, more than 1,048,576"),
        ({"upsert": {"id": "a", "category": "\ud800"}}, "must be UTF-8 text"),
        ({"move": {"id": "a", "category": ["b", "\ud800"]}}, "must be UTF-8 text"),
        ({"upsert": {"id": "a", "numbers": {"\ud800": 1}}}, "must be UTF-8 text"),
        ({"upsert": {"id": "a", "category": 2**64}}, "category must be of int64 or text"),
        ({"move": {"id": 5, "category": [1, -(2**70)]}}, "category must be of int64 or text"),
    ],
)
def test_what_no_feed_can_hold(given_change: Any, message: str) -> None:
    change = Change.of(given_change)
    with pytest.raises(CatalogChangeError, match=message):
        change.to_json()


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 4)), max_size=30), st.integers(1, 5))
def test_together_keeps_the_order(pairs: list[tuple[str, int]], most: int) -> None:
    changes = [Change(kind, own, number=number) for number, (kind, own) in enumerate(pairs)]
    groups = list(together(iter(changes), most))
    assert [change for group in groups for change in group] == changes
    for group in groups:
        assert 1 <= len(group) <= most
        assert len({change.id for change in group}) == len(group)
    for one, next_one in pairwise(groups):  # nothing is apart without need
        assert len(one) == most or next_one[0].id in {each.id for each in one}


def test_together_gives_what_comes_before_an_error() -> None:
    def changes() -> Any:
        yield Change("remove", 1)
        yield Change("remove", 2)
        raise CatalogChangeError("line 3")

    found = []
    with pytest.raises(InvalidArgumentError, match="line 3"):
        for group in together(changes(), 9):
            found.append([change.id for change in group])
    assert found == [[1, 2]]
