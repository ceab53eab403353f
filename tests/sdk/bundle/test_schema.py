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
from tests.sdk.cli.run import failed


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


# Paths to a value, the value, and what the error says of it.
FAULTS: list[tuple[str, Any, str]] = [
    ("schema_version", 0, "schema_version must be an integer ≥ 1, got 0"),
    ("schema_version", True, "schema_version must be an integer ≥ 1, got True"),
    ("schema_version", "1", "schema_version must be an integer ≥ 1, got '1'"),
    ("created_by", 1, "'created_by' must be a string, got 1"),
    ("item_id_type", "uuid", "'item_id_type' must be 'int64' or 'string', got 'uuid'"),
    ("category_id_type", ["int64"], "'category_id_type' must be"),
    (
        "items",
        ITEMS + 1,
        rf"table 'item_vectors' must be float32 \[{ITEMS + 1}, 6\], got float32 \[{ITEMS}, 6\]",
    ),
    ("items", 0, "'items' must be an integer from 1 to"),
    ("items", 2.5, "'items' must be an integer from 1 to"),
    ("items", 2**62, "'items' must be an integer from 1 to"),
    ("dimension", True, "'dimension' must be an integer from 1 to 65,536"),
    ("dimension", 65_537, "'dimension' must be an integer from 1 to 65,536"),
    ("dimension", 7, "table 'item_vectors'"),
    ("levels", [], "'levels' must be a list of 1 to 64 distinct names"),
    ("levels", ["a", "b", "a"], "'levels' must be a list of 1 to 64 distinct names"),
    ("levels", [str(level) for level in range(65)], "'levels' must be a list of 1 to 64 distinct names"),
    ("levels", ["a", ["b"], "c"], "'levels' must be a list"),
    ("levels", ["shelf"], "1 levels, but 3 counts of categories"),
    ("categories", [2, 4, "9"], "'categories' must be a list of integers ≥ 1"),
    ("categories", [2, 4, 8], r"table 'category_parents.2'|table 'category_ranges.2'"),
    ("max_length", -1, "'max_length' must be an integer from 1 to"),
    ("max_length", 2**40, "'max_length' must be an integer from 1 to"),
    ("candidate_share", 0, "'candidate_share' must be a number in \\(0, 1\\]"),
    ("candidate_share", "0.04", "'candidate_share' must be a number in \\(0, 1\\]"),
    ("model", [], "'model' must be an object"),
    ("metrics", None, "'metrics' must be an object"),
    ("files", {}, "'files' must be an object of SHA-256 and bytes"),
    ("files", {"../x": {"sha256": "", "bytes": 1}}, "'files' must be an object of SHA-256 and bytes"),
    ("preprocessing", None, "'preprocessing' must be an object"),
    ("preprocessing.text", "hashed", "'preprocessing.text' must be an object"),
    ("preprocessing.text", {"max_tokens": 5}, "lacks 'preprocessing.text.buckets'"),
    (
        "preprocessing.text",
        {"buckets": 0, "max_tokens": 5},
        "'preprocessing.text.buckets' must be an integer from 1",
    ),
    (
        "preprocessing.text",
        {"buckets": 9, "max_tokens": "5"},
        "'preprocessing.text.max_tokens' must be an integer",
    ),
    ("preprocessing.numbers", [], "'preprocessing.numbers' must be an object of rising numbers by column"),
    (
        "preprocessing.numbers",
        {"price": [1.0, 1.0]},
        "'preprocessing.numbers' must be an object of rising numbers",
    ),
    (
        "preprocessing.numbers",
        {"price": ["1"]},
        "'preprocessing.numbers' must be an object of rising numbers",
    ),
    ("preprocessing.vectors", {"from": "file"}, "lacks 'preprocessing.vectors.width'"),
    (
        "preprocessing.vectors",
        {"width": 0, "from": "file"},
        "'preprocessing.vectors.width' must be an integer",
    ),
    ("preprocessing.vectors", {"width": 5, "from": None}, "'preprocessing.vectors.from' must be a string"),
    ("calibration", None, "'calibration' must be an object"),
    ("calibration", [], "'calibration' must be an object"),
    ("calibration", {"top_p": 0.5}, "lacks 'calibration.session_categories'"),
    ("calibration.top_p", 0, r"'calibration.top_p' must be a number in \(0, 1\]"),
    ("calibration.session_categories.top_p", 2, r"'calibration.session_categories.top_p' must be a number"),
    ("calibration.kept", "99 %", "'calibration.kept' must be a number"),
    ("calibration.examples", 2.5, "'calibration.examples' must be an integer"),
    ("calibration.trained_on", "no", "'calibration.trained_on' must be true or false"),
    ("cold_start_bias", None, "'cold_start_bias' must be a number of at most 1e[+]15"),
    ("cold_start_bias", "1", "'cold_start_bias' must be a number of at most 1e[+]15"),
    ("cold_start_bias", True, "'cold_start_bias' must be a number of at most 1e[+]15"),
    ("cold_start_bias", 3e38, "'cold_start_bias' must be a number of at most 1e[+]15"),
    ("data.logs", "clicks.csv", "'data.logs' must be a list of strings"),
    ("data.logs", [1], "'data.logs' must be a list of strings"),
    ("data.counts", {"train_sessions": 5}, "'data.counts' must be an object with counts"),
    (
        "data.counts",
        {"train_sessions": "5", "train_examples": 5},
        "'data.counts' must be an object with counts",
    ),
    ("metrics.trained_on", 5, "'metrics.trained_on' must be a string"),
    ("metrics.validation", {"recall@20": "0.5"}, "'metrics.validation' must be an object of numbers"),
    ("metrics.validation", None, "'metrics.validation' must be an object of numbers"),
    ("delta", None, "'delta' must be an object"),
    ("delta", {}, "lacks 'delta.items'"),
    ("delta", {"items": -1}, "'delta.items' must be an integer"),
    ("delta", {"items": "5"}, "'delta.items' must be an integer"),
    ("feed", None, "'feed' must be an object"),
    ("feed", {}, "lacks 'feed.log'"),
    ("feed", {"log": "0" * 32}, "lacks 'feed.position'"),
    ("feed", {"log": 5, "position": 1}, "'feed.log' must be 32 hexadecimal digits, got 5"),
    ("feed", {"log": "0" * 31, "position": 1}, "'feed.log' must be 32 hexadecimal digits"),
    ("feed", {"log": "g" * 32, "position": 1}, "'feed.log' must be 32 hexadecimal digits"),
    ("feed", {"log": "0" * 32, "position": -1}, "'feed.position' must be an integer from 0"),
    ("feed", {"log": "0" * 32, "position": 2**61}, "'feed.position' must be an integer from 0"),
    ("feed", {"log": "0" * 32, "position": "1"}, "'feed.position' must be an integer from 0"),
]


