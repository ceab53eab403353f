"""A bundle that takes the place of another: served from then on, unless it is broken; no change of the feed is lost."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hiersrec_sdk import Recommender
from hiersrec_sdk.catalog.feed import Follower, open_feed
from hiersrec_sdk.catalog.feed.feed import Record
from hiersrec_sdk.errors import BundleMissingError
from hiersrec_sdk.serve import App, create_app
from hiersrec_sdk.serve import reload as reload_module
from hiersrec_sdk.serve.metrics import Metrics
from hiersrec_sdk.serve.reload import Service
from tests.sdk.bundles import make_shop
from tests.sdk.serve.test_metrics import read
from tests.waiting import PATIENCE, wait_for


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_shop("string", seed=1).write(tmp_path / "bundle")


def replace(folder: Path, seed: int) -> None:
    """Put another shop in place of the one in ``folder``, by renames."""
    fresh = make_shop("string", seed=seed).write(folder.with_name(f"fresh{seed}"))
    folder.rename(folder.with_name(f"old{seed}"))
    fresh.rename(folder)


def digest_of(folder: Path) -> str:
    digest: str = Recommender.load(folder).config["sha256"]
    return digest


def test_a_renamed_folder_is_noticed(folder: Path) -> None:
    with TestClient(create_app(folder)) as client:
        before = client.get("/readyz").json()["bundle"]
        replace(folder, 2)
        wait_for(lambda: bool(client.get("/readyz").json()["bundle"] == digest_of(folder)))
        found = read(client)
        assert found["hiersrec_reloads_total loaded"] == 1
        assert found[f"hiersrec_workers {before}"] == 0
        assert found[f"hiersrec_workers {digest_of(folder)}"] == 1


def test_a_link_that_points_elsewhere_is_noticed(folder: Path) -> None:
    link = folder.with_name("current")
    link.symlink_to("bundle")
    other = make_shop("string", seed=2).write(folder.with_name("v2"))
    with TestClient(create_app(link)) as client:
        folder.with_name("next").symlink_to("v2")
        folder.with_name("next").rename(link)
        wait_for(lambda: bool(client.get("/readyz").json()["bundle"] == digest_of(other)))


def test_a_broken_bundle_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(folder)
    with TestClient(app) as client:
        before = client.get("/readyz").json()["bundle"]
        replace(folder, 2)
        graph = (folder / "model.onnx").read_bytes()
        (folder / "model.onnx").write_bytes(graph[:-1])
        wait_for(lambda: client.get("/readyz").json()["reload_error"] is not None)
        state = client.get("/readyz")
        assert state.status_code == 200
        assert (state.json()["bundle"], state.json()["reload_error"]) == (before, "BundleCorruptError")
        assert str(folder) not in state.text
        assert read(client)["hiersrec_reload_failing"] == 1
        assert len(client.post("/recommend", json={"session": ["0"], "k": 5}).json()["items"]) == 5
        # whoever was still copying has done so
        (folder / "model.onnx").write_bytes(graph)
        monkeypatch.setattr("hiersrec_sdk.serve.reload._AGAIN", 0.0)
        wait_for(lambda: bool(client.get("/readyz").json()["bundle"] == digest_of(folder)))
        assert client.get("/readyz").json()["reload_error"] is None
        assert read(client)["hiersrec_reload_failing"] == 0


def test_a_folder_that_is_gone_changes_nothing(folder: Path) -> None:
    service = Service.open(folder, "", Metrics())
    shutil.rmtree(folder)
    assert not service._is_replaced(folder)
    assert not service.reload()
    assert service.failure == "BundleMissingError"
    assert service.current.recommender.recommend(["0"], 1).items


def test_a_path_without_a_bundle_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a link that was mistyped. Not at once: there may be none between two renames."""
    app = create_app(folder)
    with TestClient(app) as client:
        monkeypatch.setattr("hiersrec_sdk.serve.reload._ABSENT", PATIENCE)
        folder.rename(folder.with_name("away"))
        time.sleep(1.5)
        assert client.get("/readyz").json()["reload_error"] is None
        monkeypatch.setattr("hiersrec_sdk.serve.reload._ABSENT", 0.0)
        wait_for(lambda: client.get("/readyz").json()["reload_error"] == "BundleMissingError")
        assert read(client)["hiersrec_reload_failing"] == 1
        assert client.post("/recommend", json={"session": ["0"], "k": 5}).status_code == 200
        folder.with_name("away").rename(folder)
        wait_for(lambda: client.get("/readyz").json()["reload_error"] is None)
        assert read(client)["hiersrec_reload_failing"] == 0


def test_what_is_wrong_at_the_start_is_raised(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError):
        Service.open(tmp_path / "none", "", Metrics())


