"""The JSON files of dataset and run folders, read without trust: a folder may be damaged, or somebody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """The value in the file ``path``.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read, or is no regular file, such as a named pipe, which would be waited for.
        ValueError: it is not JSON in UTF-8, or has a number that is not finite.
    """
    if path.exists() and not path.is_file():
        raise OSError("it is not a regular file")
    try:
        return json.loads(path.read_text("utf-8"), parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number of JSON")
