"""Where a bundle may be: a folder, a zip file, the bytes of one, a URL.

Tables are mapped into memory, so what is no local folder is unpacked once, into a cache folder that is named by the
SHA-256 that ``config.json`` holds of its own content, and with it of every file. Of what is unpacked nothing is trusted
but that file, once it has been checked: only files that it names are read, up to the sizes that it says.
"""

from __future__ import annotations

import fcntl
import io
import logging
import lzma
import os
import re
import secrets
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final

from hiersrec_sdk.bundle.folder import CONFIG, Bundle, check_file, open_bundle, parse_config
from hiersrec_sdk.bundle.tables import sync
from hiersrec_sdk.errors import (
    BundleCorruptError,
    BundleError,
    BundleMissingError,
    HierSRecError,
    InvalidOptionError,
    MissingExtraError,
)

Source = str | os.PathLike[str] | bytes | bytearray | memoryview
_Open = Callable[
    [str], IO[bytes]
]  # a file of the bundle, by its name; FileNotFoundError or KeyError: there is none

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::.+)?://")
_LARGEST_CONFIG: Final = 16 << 20  # bytes; those of real bundles have some thousands
_BLOCK: Final = 1 << 20
_BUNDLES: Final = "bundles"  # folder of the cache
# What reading a damaged zip raises, beside OSError.
_UNZIP_ERRORS: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)

_log = logging.getLogger(__name__)


def open_source(source: Source, verify: bool = True) -> Bundle:
    """Open the bundle ``source``: as :func:`~hiersrec_sdk.bundle.folder.open_bundle`, out of the cache if it is no folder.

    Raises:
        MissingExtraError: a URL needs fsspec.
        BundleError: as ``open_bundle``; or the bundle cannot be read from there, or not be unpacked.
        InvalidOptionError: ``source`` is nothing that a bundle may be in.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return _open_zip(io.BytesIO(source), "the zip file given as bytes", verify)
    if isinstance(source, str) and _URL.match(source):
        return _open_url(source, verify)
    try:
        path = Path(source)
    except TypeError:
        raise InvalidOptionError(
            f"path is {source!r}; it must be a bundle: its folder, a zip file, a URL, or the bytes of a zip file"
        ) from None
    try:
        if path.is_file() and zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return _open_zip(file, str(path), verify)
        return open_bundle(path, verify)
    except HierSRecError:  # some of which are an OSError
        raise
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise BundleError(f"{path} cannot be read: {error}") from error


def cache_folder() -> Path:
    """Where bundles are unpacked: ``$HIERSREC_CACHE``, else ``$XDG_CACHE_HOME/hiersrec``, else ``~/.cache/hiersrec``.

    Raises:
        BundleError: none of them is known, as there is no home folder.
    """
    own, shared = os.environ.get("HIERSREC_CACHE"), Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        if own:
            return Path(own).expanduser().absolute()
        return (shared if shared.is_absolute() else Path.home() / ".cache") / "hiersrec"
    except RuntimeError as error:
        raise BundleError(f"no folder to unpack to: {error}; HIERSREC_CACHE names one") from error


def is_in_cache(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` lies where bundles are unpacked: what is saved there gives way to the next one of its name."""
    try:
        return Path(path).resolve().is_relative_to((cache_folder() / _BUNDLES).resolve())
    except (BundleError, TypeError):  # there is no cache, or this is no path
        return False


def _open_url(url: str, verify: bool) -> Bundle:
    try:
        to_filesystem = import_module("fsspec.core").url_to_fs
    except ImportError as error:
        raise MissingExtraError("fsspec", f"loading {url}", "fsspec") from error
    try:
        files, root = to_filesystem(url)
        if "file" in _protocols(files):
            return open_source(Path(root), verify)
        if not url.endswith("/") and files.isfile(root):
            with files.open(root, "rb") as file, _seekable(file) as archive:
                return _open_zip(archive, url, verify)
        return _open_cached(lambda name: files.open(f"{root.rstrip('/')}/{name}", "rb"), url, verify)
    except HierSRecError:
        raise
    except Exception as error:  # what the libraries of object stores raise has no common base
        raise BundleError(f"{url} cannot be read: {error}") from error


def _protocols(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)


@contextmanager
def _seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """``file``, or where it can be read but once, a copy."""
    if file.seekable():
        yield file
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy, _BLOCK)
        yield copy


