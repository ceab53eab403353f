"""What other systems lack of Linux, in one place. Windows has no locks on folders, no fork, and opens no folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

CLOSED_IN_CHILDREN: int = getattr(
    os, "O_CLOEXEC", 0
)  # a flag of os.open, which on Windows goes without saying

if sys.platform == "win32":
    import errno
    from types import SimpleNamespace

    def _flock(descriptor: object, how: int) -> None:
        """As on a file system without locks, which every caller expects."""
        raise OSError(errno.ENOTSUP, "this system has no such locks")

    fcntl = SimpleNamespace(flock=_flock, LOCK_SH=1, LOCK_EX=2, LOCK_NB=4, LOCK_UN=8)

    def open_folder(path: str | Path) -> tuple[int, os.stat_result]:
        """A descriptor that holds the place of a folder's, and what the folder is."""
        found = Path(path).stat()
        if not Path(path).is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        return os.open(os.devnull, os.O_RDONLY), found

    def sync(path: Path) -> None:
        """Wait until the file ``path`` has reached the disk; of folders nobody can."""
        if not path.is_dir():
            descriptor = os.open(path, os.O_RDWR | os.O_BINARY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def read_at(descriptor: int, size: int, position: int) -> bytes:
        """Up to ``size`` bytes from ``position`` on. Two threads must not read at once."""
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, size)

    def after_fork_in_child(function: Callable[[], object]) -> None:
        """Nothing: no process is forked."""

else:
    import fcntl as fcntl

    read_at = os.pread

    def open_folder(path: str | Path) -> tuple[int, os.stat_result]:
        """A descriptor of the folder ``path``, and what it is."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        return descriptor, os.fstat(descriptor)

    def sync(path: Path) -> None:
        """Wait until the file or folder ``path`` has reached the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def after_fork_in_child(function: Callable[[], object]) -> None:
        """Have a forked child call ``function`` first of all."""
        os.register_at_fork(after_in_child=function)
