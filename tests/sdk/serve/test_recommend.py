"""POST /recommend: it answers as the recommender does, whatever the options, and refuses with its messages."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from hiersrec_sdk import Recommender, Result
from hiersrec_sdk.errors import HierSRecError
from hiersrec_sdk.serve import create_app
from tests.sdk.bundles import make_shop
from tests.sdk.serve.conftest import Served

_SHOP = make_shop("string")
_IDS = [*_SHOP.ids, "stranger", "another stranger"]
_CATEGORIES: list[Any] = [
    *(each for level in _SHOP.category_ids for each in level),
    *(list(path) for path in _SHOP.category_paths.values()),
]


def names(size: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(_CATEGORIES), max_size=size)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "k": st.integers(1, 70),
    "mode": st.sampled_from(["candidates", "exact", "auto"]),
    "candidates": st.one_of(st.none(), st.just("auto"), st.floats(0.01, 1.0), st.just(1)),
    "include_session_categories": st.booleans(),
    "allow": st.lists(st.sampled_from(_IDS), max_size=30),
    "exclude": st.lists(st.sampled_from(_IDS), max_size=120),
    "exclude_seen": st.booleans(),
    "categories": names(),
    "exclude_categories": names(),
    "max_per_category": st.one_of(st.none(), st.integers(1, 4)),
    "on_unknown": st.sampled_from(["skip", "error"]),
}
OPTIONS = st.fixed_dictionaries({}, optional=VALUES)
SESSIONS = st.lists(st.sampled_from(_IDS), max_size=12)


def expected(result: Result) -> dict[str, Any]:
    """What JSON makes of a result."""
    shown = {
        "items": [{"item": hit.item, "score": hit.score, "title": hit.title} for hit in result],
        "categories": [
            {
                "category": hit.category,
                "path": hit.path,
                "probability": hit.probability,
                "level": hit.level,
                "index": hit.index,
            }
            for hit in result.categories
        ],
        "mode": result.mode,
        "rows_scored": result.rows_scored,
        "unknown_ids": result.unknown_ids,
    }
    found: dict[str, Any] = json.loads(json.dumps(shown))
    return found


def called(recommender: Recommender, session: Any, options: dict[str, Any]) -> tuple[int, Any]:
    """Status and answer that a request with these options must get."""
    try:
        return 200, expected(recommender.recommend(session, **options))
    except HierSRecError as error:
        status = 404 if type(error).__name__ == "UnknownItemError" else 400
        return status, {"error": {"type": type(error).__name__, "message": str(error)}}


@given(session=SESSIONS, options=OPTIONS)
@settings(max_examples=150)
@pytest.mark.slow
def test_one_session(served: Served, session: list[str], options: dict[str, Any]) -> None:
    answer = served.client.post("/recommend", json={"session": session, **options})
    assert (answer.status_code, answer.json()) == called(served.recommender, session, options)


@given(sessions=st.lists(SESSIONS, max_size=9), options=OPTIONS)
@settings(max_examples=50)
@pytest.mark.slow
def test_many_sessions(served: Served, sessions: list[list[str]], options: dict[str, Any]) -> None:
    answer = served.client.post("/recommend", json={"sessions": sessions, **options}).json()
    try:
        results = served.recommender.recommend_many(sessions, **options)
        should: Any = {"results": [expected(result) for result in results]}
    except HierSRecError as error:
        should = {"error": {"type": type(error).__name__, "message": str(error)}}
    assert answer == should


@given(
    name=st.sampled_from(["session", *VALUES]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=5,
    ),
)
@settings(max_examples=300)
@pytest.mark.slow
def test_values_of_any_type(served: Served, name: str, value: Any) -> None:
    asked = {"session": [served.shop.ids[3]], name: value}
    answer = served.client.post("/recommend", json=asked)
    session = asked.pop("session")
    assert (answer.status_code, answer.json()) == called(served.recommender, session, asked)


@pytest.mark.parametrize(
    ("body", "status", "kind", "says"),
    [
        (b"", 400, "InvalidJSON", "is not JSON"),
        (b"{", 400, "InvalidJSON", "is not JSON"),
        (b'{"session": ["\xff"]}', 400, "InvalidJSON", "is not JSON"),
        (b'{"session": ["\\ud800"]}', 400, "InvalidJSON", "is not JSON"),
        (b'{"session": NaN}', 400, "InvalidJSON", "is not JSON"),
        (b'{"k": ' + b"[" * 100_000, 400, "InvalidJSON", "while deserializing an object"),
        (b"[]", 400, "InvalidRequest", "Expected `object`"),
        (b'{"session": [], "exlude_seen": true}', 400, "InvalidRequest", "unknown field `exlude_seen`"),
        (b'{"session": [], "threads": 2}', 400, "InvalidRequest", "known fields: session, sessions, k, mode"),
        (b"{}", 400, "InvalidRequest", "either session or sessions"),
        (b'{"session": [], "sessions": []}', 400, "InvalidRequest", "either session or sessions"),
        (b'{"session": "shoe"}', 400, "InvalidSessionError", "session must be a list of item ids"),
        (b'{"session": [17]}', 400, "InvalidItemIdError", "17"),
        (b'{"session": [], "k": 0}', 400, "InvalidKError", "k must be an integer ≥ 1, got 0"),
        (b'{"session": [], "k": 1001}', 400, "InvalidKError", "from 1 to 1,000 here, got 1001"),
        (b'{"sessions": [[1]]}', 400, "InvalidItemIdError", "session 0:"),
        (b'{"sessions": [' + b"[]," * 1000 + b"[]]}", 413, "TooMany", "at most 1,000 elements, got 1,001"),
        (
            b'{"k": 1000, "sessions": [' + b"[]," * 100 + b"[]]}",
            413,
            "TooMany",
            "sessions times k must be at most 100,000, got 101 sessions times k=1,000: send fewer",
        ),
        (b'{"sessions": 3}', 400, "InvalidSessionError", "3"),
        (b" " * (1 << 20) + b"{}", 413, "BodyTooLarge", "at most 1,048,576 bytes"),
    ],
)
def test_refuses(served: Served, body: bytes, status: int, kind: str, says: str) -> None:
    answer = served.client.post("/recommend", content=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["type"] == kind
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("route", "options", "is_slow"),
    [
        ("/recommend", {}, False),
        ("/recommend", {"mode": "auto", "candidates": "auto", "exclude": ["1"]}, False),
        ("/recommend", {"candidates": None}, False),
        ("/recommend", {"candidates": 1.0}, True),
        ("/recommend", {"mode": "exact"}, True),
        ("/recommend", {"allow": ["1"]}, True),
        ("/recommend", {"exclude": ["1"] * 101}, True),
        ("/recommend", {"session": ["1"] * 1001}, True),
        ("/categories", {}, False),
        ("/categories", {"session": ["1"] * 1001}, True),
    ],
)
def test_slow_calls_hold_up_no_others(
    served: Served, monkeypatch: pytest.MonkeyPatch, route: str, options: dict[str, Any], is_slow: bool
) -> None:
    threads: list[str] = []
    for name in ("recommend", "categories"):
        call = getattr(Recommender, name)

        def noted(*given: Any, call: Any = call, **named: Any) -> Any:
            threads.append(threading.current_thread().name)
            return call(*given, **named)

        monkeypatch.setattr(Recommender, name, noted)
    answer = served.client.post(route, json={"session": ["1"], "k": 2, **options})
    assert answer.status_code in (200, 400), answer.text  # candidates="auto" needs a calibration
    assert threads[-1].startswith("asyncio_") == is_slow


def test_as_many_hits_as_there_may_be(shop_bundle: Path) -> None:
    """Of many sessions: one has the limit of k alone."""
    with TestClient(create_app(shop_bundle, max_hits=12)) as client:
        statuses = [
            client.post("/recommend", json=asked).status_code
            for asked in (
                {"sessions": [[]] * 3, "k": 4},
                {"sessions": [[]] * 13, "k": 1},
                {"sessions": [[]], "k": 13},
                {"sessions": [], "k": 1000},
                {"session": [], "k": 13},
            )
        ]
        assert statuses == [200, 413, 413, 200, 200]
        assert client.get("/info").json()["max_hits"] == 12


def test_a_body_in_parts(served: Served) -> None:
    parts = [b'{"session"', b": [], ", b'"k": 2}']
    assert len(served.client.post("/recommend", content=iter(parts)).json()["items"]) == 2
    endless = served.client.post("/recommend", content=iter([b" " * 100_000] * 20))
    assert endless.status_code == 413
    assert endless.headers["connection"] == "close"
