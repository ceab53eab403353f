"""Opens bundles from wherever they are: a folder, a zip file, the bytes of one, a URL.

Tables are mapped into memory, so a bundle that is not a local folder is unpacked once, into a cache. Its folder there
is named by the SHA-256 that ``config.json`` holds of its own content, which covers every other file but
the model card. ``config.json`` is checked first; then only the files that it lists are read, up to the sizes that it
says, and a card of some megabytes.
"""

from __future__ import annotations

import io
import logging
import lzma
import os
import re
import struct
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final, TypeGuard

from hiersrec_sdk.atomic import PART, is_of_a_task_queue, is_time_limit, new_folder
from hiersrec_sdk.bundle import cache
from hiersrec_sdk.bundle.folder import Bundle, check_card, check_file, open_bundle
from hiersrec_sdk.bundle.opened import OpenFile, OpenFolder
from hiersrec_sdk.bundle.schema import CARD, CONFIG, LARGEST_CARD, LARGEST_CONFIG, parse_config
from hiersrec_sdk.errors import (
    BundleCorruptError,
    BundleError,
    BundleMissingError,
    HierSRecError,
    InvalidPathError,
    MissingExtraError,
)
from hiersrec_sdk.paths import as_path
from hiersrec_sdk.shown import shortened, shown

Source = str | os.PathLike[str] | bytes | bytearray | memoryview
# opens a file of the bundle by its name; FileNotFoundError or KeyError: none
_Open = Callable[[str], IO[bytes]]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::.+)?://")
_BLOCK: Final = 1 << 20


def _zstandard_errors() -> tuple[type[Exception], ...]:
    try:  # since Python 3.14
        return (import_module("compression.zstd").ZstdError,)
    except ImportError:
        return ()


# Errors that reading a damaged zip file raises, beside OSError.
_UNZIP_ERRORS: Final[tuple[type[Exception], ...]] = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    MemoryError,
    RuntimeError,
    ValueError,
    *_zstandard_errors(),
)

_log = logging.getLogger(__name__)


