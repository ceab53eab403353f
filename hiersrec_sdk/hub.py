"""A recommender on the Hugging Face Hub: loaded from a repository, and pushed to one."""

from __future__ import annotations

import os
import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from hiersrec_sdk.arguments import checked_bool, checked_threads
from hiersrec_sdk.bundle import Bundle
from hiersrec_sdk.bundle.hub import Push, download
from hiersrec_sdk.catalog.saving import Saver
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.cpus import Threads
from hiersrec_sdk.encoders.runtime import checked_providers


class HubMixin:
    """The part of :class:`~hiersrec_sdk.Recommender` that talks to the hub."""

    catalog: MutableCatalog
    _bundle: Bundle

    @classmethod
    @abstractmethod
    def load(
        cls,
        path: Any,
        *,
        providers: Sequence[str] = ("cpu",),
        backend: str | None = None,
        threads: Threads = 1,
        verify: bool = True,
    ) -> Self:
        """Load a bundle."""

    @classmethod
    def from_pretrained(
        cls,
        repo: str,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        providers: Sequence[str] = ("cpu",),
        backend: str | None = None,
        threads: Threads = 1,
        verify: bool = True,
    ) -> Self:
        """Load the bundle that is the repository ``repo`` of the Hugging Face hub, through the hub's own cache.

        Args:
            repo: its name, "org/name".
            revision: branch, tag or commit; None: the main branch.
            cache_dir: of the hub; None: as its environment variables say, such as ``HF_HOME``.
            token: for a private repository; None: the one that ``hf auth login`` or ``HF_TOKEN`` has set.
            local_files_only: whether to take what is in that cache, and ask nobody.
            providers, backend, threads, verify: as :meth:`load`.

        Raises:
            BundleMissingError: there is no such repository, revision or file; or not in the cache, and the hub cannot
                be reached.
            BundleError: the hub does not answer as it should.
            MissingExtraError: huggingface_hub is not installed (extra ``hub``).
            HierSRecError: as :meth:`load`.
        """
        providers, verify = checked_providers(providers), checked_bool("verify", verify)
        checked_threads(threads)  # before anything is fetched
        folder = download(repo, revision, cache_dir, token, local_files_only)
        return cls.load(folder, providers=providers, backend=backend, threads=threads, verify=verify)

    def push_to_hub(
        self,
        repo: str,
        *,
        revision: str | None = None,
        commit_message: str | None = None,
        private: bool = True,
        exist_ok: bool = False,
        token: str | bool | None = None,
    ) -> str:
        """Upload the bundle, with all changes of its catalog, to the repository ``repo`` of the Hugging Face hub.

        Exactly the bundle's files go there, in one commit, so that nobody sees half of it; ``README.md`` is the model
        card. The bundle is saved to a temporary folder first, which needs its size on the disk.

        >>> recommender.push_to_hub("org/shop", exist_ok=True)               # doctest: +SKIP
        'https://huggingface.co/org/shop/commit/0123...'

        Args:
            repo: its name, "org/name". A repository that is not there is made.
            revision: branch to push to, made if it is not there; None: the main branch.
            commit_message: None: "Upload a bundle of HierSRec SDK".
            private: whether a repository that is made is private: a bundle holds the catalog and its click counts.
                One that is there stays as it is.
            exist_ok: whether the repository may be there already. A bundle in it is replaced, in a new commit; files
                that are not a bundle's stay. Another model in it is never replaced.
            token: that may write; None: the one that ``hf auth login`` or ``HF_TOKEN`` has set.

        Returns:
            The URL of the commit.

        Raises:
            BundleError: the repository exists, or holds another model; the hub refuses the push or cannot be reached;
                or the bundle cannot be saved. Whoever loads from the repository sees what was there before.
            MissingExtraError: huggingface_hub is not installed (extra ``hub``).
            InvalidRepoError: ``repo`` cannot be the name of a repository.
            InvalidOptionError: another argument is of the wrong type.
        """
        push = Push(repo, revision, commit_message, private, exist_ok, token)  # before anything is written
        with tempfile.TemporaryDirectory(prefix="hiersrec-push-") as folder:
            bundle = Path(folder) / "bundle"
            Saver(self._bundle, self.catalog).save(
                bundle
            )  # one of its own: a pickle must not name this folder
            return push(bundle)
