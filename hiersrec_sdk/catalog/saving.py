"""Saving a catalog with its changes, over the bundle that it was loaded from or elsewhere."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hiersrec_sdk.bundle import CONFIG, Bundle, is_in_cache, write_with_delta
from hiersrec_sdk.bundle.folder import files_of_bundle, open_config
from hiersrec_sdk.bundle.opened import OpenFolder
from hiersrec_sdk.catalog.delta_tables import from_tables, to_tables
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.errors import BundleError
from hiersrec_sdk.forks import fresh_in_children
from hiersrec_sdk.paths import as_path, real_path
from hiersrec_sdk.shown import shortened

# What file managers, NFS and the Hub's downloads leave in folders. It may go.
_IS_OF_A_SYSTEM = re.compile(
    r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs.*|\.cache|\.gitattributes"
).fullmatch

_log = logging.getLogger(__name__)


@dataclass
class _Place:
    """A folder that was loaded or saved to.

    Attributes:
        ours: SHA-256 of the ``config.json`` that this process has loaded from there or written there; several after a
            save that was interrupted; None: not yet.
    """

    ours: frozenset[str] | None


class Saver:
    """Saves a catalog, and knows where it has done so: nobody else's changes are replaced there.

    Attributes:
        saved: a folder, the snapshot that it holds if nobody has replaced it, and the SHA-256 of that bundle.
    """

    def __init__(self, bundle: Bundle, catalog: MutableCatalog) -> None:
        self._bundle, self._catalog = bundle, catalog
        self.saved: tuple[Path, Catalog, str] = (
            bundle.path.absolute(),
            catalog.current,
            bundle.config["sha256"],
        )
        self._places = {real_path(bundle.path): _Place(frozenset([bundle.config["sha256"]]))}
        self._lock = threading.RLock()  # a signal handler may save too
        fresh_in_children(self, "_lock")

    def save(self, path: str | os.PathLike[str]) -> None:
        """See :meth:`hiersrec_sdk.Recommender.save`."""
        started = time.perf_counter()
        path = as_path(path).absolute()
        if is_in_cache(path):
            raise BundleError(
                f"{path} is in the cache of unpacked bundles, where it would be lost: save it elsewhere"
            )
        self._bundle.check_unchanged()
        with self._lock:
            folder, digest = real_path(path), ""
            place = self._places.setdefault(folder, _Place(None))
            # In this order: what a signal handler saves in between is in the snapshot, or noticed by the check.
            ours = place.ours
            snapshot = self._catalog.current

            def check(at: Path) -> tuple[OpenFolder, Mapping[str, Any]] | None:
                if place.ours is not ours:
                    raise BundleError(f"{folder} was saved by a signal handler meanwhile, with all changes")
                if at == folder and real_path(path) != folder:
                    raise BundleError(f"{path} leads to another folder by now: save again")
                return _checked(at, folder, ours)

            def before(written: Bundle) -> None:
                nonlocal digest, ours
                changes = written.delta
                if changes is not None:
                    from_tables(changes, Catalog.of(written))
                digest = written.config["sha256"]
                if ours is not None:  # from now on either may be there, whatever interrupts this
                    either = ours | {digest}
                    place.ours, ours = (either, either) if place.ours is ours else (place.ours, ours)

            feed = None if snapshot.feed is None else asdict(snapshot.feed)
            tables = to_tables(snapshot)
            write_with_delta(self._bundle, folder, tables, len(snapshot), feed, check=check, before=before)
            only, saved = frozenset([digest]), (path, snapshot, digest)
            # One line without a call: a signal handler may have saved newer changes since.
            place.ours, self.saved = (only, saved) if place.ours is ours else (place.ours, self.saved)
        took = 1000 * (time.perf_counter() - started)
        _log.info("saved %d items to %s in %.0f ms", len(snapshot), path, took)


def _checked(
    at: Path, folder: Path, ours: frozenset[str] | None
) -> tuple[OpenFolder, Mapping[str, Any]] | None:
    """The bundle at a path, if it is one of ``ours``; None: any may be there, or nothing.

    Raises:
        BundleError: it must not be replaced; names the ``folder`` that it was in.
    """
    if ours is None:
        if os.path.lexists(at):
            files = files_of_bundle(at)
            if files is None:
                raise BundleError(
                    f"{folder} exists already and is not a bundle: choose another folder or remove it"
                )
            _check_nothing_else(at, folder, files)
        return None
    if not os.path.lexists(at):  # somebody may be about to put another one there
        raise BundleError(
            f"the bundle that was in {folder} is gone: save to another folder, or put a bundle there and load that"
        )
    found = open_config(at)
    if found[1]["sha256"] not in ours:
        raise BundleError(
            f"the bundle in {folder} was replaced since it was loaded; load it again, and apply the changes to it"
        )
    _check_nothing_else(at, folder, found[1]["files"])
    return found


def _check_nothing_else(at: Path, folder: Path, files: Collection[str]) -> None:
    """Raise where a folder holds more than a bundle's files: it would be lost with the bundle that is replaced."""
    others = sorted({each.name for each in at.iterdir() if not _IS_OF_A_SYSTEM(each.name)} - {CONFIG, *files})
    if others:
        names = ", ".join(map(shortened, others[:3])) + (", …" if others[3:] else "")
        raise BundleError(
            f"{folder} holds more than a bundle, which a save would remove: move {names} elsewhere, or save to "
            "another folder"
        )
