"""Files and folders that appear whole or not at all: written beside their place, flushed to disk, then renamed.

What is not whole yet lies in a part: a folder beside the final name, which its writer keeps locked. A part without a
lock was left by a writer that was killed, or is what another folder has replaced: whoever writes to the same name
later removes it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from hiersrec_sdk.systems import fcntl, open_folder, sync

PART: Final = ".part-"  # in the name of every part
_AFTER_PART: Final = re.compile(r"\d+-[0-9a-f]{8}")

_TASK_QUEUES: Final = frozenset({"billiard", "celery", "rq"})  # packages whose time limits are signals
_AT_FDCWD: Final = -100
_NOREPLACE: Final = 1  # flags of renameat2
_EXCHANGE: Final = 2
_OF_MACOS: Final = {_NOREPLACE: 4, _EXCHANGE: 2}  # flags of renamex_np

_thread = threading.local()  # .alone: a weak reference to the lock that this thread holds in alone()


@contextmanager
def new_folder(
    path: Path, *, replace: bool = False, check: Callable[[Path], object] | None = None
) -> Iterator[Path]:
    """A temporary folder beside ``path``, to write in. At the end every file is flushed and it becomes ``path``.

    Missing parents are made. After an error, and after whatever else ends it early, ``path`` is what it was or what
    it was to be. A folder that replaces another has its mode, and its owner where that is permitted; so do its files,
    each that of its name.

    Args:
        path: the folder to make.
        replace: whether a folder that is there is replaced, in one step. Otherwise it is an error.
        check: raises where what is at the path it is given, if anything, must not be replaced. It is called with
            ``path`` while other writers that use this function wait, and with the folder that came out in exchange:
            if that one must not be replaced, it is put back.

    Raises:
        FileExistsError: ``path`` exists and is not to be replaced.
        OSError: a write failed, or this system cannot exchange two folders.
    """
    if not replace and os.path.lexists(path):
        raise _exists(path)
    mode = 0o700 if os.path.lexists(path) else 0o777  # that of what is there may be as narrow
    with _part_of(path, mode) as part:
        yield part.path
        if replace:
            _take_modes(part.path, path)
        for folder, _, files in os.walk(part.path, topdown=False):
            for name in files:
                sync(Path(folder) / name)
            sync(Path(folder))
        with alone(path.parent):
            if check is not None:
                check(path)
            if not os.path.lexists(path):
                _rename(part.path, path, _NOREPLACE)
            elif replace:
                _exchange(part, path, check)
            else:
                raise _exists(path)
        sync(path.parent)


def write_file(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write the file ``path`` in one step. A file that is there is replaced, and its mode is kept.

    Missing parents are made. After an error ``path`` is as it was.

    Args:
        path: the file.
        content: its bytes, its text, or a function that writes the temporary file it is given.

    Raises:
        OSError: a write failed; and whatever ``content`` raises.
    """
    with _part_of(path, 0o700) as part:
        file = part.path / path.name
        if isinstance(content, bytes):
            file.write_bytes(content)
        elif isinstance(content, str):
            file.write_text(content, encoding="utf-8")
        else:
            content(file)
        with suppress(FileNotFoundError):
            _take_mode(file, os.lstat(path))
        sync(file)
        file.replace(path)
        sync(path.parent)


def remove_parts(path: Path) -> None:
    """Remove the parts beside ``path`` that nobody writes any more. What cannot be removed stays."""
    found = []
    with if_possible():
        start = path.name + PART
        names = [each.name for each in path.parent.iterdir() if each.name.startswith(start)]
        parts = [path.with_name(name) for name in names if _AFTER_PART.fullmatch(name, len(start))]
        if parts:
            with alone(path.parent) as is_alone:  # nobody is between the exchange of a folder and its check
                found = [(part, lock) for part in parts if is_alone and (lock := _of_nobody(part))]
    for part, lock in found:
        _remove(part)
        lock.close()


