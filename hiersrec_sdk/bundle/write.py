"""Writes bundles: new ones, and a bundle with the changes of its catalog. All or nothing, see ``atomic.py``."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from hiersrec_sdk import __version__
from hiersrec_sdk.atomic import if_possible, is_time_limit, new_folder
from hiersrec_sdk.bundle.folder import Bundle, check_card, check_tables, describe, read_folder
from hiersrec_sdk.bundle.opened import OpenFile, OpenFolder
from hiersrec_sdk.bundle.schema import (
    CARD,
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
from hiersrec_sdk.shown import shortened

_OF_CHANGES: Final = ("files", "sha256", "delta", "feed")  # settings that a save makes anew


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
        if is_time_limit(error):
            raise
        raise BundleError(f"{shortened(path)} was not written: {shortened(error)}") from error


def write_with_delta(
    bundle: Bundle,
    path: Path,
    delta: Mapping[str, NDArray[Any]],
    items: int,
    feed: Mapping[str, str | int] | None = None,
    *,
    check: Callable[[Path], tuple[OpenFolder, Mapping[str, Any]] | None],
    before: Callable[[Bundle], object],
) -> None:
    """Write an opened bundle to the folder ``path`` with other changes of its catalog, all or nothing.

    A bundle that is at ``path`` already is replaced in one step.

    Args:
        bundle: the bundle that was loaded: its files are written as they were opened, whatever is at its path by now.
        path: the folder, without symbolic links.
        delta: tables of ``delta.safetensors``; where there are none, the bundle has no such file.
        items: number of items in the catalog with ``delta`` applied.
        feed: up to where the changes contain a change feed: ``log`` and ``position``.
        check: raises where what is at a path, if anything, must not be replaced, see :func:`new_folder`. Gives the
            bundle there, its folder and its ``config.json``, if that may be trusted.
        before: called with the new bundle, opened, before it gets its name; raises where it is not a good one.

    Raises:
        BundleError: the bundle cannot be written, or what is there must not be replaced. It stays.
    """
    settings = {key: value for key, value in bundle.config.items() if key not in _OF_CHANGES}
    files = {name: about for name, about in bundle.config["files"].items() if name != DELTA}
    try:
        old = check(path)
        with new_folder(path, replace=True, check=check) as part:
            for name, about in list(files.items()):
                if name == CARD:
                    _copy(_newest_card(bundle, about, old), part / name)
                    files[name] = describe(part / name)
                    continue
                file = bundle.files[name]
                file.check(about["sha256"])
                # Links to nothing but what goes away: whoever writes into one bundle must not write into two.
                same = old is not None and old[1]["files"].get(name) == about
                if not (old and same and _link(old[0], part / name, file, about["sha256"])):
                    _copy(file, part / name)
                    file.know_copy((part / name).stat())
                file.check_unchanged(about["sha256"])
            if delta:
                write_tables(part / DELTA, delta)
                files[DELTA] = describe(part / DELTA)
                settings["delta"] = {"items": items}
            if feed is not None:
                settings["feed"] = feed
            _write_config(part, settings, files)
            written = read_folder(part, hashes=False)
            check_tables(written, contents=False)
            before(written)
    except (OSError, TypeError, ValueError, BundleError) as error:
        if is_time_limit(error):
            raise
        raise BundleError(f"{shortened(path)} was not written: {shortened(error)}") from error


def _newest_card(
    bundle: Bundle, about: Mapping[str, Any], old: tuple[OpenFolder, Mapping[str, Any]] | None
) -> OpenFile:
    """The model card, as somebody may have edited it since the bundle was opened: where it is saved to, if that is a
    bundle with the same tables, or where it came from."""
    is_same = old is not None and old[1]["files"][CATALOG] == bundle.config["files"][CATALOG]
    for folder in (old[0] if old is not None and is_same else None, bundle.folder):
        if folder is not None and folder.is_still_there():
            with suppress(BundleError):
                card = folder.open(CARD)
                check_card(card, about, folder)
                return card
    return bundle.files[CARD]


def _write_config(folder: Path, config: Mapping[str, Any], files: Mapping[str, Any]) -> None:
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


def _link(folder: OpenFolder, target: Path, file: OpenFile, sha256: str) -> bool:
    """Link ``target`` to the file of its name in ``folder``; False where that cannot be, or is no copy of ``file``."""
    if os.stat not in os.supports_dir_fd or os.link not in os.supports_dir_fd:  # Windows
        return False
    try:
        kind = os.stat(target.name, dir_fd=folder.fileno(), follow_symlinks=False).st_mode
        if not stat.S_ISREG(kind):  # a link into another folder, which does not go away
            return False
        os.link(target.name, target, src_dir_fd=folder.fileno(), follow_symlinks=False)
    except OSError as error:  # a file of somebody else, or a file system without hard links
        if is_time_limit(error):
            raise
        return False
    if file.is_copy(target, sha256):
        return True
    target.unlink()
    return False


def _copy(file: OpenFile, target: Path) -> None:
    """Copy a file: where the file system can, without copying its blocks."""
    with target.open("xb") as copy:
        position = 0
        with if_possible(), suppress(AttributeError):  # from one file system to another; of Linux
            while position < file.size:
                rest = file.size - position
                done = os.copy_file_range(file.fileno(), copy.fileno(), rest, position, position)
                if not done:
                    break
                position += done
        if position < file.size:
            copy.writelines(file.blocks())
