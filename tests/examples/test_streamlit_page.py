"""examples/streamlit_page.py, clicked through without a browser."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.testing.v1 import AppTest
from websockets.sync.client import connect

from hiersrec_sdk import Recommender
from tests.examples.processes import ROOT, free_port, running
from tests.waiting import PATIENCE, wait_for


@pytest.fixture
def page(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("HIERSREC_BUNDLE", str(tiny_bundle))
    monkeypatch.setattr("sys.argv", ["streamlit"])
    # Streamlit puts the page in its place, which every process that is spawned later would run.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return AppTest.from_file(str(ROOT / "examples/streamlit_page.py"), default_timeout=PATIENCE)


def shown(page: AppTest) -> list[str]:
    """Ids of the items in the table."""
    assert not page.exception
    ids: list[str] = page.dataframe[0].value["id"].tolist()
    return ids


def test_a_session_is_clicked_together(page: AppTest, tiny_bundle: Path) -> None:
    recommender = Recommender.load(tiny_bundle)
    page.run()
    assert shown(page) == list(recommender.recommend([], 10).items)
    assert "most popular" in page.info[0].value
    for item in ("item-3", "item-11"):
        page.text_input[0].set_value(item.replace("-", " ").title()).run()
        page.sidebar.selectbox[0].set_value(item).run()
        page.button[0].click().run()
    assert page.query_params["session"] == ["item-3", "item-11"]
    expected = recommender.recommend(["item-3", "item-11"], 10, exclude_seen=True)
    assert shown(page) == list(expected.items)
    page.main.selectbox[0].set_value(expected[2].item).run()
    assert page.code[0].value == str(recommender.explain(["item-3", "item-11"], expected[2].item))
    page.button[1].click().run()
    assert shown(page) == list(recommender.recommend(["item-3"], 10, exclude_seen=True).items)
    page.button[2].click().run()
    assert "session" not in page.query_params


def test_the_session_is_in_the_address(page: AppTest, tiny_bundle: Path) -> None:
    page.query_params["session"] = ["item-3", "no such item"]
    page.run()
    assert shown(page) == list(
        Recommender.load(tiny_bundle).recommend(["item-3"], 10, exclude_seen=True).items
    )
    assert [text.value for text in page.sidebar.markdown] == ["1. Item 3"]


@pytest.mark.slow
def test_a_server_stops_while_pages_are_open(tiny_bundle: Path, tmp_path: Path) -> None:
    log, port = tmp_path / "log", free_port()
    arguments = ["run", "examples/streamlit_page.py", f"--server.port={port}", "--server.headless=true"]
    options = [
        "--server.address=127.0.0.1",
        "--browser.gatherUsageStats=false",
        "--global.developmentMode=false",
        "--",
        str(tiny_bundle),
    ]
    opener = build_opener(ProxyHandler({}))

    def is_up() -> bool:
        try:
            with opener.open(f"http://127.0.0.1:{port}/_stcore/health", timeout=PATIENCE) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    with running("streamlit", *arguments, *options, log=log) as server, ExitStack() as opened:
        wait_for(lambda: is_up() or server.poll() is not None, "it serves")
        assert server.poll() is None, log.read_text()
        pages = [
            opened.enter_context(connect(f"ws://127.0.0.1:{port}/_stcore/stream", proxy=None))
            for _ in range(3)
        ]
        for page in pages:
            ask = BackMsg()
            ask.rerun_script.query_string = "session=item-3"
            page.send(ask.SerializeToString())
        for page in pages:
            shown = b""
            message = ForwardMsg()
            while message.WhichOneof("type") != "script_finished":
                content = page.recv(timeout=PATIENCE)
                assert isinstance(content, bytes)
                shown += content
                message.ParseFromString(content)
            assert b"Recommended items" in shown
        os.kill(server.pid, signal.SIGTERM)
        server.wait(PATIENCE)
    assert "Traceback" not in log.read_text()
