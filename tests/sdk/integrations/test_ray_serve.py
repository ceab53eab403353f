"""Ray Serve answers what `recommend` answers: a real Ray on this machine, asked over HTTP."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from hiersrec_sdk import errors
from hiersrec_sdk.integrations.ray_serve import deployment
from tests.docs.blocks import ROOT, blocks_of
from tests.examples.processes import free_port
from tests.sdk.bundles import make_shop
from tests.sdk.integrations.asked import answers, sessions_of
from tests.sdk.integrations.conftest import Known
from tests.waiting import PATIENCE, wait_for

REPLICAS = 2
TOKEN = {"Authorization": "Bearer secret"}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


def installed() -> Any:
    """The module ``ray.serve``."""
    pytest.importorskip("msgspec", reason="needs the extra serve")
    return pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'ray[serve]'")


class Cluster:
    """A Ray with its proxy on ``port``; ``stopped`` gets a file for each replica whose service has stopped."""

    def __init__(self, serve: Any, port: int, stopped: Path) -> None:
        self.serve, self._port, self.stopped = serve, port, stopped

    @contextmanager
    def running(self, application: Any, prefix: str = "/") -> Iterator[Callable[..., tuple[int, Any]]]:
        """Deploy it, and ask it; whether the services of all replicas stop at the end is checked."""
        self.serve.run(application, route_prefix=prefix)
        root = prefix.rstrip("/")
        yield lambda path, asked=None, **headers: self._ask(root + path, asked, headers)
        replicas = self.serve.status().applications["default"].deployments["hiersrec"].replica_states
        assert replicas == {"RUNNING": REPLICAS}
        before = len([*self.stopped.iterdir()])
        self.serve.delete("default")
        assert len([*self.stopped.iterdir()]) == before + REPLICAS

    def _ask(self, path: str, asked: Any, headers: dict[str, str]) -> tuple[int, Any]:
        """Status and JSON; ``asked`` is what is posted, bytes as they are."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            body = asked if asked is None or isinstance(asked, bytes) else json.dumps(asked)
            connection.request("GET" if asked is None else "POST", path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    serve = installed()
    ray: Any = pytest.importorskip("ray")
    stopped = tmp_path_factory.mktemp("stopped")

    def tell_of_stops() -> None:
        from hiersrec_sdk.serve.reload import Service

        stop = Service.stop

        def stop_and_tell(self: Service) -> None:
            stop(self)
            (stopped / str(os.getpid())).touch()

        patch.object(Service, "stop", stop_and_tell).start()

    ray.init(
        num_cpus=REPLICAS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 << 20,
        runtime_env={"worker_process_setup_hook": tell_of_stops},
    )
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    yield Cluster(serve, port, stopped)
    serve.shutdown()
    ray.shutdown()


def by_all(
    ask: Callable[..., tuple[int, Any]], path: str, is_so: Callable[[Any], bool]
) -> Callable[[], bool]:
    """Whether twenty answers in a row are so, of whichever replica."""
    return lambda: all(is_so(ask(path)[1]) for _ in range(20))


def test_it_answers_what_recommend_answers(cluster: Cluster, known: Known) -> None:
    sessions = sessions_of(known.shop, 40)
    app = deployment(known.bundle, max_k=10, max_body_bytes=10_000).options(num_replicas=REPLICAS).bind()
    with cluster.running(app, "/shop") as ask:
        asked_with: list[dict[str, Any]] = [{}, {"exclude_seen": True, "mode": "exact"}]
        for options in asked_with:
            wanted = answers(known.recommender, sessions, **options)
            each = [ask("/recommend", {"session": one, "k": 10, **options})[1] for one in sessions]
            status, many = ask("/recommend", {"sessions": sessions, "k": 10, **options})
            assert status == 200
            for found in (each, many["results"]):
                assert [[hit["item"] for hit in one["items"]] for one in found] == wanted["items"]
                assert [[hit["score"] for hit in one["items"]] for one in found] == wanted["scores"]
                assert [one["mode"] for one in found] == wanted["mode"]
                assert [one["unknown_ids"] for one in found] == wanted["unknown_ids"]
        for asked, status, kind in (
            (b"{", 400, "InvalidJSON"),
            ({"session": [], "kk": 3}, 400, "InvalidRequest"),
            ({"session": [], "k": 11}, 400, "InvalidKError"),
            (b" " * 10_001, 413, "BodyTooLarge"),
        ):
            found, body = ask("/recommend", asked)
            assert (found, body["error"]["type"]) == (status, kind)
        assert ask("/nowhere")[0] == ask("/catalog/remove", {"ids": []})[0] == 404


def test_every_replica_follows_changes_and_new_bundles(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, other = make_shop("string").write(tmp_path / "bundle"), make_shop("string", full=False)
    monkeypatch.chdir(tmp_path)  # which is not the current folder of a replica
    app = deployment("bundle", token="secret", feed="changes").options(num_replicas=REPLICAS).bind()
    with cluster.running(app) as ask:
        assert ask("/catalog/remove", {"ids": ["0"]})[0] == 401
        status, done = ask("/catalog/remove", {"ids": ["0"]}, **TOKEN)
        assert (status, done) == (200, {"position": 1})
        wait_for(by_all(ask, "/readyz", lambda state: state["feed"]["position"] == 1), "a replica is behind")
        assert (tmp_path / "changes").is_file()
        digest = ask("/info")[1]["bundle"]
        bundle.rename(tmp_path / "old")
        other.write(tmp_path / "new").rename(bundle)
        wait_for(
            by_all(ask, "/info", lambda about: about["bundle"] != digest), "a replica serves the old one"
        )
        assert ask("/readyz")[1]["feed"]["position"] == 1


def test_the_example(cluster: Cluster, shops: dict[str, Known], monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs/how-to/serving.md"
    code = next(block.code for block in blocks_of(page) if "ray_serve" in block.code)
    monkeypatch.chdir(shops["string"].bundle.parent)
    Path("bundle").symlink_to("string")
    names: dict[str, Any] = {}
    exec(code, names)
    with cluster.running(names["app"]) as ask:
        assert len(ask("/recommend", {"session": [], "k": 3})[1]["items"]) == 3


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"max_k": 0}, errors.InvalidOptionError, "max_k must be an integer ≥ 1, got 0"),
        ({"token": None}, errors.InvalidOptionError, "token must be a text, got None"),
        (
            {"num_replicas": 2},
            errors.InvalidOptionError,
            "there is no setting num_replicas; there are bundle",
        ),
        ({"feed": "http://there"}, errors.FeedError, "a URL of redis://, not of http://"),
        ({"bundle": "nowhere"}, errors.BundleMissingError, "nowhere"),
        ({"bundle": 3}, errors.InvalidPathError, "bundle must be a string or a path object, got 3"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_deployed(
    settings: dict[str, Any], error: type[Exception], says: str, shops: dict[str, Known]
) -> None:
    installed()
    with pytest.raises(error, match=says):
        deployment(**{"bundle": shops["int64"].bundle, **settings})


@pytest.mark.parametrize("missing", ["ray.serve", "hiersrec_sdk.serve"])
def test_without_its_packages(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing != "ray.serve":
        installed()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(errors.MissingExtraError, match=rf"{missing} is missing.*hiersrec-sdk\[ray-serve\]"):
        deployment("bundle")