def test_a_given_recommender_is_not_reloaded(folder: Path) -> None:
    app = create_app(Recommender.load(folder))
    with TestClient(app):
        replace(folder, 2)
        assert not app.service.reload()


def test_a_signal_that_interrupts_another(folder: Path) -> None:
    """As SIGHUP does that reaches a worker and its parent, which passes it on."""
    service = create_app(folder).service
    depth = 0

    def interrupt(frame: Any, event: str, argument: Any) -> None:
        nonlocal depth
        if depth == 0 and event in ("call", "c_call"):
            depth += 1
            service.reload_soon()
            depth -= 1

    def handle() -> None:
        sys.setprofile(interrupt)
        service.reload_soon()
        sys.setprofile(None)

    handling = threading.Thread(target=handle, daemon=True)
    handling.start()
    handling.join(PATIENCE)
    assert not handling.is_alive()
    assert service._is_woken()
    assert service._wake.empty()


def test_the_old_recommender_ends_with_its_last_call(folder: Path) -> None:
    service = Service.open(folder, "", Metrics())
    call = service.current.recommender.recommend
    old = weakref.ref(service.current.recommender)
    replace(folder, 2)
    assert service.reload()
    assert call(["0"], 1).items
    assert old() is not None
    del call
    gc.collect()
    assert old() is None


def test_the_search_goes_with_the_bundle(folder: Path) -> None:
    """It answers from the new one at once, and keeps nothing of the old one."""
    app = create_app(folder)
    gone = app.service.current.recommender.recommend([], 1)[0].item
    with TestClient(app) as client:
        assert client.get("/items", params={"query": gone}).json()["items"]
        old = weakref.ref(app.service.current.recommender.catalog.current)
        fresh = Recommender.load(folder)
        fresh.catalog.remove([gone])
        fresh.save(folder)
        del fresh
        assert app.service.reload()
        assert not client.get("/items", params={"query": gone}).json()["items"]
        found = client.get("/items", params={"query": "", "limit": 50}).json()["items"]
        assert gone not in [item["item"] for item in found]
        replace(folder, 2)
        assert app.service.reload()
        wait_for(lambda: _is_gone(old))
        assert len(app._titles._read) <= 1  # of the one that nobody has searched yet: none


def _is_gone(reference: weakref.ref[Any]) -> bool:
    gc.collect()
    return reference() is None


def test_calls_go_on_while_bundles_change(folder: Path) -> None:
    """Each answer is that of one bundle or of the other, whole."""
    other = make_shop("string", seed=2).write(folder.with_name("other"))
    session = ["0", "größe-3"]
    answers = {Recommender.load(each).recommend(session).items for each in (folder, other)}
    app = create_app(folder)
    wrong: list[object] = []
    done = threading.Event()

    def ask(client: TestClient) -> None:
        while not done.is_set():
            found = client.post("/recommend", json={"session": session}).json()
            if tuple(hit["item"] for hit in found.get("items", [])) not in answers:
                wrong.append(found)

    with TestClient(app) as client:
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            between = folder.with_name("between")
            folder.rename(between)
            other.rename(folder)
            between.rename(other)
            assert app.service.reload()
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_the_feed_is_followed_by_the_new_one(folder: Path, tmp_path: Path) -> None:
    """Changes that are published while bundles are replaced are in the one that is served, and none fails."""
    app: App = create_app(folder, token="secret", feed=str(tmp_path / "feed"))
    service = app.service
    failed: list[Exception] = []

    def publish(worker: int) -> None:
        try:
            for number in range(30):
                item = {"id": f"new-{worker}-{number}", "vector": [0.5] * 6}
                service.publish([{"upsert": item}])
        except Exception as error:
            failed.append(error)

    with TestClient(app):
        threads = [threading.Thread(target=publish, args=(worker,)) for worker in range(3)]
        for thread in threads:
            thread.start()
        served = [service.current]
        for _ in range(5):
            assert service.reload()
            served.append(service.current)
        for thread in threads:
            thread.join()
        assert not failed
        catalog = service.current.recommender.catalog
        assert catalog.current.feed is not None
        assert catalog.current.feed.position == 90
        assert len(catalog) == 60 + 90
        running = [each.follower is not None and each.follower.is_running for each in served]
        assert running == [*[False] * 5, True]


