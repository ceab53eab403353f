"""Files and folders that are opened once: whatever is at their path later, they stay the ones that were there."""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hiersrec_sdk.atomic import is_time_limit
from hiersrec_sdk.errors import BundleCorruptError, BundleError, BundleMissingError
from hiersrec_sdk.forks import fresh_in_children
from hiersrec_sdk.systems import CLOSED_IN_CHILDREN, fcntl, open_folder, read_at


def _flags(*names: str) -> int:
    """Those flags of ``os.open`` that this system has."""
    return sum(getattr(os, name, 0) for name in names)


# Without O_NONBLOCK the opening of a named pipe waits for a writer.
_FILE: Final = os.O_RDONLY | CLOSED_IN_CHILDREN | _flags("O_NONBLOCK", "O_NOCTTY", "O_BINARY")
_BLOCK: Final = 1 << 18
_Stat = Callable[[int], os.stat_result]
_SameStat = Callable[[os.stat_result, os.stat_result], bool]

_hashing = threading.RLock()  # held while a file is read again, so that one thread of many does it
fresh_in_children(sys.modules[__name__], "_hashing")


class _Descriptor:
    """A file descriptor that is closed with the object."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._opened: os.stat_result = os.fstat(descriptor)

    def fileno(self) -> int:
        """The descriptor, open as long as the object is there."""
        return self._descriptor

    def is_open(self, fstat: _Stat = os.fstat, samestat: _SameStat = os.path.samestat) -> bool:
        """Whether the descriptor is still this file's: a process that becomes a daemon may close all that it has."""
        try:
            return samestat(fstat(self._descriptor), self._opened)
        except OSError as error:
            if is_time_limit(error):
                raise
            return False

    # free-threaded Python may empty the modules before the last objects go, so the functions are held here
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if hasattr(self, "_opened") and self.is_open():
            close(self._descriptor)


