"""The cache of text vectors: what a text encoder has made, so that it need not be made again.

A folder for each encoder, named by the digest of its files, holds tables that appear whole or not at all. So several
processes may add to it at once, and what one that was stopped has added is there for the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.atomic import if_possible, write_file
from hiersrec_sdk.bundle.cache import cache_folder
from hiersrec_sdk.bundle.tables import read_tables, write_tables
from hiersrec_sdk.errors import BundleError

_TEXTS: Final = "texts"
_NAME: Final = re.compile(r"[0-9a-f]{64}")  # of an encoder's folder
_TABLE: Final = ".safetensors"
_KEY: Final = 16  # bytes; two texts of a billion share one with a chance of 1 in 10^20


class TextCache:
    """The vectors that one encoder has made. Where the cache cannot be read or written, it holds nothing.

    Args:
        digest: of the encoder, SHA-256 in hexadecimal.
        width: of its vectors.
    """

    def __init__(self, digest: str, width: int) -> None:
        self._width = width
        try:
            self._folder: Path | None = cache_folder() / _TEXTS / digest
        except BundleError:  # there is no home folder
            self._folder = None

    def find(self, texts: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors float32 [width] of those ``texts`` that are in the cache."""
        wanted = {_key(text): text for text in texts}
        found: dict[str, NDArray[np.float32]] = {}
        for path in self._tables():
            for key, vector in self._rows(path):
                if key in wanted:
                    found[wanted[key]] = vector.copy()  # a view would keep the file open
        if self._folder is not None:
            with if_possible():
                os.utime(self._folder)  # when it was used last
        return found

    def add(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add the vectors float32 [texts, width] of ``texts``."""
        if self._folder is None:
            return
        keys = np.frombuffer(b"".join(map(_key, texts)), dtype=np.uint8).reshape(-1, _KEY)
        path = self._folder / f"{secrets.token_hex(16)}{_TABLE}"
        with if_possible():
            write_file(path, lambda part: write_tables(part, {"keys": keys, "vectors": vectors}))

    def _tables(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError), if_possible():
            return [] if self._folder is None else sorted(self._folder.glob(f"*{_TABLE}"))
        return []

    def _rows(self, path: Path) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        """Keys and vectors; none of a file that is damaged."""
        try:
            tables = read_tables(path)
        except BundleError:
            return
        keys, vectors = tables.get("keys"), tables.get("vectors")
        if keys is None or vectors is None or keys.dtype != np.uint8 or vectors.dtype != np.float32:
            return
        fits = keys.shape == (*keys.shape[:1], _KEY) and vectors.shape == (len(keys), self._width)
        if fits and np.isfinite(vectors).all():
            yield from zip(map(bytes, keys), vectors, strict=True)


@dataclass(frozen=True)
class TextEntry:
    """The vectors of one encoder in the cache.

    Attributes:
        path: its folder.
        size: bytes of its files.
        used: when they were read or written last, in seconds since the epoch.
    """

    path: Path
    size: int
    used: float


def text_entries() -> list[TextEntry]:
    """What is in the cache, what was used last first.

    Raises:
        BundleError: there is no cache folder.
    """
    found = []
    folder = cache_folder() / _TEXTS
    with if_possible():
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if _NAME.fullmatch(path.name) and path.is_dir():
                sizes = [file.lstat().st_size for file in path.rglob("*") if file.is_file()]
                found.append(TextEntry(path, sum(sizes), path.stat().st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def prune_texts(older_than: float = 0.0) -> list[TextEntry]:
    """Remove the vectors of encoders that were not used in the last ``older_than`` days; returns what was removed.

    Raises:
        BundleError: there is no cache folder.
    """
    before = time.time() - 86_400 * older_than
    old = [entry for entry in text_entries() if entry.used <= before]
    for entry in old:
        shutil.rmtree(entry.path, ignore_errors=True)
    return [entry for entry in old if not entry.path.exists()]


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_KEY).digest()
