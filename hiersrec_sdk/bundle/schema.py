"""Schema 3 of the bundle: the names of its files, and the checks of ``config.json``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hiersrec_sdk.errors import BundleCorruptError, BundleVersionError

FORMAT: Final = "hiersrec-bundle"
SCHEMA_VERSION: Final = 3
CONFIG: Final = "config.json"
MODEL: Final = "model.onnx"
ITEM_ENCODER: Final = "item_encoder.onnx"
QUERY_PARTS: Final = "query_parts.onnx"
CATALOG: Final = "catalog.safetensors"
DELTA: Final = "delta.safetensors"
ID_TYPES: Final = ("int64", "string")

_Rule = tuple[Callable[[Any], bool], str]  # whether a value is valid; what it must be


def parse_config(content: bytes, file: str) -> dict[str, Any]:
    """Parse and check the ``content`` of a ``config.json``; messages call it ``file``.

    Raises:
        BundleCorruptError: it is truncated, altered or of another format.
        BundleVersionError: it has another schema version.
    """
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleCorruptError(f"{file} is truncated or not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise BundleCorruptError(f"{file} does not describe a HierSRec bundle: its format is not {FORMAT!r}")
    _check_version(config.get("schema_version"), file)
    for key in _REQUIRED:
        if key not in config:
            raise BundleCorruptError(f"{file} lacks {key!r}")
    for key, (is_valid, expected) in (_REQUIRED | _OPTIONAL).items():
        if key in config and not is_valid(config[key]):
            raise BundleCorruptError(f"{file}: {key!r} must be {expected}")
    levels, sizes = config["levels"], config["categories"]
    if len(levels) != len(sizes):
        raise BundleCorruptError(f"{file}: {len(levels)} levels, but {len(sizes)} counts of categories")
    if config.get("sha256") != config_digest(config):
        raise BundleCorruptError(f"{file} is altered: its content does not match its own SHA-256")
    return config


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the content of ``config.json`` without the key ``sha256``, whatever its layout."""
    content = {key: value for key, value in config.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_file_name(name: str) -> bool:
    """Whether a bundle may list a file of this name; a name with a folder in it could lead out of the bundle."""
    return Path(name).name == name and name not in ("", "..", CONFIG) and name.isprintable()


def _check_version(version: Any, file: str) -> None:
    if type(version) is not int or version < 1:
        raise BundleCorruptError(f"{file}: schema_version must be an integer ≥ 1, got {version!r}")
    if version > SCHEMA_VERSION:
        raise BundleVersionError(
            f"{file} has schema version {version}; this version of hiersrec-sdk reads version {SCHEMA_VERSION}: "
            "upgrade hiersrec-sdk"
        )
    if version < SCHEMA_VERSION:
        raise BundleVersionError(
            f"{file} has schema version {version}; this version of hiersrec-sdk reads version {SCHEMA_VERSION}: "
            "export the bundle again from its training run: hiersrec export RUN --out BUNDLE"
        )


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _is_id_type(value: Any) -> bool:
    return value in ID_TYPES


def _is_list_of(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) > 0 and all(map(is_valid, value))


def _is_preprocessing(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    vectors = value.get("vectors")
    return vectors is None or (
        isinstance(vectors, dict) and _is_count(vectors.get("width")) and _is_string(vectors.get("from"))
    )


def _is_calibration(value: Any) -> bool:
    nested = value.get("session_categories") if isinstance(value, dict) else None
    return isinstance(nested, dict) and _is_share(value.get("top_p")) and _is_share(nested.get("top_p"))


def _is_delta(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("items")) is int and value["items"] >= 0


def _are_files(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {MODEL, CATALOG} <= value.keys()
        and all(map(is_file_name, value))
        and all(_is_object(about) and {"sha256", "bytes"} <= about.keys() for about in value.values())
        and all(_is_string(about["sha256"]) and type(about["bytes"]) is int for about in value.values())
    )


_REQUIRED: Final[dict[str, _Rule]] = {
    "created_by": (_is_string, "a string"),
    "item_id_type": (_is_id_type, "'int64' or 'string'"),
    "category_id_type": (_is_id_type, "'int64' or 'string'"),
    "items": (_is_count, "an integer ≥ 1"),
    "dimension": (_is_count, "an integer ≥ 1"),
    "levels": (_is_list_of(_is_string), "a list of names"),
    "categories": (_is_list_of(_is_count), "a list of integers ≥ 1"),
    "max_length": (_is_count, "an integer ≥ 1"),
    "candidate_share": (_is_share, "a number in (0, 1]"),
    "model": (_is_object, "an object"),
    "preprocessing": (_is_preprocessing, "an object; its vectors, if any, need a width and a from"),
    "data": (_is_object, "an object"),
    "metrics": (_is_object, "an object"),
    "files": (_are_files, f"an object of SHA-256 and bytes by file name, with {MODEL} and {CATALOG}"),
}

_OPTIONAL: Final[dict[str, _Rule]] = {
    "calibration": (_is_calibration, "an object with a top_p in (0, 1], also in its session_categories"),
    "cold_start_bias": (_is_finite, "a finite number"),
    "delta": (_is_delta, "an object with the number of items"),
}
