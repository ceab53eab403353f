"""Folders that are whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from hiersrec_sdk.errors import DataError


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside ``path`` to write in; it becomes ``path`` at the end, or is removed if anything went wrong.

    Raises:
        DataError: ``path`` exists, or a write failed.
    """
    if path.exists():
        raise DataError(f"{path} exists already; choose another folder or remove it")
    part = path.with_name(f"{path.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} could not be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