def is_time_limit(error: BaseException) -> bool:
    """Whether a signal handler has raised an error: ``TimeoutError``, which Python takes for one of the system, or the
    time limit of a task queue."""
    if isinstance(error, TimeoutError):
        return error.errno is None
    return is_of_a_task_queue(error)


def is_of_a_task_queue(error: BaseException) -> bool:
    """Whether it is the time limit of a task queue. No more is known where libraries raise ``TimeoutError`` too."""
    return type(error).__module__.partition(".")[0] in _TASK_QUEUES


class _IfPossible:
    # no generator: since Python 3.12 one that swallows an error keeps it, and the caller's frames, in a cycle
    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return isinstance(error, OSError) and not is_time_limit(error)


def if_possible() -> AbstractContextManager[None]:
    """Go on after an error of the system."""
    return _IfPossible()


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Exclude all other threads and processes that call this for the same folder.

    Gives False where they cannot be excluded: the file system has no locks, or a signal handler has interrupted this
    thread just there, which it must not wait for.
    """
    lock, outer = _Lock(folder), getattr(_thread, "alone", lambda: None)()
    if outer is not None and not outer.is_over and lock.is_of(outer):
        yield False
        return
    _thread.alone = weakref.ref(lock)
    try:
        lock.take(wait=True)
        yield lock.is_held
    finally:
        try:  # without a call before it: a signal handler that raises cannot come first
            fcntl.flock(lock.descriptor, fcntl.LOCK_UN)
        except OSError as error:
            if is_time_limit(error):
                raise
        lock.close()


class _Lock:
    """A lock on a folder, which ends with the object at the latest.

    Attributes:
        descriptor: of the folder.
        is_held: whether it was locked; False where the file system has no locks.
        is_over: whether the descriptor is closed, or not open yet.
    """

    is_held, is_over = False, True

    def __init__(self, folder: Path) -> None:
        self.descriptor, self._folder = open_folder(folder)
        self.is_over = False

    def close(self) -> None:
        """Unlock it. Leaving that to ``__del__`` would hide an exception that a signal handler raises there."""
        if not self.is_over:
            self.is_over = True
            try:
                with if_possible():  # closing it would not do where a forked child has it open too
                    fcntl.flock(self.descriptor, fcntl.LOCK_UN)
            finally:
                os.close(self.descriptor)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if not self.is_over:
            close(self.descriptor)

    def take(self, wait: bool) -> bool:
        """Lock it; returns False where somebody else has."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self.is_held = True
        except BlockingIOError:
            return False
        except OSError as error:  # this file system has no locks
            if is_time_limit(error):
                raise
        return True

    def is_of(self, other: _Lock) -> bool:
        """Whether both are of one folder."""
        return os.path.samestat(self._folder, other._folder)

    def is_at(self, path: Path) -> bool:
        """Whether the folder is at ``path``."""
        try:
            return os.path.samestat(self._folder, os.lstat(path))
        except FileNotFoundError:
            return False


class _Part:
    """A part that is written.

    Attributes:
        path: its folder.
        lock: of the folder that was made for it, wherever that is by now.
        is_spare: whether what is at the path is nobody else's, and may be removed.
    """

    def __init__(self, path: Path, lock: _Lock) -> None:
        self.path, self.lock, self.is_spare = path, lock, True


@contextmanager
def _part_of(path: Path, mode: int) -> Iterator[_Part]:
    """A new part beside ``path``, and others removed."""
    _make_folder(path.parent)
    remove_parts(path)
    part = _new_part(path, mode)
    try:
        yield part
    finally:
        try:
            if part.is_spare:
                _remove(part.path)
        finally:
            part.lock.close()


