"""Servers that share a change feed in Redis, as processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sdk.bundles import make_shop
from tests.sdk.catalog.feed.redis_server import redis_server
from tests.sdk.serve.servers import Server, serving
from tests.waiting import wait_for

pytest.importorskip("uvloop", reason="needs the extra serve")
pytest.importorskip("httptools", reason="needs the extra serve")

TOKEN = {"Authorization": "Bearer secret"}


@pytest.mark.slow
def test_a_change_through_one_is_served_by_the_other(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("redis", "one", "other")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[1:]:
        make_shop("string").write(folder / "bundle")
    with redis_server(folders[0]) as redis:
        options = {"HIERSREC_TOKEN": "secret", "HIERSREC_FEED": redis.url()}
        with serving(folders[1], **options) as one, serving(folders[2], **options) as other:

            def best(server: Server) -> str:
                asked = {"session": ["0"], "k": 1, "mode": "exact"}
                item: str = server.ask("/recommend", asked)[1]["items"][0]["item"]
                return item

            def wait_for_best(server: Server, item: str) -> None:
                wait_for(lambda: best(server) == item, f"{item} is not served")

            for source, target, item in ((one, other, "new"), (other, one, "newer")):
                for path, asked in (
                    ("/catalog/upsert", {"items": [{"id": item, "vector": [1.0] * 6}]}),
                    ("/catalog/bias", {"items": [{"id": item, "value": 1000.0 * len(item)}]}),
                ):
                    status, answer = source.ask(path, asked, **TOKEN)
                    assert status == 200, answer
                assert best(source) == item
                wait_for_best(target, item)
            for server in (one, other):
                state = server.ask("/readyz")[1]
                assert state["feed"] == {"position": 4, "lag": 0, "rejected": 0, "error": None}
            # without the server of the feed both go on, and say so
            redis.kill()
            wait_for(lambda: one.ask("/readyz")[1]["feed"]["error"] == "FeedError", "it is not said")
            assert one.is_ready()
            assert one.ask("/catalog/remove", {"ids": ["0"]}, **TOKEN)[0] == 503
            assert best(one) == "newer"
            redis.start()
            wait_for(
                lambda: one.ask("/catalog/remove", {"ids": ["0"]}, **TOKEN)[0] == 200, "it does not go on"
            )
            wait_for(lambda: other.ask("/readyz")[1]["feed"]["position"] == 5, "the other one does not go on")
