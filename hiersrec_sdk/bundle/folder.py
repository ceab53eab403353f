"""The bundle on disk: one folder that holds a model and its catalog. It is checked when written and when opened.

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
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk import __version__
from hiersrec_sdk.atomic import new_folder
from hiersrec_sdk.bundle.checks import CatalogChecks
from hiersrec_sdk.bundle.schema import (
    CATALOG,
    CONFIG,
    DELTA,
    FORMAT,
    MODEL,
    SCHEMA_VERSION,
    config_digest,
    is_file_name,
    parse_config,
)
from hiersrec_sdk.bundle.tables import read_tables, write_tables
from hiersrec_sdk.errors import BundleCorruptError, BundleError, BundleMissingError, InvalidPathError


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder, the content of ``config.json``, the tables as read-only memory maps."""

    path: Path
    config: dict[str, Any]
    tables: dict[str, NDArray[Any]]
    delta: dict[str, NDArray[Any]] | None = None  # changes of the catalog since the export

    @property
    def model(self) -> Path:
        """The file of the session encoder."""
        return self.path / MODEL


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
    path = _as_path(path)
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


def write_bundle(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    files: Mapping[str, bytes],
) -> None:
    """Write the bundle ``path``, all or nothing.

    Args:
        path: the folder to make; its parents are made too.
        config: the content of ``config.json`` without ``format``, ``schema_version``, ``created_by``, ``files`` and
            ``sha256``, which are filled in here.
        tensors: the tables of ``catalog.safetensors``.
        files: the other files by name; ``model.onnx`` is required.

    Raises:
        BundleError: the path exists, the content is not a valid bundle, or it cannot be written. Nothing is left
            behind.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise BundleError(f"{path} exists already: choose another folder or remove it")
    if "item_vectors" in tensors and not np.isfinite(tensors["item_vectors"]).all():
        raise BundleError(f"{path} was not written: table 'item_vectors' has values that are not finite")
    for name in files:
        if not is_file_name(name):
            raise BundleError(f"{path} was not written: {name!r} cannot be the name of a file in it")
    try:
        with new_folder(path) as part:
            for name, content in files.items():
                (part / name).write_bytes(content)
            write_tables(part / CATALOG, tensors)
            _write_config(part, config, {name: _describe(part / name) for name in sorted([*files, CATALOG])})
            _check_tables(_read(part, hashes=False), contents=True)
    except (OSError, TypeError, ValueError, BundleError) as error:
        raise BundleError(f"{path} was not written: {error}") from error


def write_with_delta(
    source: Path,
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    delta: Mapping[str, NDArray[Any]],
    items: int,
) -> str:
    """Write the bundle in ``source`` to ``path`` with the tables of ``delta``, all or nothing.

    A bundle that is at ``path`` already, which may be ``source``, is replaced in one step.

    Args:
        source: folder of the bundle that was loaded.
        path: folder to write.
        config: content of the ``config.json`` in ``source``, as it was loaded.
        delta: tables of ``delta.safetensors``; where there are none, the bundle has no such file.
        items: number of items in the catalog with ``delta`` applied.

    Returns:
        SHA-256 of the new ``config.json``'s content.

    Raises:
        BundleError: the bundle cannot be written, something else is at ``path``, or ``source`` holds another bundle
            by now. What is there stays.
        InvalidPathError: ``path`` is not a path.
    """
    path = _as_path(path).resolve()
    if _read_config(source)["sha256"] != config["sha256"]:
        raise BundleError(
            f"{path} was not written: the bundle in {source} was replaced since it was loaded; load it again, and "
            "apply the changes to it"
        )
    if os.path.lexists(path) and not (path / CONFIG).is_file():
        raise BundleError(f"{path} exists already and is not a bundle: choose another folder or remove it")
    settings = {key: value for key, value in config.items() if key not in ("files", "sha256", "delta")}
    files = {name: about for name, about in config["files"].items() if name != DELTA}
    try:
        with new_folder(path, replace=True) as part:
            for name in files:
                _link(source / name, part / name)
            if _read_config(source)["sha256"] != config["sha256"]:
                raise BundleError(f"the bundle in {source} was replaced meanwhile")
            if delta:
                write_tables(part / DELTA, delta)
                files[DELTA] = _describe(part / DELTA)
                settings["delta"] = {"items": items}
            return _write_config(part, settings, files)
    except (OSError, TypeError, ValueError, BundleError) as error:
        raise BundleError(f"{path} was not written: {error}") from error


def read_file(folder: Path, name: str, config: Mapping[str, Any]) -> bytes:
    """Read the file ``name`` of a bundle that was opened before, with this ``config``.

    Raises:
        BundleCorruptError: the file was replaced since.
        BundleError: it cannot be read.
    """
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise BundleError(f"{folder / name} cannot be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != config["files"][name]["sha256"]:
        raise BundleCorruptError(f"{folder / name} is not the one that was loaded: load the bundle again")
    return content


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
    if verify and _describe(file)["sha256"] != about["sha256"]:
        raise BundleCorruptError(f"{label} is altered: its SHA-256 is not the one in {CONFIG}")


def _as_path(path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise InvalidPathError(
            f"path must be the folder of a bundle, a str or a Path, got {path!r}"
        ) from None


def _open(path: Path, verify: bool) -> Bundle:
    try:
        bundle = _read(path, hashes=verify)
    except BundleError:  # some of which are an OSError
        raise
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    _check_tables(bundle, contents=verify)
    return bundle


def _read(path: Path, hashes: bool) -> Bundle:
    config = _read_config(path)
    for name, about in config["files"].items():
        check_file(path / name, about, hashes)
    tables = read_tables(path / CATALOG)
    delta = read_tables(path / DELTA) if DELTA in config["files"] else None
    return Bundle(path, config, tables, delta)


def _check_tables(bundle: Bundle, contents: bool) -> None:
    CatalogChecks(bundle.path / CATALOG, bundle.tables, contents).run(bundle.config)


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    try:
        return parse_config(file.read_bytes(), str(file))
    except FileNotFoundError:
        raise BundleMissingError(f"{file} is missing: {folder} is not a bundle") from None


def _write_config(folder: Path, config: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """Write ``config.json``; return the SHA-256 of its content."""
    about = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "created_by": f"hiersrec-sdk {__version__}",
        **config,
        "files": files,
    }
    about = json.loads(json.dumps(about, allow_nan=False))  # as a reader will see it: keys are strings
    digest = config_digest(about)
    (folder / CONFIG).write_text(json.dumps({**about, "sha256": digest}, indent=2) + "\n", encoding="utf-8")
    return digest


def _describe(file: Path) -> dict[str, Any]:
    """The entry of ``file`` in ``config.json``."""
    with file.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": file.stat().st_size}


def _link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where there are no hard links."""
    try:
        os.link(source.resolve(), target)  # the hub's cache holds symbolic links: link to their target
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
