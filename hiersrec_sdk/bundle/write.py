"""Writes bundles: new ones, and a bundle with the changes of its catalog. All or nothing, see ``atomic.py``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk import __version__
from hiersrec_sdk.atomic import new_folder
from hiersrec_sdk.bundle.folder import check_tables, describe, read_config, read_folder
from hiersrec_sdk.bundle.schema import (
    CATALOG,
    CONFIG,
    DELTA,
    FORMAT,
    SCHEMA_VERSION,
    config_digest,
    is_file_name,
)
from hiersrec_sdk.bundle.tables import write_tables
from hiersrec_sdk.errors import BundleError
from hiersrec_sdk.paths import as_path, real_path
from hiersrec_sdk.shown import shortened


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
            _write_config(part, config, {name: describe(part / name) for name in sorted([*files, CATALOG])})
            check_tables(read_folder(part, hashes=False), contents=True)
    except (OSError, TypeError, ValueError, BundleError) as error:
        raise BundleError(f"{shortened(path)} was not written: {shortened(error)}") from error


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
    path = real_path(as_path(path))
    if read_config(source)["sha256"] != config["sha256"]:
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
            if read_config(source)["sha256"] != config["sha256"]:
                raise BundleError(f"the bundle in {source} was replaced meanwhile")
            if delta:
                write_tables(part / DELTA, delta)
                files[DELTA] = describe(part / DELTA)
                settings["delta"] = {"items": items}
            return _write_config(part, settings, files)
    except (OSError, TypeError, ValueError, BundleError) as error:
        raise BundleError(f"{shortened(path)} was not written: {shortened(error)}") from error


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


def _link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy where there are no hard links."""
    try:
        os.link(source.resolve(), target)  # the hub's cache holds symbolic links: link to their target
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
