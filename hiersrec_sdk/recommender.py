"""The recommender: a session of the shop's own item ids in, ranked items out."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Unpack, get_args, overload

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk import frames as columns
from hiersrec_sdk.bundle.folder import Bundle, read_file, write_with_delta
from hiersrec_sdk.bundle.hub import download
from hiersrec_sdk.bundle.schema import QUERY_PARTS
from hiersrec_sdk.bundle.sources import Source, is_in_cache, open_source
from hiersrec_sdk.catalog import filters
from hiersrec_sdk.catalog.delta import ChangedCatalog
from hiersrec_sdk.catalog.delta_tables import to_tables
from hiersrec_sdk.catalog.filters import Filter
from hiersrec_sdk.catalog.snapshot import UNKNOWN, Catalog
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.cpus import Threads, resolved
from hiersrec_sdk.encoders.session_encoder import Encoded, OnnxSessionEncoder
from hiersrec_sdk.errors import (
    BundleError,
    CatalogChangeError,
    InvalidArgumentError,
    InvalidFilterError,
    InvalidKError,
    InvalidOptionError,
    InvalidSessionError,
    UnknownItemError,
)
from hiersrec_sdk.explain import Explanation, PartsGraph, explained, softmax
from hiersrec_sdk.frames import Output, Sessions
from hiersrec_sdk.options import ManyOptions, Mode, OnUnknown, RecommendOptions
from hiersrec_sdk.ranking import Backend, Found, Request, Table, get_backend, row_ranges
from hiersrec_sdk.results import CategoryHit, Hit, Result
from hiersrec_sdk.session import Session
from hiersrec_sdk.trace import Trace

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

_log = logging.getLogger(__name__)

_CATEGORIES_SHOWN: Final = 5
# mode="auto" ranks everything where that reads at most so many bytes more than candidates: what one core reads in about
# the time that the session encoder takes.
_AUTO_BYTES: Final = 4 << 20
_FEW: Final = 1_024  # rows that are excluded one by one; more are a bitmap


class _Options(NamedTuple):
    """The arguments of a call, checked.

    Attributes:
        catalog: the snapshot that the call sees.
        k: at most the number of items.
        exact: whether every item ranks.
        rows: rows that the candidates have to hold,
        top_p: and the probability.
        on_unknown: what to do about an id that the catalogue lacks.
        session_categories: whether the categories of the session's own items always are candidates.
        filter: which items may be recommended, or None: all.
        excluded: int64 rows that may not, rising; beside the filter.
        exclude_seen: whether the session's own items may not.
        max_per_category: most items of a leaf category, or None.
        threads: threads of the ranking of one session.
    """

    catalog: Catalog
    k: int
    exact: bool
    rows: int
    top_p: float
    on_unknown: OnUnknown
    session_categories: bool = False
    filter: Filter | None = None
    excluded: NDArray[np.int64] | None = None
    exclude_seen: bool = False
    max_per_category: int | None = None
    threads: int = 1


class _Session(NamedTuple):
    """A session as the catalogue knows it.

    Attributes:
        rows: int64 [at most max_length], the newest known items, which the encoder reads.
        unknown: how many ids are unknown.
        seen: int64, all known items.
    """

    rows: NDArray[np.int64]
    unknown: int
    seen: NDArray[np.int64]


class _Asked(NamedTuple):
    """What the kernel is asked for a session.

    Attributes:
        base: of the bundle's rows.
        added: of the rows added since, counted from 0, or None where there are none.
        linked: int64, rising, of both: rows that rank whatever the candidates are,
        boosts: float32, added to their scores.
    """

    base: Request
    added: Request | None
    linked: NDArray[np.int64]
    boosts: NDArray[np.float32]


class _About(NamedTuple):
    """What a result says beside the items: see :class:`Result`."""

    ranges: row_ranges.Ranges
    own: row_ranges.Rows
    leaves: tuple[tuple[int, float], ...]
    path: tuple[tuple[int, float], ...]


class Recommender:
    """A loaded bundle that answers sessions. Any number of threads may call it at once.

    >>> r = Recommender.load("bundle/")                         # doctest: +SKIP
    >>> result = r.recommend(["shoe-17", "shoe-40"], k=20)      # doctest: +SKIP
    >>> [(hit.item, hit.score) for hit in result]               # doctest: +SKIP

    Attributes:
        catalog: the items, their ids and categories.
        config: the content of the bundle's ``config.json``.
        providers: where the session encoder runs, e.g. ``("cpu",)``.
        backend: name of the ranking backend, e.g. ``"c"``.
    """

    def __init__(self, bundle: Bundle, encoder: OnnxSessionEncoder, backend: Backend) -> None:
        self.catalog: MutableCatalog = MutableCatalog(
            Catalog(bundle, backend), bundle.path, bundle.config, encoder.providers, bundle.delta
        )
        self.config: dict[str, Any] = bundle.config
        self._path = bundle.path
        self._digest: str = bundle.config["sha256"]  # of the bundle in that folder
        self._saving = threading.Lock()
        self._saved = bundle.path, self.catalog.current  # a folder that holds this snapshot
        self.providers: tuple[str, ...] = encoder.providers
        self._threads: Threads = encoder.threads
        self.backend: str = backend.name
        self._encoder = encoder
        self._search = backend.search
        self._choose = backend.choose
        self._session_items = backend.session_items
        self._max_length: int = self.config["max_length"]
        self._pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process and number of threads

    @classmethod
    def load(
        cls,
        path: Source,
        *,
        providers: Sequence[str] = ("cpu",),
        backend: str | None = None,
        threads: Threads = 1,
        verify: bool = True,
    ) -> Recommender:
        """Load the bundle ``path``.

        Args:
            path: its folder; or a zip file of it, the bytes of one, or the URL of either, such as
                ``s3://bucket/bundle.zip`` (extra ``fsspec``). What is no local folder is unpacked once, with every file
                checked, to ``~/.cache/hiersrec``; ``HIERSREC_CACHE`` names another folder.
            providers: where to run the session encoder, in order of preference: "cpu", "cuda".
            backend: "c", "numba" or "numpy"; None takes the best that is there.
            threads: threads of the session encoder within one call; "auto": as many as there are CPUs for this process,
                by its affinity and the quota of its container.
            verify: whether to check every file against its SHA-256 and the tables' contents, which reads all of
                them. Without it a bundle of any size opens in milliseconds: sizes, shapes and the category tree are
                checked, the tables are mapped into memory and read as they are needed.

        Raises:
            BundleMissingError: there is no bundle, or a file of it is missing.
            BundleCorruptError: a file is truncated, altered or foreign; names the file and the cause.
            BundleVersionError: a newer version wrote the bundle.
            ProviderError: a provider is not there.
            BackendError: the backend is not there.
            BundleError: it cannot be read from there, or not be unpacked.
            MissingExtraError: onnxruntime is not installed; or fsspec, for a URL.
            InvalidOptionError: another argument is out of its range.
        """
        started = time.perf_counter()
        ranking = get_backend(backend)
        bundle = open_source(path, verify)
        encoder = OnnxSessionEncoder(
            bundle.model,
            dimension=bundle.config["dimension"],
            categories=bundle.config["categories"],
            providers=providers,
            threads=resolved(threads),
        )
        recommender = cls(bundle, encoder, ranking)
        recommender._threads = threads  # for a pickle: another machine has other CPUs
        _log.info(
            "loaded %s: %d items, backend %s, providers %s, in %.0f ms",
            bundle.path,
            len(recommender.catalog),
            ranking.name,
            ", ".join(providers),
            1000 * (time.perf_counter() - started),
        )
        return recommender

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
    ) -> Recommender:
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
        folder = download(repo, revision, cache_dir, token, local_files_only)
        return cls.load(folder, providers=providers, backend=backend, threads=threads, verify=verify)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bundle with all changes of its catalogue to the folder ``path``: whole or not at all.

        A bundle that is there already, this one even, is replaced in one step. What did not change is linked to, where
        the file system can, so that this takes the time of the changes.

        Raises:
            BundleError: it cannot be written, ``path`` is no bundle, or the bundle that was loaded has been replaced
                since, so that the changes of another would be lost. What is there stays.
        """
        started = time.perf_counter()
        if is_in_cache(path):
            raise BundleError(
                f"{path} is in the cache of unpacked bundles, where it would be lost: save it elsewhere"
            )
        snapshot = self.catalog.current
        with self._saving:
            digest = write_with_delta(
                self._path, path, {**self.config, "sha256": self._digest}, to_tables(snapshot), len(snapshot)
            )
            if Path(path).resolve() == self._path.resolve():
                self._digest = digest
            self._saved = Path(path), snapshot
        _log.info(
            "saved %d items to %s in %.0f ms", len(snapshot), path, 1000 * (time.perf_counter() - started)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the bundle's absolute path and how it was loaded: whoever unpickles it has to have the bundle
        there. Its checksums are not read again.

        Raises:
            CatalogChangeError: the catalogue has changes that are in no bundle yet.
        """
        path, snapshot = self._saved
        if snapshot is not self.catalog.current:
            raise CatalogChangeError("the catalogue has changes that a pickle cannot hold: save() them first")
        load = partial(
            Recommender.load,
            providers=self.providers,
            backend=self.backend,
            threads=self._threads,
            verify=False,
        )
        return load, (path.absolute(),)

    def __repr__(self) -> str:
        return (
            f"<Recommender: {len(self.catalog)} items, {self.config['categories'][-1]} categories, "
            f"providers {', '.join(self.providers)}, backend {self.backend}>"
        )

    def filter(
        self,
        *,
        allow: Iterable[int | str] | None = None,
        exclude: Iterable[int | str] | None = None,
        categories: Iterable[int | str] | None = None,
        exclude_categories: Iterable[int | str] | None = None,
    ) -> Filter:
        """Prepare a filter that many requests, in any number of threads, may use: ``recommend(session, filter=f)``.

        Args:
            allow: only these items may be recommended; ids that the catalogue lacks do nothing.
            exclude: these may not.
            categories: only items of these categories, of any level, by the shop's own ids.
            exclude_categories: no items of these.

        Raises:
            InvalidFilterError: an argument is no list of ids.
            UnknownCategoryError: a category that the catalogue lacks.
            InvalidItemIdError, NaNItemIdError: an id is not of the catalogue's type, or NaN.
        """
        return filters.prepare(
            self.catalog.current,
            allow=allow,
            exclude=exclude,
            categories=categories,
            exclude_categories=exclude_categories,
        )

    def recommend(
        self,
        session: Iterable[int | str],
        k: int = 20,
        *,
        mode: Mode = "candidates",
        candidates: float | Literal["auto"] | None = None,
        include_session_categories: bool = False,
        filter: Filter | None = None,
        allow: Iterable[int | str] | None = None,
        exclude: Iterable[int | str] | None = None,
        exclude_seen: bool = False,
        categories: Iterable[int | str] | None = None,
        exclude_categories: Iterable[int | str] | None = None,
        max_per_category: int | None = None,
        on_unknown: OnUnknown = "skip",
        threads: Threads = 1,
    ) -> Result:
        """Items for one session.

        Args:
            session: the shop's own item ids, oldest first. The last ``config["max_length"]`` known ones count.
            k: how many items; above the number of items, all of them.
            mode: "candidates" ranks the most probable categories; "exact" ranks every item, at a fraction of the cost
                of scoring each; "auto" is exact where that is cheap, else candidates.
            candidates: share of the items that are candidates, above 0 and up to 1; "auto": the most probable
                categories up to the probability that ``config["calibration"]["top_p"]`` says, fewer for sure sessions and
                more for unsure ones; None: ``config["candidate_share"]``. The category that crosses it is still taken, and
                more where they hold fewer than ``k`` eligible items. The session's own items always are candidates.
            include_session_categories: whether the categories of the session's own items come first among them.
            filter: a filter of :meth:`filter`, prepared once.
            allow, exclude, categories, exclude_categories: as of :meth:`filter`, for this call alone; but for a short
                ``exclude`` they take time that grows with the catalogue. What is given restricts together.
            exclude_seen: whether the session's own items may not be recommended.
            max_per_category: most items of one leaf category.
            on_unknown: an id that the catalogue lacks is left out and counted ("skip"), or an error ("error").
            threads: threads that rank in mode "exact", a number or "auto", as of :meth:`load`.

        Returns:
            The items: k of them, if so many may be recommended; popular ones where the session holds no known id.

        Raises:
            InvalidSessionError: the session is a string, a dict, a set, or no sequence of ids.
            InvalidItemIdError, NaNItemIdError: an id is not of the catalogue's type, or NaN.
            UnknownItemError: an id that the catalogue lacks, where ``on_unknown`` is "error".
            InvalidKError: ``k`` is no whole number of at least 1.
            InvalidFilterError, UnknownCategoryError: see :meth:`filter`.
            InvalidOptionError: another argument is out of its range.
        """
        options = self._options(
            k,
            mode,
            candidates,
            on_unknown,
            include_session_categories,
            filter,
            allow,
            exclude,
            exclude_seen,
            categories,
            exclude_categories,
            max_per_category,
            threads,
        )
        return self._answer_one(self._known(session, options), options)

    async def arecommend(
        self, session: Iterable[int | str], k: int = 20, **options: Unpack[RecommendOptions]
    ) -> Result:
        """:meth:`recommend` in a thread of the loop's pool, so that the loop goes on; takes the same arguments."""
        return await asyncio.to_thread(partial(self.recommend, session, k, **options))

    def session(self, items: Session | Iterable[int | str] = ()) -> Session:
        """A session that grows, which begins with ``items``: own ids, oldest first, or another session, such as an
        unpickled one.

        Raises:
            InvalidSessionError, InvalidItemIdError, NaNItemIdError: as :meth:`recommend`.
        """
        ids = items.items if isinstance(items, Session) else _as_ids(items)
        return Session(self, ids.tolist() if isinstance(ids, np.ndarray) else ids)

    @overload
    def recommend_many(
        self,
        sessions: Sessions,
        k: int = 20,
        *,
        output: Literal["results"] = ...,
        **options: Unpack[ManyOptions],
    ) -> list[Result]: ...

    @overload
    def recommend_many(
        self, sessions: Sessions, k: int = 20, *, output: Literal["numpy"], **options: Unpack[ManyOptions]
    ) -> dict[str, NDArray[Any]]: ...

    @overload
    def recommend_many(
        self, sessions: Sessions, k: int = 20, *, output: Literal["pandas"], **options: Unpack[ManyOptions]
    ) -> pandas.DataFrame: ...

    @overload
    def recommend_many(
        self, sessions: Sessions, k: int = 20, *, output: Literal["polars"], **options: Unpack[ManyOptions]
    ) -> polars.DataFrame: ...

    @overload
    def recommend_many(
        self, sessions: Sessions, k: int = 20, *, output: Literal["arrow"], **options: Unpack[ManyOptions]
    ) -> pyarrow.Table: ...

    def recommend_many(
        self,
        sessions: Sessions,
        k: int = 20,
        *,
        mode: Mode = "candidates",
        candidates: float | Literal["auto"] | None = None,
        include_session_categories: bool = False,
        filter: Filter | None = None,
        allow: Iterable[int | str] | None = None,
        exclude: Iterable[int | str] | None = None,
        exclude_seen: bool = False,
        categories: Iterable[int | str] | None = None,
        exclude_categories: Iterable[int | str] | None = None,
        max_per_category: int | None = None,
        on_unknown: OnUnknown = "skip",
        batch_size: int = 64,
        threads: Threads = 1,
        output: Output = "results",
    ) -> Any:
        """Items for many sessions, in their order: what :meth:`recommend` says of each.

        Sessions of like length go through the encoder together, ``batch_size`` at a time, and share what is read of the
        catalogue; ``threads`` batches are worked on at once. Scores may differ from those of :meth:`recommend` by the
        rounding of a matrix product.

        Args:
            sessions: a list of sessions; or a column of lists, in which a null is an empty session: a NumPy array, of
                objects or with two dimensions, a pandas or Polars Series, an Arrow array.
            output: "results", a list of :class:`Result`; or a table with a row for each hit, "numpy" (a dict of
                arrays), "pandas", "polars" or "arrow": ``session`` int64, its position; ``rank`` int32 from 1; ``item``
                int64 or string; ``score`` float32; and ``title``, or null, where the bundle has titles.

        Raises:
            InvalidOptionError: ``batch_size`` or ``threads`` is no whole number of at least 1, or ``output`` none of these.
            MissingExtraError: the package of that ``output`` is not installed.
            InvalidArgumentError: as :meth:`recommend`; the message says which session.
        """
        options = self._options(
            k,
            mode,
            candidates,
            on_unknown,
            include_session_categories,
            filter,
            allow,
            exclude,
            exclude_seen,
            categories,
            exclude_categories,
            max_per_category,
            threads,
        )
        threads, options = options.threads, options._replace(threads=1)
        if not _is_whole(batch_size) or batch_size < 1:
            raise InvalidOptionError(f"batch_size is {batch_size!r}; it must be a whole number of at least 1")
        sessions = columns.sessions_of(sessions)
        if isinstance(sessions, str | bytes | Mapping) or not isinstance(sessions, Iterable):
            raise InvalidSessionError(f"sessions is {_described(sessions)}; it must be a list of sessions")
        finish = columns.maker(output)
        known: list[_Session] = []
        for place, session in enumerate(sessions):
            try:
                known.append(self._known(session, options))
            except InvalidArgumentError as error:
                # a list of ids is one session: each id would be taken for a session of its own
                one = place == 0 and isinstance(session, str | int | np.integer)
                hint = "; for one session use recommend()" if one else ""
                raise type(error)(f"session {place}: {error}{hint}") from error
        results = {at: self._popular(own, options) for at, own in enumerate(known) if not len(own.rows)}
        by_length = sorted(
            (at for at in range(len(known)) if at not in results), key=lambda at: len(known[at].rows)
        )
        batches = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]

        def answer(batch: list[int]) -> list[Result]:
            return self._answer([known[at] for at in batch], options)

        if threads == 1 or len(batches) < 2:
            answers = list(map(answer, batches))
        else:
            answers = list(self._pool(threads).map(answer, batches))
        for batch, found in zip(batches, answers, strict=True):
            results.update(zip(batch, found, strict=True))
        return finish([results[at] for at in range(len(known))], options.catalog)

    def explain(
        self, session: Iterable[int | str], item: int | str, *, on_unknown: OnUnknown = "skip"
    ) -> Explanation:
        """Why ``item`` has the score that it has after ``session``: see :class:`Explanation`. It scores every item.

        Raises:
            UnknownItemError: the catalogue lacks the item, or every item of the session.
            InvalidArgumentError: as :meth:`recommend`.
        """
        options = self._options(1, on_unknown=on_unknown)
        row, known = self._row_of(item, options.catalog), self._known(session, options)
        if not len(known.rows):
            raise UnknownItemError(
                "no item of the session is in the catalogue: there is nothing to explain by it"
            )
        encoded = self._encode(known, options.catalog)
        asked, about = self._ask(known, encoded, 0, options)
        parts = None
        if QUERY_PARTS in self.config["files"]:
            parts = self._parts(options.catalog.vectors(known.rows, inputs=True))
        candidates = row_ranges.add(row_ranges.rising(about.ranges), np.unique(about.own))
        return explained(
            options.catalog, row, known.rows, encoded, asked.linked, asked.boosts, candidates, parts
        )

    def categories(
        self, session: Iterable[int | str], k: int = 5, *, level: int = -1, on_unknown: OnUnknown = "skip"
    ) -> tuple[CategoryHit, ...]:
        """The ``k`` most probable categories of the next click, at any ``level``: 0 is the top, -1 the leaf level.

        None where the session holds no known item.

        Raises:
            InvalidOptionError: there is no such level.
            InvalidKError: ``k`` is no whole number of at least 1.
            InvalidArgumentError: as :meth:`recommend`.
        """
        levels = len(self.catalog.ranges)
        if not _is_whole(level) or not -levels <= level < levels:
            raise InvalidOptionError(
                f"level is {level!r}; this catalogue has levels 0 to {levels - 1}, -1 is the last"
            )
        options = self._options(k, on_unknown=on_unknown)
        known = self._known(session, options)
        if not len(known.rows):
            return ()
        level = range(levels)[level]
        share = softmax(self._encode(known, options.catalog).category_logits[level][0])
        best = np.argsort(-share, kind="stable")[: int(k)]
        found = [self.catalog.category(level, int(at)) for at in best]
        return tuple(
            CategoryHit(category.id, float(share[category.index]), level, category.name, category.index)
            for category in found
        )

    def similar_items(self, item: int | str, k: int = 20, *, filter: Filter | None = None) -> tuple[Hit, ...]:
        """The ``k`` items whose vectors are nearest to that of ``item``, which is left out: scores are dot products.

        They are cosines, for the vectors that ``hiersrec export`` writes. All items rank, as in mode "exact".

        Raises:
            UnknownItemError: the catalogue lacks the item.
            InvalidKError, InvalidFilterError: as :meth:`recommend`.
        """
        options = self._options(k, "exact", filter=filter)
        catalog = options.catalog
        row = self._row_of(item, catalog)
        n = len(catalog.item_vectors)
        leaf = int(catalog.categories_of(np.array([row]))[0])
        first = catalog.ranges[-1][leaf : leaf + 1] if leaf < len(catalog.ranges[-1]) else _NO_RANGES
        query = np.ascontiguousarray(catalog.vectors(np.array([row]))[0], dtype=np.float32)
        base = Request(query, first, row_ranges.complement(first, n), self._bitmap(options), _below([row], n))
        added = self._added(options, query, None, np.array([row]), _NO_ROWS, _NO_BOOSTS)
        found = self._find([_Asked(base, added, _NO_ROWS, _NO_BOOSTS)], options, options.k, plain=True)[0]
        hits = zip(catalog.ids(found.rows), found.scores.tolist(), found.rows.tolist(), strict=True)
        return tuple(Hit(own, score, catalog.title(row)) for own, score, row in hits)

    def trace(self, session: Iterable[int | str], k: int = 20, **options: Unpack[RecommendOptions]) -> Trace:
        """What :meth:`recommend` computes on its way to an answer, with the same arguments.

        Raises:
            UnknownItemError: the catalogue lacks every item of the session: the answer would be popular items.
            InvalidArgumentError: as :meth:`recommend`.
        """
        checked = self._options(k, **options)
        times = [time.perf_counter()]
        known = self._known(session, checked)
        if not len(known.rows):
            raise UnknownItemError(
                "no item of the session is in the catalogue: the answer would be popular items"
            )
        times.append(time.perf_counter())
        encoded = self._encode(known, checked.catalog)
        times.append(time.perf_counter())
        asked, about = self._ask(known, encoded, 0, checked)
        times.append(time.perf_counter())
        result = self._rank([known], encoded, checked)[0]
        times.append(time.perf_counter())
        steps = [stop - start for start, stop in pairwise(times)]
        steps[-1] = max(0.0, steps[-1] - steps[-2])  # ranking chooses once more
        return Trace(
            known.rows,
            known.unknown,
            checked.catalog.vectors(known.rows, inputs=True),
            tuple(level[0] for level in encoded.category_logits),
            None if encoded.repeat_logits is None else encoded.repeat_logits[0],
            encoded.item_query[0],
            about.ranges,
            asked.linked,
            asked.boosts,
            result._rows,
            result.scores,
            result,
            dict(zip(("look up", "encode", "choose", "rank"), steps, strict=True)),
        )

    def _recommend_to(self, session: Session, k: int, **options: Unpack[RecommendOptions]) -> Result:
        """:meth:`recommend` to a session that keeps its rows."""
        checked = self._options(k, **options)
        known = self._known_rows(session.items, session._rows_in(checked.catalog), checked)
        return self._answer_one(known, checked)

    def _row_of(self, item: Any, catalog: Catalog) -> int:
        row = int(catalog.rows([item])[0])
        if row == UNKNOWN:
            raise UnknownItemError(f"item id {item!r} is not in the catalogue")
        return row

    def _encode(self, known: _Session, catalog: Catalog) -> Encoded:
        """Of one session; unlike the buffers of ``encode_one`` the answer is the caller's to keep."""
        return self._encoder.encode(
            catalog.vectors(known.rows, inputs=True)[None], np.array([len(known.rows)])
        )

    @cached_property
    def _parts(self) -> PartsGraph:
        return PartsGraph(read_file(self._path, QUERY_PARTS, self.config), self.providers)

    def _options(
        self,
        k: int,
        mode: Mode = "candidates",
        candidates: Any = None,
        on_unknown: OnUnknown = "skip",
        include_session_categories: bool = False,
        filter: Filter | None = None,
        allow: Any = None,
        exclude: Any = None,
        exclude_seen: bool = False,
        categories: Any = None,
        exclude_categories: Any = None,
        max_per_category: int | None = None,
        threads: Threads = 1,
    ) -> _Options:
        catalog = self.catalog.current
        plain: dict[Any, _Options] = catalog.options  # of calls without filters, by their arguments
        key: Any = None
        if (
            filter is None
            and allow is None
            and exclude is None
            and categories is None
            and exclude_categories is None
        ):
            key = (
                k,
                mode,
                candidates,
                on_unknown,
                include_session_categories,
                exclude_seen,
                max_per_category,
                threads,
            )
            key = key, tuple(map(type, key))  # 1 equals True, which is another argument
            try:
                kept = plain.get(key)
            except TypeError:  # an argument that has no hash is wrong
                key = kept = None
            if kept is not None:
                return kept
        if not _is_whole(k) or k < 1:
            raise InvalidKError(f"k is {k!r}; it must be a whole number of at least 1")
        if not isinstance(mode, str) or mode not in get_args(Mode):
            raise InvalidOptionError(f"mode is {mode!r}; it must be 'candidates', 'exact' or 'auto'")
        if not isinstance(on_unknown, str) or on_unknown not in get_args(OnUnknown):
            raise InvalidOptionError(f"on_unknown is {on_unknown!r}; it must be 'skip' or 'error'")
        for name, flag in (
            ("include_session_categories", include_session_categories),
            ("exclude_seen", exclude_seen),
        ):
            if not isinstance(flag, bool | np.bool_):
                raise InvalidOptionError(f"{name} is {flag!r}; it must be True or False")
        if max_per_category is not None and (not _is_whole(max_per_category) or max_per_category < 1):
            raise InvalidOptionError(
                f"max_per_category is {max_per_category!r}; it must be a whole number of at least 1"
            )
        number = resolved(threads)
        if not _is_whole(number) or number < 1:
            raise InvalidOptionError(
                f"threads is {threads!r}; it must be a whole number of at least 1, or 'auto'"
            )
        share, top_p = self._budget(candidates, bool(include_session_categories))
        if filter is not None and not isinstance(filter, Filter):
            raise InvalidFilterError(
                f"filter is {filter!r}; it must be what Recommender.filter() made, or None"
            )
        excluded = None
        if isinstance(exclude, Iterator):
            exclude = list(exclude)  # it may be read twice
        if exclude is not None:
            excluded = np.unique(filters.rows_of(catalog, "exclude", exclude))
        many = excluded is not None and len(excluded) > _FEW
        if allow is not None or categories is not None or exclude_categories is not None or many:
            filter = filters.prepare(
                catalog,
                filter,
                allow=allow,
                exclude=exclude if many else None,
                categories=categories,
                exclude_categories=exclude_categories,
            )
            excluded = None if many else excluded
        elif filter is not None and filter._catalog is not catalog.base:
            raise InvalidFilterError(
                "filter was made by another recommender: rows differ, make it with this one"
            )
        n = max(1, len(catalog))
        k = min(int(k), n)
        rows = max(math.ceil(share * n), k)
        exact = mode == "exact"
        if mode == "auto":
            allowed = 1.0 if filter is None else len(filter) / n
            exact = allowed * self._exact_bytes <= _AUTO_BYTES + rows * self._row_bytes
        options = _Options(
            catalog,
            k,
            exact,
            rows,
            top_p,
            on_unknown,
            bool(include_session_categories),
            filter,
            excluded,
            bool(exclude_seen),
            None if max_per_category is None else int(max_per_category),
            int(number),
        )
        if key is not None and len(plain) < 1_000:
            plain[key] = options
        return options

    def _budget(self, candidates: Any, session_categories: bool) -> tuple[float, float]:
        """Share of the items and top_p that candidates have to hold."""
        if isinstance(candidates, str) and candidates == "auto":
            budgets = self.config.get("calibration")
            if budgets is None:
                raise InvalidOptionError(
                    "candidates is 'auto', but this bundle was exported without validation sessions, so its budget was "
                    "not measured; give a share such as 0.04"
                )
            return 0.0, float((budgets["session_categories"] if session_categories else budgets)["top_p"])
        share = self.config["candidate_share"] if candidates is None else candidates
        if not (isinstance(share, float | np.floating) or _is_whole(share)) or not 0 < share <= 1:
            raise InvalidOptionError(
                f"candidates is {candidates!r}; it must be a number above 0 and up to 1, or 'auto'"
            )
        return float(share), 0.0

    @cached_property
    def _row_bytes(self) -> int:
        """Bytes that ranking one row reads, without pruning."""
        catalog = self.catalog.current.base
        bias = catalog.bias
        codes = catalog.codes if self.backend == "c" else None  # the others have no use for them
        row = catalog.item_vectors.strides[0] if codes is None else codes.nbytes // len(catalog)
        return row + (0 if bias is None else 4)

    @cached_property
    def _exact_bytes(self) -> float:
        """Mean bytes that mode "exact" reads, measured on 16 items as queries."""
        catalog = self.catalog.current.base
        n, ranges = len(catalog), catalog.ranges[-1]
        read = 0
        rows = np.unique(np.linspace(0, n - 1, 16).astype(np.int64))
        for row, leaf in zip(rows, catalog.categories_of(rows), strict=True):
            first = ranges[leaf : leaf + 1]
            query = np.ascontiguousarray(catalog.item_vectors[row], dtype=np.float32)
            request = Request(query, first, row_ranges.complement(first, n))
            read += self._search(catalog.table, [request], min(20, n))[0].bytes_read
        return read / len(rows)

    def _known(self, session: Iterable[Any], options: _Options) -> _Session:
        ids = _as_ids(session)
        return self._known_rows(ids, options.catalog.rows(ids), options)

    def _known_rows(
        self, ids: Sequence[Any] | NDArray[Any], rows: NDArray[np.int64], options: _Options
    ) -> _Session:
        # a list is faster to search, where it is short
        known = rows[rows != UNKNOWN] if UNKNOWN in rows.tolist() else rows
        missing = len(rows) - len(known)
        if missing and options.on_unknown == "error":
            place = int(np.argmax(rows == UNKNOWN))
            raise UnknownItemError(
                f"item id {ids[place]!r} at position {place} is not in the catalogue; "
                "on_unknown='skip' leaves such ids out"
            )
        return _Session(known[-self._max_length :], missing, known)

    def _popular(self, session: _Session, options: _Options) -> Result:
        """The answer to a session without a known item."""
        catalog, k = options.catalog, options.k
        some = k
        while True:  # as a rule the first rows are enough
            rows = catalog.most_clicked(some)
            if options.filter is not None:
                rows = rows[options.filter._allows_in(catalog, rows)]
            if options.excluded is not None:
                rows = rows[~np.isin(rows, options.excluded)]
            if options.max_per_category is not None:
                rows = rows[_within_limit(catalog, rows, options.max_per_category)]
            if len(rows) >= k or some >= catalog.stop:
                break
            some *= 8
        rows = rows[:k]
        return Result(
            tuple(catalog.ids(rows)),
            catalog.clicks_of(rows).astype(np.float32),
            "popular",
            0,
            0,
            session.unknown,
            catalog,
            rows,
            _NO_RANGES,
            _NO_ROWS,
            (),
            (),
        )

    def _answer_one(self, known: _Session, options: _Options) -> Result:
        if not len(known.rows):
            return self._popular(known, options)
        table, rows = options.catalog.input_vectors, known.rows
        if options.catalog.changes is not None and int(rows.max()) >= len(table):
            table, rows = options.catalog.vectors(rows, inputs=True), np.arange(len(rows))
        encoded = self._encoder.encode_one(table, rows)
        return self._rank([known], encoded, options)[0]

    def _answer(self, sessions: Sequence[_Session], options: _Options) -> list[Result]:
        """Encode sessions that hold a known item together, then rank each."""
        lengths = np.array([len(session.rows) for session in sessions], dtype=np.int64)
        known = options.catalog.vectors(np.concatenate([session.rows for session in sessions]), inputs=True)
        vectors = np.zeros((len(sessions), lengths.max(), known.shape[1]), dtype=np.float32)
        vectors[np.arange(vectors.shape[1]) < lengths[:, None]] = known
        return self._rank(sessions, self._encoder.encode(vectors, lengths), options)

    def _rank(self, sessions: Sequence[_Session], encoded: Encoded, options: _Options) -> list[Result]:
        """The answers to a batch of sessions, which the encoder has read."""
        asked = [self._ask(session, encoded, at, options) for at, session in enumerate(sessions)]
        if options.max_per_category is None:
            found = self._find([one for one, _ in asked], options, options.k)
        else:
            found = [self._limited(one, options, options.max_per_category) for one, _ in asked]
        mode: Literal["candidates", "exact"] = "exact" if options.exact else "candidates"
        catalog = options.catalog
        return [
            Result(
                tuple(catalog.ids(best.rows)),
                best.scores,
                mode,
                best.rows_scored,
                best.bytes_read,
                session.unknown,
                catalog,
                best.rows,
                *about,
            )
            for session, best, (_, about) in zip(sessions, found, asked, strict=True)
        ]

    def _ask(
        self, session: _Session, encoded: Encoded, index: int, options: _Options
    ) -> tuple[_Asked, _About]:
        """What to ask of the kernel for ``session``, which stands at ``index`` of the batch."""
        catalog = options.catalog
        n, categories = len(catalog.item_vectors), len(catalog.ranges[-1])
        linked, boosts = self._linked(session, encoded, index, catalog)
        skipped = options.excluded
        if options.exclude_seen:
            skipped = np.unique(session.seen) if skipped is None else np.union1d(skipped, session.seen)
        first = None
        if options.session_categories:  # the newest item's first
            newest_first = catalog.categories_of(session.rows)[::-1].tolist()
            first = np.array(
                [leaf for leaf in dict.fromkeys(newest_first) if leaf < categories], dtype=np.int64
            )
            first = first if len(first) else None
        eligible = self._eligible(options)
        least = options.k if skipped is None else options.k + len(skipped)
        if options.max_per_category is not None:
            sizes = catalog.ranges[-1][:, 1] - catalog.ranges[-1][:, 0] if eligible is None else eligible
            # of a category that has lost items to `skipped`, too few may be left: so many more are asked for
            eligible = np.minimum(sizes, options.max_per_category)
        logits = encoded.category_logits[-1][index]
        leaves = catalog.ranges[-1]
        taken, ranges, shown = self._choose(
            logits, leaves, eligible, first, options.rows, least, options.top_p, _CATEGORIES_SHOWN
        )
        if catalog.has_extra_rows:
            extra = np.unique(catalog.extra_rows(taken))
            extra = extra[~row_ranges.contains(row_ranges.rising(ranges), extra)]
            ranges = np.concatenate([ranges, row_ranges.singles(extra)])
        if first is not None:  # which are not the most probable ones
            shown = self._choose(logits, leaves, None, None, 0, 0, 0.0, _CATEGORIES_SHOWN)[2]
        higher = tuple(_most_probable(level[index]) for level in encoded.category_logits[:-1])
        rest = row_ranges.complement(ranges, n) if options.exact else None
        query, own = encoded.item_query[index], linked
        if catalog.changes is None:
            base = Request(query, ranges, rest, self._bitmap(options), skipped, linked, boosts)
            return _Asked(base, None, linked, boosts), _About(ranges, own, shown, (*higher, shown[0]))
        cut = int(linked.searchsorted(n))
        base = Request(
            query,
            ranges,
            rest,
            self._bitmap(options),
            None if skipped is None else _below(skipped, n),
            linked[:cut],
            boosts[:cut],
        )
        added = self._added(
            options, query, None if options.exact else taken, skipped, linked[cut:] - n, boosts[cut:]
        )
        if added is not None:
            own = np.concatenate([linked, n + added.ranges[:, 0]])
        return _Asked(base, added, linked, boosts), _About(ranges, own, shown, (*higher, shown[0]))

    def _linked(
        self, session: _Session, encoded: Encoded, index: int, catalog: Catalog
    ) -> tuple[row_ranges.Rows, NDArray[np.float32]]:
        """The session's own items and those linked to them, which are scored whatever the candidates are: rows, rising,
        and what is added to their scores."""
        repeats = encoded.repeat_logits
        own, boosts = self._session_items(session.rows, None if repeats is None else repeats[index])
        if catalog.score_offsets is None:
            return own, boosts
        changes = catalog.changes
        in_log = session.rows if changes is None else changes.in_log(session.rows)
        if not len(in_log):
            return own, boosts
        in_bundle, wide_boosts = catalog.score_offsets(in_log)
        linked = in_bundle if changes is None else changes.successors(in_bundle)
        if linked is in_bundle and in_log is session.rows:  # nothing of it has changed
            wide_boosts[linked.searchsorted(own)] += boosts  # own items are linked too
            return linked, wide_boosts
        unlinked = own[~np.isin(own, linked)]  # items that were added
        order = np.concatenate([linked, unlinked]).argsort(kind="stable")
        rows = np.concatenate([linked, unlinked])[order]
        sums = np.concatenate([wide_boosts, np.zeros(len(unlinked), dtype=np.float32)])[order]
        sums[rows.searchsorted(own)] += boosts
        gone = int(rows.searchsorted(UNKNOWN, side="right"))
        return rows[gone:], sums[gone:]

    def _bitmap(self, options: _Options) -> NDArray[np.uint64] | None:
        """Which of the bundle's rows may rank."""
        changes = options.catalog.changes
        kept = None if changes is None else changes.kept
        if options.filter is None:
            return kept
        return options.filter._bitmap if kept is None else options.filter._bitmap & kept

    def _eligible(self, options: _Options) -> NDArray[np.int64] | None:
        """int64 [leaf categories]: the bundle's rows of each that may rank; None: all."""
        catalog, chosen = options.catalog, options.filter
        if not isinstance(catalog, ChangedCatalog) or not len(catalog.changes.gone):
            return None if chosen is None else chosen._eligible
        if chosen is None:
            return catalog.leaf_sizes
        gone = catalog.changes.gone[chosen.allows(catalog.changes.gone)]
        lost = np.bincount(catalog.base.categories_of(gone), minlength=len(catalog.ranges[-1]))
        return np.ascontiguousarray(chosen._eligible - lost)

    def _added(
        self,
        options: _Options,
        query: NDArray[np.float32],
        taken: NDArray[np.int64] | None,
        skipped: NDArray[np.int64] | None,
        own: NDArray[np.int64],
        boosts: NDArray[np.float32],
    ) -> Request | None:
        """What to ask of the added rows: those that the ``taken`` leaf categories reach, or all.

        ``own`` counts from the first added row.
        """
        changes = options.catalog.changes
        if changes is None or not len(changes):
            return None
        rows = np.flatnonzero(changes.alive) if taken is None else changes.reached(taken)
        bitmap = None if options.filter is None else row_ranges.as_bitmap(options.filter._added(changes))
        n = changes.base_rows
        beyond = None if skipped is None else skipped[skipped >= n] - n
        return Request(query, row_ranges.singles(rows), None, bitmap, beyond, own, boosts)

    def _find(self, asked: Sequence[_Asked], options: _Options, k: int, plain: bool = False) -> list[Found]:
        """The best ``k`` rows of each; ``plain``: by their vectors alone."""
        catalog, changes = options.catalog, options.catalog.changes
        table = catalog.plain_table if plain else catalog.table
        if options.threads > 1 and options.exact and not plain:
            found = [self._in_parts(table, one.base, k, options.threads) for one in asked]
        else:
            found = self._search(table, [one.base for one in asked], k)
        if changes is None or not len(changes):
            return found
        added = [one.added for one in asked if one.added is not None]
        more = self._search(changes.plain_table if plain else changes.table, added, k)
        return [_merged(one, other, changes.base_rows, k) for one, other in zip(found, more, strict=True)]

    def _limited(self, asked: _Asked, options: _Options, limit: int) -> Found:
        """The best rows of which at most ``limit`` lie in one leaf category.

        Those of a longer list of best rows are the same rows, as long as enough are left of it.
        """
        catalog, k = options.catalog, options.k
        n, wanted = catalog.stop, min(4 * k, catalog.stop)
        one = options._replace(threads=1)
        scored = read = 0
        while True:
            found = self._find([asked], one, wanted)[0]
            scored, read = max(scored, found.rows_scored), read + found.bytes_read
            kept = np.flatnonzero(_within_limit(catalog, found.rows, limit))[:k]
            if len(kept) == k or len(found.rows) < wanted or wanted == n:
                return Found(found.scores[kept], found.rows[kept], scored, read)
            wanted = min(8 * wanted, n)

    def _pool(self, threads: int) -> ThreadPoolExecutor:
        key = os.getpid(), threads  # a forked child has the pools, but not their threads
        pool = self._pools.get(key)
        return self._pools.setdefault(key, ThreadPoolExecutor(threads)) if pool is None else pool

    def _in_parts(self, table: Table, request: Request, k: int, threads: int) -> Found:
        """The same, the rest of the catalogue in parts, one for each thread."""
        first = self._search(table, [request._replace(rest=None)], k)[0]
        # What has been found takes part in every part, so that each begins with its threshold.
        own = np.union1d(first.rows, _NO_ROWS if request.covisited is None else request.covisited)
        boosts = np.zeros(len(own), dtype=np.float32)
        if request.covisited is not None:
            boosts[own.searchsorted(request.covisited)] = request.offsets
        rest = _NO_RANGES if request.rest is None else request.rest
        cuts = np.linspace(0, len(table), threads + 1).astype(np.int64).tolist()
        alone = request._replace(ranges=_NO_RANGES, rest=None, covisited=own, offsets=boosts)
        parts = [alone._replace(rest=rest.clip(start, stop)) for start, stop in pairwise(cuts)]
        found = list(self._pool(threads).map(lambda part: self._search(table, [part], k)[0], parts))
        rows, places = np.unique(np.concatenate([one.rows for one in found]), return_index=True)
        scores = np.concatenate([one.scores for one in found])[places]
        best = np.lexsort((rows, -scores))[:k]
        again = self._search(table, [alone], k)[0].rows_scored  # what every part has looked at
        scored = first.rows_scored + sum(one.rows_scored - again for one in found)
        return Found(
            scores[best], rows[best], scored, first.bytes_read + sum(one.bytes_read for one in found)
        )