def _new_part(path: Path, mode: int) -> _Part:
    while True:
        part = path.with_name(f"{path.name}{PART}{os.getpid()}-{secrets.token_hex(4)}")
        part.mkdir(mode)
        try:
            lock = _Lock(part)
        except FileNotFoundError:
            continue
        if lock.take(wait=False) and lock.is_at(part):
            return _Part(part, lock)
        # before it was locked somebody took it for one that a killed writer has left


def _of_nobody(part: Path) -> _Lock | None:
    """A lock on a part that nobody writes; None: somebody does, or that cannot be known."""
    try:
        lock = _Lock(part)
        return lock if lock.take(wait=False) and lock.is_held and lock.is_at(part) else None
    except OSError as error:
        if is_time_limit(error):
            raise
        return None


def _exchange(part: _Part, path: Path, check: Callable[[Path], object] | None) -> None:
    """Swap the part and the folder ``path``, in one step; swap them back where ``check`` refuses what came out."""
    if not part.lock.is_at(part.path):
        raise OSError(f"{part.path} was removed while it was written")
    part.is_spare = False
    try:
        _rename(part.path, path, _EXCHANGE)
        if check is not None:
            check(part.path)
    except BaseException:
        _put_back(part, path)
        part.is_spare = True
        raise
    part.is_spare = True


def _put_back(part: _Part, path: Path) -> None:
    """Undo an exchange, if there was one. Whoever has replaced ``path`` meanwhile, without a lock, is put back too."""
    put = part.lock
    while not put.is_at(part.path):
        came = _Lock(part.path)
        _rename(part.path, path, _EXCHANGE)
        if put.is_at(part.path):
            return
        put = came


def _rename(source: Path, target: Path, flag: int) -> None:
    """Rename a folder to a name that nothing has, or swap the names of two."""
    libc: Any = None if sys.platform == "win32" else ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(source), os.fsencode(target)
    code = errno.ENOSYS
    if hasattr(libc, "renameat2"):
        if not libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flag):
            return
        code = ctypes.get_errno()
    elif hasattr(libc, "renamex_np"):
        if not libc.renamex_np(*names, _OF_MACOS[flag]):
            return
        code = ctypes.get_errno()
    if code not in (
        errno.ENOSYS,
        errno.EINVAL,
        errno.EOPNOTSUPP,
        errno.ENOTSUP,
        errno.EXDEV,
    ):  # EXDEV: of an overlay
        raise OSError(code, os.strerror(code), str(target))
    if flag == _EXCHANGE:
        raise OSError("this file system cannot replace a folder in one step: write a new one")
    if os.path.lexists(target):
        raise _exists(target)
    source.rename(target)


def _take_modes(new: Path, old: Path) -> None:
    """Give a folder and the files in it the modes and owners of those that they will replace."""
    try:
        folder = os.lstat(old)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(folder.st_mode):
        return
    _take_mode(new, folder)
    for file in new.iterdir():
        if file.is_file() and not file.is_symlink():
            try:
                _take_mode(file, os.lstat(old / file.name))
            except FileNotFoundError:  # the folder says who may read the files in it
                _take_mode(file, folder, 0o666)


def _take_mode(path: Path, like: os.stat_result, mask: int = 0o7777) -> None:
    if stat.S_ISLNK(like.st_mode) or os.path.samestat(os.lstat(path), like):
        return
    for owner, group in ((like.st_uid, -1), (-1, like.st_gid)):
        if hasattr(os, "chown"):
            with if_possible():
                os.chown(path, owner, group)
    path.chmod(stat.S_IMODE(like.st_mode) & mask)


def _make_folder(path: Path) -> None:
    """Make a folder and its parents, on the disk too."""
    if not path.is_dir():
        if path.parent != path:
            _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def _remove(folder: Path) -> None:
    with if_possible():
        folder.chmod(0o700)  # of a folder that was read-only
    shutil.rmtree(folder, ignore_errors=True)


def _exists(path: Path) -> FileExistsError:
    return FileExistsError(f"{path} exists already: choose another folder or remove it")
