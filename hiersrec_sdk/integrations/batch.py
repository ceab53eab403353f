"""A callable that recommends for tables of sessions, in whatever process it is called."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.arguments import checked_bool, checked_text, is_one_of
from hiersrec_sdk.bundle import open_source
from hiersrec_sdk.bundle.sources import absolute, is_url, without_secrets
from hiersrec_sdk.encoders.runtime import checked_providers
from hiersrec_sdk.errors import (
    BundleError,
    DataError,
    InvalidFilterError,
    InvalidItemIdError,
    InvalidOptionError,
    InvalidSessionError,
    MissingColumnError,
    NaNItemIdError,
    UnknownItemError,
)
from hiersrec_sdk.id_lists import listed
from hiersrec_sdk.options import ManyOptions, Options, checked_batch_size
from hiersrec_sdk.pipeline import as_ids
from hiersrec_sdk.ranking.backend import UNKNOWN
from hiersrec_sdk.recommender import Recommender
from hiersrec_sdk.results import Result
from hiersrec_sdk.shown import described, shown

if TYPE_CHECKING:
    import pyarrow

OnBad = Literal["error", "skip"]
Where = Callable[[int], str]
_Table = TypeVar("_Table")

RESULT_COLUMNS: Final = ("items", "scores", "mode", "unknown_ids")
CHUNK: Final = 4_096  # sessions whose results are in memory at the same time
_RESTRICTIONS: Final = ("allow", "exclude", "categories", "exclude_categories")
_BAD: Final = (InvalidSessionError, InvalidItemIdError, NaNItemIdError, UnknownItemError)


class BatchRecommender:
    """Recommends for tables of sessions: a row of results for each, in their order.

    It can be pickled, and loads the bundle when it is first called, once a process. Whatever process that is, the
    bundle must be the one that was there when this was made.

    >>> recommend = BatchRecommender("bundle/", k=20, keep=["visitor"])              # doctest: +SKIP
    >>> recommend(pyarrow.table({"visitor": [7], "items": [["shoe-17"]]}))           # doctest: +SKIP

    Args:
        bundle: its folder; or a zip file of it, or the URL of either, as in :meth:`Recommender.load`.
        k: how many items a session.
        session_column: the column with the sessions: lists of item ids, oldest first.
        keep: columns that the results have too, such as the visitor's id.
        on_bad: a session that is null, holds a null, or has ids of another type than the catalog is an error
            ("error"), or gets no items and a null as its mode ("skip").
        providers, backend: as in :meth:`Recommender.load`.
        verify: whether each process checks the bundle's checksums when it loads it.
        **options: as in :meth:`Recommender.recommend_many`, but for ``filter``, which belongs to one process.

    Attributes:
        item_id_type: of the bundle, "int64" or "string".
        digest: the SHA-256 that names the bundle's content.

    Raises:
        InvalidOptionError: an argument is out of its range.
        BundleError: as :meth:`Recommender.load`; checksums are not checked here.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        k: int = 20,
        session_column: str = "items",
        keep: Iterable[str] = (),
        on_bad: OnBad = "error",
        providers: Sequence[str] = ("cpu",),
        backend: str | None = None,
        verify: bool = True,
        **options: Unpack[ManyOptions],
    ) -> None:
        if options.get("filter") is not None:
            raise InvalidFilterError(
                "filter belongs to one loaded recommender: give allow, exclude, categories or exclude_categories"
            )
        self.session_column = checked_text("session_column", session_column)
        self.keep = tuple(listed("keep", keep, InvalidOptionError, "names of columns"))
        for at, name in enumerate(self.keep):
            if checked_text("keep", name) in (*RESULT_COLUMNS, *self.keep[:at]):
                raise InvalidOptionError(
                    f"keep has the column {shown(name)}, and the results have one of that name: rename it before"
                )
        if not is_one_of(on_bad, OnBad):
            raise InvalidOptionError(
                f"on_bad must be one of {', '.join(map(repr, get_args(OnBad)))}, got {shown(on_bad)}"
            )
        self._on_bad = on_bad
        self._k = k
        self._options: dict[str, Any] = {
            name: value
            if value is None or name not in _RESTRICTIONS
            else listed(name, value, InvalidFilterError, ordered=False)
            for name, value in options.items()
            if name != "filter"
        }
        checked_batch_size(self._options.get("batch_size", 1))
        Options.of(k, {name: value for name, value in self._options.items() if name != "batch_size"})
        self._how = checked_providers(providers), backend, checked_bool("verify", verify)
        self._source = absolute(bundle)
        config = open_source(self._source, verify=False).config
        self.item_id_type: str = config["item_id_type"]
        self.digest: str = config["sha256"]
        self._ready: Recommender | None = None

    def at(self, bundle: str | os.PathLike[str]) -> BatchRecommender:
        """One like this, which loads the bundle from another place."""
        copy = BatchRecommender.__new__(BatchRecommender)
        copy.__dict__.update(self.__getstate__(), _source=absolute(bundle))
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ready": None}

    def __call__(self, batch: _Table) -> _Table:
        """The results of a table of sessions: an Arrow table or record batch, or a dict of NumPy arrays.

        Returns:
            Of the type of ``batch``, with the columns ``keep`` and those of :data:`RESULT_COLUMNS`: ``items``, lists
            of item ids, the best first; ``scores``, lists of float32; ``mode``, as that of a
            :class:`~hiersrec_sdk.Result`; ``unknown_ids`` int32.

        Raises:
            MissingColumnError: there is no such column.
            DataError: the column does not hold lists of ids of the catalog's type.
            InvalidSessionError, InvalidItemIdError, NaNItemIdError, UnknownItemError: a session cannot be used; the
                message says in which row.
            BundleError: as :meth:`Recommender.load`; or another bundle is there by now.
        """
        found: _Table = self.results(batch, lambda at: f"row {at}")
        return found

    def results(self, batch: Any, where: Where) -> Any:
        """As a call; ``where`` says in messages which row is meant."""
        if isinstance(batch, Mapping):
            return self._of_arrays(batch, where)
        if not isinstance(getattr(getattr(batch, "schema", None), "names", None), list):
            raise DataError(
                f"sessions must be an Arrow table, a record batch, or a dict of arrays, got {described(batch)}"
            )
        self.check_columns(batch.schema.names)
        self.check_type(batch.schema.field(self.session_column).type)
        pieces = [
            self._of_arrow(batch.slice(start, CHUNK), partial(_later, where, start))
            for start in range(0, batch.num_rows, CHUNK) or (0,)
        ]
        if len(pieces) == 1:
            return pieces[0]
        import pyarrow

        whole = pyarrow.concat_tables([pyarrow.table(piece) for piece in pieces])
        return whole if isinstance(batch, pyarrow.Table) else whole.combine_chunks().to_batches()[0]

    def schema(self, given: pyarrow.Schema) -> pyarrow.Schema:
        """The Arrow schema of the results of tables with the schema ``given``.

        Raises:
            MissingColumnError, DataError: as a call.
        """
        import pyarrow

        self.check_columns(given.names)
        self.check_type(given.field(self.session_column).type)
        item = pyarrow.int64() if self.item_id_type == "int64" else pyarrow.string()
        types = pyarrow.list_(item), pyarrow.list_(pyarrow.float32()), pyarrow.string(), pyarrow.int32()
        return pyarrow.schema([*map(given.field, self.keep), *map(pyarrow.field, RESULT_COLUMNS, types)])

    def check_type(self, column: pyarrow.DataType) -> None:
        """Check the Arrow type of the column of sessions.

        Raises:
            DataError: its values are no lists of ids of the catalog's type.
        """
        from pyarrow import types

        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view)
        if any(is_list(column) for is_list in (*lists, types.is_large_list_view)):
            item = column.value_type
            item = item.value_type if types.is_dictionary(item) else item
            strings = types.is_string, types.is_large_string, types.is_string_view
            fits = (types.is_integer,) if self.item_id_type == "int64" else strings
            if any(is_it(item) for is_it in (*fits, types.is_null)):
                return
        raise DataError(
            f"the column {shown(self.session_column)} has the type {column}, and must have lists of item ids: "
            f"{'integers' if self.item_id_type == 'int64' else 'strings'}, as in this catalog"
        )

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise :class:`MissingColumnError` where a column that is read is not among ``names``, or is there twice."""
        for name in (self.session_column, *self.keep):
            if list(names).count(name) != 1:
                found = "there are several" if name in names else "there is none"
                raise MissingColumnError(
                    f"{found} of the name {shown(name)} among the columns {', '.join(map(shown, names))}"
                )

    def _of_arrays(self, batch: Mapping[str, Any], where: Where) -> dict[str, Any]:
        self.check_columns([*batch])
        results = self._answers([*batch[self.session_column]], where)
        kept = {name: batch[name] for name in self.keep}
        columns = (
            _objects([[] if each is None else list(each.items) for each in results]),
            _objects([np.empty(0, np.float32) if each is None else each.scores for each in results]),
            _objects([None if each is None else each.mode for each in results]),
            np.array([0 if each is None else each.unknown_ids for each in results], dtype=np.int32),
        )
        return {**kept, **dict(zip(RESULT_COLUMNS, columns, strict=True))}

    def _of_arrow(self, batch: Any, where: Where) -> Any:
        import pyarrow

        schema = self.schema(batch.schema)
        column = batch.column(self.session_column)
        try:
            sessions = column.to_pylist()
        except UnicodeDecodeError:  # Arrow checks no text that it is given
            sessions = [_text_or_none(cell) for cell in column]
        results = self._answers(sessions, where)
        answers = [result for result in results if result is not None]
        offsets = pyarrow.array(
            [0, *accumulate(0 if result is None else len(result.items) for result in results)],
            pyarrow.int32(),
        )
        items, scores = (schema.field(name).type.value_type for name in ("items", "scores"))
        items = pyarrow.array([*chain.from_iterable(each.items for each in answers)], items)
        scores = pyarrow.array(
            np.concatenate([np.empty(0, np.float32), *(each.scores for each in answers)]), scores
        )
        columns = [
            *(batch.column(name) for name in self.keep),
            pyarrow.ListArray.from_arrays(offsets, items),
            pyarrow.ListArray.from_arrays(offsets, scores),
            pyarrow.array([None if each is None else each.mode for each in results], pyarrow.string()),
            pyarrow.array([0 if each is None else each.unknown_ids for each in results], pyarrow.int32()),
        ]
        return type(batch).from_arrays(columns, schema=schema)

    def _answers(self, sessions: list[Any], where: Where) -> list[Result | None]:
        """The result of each session; None for a bad one that is skipped."""
        recommender = self._loaded()
        try:
            return [*recommender.recommend_many(sessions, self._k, **self._options)]
        except _BAD:  # which is rare: only now each is looked at for itself
            bad = {at: why for at, session in enumerate(sessions) if (why := self._why_bad(session))}
            if not bad:
                raise
        if self._on_bad == "error":
            at, why = min(bad.items(), key=lambda one: one[0])
            what = "on_bad='skip' (--on-bad skip) gives such a session no items"
            raise type(why)(f"{where(at)}: {why}; {what}") from why
        good = [session for at, session in enumerate(sessions) if at not in bad]
        answers = iter(recommender.recommend_many(good, self._k, **self._options))
        return [None if at in bad else next(answers) for at in range(len(sessions))]

    def _why_bad(self, session: Any) -> Exception | None:
        try:
            ids = as_ids(session)
            rows = self._loaded().catalog.rows(ids)
        except _BAD as error:
            return error
        if self._options.get("on_unknown") == "error" and (rows == UNKNOWN).any():
            unknown = ids[int(np.argmax(rows == UNKNOWN))]
            return UnknownItemError(f"item id {shown(unknown)} is not in the catalog")
        return None

    def _loaded(self) -> Recommender:
        """The recommender of this process."""
        if self._ready is None:
            self._ready = _load(self._source, self.digest, *self._how)
        return self._ready


def _later(where: Where, first: int, at: int) -> str:
    return where(first + at)


@lru_cache(maxsize=1)
def _load(
    source: str, digest: str, providers: tuple[str, ...], backend: str | None, verify: bool
) -> Recommender:
    """The recommender of this process, whatever number of tasks it is given."""
    recommender = Recommender.load(source, providers=providers, backend=backend, verify=verify)
    if recommender.config["sha256"] != digest:
        label = without_secrets(source) if is_url(source) else source
        raise BundleError(
            f"{label} is not the bundle that this batch was begun with: it has the digest "
            f"{recommender.config['sha256'][:16]}…, not {digest[:16]}…"
        )
    return recommender


def _objects(values: list[Any]) -> NDArray[np.object_]:
    """An array of one dimension, whatever the values are."""
    found = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):
        found[at] = value
    return found


def _text_or_none(cell: Any) -> Any:
    """The value of an Arrow cell; bytes, which are no id, where its text is not UTF-8."""
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return [error.object]
