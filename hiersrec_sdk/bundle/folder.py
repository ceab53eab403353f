"""Opens the bundle on disk: one folder that holds a model and its catalog. It is checked when it is opened.

    config.json          the schema, the settings, the metrics; SHA-256 and size of every other file
    model.onnx           the session encoder; it knows no item
    catalog.safetensors  the tables of the catalog, rows in the order of the category tree
    delta.safetensors    optional: changes of the catalog since the export
    query_parts.onnx     optional: the terms of the encoder's query, for explanations
    ...                  other files, such as item_encoder.onnx and README.md

``config.json`` also holds the SHA-256 of its own content, so that a change of any file is noticed, but for the
model card, which people may edit.

A folder may be replaced by another at any time, so all files are opened at once, below the folder that is open already.
They are of one version, whatever is at the path later, and they stay readable after they were removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from hiersrec_sdk.atomic import is_time_limit
from hiersrec_sdk.bundle.checks import CatalogChecks
from hiersrec_sdk.bundle.opened import OpenFile, OpenFolder
from hiersrec_sdk.bundle.schema import (
    CARD,
    CATALOG,
    CONFIG,
    DELTA,
    FORMAT,
    LARGEST_CARD,
    LARGEST_CONFIG,
    is_file_name,
    parse_config,
)
from hiersrec_sdk.bundle.tables import parse_tables
from hiersrec_sdk.errors import BundleCorruptError, BundleError, BundleMissingError
from hiersrec_sdk.paths import as_path
from hiersrec_sdk.shown import shortened

_Read = TypeVar("_Read")

_OF_THE_HUB: Final = re.compile(r"\.\./\.\./blobs/[0-9a-f]+")  # a link of its cache
_ATTEMPTS: Final = 100  # to open a folder that is replaced meanwhile, each some milliseconds


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle. It stays this version, whatever is at its path by now.

    Attributes:
        path: the folder when it was opened.
        config: the content of ``config.json``.
        tables: those of ``catalog.safetensors``, as read-only memory maps.
        files: every file that ``config.json`` lists, open.
        folder: the folder, open.
    """

    path: Path
    config: dict[str, Any]
    tables: dict[str, NDArray[Any]]
    files: Mapping[str, OpenFile] = field(default_factory=dict, repr=False)
    folder: OpenFolder | None = field(default=None, repr=False)

    def read(self, name: str) -> bytes:
        """The content of the file ``name``, which ``config.json`` lists.

        Raises:
            BundleCorruptError: it is not what ``config.json`` says, or was written to since the bundle was opened.
            BundleError: it cannot be read.
        """
        file = self.files[name]
        content = file.read()
        if hashlib.sha256(content).hexdigest() != self.config["files"][name]["sha256"]:
            raise BundleCorruptError(f"{file.label} is altered: its SHA-256 is not the one in {CONFIG}")
        return content

    @property
    def delta(self) -> dict[str, NDArray[Any]] | None:
        """The tables of ``delta.safetensors``, the changes of the catalog since the export; None if there are none.

        Raises:
            BundleCorruptError, BundleError: as :meth:`read`; or it holds no tables.
        """
        if DELTA not in self.files:
            return None
        return parse_tables(self.read(DELTA), self.files[DELTA].label)

    def check_unchanged(self) -> None:
        """Check that nobody has written into the tables that are mapped: about a microsecond, where nobody has.

        Raises:
            BundleCorruptError: somebody has.
        """
        catalog = self.files.get(CATALOG)
        if catalog is not None:
            catalog.check_unchanged(self.config["files"][CATALOG]["sha256"])

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the absolute path alone."""
        return open_bundle, (self.path.absolute(), False)


def open_bundle(path: str | os.PathLike[str], verify: bool = True) -> Bundle:
    """Open the bundle ``path`` and check it.

    Always checked are the settings, names, types and shapes of the tables, the category tree and the size of every
    file but the model card. With ``verify`` the SHA-256 of these files and the contents of all tables are checked too,
    which reads all of them. ``docs/bundle_format.md`` lists the checks.

    Raises:
        BundleMissingError: there is no bundle, or one of its files is missing.
        BundleCorruptError: a file is truncated, altered or of another format; the message names it and the cause.
        BundleVersionError: the bundle has another schema version.
        BundleError: a file cannot be read.
        InvalidPathError: ``path`` is not a path.
    """

    def checked(folder: OpenFolder) -> Bundle:
        bundle = _read(folder, hashes=verify)
        check_tables(bundle, contents=verify)
        return bundle

    return _from_folder(as_path(path), checked)


def _from_folder(path: Path, read: Callable[[OpenFolder], _Read]) -> _Read:
    """What ``read`` makes of the folder ``path``: of the one that is there, if another was replaced meanwhile."""
    for attempt in range(1, _ATTEMPTS + 1):
        folder = open_folder(path)
        try:
            return read(folder)
        except BundleError:
            if attempt == _ATTEMPTS or folder.is_still_there():
                raise
    raise AssertionError  # the last attempt returns or raises


def open_folder(path: Path) -> OpenFolder:
    """Open the folder of a bundle.

    Raises:
        BundleMissingError: there is none.
        BundleError: it cannot be opened.
    """
    try:
        return OpenFolder(path)
    except FileNotFoundError:
        raise BundleMissingError(f"{shortened(path)} is not a bundle: there is no such folder") from None
    except NotADirectoryError:
        raise BundleMissingError(
            f"{shortened(path)} is a file: a bundle is the folder that holds {CONFIG}, or a complete zip file of it"
        ) from None
    except OSError as error:
        if is_time_limit(error):
            raise
        raise BundleError(f"{shortened(path)} cannot be opened: {error.strerror}") from error


def read_folder(path: Path, hashes: bool) -> Bundle:
    """Open the bundle in the folder ``path``, its tables unchecked; with ``hashes`` check the SHA-256 of every file."""
    return _read(open_folder(path), hashes)


def _read(folder: OpenFolder, hashes: bool) -> Bundle:
    config = _config(folder)
    files = {}
    for name in config["files"]:  # all of them before the first is read, which may take long
        try:
            files[name] = folder.open(name)
        except BundleMissingError as error:
            raise BundleMissingError(f"{error}: {CONFIG} lists it") from None
    for name, about in config["files"].items():
        if name == CARD:
            check_card(files[name], about, folder)
        else:
            check_file(files[name], about, hashes)
    tables = parse_tables(files[CATALOG].map(), files[CATALOG].label)
    return Bundle(folder.path, config, tables, files, folder)


def check_card(file: OpenFile, about: Mapping[str, Any], folder: OpenFolder) -> None:
    """Check the model card, which an editor may change, as may the page of a repository on the Hub.

    Raises:
        BundleCorruptError: it is too large; or it is a link, and neither to what ``config.json`` lists nor into the
            Hub's cache: a save or a push would copy any file that it leads to.
    """
    if file.size > LARGEST_CARD:
        raise BundleCorruptError(f"{file.label} is larger than {LARGEST_CARD:,} bytes")
    path = folder.path / CARD
    if path.is_symlink() and not _OF_THE_HUB.fullmatch(str(path.readlink())):
        check_file(file, about, True)


def check_file(file: OpenFile, about: Mapping[str, Any], verify: bool) -> None:
    """Check the size of ``file``, and with ``verify`` its SHA-256, against its entry in ``config.json``.

    Raises:
        BundleCorruptError: it is not the file that ``config.json`` describes.
        BundleError: it cannot be read.
    """
    if file.size != about["bytes"]:
        damage = "truncated" if file.size < about["bytes"] else "altered"
        raise BundleCorruptError(
            f"{file.label} is {damage}: it has {file.size} bytes, {CONFIG} says {about['bytes']}"
        )
    if verify:
        file.check(about["sha256"])


def check_tables(bundle: Bundle, contents: bool) -> None:
    """Check the tables of the catalog; with ``contents`` also what takes a whole read of them."""
    CatalogChecks(bundle.path / CATALOG, bundle.tables, contents).run(bundle.config)


def read_config(path: Path) -> dict[str, Any]:
    """The checked content of the ``config.json`` in the folder ``path``; errors as :func:`open_config`."""
    return open_config(path)[1]


def open_config(path: Path) -> tuple[OpenFolder, dict[str, Any]]:
    """The folder ``path``, opened, and the checked content of its ``config.json``.

    Raises:
        BundleError: as :func:`open_bundle`.
    """
    return _from_folder(path, lambda folder: (folder, _config(folder)))


def files_of_bundle(folder: Path) -> set[str] | None:
    """The names of the files of a bundle of any schema, but ``config.json``; None: ``folder`` is no bundle."""
    try:
        file = folder / CONFIG
        config = json.loads(file.read_bytes()) if file.stat().st_size <= LARGEST_CONFIG else None
    except (OSError, ValueError, RecursionError) as error:
        if is_time_limit(error):
            raise
        return None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        return None
    files = config.get("files")
    return set(filter(is_file_name, files)) if isinstance(files, dict) else set()


def _config(folder: OpenFolder) -> dict[str, Any]:
    try:
        file = folder.open(CONFIG)
    except BundleMissingError as error:
        raise BundleMissingError(f"{error}: {folder.path} is not a bundle") from None
    if file.size > LARGEST_CONFIG:
        raise BundleCorruptError(f"{file.label} is larger than {LARGEST_CONFIG:,} bytes")
    return parse_config(file.read(), file.label)


def describe(path: Path) -> dict[str, Any]:
    """The entry of the file ``path`` in ``config.json``."""
    file = OpenFile(path, str(path))
    return {"sha256": file.sha256(), "bytes": file.size}