class OpenFile(_Descriptor):
    """A regular file, open for reading.

    Attributes:
        label: what messages call it: its path, as a rule.
        size: its bytes when it was opened.
    """

    def __init__(self, path: str | Path, label: str, folder: int | None = None) -> None:
        """Open ``path``, in the folder with the descriptor ``folder`` if there is one.

        Raises:
            BundleMissingError: there is no such file.
            BundleCorruptError: it is a folder, a named pipe, a device or the like.
            BundleError: it cannot be opened.
        """
        try:
            # looked at first, since the opening of a device can do something
            kind = os.stat(path, dir_fd=folder).st_mode
            if stat.S_ISREG(kind):
                super().__init__(os.open(path, _FILE, dir_fd=folder))
                kind = self._opened.st_mode
        except FileNotFoundError:
            raise BundleMissingError(f"{label} is missing") from None
        except OSError as error:
            if is_time_limit(error):
                raise
            raise BundleError(f"{label} cannot be opened: {error.strerror}") from error
        if not stat.S_ISREG(kind):
            raise BundleCorruptError(f"{label} is no regular file")
        self.label = label
        self.size: int = self._opened.st_size
        self._modified: int = self._opened.st_mtime_ns
        self._altered: int | None = None  # a time of modification that other content has
        self._is_checked = False  # whether it was read whole, and had the SHA-256 that it should have
        self._copies: set[tuple[int, ...]] = set()  # what tells files with the same content

    def read(self) -> bytes:
        """Its content.

        Raises:
            BundleCorruptError: it has become shorter since it was opened.
            BundleError: it cannot be read.
        """
        try:
            content = b"".join(self.blocks())
        except MemoryError:
            raise BundleError(f"{self.label} has {self.size:,} bytes, more than there is memory") from None
        if len(content) != self.size:
            raise BundleCorruptError(f"{self.label} {_WRITTEN}")
        return content

    def blocks(self) -> Iterator[bytes]:
        """Its content in blocks, up to the size that it had when it was opened.

        Raises:
            BundleError: it cannot be read.
        """
        if not self.is_open():
            raise BundleError(
                f"{self.label} cannot be read: its descriptor was closed; load the bundle again"
            )
        position = 0
        while position < self.size:
            try:
                block = read_at(self._descriptor, min(_BLOCK, self.size - position), position)
            except OSError as error:
                if is_time_limit(error):
                    raise
                raise BundleError(f"{self.label} cannot be read: {error.strerror}") from error
            if not block:
                return
            position += len(block)
            yield block

    def sha256(self) -> str:
        """SHA-256 of its content, read anew and not through a map, where a file cut short would end the process."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()

    def map(self) -> mmap.mmap | bytes:
        """Its content as a read-only memory map, which outlives this object.

        Raises:
            BundleError: it cannot be mapped.
        """
        if not self.size:
            return b""  # which cannot be mapped
        try:
            return mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # out of address space; cut short
            if is_time_limit(error):
                raise
            raise BundleError(f"{self.label} cannot be mapped: {error}") from error

    def check(self, sha256: str) -> None:
        """Check that it has the content with this SHA-256. It is read once; and again, if it was written to.

        Raises:
            BundleCorruptError: it has another content.
            BundleError: it cannot be read.
        """
        if self._is_checked:
            self.check_unchanged(sha256)
        elif self.sha256() != sha256:
            raise BundleCorruptError(f"{self.label} is altered: its SHA-256 is not the one in config.json")
        self._is_checked = True

    def is_copy(self, path: Path, sha256: str) -> bool:
        """Whether the file ``path`` has the content with this SHA-256, as this one; one that is known is not read."""
        about = path.stat()
        if os.path.samestat(about, self._opened) or _told_by(about) in self._copies:
            return True
        other = OpenFile(path, str(path))
        if other.size != self.size or other.sha256() != sha256:
            return False
        self.know_copy(about)
        return True

    def know_copy(self, about: os.stat_result) -> None:
        """Take the file ``about`` for one with the same content, until it is written to."""
        self._copies.add(_told_by(about))

    def check_unchanged(self, sha256: str) -> None:
        """Check that it still has the content with this SHA-256 that it had when it was opened.

        This costs about a microsecond. Only if it was written to, or touched, it is read again, once.

        Raises:
            BundleCorruptError: it has another content.
        """
        try:
            now = os.fstat(self._descriptor)
        except OSError as error:  # somebody has closed it, and there is nothing to ask
            if is_time_limit(error):
                raise
            return
        # Not the time of its inode's change: a hard link changes that.
        if now.st_mtime_ns != self._modified or now.st_size != self.size:
            self._check_again(sha256)

    def _check_again(self, sha256: str) -> None:
        if not self.is_open():  # somebody has closed it, and it is another file's by now
            return
        with _hashing:
            now = os.fstat(self._descriptor)
            if now.st_mtime_ns == self._modified and now.st_size == self.size:
                return  # another thread has read it meanwhile
            if now.st_size == self.size and now.st_mtime_ns != self._altered and self.sha256() == sha256:
                self._modified = now.st_mtime_ns
                return
            self._altered = now.st_mtime_ns
        raise BundleCorruptError(f"{self.label} {_WRITTEN}")


def _told_by(about: os.stat_result) -> tuple[int, ...]:
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


_WRITTEN: Final = (
    "was written to since it was loaded: deploy a bundle by renaming its folder, and load it again"
)


class OpenFolder(_Descriptor):
    """A folder, whose files are opened by their names in it, whatever is at its path by now.

    Attributes:
        path: where it was when it was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open the folder ``path``.

        Raises:
            OSError, ValueError: there is none, or it cannot be opened.
        """
        descriptor, self._folder = open_folder(path)
        super().__init__(descriptor)
        self.path = path

    def open(self, name: str) -> OpenFile:
        """Open the file ``name``; errors as :class:`OpenFile`."""
        if os.open not in os.supports_dir_fd:
            return OpenFile(self.path / name, str(self.path / name))
        return OpenFile(name, str(self.path / name), self._descriptor)

    def is_still_there(self) -> bool:
        """Whether it is at its path. While it is open, no other folder can have its inode."""
        try:
            return os.path.samestat(self._folder, self.path.stat())
        except OSError as error:
            if is_time_limit(error):
                raise
            return False

    def lock(self, exclusive: bool = False) -> bool:
        """Lock the folder for as long as it is open; False where another lock is in the way.

        A process that is forked shares the lock. Where the file system has none, nothing is locked.
        """
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # a file system without locks
            if is_time_limit(error):
                raise
            return True
        return True
