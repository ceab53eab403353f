"""Files: whether they are there, what they hold when they are unpacked, and errors of reading them."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import polars as pl

from hiersrec_sdk.errors import DataError

OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)  # of disk, or of open files
_PACKED: dict[str, Callable[[Path], Any]] = {".bz2": bz2.open, ".xz": lzma.open}


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file as bytes, unpacked."""
    suffix = path.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            # macOS adds a folder of its own
            entries = (entry for entry in archive.infolist() if not entry.is_dir())
            members = [entry for entry in entries if not entry.filename.startswith("__MACOSX/")]
            if len(members) != 1:
                raise DataError(
                    f"{path} holds {len(members)} files: unpack it, and give the one that is meant"
                )
            with archive.open(members[0]) as file:
                yield file
        return
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    unpack: Any = gzip.open if packed else _PACKED.get(suffix, Path.open)
    with unpack(path, "rb") as file:
        yield file


def existing(path: Path) -> None:
    """Raise :class:`DataError` where ``path`` is not a file."""
    if not path.exists():
        raise DataError(f"there is no file {path}")
    if path.is_dir():
        raise DataError(
            f"{path} is a folder: name its files, or give a pattern such as '{path}/**/*.parquet' with --glob"
        )
    if not path.is_file():
        raise DataError(f"{path} is not a file")


@contextmanager
def reading(path: Path, explain: Callable[[], DataError | None] = lambda: None) -> Iterator[None]:
    """Turn errors of Polars and the system into a :class:`DataError` that names the file and the cause."""
    try:
        yield
    except (
        pl.exceptions.PolarsError,
        OSError,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        RuntimeError,  # an encrypted zip
        NotImplementedError,  # a zip packed in another way
    ) as error:
        if isinstance(error, OSError) and error.errno in OUT_OF_ROOM:
            raise  # no fault of the file
        found = explain()
        if found is not None:
            raise found from None
        cause: Any = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read: {cause}") from error
