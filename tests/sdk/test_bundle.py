"""Bundles on disk: what is written is read; what is damaged, foreign or half-written is refused, by name and cause."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import hiersrec_sdk.bundle.folder
from hiersrec_sdk import Recommender, __version__
from hiersrec_sdk.bundle.folder import open_bundle, write_bundle
from hiersrec_sdk.bundle.tables import sync, write_tables
from hiersrec_sdk.errors import (
    BundleCorruptError,
    BundleError,
    BundleMissingError,
    BundleVersionError,
    InvalidOptionError,
)
from tests.sdk.bundles import ITEMS, SIZES, Shop, forge, make_shop, write_config

FILES = ["README.md", "catalog.safetensors", "config.json", "model.onnx"]
Tables = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop("string")


@pytest.fixture(scope="module")
def sound(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle, to copy from."""
    return shop.write(tmp_path_factory.mktemp("sound") / "bundle")


@pytest.fixture
def bundle(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "bundle"))


def test_round_trip(shop: Shop, bundle: Path) -> None:
    found = open_bundle(bundle)
    assert found.path == bundle
    assert found.config.items() >= shop.config.items()
    assert found.config["created_by"] == f"hiersrec-sdk {__version__}"
    assert sorted(found.config["files"]) == sorted(set(FILES) - {"config.json"})
    assert found.tables.keys() == shop.tensors.keys()
    assert all(np.array_equal(found.tables[name], table) for name, table in shop.tensors.items())
    assert (bundle / "model.onnx").read_bytes() == shop.files["model.onnx"]
    assert sorted(file.name for file in bundle.parent.iterdir()) == ["bundle"]
    assert sorted(file.name for file in bundle.iterdir()) == FILES


def test_the_checksums_are_what_the_format_says(shop: Shop, bundle: Path, tmp_path: Path) -> None:
    # `forge` computes them on its own.
    forged = forge(tmp_path / "forged", shop.config, shop.tensors, shop.files)
    assert open_bundle(forged).config["files"] == open_bundle(bundle).config["files"]


def test_a_path_with_parents_that_are_missing(shop: Shop, tmp_path: Path) -> None:
    assert open_bundle(shop.write(tmp_path / "a" / "b" / "bundle"))


@pytest.mark.parametrize("kind", ["bundle", "file", "empty folder", "dangling link"])
def test_refuses_to_overwrite(kind: str, shop: Shop, bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "other"
    if kind == "bundle":
        path = bundle
    elif kind == "file":
        path.write_text("mine")
    elif kind == "empty folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=f"{path.name} exists already"):
        shop.write(path)
    assert sorted(tmp_path.rglob("*")) == before
    open_bundle(bundle)


def nothing_there(path: Path) -> None:
    pass


def empty_folder(path: Path) -> None:
    path.mkdir()


def a_file(path: Path) -> None:
    path.write_text("{}")


def another_folder(path: Path) -> None:
    path.mkdir()
    (path / "model.onnx").write_bytes(b"x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (nothing_there, r"x is no bundle: there is no such folder"),
        (a_file, r"x is a file, not a folder: a bundle is the folder that holds config\.json"),
        (empty_folder, r"config\.json is missing: .*x is no bundle"),
        (another_folder, r"config\.json is missing: .*x is no bundle"),
    ],
)
def test_no_bundle(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "x")
    with pytest.raises(BundleMissingError, match=message):
        Recommender.load(tmp_path / "x")


@pytest.mark.parametrize("path", [None, 5, [b"bundle"]])
def test_no_path(path: Any) -> None:
    with pytest.raises(InvalidOptionError, match=r"^path is .*; it must be a bundle: its folder, a zip file"):
        Recommender.load(path)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_missing(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    for verify in (True, False):
        with pytest.raises(BundleMissingError, match=f"{name} is missing"):
            Recommender.load(bundle, verify=verify)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_truncated(name: str, share: float, bundle: Path) -> None:
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data[: int(share * len(data))])
    for verify in (True, False):
        with pytest.raises(BundleCorruptError, match=f"{name} is truncated"):
            Recommender.load(bundle, verify=verify)


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_grown(name: str, bundle: Path) -> None:
    with (bundle / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleCorruptError, match=rf"{name} is (altered|truncated or no JSON)"):
        Recommender.load(bundle)


