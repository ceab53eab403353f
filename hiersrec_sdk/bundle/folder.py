"""Opens the bundle on disk: one folder that holds a model and its catalog. It is checked when it is opened.

    config.json          the schema, the settings, the metrics; SHA-256 and size of every other file
    model.onnx           the session encoder; it knows no item
    catalog.safetensors  the tables of the catalog, rows in the order of the category tree
    delta.safetensors    optional: changes of the catalog since the export
    query_parts.onnx     optional: the terms of the encoder's query, for explanations
    ...                  other files, such as item_encoder.onnx and README.md

``config.json`` also holds the SHA-256 of its own content, so that a change of any file is noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hiersrec_sdk.bundle.checks import CatalogChecks
from hiersrec_sdk.bundle.schema import CATALOG, CONFIG, DELTA, parse_config
from hiersrec_sdk.bundle.tables import read_tables
from hiersrec_sdk.errors import BundleCorruptError, BundleError, BundleMissingError
from hiersrec_sdk.paths import as_path


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, the content of ``config.json``, the tables as read-only memory maps."""

    path: Path
    config: dict[str, Any]
    tables: dict[str, NDArray[Any]]
    delta: dict[str, NDArray[Any]] | None = None  # changes of the catalog since the export

    def read(self, name: str) -> bytes:
        """The content of the file ``name``, which ``config.json`` lists.

        Raises:
            BundleCorruptError: the file was replaced since the bundle was opened.
            BundleError: it cannot be read.
        """
        file = self.path / name
        try:
            content = file.read_bytes()
        except OSError as error:
            raise BundleError(f"{file} cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != self.config["files"][name]["sha256"]:
            raise BundleCorruptError(f"{file} is not the one that was loaded: load the bundle again")
        return content


def open_bundle(path: str | os.PathLike[str], verify: bool = True) -> Bundle:
    """Open the bundle ``path`` and check it.

    The settings, the shapes of the tables, the category tree and the size of every file are always checked. With
    ``verify`` the SHA-256 of every file and the contents of all tables are checked too, which reads all of them.

    Raises:
        BundleMissingError: there is no bundle, or one of its files is missing.
        BundleCorruptError: a file is truncated, altered or of another format; the message names it and the cause.
        BundleVersionError: the bundle has another schema version.
        BundleError: a file cannot be read.
        InvalidPathError: ``path`` is not a path.
    """
    path = as_path(path)
    if path.is_file():
        raise BundleMissingError(
            f"{path} is a file: a bundle is the folder that holds {CONFIG}, or a complete zip file of it"
        )
    if not path.is_dir():
        raise BundleMissingError(f"{path} is not a bundle: there is no such folder")
    while True:  # until the folder was not replaced while it was read
        folder = path.stat().st_ino
        try:
            bundle = _open(path, verify=verify)
        except BundleError:
            if path.is_dir() and path.stat().st_ino != folder:
                continue
            raise
        if path.stat().st_ino == folder:
            return bundle


def check_file(file: Path, about: Mapping[str, Any], verify: bool, label: str = "") -> None:
    """Check the size of ``file``, and with ``verify`` its SHA-256, against its entry in ``config.json``.

    Args:
        file: the file.
        about: its entry, with ``sha256`` and ``bytes``.
        verify: also check the SHA-256.
        label: what messages call the file; by default its path.

    Raises:
        BundleMissingError: there is no such file.
        BundleCorruptError: it is not the file that ``config.json`` describes.
    """
    label = label or str(file)
    if not file.is_file():
        raise BundleMissingError(f"{label} is missing: {CONFIG} lists it")
    size = file.stat().st_size
    if size != about["bytes"]:
        damage = "truncated" if size < about["bytes"] else "altered"
        raise BundleCorruptError(f"{label} is {damage}: it has {size} bytes, {CONFIG} says {about['bytes']}")
    if verify and describe(file)["sha256"] != about["sha256"]:
        raise BundleCorruptError(f"{label} is altered: its SHA-256 is not the one in {CONFIG}")


def _open(path: Path, verify: bool) -> Bundle:
    try:
        bundle = read_folder(path, hashes=verify)
    except BundleError:  # some of which are an OSError
        raise
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    check_tables(bundle, contents=verify)
    return bundle


def read_folder(path: Path, hashes: bool) -> Bundle:
    config = read_config(path)
    for name, about in config["files"].items():
        check_file(path / name, about, hashes)
    tables = read_tables(path / CATALOG)
    delta = read_tables(path / DELTA) if DELTA in config["files"] else None
    return Bundle(path, config, tables, delta)


def check_tables(bundle: Bundle, contents: bool) -> None:
    CatalogChecks(bundle.path / CATALOG, bundle.tables, contents).run(bundle.config)


def read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        return parse_config(file.read_bytes(), str(file))
    except FileNotFoundError:
        raise BundleMissingError(f"{file} is missing: {folder} is not a bundle") from None


def describe(file: Path) -> dict[str, Any]:
    """The entry of ``file`` in ``config.json``."""
    with file.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": file.stat().st_size}
