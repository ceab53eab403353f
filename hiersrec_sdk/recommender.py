"""The recommender: a session of external item ids in, ranked items out."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk import explain, frames
from hiersrec_sdk.arguments import checked_bool, checked_level, checked_threads
from hiersrec_sdk.bundle import ITEM_ENCODER, MODEL, QUERY_PARTS, Bundle
from hiersrec_sdk.bundle.sources import Source, open_source
from hiersrec_sdk.catalog import filters
from hiersrec_sdk.catalog.feed import Feed, Follower, Readers, follow
from hiersrec_sdk.catalog.filters import Filter
from hiersrec_sdk.catalog.saving import Saver
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import CategoryName
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.cpus import Threads
from hiersrec_sdk.encoders.item_encoder import ItemEncoder
from hiersrec_sdk.encoders.onnx_file import check_graph
from hiersrec_sdk.encoders.query_parts import QueryPartsGraph
from hiersrec_sdk.encoders.runtime import checked_providers
from hiersrec_sdk.encoders.session_encoder import OnnxSessionEncoder
from hiersrec_sdk.errors import (
    BundleError,
    CatalogChangeError,
    InvalidArgumentError,
    UnknownItemError,
)
from hiersrec_sdk.explain import Explanation, Trace
from hiersrec_sdk.frames import Output, Sessions
from hiersrec_sdk.hub import HubMixin
from hiersrec_sdk.options import (
    ManyOptions,
    OnUnknown,
    RecommendOptions,
    checked_batch_size,
    takes_options,
)
from hiersrec_sdk.pipeline import KnownSession, Pipeline, as_ids
from hiersrec_sdk.plan import Plan, Planner
from hiersrec_sdk.ranking import Backend, get_backend, kernel_file
from hiersrec_sdk.ranking.backend import UNKNOWN
from hiersrec_sdk.results import CategoryHit, Hit, Result
from hiersrec_sdk.search import Searcher
from hiersrec_sdk.session import Session
from hiersrec_sdk.shown import shown

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

_log = logging.getLogger(__name__)


class Recommender(HubMixin):
    """A loaded bundle that answers sessions. Any number of threads may call it at once.

    >>> r = Recommender.load("bundle/")                         # doctest: +SKIP
    >>> result = r.recommend(["shoe-17", "shoe-40"], k=20)      # doctest: +SKIP
    >>> [(hit.item, hit.score) for hit in result]               # doctest: +SKIP

    Attributes:
        catalog: the items, their ids and categories; they can be changed.
        config: the content of the bundle's ``config.json``.
        providers: where the session encoder runs, e.g. ``("cpu",)``.
        backend: name of the ranking backend, e.g. ``"c"``.
    """

    def __init__(self, bundle: Bundle, encoder: OnnxSessionEncoder, backend: Backend) -> None:
        self.config: dict[str, Any] = bundle.config
        self.providers: tuple[str, ...] = encoder.providers
        self.backend: str = backend.name
        catalog = Catalog.of(bundle, backend.find_ids, backend.copy_rows)
        self.catalog: MutableCatalog = MutableCatalog(
            catalog, bundle, ItemEncoder(bundle, encoder.providers).encode
        )
        scorer = self.catalog.covisitation
        self._backend = backend
        self._searcher = Searcher(backend)
        self._planner = Planner(bundle, backend)
        self._pipeline = Pipeline(
            encoder=encoder,
            backend=backend,
            searcher=self._searcher,
            covisitation=None if scorer is None else backend.covisitation(scorer),
            max_length=bundle.config["max_length"],
        )
        self._query_parts = QueryPartsGraph(bundle, encoder.providers)
        self._bundle = bundle
        self._saver = Saver(bundle, self.catalog)
        self._threads: Threads = encoder.threads

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
                ``s3://bucket/bundle.zip`` (extra ``fsspec``). Anything but a local folder is unpacked once, with every
                file checked, to ``~/.cache/hiersrec``; ``HIERSREC_CACHE`` names another folder.
            providers: where to run the session encoder, in order of preference: "cpu", "cuda".
            backend: "c", "numba" or "numpy"; None takes the best that is there.
            threads: threads of the session encoder within one call; "auto": as many as there are CPUs for this process,
                by its affinity and the quota of its container.
            verify: whether to check every file against its SHA-256, and the contents of all tables, which reads all of
                them. Without it a bundle of any size opens in milliseconds: settings, sizes, shapes, the category tree
                and ``delta.safetensors`` are checked, and nothing is ever read outside of a table, but a damaged bundle
                may give wrong answers, or BundleCorruptError later. The page on the bundle format lists the checks.

        Raises:
            BundleMissingError: there is no bundle, or a file of it is missing.
            BundleCorruptError: a file is truncated, altered or foreign; names the file and the cause.
            BundleVersionError: its schema version is not one that this SDK reads.
            ProviderError: a provider is not there.
            BackendError: the backend is not there.
            BundleError: it cannot be read from there, or not be unpacked.
            MissingExtraError: onnxruntime is not installed; or fsspec, for a URL.
            InvalidOptionError: another argument is out of its range.
        """
        started = time.perf_counter()
        providers, cores = checked_providers(providers), checked_threads(threads)
        verify = checked_bool("verify", verify)
        ranking = get_backend(backend)
        bundle = open_source(path, verify)
        encoder = OnnxSessionEncoder(
            bundle.read(MODEL),
            dimension=bundle.config["dimension"],
            categories=bundle.config["categories"],
            providers=providers,
            threads=cores,
            all_finite=ranking.all_finite,
        )
        recommender = cls(bundle, encoder, ranking)
        recommender._threads = threads  # for a pickle: another machine has other CPUs
        if verify:
            # a run shows what the graph gives; the others are run by those who need them
            encoder.encode_one(recommender.catalog.current, np.zeros(1, dtype=np.int64))
            for graph in {ITEM_ENCODER, QUERY_PARTS} & bundle.config["files"].keys():
                check_graph(bundle.read(graph), graph)
        _log.info(
            "loaded %s: %d items, backend %s, providers %s, in %.0f ms",
            bundle.path,
            len(recommender.catalog),
            ranking.name,
            ", ".join(providers),
            1000 * (time.perf_counter() - started),
        )
        return recommender

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bundle with all changes of its catalog to the folder ``path``: whole or not at all.

        A bundle that is there already is replaced in one step, and what replaces it was opened and checked before. Over
        the bundle that was loaded, unchanged files are linked where the file system can, so that this takes the time of
        the changes. Elsewhere they are copied: no two bundles share a file.

        When it returns, the bundle is on the disk, and a recommender that did not load this version cannot overwrite
        it. Several threads and processes may save at once.

        Raises:
            BundleError: it cannot be written, or ``path`` is not a bundle, or holds more than one; or the bundle there
                is neither the one that was loaded nor the one that was saved there last, so that somebody else's
                changes would be lost: load it again. What is there stays.
        """
        self._saver.save(path)

    def follow(self, feed: str | os.PathLike[str] | Feed, *, after: int | None = None) -> Follower:
        """Follow a change feed: a thread applies its changes in order, from the position that the catalog contains.

        What the feed holds by now is applied when this returns. From then on the catalog is changed by
        :meth:`~hiersrec_sdk.catalog.feed.Follower.publish` of what it returns, on every replica that follows the feed.
        A bundle that is saved meanwhile says which changes it contains, and follows the feed from there.

        Args:
            feed: the path of a file; the URL of a Redis stream, such as ``"redis://host/0?key=changes"`` (extra
                ``redis``); or an opened feed. A log that is not there is made.
            after: the position up to which the catalog contains the feed, where the bundle does not say it. By default
                such a bundle contains none of it.

        Raises:
            FeedBehindError: the feed begins after that position: load a newer bundle.
            FeedLostError: the feed is another one than the catalog's changes came from, or ends before its position.
            FeedError: it cannot be read; or the recommender follows one already.
            MissingExtraError: redis is not installed.

        >>> follower = recommender.follow("changes.feed")                             # doctest: +SKIP
        >>> follower.publish([{"upsert": {"id": "sku-7", "category": "Boots"}}])      # doctest: +SKIP
        1
        """
        self._bundle.check_unchanged()
        return follow(self.catalog, Readers(self._pipeline.running, self._planner.prepare), feed, after)

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds the bundle's absolute path and SHA-256, and how it was loaded: whoever unpickles it has to
        have the same bundle there, else that is a BundleError. Its checksums are not read again.

        Raises:
            CatalogChangeError: the catalog has changes that are in no bundle yet.
        """
        path, snapshot, digest = self._saver.saved
        if snapshot is not self.catalog.current:
            raise CatalogChangeError("the catalog has changes that a pickle cannot hold: save() them first")
        options = {"providers": self.providers, "backend": self.backend, "threads": self._threads}
        return _loaded_again, (path, digest, options)

    def __repr__(self) -> str:
        return (
            f"<Recommender: {len(self.catalog)} items, {self.config['categories'][-1]} categories, "
            f"providers {', '.join(self.providers)}, backend {self.backend}"
            f"{'' if kernel_file() else ', no compiled kernel'}>"
        )

    def filter(
        self,
        *,
        allow: Iterable[int | str] | None = None,
        exclude: Iterable[int | str] | None = None,
        categories: Iterable[CategoryName] | None = None,
        exclude_categories: Iterable[CategoryName] | None = None,
    ) -> Filter:
        """Prepare a filter that many requests, in any number of threads, may use: ``recommend(session, filter=f)``.

        Args:
            allow: only these items may be recommended; ids that the catalog lacks do nothing.
            exclude: these may not.
            categories: only items of these categories, of any level, and of all below them: each an external id, or a
                path, a tuple of ids from the top level down, which also names a category whose id others have.
            exclude_categories: no items of these.

        Raises:
            InvalidFilterError: an argument is not a list of ids.
            UnknownCategoryError: a category that the catalog lacks.
            AmbiguousCategoryError: an id that several categories have; it lists their paths.
            InvalidItemIdError, NaNItemIdError: an id is not of the catalog's type, or NaN.
        """
        self._bundle.check_unchanged()
        return filters.prepare(
            self.catalog.current,
            allow=allow,
            exclude=exclude,
            categories=categories,
            exclude_categories=exclude_categories,
        )

    @takes_options
    def recommend(
        self, session: Iterable[int | str], k: int = 20, **options: Unpack[RecommendOptions]
    ) -> Result:
        """Recommend items for one session.

        Args:
            session: external item ids, oldest first. The last ``config["max_length"]`` known ones count.
            k: how many items; above the number of items, all of them.
            **options: see :class:`hiersrec_sdk.options.Options`.

        Returns:
            k items, fewer only if fewer are eligible; popular ones if the session holds no known id.

        Raises:
            InvalidSessionError: the session is a string, a dict, a set, or not a sequence of ids.
            InvalidItemIdError, NaNItemIdError: an id is not of the catalog's type, or NaN.
            UnknownItemError: an id that the catalog lacks, with ``on_unknown="error"``.
            InvalidKError: ``k`` is not an integer ≥ 1.
            InvalidFilterError, UnknownCategoryError, AmbiguousCategoryError: see :meth:`filter`.
            InvalidOptionError: another argument is out of its range.

        >>> recommender.recommend(["shoe-17"], k=3, exclude_seen=True).items     # doctest: +SKIP
        ('shoe-40', 'shoe-2', 'boot-9')
        """
        return self._pipeline.answer(session, self._planner.plan(self.catalog.current, k, options))

    @takes_options
    async def arecommend(
        self, session: Iterable[int | str], k: int = 20, **options: Unpack[RecommendOptions]
    ) -> Result:
        """:meth:`recommend` in a thread of the event loop's pool, so that the loop goes on."""
        return await asyncio.to_thread(partial(self.recommend, session, k, **options))

    def session(self, items: Session | Iterable[int | str] = ()) -> Session:
        """A session that grows, which begins with ``items``: external ids, oldest first, or another session, such as an
        unpickled one.

        Raises:
            InvalidSessionError, InvalidItemIdError, NaNItemIdError: as :meth:`recommend`.
        """
        return Session(self, items.items if isinstance(items, Session) else as_ids(items))

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

    @takes_options
    def recommend_many(
        self,
        sessions: Sessions,
        k: int = 20,
        *,
        batch_size: int = 64,
        output: Output = "results",
        **options: Unpack[RecommendOptions],
    ) -> Any:
        """Recommend items for many sessions, in their order: what :meth:`recommend` answers to each.

        Sessions of similar length go through the encoder together and share what is read of the catalog. Scores may
        differ from those of :meth:`recommend` by the rounding of a matrix product.

        Args:
            sessions: a list of sessions; or a column of lists, in which a null is an empty session: a NumPy array, of
                objects or with two dimensions, a pandas or Polars Series, an Arrow array.
            k: how many items a session.
            batch_size: sessions that are encoded together.
            output: "results", a list of :class:`Result`; or a table with a row for each hit, "numpy" (a dict of
                arrays), "pandas", "polars" or "arrow": ``session`` int64, its position; ``rank`` int32 from 1; ``item``
                int64 or string; ``score`` float32; and ``title``, or null, if the bundle has titles.
            **options: see :class:`hiersrec_sdk.options.Options`; ``threads`` batches are worked on at once.

        Raises:
            InvalidBatchSizeError, InvalidOutputError: an argument is out of its range.
            MissingExtraError: the package of that ``output`` is not installed.
            InvalidArgumentError: as :meth:`recommend`; the message says which session.
        """
        plan = self._planner.plan(self.catalog.current, k, options)
        threads, plan = plan.threads, plan.on_one_thread()
        size = checked_batch_size(batch_size)
        finish = frames.maker(output)
        every = frames.sessions_of(sessions)
        known = [self._known(at, session, plan) for at, session in enumerate(every)]
        return finish(self._pipeline.answer_many(known, plan, size, threads), plan.catalog)

    def explain(
        self, session: Iterable[int | str], item: int | str, *, on_unknown: OnUnknown = "skip"
    ) -> Explanation:
        """Explain why ``item`` has its score after ``session``: see :class:`Explanation`. It scores every item.

        Raises:
            UnknownItemError: the catalog lacks the item, or every item of the session.
            InvalidArgumentError: as :meth:`recommend`.
        """
        plan = self._planner.plan(self.catalog.current, 1, {"on_unknown": on_unknown})
        row = _row_of(item, plan.catalog)
        return explain.explain(self._pipeline, self._query_parts, session, row, plan)

    def categories(
        self, session: Iterable[int | str], k: int = 5, *, level: int = -1, on_unknown: OnUnknown = "skip"
    ) -> tuple[CategoryHit, ...]:
        """The ``k`` most probable categories of the next click, at any ``level``: 0 is the top, -1 the leaf level.

        Empty if the session holds no known item.

        Raises:
            InvalidLevelError: there is no such level.
            InvalidKError: ``k`` is not an integer ≥ 1.
            InvalidArgumentError: as :meth:`recommend`.
        """
        plan = self._planner.plan(self.catalog.current, k, {"on_unknown": on_unknown})
        level = checked_level(level, plan.catalog.tree.depth)
        known = self._pipeline.look_up(session, plan)
        if not len(known.rows):
            return ()
        share = explain.softmax(self._pipeline.encode([known], plan.catalog).category_logits[level][0])
        best = np.argsort(-share, kind="stable")[: int(k)]
        found = [plan.catalog.category(level, int(at)) for at in best]
        return tuple(CategoryHit.of(category, float(share[category.index])) for category in found)

    def similar_items(self, item: int | str, k: int = 20, *, filter: Filter | None = None) -> tuple[Hit, ...]:
        """The ``k`` items whose vectors are nearest to that of ``item``, which is left out: scores are dot products.

        They are cosines, for the vectors that ``hiersrec export`` writes. All items rank, as in mode "exact".

        Raises:
            UnknownItemError: the catalog lacks the item.
            InvalidKError, InvalidFilterError: as :meth:`recommend`.
        """
        given: RecommendOptions = {"mode": "exact", "filter": filter}
        plan = self._planner.plan(self.catalog.current, k, given)
        catalog = plan.catalog
        found = self._searcher.nearest(plan, _row_of(item, catalog))
        hits = zip(catalog.ids(found.rows), found.scores.tolist(), found.rows.tolist(), strict=True)
        return tuple(Hit(item_id, score, catalog.title(row)) for item_id, score, row in hits)

    @takes_options
    def trace(self, session: Iterable[int | str], k: int = 20, **options: Unpack[RecommendOptions]) -> Trace:
        """The values of every step of :meth:`recommend`, with the same arguments.

        Raises:
            UnknownItemError: the catalog lacks every item of the session: the answer would be popular items.
            InvalidArgumentError: as :meth:`recommend`.
        """
        return explain.trace(self._pipeline, session, self._planner.plan(self.catalog.current, k, options))

    def _recommend_to(self, session: Session, k: int, options: RecommendOptions) -> Result:
        """The answer to a session that keeps its rows."""
        plan = self._planner.plan(self.catalog.current, k, options)
        return self._pipeline.answer(session.items, plan, session._rows_in(plan.catalog))

    def _known(self, at: int, session: Any, plan: Plan) -> KnownSession:
        """The session at a position of many."""
        try:
            return self._pipeline.look_up(session, plan)
        except InvalidArgumentError as error:
            # a list of ids is one session: each id would be taken for a session of its own
            one = at == 0 and isinstance(session, str | int | np.integer)
            hint = "; for one session use recommend()" if one else ""
            raise type(error)(f"session {at}: {error}{hint}") from error


def _row_of(item: Any, catalog: Catalog) -> int:
    row = int(catalog.rows([item])[0])
    if row == UNKNOWN:
        raise UnknownItemError(f"item id {shown(item)} is not in the catalog")
    return row


def _loaded_again(path: Path, digest: str, options: dict[str, Any]) -> Recommender:
    """A recommender out of a pickle.

    Raises:
        BundleError: there is another bundle by now, which would answer otherwise than the one that was pickled.
    """
    recommender = Recommender.load(path, verify=False, **options)
    if recommender.config["sha256"] != digest:
        raise BundleError(
            f"the bundle at {path} is another one than that of the recommender that was pickled: pickle one that was "
            "loaded since, or keep each version in a folder of its own"
        )
    return recommender
