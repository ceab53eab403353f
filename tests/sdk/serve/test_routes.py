"""The other routes that read, and how the app is made and mounted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from hiersrec_sdk import Recommender, __version__
from hiersrec_sdk.errors import BundleMissingError, InvalidOptionError
from hiersrec_sdk.serve import create_app
from hiersrec_sdk.serve.requests import Health, Info, Readiness
from tests.sdk.serve.conftest import Served
from tests.waiting import wait_for

SECRET = "no-path-of-the-server"


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_categories(served: Served) -> None:
    session = served.shop.ids[3:6]
    options: list[dict[str, Any]] = [{}, {"level": 0}, {"level": 1, "k": 2}, {"on_unknown": "error"}]
    for asked in options:
        found = served.client.post("/categories", json={"session": session, **asked}).json()
        expected = served.recommender.categories(session, **asked)
        assert found == {"categories": as_json([asdict(hit) for hit in expected])}
    assert served.client.post("/categories", json={"session": []}).json() == {"categories": []}


def test_similar(served: Served) -> None:
    item, category = served.shop.ids[20], served.shop.category_ids[-1][5]
    found = served.client.post("/similar", json={"item": item, "k": 4}).json()
    assert found == {"items": as_json([asdict(hit) for hit in served.recommender.similar_items(item, 4)])}
    only = served.recommender.filter(categories=[category], exclude=[served.shop.ids[21]])
    asked = {"item": item, "categories": [category], "exclude": [served.shop.ids[21]]}
    found = served.client.post("/similar", json=asked).json()
    assert found == {
        "items": as_json([asdict(hit) for hit in served.recommender.similar_items(item, filter=only)])
    }


def test_explain(served: Served) -> None:
    session, item = [*served.shop.ids[3:6], "stranger"], served.shop.ids[9]
    found = served.client.post("/explain", json={"session": session, "item": item}).json()
    assert found == as_json(asdict(served.recommender.explain(session, item)))


@pytest.mark.parametrize(
    ("path", "asked", "status", "kind"),
    [
        ("/categories", {}, 400, "InvalidRequest"),
        ("/categories", {"session": [], "level": 3}, 400, "InvalidLevelError"),
        ("/categories", {"session": [], "k": "2"}, 400, "InvalidKError"),
        ("/categories", {"session": [], "k": 5000}, 400, "InvalidKError"),
        ("/categories", {"session": ["stranger"], "on_unknown": "error"}, 404, "UnknownItemError"),
        ("/similar", {"item": "stranger"}, 404, "UnknownItemError"),
        ("/similar", {"item": None}, 400, "InvalidItemIdError"),
        ("/similar", {"item": "0", "categories": ["none"]}, 400, "UnknownCategoryError"),
        ("/similar", {"item": "0", "k": 5000}, 400, "InvalidKError"),
        ("/explain", {"session": ["0"], "item": "stranger"}, 404, "UnknownItemError"),
        ("/explain", {"session": ["stranger"], "item": "0"}, 404, "UnknownItemError"),
        ("/explain", {"session": ["0"], "item": ["0"]}, 400, "InvalidItemIdError"),
        ("/explain", {"session": ["0"]}, 400, "InvalidRequest"),
        ("/nowhere", {}, 404, "NotFound"),
        ("/recommend/", {}, 404, "NotFound"),
        ("/info", {}, 405, "MethodNotAllowed"),
        ("/catalog/upsert", {"items": []}, 404, "NotFound"),  # there is no token
    ],
)
def test_refuses(served: Served, path: str, asked: dict[str, Any], status: int, kind: str) -> None:
    answer = served.client.post(path, json=asked)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind), answer.text


def test_health_and_info(served: Served) -> None:
    assert served.client.get("/healthz").json() == {"status": "ok"}
    ready, digest = served.client.get("/readyz"), served.recommender.config["sha256"]
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "error": None,
        "bundle": digest,
        "reload_error": None,
        "feed": None,
    }
    info = served.client.get("/info").json()
    assert (info["version"], info["bundle"], info["items"]) == (__version__, digest, served.shop.items)
    for path, kind in (("/healthz", Health), ("/readyz", Readiness), ("/info", Info)):
        msgspec.json.decode(served.client.get(path).content, type=kind)  # as the description says
    assert served.client.get("/recommend").status_code == 405
    assert served.client.head("/healthz").status_code == 200


def test_openapi(served: Served) -> None:
    document = served.client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/recommend", "/categories", "/similar", "/explain", "/healthz", "/readyz", "/info", "/metrics"),
        *("/docs", "/openapi.json", "/", "/items"),
    }
    for path, methods in document["paths"].items():
        assert served.client.request(next(iter(methods)), path).status_code in (200, 400)
    assert document["paths"]["/readyz"]["get"]["responses"].keys() == {"200", "503"}
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])
    fields = document["components"]["schemas"]["RecommendRequest"]["properties"]
    about = {"description": "how many", "type": "integer", "minimum": 1, "maximum": 1000, "default": 20}
    assert fields["k"] == about
    assert fields["sessions"]["maxItems"] == 1000
    assert "title" in document["components"]["schemas"]["Info"]
    page = served.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert all(path in page.text for path in document["paths"])
    assert "max_per_category" in page.text
    assert f"{served.client.base_url}/recommend</pre>" in page.text


def test_the_page_loads_nothing_from_elsewhere(served: Served) -> None:
    page = served.client.get("/")
    assert page.status_code == 200
    assert "https:" not in page.text
    assert "http:" not in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == page.text.count("<script>") + page.text.count("<style>") == 2


def test_search(served: Served) -> None:
    def found(query: str, limit: int = 20) -> list[Any]:
        answer = served.client.get("/items", params={"query": query, "limit": limit}).json()
        return [item["item"] for item in answer["items"]]

    catalog, shop = served.recommender.catalog, served.shop
    popular = [hit.item for hit in served.recommender.recommend([], 60)]
    assert found("", 50) == popular[:50]
    assert found("größe-3") == ["größe-3"]
    assert shop.ids[17] in found("ITEM 17")
    assert all("17" in f"{item} {catalog.title(int(catalog.rows([item])[0]))}" for item in found("17"))
    assert found("no such thing") == []
    assert served.client.get("/items?limit=51").status_code == 400
    assert (
        served.client.get("/items?limit=x").json()["error"]["message"].startswith("limit must be an integer")
    )
    assert served.client.get("/items", params={"query": "x" * 201}).status_code == 400


def test_search_sees_changes(shop_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hiersrec_sdk.serve.titles._KEPT", -1.0)
    recommender = Recommender.load(shop_bundle)
    with TestClient(create_app(recommender)) as client:
        assert client.get("/items?query=hat").json() == {"items": []}
        recommender.catalog.upsert([{"id": "new", "title": "Red Hat", "vector": [1.0] * 6}])
        assert client.get("/items?query=hat").json() == {"items": [{"item": "new", "title": "Red Hat"}]}


def test_no_page(shop_bundle: Path) -> None:
    with TestClient(create_app(shop_bundle, page=False)) as client:
        assert [client.get(path).status_code for path in ("/", "/items", "/docs")] == [404, 404, 200]


@pytest.mark.parametrize("path", ["/recommend", "/categories", "/similar", "/explain"])
def test_what_it_does_not_expect_is_told_to_the_log_alone(
    shop_bundle: Path, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(f"/srv/{SECRET} cannot be read")

    for name in ("recommend", "categories", "similar_items", "explain"):
        monkeypatch.setattr(Recommender, name, fails)
    with TestClient(create_app(Recommender.load(shop_bundle)), raise_server_exceptions=False) as client:
        answer = client.post(path, json={"session": [], "item": ""} if path == "/explain" else _least(path))
        assert answer.status_code == 500
        assert answer.json()["error"]["type"] == "InternalError"
        assert SECRET not in answer.text
        assert client.get("/readyz").status_code == 500
        assert client.get("/healthz").status_code == 200
    assert SECRET in caplog.text


def _least(path: str) -> dict[str, Any]:
    return {"item": ""} if path == "/similar" else {"session": []}


def test_a_bundle_that_somebody_writes_into_is_not_ready(shop_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / SECRET
    folder.mkdir()
    for file in shop_bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with TestClient(create_app(folder)) as client:
        content = (folder / "catalog.safetensors").read_bytes()
        (folder / "catalog.safetensors").write_bytes(content[:-4] + b"\1\2\3\4")
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["error"]) == (503, "BundleCorruptError")
        answer = client.post("/recommend", json={"session": []})
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "BundleCorruptError")
        assert SECRET not in answer.text + ready.text
        assert client.get("/healthz").status_code == 200


def test_mounted(shop_bundle: Path) -> None:
    whole = Starlette(routes=[Mount("/shop", create_app(shop_bundle))])
    with TestClient(whole) as client:  # whose lifespan is not that of the mounted app
        assert len(client.post("/shop/recommend", json={"session": [], "k": 3}).json()["items"]) == 3
        assert client.get("/shop/").status_code == 200
        assert client.get("/shop/nowhere").json()["error"]["type"] == "NotFound"


def test_mounted_without_a_feed_to_follow(shop_bundle: Path, tmp_path: Path) -> None:
    """It says so, and answers once there is one."""
    feed = tmp_path / "feed"
    feed.write_text("no feed")
    whole = Starlette(routes=[Mount("/shop", create_app(shop_bundle, token="t", feed=str(feed)))])
    with TestClient(whole) as client:
        for _ in range(2):
            for method, path in (("POST", "recommend"), ("GET", "readyz"), ("POST", "catalog/upsert")):
                answer = client.request(method, f"/shop/{path}", json={})
                assert (answer.status_code, answer.json()["error"]["type"]) == (503, "FeedCorruptError")
                assert str(tmp_path) not in answer.text
        assert client.get("/shop/healthz").status_code == 200
        feed.unlink()
        wait_for(lambda: client.get("/shop/readyz").status_code == 200)


def test_an_error_does_not_repeat_the_request(served: Served) -> None:
    answer = served.client.post("/recommend", json={"x" * 500_000: 1})
    assert answer.status_code == 400
    assert len(answer.content) < 2_000


def test_made_from_the_environment(shop_bundle: Path, tmp_path: Path) -> None:
    code = (
        "import hiersrec_sdk.serve as serve; from starlette.testclient import TestClient\n"
        "assert serve.app is serve.app\n"
        "with TestClient(serve.app) as client: print(client.get('/info').json()['max_k'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "HIERSREC_BUNDLE": str(shop_bundle), "HIERSREC_MAX_K": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "7\n"


def test_what_cannot_be_served(shop_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError):
        create_app(tmp_path / "none")
    with pytest.raises(InvalidOptionError, match="needs a recommender, or the path"):
        create_app()
    with pytest.raises(InvalidOptionError, match="no setting max_kk; there are bundle, feed, token"):
        create_app(shop_bundle, max_kk=3)
    with pytest.raises(InvalidOptionError, match="max_k must be an integer ≥ 1, got 0"):
        create_app(shop_bundle, max_k=0)
    with pytest.raises(InvalidOptionError, match="there must be a feed="):
        create_app(Recommender.load(shop_bundle), token="secret")
