"""examples/streamlit_page.py, clicked through without a browser."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from hiersrec_sdk import Recommender
from tests.examples.processes import ROOT


@pytest.fixture
def page(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("HIERSREC_BUNDLE", str(tiny_bundle))
    monkeypatch.setattr("sys.argv", ["streamlit"])
    # Streamlit puts the page in its place, which every process that is spawned later would run.
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return AppTest.from_file(str(ROOT / "examples/streamlit_page.py"), default_timeout=60)


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
