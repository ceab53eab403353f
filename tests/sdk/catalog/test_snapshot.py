"""The catalog: ids to rows and back, and the category tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hiersrec_sdk.catalog.ids
from hiersrec_sdk.bundle.folder import Bundle, open_bundle
from hiersrec_sdk.catalog.ids import item_id_tables
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import Category
from hiersrec_sdk.errors import InvalidItemIdError, NaNItemIdError
from tests.sdk.bundles import EXTRA, ITEMS, PARENTS, SIZES, Shop, category_ranges, make_shop


@pytest.fixture(scope="module", params=["int64", "string"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return make_shop(request.param)


@pytest.fixture(scope="module")
def catalog(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return Catalog.of(open_bundle(shop.write(tmp_path_factory.mktemp("catalog") / "bundle")))


def of_ids(ids: list[Any]) -> Catalog:
    """A catalog that knows nothing but its items' ids."""
    config: dict[str, Any] = {
        "levels": ["all"],
        "item_id_type": "string" if isinstance(ids[0], str) else "int64",
    }
    config["category_id_type"] = "int64"
    tables = {
        **item_id_tables(ids),
        "item_vectors": np.zeros((len(ids), 1), dtype=np.float32),
        "clicks": np.zeros(len(ids), dtype=np.int64),
        "category_ranges.0": np.array([[0, len(ids)]]),
        "category_parents.0": np.array([-1], dtype=np.int32),
        "category_ids.0": np.array([1]),
    }
    return Catalog.of(Bundle(Path("nowhere"), config, tables))


def test_ids_both_ways(shop: Shop, catalog: Catalog) -> None:
    assert len(catalog) == ITEMS
    rows = catalog.rows(shop.ids)
    assert rows.dtype == np.int64
    assert rows.tolist() == list(range(ITEMS))
    assert catalog.ids(rows) == shop.ids
    assert {type(own) for own in catalog.ids(rows)} == {type(shop.ids[0])}
    assert catalog.rows([]).tolist() == []


@given(data=st.data())
def test_integer_ids_against_a_dict(data: st.DataObject) -> None:
    int64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5)
    ids = data.draw(st.lists(int64, min_size=1, unique=True))
    asked = data.draw(st.lists(int64 | st.sampled_from(ids) | st.integers()))
    row_of = {own: row for row, own in enumerate(ids)}
    assert of_ids(ids).rows(asked).tolist() == [row_of.get(own, -1) for own in asked]


@given(data=st.data())
def test_string_ids_against_a_dict(data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.text(max_size=4), min_size=1, unique=True))
    anything = st.text(st.characters(codec=None), max_size=4)  # lone surrogates too
    asked = data.draw(st.lists(anything | st.sampled_from(ids)))
    row_of = {own: row for row, own in enumerate(ids)}
    assert of_ids(ids).rows(asked).tolist() == [row_of.get(own, -1) for own in asked]


@given(ids=st.lists(st.text(max_size=4), min_size=1, unique=True), asked=st.lists(st.text(max_size=4)))
def test_string_ids_whose_hashes_clash(ids: list[str], asked: list[str]) -> None:
    row_of = {own: row for row, own in enumerate(ids)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hiersrec_sdk.catalog.ids, "hash_of", lambda text: len(text) % 2)
        patch.setattr(
            hiersrec_sdk.catalog.ids, "hashes_of", lambda _, offsets: (np.diff(offsets) % 2).astype(np.uint64)
        )
        catalog = of_ids(ids)
        assert catalog.rows(ids).tolist() == list(range(len(ids)))
        assert catalog.rows(asked).tolist() == [row_of.get(own, -1) for own in asked]


def test_the_hash_is_that_of_the_format() -> None:
    # 64 bits of BLAKE2b, little-endian: `b2sum --length 64` prints the same bytes.
    assert item_id_tables(["shoe-17"])["item_ids.hashes"].astype("<u8").tobytes().hex() == "b8b9eebb64e7d3d2"


@pytest.mark.parametrize(
    "ids",
    [
        [7, 5, 9],
        (7, 5, 9),
        np.array([7, 5, 9]),
        np.array([7, 5, 9], dtype=np.int16),
        np.array([7, 5, 9], dtype=np.uint64),
        np.array([7, 5, 9], dtype=object),
        np.array([0, 7, 0, 5, 0, 9])[1::2],
        [np.int32(7), 5, np.uint8(9)],
    ],
)
def test_kinds_of_integers(ids: Any) -> None:
    assert of_ids([5, 6, 7]).rows(ids).tolist() == [2, 0, -1]


@pytest.mark.parametrize("ids", [["b", "é"], ("b", "é"), np.array(["b", "é"]), [np.str_("b"), "é"]])
def test_kinds_of_strings(ids: Any) -> None:
    assert of_ids(["é", "a", "b"]).rows(ids).tolist() == [2, 0]