def test_a_feed_that_has_lost_changes_is_followed_after_a_reload(folder: Path, tmp_path: Path) -> None:
    """The bundle contains nothing of what was lost: it makes the changes of the log that is left."""
    feed = tmp_path / "feed"
    app = create_app(folder, token="secret", feed=str(feed))

    def change(item: str) -> Any:
        headers = {"Authorization": "Bearer secret"}
        return client.post("/catalog/remove", json={"ids": [item]}, headers=headers)

    def state() -> dict[str, Any]:
        ready = client.get("/readyz")
        assert ready.status_code == 200
        found: dict[str, Any] = ready.json()["feed"]
        return found

    with TestClient(app) as client:
        assert change("0").json() == {"position": 1}
        shutil.copy(feed, tmp_path / "older")
        assert change("1").json() == {"position": 2}
        (tmp_path / "older").replace(feed)
        wait_for(lambda: state()["error"] == "FeedLostError")
        answer = change("2")
        assert (answer.status_code, answer.json()["error"]["type"]) == (503, "FeedLostError")
        assert "send them again" in answer.json()["error"]["message"]
        wait_for(lambda: read(client)["hiersrec_feed_failing"] == 1)
        assert app.service.reload()
        assert state() == {"position": 1, "lag": 0, "rejected": 0, "error": None}
        assert change("2").json() == {"position": 2}


def test_a_feed_is_followed_again_after_a_stop(folder: Path, tmp_path: Path) -> None:
    """An app whose lifespan comes twice, as in two blocks of a test, or a server that runs twice in a notebook."""
    app = create_app(folder, token="secret", feed=str(tmp_path / "feed"))

    def follows(client: TestClient, position: int) -> bool:
        return bool(client.get("/readyz").json()["feed"]["position"] == position)

    for number in (1, 2):
        with TestClient(app, headers={"Authorization": "Bearer secret"}) as client:
            assert client.post("/catalog/remove", json={"ids": [str(number)]}).status_code == 200
            with open_feed(tmp_path / "feed") as log:
                last = log.append([{"remove": str(number + 2)}])
            wait_for(partial(follows, client, last))
    assert last == 4


def test_a_stop_does_not_wait_for_a_load(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it has loaded follows no feed."""
    monkeypatch.setattr(reload_module, "_LAST_LOAD", 0.1)
    loading, may_go_on = threading.Event(), threading.Event()
    load, found = reload_module._loaded, list[Recommender]()

    def slow(path: Path) -> Recommender:
        loading.set()
        assert may_go_on.wait(PATIENCE)
        found.append(load(path))
        return found[0]

    app = create_app(folder, feed=str(tmp_path / "feed"))
    with TestClient(app):
        before = app.service.current
        monkeypatch.setattr(reload_module, "_loaded", slow)
        app.service.reload_soon()
        assert loading.wait(PATIENCE)
    may_go_on.set()
    wait_for(lambda: not app.service.is_started)
    assert app.service.current is before
    with found[0].follow(tmp_path / "feed"):  # which another follower would forbid
        pass


def test_forked_after_it_was_made(folder: Path) -> None:
    """As under gunicorn with preload_app: the app is made once, and lives on in a child."""
    app = create_app(folder)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with TestClient(app) as client:
                good = client.post("/recommend", json={"session": ["0"], "k": 3}).status_code == 200
                replace(folder, 2)
                wait_for(lambda: bool(client.get("/readyz").json()["bundle"] == digest_of(folder)))
                status = 0 if good else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_feed_that_is_not_followed_any_more(folder: Path) -> None:
    """Requests are answered from what there is; it is said, by the kind of the error alone."""
    feed = folder.with_name("feed")
    headers = {"Authorization": "Bearer secret"}
    app = create_app(folder, token="secret", feed=str(feed))
    with TestClient(app, headers=headers, raise_server_exceptions=False) as client:

        def feed_error() -> object:
            return client.get("/readyz").json()["feed"]["error"]

        assert client.post("/catalog/remove", json={"ids": ["0"]}).status_code == 200
        assert feed_error() is None
        feed.rename(folder.with_name("kept"))
        wait_for(lambda: feed_error() == "FeedLostError")
        state = client.get("/readyz")
        assert (state.status_code, state.json()["ready"]) == (200, True)
        assert str(folder.parent) not in state.text
        refused = client.post("/catalog/remove", json={"ids": ["1"]})
        assert refused.status_code == 503
        assert str(folder.parent) not in refused.text
        wait_for(lambda: read(client)["hiersrec_feed_failing"] == 1)
        assert client.post("/recommend", json={"session": ["größe-3"], "k": 3}).status_code == 200
        # it is there again, but begins after what this replica has
        folder.with_name("kept").rename(feed)
        wait_for(lambda: feed_error() is None)
        with open_feed(feed) as log, pausing(app.service.current.follower):
            log.append([{"remove": "größe-3"}, {"remove": "größe-3"}])
            log.drop(3)
        wait_for(lambda: feed_error() == "FeedBehindError")
        assert client.get("/readyz").json()["ready"]


@contextmanager
def pausing(follower: Follower | None) -> Iterator[None]:
    """Have a follower read nothing meanwhile."""
    assert follower is not None
    reads = threading.Event()

    def read(*_: object) -> list[Record]:
        reads.set()
        time.sleep(0.05)
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follower.feed, "read", read)
        assert reads.wait(PATIENCE)
        yield
