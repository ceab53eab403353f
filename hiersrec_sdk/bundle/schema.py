"""Schema 3 of the bundle: the names of its files, and the checks of ``config.json``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from hiersrec_sdk.bundle.strict_json import parse_json
from hiersrec_sdk.errors import BundleCorruptError, BundleVersionError
from hiersrec_sdk.ranking.arrays import LARGEST
from hiersrec_sdk.shown import shown

FORMAT: Final = "hiersrec-bundle"
SCHEMA_VERSION: Final = 3
CONFIG: Final = "config.json"
MODEL: Final = "model.onnx"
ITEM_ENCODER: Final = "item_encoder.onnx"
QUERY_PARTS: Final = "query_parts.onnx"
CATALOG: Final = "catalog.safetensors"
DELTA: Final = "delta.safetensors"
CARD: Final = "README.md"  # the model card: whoever has the bundle may edit it
ID_TYPES: Final = ("int64", "string")
MOST_CLICKS: Final = 1 << 62  # of an item, and one more
LARGEST_CONFIG: Final = 16 << 20  # bytes; real ones have some thousands
LARGEST_CARD: Final = 16 << 20
MAX_DIMENSION: Final = 65_536  # HIERSREC_MAX_DIMENSION

_LARGEST_FILE: Final = 1 << 50  # bytes
_LARGEST_GRAPH: Final = (1 << 31) - 1  # what ONNX files have at most; they are read into memory
_LONGEST_NAME: Final = 255  # bytes, as file systems have it
_MOST_FILES: Final = 100  # each is open as long as the bundle is
_MOST_LEVELS: Final = 64
_SHA256: Final = re.compile("[0-9a-f]{64}")
_LOG: Final = re.compile("[0-9a-f]{32}")

_Rule = tuple[Callable[[Any], bool], str]  # whether a value is valid; what it must be


def parse_config(content: bytes, file: str) -> dict[str, Any]:
    """Parse and check the ``content`` of a ``config.json``; messages call it ``file``.

    Raises:
        BundleCorruptError: it is truncated, altered or of another format.
        BundleVersionError: it has another schema version.
    """
    if len(content) > LARGEST_CONFIG:
        raise BundleCorruptError(f"{file} is larger than {LARGEST_CONFIG:,} bytes")
    try:
        config = parse_json(content)
    except (ValueError, MemoryError, RecursionError) as error:
        raise BundleCorruptError(f"{file} is truncated or not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise BundleCorruptError(f"{file} does not describe a HierSRec bundle: its format is not {FORMAT!r}")
    _check_version(config.get("schema_version"), file)
    for path, (is_valid, expected) in _RULES.items():
        _check(config, path, is_valid, expected, file)
    levels, sizes = config["levels"], config["categories"]
    if len(levels) != len(sizes):
        raise BundleCorruptError(f"{file}: {len(levels)} levels, but {len(sizes)} counts of categories")
    if config.get("sha256") != config_digest(config):
        raise BundleCorruptError(f"{file} is altered: its content does not match its own SHA-256")
    return config


def _check(
    config: dict[str, Any], path: str, is_valid: Callable[[Any], bool], expected: str, file: str
) -> None:
    """Check the value at ``path``: the keys to it. One with a question mark may be missing, with two also be null."""
    value: Any = config
    for key in path.split("."):
        name = key.rstrip("?")
        if name not in value:
            if key == name:
                raise BundleCorruptError(f"{file} lacks {path.replace('?', '')!r}")
            return
        value = value[name]
        if value is None and key.endswith("??"):
            return
    if not is_valid(value):
        raise BundleCorruptError(f"{file}: {path.replace('?', '')!r} must be {expected}, got {shown(value)}")


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of the content of ``config.json`` without the key ``sha256``, whatever its layout."""
    content = {key: value for key, value in config.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_file_name(name: str) -> bool:
    """Whether a bundle may list a file of this name; a name with a folder in it could lead out of the bundle."""
    return (
        Path(name).name == name
        and name not in ("", "..", CONFIG)
        and name.isprintable()
        and len(name.encode()) <= _LONGEST_NAME
    )


def _check_version(version: Any, file: str) -> None:
    if type(version) is not int or version < 1:
        raise BundleCorruptError(f"{file}: schema_version must be an integer ≥ 1, got {shown(version)}")
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


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_integer(least: int, largest: int) -> _Rule:
    return (
        lambda value: type(value) is int and least <= value <= largest,
        f"an integer from {least} to {largest:,}",
    )


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= 1


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # finite, as all that was parsed


def _is_bias(value: Any) -> bool:
    return _is_number(value) and abs(value) <= LARGEST


def _is_id_type(value: Any) -> bool:
    return value in ID_TYPES


def _is_log(value: Any) -> bool:
    return isinstance(value, str) and _LOG.fullmatch(value) is not None


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= _MOST_LEVELS
        and all(map(_is_string, value))
        and len(set(value)) == len(value)
    )


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_string, value))


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_COUNT[0], value))