def open_source(source: Source, verify: bool = True) -> Bundle:
    """Open the bundle ``source`` and check it, see :func:`~hiersrec_sdk.bundle.folder.open_bundle`.

    Args:
        source: a folder, a zip file, the bytes of a zip file, or a URL of fsspec; all but a folder are unpacked to
            the cache.
        verify: check the SHA-256 of every file but the model card.

    Raises:
        MissingExtraError: a URL needs fsspec.
        BundleError: those of ``open_bundle``; or the bundle cannot be read or unpacked.
        InvalidPathError: ``source`` is none of these.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        try:
            content = io.BytesIO(source)
        except (BufferError, ValueError) as error:  # a view with gaps, or of what was released
            raise InvalidPathError(
                f"path must be the bytes of a zip file, one after the other: {error}"
            ) from None
        return _open_zip(content, "the zip file given as bytes", verify)
    if is_url(source):
        return _open_url(source, verify)
    if not isinstance(source, str | os.PathLike):
        raise InvalidPathError(
            f"path must be a bundle: its folder, a zip file, a URL or the bytes of a zip file, got {shown(source)}"
        )
    path = as_path(source)
    if _is_file(path):
        file = OpenFile(path, str(path))
        with os.fdopen(os.dup(file.fileno()), "rb") as stream:
            if _is_zip(stream, str(path)):
                return _open_zip(stream, str(path), verify)
    return open_bundle(path, verify)


def _is_zip(stream: IO[bytes], label: str) -> bool:
    try:
        return zipfile.is_zipfile(stream)
    except _UNZIP_ERRORS as error:  # it is one, with an end that it cannot have
        raise BundleCorruptError(f"{label} is truncated or not a zip file: {error}") from error


def absolute(source: str | os.PathLike[str]) -> str:
    """``source``, a path or a URL, as a process with another current folder finds it.

    Raises:
        InvalidPathError: it is neither.
    """
    return source if is_url(source) else str(as_path(source).absolute())


def is_url(source: object) -> TypeGuard[str]:
    """Whether it is a URL that fsspec opens."""
    return isinstance(source, str) and _URL.match(source) is not None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a name that is too long, a folder that may not be entered
        if is_time_limit(error):
            raise
        return False


def _open_url(url: str, verify: bool) -> Bundle:
    label = without_secrets(url)
    try:
        to_filesystem = import_module("fsspec.core").url_to_fs
    except ImportError as error:
        raise MissingExtraError("fsspec", f"loading {label}", "fsspec") from error
    try:
        files, root = to_filesystem(url)
        if "file" in _protocols(files):
            return open_source(Path(root), verify)
        if not url.endswith("/") and files.isfile(root):
            with files.open(root, "rb") as file, _seekable(file) as archive:
                return _open_zip(archive, label, verify)
        return _open_cached(lambda name: files.open(f"{root.rstrip('/')}/{name}", "rb"), label, verify)
    except HierSRecError as error:
        if label == url:
            raise
        # what a library says may quote the URL, in another form
        raise type(error)(re.sub("(?<= cannot be read): .*", "", str(error), flags=re.S)) from None
    except Exception as error:  # the libraries of object stores have no common base class of errors
        if is_of_a_task_queue(error):
            raise
        if label != url:
            raise BundleError(f"{label} cannot be read: {type(error).__name__}") from None
        why = shortened(error) or type(error).__name__
        raise BundleError(f"{label} cannot be read: {why}") from error


def without_secrets(url: str) -> str:
    """``url`` as messages and the log name it: without user, password and query, which may hold a signature."""
    before, mark, _ = url.partition("?")
    # some passwords have a slash, where there should be %2F
    return re.sub(r"://(?:[^/@]*|[^/@:]+:(?!\d+/)[^@]*)@", "://", before) + ("?…" if mark else "")


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


@contextmanager
def _seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """``file``, or a copy where it cannot be sought."""
    if file.seekable():
        yield file
        return
    most = cache.largest()
    with tempfile.TemporaryFile() as copy:
        while block := file.read(_BLOCK):
            copy.write(block)
            if copy.tell() > most:
                raise BundleError(
                    f"it has more than {most:,} bytes; HIERSREC_LARGEST_BUNDLE sets another limit"
                )
        yield copy


def _open_zip(file: IO[bytes], label: str, verify: bool) -> Bundle:
    """Open the bundle in a zip file, which has its files at the top or all in one folder."""
    try:
        archive = zipfile.ZipFile(file)
    except OSError as error:
        if is_time_limit(error):
            raise
        raise BundleError(f"{label} cannot be read: {error}") from error
    except _UNZIP_ERRORS as error:
        raise BundleCorruptError(f"{label} is truncated or not a zip file: {error}") from error
    with archive:
        names = archive.namelist()
        configs = {name for name in names if re.fullmatch(rf"([^/]+/)?{re.escape(CONFIG)}", name)}
        if CONFIG not in configs and len(configs) != 1:
            found = (
                f"{len(configs)} of its folders have one"
                if configs
                else "neither it nor a folder in it has one"
            )
            raise BundleMissingError(f"{label} is not a bundle: it must have one {CONFIG}; {found}")
        if len(set(names)) < len(names):
            ((twice, _),) = Counter(names).most_common(1)
            raise BundleCorruptError(f"{label} has the file {shown(twice)} twice")
        folder = "" if CONFIG in configs else configs.pop().removesuffix(CONFIG)
        return _open_cached(lambda name: archive.open(folder + name), label, verify)


def _open_cached(open_file: _Open, label: str, verify: bool) -> Bundle:
    content = b"".join(_blocks(open_file, CONFIG, LARGEST_CONFIG, label))
    config = parse_config(content, f"{label}: {CONFIG}")
    entry = cache.entry_of(config["sha256"])
    try:
        bundle = _entry(entry, verify, logging.DEBUG)
        if bundle is not None:
            return bundle
        cache.check_fits(sum(about["bytes"] for about in config["files"].values()), label)
        with cache.locked(entry):
            bundle = _entry(entry, verify, logging.WARNING)  # by now another process may have unpacked it
            if bundle is not None:
                return bundle
            _unpack(open_file, config["files"], content, entry, label)
            return _used(open_bundle(entry, verify))
    except BundleError:
        raise
    except OSError as error:
        if is_time_limit(error):
            raise
        raise BundleError(
            f"{label} cannot be unpacked to {entry}: {error}; set HIERSREC_CACHE to another folder"
        ) from error


def _entry(entry: Path, verify: bool, level: int) -> Bundle | None:
    """The bundle at ``entry`` in the cache; None if there is none, or it is damaged, which is logged at ``level``."""
    if not entry.is_dir():
        return None
    try:
        bundle = open_bundle(entry, verify)
    except (BundleCorruptError, FileNotFoundError) as error:  # it may be replaced at this moment
        _log.log(level, "unpacking again: the cache is damaged: %s", error)
        return None
    return _used(bundle) if bundle.config["sha256"] == entry.name else None  # another was saved there


def _used(bundle: Bundle) -> Bundle:
    assert bundle.folder is not None
    cache.mark_used(bundle.folder)
    return bundle


def _unpack(open_file: _Open, files: dict[str, Any], config: bytes, entry: Path, label: str) -> None:
    """Write ``entry``, all or nothing, in place of a damaged one."""
    started = time.perf_counter()
    fresh, damaged = (entry.with_name(f"{entry.name}{PART}{state}") for state in ("fresh", "damaged"))
    with new_folder(fresh) as part:
        for name, about in files.items():
            most = LARGEST_CARD if name == CARD else about["bytes"]
            with (part / name).open("xb") as target:
                target.writelines(_blocks(open_file, name, most, label))
            file = OpenFile(part / name, f"{label}: {name}")
            if name == CARD:
                check_card(file, about, OpenFolder(part))
            else:
                check_file(file, about, True)
        (part / CONFIG).write_bytes(config)
    if os.path.lexists(entry):  # not exchanged in one step, which some network file systems cannot do
        entry.rename(damaged)
    fresh.rename(entry)
    cache.remove(damaged)
    _log.info("unpacked %s to %s in %.0f ms", label, entry, 1000 * (time.perf_counter() - started))


def _blocks(open_file: _Open, name: str, most: int, label: str) -> Iterator[bytes]:
    """The blocks of a file of the bundle, up to the first byte beyond ``most``, which shows that it is too large."""
    left = most + 1
    try:
        with open_file(name) as file:
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                left -= len(block)
                yield block
    except (FileNotFoundError, KeyError):
        why = "this is not a bundle" if name == CONFIG else f"{CONFIG} lists it"
        raise BundleMissingError(f"{label}: {name} is missing: {why}") from None
    except OSError as error:
        if is_time_limit(error):
            raise
        raise BundleError(f"{label}: {name} cannot be read: {error}") from error
    except _UNZIP_ERRORS as error:
        raise BundleCorruptError(f"{label}: {name} cannot be read: {error}") from error
