"""examples/fastapi_service.py, asked as a client asks it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from examples.fastapi_service import app
from hiersrec_sdk import Recommender

SESSION = ["item-3", "item-11", "no such item"]


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def client(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("HIERSREC_BUNDLE", str(bundle))
    with TestClient(app) as asked:
        yield asked


def test_answers_as_the_recommender(client: TestClient, bundle: Path) -> None:
    answer = client.post("/recommend", json={"session": SESSION, "k": 5, "exclude_seen": True}).json()
    expected = Recommender.load(bundle).recommend(SESSION, 5, exclude_seen=True)
    assert [(hit["item"], hit["title"]) for hit in answer["items"]] == [
        (hit.item, hit.title) for hit in expected
    ]
    assert [hit["score"] for hit in answer["items"]] == pytest.approx(expected.scores.tolist())
    assert (answer["mode"], answer["unknown_ids"]) == (expected.mode, 1)
    assert client.get("/health").json() == {"items": 48}


def test_only_what_is_in_stock(client: TestClient) -> None:
    assert client.put("/stock", json=["item-5", "item-6"]).json() == {"items": 2}
    stocked = client.post("/recommend", json={"session": SESSION, "in_stock": True}).json()["items"]
    assert {hit["item"] for hit in stocked} == {"item-5", "item-6"}
    assert len(client.post("/recommend", json={"session": SESSION}).json()["items"]) == 20


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"session": SESSION, "k": 0}, "greater than or equal to 1, at ('body', 'k')"),
        ({"session": [3]}, "InvalidItemIdError"),
        ({"session": SESSION, "max_per_category": 0}, "'max_per_category')"),
        ({"session": "item-3"}, "valid list"),
        ({"session": [True]}, "valid integer"),
        ({"session": SESSION, "exlude_seen": True}, "not permitted"),
    ],
)
def test_says_what_is_wrong(client: TestClient, asked: dict[str, object], says: str) -> None:
    answer = client.post("/recommend", json=asked)
    assert answer.status_code == 422
    assert says in answer.text


def test_the_catalog_changes_and_is_saved(client: TestClient, bundle: Path) -> None:
    new = {"id": "item-new", "category": ["left", "left.1"], "text": "word1 group1", "title": "New"}
    assert client.post("/items", json=[new]).json() == {"items": 1}
    everything = {"session": SESSION, "k": 100, "mode": "exact"}
    assert ("item-new", "New") in {
        (hit["item"], hit["title"]) for hit in client.post("/recommend", json=everything).json()["items"]
    }
    refused = client.post("/items", json=[{"id": "x", "category": "no such"}])
    assert refused.status_code == 422
    assert "there is no category 'no such'" in refused.json()["detail"]
    assert client.post("/save").json() == {"items": 49}
    assert Recommender.load(bundle).catalog.rows(["item-new"])[0] >= 0


def test_a_bundle_that_was_replaced_is_a_conflict(client: TestClient, bundle: Path) -> None:
    other = Recommender.load(bundle)
    other.catalog.remove(["item-0"])
    other.save(bundle)
    client.post("/items", json=[{"id": "item-1", "title": "One"}])
    refused = client.post("/save")
    assert refused.status_code == 409
    assert refused.json() == {"error": "BundleError"}  # no path of the server


def test_no_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HIERSREC_BUNDLE", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="none"), TestClient(app):
        pass
