"""The cache of unpacked bundles: folders named by the SHA-256 in their ``config.json``.

Whoever has opened an entry holds a shared lock of its folder, so that pruning leaves it alone. Whoever unpacks or
removes one holds the lock file beside it. Removing an entry does not harm those who have opened it.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiersrec_sdk.atomic import PART, if_possible, is_time_limit
from hiersrec_sdk.bundle.opened import OpenFolder
from hiersrec_sdk.errors import BundleError
from hiersrec_sdk.paths import real_path
from hiersrec_sdk.systems import fcntl

_BUNDLES: Final = "bundles"
_LOCK: Final = ".lock"
_NAME: Final = re.compile(r"([0-9a-f]{64})(\..*)?")  # of an entry; its lock, and what a killed process left
_LIMIT: Final = "HIERSREC_LARGEST_BUNDLE"
_PROBES: Final = 20  # times that a lock is asked for
_PROBE_SECONDS: Final = 0.002
_LARGEST: Final = 64 * 10**9  # bytes


@dataclass(frozen=True)
class Entry:
    """An unpacked bundle.

    Attributes:
        path: its folder.
        size: bytes of its files.
        used: when it was opened last, in seconds since the epoch.
        in_use: whether a process has it open, as far as the file system can tell.
        whole: False for what a killed process has left.
    """

    path: Path
    size: int
    used: float
    in_use: bool
    whole: bool


def cache_folder() -> Path:
    """The folder that bundles are unpacked to.

    ``$HIERSREC_CACHE``, else ``$XDG_CACHE_HOME/hiersrec``, else ``~/.cache/hiersrec``.

    Raises:
        BundleError: neither variable is set, and there is no home folder.
    """
    ours, shared = os.environ.get("HIERSREC_CACHE"), Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if ours:
            return Path(ours).expanduser().absolute()
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "hiersrec"
    except RuntimeError as error:
        raise BundleError(f"there is no folder to unpack to: {error}; set HIERSREC_CACHE") from error


def entry_of(digest: str) -> Path:
    """The folder of the bundle whose ``config.json`` has this SHA-256."""
    return cache_folder() / _BUNDLES / digest


def is_in_cache(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` lies in the cache of unpacked bundles, where a saved bundle would be overwritten."""
    try:
        return real_path(Path(path)).is_relative_to(real_path(cache_folder() / _BUNDLES))
    except (BundleError, TypeError, ValueError):  # there is no cache, or this is not a path
        return False


def largest() -> int:
    """The most bytes of a bundle that is unpacked: ``$HIERSREC_LARGEST_BUNDLE``, else 64 GB.

    Raises:
        BundleError: the variable is no number of bytes.
    """
    text = os.environ.get(_LIMIT, "").strip()
    if not text:
        return _LARGEST
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise BundleError(f"{_LIMIT} must be a number of bytes, such as {_LARGEST}, got {text[:80]!r}")
    return int(text)


def check_fits(size: int, label: str) -> None:
    """Check that a bundle of ``size`` bytes may be unpacked, before anything is written.

    Raises:
        BundleError: it is larger than :func:`largest`, or than what the disk has free.
        OSError: there is no such disk.
    """
    limit = largest()
    if size > limit:
        raise BundleError(
            f"{label} would have {size:,} bytes when unpacked, and the limit is {limit:,}: {_LIMIT} sets another"
        )
    folder = cache_folder()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise BundleError(
            f"{label} would have {size:,} bytes when unpacked, and {folder} has {free:,} free: free some, as by "
            "hiersrec cache prune, or set HIERSREC_CACHE to a folder of another disk"
        )


def mark_used(folder: OpenFolder) -> None:
    """Note that an entry was opened, and lock it against pruning for as long as it is open."""
    with if_possible():  # a cache that may only be read is one too
        os.utime(folder.fileno())
    for _ in range(_PROBES):  # others that look whether it is in use lock it for a moment
        if folder.lock():
            return
        time.sleep(_PROBE_SECONDS)
    # it is being removed, which does no harm any more


@contextmanager
def locked(entry: Path, wait: bool = True) -> Iterator[bool]:
    """Lock ``entry`` against others that unpack or remove it, and remove what killed processes have left of it.

    Yields:
        Whether it is locked; False where another has the lock and ``wait`` is false.

    Raises:
        OSError: the cache cannot be written.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    path = entry.with_name(entry.name + _LOCK)
    while True:
        with path.open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if not _is_at(lock.fileno(), path):
                continue  # who had the lock has removed its file
            for part in entry.parent.glob(f"{entry.name}{PART}*"):
                remove(part)
            yield True
            return


def remove(path: Path) -> None:
    """Remove what is at ``path``, a folder or, where an entry was something else, anything."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def entries() -> list[Entry]:
    """What is in the cache, what was used last first.

    Raises:
        BundleError: the cache cannot be read.
    """
    found = []
    for path in _listed():
        match = _NAME.fullmatch(path.name)
        if match is None or path.name.endswith(_LOCK):
            continue
        try:
            size = sum(file.lstat().st_size for file in path.rglob("*"))
            found.append(Entry(path, size, path.stat().st_mtime, _is_in_use(path), match[2] is None))
        except OSError as error:  # it was removed meanwhile
            if is_time_limit(error):
                raise
            continue
    return sorted(found, key=lambda entry: -entry.used)


def prune(older_than: float = 0.0, in_use: bool = False) -> list[Entry]:
    """Remove unpacked bundles, and what killed processes have left.

    Args:
        older_than: days; keep what was opened since.
        in_use: also remove what processes have open, which goes on working for them.

    Returns:
        What was removed.

    Raises:
        BundleError: the cache cannot be read or written.
    """
    before = time.time() - 86_400 * older_than
    old = [entry for entry in entries() if entry.used <= before or not entry.whole]
    removed = []
    for name in sorted({match[1] for path in _listed() if (match := _NAME.fullmatch(path.name))}):
        removed += _pruned(name, [entry for entry in old if entry.path.name.startswith(name)], in_use)
    return removed


def _pruned(name: str, old: list[Entry], in_use: bool) -> list[Entry]:
    """Remove the ``old`` folders of one entry; return those."""
    whole = entry_of(name)
    try:
        with locked(whole, wait=False) as is_ours:
            if not is_ours:  # it is being unpacked
                return []
            if any(entry.whole for entry in old) and (in_use or not _is_in_use(whole)):
                shutil.rmtree(whole, ignore_errors=True)
            if not whole.exists():
                whole.with_name(name + _LOCK).unlink(missing_ok=True)
    except OSError as error:
        if is_time_limit(error):
            raise
        raise BundleError(f"{whole.parent} cannot be pruned: {error}") from error
    return [entry for entry in old if not entry.path.exists()]


def _listed() -> list[Path]:
    folder = cache_folder() / _BUNDLES
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        if is_time_limit(error):
            raise
        raise BundleError(f"{folder} cannot be read: {error}") from error


def _is_in_use(path: Path) -> bool:
    try:
        return not OpenFolder(path).lock(exclusive=True)
    except OSError as error:
        if is_time_limit(error):
            raise
        return False


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
