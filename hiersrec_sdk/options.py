"""The arguments of a call that are given by name, for type checkers of methods that hand them on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from hiersrec_sdk.catalog.filters import Filter
    from hiersrec_sdk.cpus import Threads

Mode = Literal["candidates", "exact", "auto"]
OnUnknown = Literal["skip", "error"]


class RecommendOptions(TypedDict, total=False):
    """Those of :meth:`Recommender.recommend`."""

    mode: Mode
    candidates: float | Literal["auto"] | None
    include_session_categories: bool
    filter: Filter | None
    allow: Iterable[int | str] | None
    exclude: Iterable[int | str] | None
    exclude_seen: bool
    categories: Iterable[int | str] | None
    exclude_categories: Iterable[int | str] | None
    max_per_category: int | None
    on_unknown: OnUnknown
    threads: Threads


class ManyOptions(RecommendOptions, total=False):
    """Those of :meth:`Recommender.recommend_many` but for ``output``."""

    batch_size: int