@pytest.mark.parametrize(
    "own",
    [2**63, -(2**63) - 1, 10**30, np.uint64(2**64 - 1)],
)
def test_integers_beyond_int64_are_unknown(own: Any) -> None:
    assert of_ids([0, 2**63 - 1, -(2**63)]).rows([own, 2**63 - 1, -(2**63), 0]).tolist() == [-1, 1, 2, 0]


def test_an_array_of_integers_beyond_int64() -> None:
    assert of_ids([0, 1]).rows(np.array([2**64 - 1, 1], dtype=np.uint64)).tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("value", "given"),
    [
        ("7", "'7', of type str"),
        (b"7", "b'7', of type bytes"),
        (7.0, "7.0, of type float"),
        (np.float32(7), r"np.float32\(7.0\), of type float32"),
        (True, "True, of type bool"),
        (np.True_, r"np.True_, of type bool"),
        (None, "None"),
        ([7], r"\[7\], of type list"),
        (np.timedelta64(7, "s"), r"np\.timedelta64.*, of type timedelta64"),
    ],
)
def test_no_integer(value: Any, given: str) -> None:
    with pytest.raises(InvalidItemIdError, match=rf"position 1 is {given}.*; .* are integers \(int64\)"):
        of_ids([7]).rows([7, value])


@pytest.mark.parametrize(
    "ids", [np.array([7.0]), np.array([True]), np.array(["7"]), np.array([None]), np.array([7], "m8[s]")]
)
def test_an_array_of_no_integers(ids: Any) -> None:
    with pytest.raises(InvalidItemIdError, match="position 0"):
        of_ids([7]).rows(ids)


@pytest.mark.parametrize("value", [7, np.int64(7), b"a", None, 7.5, ["a"]])
def test_no_string(value: Any) -> None:
    with pytest.raises(InvalidItemIdError, match=r"position 1 is .*; the ids of this catalog are strings"):
        of_ids(["a"]).rows(["a", value])


@pytest.mark.parametrize("ids", [[float("nan")], [np.float32("nan")], np.array([np.nan])])
@pytest.mark.parametrize("own", [7, "a"])
def test_nan(own: Any, ids: Any) -> None:
    with pytest.raises(NaNItemIdError, match="position 0 is NaN, a missing value"):
        of_ids([own]).rows(ids)


def test_tables(shop: Shop, catalog: Catalog) -> None:
    assert np.array_equal(catalog.base.table.vectors, shop.vectors)
    assert catalog.base.tables.item_bias is not None
    assert [ranges.tolist() for ranges in catalog.tree.ranges] == [
        [list(span) for span in level] for level in category_ranges()
    ]


def test_what_a_bundle_may_lack(tmp_path: Path) -> None:
    shop = make_shop(full=False)
    catalog = Catalog.of(open_bundle(shop.write(tmp_path / "bundle")))
    assert catalog.base.tables.item_bias is None
    assert catalog.title(1) is None
    assert catalog.base.tables.extra_of(np.arange(SIZES[-1])).tolist() == []
    assert catalog.category(0, 1).id == 1  # ids of categories may be integers


def test_titles(shop: Shop, catalog: Catalog) -> None:
    assert [catalog.title(row) for row in range(4)] == [None, "Item 1", "Item 2", None]


def test_categories(shop: Shop, catalog: Catalog) -> None:
    assert catalog.category(2, 4) == Category("2/4", ("0/0", "1/1", "2/4"), 2, 4, 1, 18, 25)
    assert catalog.category(-1, -1) == Category("2/8", ("0/1", "1/3", "2/8"), 2, 8, 3, 58, 60)
    assert catalog.category(0, 1) == Category("0/1", ("0/1",), 0, 1, -1, 25, 60)
    for level, index in ((3, 0), (-4, 0), (2, 9), (0, 2)):
        with pytest.raises(IndexError):
            catalog.category(level, index)


def test_categories_of_rows(catalog: Catalog) -> None:
    rows = np.arange(ITEMS)
    for level, ranges in enumerate(category_ranges()):
        want = [index for index, (start, stop) in enumerate(ranges) for _ in range(start, stop)]
        assert catalog.categories_of(rows, level).tolist() == want
        if level:
            parents = np.array(PARENTS[level])[want]
            assert catalog.categories_of(rows, level - 1).tolist() == parents.tolist()


@given(leaves=st.lists(st.integers(0, SIZES[-1] - 1), unique=True))
def test_extra_rows(catalog: Catalog, leaves: list[int]) -> None:
    found = catalog.base.tables.extra_of(np.array(leaves, dtype=np.int64)).tolist()
    assert found == [row for leaf in leaves for row in EXTRA.get(leaf, [])]


def test_popular(shop: Shop, catalog: Catalog) -> None:
    want = sorted(range(ITEMS), key=lambda row: (-shop.clicks[row], row))
    assert catalog.most_clicked(ITEMS).tolist() == want