def open_or_error(path: Path, verify: bool = True) -> dict[str, Any] | str:
    """The configuration of the bundle, or the message of the error that refused it."""
    try:
        return open_bundle(path, verify).config
    except BundleError as error:
        return str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_bit_is_flipped(name: str, at: float, bit: int, sound: Path, bundle: Path) -> None:
    shutil.rmtree(bundle)
    shutil.copytree(sound, bundle)
    data = bytearray((bundle / name).read_bytes())
    data[int(at * len(data))] ^= 1 << bit
    (bundle / name).write_bytes(data)
    config = open_or_error(bundle)
    if isinstance(config, str):
        assert name in config or name == "config.json"  # it may now list a file that is not there
    else:
        # Only white space of config.json may differ, which says nothing.
        assert name == "config.json"
        assert config == open_bundle(sound).config


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 2_000), byte=st.integers(0, 255))
def test_without_verification_a_damaged_header_is_no_crash(
    at: int, byte: int, sound: Path, bundle: Path
) -> None:
    data = bytearray((sound / "catalog.safetensors").read_bytes())
    data[at] = byte
    (bundle / "catalog.safetensors").write_bytes(data)
    config = open_or_error(bundle, verify=False)
    assert isinstance(config, dict) or "catalog.safetensors" in config


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        '{"name": "my-package", "version": "1.0.0"}',
        '{"format": "hiersrec-dataset"}',
        "\x00",
        "[" * 9_999,
    ],
)
def test_a_foreign_config(content: str, bundle: Path) -> None:
    (bundle / "config.json").write_text(content)
    with pytest.raises(BundleCorruptError, match=r"config\.json (is truncated or no JSON|does not describe)"):
        Recommender.load(bundle)


def test_foreign_files_under_our_names(shop: Shop, tmp_path: Path) -> None:
    tables = {"weight": np.zeros((3, 4), dtype=np.float32)}
    forge(tmp_path / "a", shop.config, tables, shop.files)
    with pytest.raises(BundleCorruptError, match=r"catalog\.safetensors: table 'item_vectors' is missing"):
        Recommender.load(tmp_path / "a")
    forge(tmp_path / "b", shop.config, shop.tensors, {"model.onnx": b"no graph"})
    with pytest.raises(BundleCorruptError, match=r"model\.onnx cannot be loaded"):
        Recommender.load(tmp_path / "b")