def _are_edges(value: Any) -> bool:
    """Whether these are columns, each with the rising edges of its bins."""
    return isinstance(value, dict) and all(
        isinstance(edges, list)
        and all(map(_is_number, edges))
        and all(low < high for low, high in pairwise(edges))
        for edges in value.values()
    )


def _are_counts(value: Any) -> bool:
    """Whether these are sizes of a dataset: of each split with sessions the examples too."""
    if not isinstance(value, dict):
        return False
    sessions = [name.removesuffix("_sessions") for name in value if name.endswith("_sessions")]
    counts = [value.get(f"{split}_{what}") for split in sessions for what in ("sessions", "examples")]
    return all(type(count) is int and count >= 0 for count in counts)


def _are_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_files(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {MODEL, CATALOG} <= value.keys()
        and len(value) <= _MOST_FILES
        and all(is_file_name(name) and _is_file(name, about) for name, about in value.items())
    )


def _is_file(name: str, about: Any) -> bool:
    largest = _LARGEST_GRAPH if name.endswith(".onnx") else _LARGEST_FILE
    if not isinstance(about, dict) or not {"sha256", "bytes"} <= about.keys():
        return False
    digest, size = about["sha256"], about["bytes"]
    is_digest = isinstance(digest, str) and _SHA256.fullmatch(digest) is not None
    return is_digest and type(size) is int and 0 <= size <= largest


_COUNT: Final[_Rule] = _is_integer(1, 1 << 40)
_SHARE: Final[_Rule] = _is_share, "a number in (0, 1]"
_OBJECT: Final[_Rule] = _is_object, "an object"

# Everything that any code reads of config.json; see `_check` for the paths.
_RULES: Final[dict[str, _Rule]] = {
    "created_by": (_is_string, "a string"),
    "item_id_type": (_is_id_type, "'int64' or 'string'"),
    "category_id_type": (_is_id_type, "'int64' or 'string'"),
    "items": _COUNT,
    "dimension": _is_integer(1, MAX_DIMENSION),
    "levels": (_are_names, f"a list of 1 to {_MOST_LEVELS} distinct names"),
    "categories": (_are_sizes, "a list of integers ≥ 1"),
    "max_length": _is_integer(1, 1 << 20),
    "candidate_share": _SHARE,
    "calibration?": _OBJECT,
    "calibration?.top_p": _SHARE,
    "calibration?.session_categories": _OBJECT,
    "calibration?.session_categories.top_p": _SHARE,
    "calibration?.kept": _SHARE,
    "calibration?.examples": _is_integer(0, 1 << 60),
    "calibration?.split": (_is_string, "a string"),
    "calibration?.trained_on": (_is_flag, "true or false"),
    "cold_start_bias?": (_is_bias, f"a number of at most {LARGEST:g}"),
    "model": _OBJECT,
    "preprocessing": _OBJECT,
    "preprocessing.text??": _OBJECT,
    "preprocessing.text??.buckets": _is_integer(1, 1 << 40),
    "preprocessing.text??.max_tokens": _is_integer(1, 1 << 20),
    "preprocessing.numbers??": (_are_edges, "an object of rising numbers by column"),
    "preprocessing.vectors??": _OBJECT,
    "preprocessing.vectors??.width": _is_integer(1, 1 << 20),
    "preprocessing.vectors??.from": (_is_string, "a string"),
    "data": _OBJECT,
    "data.logs?": (_are_strings, "a list of strings"),
    "data.counts?": (_are_counts, "an object with counts of sessions and of examples"),
    "metrics": _OBJECT,
    "metrics.trained_on?": (_is_string, "a string"),
    "metrics.validation?": (_are_metrics, "an object of numbers"),
    "delta?": _OBJECT,
    "delta?.items": _is_integer(0, 1 << 40),
    "feed?": _OBJECT,
    "feed?.log": (_is_log, "32 hexadecimal digits"),
    "feed?.position": _is_integer(0, 1 << 60),
    "files": (
        _are_files,
        f"an object of SHA-256 and bytes by file name, with {MODEL} and {CATALOG}, of at most {_MOST_FILES} files",
    ),
}