@pytest.mark.parametrize(("path", "value", "cause"), FAULTS)
def test_a_wrong_setting(path: str, value: Any, cause: str, bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    *above, key = path.split(".")
    inner = config
    for name in above:
        inner = inner[name]
    inner[key] = value
    write_config(bundle, config)
    with pytest.raises(BundleCorruptError, match=cause):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "key",
    [
        "created_by",
        "item_id_type",
        "category_id_type",
        "items",
        "dimension",
        "levels",
        "categories",
        "max_length",
        "candidate_share",
        "model",
        "preprocessing",
        "data",
        "metrics",
        "files",
    ],
)
def test_a_setting_is_missing(key: str, bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    del config[key]
    write_config(bundle, config)
    with pytest.raises(BundleCorruptError, match=rf"config\.json lacks '{key}'"):
        open_bundle(bundle)


def file_entries(count: int) -> dict[str, Any]:
    return {f"{at}": {"sha256": "0" * 64, "bytes": 1} for at in range(count)}


@pytest.mark.parametrize(
    "files",
    [
        {"a": {"sha256": "0" * 64}},
        {"a": {"sha256": "0" * 63, "bytes": 1}},
        {"a": {"sha256": "g" * 64, "bytes": 1}},
        {"a": {"sha256": 5, "bytes": 1}},
        {"a": {"sha256": "0" * 64, "bytes": -1}},
        {"a": {"sha256": "0" * 64, "bytes": True}},
        {"a": {"sha256": "0" * 64, "bytes": 2**60}},
        {"item_encoder.onnx": {"sha256": "0" * 64, "bytes": 2**31}},
        {"a": []},
        {"ü" * 128: {"sha256": "0" * 64, "bytes": 1}},
        file_entries(99),
    ],
)
def test_wrong_files(files: dict[str, Any], bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["files"] |= files
    write_config(bundle, config)
    with pytest.raises(BundleCorruptError, match="'files' must be an object of SHA-256 and bytes"):
        open_bundle(bundle)


# What Python's own parser accepts, or falls over, in place of a title of the data.
TEXTS = {
    "NaN": "NaN is no number",
    "-Infinity": "-Infinity is no number",
    "1e999": "1e999 is too large",
    "9" * 30: "does not fit in 64 bits",
    "9" * 5_000: "does not fit in 64 bits",
    '"\\ud800"': "surrogates not allowed",
    '{"a": 1, "b": 2, "a": 3}': "the key 'a' stands twice",
    "[" * 40 + "]" * 40: "nested more than 32 levels",
    "[" * 100_000: "nested more than 32 levels",
    '["\xff"]': "can't decode byte 0xff",
}


@pytest.mark.parametrize("text", TEXTS)
def test_json_that_python_reads_and_code_stumbles_over(text: str, bundle: Path) -> None:
    content = (bundle / "config.json").read_text().replace('"made up"', text)
    (bundle / "config.json").write_bytes(content.encode("latin-1"))
    for verify in (True, False):
        with pytest.raises(
            BundleCorruptError, match=rf"config\.json is truncated or not JSON: .*{TEXTS[text]}"
        ):
            Recommender.load(bundle, verify=verify)


def test_brackets_in_strings_are_no_nesting(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["data"]["name"] = '[{"\\' * 50
    write_config(bundle, config)
    assert open_bundle(bundle).config["data"] == config["data"]


def test_a_config_that_is_too_large(bundle: Path) -> None:
    with (bundle / "config.json").open("a") as file:
        file.write(" " * (16 << 20))
    with pytest.raises(BundleCorruptError, match=r"config\.json is larger than 16,777,216 bytes"):
        open_bundle(bundle)


COMMANDS = [["inspect"], ["inspect", "--json"], ["recommend"], ["explain", "0", "0"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("text", TEXTS)
def test_commands_print_one_line(text: str, command: list[str], bundle: Path) -> None:
    content = (bundle / "config.json").read_text().replace('"made up"', text)
    (bundle / "config.json").write_bytes(content.encode("latin-1"))
    name, *others = command
    said = failed(name, bundle, *others)
    assert said.startswith(f"Error: {bundle}/config.json is truncated or not JSON")


def test_a_file_outside_of_the_bundle(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    outside = bundle.parent / "outside"
    outside.write_text("")
    config["files"]["../outside"] = {"sha256": "", "bytes": 0}
    write_config(bundle, config)
    with pytest.raises(BundleCorruptError, match="'files' must be an object of SHA-256 and bytes"):
        open_bundle(bundle)
