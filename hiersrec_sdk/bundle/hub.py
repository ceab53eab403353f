"""Bundles on the Hugging Face Hub: fetched into the Hub's own cache, and pushed to a repository."""

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
from hiersrec_sdk.atomic import is_of_a_task_queue
from hiersrec_sdk.bundle.folder import files_of_bundle, read_config
from hiersrec_sdk.bundle.schema import CARD, CONFIG
from hiersrec_sdk.errors import BundleError, BundleMissingError, InvalidRepoError, MissingExtraError
from hiersrec_sdk.paths import as_path
from hiersrec_sdk.shown import shortened, shown

_MISSING: Final = (
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "LocalEntryNotFoundError",
    "EntryNotFoundError",
)

_MESSAGE: Final = "Upload a bundle of HierSRec SDK"

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
    _check_repo(repo)
    revision = None if revision is None else checked_text("revision", revision)
    cache_dir = None if cache_dir is None else as_path(cache_dir, "cache_dir")
    token = token if token is None or isinstance(token, bool) else checked_text("token", token)
    local_files_only = checked_bool("local_files_only", local_files_only)
    hub = _import_hub("Recommender.from_pretrained")
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


class Push:
    """A push of a bundle to a repository, its arguments checked.

    Args:
        repo, revision, message, private, exist_ok, token: see :meth:`hiersrec_sdk.Recommender.push_to_hub`.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        InvalidRepoError: ``repo`` cannot be the name of a repository.
        InvalidOptionError: another argument is of the wrong type.
    """

    def __init__(
        self,
        repo: str,
        revision: str | None,
        message: str | None,
        private: bool,
        exist_ok: bool,
        token: str | bool | None,
    ) -> None:
        _check_repo(repo)
        self._repo = repo
        self._revision = None if revision is None else checked_text("revision", revision)
        self._message = _MESSAGE if message is None else checked_text("commit_message", message)
        self._private = checked_bool("private", private)
        self._exist_ok = checked_bool("exist_ok", exist_ok)
        token = token if token is None or isinstance(token, bool) else checked_text("token", token)
        self._hub = _import_hub("Recommender.push_to_hub")
        self._api = self._hub.HfApi(token=token)
        errors = import_module("huggingface_hub.errors")
        try:
            import_module("huggingface_hub.utils").validate_repo_id(repo)
        except errors.HFValidationError as error:
            raise InvalidRepoError(
                f"repo must be a name such as 'org/name', got {shown(repo)}: {shortened(error)}"
            ) from error
        self._errors = errors

    def __call__(self, folder: Path) -> str:
        """Push the bundle ``folder``; return the URL of the commit.

        Raises:
            BundleError: the repository must not be replaced, or the Hub refuses or cannot be reached.
        """
        started = time.perf_counter()
        try:
            # the Hub's own name of it: "name" alone is one of the user's
            self._repo = self._api.create_repo(
                self._repo, private=self._private, exist_ok=self._exist_ok
            ).repo_id
            if self._revision is not None:
                self._api.create_branch(self._repo, branch=self._revision, exist_ok=True)
            url: str = self._commit(folder)
        except BundleError:
            raise
        except Exception as error:  # errors of its HTTP client are not OSErrors
            if is_of_a_task_queue(error):
                raise
            raise self._refused(error) from error
        _log.info("pushed %s to %s in %.0f ms", folder, url, 1000 * (time.perf_counter() - started))
        return url

    def _commit(self, folder: Path) -> str:
        head = self._api.repo_info(self._repo, revision=self._revision)
        present = {file.rfilename for file in head.siblings or ()}
        files = {CONFIG, *read_config(folder)["files"]}
        stale = set()
        if CONFIG in present:
            stale = (self._files_of_bundle(head.sha) & present) - files
        elif others := (files & present) - {CARD}:
            raise BundleError(
                f"{self._repo} on the Hub holds another model: it has {', '.join(sorted(others))} without a {CONFIG}. "
                "Push to another repository"
            )
        operations = [
            *(self._hub.CommitOperationDelete(name) for name in sorted(stale)),
            *(self._hub.CommitOperationAdd(name, str(folder / name)) for name in sorted(files)),
        ]
        made = self._api.create_commit(
            self._repo,
            operations,
            commit_message=self._message,
            revision=self._revision,
            parent_commit=head.sha,  # what was looked at is what is replaced
        )
        return str(made.commit_url)

    def _files_of_bundle(self, commit: str) -> set[str]:
        """The files of the bundle that the repository holds; BundleError: it holds something else."""
        found = Path(self._api.hf_hub_download(self._repo, CONFIG, revision=commit))
        files = files_of_bundle(found.parent)
        if files is None:
            raise BundleError(
                f"{self._repo} on the Hub holds another model: its {CONFIG} is not a HierSRec bundle's. Push to "
                "another repository"
            )
        return files

    def _refused(self, error: Exception) -> BundleError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        about = shortened(" ".join(str(error).split()))
        if status == 409 and not self._exist_ok:
            return BundleError(
                f"{self._repo} exists on the Hub already: choose another name, or replace the bundle in it with "
                "exist_ok=True (hiersrec push --exist-ok)"
            )
        if status in (401, 403) or isinstance(error, self._errors.LocalTokenNotFoundError):
            return BundleError(
                f"the Hub refuses a push to {self._repo}: run 'hf auth login', or set HF_TOKEN to a token that may "
                f"write there: {about}"
            )
        if status in (409, 412):
            return BundleError(f"{self._repo} on the Hub was changed during the push: push again: {about}")
        return BundleError(f"{self._repo} on the Hub cannot be written: {about or type(error).__name__}")


def _check_repo(repo: Any) -> None:
    if not isinstance(repo, str):
        raise InvalidRepoError(f"repo must be a name such as 'org/name', got {shown(repo)}")


def _import_hub(purpose: str) -> Any:
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtraError("hub", purpose, "huggingface_hub") from error


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
        if is_of_a_task_queue(error):
            raise
        raise BundleError(f"{at} cannot be read: {error}") from error
