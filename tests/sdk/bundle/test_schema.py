"""config.json: every wrong value is refused, by name and cause."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.errors import BundleCorruptError, BundleVersionError
from tests.sdk.bundles import ITEMS, write_config


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
    with pytest.raises(
        BundleCorruptError, match=r"config\.json (is truncated or not JSON|does not describe)"
    ):
        Recommender.load(bundle)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (2, r"export the bundle again from its training run: hiersrec export RUN --out BUNDLE$"),
        (4, r"upgrade hiersrec-sdk$"),
    ],
)
def test_another_schema_version(version: int, remedy: str, bundle: Path) -> None:
    # Another version may lack keys that this one needs, and compute its SHA-256 in another way.
    (bundle / "config.json").write_text(json.dumps({"format": "hiersrec-bundle", "schema_version": version}))
    message = (
        rf"config\.json has schema version {version}; this version of hiersrec-sdk reads version 3: {remedy}"
    )
    with pytest.raises(BundleVersionError, match=message):
        Recommender.load(bundle)


FAULTS: list[tuple[str, Any, str]] = [
    ("schema_version", 0, "schema_version must be an integer ≥ 1, got 0"),
    ("schema_version", True, "schema_version must be an integer ≥ 1, got True"),
    ("schema_version", "1", "schema_version must be an integer ≥ 1, got '1'"),
    ("created_by", 1, "'created_by' must be a string"),
    ("item_id_type", "uuid", "'item_id_type' must be 'int64' or 'string'"),
    ("category_id_type", ["int64"], "'category_id_type' must be"),
    (
        "items",
        ITEMS + 1,
        rf"table 'item_vectors' must be float32 \[{ITEMS + 1}, 6\], got float32 \[{ITEMS}, 6\]",
    ),
    ("items", 0, "'items' must be an integer ≥ 1"),
    ("items", 2.5, "'items' must be an integer ≥ 1"),
    ("dimension", True, "'dimension' must be an integer ≥ 1"),
    ("dimension", 7, "table 'item_vectors'"),
    ("levels", [], "'levels' must be a list of names"),
    (
        "preprocessing",
        {"vectors": {"width": 0, "from": "file"}},
        "'preprocessing' must be an object; its vectors",
    ),
    ("levels", ["shelf"], "1 levels, but 3 counts of categories"),
    ("categories", [2, 4, "9"], "'categories' must be a list of integers ≥ 1"),
    ("categories", [2, 4, 8], r"table 'category_ids.2.offsets'"),
    ("max_length", -1, "'max_length' must be an integer ≥ 1"),
    ("candidate_share", 0, "'candidate_share' must be a number in \\(0, 1\\]"),
    ("candidate_share", "0.04", "'candidate_share' must be a number in \\(0, 1\\]"),
    ("metrics", None, "'metrics' must be an object"),
    ("files", {}, "'files' must be an object of SHA-256 and bytes"),
    ("files", {"../x": {"sha256": "", "bytes": 1}}, "'files' must be an object of SHA-256 and bytes"),
]


@pytest.mark.parametrize(("key", "value", "cause"), FAULTS)
def test_a_wrong_setting(key: str, value: Any, cause: str, bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    write_config(bundle, {**config, key: value})
    with pytest.raises(BundleCorruptError, match=cause):
        open_bundle(bundle)
    if key not in ("schema_version", "files"):
        write_config(bundle, {other: value for other, value in config.items() if other != key})
        with pytest.raises(BundleCorruptError, match=rf"config\.json lacks '{key}'"):
            open_bundle(bundle)


@pytest.mark.parametrize(
    "calibration", [None, [], {}, {"top_p": 0.5}, {"top_p": 0, "session_categories": {"top_p": 0.5}}]
)
def test_wrong_calibration(calibration: Any, bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    write_config(bundle, {**config, "calibration": calibration})
    with pytest.raises(BundleCorruptError, match=r"'calibration' must be an object with a top_p in \(0, 1\]"):
        open_bundle(bundle)


@pytest.mark.parametrize("bias", [None, 1, "1", True, float("inf")])
def test_a_wrong_bias_of_new_items(bias: Any, bundle: Path) -> None:
    write_config(bundle, {**json.loads((bundle / "config.json").read_text()), "cold_start_bias": bias})
    with pytest.raises(BundleCorruptError, match="'cold_start_bias' must be a finite number"):
        open_bundle(bundle)


@pytest.mark.parametrize("delta", [None, {}, {"items": -1}, {"items": "5"}, {"items": True}])
def test_a_wrong_delta(delta: Any, bundle: Path) -> None:
    write_config(bundle, {**json.loads((bundle / "config.json").read_text()), "delta": delta})
    with pytest.raises(BundleCorruptError, match="'delta' must be an object with the number of items"):
        open_bundle(bundle)


def test_a_file_outside_of_the_bundle(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    outside = bundle.parent / "outside"
    outside.write_text("")
    config["files"]["../outside"] = {"sha256": "", "bytes": 0}
    write_config(bundle, config)
    with pytest.raises(BundleCorruptError, match="'files' must be an object of SHA-256 and bytes"):
        open_bundle(bundle)
