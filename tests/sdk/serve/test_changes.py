"""POST /catalog/...: for those who have the token alone, through the change feed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hiersrec_sdk.catalog.feed import open_feed
from hiersrec_sdk.serve import Settings, create_app
from hiersrec_sdk.serve.changes import Changes
from hiersrec_sdk.serve.limits import RefusedError
from hiersrec_sdk.serve.metrics import Metrics
from hiersrec_sdk.serve.reload import Service
from tests.waiting import PATIENCE

TOKEN = "a secret"
NEW = {"id": "new", "category": ["0/0", "1/0", "2/0"], "title": "New", "vector": [1.0] * 6}


@pytest.fixture
def client(shop_bundle: Path, tmp_path: Path) -> Iterator[TestClient]:
    """A client whose requests carry the token."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    app = create_app(shop_bundle, token=TOKEN, feed=str(tmp_path / "feed"))
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:
        yield client


def test_every_kind_of_change(client: TestClient) -> None:
    def post(kind: str, asked: dict[str, Any]) -> int:
        answer = client.post(f"/catalog/{kind}", json=asked)
        assert answer.status_code == 200, answer.text
        position: int = answer.json()["position"]
        return position

    def best(k: int = 70) -> list[str]:
        asked = {"session": ["0"], "k": k, "mode": "exact"}
        return [hit["item"] for hit in client.post("/recommend", json=asked).json()["items"]]

    assert post("upsert", {"items": [NEW, {**NEW, "id": "newer"}]}) == 2
    assert {"new", "newer"} <= set(best())
    assert post("bias", {"items": [{"id": "new", "value": 1000.0}]}) == 3
    assert best(1) == ["new"]
    assert post("move", {"items": [{"id": "new", "category": "0/1"}]}) == 4
    assert post("remove", {"ids": ["new", "stranger"]}) == 6
    assert "new" not in best()
    state = client.get("/readyz").json()
    assert state["feed"] == {"position": 6, "lag": 0, "rejected": 0, "error": None}


@pytest.mark.parametrize(
    "given",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        TOKEN.encode(),
        f"Bearer {TOKEN} ".encode(),
        f"Bearer {TOKEN}"[:-1].encode(),
        f"Basic {TOKEN}".encode(),
    ],
)
@pytest.mark.parametrize("kind", ["upsert", "remove", "move", "bias"])
def test_a_wrong_token(client: TestClient, kind: str, given: bytes | None) -> None:
    client.headers.clear()
    headers = {} if given is None else {"Authorization": given.decode()}
    answer = client.post(f"/catalog/{kind}", content=b"not even JSON", headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "Unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/readyz").json()["feed"]["position"] == 0


def test_the_name_of_the_scheme_has_no_case(client: TestClient) -> None:
    answer = client.post("/catalog/remove", json={"ids": ["0"]}, headers={"Authorization": f"bearer {TOKEN}"})
    assert answer.json() == {"position": 1}


def test_a_token_of_other_letters(shop_bundle: Path) -> None:
    changes = Changes(Service.open(shop_bundle, "", Metrics()), Settings(token="größer"))
    changes.check_token({"headers": [(b"authorization", "Bearer größer".encode())]})
    for wrong in ("Bearer größer".encode("latin-1"), b"Bearer \xff", "Bearer größe".encode()):
        with pytest.raises(RefusedError):
            changes.check_token({"headers": [(b"authorization", wrong)]})


@pytest.mark.parametrize(
    ("kind", "asked", "status", "error"),
    [
        ("upsert", {"items": []}, 400, "InvalidRequest"),
        ("upsert", {"items": {}}, 400, "InvalidRequest"),
        ("upsert", {"ids": []}, 400, "InvalidRequest"),
        ("upsert", {"items": [{"id": "x"}] * 1001}, 413, "TooMany"),
        ("upsert", {"items": [{"id": "x", "colour": "red"}]}, 400, "CatalogChangeError"),
        ("upsert", {"items": [{**NEW, "category": "none"}]}, 400, "UnknownCategoryError"),
        ("remove", {"ids": [1.5]}, 400, "InvalidItemIdError"),
        ("move", {"items": [{"id": "stranger", "category": "0/0"}]}, 404, "UnknownItemError"),
        ("move", {"items": [{"id": "0"}]}, 400, "CatalogChangeError"),
        ("bias", {"items": [{"id": "0", "value": "much"}]}, 400, "CatalogChangeError"),
    ],
)
def test_refuses(client: TestClient, kind: str, asked: dict[str, Any], status: int, error: str) -> None:
    answer = client.post(f"/catalog/{kind}", json=asked)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, error), answer.text


def test_openapi_names_the_token(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["paths"]["/catalog/upsert"]["post"]["security"] == [{"token": []}]
    assert "Authorization: Bearer TOKEN" in client.get("/docs").text
    assert TOKEN not in str(document)


def test_a_feed_without_a_token_is_followed_only(shop_bundle: Path, tmp_path: Path) -> None:
    feed = tmp_path / "the feed"
    with open_feed(feed) as log:
        log.append([{"remove": "0"}])
    with TestClient(create_app(shop_bundle, feed=str(feed))) as client:
        assert client.get("/info").json()["items"] == 59
        assert client.get("/readyz").json()["feed"]["position"] == 1
        assert client.post("/catalog/remove", json={"ids": ["größe-3"]}).status_code == 404


def test_the_feed_lies_beside_the_bundle(shop_bundle: Path) -> None:
    feed = shop_bundle.with_name(f"{shop_bundle.name}.changes")
    with TestClient(create_app(f"{shop_bundle}/", token=TOKEN)):
        assert feed.is_file()
    feed.unlink()


def test_changes_that_wait_hold_up_nothing_else(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those do that cannot be published just now."""
    released, waiting = threading.Event(), threading.Semaphore(0)

    def publish(*given: Any) -> int:
        waiting.release()
        released.wait(PATIENCE)
        return 7

    monkeypatch.setattr(Service, "publish", publish)
    with ThreadPoolExecutor(50) as threads:
        try:
            asked = {"ids": ["0"]}
            posts = [threads.submit(client.post, "/catalog/remove", json=asked) for _ in range(40)]
            assert waiting.acquire(timeout=PATIENCE)
            batch = threads.submit(client.post, "/recommend", json={"sessions": [["0"], []], "k": 1})
            assert batch.result(PATIENCE).status_code == 200
            assert threads.submit(client.get, "/metrics").result(PATIENCE).status_code == 200
        finally:
            released.set()
        assert {post.result().json()["position"] for post in posts} == {7}


def test_a_change_that_comes_too_late_is_skipped_by_all(client: TestClient, tmp_path: Path) -> None:
    """What another writer appends unchecked stops nobody."""
    with open_feed(tmp_path / "feed") as log:
        log.append([{"move": {"id": "stranger", "category": "0/0"}}, {"remove": "0"}])
    assert client.post("/catalog/remove", json={"ids": ["größe-3"]}).json() == {"position": 3}
    state = client.get("/readyz").json()["feed"]
    assert state == {"position": 3, "lag": 0, "rejected": 1, "error": None}
    assert client.get("/info").json()["items"] == 58
