"""Files and folders that are complete or absent: written beside, flushed to the disk, renamed."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """A folder to write in, beside ``path``; it becomes ``path`` at the end, and is removed if anything went wrong.

    Args:
        path: the folder to make; its parents are made too.
        replace: exchange it in one step with a folder that is at ``path``.

    Raises:
        FileExistsError: ``path`` exists, and ``replace`` is false.
        OSError: the folder cannot be written, or this system cannot exchange two folders.
    """
    if not replace and os.path.lexists(path):
        raise FileExistsError(f"{path} exists already; choose another folder or remove it")
    part = _beside(path)
    try:
        part.mkdir(parents=True)
        yield part
        for written in (*part.rglob("*"), part):
            sync(written)
        if replace and os.path.lexists(path):
            _exchange(part, path)
        else:
            part.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # what was not finished, or what was there before


def write_file(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write the file ``path``; one that is there is replaced in one step.

    Args:
        path: the file.
        content: its bytes, or a function that writes them to an open file.

    Raises:
        OSError: it cannot be written; what was there stays.
    """
    part = _beside(path)
    try:
        with part.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the file or folder ``path`` has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.part-{os.getpid()}-{secrets.token_hex(4)}")


def _exchange(one: Path, other: Path) -> None:
    """Swap the names of two folders in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2") or libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    ):
        raise OSError(errno.ENOTSUP, "this system cannot replace a folder in one step: write to a new one")
