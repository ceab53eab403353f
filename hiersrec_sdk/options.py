"""The named arguments of a call: their types for type checkers, their defaults and their checks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, TypeVar

import numpy as np

from hiersrec_sdk.arguments import checked_bool, checked_threads, is_integer, is_one_of
from hiersrec_sdk.catalog.filters import Filter
from hiersrec_sdk.catalog.tree import CategoryName
from hiersrec_sdk.cpus import Threads
from hiersrec_sdk.errors import (
    InvalidBatchSizeError,
    InvalidCandidatesError,
    InvalidExcludeSeenError,
    InvalidFilterError,
    InvalidIncludeSessionCategoriesError,
    InvalidKError,
    InvalidMaxPerCategoryError,
    InvalidModeError,
    InvalidOnUnknownError,
)
from hiersrec_sdk.shown import shown

Mode = Literal["candidates", "exact", "auto"]
OnUnknown = Literal["skip", "error"]
Candidates = float | Literal["auto"] | None
Ids = Iterable[int | str] | None
Categories = Iterable[CategoryName] | None


class RecommendOptions(TypedDict, total=False):
    """The named arguments of :meth:`Recommender.recommend`; see :class:`Options` for what each means."""

    mode: Mode
    candidates: Candidates
    include_session_categories: bool
    filter: Filter | None
    allow: Ids
    exclude: Ids
    exclude_seen: bool
    categories: Categories
    exclude_categories: Categories
    max_per_category: int | None
    on_unknown: OnUnknown
    threads: Threads


class ManyOptions(RecommendOptions, total=False):
    """The named arguments of :meth:`Recommender.recommend_many` but for ``output``."""

    batch_size: int


@dataclass(frozen=True, slots=True)
class Options:
    """How a call recommends, checked.

    Attributes:
        k: how many items; above the number of items, all of them.
        mode: "candidates" ranks the most probable categories; "exact" ranks every item, at a fraction of the cost of
            scoring each; "auto" is exact where that is cheap, else candidates.
        candidates: candidate share, the share of the bundle's rows that are candidates, above 0 and up to 1; "auto":
            the most probable categories until their probabilities reach the ``top_p`` that the export calibrated, so
            few where the next category is clear and many where it is not; None: the bundle's ``candidate_share``. The
            category that reaches the budget is taken too, and more if they hold fewer than ``k`` eligible items. The
            session's own items and the co-visited items are always ranked.
        include_session_categories: whether the leaf categories of the session's own items are taken first. They count
            toward the budget, so that fewer predicted categories may be taken.
        filter: a filter of :meth:`Recommender.filter`, prepared once.
        allow, exclude, categories, exclude_categories: as in :meth:`Recommender.filter`, for this call alone. All but a
            short ``exclude`` take time that grows with the catalog. Restrictions that are given together all apply.
        exclude_seen: whether the session's own items may not be recommended.
        max_per_category: at most this many items of one leaf category. Items that are only in a higher category count
            together as one leaf category, one for each such category; so do items without a category.
        on_unknown: an id that the catalog lacks is left out and counted ("skip"), or an error ("error").
        threads: threads that rank in mode "exact", a number or "auto", as in :meth:`Recommender.load`.

    Raises:
        InvalidOptionError: a value is of the wrong type or out of its range; the class of each argument is its own.
    """

    k: int = 20
    mode: Mode = "candidates"
    candidates: Candidates = None
    include_session_categories: bool = False
    filter: Filter | None = None
    allow: Ids = None
    exclude: Ids = None
    exclude_seen: bool = False
    categories: Categories = None
    exclude_categories: Categories = None
    max_per_category: int | None = None
    on_unknown: OnUnknown = "skip"
    threads: Threads = 1

    def __post_init__(self) -> None:
        if not is_integer(self.k, 1):
            raise InvalidKError(f"k must be an integer ≥ 1, got {shown(self.k)}")
        if not is_one_of(self.mode, Mode):
            raise InvalidModeError(f"mode must be 'candidates', 'exact' or 'auto', got {shown(self.mode)}")
        share: Any = self.candidates
        is_auto = isinstance(share, str) and share == "auto"
        is_number = issubclass(type(share), float | np.floating) or is_integer(share, 1)
        if share is not None and not is_auto and not (is_number and 0 < share <= 1):
            raise InvalidCandidatesError(
                f"candidates must be a number in (0, 1], or 'auto', got {shown(share)}"
            )
        checked_bool(
            "include_session_categories",
            self.include_session_categories,
            InvalidIncludeSessionCategoriesError,
        )
        checked_bool("exclude_seen", self.exclude_seen, InvalidExcludeSeenError)
        if self.max_per_category is not None and not is_integer(self.max_per_category, 1):
            raise InvalidMaxPerCategoryError(
                f"max_per_category must be an integer ≥ 1, or None, got {shown(self.max_per_category)}"
            )
        if not is_one_of(self.on_unknown, OnUnknown):
            raise InvalidOnUnknownError(f"on_unknown must be 'skip' or 'error', got {shown(self.on_unknown)}")
        checked_threads(self.threads)
        if self.filter is not None and not isinstance(self.filter, Filter):
            raise InvalidFilterError(
                f"filter must come from Recommender.filter(), or be None, got {shown(self.filter)}"
            )

    @classmethod
    def of(cls, k: int, given: Mapping[str, Any]) -> Options:
        """The options of a call, from its named arguments.

        Raises:
            TypeError: there is no such argument.
        """
        for name in given:
            if name not in _NAMES:
                raise TypeError(f"there is no argument {shown(name)}; there are {', '.join(_NAMES)}")
        return cls(k, **given)

    @property
    def restricts(self) -> bool:
        """Whether some items may not be recommended, whatever the session."""
        every = self.filter, self.allow, self.exclude, self.categories, self.exclude_categories
        return any(each is not None for each in every)


_NAMES: Final = tuple(field.name for field in fields(Options) if field.name != "k")

_Method = TypeVar("_Method", bound=Callable[..., Any])


def takes_options(method: _Method) -> _Method:
    """Show each option in the signature of a method that takes ``**options``, for ``help()`` and notebooks."""
    if TYPE_CHECKING:
        return method
    signature = inspect.signature(method)
    parameters = [
        each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for field in fields(Options):
        if field.name not in signature.parameters:
            parameters.append(
                inspect.Parameter(
                    field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
                )
            )
    method.__signature__ = signature.replace(parameters=parameters)
    return method


def checked_batch_size(value: Any) -> int:
    """``batch_size`` of :meth:`Recommender.recommend_many`, checked."""
    if not is_integer(value, 1):
        raise InvalidBatchSizeError(f"batch_size must be an integer ≥ 1, got {shown(value)}")
    return int(value)
