"""The recommender: a session of the shop's own item ids in, ranked items out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, SupportsIndex, get_args, overload

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk import candidates as rows_of
from hiersrec_sdk.bundle import Bundle, open_bundle
from hiersrec_sdk.catalog import UNKNOWN, Catalog
from hiersrec_sdk.encoder import Encoded, OnnxEncoder
from hiersrec_sdk.errors import InputError, KError, OptionError, SessionTypeError, UnknownItemError
from hiersrec_sdk.ranking import Backend, get_backend

Mode = Literal["candidates", "exact"]
OnUnknown = Literal["skip", "error"]

_CATEGORIES_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Hit:
    """One recommended item: the shop's own id, its score, and its title where the bundle has titles."""

    item: int | str
    score: float
    title: str | None


@dataclass(frozen=True, slots=True)
class CategoryHit:
    """One predicted category.

    Attributes:
        category: the shop's own id.
        probability: softmax over the categories of its level.
        level: 0 is the top.
        name: readable name, or None.
        index: its place within the level (see :meth:`hiersrec_sdk.catalog.Catalog.category`).
    """

    category: int | str
    probability: float
    level: int
    name: str | None
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answer to one session: a sequence of :class:`Hit`, best first.

    ``len()``, iteration, an index (``result[0]`` is the best) and slices (tuples of hits) work as on a tuple.

    Attributes:
        items: the shop's own ids, best first: by higher score, ties by lower row of the catalogue.
        scores: float32 [len(items)]; training clicks where ``mode`` is "popular".
        mode: "candidates" or "exact", as asked for; "popular" where the session held no known item.
        rows_scored: rows of the catalogue that were scored.
        bytes_read: bytes of item vectors and biases that this took.
        unknown: ids of the session that the catalogue lacks.
    """

    items: tuple[int | str, ...]
    scores: NDArray[np.float32]
    mode: Literal["candidates", "exact", "popular"]
    rows_scored: int
    bytes_read: int
    unknown: int
    _catalog: Catalog = field(repr=False)
    _rows: NDArray[np.int64] = field(repr=False)
    _scanned: rows_of.Ranges = field(repr=False)
    _own: rows_of.Rows = field(repr=False)
    _leaves: Sequence[tuple[int, float]] = field(repr=False)  # index and probability
    _path: Sequence[tuple[int, float]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Hit]:
        for item, score, row in zip(self.items, self.scores.tolist(), self._rows.tolist(), strict=True):
            yield Hit(item, score, self._catalog.title(row))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Hit, ...]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Hit | tuple[Hit, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(len(self))[index])
        return Hit(self.items[index], float(self.scores[index]), self._catalog.title(int(self._rows[index])))

    @property
    def categories(self) -> tuple[CategoryHit, ...]:
        """Up to 5 leaf categories, the most probable first; none where ``mode`` is "popular"."""
        leaf = len(self._path) - 1
        return tuple(self._category(leaf, *hit) for hit in self._leaves)

    @property
    def category_path(self) -> tuple[CategoryHit, ...]:
        """The most probable category of each level, the top first; empty where ``mode`` is "popular"."""
        return tuple(self._category(level, *hit) for level, hit in enumerate(self._path))

    @property
    def ranges(self) -> NDArray[np.int64]:
        """int64 [m, 2]: the rows ``[start, stop)`` that were scored, sorted and disjoint."""
        return rows_of.add(self._scanned, self._own)

    def _category(self, level: int, index: int, probability: float) -> CategoryHit:
        category = self._catalog.category(level, index)
        return CategoryHit(category.id, probability, level, category.name, index)


class _Options(NamedTuple):
    """The arguments of a call, checked; ``need``: rows that the candidates have to hold."""

    k: int
    mode: Mode
    need: int
    unknown: OnUnknown


class _Session(NamedTuple):
    """A session as the catalogue knows it: ``rows`` int64 [at most max_length], and how many ids are unknown."""

    rows: NDArray[np.int64]
    unknown: int


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

    def __init__(self, bundle: Bundle, encoder: OnnxEncoder, backend: Backend) -> None:
        self.catalog = Catalog(bundle)
        self.config = bundle.config
        self.providers = encoder.providers
        self.backend = backend.name
        self._encoder = encoder
        self._topk = backend.topk
        self._max_length: int = self.config["max_length"]
        bias = self.catalog.bias
        self._row_bytes = self.catalog.output_vectors[0].nbytes + (0 if bias is None else bias.itemsize)
        self._all_rows = np.array([[0, len(self.catalog)]], dtype=np.int64)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        providers: Sequence[str] = ("cpu",),
        backend: str | None = None,
        threads: int = 1,
        verify: bool = True,
    ) -> Recommender:
        """Load the bundle in the folder ``path``.

        Args:
            path: the folder.
            providers: where to run the session encoder, in order of preference: "cpu", "cuda".
            backend: "c", "numba" or "numpy"; None takes the best that is there.
            threads: threads of the session encoder within one call.
            verify: whether to check the SHA-256 of every file, which reads all of them.

        Raises:
            BundleMissingError: there is no bundle, or a file of it is missing.
            BundleCorruptError: a file is truncated, altered or foreign; names the file and the cause.
            BundleVersionError: a newer version wrote the bundle.
            ProviderError: a provider is not there.
            BackendError: the backend is not there.
            MissingExtraError: onnxruntime is not installed.
            OptionError: another argument is out of its range.
        """
        ranking = get_backend(backend)
        bundle = open_bundle(path, verify)
        encoder = OnnxEncoder(
            bundle.model,
            dimension=bundle.config["dimension"],
            categories=bundle.config["categories"],
            providers=providers,
            threads=threads,
        )
        return cls(bundle, encoder, ranking)

    def __repr__(self) -> str:
        return (
            f"<Recommender: {len(self.catalog)} items, {self.config['categories'][-1]} categories, "
            f"providers {', '.join(self.providers)}, backend {self.backend}>"
        )

    def recommend(
        self,
        session: Iterable[int | str],
        k: int = 20,
        *,
        mode: Mode = "candidates",
        candidates: float | None = None,
        unknown: OnUnknown = "skip",
    ) -> Result:
        """Items for one session.

        Args:
            session: the shop's own item ids, oldest first. The last ``config["max_length"]`` known ones count.
            k: how many items; above the number of items, all of them.
            mode: "candidates" scores the most probable categories; "exact" scores every item.
            candidates: share of the items that are candidates, above 0 and up to 1; None: ``config["candidates"]``.
                The category that crosses it is still taken, and more where they hold fewer than ``k`` items. The
                session's own items always are candidates.
            unknown: an id that the catalogue lacks is left out and counted ("skip"), or an error ("error").

        Returns:
            The items; popular ones where the session holds no known id.

        Raises:
            SessionTypeError: the session is a string, a dict, a set, or no sequence of ids.
            ItemIdTypeError, ItemIdNaNError: an id is not of the catalogue's type, or NaN.
            UnknownItemError: an id that the catalogue lacks, where ``unknown`` is "error".
            KError: ``k`` is no whole number of at least 1.
            OptionError: another argument is out of its range.
        """
        options = self._options(k, mode, candidates, unknown)
        known = self._known(session, options)
        return self._answer([known], options)[0] if len(known.rows) else self._popular(known, options)

    def recommend_many(
        self,
        sessions: Iterable[Iterable[int | str]],
        k: int = 20,
        *,
        mode: Mode = "candidates",
        candidates: float | None = None,
        unknown: OnUnknown = "skip",
        batch_size: int = 64,
    ) -> list[Result]:
        """Items for many sessions, in their order: what :meth:`recommend` says of each.

        Sessions of like length go through the encoder together, ``batch_size`` at a time. Scores may differ from
        those of :meth:`recommend` by the rounding of a matrix product.

        Raises:
            OptionError: ``batch_size`` is no whole number of at least 1.
            InputError: as :meth:`recommend`; the message says which session.
        """
        options = self._options(k, mode, candidates, unknown)
        if not _is_whole(batch_size) or batch_size < 1:
            raise OptionError(f"batch_size is {batch_size!r}; it must be a whole number of at least 1")
        if isinstance(sessions, str | bytes | Mapping) or not isinstance(sessions, Iterable):
            raise SessionTypeError(f"sessions is {_described(sessions)}; it must be a list of sessions")
        known: list[_Session] = []
        for place, session in enumerate(sessions):
            try:
                known.append(self._known(session, options))
            except InputError as error:
                # a list of ids is one session: each id would be taken for a session of its own
                one = place == 0 and isinstance(session, str | int | np.integer)
                hint = "; for one session use recommend()" if one else ""
                raise type(error)(f"session {place}: {error}{hint}") from error
        results = {at: self._popular(own, options) for at, own in enumerate(known) if not len(own.rows)}
        by_length = sorted(
            (at for at in range(len(known)) if at not in results), key=lambda at: len(known[at].rows)
        )
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            results.update(zip(batch, self._answer([known[at] for at in batch], options), strict=True))
        return [results[at] for at in range(len(known))]

    def _options(self, k: int, mode: Mode, candidates: float | None, unknown: OnUnknown) -> _Options:
        if not _is_whole(k) or k < 1:
            raise KError(f"k is {k!r}; it must be a whole number of at least 1")
        if mode not in get_args(Mode):
            raise OptionError(f"mode is {mode!r}; it must be 'candidates' or 'exact'")
        if unknown not in get_args(OnUnknown):
            raise OptionError(f"unknown is {unknown!r}; it must be 'skip' or 'error'")
        share = self.config["candidates"] if candidates is None else candidates
        if isinstance(share, bool) or not isinstance(share, int | float | np.number) or not 0 < share <= 1:
            raise OptionError(f"candidates is {candidates!r}; it must be a number above 0 and up to 1")
        k = min(int(k), len(self.catalog))
        return _Options(k, mode, max(math.ceil(share * len(self.catalog)), k), unknown)

    def _known(self, session: Iterable[Any], options: _Options) -> _Session:
        ids = _as_ids(session)
        rows = self.catalog.rows(ids)
        known = rows[rows != UNKNOWN]
        missing = len(rows) - len(known)
        if missing and options.unknown == "error":
            place = int(np.argmax(rows == UNKNOWN))
            raise UnknownItemError(
                f"item id {ids[place]!r} at position {place} is not in the catalogue; "
                "unknown='skip' leaves such ids out"
            )
        return _Session(known[-self._max_length :], missing)

    def _popular(self, session: _Session, options: _Options) -> Result:
        """The answer to a session without a known item."""
        rows = self.catalog.popular[: options.k]
        none = np.empty(0, dtype=np.int64)
        return Result(
            items=tuple(self.catalog.ids(rows)),
            scores=self.catalog.clicks[rows].astype(np.float32),
            mode="popular",
            rows_scored=0,
            bytes_read=0,
            unknown=session.unknown,
            _catalog=self.catalog,
            _rows=rows,
            _scanned=rows_of.singles(none),
            _own=none,
            _leaves=(),
            _path=(),
        )

    def _answer(self, sessions: Sequence[_Session], options: _Options) -> list[Result]:
        """Encode sessions that hold a known item together, then rank each."""
        lengths = np.array([len(session.rows) for session in sessions], dtype=np.int64)
        table = self.catalog.input_vectors
        if len(sessions) == 1:
            vectors = table[sessions[0].rows][None]
        else:
            vectors = np.zeros((len(sessions), lengths.max(), table.shape[1]), dtype=np.float32)
            real = np.arange(vectors.shape[1]) < lengths[:, None]
            vectors[real] = table[np.concatenate([session.rows for session in sessions])]
        encoded = self._encoder.encode(vectors, lengths)
        return [self._rank(encoded, index, session, options) for index, session in enumerate(sessions)]

    def _rank(self, encoded: Encoded, index: int, session: _Session, options: _Options) -> Result:
        """The answer to ``session``, which stands at ``index`` of the batch."""
        catalog, k = self.catalog, options.k
        logits, query = encoded.category_logits[-1][index], encoded.item_query[index]
        own = np.unique(session.rows)
        leaves, enough = rows_of.best_categories(logits, catalog.sizes, options.need)
        ranges = self._all_rows if options.mode == "exact" else self._rows_in(leaves[:enough])
        ranges = rows_of.cut(ranges, own)
        scores, rows = self._topk(catalog.output_vectors, query, ranges, k, bias=catalog.bias)

        # The session's own items are always scored, apart from the others, because repeats count for them.
        apart = rows_of.singles(own)
        own_scores, own_rows = self._topk(catalog.output_vectors, query, apart, len(own), bias=catalog.bias)
        if encoded.repeat_logits is not None:
            repeats = np.zeros(len(own), dtype=np.float32)
            np.add.at(
                repeats, own.searchsorted(session.rows), encoded.repeat_logits[index, : len(session.rows)]
            )
            own_scores = own_scores + repeats[own.searchsorted(own_rows)]
        scores, rows = rows_of.best(np.concatenate([scores, own_scores]), np.concatenate([rows, own_rows]), k)

        path = tuple(_most_probable(level[index]) for level in encoded.category_logits)
        scored = rows_of.count(ranges) + len(own)
        return Result(
            items=tuple(catalog.ids(rows)),
            scores=scores,
            mode=options.mode,
            rows_scored=scored,
            bytes_read=scored * self._row_bytes,
            unknown=session.unknown,
            _catalog=catalog,
            _rows=rows,
            _scanned=ranges,
            _own=own,
            _leaves=_probabilities(logits, leaves[:_CATEGORIES_SHOWN], path[-1]),
            _path=path,
        )

    def _rows_in(self, leaves: NDArray[np.int64]) -> rows_of.Ranges:
        """The rows of leaf categories and those that are listed in them, as ranges in order."""
        ranges = self.catalog.ranges[-1][np.sort(leaves)]
        extra = self.catalog.extra_rows(leaves)
        return rows_of.add(ranges, np.unique(extra)) if len(extra) else ranges


def _most_probable(logits: NDArray[np.float32]) -> tuple[int, float]:
    """Index of the most probable category, the first of those that tie, and its probability."""
    index = int(logits.argmax())
    return index, float(1 / np.exp(logits - logits[index]).sum())


def _probabilities(
    logits: NDArray[np.float32], categories: NDArray[np.int64], best: tuple[int, float]
) -> tuple[tuple[int, float], ...]:
    """Index and probability of ``categories``, from those of the most probable one."""
    index, probability = best
    odds = np.exp(logits[categories] - logits[index])
    return tuple(zip(categories.tolist(), (odds * probability).tolist(), strict=True))


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
        raise SessionTypeError(
            f"session is {_described(session)}; it must be a list, tuple or 1-d array of item ids, oldest first"
        )
    return list(session)


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return "None" if value is None else f"{value!r}, of type {type(value).__name__}"