_NO_ROWS: Final = np.empty(0, dtype=np.int64)
_NO_RANGES: Final = np.empty((0, 2), dtype=np.int64)
_NO_BOOSTS: Final = np.empty(0, dtype=np.float32)


def _below(rows: Sequence[int] | NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """int64: those of ``rows`` that are the bundle's."""
    found = np.asarray(rows, dtype=np.int64)
    return found[found < n]


def _merged(base: Found, added: Found, n: int, k: int) -> Found:
    """The best ``k`` of both; rows of ``added`` are counted from ``n`` on."""
    scores, rows = np.concatenate([base.scores, added.scores]), np.concatenate([base.rows, n + added.rows])
    best = np.lexsort((rows, -scores))[:k]
    read = base.bytes_read + added.bytes_read
    return Found(scores[best], rows[best], base.rows_scored + added.rows_scored, read)


def _within_limit(catalog: Catalog, rows: NDArray[np.int64], limit: int) -> NDArray[np.bool]:
    """bool [len(rows)]: whether fewer than ``limit`` rows before it lie in the same leaf category."""
    leaves = catalog.categories_of(rows)
    order = leaves.argsort(kind="stable")
    starts = leaves[order].searchsorted(leaves[order])
    kept = np.empty(len(rows), dtype=bool)
    kept[order] = np.arange(len(rows)) - starts < limit
    return kept


def _most_probable(logits: NDArray[np.float32]) -> tuple[int, float]:
    """Index of the most probable category, the first of those that tie, and its probability."""
    index = int(logits.argmax())
    return index, float(1 / np.exp(logits - logits[index]).sum())


def _is_whole(value: Any) -> bool:
    # bool is an int and timedelta64 a NumPy integer, but neither counts anything.
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.timedelta64)


def _as_ids(session: Iterable[Any]) -> Sequence[Any] | NDArray[Any]:
    if isinstance(session, list | tuple):
        return session
    if isinstance(session, np.ndarray) and session.ndim == 1:
        return session
    no_ids = isinstance(session, str | bytes | bytearray | Mapping | Set | np.ndarray)
    if no_ids or not isinstance(session, Iterable):
        raise InvalidSessionError(
            f"session is {_described(session)}; it must be a list, tuple or 1-d array of item ids, oldest first"
        )
    return list(session)


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return "None" if value is None else f"{value!r}, of type {type(value).__name__}"
