"""catalog.safetensors: every wrong table is refused, by name and cause."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.bundle.write import write_bundle
from hiersrec_sdk.catalog.ids import id_tables, item_id_tables
from hiersrec_sdk.errors import BundleCorruptError, BundleError
from tests.sdk.bundles import ITEMS, SIZES, Shop, forge, make_shop

Tables = dict[str, NDArray[Any]]


def drop(name: str) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        del tables[name]

    return change


def put(name: str, at: Any, value: Any) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[name] = tables[name].copy()
        tables[name][at] = value

    return change


def replace(name: str, new: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Tables], None]:
    def change(tables: Tables) -> None:
        tables[name] = new(tables[name])

    return change


TABLE_FAULTS: list[tuple[Callable[[Tables], None], str]] = [
    *(
        (drop(name), f"table '{name}' is missing")
        for name in (
            "item_vectors",
            "clicks",
            "item_ids.order",
            "item_ids.hashes",
            "item_ids.bytes",
            "item_ids.offsets",
            "category_ranges.0",
            "category_parents.1",
            "category_ids.2.bytes",
            "titles.bytes",
            "extra_rows",
        )
    ),
    (
        replace("item_vectors", lambda table: table.astype(np.float64)),
        r"'item_vectors' must be float32 \[60, 6\], got float64 \[60, 6\]",
    ),
    (
        replace("item_vectors", lambda table: table[:, :5]),
        r"'item_vectors' must be float32 \[60, 6\], got float32 \[60, 5\]",
    ),
    (
        replace("item_bias", lambda table: table[:-1]),
        r"'item_bias' must be float32 \[60\], got float32 \[59\]",
    ),
    (
        replace("item_bias", lambda table: table[:, None]),
        r"'item_bias' must be float32 \[60\], got float32 \[60, 1\]",
    ),
    (
        replace("clicks", lambda table: table.astype(np.int32)),
        r"'clicks' must be int64 \[60\], got int32 \[60\]",
    ),
    (put("item_vectors", (7, 2), np.nan), "'item_vectors' has values that are NaN, infinite or above"),
    (put("item_bias", 59, -np.inf), "'item_bias' has values that are NaN, infinite or above"),
    (put("item_vectors", (7, 2), 3e38), r"'item_vectors' has values that are NaN, infinite or above 1e\+15"),
    (put("clicks", 3, -1), r"'clicks' has values outside \[0, "),
    (put("clicks", 3, 1 << 62), r"'clicks' has values outside \[0, "),
    (put("item_ids.bytes", 4, 0xFF), "'item_ids.bytes' is not UTF-8"),
    (put("titles.bytes", 4, 0xC3), "'titles.bytes' is not UTF-8"),
    (put("category_ids.1.bytes", 4, 0x80), "'category_ids.1.bytes' is not UTF-8"),
    (put("item_ids.offsets", 1, 3), "'item_ids.offsets' cuts a character"),
    (replace("titles.offsets", lambda table: table[:-1]), r"'titles.offsets' must be int64 \[61\]"),
    (put("item_ids.hashes", 4, 0), "'item_ids.hashes' is not sorted"),
    (put("item_ids.hashes", 0, 0), "'item_ids.hashes' does not hold the hashes of the ids"),
    (put("item_ids.hashes", -1, 2**64 - 1), "'item_ids.hashes' does not hold the hashes of the ids"),
    (put("item_ids.order", 3, ITEMS), r"'item_ids.order' has values outside \[0, 60\)"),
    (put("item_ids.order", 3, -1), r"'item_ids.order' has values outside \[0, 60\)"),
    (replace("item_ids.order", lambda table: table * 0), "'item_ids.order' does not name every row once"),
    (replace("item_ids.hashes", lambda table: table[::-1]), "'item_ids.hashes' is not sorted"),
    (put("item_ids.offsets", 4, 10_000), "'item_ids.offsets' does not rise from 0"),
    (put("item_ids.offsets", 0, 1), "'item_ids.offsets' does not rise from 0"),
    (replace("item_ids.bytes", lambda table: table[1:]), r"'item_ids.bytes' must be uint8"),
    (put("category_ranges.2", (3, 0), 18), r"'category_ranges.2' does not split the rows \[0, 60\) in order"),
    (
        put("category_ranges.2", (-1, 1), 59),
        r"'category_ranges.2' does not split the rows \[0, 60\) in order",
    ),
    (put("category_ranges.0", (0, 1), -1), "'category_ranges.0' does not split"),
    (put("category_parents.0", 1, 0), "'category_parents.0' must be -1 throughout"),
    (put("category_parents.2", 1, SIZES[1]), r"'category_parents.2' has values outside \[0, 4\)"),
    (put("category_parents.2", 2, 3), "'category_ranges.2' leaves the ranges of its parents"),
    (put("category_ids.1.bytes", 2, ord("1")), "'category.ids.1' has an id twice below one parent"),
    (drop("extra_offsets"), "'extra_offsets' is missing"),
    (drop("titles.offsets"), "'titles.offsets' is missing"),
    (put("extra_rows", 0, ITEMS), r"'extra_rows' has values outside \[0, 60\)"),
    (put("extra_offsets", -1, 1), "'extra_offsets' does not rise from 0"),
]


@pytest.mark.parametrize(("change", "cause"), TABLE_FAULTS)
def test_a_wrong_table(change: Callable[[Tables], None], cause: str, shop: Shop, tmp_path: Path) -> None:
    tables = shop.tensors
    change(tables)
    forge(tmp_path / "forged", shop.config, tables, shop.files)
    with pytest.raises(
        BundleCorruptError, match=rf"catalog\.safetensors: table {cause.removeprefix('table ')}"
    ):
        open_bundle(tmp_path / "forged")
    with pytest.raises(BundleError, match=rf"written was not written: .*{cause}"):
        write_bundle(tmp_path / "written", shop.config, tables, shop.files)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["forged"]
    if (
        "is missing" in cause
        or "int" in cause
        or "float" in cause
        or "category_" in cause
        or "extra" in cause
    ):
        with pytest.raises(
            BundleCorruptError, match=cause
        ):  # what can be seen without reading all of a table
            open_bundle(tmp_path / "forged", verify=False)


CODE_FAULTS: list[tuple[Callable[[Tables], None], str]] = [
    *(
        (drop(f"codes.{name}"), f"'codes.{name}' is missing")
        for name in ("scales", "suffix_norms", "quantization_errors", "stage_ends", "max_norm")
    ),
    (replace("codes", lambda table: table[:-1]), r"'codes': codes is uint8 \[1535\], not uint8 \[1536\]"),
    (
        replace("codes", lambda table: table.view(np.int8)),
        r"'codes': codes is int8 \[1536\], not uint8 \[1536\]",
    ),
    (
        replace("codes", lambda table: table[:, None]),
        r"'codes': codes is uint8 \[1536, 1\], not uint8 \[1536\]",
    ),
    (
        replace("codes.scales", lambda table: table[:ITEMS]),
        r"'codes': scales is uint16 \[60\], not uint16 \[64\]",
    ),
    (
        replace("codes.scales", lambda table: table.astype(np.float32)),
        r"'codes': scales is float32 \[64\], not",
    ),
    (
        replace("codes.suffix_norms", lambda table: table[:1]),
        r"'codes': suffix_norms is uint16 \[1, 64\], not uint16 \[2, 64\]",
    ),
    (
        replace("codes.suffix_norms", lambda table: table.ravel()),
        r"'codes': suffix_norms is uint16 \[128\], not uint16 \[2, 64\]",
    ),
    (
        replace("codes.quantization_errors", lambda table: table[1:]),
        r"'codes': quantization_errors is float32 \[3\], not float32 \[4\]",
    ),
    (
        put("codes.quantization_errors", 0, np.nan),
        "'codes': quantization_errors or max_norm are negative or NaN",
    ),
    (
        put("codes.quantization_errors", 1, np.inf),
        "'codes': quantization_errors or max_norm are negative or NaN, or quantization_errors infinite",
    ),
    (put("codes.quantization_errors", 3, -1), "'codes': quantization_errors or max_norm are negative"),
    (put("codes.max_norm", 0, np.nan), "'codes': quantization_errors or max_norm are negative or NaN"),
    (
        replace("codes.max_norm", lambda table: table[0]),
        r"'codes': max_norm is float32 \[\], not float32 \[1\]",
    ),
    (
        put("codes.stage_ends", 0, 12),
        r"'codes': stage_ends are \[12, 16, 24\], not 1 to 4 rising multiples of 8",
    ),
    (put("codes.stage_ends", 0, 16), r"'codes': stage_ends are \[16, 16, 24\], not"),
    (put("codes.stage_ends", 0, -8), r"'codes': stage_ends are \[-8, 16, 24\], not"),
    (put("codes.stage_ends", 2, 32), r"'codes': stage_ends are \[8, 16, 32\], not"),
    (put("codes.stage_ends", 1, 2**62), r"'codes': stage_ends are \[8, 4611686018427387904, 24\], not"),
    (
        replace("codes.stage_ends", lambda table: table[2]),
        r"'codes': stage_ends is int64 \[\], not int64 \[1\]",
    ),
    (replace("codes.stage_ends", lambda table: table[:0]), "'codes': "),
    (
        replace("codes.stage_ends", lambda table: table.astype(np.int32)),
        r"'codes': stage_ends is int32 \[3\], not",
    ),
]


@pytest.mark.parametrize(("change", "cause"), CODE_FAULTS)
def test_wrong_codes(change: Callable[[Tables], None], cause: str, coded: Shop, tmp_path: Path) -> None:
    tables = coded.tensors
    change(tables)
    forge(tmp_path / "forged", coded.config, tables, coded.files)
    for verify in (True, False):
        with pytest.raises(BundleCorruptError, match=rf"catalog\.safetensors: table {cause}"):
            Recommender.load(tmp_path / "forged", verify=verify)
    with pytest.raises(BundleError, match=rf"written was not written: .*{cause}"):
        write_bundle(tmp_path / "written", coded.config, tables, coded.files)


@pytest.mark.parametrize(
    ("huge", "passes"),
    [
        ({}, True),
        ({"weight": 1e11}, True),
        ({"weight": 1e15, "hidden_weight": 1e15}, False),
        ({"weight": 1e12, "popularity": 1e15}, False),
    ],
)
def test_score_offsets_are_bounded(huge: dict[str, float], passes: bool, tmp_path: Path) -> None:
    """As a product of two finite numbers may not be."""
    found = make_shop("string", covisitation=True)
    tables = found.tensors
    for name in huge:
        tables[f"covisitation.{name}"] = tables[f"covisitation.{name}"].copy()
        tables[f"covisitation.{name}"].flat[0] = huge[name]
    forge(tmp_path / "forged", found.config, tables, found.files)
    if not passes:
        with pytest.raises(
            BundleCorruptError, match=r"'covisitation.weight' gives score offsets of up to \d"
        ):
            open_bundle(tmp_path / "forged")
        return
    result = Recommender.load(tmp_path / "forged").recommend(found.ids[:3], 60)
    assert len(result.items) == 60
    assert np.isfinite(result.scores).all()


def test_codes_of_another_table(coded: Shop, tmp_path: Path) -> None:
    other = make_shop("int64", times=2, dimension=20, stages=[8, 16])
    forge(tmp_path / "forged", coded.config, {**coded.tensors, "codes": other.tensors["codes"]}, coded.files)
    for verify in (True, False):
        with pytest.raises(
            BundleCorruptError, match=r"table 'codes': codes is uint8 \[3072\], not uint8 \[1536\]"
        ):
            Recommender.load(tmp_path / "forged", verify=verify)


def test_parents_that_do_not_rise(tmp_path: Path) -> None:
    """Between empty categories ranges say nothing of the order."""
    shop = make_shop("string")
    tables = shop.tensors
    empty = np.array([[0, 30], [30, 30], [30, 30], [30, 60]])
    for level, parents in ((1, [0, 1, 0, 1]), (1, [0, 0, 0, 0])):
        ranges = {0: np.array([[0, 30], [30, 60]]), 1: empty}
        if parents == [0, 0, 0, 0]:
            ranges[0] = np.array([[0, 60], [60, 60]])
        changed = {f"category_ranges.{at}": table for at, table in ranges.items()}
        changed[f"category_parents.{level}"] = np.array(parents, dtype=np.int32)
        path = tmp_path / str(parents)
        forge(path, shop.config, {**tables, **changed}, shop.files)
        for verify in (True, False):
            with pytest.raises(
                BundleCorruptError,
                match=r"table 'category_parents\.1' must rise from 0 and name every category",
            ):
                open_bundle(path, verify)


@pytest.mark.parametrize("full", [True, False])
def test_a_category_that_is_there_twice(full: bool, tmp_path: Path) -> None:
    """Below one parent; a shop may have the same id below several."""
    shop = make_shop(full=full, repeated=True)
    open_bundle(shop.write(tmp_path / "bundle"))
    ids = [list(level) for level in shop.category_ids]
    ids[2][3] = ids[2][2]  # children of one
    tables = {**shop.tensors, **id_tables("category_ids.2", ids[2])}
    forge(tmp_path / "forged", shop.config, tables, shop.files)
    for verify in (True, False):
        with pytest.raises(
            BundleCorruptError, match=r"table 'category_ids\.2' has an id twice below one parent"
        ):
            open_bundle(tmp_path / "forged", verify)


def test_an_id_that_is_there_twice(tmp_path: Path) -> None:
    shop = make_shop("string")
    ids = [*shop.ids[:-1], shop.ids[3]]
    tables = {**shop.tensors, **item_id_tables(ids)}
    forge(tmp_path / "forged", shop.config, tables, shop.files)
    with pytest.raises(BundleCorruptError, match="table 'item_ids' has an id twice"):
        open_bundle(tmp_path / "forged")


def test_codes_that_disagree_with_the_vectors(coded: Shop, tmp_path: Path) -> None:
    tables = coded.tensors
    tables["codes"] = tables["codes"].copy()
    tables["codes"][100:200] ^= 0x44
    forge(tmp_path / "forged", coded.config, tables, coded.files)
    with pytest.raises(BundleCorruptError, match=r"table 'codes': those of row \d+ do not bound its vector"):
        open_bundle(tmp_path / "forged")
    with pytest.raises(BundleError, match="do not bound its vector"):
        write_bundle(tmp_path / "written", coded.config, tables, coded.files)
    open_bundle(tmp_path / "forged", verify=False)


@pytest.mark.parametrize("row", [10**12, ITEMS, -1, -(2**63)])
def test_a_row_among_equal_hashes(row: int, tmp_path: Path) -> None:
    """What nobody has verified is checked where it is used, also behind the first of equal hashes."""
    shop = make_shop("string")
    tables = shop.tensors
    order, hashes = tables["item_ids.order"].copy(), tables["item_ids.hashes"].copy()
    hashes[:] = hashes[5]
    wanted = shop.ids[order[5]]
    order[1:] = row
    tables |= {"item_ids.order": order, "item_ids.hashes": hashes}
    forge(tmp_path / "forged", shop.config, tables, shop.files)
    recommender = Recommender.load(tmp_path / "forged", verify=False)
    with pytest.raises(BundleCorruptError, match=r"'item_ids\.order' names rows that do not exist"):
        recommender.recommend([wanted], 3)


@pytest.mark.parametrize("name", ["item_ids", "titles"])
def test_a_string_that_is_not_utf8(name: str, tmp_path: Path) -> None:
    shop = make_shop("string")
    table = np.full_like(shop.tensors[f"{name}.bytes"], 0xFF)
    forge(tmp_path / "forged", shop.config, {**shop.tensors, f"{name}.bytes": table}, shop.files)
    recommender = Recommender.load(tmp_path / "forged", verify=False)
    with pytest.raises(BundleCorruptError, match=rf"table '{name}' has a string that is not UTF-8"):
        [hit.title for hit in recommender.recommend([], 9)]


@pytest.mark.parametrize("id_type", ["int64", "string"])
@pytest.mark.parametrize("row", [10**12, ITEMS, -1, -(10**12)])
def test_without_verification_a_wrong_row_is_no_crash(id_type: str, row: int, tmp_path: Path) -> None:
    shop = make_shop(id_type)
    tables = {**shop.tensors, "item_ids.order": np.full(ITEMS, row)}
    forge(tmp_path / "forged", shop.config, tables, shop.files)
    with pytest.raises(BundleCorruptError, match=r"'item_ids\.order' has values outside"):
        open_bundle(tmp_path / "forged")
    recommender = Recommender.load(tmp_path / "forged", verify=False)
    with suppress(BundleCorruptError):
        assert len(recommender.recommend(shop.ids[:2], 5)) == 5


def test_integer_ids_have_to_be_sorted_by_their_order(tmp_path: Path) -> None:
    shop = make_shop("int64")
    for name, table in (
        ("item_ids.order", np.arange(ITEMS)),
        ("item_ids", np.where(np.arange(ITEMS) == 1, shop.ids[0], shop.ids)),
    ):
        forge(tmp_path / name, shop.config, {**shop.tensors, name: table}, shop.files)
        with pytest.raises(BundleCorruptError, match="does not sort the ids, or an id occurs twice"):
            open_bundle(tmp_path / name)