def _open_zip(file: IO[bytes], called: str, verify: bool) -> Bundle:
    """The bundle in a zip file: its files at the top of it, or all in one folder."""
    try:
        archive = zipfile.ZipFile(file)
    except OSError as error:
        raise BundleError(f"{called} cannot be read: {error}") from error
    except _UNZIP_ERRORS as error:
        raise BundleCorruptError(f"{called} is truncated or no zip file: {error}") from error
    with archive:
        places = {name for name in archive.namelist() if re.fullmatch(rf"([^/]+/)?{re.escape(CONFIG)}", name)}
        if CONFIG not in places and len(places) != 1:
            found = (
                f"{len(places)} folders of it have one" if places else "neither it nor a folder in it has one"
            )
            raise BundleMissingError(f"{called} holds no bundle: a {CONFIG} belongs at its top; {found}")
        place = CONFIG if CONFIG in places else places.pop()
        folder = place.removesuffix(CONFIG)
        return _open_cached(lambda name: archive.open(folder + name), called, verify)


def _open_cached(open_file: _Open, called: str, verify: bool) -> Bundle:
    content = b"".join(_blocks(open_file, CONFIG, _LARGEST_CONFIG, called))
    if len(content) > _LARGEST_CONFIG:
        raise BundleCorruptError(f"{called}: {CONFIG} is larger than {_LARGEST_CONFIG:,} bytes")
    config = parse_config(content, f"{called}: {CONFIG}")
    entry = cache_folder() / _BUNDLES / config["sha256"]
    bundle = _entry(entry, verify, logging.DEBUG)
    if bundle is not None:
        return bundle
    try:
        with _alone(entry):
            bundle = _entry(entry, verify, logging.WARNING)  # by now another process may have unpacked it
            if bundle is not None:
                return bundle
            _unpack(open_file, config["files"], content, entry, called)
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(
            f"{called} cannot be unpacked to {entry}: {error}; HIERSREC_CACHE names another folder"
        ) from error
    return open_bundle(entry, verify)


def _entry(entry: Path, verify: bool, level: int) -> Bundle | None:
    """The bundle in the cache; None where it is not there, or is damaged, which is logged at ``level``."""
    if not entry.is_dir():
        return None
    try:
        bundle = open_bundle(entry, verify)
    except (BundleCorruptError, BundleMissingError) as error:
        _log.log(level, "unpacking anew, as the cache is damaged: %s", error)
        return None
    return bundle if bundle.config["sha256"] == entry.name else None  # another was saved there


@contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """Let one process or thread at a time make ``entry``, and clear away what killed ones have left of it."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with entry.with_name(f"{entry.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for part in entry.parent.glob(f"{entry.name}.part-*"):
            shutil.rmtree(part, ignore_errors=True)
        yield


def _unpack(open_file: _Open, files: dict[str, Any], config: bytes, entry: Path, called: str) -> None:
    """Write ``entry``, all or nothing, in place of a damaged one."""
    started = time.perf_counter()
    part = entry.with_name(f"{entry.name}.part-{os.getpid()}-{secrets.token_hex(4)}")
    damaged = part.with_name(f"{part.name}-damaged")
    try:
        part.mkdir()
        for name, about in files.items():
            with (part / name).open("xb") as file:
                file.writelines(_blocks(open_file, name, about["bytes"], called))
            check_file(part / name, about, True, f"{called}: {name}")
        (part / CONFIG).write_bytes(config)
        for written in (*part.iterdir(), part):
            sync(written)
        if os.path.lexists(entry):
            entry.rename(damaged)
        part.rename(entry)
        sync(entry.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(damaged, ignore_errors=True)
    _log.info("unpacked %s to %s in %.0f ms", called, entry, 1000 * (time.perf_counter() - started))


def _blocks(open_file: _Open, name: str, most: int, called: str) -> Iterator[bytes]:
    """A file of the bundle, up to the first byte beyond ``most``: then it is too large, whatever follows."""
    left = most + 1
    try:
        with open_file(name) as file:
            while left > 0 and (block := file.read(min(left, _BLOCK))):
                left -= len(block)
                yield block
    except (FileNotFoundError, KeyError):
        why = "it is no bundle" if name == CONFIG else f"{CONFIG} lists it"
        raise BundleMissingError(f"{called}: {name} is missing: {why}") from None
    except OSError as error:
        raise BundleError(f"{called}: {name} cannot be read: {error}") from error
    except _UNZIP_ERRORS as error:
        raise BundleCorruptError(f"{called}: {name} cannot be read: {error}") from error
