"""Fetches bundles from the Hugging Face Hub, into the Hub's own cache."""

from __future__ import annotations

import glob
import logging
import os
import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from hiersrec_sdk.arguments import checked_bool, checked_text
from hiersrec_sdk.bundle.folder import read_config
from hiersrec_sdk.bundle.schema import CONFIG
from hiersrec_sdk.errors import BundleError, BundleMissingError, InvalidRepoError, MissingExtraError
from hiersrec_sdk.paths import as_path
from hiersrec_sdk.shown import shortened, shown

_MISSING: Final = (
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "LocalEntryNotFoundError",
    "EntryNotFoundError",
)

_log = logging.getLogger(__name__)


def download(
    repo: str,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Fetch the bundle of the repository ``repo``; return its folder, in which every file is a symbolic link.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        BundleMissingError: there is no such repository, revision or bundle; or it is not in the cache, and the Hub
            cannot be reached or must not be asked.
        BundleError: the Hub gives an unexpected answer, or its cache cannot be written.
        InvalidRepoError: ``repo`` cannot be the name of a repository.
        InvalidPathError, InvalidOptionError: another argument is of the wrong type.
    """
    if not isinstance(repo, str):
        raise InvalidRepoError(f"repo must be a name such as 'org/name', got {shown(repo)}")
    revision = None if revision is None else checked_text("revision", revision)
    cache_dir = None if cache_dir is None else as_path(cache_dir, "cache_dir")
    token = token if token is None or isinstance(token, bool) else checked_text("token", token)
    local_files_only = checked_bool("local_files_only", local_files_only)
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtraError("hub", "Recommender.from_pretrained", "huggingface_hub") from error
    started = time.perf_counter()
    options = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    fetch = partial(_fetch, hub, repo, options)
    first = fetch(revision, [CONFIG])
    if not (first / CONFIG).is_file():
        raise BundleMissingError(f"{repo} on the Hub is not a bundle: it has no {CONFIG}")
    files = read_config(first)["files"]
    commit = first.name  # the revision may move meanwhile
    folder = fetch(commit, [CONFIG, *map(glob.escape, files)])
    _log.info("fetched %s to %s in %.0f ms", repo, folder, 1000 * (time.perf_counter() - started))
    return folder


def _fetch(
    hub: Any, repo: str, options: dict[str, Any], revision: str | None, patterns: Sequence[str]
) -> Path:
    errors = import_module("huggingface_hub.errors")
    at = f"{repo} on the Hub" if revision is None else f"{repo} on the Hub, at {shortened(revision)},"
    try:
        return Path(hub.snapshot_download(repo, revision=revision, allow_patterns=list(patterns), **options))
    except errors.HFValidationError as error:
        raise InvalidRepoError(
            f"repo must be a name such as 'org/name', got {shown(repo)}: {shortened(error)}"
        ) from error
    except tuple(getattr(errors, name) for name in _MISSING) as error:
        raise BundleMissingError(f"{at} cannot be found: {error}") from error
    except Exception as error:  # errors of its HTTP client are not OSErrors
        raise BundleError(f"{at} cannot be read: {error}") from error