def test_a_newer_schema_version(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    # A newer version may lack what this one needs, and sum it up in another way.
    (bundle / "config.json").write_text(json.dumps({"format": config["format"], "schema_version": 3}))
    with pytest.raises(BundleVersionError, match=r"config\.json: schema version 2 is newer than 1.*upgrade"):
        Recommender.load(bundle)


FAULTS: list[tuple[str, Any, str]] = [
    ("schema_version", 0, "schema_version is 0"),
    ("schema_version", True, "schema_version is True"),
    ("schema_version", "1", "schema_version is '1'"),
    ("created_by", 1, "'created_by' is not a string"),
    ("item_id_type", "uuid", "'item_id_type' is not 'int64' or 'string'"),
    ("category_id_type", ["int64"], "'category_id_type' is not"),
    (
        "items",
        ITEMS + 1,
        rf"table 'item_vectors' is float32 \[{ITEMS}, 6\], it should be float32 \[{ITEMS + 1}, 6\]",
    ),
    ("items", 0, "'items' is not a whole number of at least 1"),
    ("items", 2.5, "'items' is not a whole number of at least 1"),
    ("dimension", True, "'dimension' is not a whole number of at least 1"),
    ("dimension", 7, "table 'item_vectors'"),
    ("levels", [], "'levels' is not a list of names"),
    (
        "preprocessing",
        {"vectors": {"width": 0, "from": "file"}},
        "'preprocessing' is not an object whose vectors",
    ),
    ("levels", ["shelf"], "1 levels, but 3 numbers of categories"),
    ("categories", [2, 4, "9"], "'categories' is not a list of whole numbers"),
    ("categories", [2, 4, 8], r"table 'category_ids.2.offsets'"),
    ("max_length", -1, "'max_length' is not a whole number of at least 1"),
    ("candidate_share", 0, "'candidate_share' is not a number above 0 and up to 1"),
    ("candidate_share", "0.04", "'candidate_share' is not a number above 0 and up to 1"),
    ("metrics", None, "'metrics' is not an object"),
    ("files", {}, "'files' is not SHA-256 and bytes"),
    ("files", {"../x": {"sha256": "", "bytes": 1}}, "'files' is not SHA-256 and bytes"),
]


@pytest.mark.parametrize(("key", "value", "cause"), FAULTS)
def test_a_wrong_setting(key: str, value: Any, cause: str, bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    write_config(bundle, {**config, key: value})
    with pytest.raises(BundleCorruptError, match=cause):
        open_bundle(bundle)
    if key not in ("schema_version", "files"):
        write_config(bundle, {own: value for own, value in config.items() if own != key})
        with pytest.raises(BundleCorruptError, match=rf"config\.json lacks '{key}'"):
            open_bundle(bundle)


@pytest.mark.parametrize(
    "calibration", [None, [], {}, {"top_p": 0.5}, {"top_p": 0, "session_categories": {"top_p": 0.5}}]
)
def test_wrong_calibration(calibration: Any, bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    write_config(bundle, {**config, "calibration": calibration})
    with pytest.raises(BundleCorruptError, match="'calibration' is not an object with a top_p above 0"):
        open_bundle(bundle)


@pytest.mark.parametrize("bias", [None, 1, "1", True, float("inf")])
def test_a_wrong_bias_of_new_items(bias: Any, bundle: Path) -> None:
    write_config(bundle, {**json.loads((bundle / "config.json").read_text()), "cold_start_bias": bias})
    with pytest.raises(BundleCorruptError, match="'cold_start_bias' is not a finite number"):
        open_bundle(bundle)


def test_a_file_outside_of_the_bundle(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    outside = bundle.parent / "outside"
    outside.write_text("")
    config["files"]["../outside"] = {"sha256": "", "bytes": 0}
    write_config(bundle, config)
    with pytest.raises(BundleCorruptError, match="'files' is not SHA-256 and bytes"):
        open_bundle(bundle)


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
        r"'item_vectors' is float64 \[60, 6\]",
    ),
    (
        replace("item_vectors", lambda table: table[:, :5]),
        r"'item_vectors' is float32 \[60, 5\], it should be",
    ),
    (replace("input_vectors", lambda table: table[1:]), r"'input_vectors' is float32 \[59, 6\]"),
    (replace("bias", lambda table: table[:-1]), r"'bias' is float32 \[59\], it should be float32 \[60\]"),
    (
        replace("bias", lambda table: table[:, None]),
        r"'bias' is float32 \[60, 1\], it should be float32 \[60\]",
    ),
    (
        replace("clicks", lambda table: table.astype(np.int32)),
        r"'clicks' is int32 \[60\], it should be int64 \[60\]",
    ),
    (put("item_ids.order", 3, ITEMS), r"'item_ids.order' holds values outside \[0, 60\)"),
    (put("item_ids.order", 3, -1), r"'item_ids.order' holds values outside \[0, 60\)"),
    (replace("item_ids.order", lambda table: table * 0), "'item_ids.order' does not name every row once"),
    (replace("item_ids.hashes", lambda table: table[::-1]), "'item_ids.hashes' is not sorted"),
    (put("item_ids.offsets", 4, 10_000), "'item_ids.offsets' does not run up from 0"),
    (put("item_ids.offsets", 0, 1), "'item_ids.offsets' does not run up from 0"),
    (replace("item_ids.bytes", lambda table: table[1:]), r"'item_ids.bytes' is uint8"),
    (put("category_ranges.2", (3, 0), 18), r"'category_ranges.2' does not split the rows \[0, 60\) in order"),
    (
        put("category_ranges.2", (-1, 1), 59),
        r"'category_ranges.2' does not split the rows \[0, 60\) in order",
    ),
    (put("category_ranges.0", (0, 1), -1), "'category_ranges.0' does not split"),
    (put("category_parents.0", 1, 0), "'category_parents.0' is not -1 throughout"),
    (put("category_parents.2", 1, SIZES[1]), r"'category_parents.2' holds values outside \[0, 4\)"),
    (put("category_parents.2", 2, 3), "'category_ranges.2' leaves the ranges of its parents"),
    (put("extra_rows", 0, ITEMS), r"'extra_rows' holds values outside \[0, 60\)"),
    (put("extra_offsets", -1, 1), "'extra_offsets' does not run up from 0"),
    (replace("category_names.2.offsets", lambda table: table[1:]), "'category_names.2.offsets' is int64"),
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
    if "is missing" in cause or "int" in cause or "float" in cause or "category_" in cause:
        with pytest.raises(
            BundleCorruptError, match=cause
        ):  # what can be seen without reading all of a table
            open_bundle(tmp_path / "forged", verify=False)


@pytest.fixture(scope="module")
def coded() -> Shop:
    return make_shop("int64", dimension=20, stages=[8, 16])


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


def test_codes_of_another_table(coded: Shop, tmp_path: Path) -> None:
    other = make_shop("int64", times=2, dimension=20, stages=[8, 16])
    forge(tmp_path / "forged", coded.config, {**coded.tensors, "codes": other.tensors["codes"]}, coded.files)
    for verify in (True, False):
        with pytest.raises(
            BundleCorruptError, match=r"table 'codes': codes is uint8 \[3072\], not uint8 \[1536\]"
        ):
            Recommender.load(tmp_path / "forged", verify=verify)


def test_without_verification_contents_are_not_read(coded: Shop, tmp_path: Path) -> None:
    path = coded.write(tmp_path / "bundle")
    data = bytearray((path / "catalog.safetensors").read_bytes())
    at = data.index(coded.vectors.tobytes())
    data[at : at + coded.vectors.nbytes] = np.zeros_like(coded.vectors).tobytes()
    (path / "catalog.safetensors").write_bytes(data)
    with pytest.raises(BundleCorruptError, match=r"catalog\.safetensors is altered: its SHA-256"):
        Recommender.load(path)
    recommender = Recommender.load(path, verify=False)
    assert not recommender.catalog.item_vectors.any()
    assert len(recommender.recommend(coded.ids[:2], 5)) == 5


@pytest.mark.parametrize("id_type", ["int64", "string"])
@pytest.mark.parametrize("row", [10**12, ITEMS, -1, -(10**12)])
def test_without_verification_a_wrong_row_is_no_crash(id_type: str, row: int, tmp_path: Path) -> None:
    shop = make_shop(id_type)
    tables = {**shop.tensors, "item_ids.order": np.full(ITEMS, row)}
    forge(tmp_path / "forged", shop.config, tables, shop.files)
    with pytest.raises(BundleCorruptError, match=r"'item_ids\.order' holds values outside"):
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
        with pytest.raises(BundleCorruptError, match="does not sort the ids, or an id stands twice"):
            open_bundle(tmp_path / name)


def writing_faults(shop: Shop) -> list[tuple[dict[str, Any], Tables, dict[str, bytes], str]]:
    config, tables, files = shop.config, shop.tensors, shop.files
    vectors = tables["item_vectors"].copy()
    vectors[3, 3] = np.nan
    return [
        ({**config, "metrics": {"recall": float("nan")}}, tables, files, "JSON"),
        ({**config, "data": {"x": object()}}, tables, files, "JSON serializable"),
        ({**config, "items": "60"}, tables, files, "'items' is not a whole number"),
        (
            config,
            {**tables, "item_vectors": vectors},
            files,
            "'item_vectors' holds values that are not finite",
        ),
        (config, tables, {"README.md": b""}, "'files' is not SHA-256 and bytes"),
        (config, tables, {**files, "../outside": b"x"}, "'../outside' is no name for a further file"),
        (config, tables, {**files, "config.json": b"x"}, "'config.json' is no name for a further file"),
    ]


@pytest.mark.parametrize("fault", range(7))
def test_what_is_no_bundle_is_not_written(fault: int, shop: Shop, tmp_path: Path) -> None:
    config, tables, files, cause = writing_faults(shop)[fault]
    with pytest.raises(BundleError, match=rf"bundle was not written: .*{cause}"):
        write_bundle(tmp_path / "bundle", config, tables, files)
    assert list(tmp_path.iterdir()) == []


def fail(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("step", ["write_tables", "sync", "rename"])
def test_the_disk_is_full(step: str, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if step == "rename":
        monkeypatch.setattr(Path, "rename", fail)
    else:
        monkeypatch.setattr(hiersrec_sdk.bundle.folder, step, fail)
    with pytest.raises(BundleError, match=r"bundle was not written: .*No space left on device"):
        shop.write(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert open_bundle(shop.write(tmp_path / "bundle"))


def test_everything_is_on_the_disk_before_the_name(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def record(path: Path) -> None:
        seen.append((path.name, (tmp_path / "bundle").exists()))
        sync(path)

    monkeypatch.setattr(hiersrec_sdk.bundle.folder, "sync", record)
    shop.write(tmp_path / "bundle")
    *before, (last, named) = seen
    assert sorted(name for name, _ in before[:-1]) == FILES
    assert before[-1][0].startswith("bundle.part-")
    assert not any(exists for _, exists in before)
    assert (last, named) == (tmp_path.name, True)


def test_another_writer_was_faster(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtake(path: Path) -> None:
        monkeypatch.undo()
        make_shop("int64").write(tmp_path / "bundle")

    monkeypatch.setattr(hiersrec_sdk.bundle.folder, "sync", overtake)
    with pytest.raises(BundleError, match=r"bundle was not written: .*not empty"):
        shop.write(tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle").config["item_id_type"] == "int64"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bundle"]


# Writes the bundle that was forged at argv[1] to argv[2].
WRITER = """
import json, os, resource, sys, time
from pathlib import Path
import hiersrec_sdk.bundle.folder
from hiersrec_sdk.bundle.folder import open_bundle, write_bundle
from hiersrec_sdk.errors import BundleError

found = open_bundle(sys.argv[1])
files = {"model.onnx": found.model.read_bytes()}
"""

TOO_LARGE = """
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
try:
    write_bundle(sys.argv[2], found.config, found.tables, files)
except BundleError as error:
    print(error)
"""

# Stops at the n-th sync, when the files are written, and waits to be killed.
STOP = """
calls = 0
def stop(path):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        print("stopped", flush=True)
        time.sleep(60)
hiersrec_sdk.bundle.folder.sync = stop
write_bundle(sys.argv[2], found.config, found.tables, files)
"""


def test_a_write_fails_half_way(sound: Path, tmp_path: Path) -> None:
    # A limit on the size of a file: the system itself stops the write of the tables, after some of it.
    assert (sound / "catalog.safetensors").stat().st_size > 5_000
    command = [sys.executable, "-c", WRITER + TOO_LARGE, str(sound), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "bundle was not written: [Errno 27] File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [1, 4])
def test_killed_in_the_middle_of_a_write(moment: int, shop: Shop, sound: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER + STOP, str(sound), str(tmp_path / "bundle"), str(moment)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "stopped\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert not (tmp_path / "bundle").exists()
    assert [file.name.startswith("bundle.part-") for file in tmp_path.iterdir()] == [True]
    assert open_bundle(shop.write(tmp_path / "bundle"))  # what was left behind is in nobody's way


def test_tables_are_read_through_a_memory_map(shop: Shop, tmp_path: Path) -> None:
    # A file may be replaced under a loaded bundle, as long as it is not written in place.
    bundle = open_bundle(shop.write(tmp_path / "bundle"))
    replacement = tmp_path / "replacement"
    write_tables(replacement, {"other": np.zeros(3)})
    replacement.rename(tmp_path / "bundle" / "catalog.safetensors")
    assert np.array_equal(bundle.tables["item_vectors"], shop.vectors)
