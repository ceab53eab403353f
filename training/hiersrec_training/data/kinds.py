"""Kinds of files, which their suffixes tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

SEPARATORS: Final = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
PACKED: Final = (".gz", ".zst", ".bz2", ".xz", ".zip")
JSON: Final = (".jsonl", ".ndjson", ".json")


def suffix_of(path: Path) -> str:
    """The suffix that says the kind of file, without the one of its packing, in lower case."""
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def is_text(source: Any) -> bool:
    """Whether a source has an encoding: neither a frame, nor Parquet."""
    return isinstance(source, str | Path) and suffix_of(Path(source)) != ".parquet"


def is_delimited(source: Any) -> bool:
    """Whether a source is text with separators between its fields."""
    return is_text(source) and suffix_of(Path(source)) not in JSON
