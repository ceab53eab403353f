"""Files and folders that appear whole or not at all: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part-"  # in the name of whatever is not whole yet; a killed process may leave it behind

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path``, to write in. At the end every file is flushed and it becomes ``path``.

    Missing parents are made. After an error the temporary folder is removed, and ``path`` is as it was.

    Args:
        path: the folder to make.
        replace: whether a folder that is there is replaced, in one step. Otherwise it is an error.

    Raises:
        FileExistsError: ``path`` exists and is not to be replaced.
        OSError: a write failed, or this system cannot exchange two folders.
    """
    if not replace and os.path.lexists(path):
        raise _exists(path)
    part = _beside(path)
    try:
        part.mkdir(parents=True)
        yield part
        for folder, _, files in os.walk(part, topdown=False):
            for name in files:
                sync(Path(folder) / name)
            sync(Path(folder))
        if not os.path.lexists(path):
            part.rename(path)
        elif replace:
            _exchange(part, path)
        else:
            raise _exists(path)
        sync(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # what was written, or what was replaced


def write_file(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write the file ``path`` in one step. A file that is there is replaced.

    Missing parents are made. After an error ``path`` is as it was.

    Args:
        path: the file.
        content: its bytes, its text, or a function that writes the temporary file it is given.

    Raises:
        OSError: a write failed; and whatever ``content`` raises.
    """
    part = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            part.write_bytes(content)
        elif isinstance(content, str):
            part.write_text(content, encoding="utf-8")
        else:
            content(part)
        sync(part)
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
    return path.with_name(f"{path.name}{PART}{os.getpid()}-{secrets.token_hex(4)}")


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} exists already: choose another folder or remove it")


def _exchange(one: Path, other: Path) -> None:
    """Swap the names of two folders, in one step."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2") or libc.renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    ):
        raise OSError("this system cannot replace a folder in one step: write a new one")
