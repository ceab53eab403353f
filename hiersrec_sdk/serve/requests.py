"""What is asked and answered, as types. They make the OpenAPI document too.

Values are taken as they come, and checked by the SDK, whose messages the client gets; the schemas say what is right.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import UNSET, Meta, Struct

from hiersrec_sdk.results import CategoryHit, Hit

_ID: Final = {"anyOf": [{"type": "integer"}, {"type": "string"}]}
_IDS: Final = {"type": "array", "items": _ID}
_NAMES: Final = {"type": "array", "items": {"anyOf": [*_ID["anyOf"], _IDS]}}


def _meta(description: str, schema: dict[str, Any]) -> Meta:
    return Meta(description=description, extra_json_schema=schema)


_Item = Annotated[Any, _meta("external id", _ID)]
_Session = Annotated[Any, _meta("external item ids, oldest click first", _IDS)]
_K = Annotated[Any, _meta("how many", {"type": "integer", "minimum": 1})]
_Allow = Annotated[Any, _meta("only these items", _IDS)]
_Exclude = Annotated[Any, _meta("none of these items", _IDS)]
_Categories = Annotated[
    Any, _meta("only items of these categories: each an id, or a path, ids from the top level down", _NAMES)
]
_ExcludeCategories = Annotated[Any, _meta("no items of these categories", _NAMES)]
_OnUnknown = Annotated[
    Any,
    _meta(
        "ids that the catalog lacks: leave them out, or refuse",
        {"enum": ["skip", "error"], "default": "skip"},
    ),
]


class RecommendRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """One ``session``, or many ``sessions``, and how to recommend."""

    session: _Session = UNSET
    sessions: Annotated[Any, _meta("many, in place of one", {"type": "array", "items": _IDS})] = UNSET
    k: _K = 20
    mode: Annotated[
        Any,
        _meta(
            "rank the items of the most probable categories, or every item, or whichever is cheap",
            {"enum": ["candidates", "exact", "auto"], "default": "candidates"},
        ),
    ] = UNSET
    candidates: Annotated[
        Any,
        _meta(
            "share of the bundle's rows that are candidates, or as calibrated; null: the bundle's",
            {"anyOf": [{"type": "number"}, {"const": "auto"}, {"type": "null"}], "default": None},
        ),
    ] = UNSET
    include_session_categories: Annotated[
        Any,
        _meta(
            "take the leaf categories of the session's own items first; they count toward the budget",
            {"type": "boolean", "default": False},
        ),
    ] = UNSET
    allow: _Allow = UNSET
    exclude: _Exclude = UNSET
    exclude_seen: Annotated[
        Any, _meta("without the session's own items", {"type": "boolean", "default": False})
    ] = UNSET
    categories: _Categories = UNSET
    exclude_categories: _ExcludeCategories = UNSET
    max_per_category: Annotated[
        Any,
        _meta(
            "most items of one leaf category", {"type": ["integer", "null"], "minimum": 1, "default": None}
        ),
    ] = UNSET
    on_unknown: _OnUnknown = UNSET

    def options(self) -> dict[str, Any]:
        """The named arguments that were given, for :meth:`Recommender.recommend`."""
        return _given(self, _OPTIONS)


class CategoriesRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A session, and the level whose most probable categories are asked for."""

    session: _Session
    k: _K = 5
    level: Annotated[Any, _meta("0 is the top, -1 the leaf level", {"type": "integer"})] = -1
    on_unknown: _OnUnknown = "skip"


class SimilarRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """An item, and how many of the items with the nearest vectors."""

    item: _Item
    k: _K = 20
    allow: _Allow = UNSET
    exclude: _Exclude = UNSET
    categories: _Categories = UNSET
    exclude_categories: _ExcludeCategories = UNSET

    def restrictions(self) -> dict[str, Any]:
        """The named arguments that were given, for :meth:`Recommender.filter`."""
        return _given(self, _RESTRICTIONS)


class ExplainRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """A session, and the item whose score after it is to be explained."""

    session: _Session
    item: _Item
    on_unknown: _OnUnknown = "skip"


class UpsertRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Items to add or to change."""

    items: Annotated[
        list[Any],
        _meta(
            "each with its id, and what there is to say of it",
            {
                "items": {
                    "type": "object",
                    "required": ["id"],
                    "additionalProperties": False,
                    "properties": {
                        "id": _ID,
                        "category": _NAMES["items"],
                        "text": {"type": "string"},
                        "numbers": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
                        "metadata_vector": {"type": "array", "items": {"type": "number"}},
                        "title": {"type": "string"},
                        "vector": {"type": "array", "items": {"type": "number"}},
                    },
                }
            },
        ),
    ]


class RemoveRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Items to take out; ids that the catalog lacks do nothing."""

    ids: Annotated[list[Any], _meta("external item ids", {"items": _ID})]


def _fields_of_items(**schemas: Any) -> Meta:
    about = {"type": "object", "required": [*schemas], "additionalProperties": False, "properties": schemas}
    return Meta(extra_json_schema={"items": about})


class MoveRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Items to put into other categories."""

    items: Annotated[list[Any], _fields_of_items(id=_ID, category=_NAMES["items"])]


class BiasRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    """Items to promote or to bury: a value is added to the score in every session; 0 takes it back."""

    items: Annotated[list[Any], _fields_of_items(id=_ID, value={"type": "number"})]


class Recommendations(Struct, kw_only=True):
    """The answer to one session: see :class:`hiersrec_sdk.Result`."""

    items: list[Hit]
    categories: tuple[CategoryHit, ...]
    mode: str
    rows_scored: int
    unknown_ids: int


class ManyRecommendations(Struct):
    """The answers to many sessions, in their order."""

    results: list[Recommendations]


class Categories(Struct):
    """The most probable categories, best first; none if the session holds no known item."""

    categories: tuple[CategoryHit, ...]


class Similar(Struct):
    """The items with the nearest vectors; a score is a dot product."""

    items: tuple[Hit, ...]


class Health(Struct):
    """The process lives."""

    status: str


class FeedState(Struct):
    """How far a worker follows the change feed: the newest position that it has, records that wait, records that could
    not be applied, and the kind of error because of which it cannot go on."""

    position: int
    lag: int
    rejected: int
    error: str | None


class Readiness(Struct):
    """Whether a worker can answer, and the kind of error if not; the SHA-256 of its bundle; the kind of error because
    of which a newer one is not served; and its change feed, if it follows one."""

    ready: bool
    error: str | None
    bundle: str
    reload_error: str | None
    feed: FeedState | None


class Info(Struct, kw_only=True):
    """The bundle, the catalog and the limits."""

    version: str
    bundle: str
    schema_version: int
    created_by: str
    items: int
    item_id_type: str
    category_id_type: str
    levels: list[str]
    categories: list[int]
    dimension: int
    max_length: int
    candidate_share: float
    has_titles: bool
    calibrated: bool
    backend: str
    providers: list[str]
    max_k: int
    max_hits: int
    max_sessions: int
    max_body_bytes: int
    changes: bool


class Found(Struct):
    """The items that a search found."""

    items: list[Title]


class Title(Struct):
    """An item and its title."""

    item: int | str
    title: str | None


class Changed(Struct):
    """Where the changes stand in the change feed: a worker whose position is as high has applied them."""

    position: int


class Failed(Struct):
    """Why there is no answer."""

    type: str
    message: str


class Failure(Struct):
    """An error."""

    error: Failed


_OPTIONS: Final = tuple(
    name for name in RecommendRequest.__struct_fields__ if name not in ("session", "sessions", "k")
)

_RESTRICTIONS: Final = ("allow", "exclude", "categories", "exclude_categories")


def _given(asked: Struct, names: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for name in names:
        value = getattr(asked, name)
        if value is not UNSET:
            found[name] = value
    return found
