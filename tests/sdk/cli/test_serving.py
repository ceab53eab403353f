"""hiersrec inspect and recommend."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import hiersrec_sdk
from hiersrec_sdk import Recommender
from tests.sdk.cli.run import failed, hiersrec, passed


def test_recommend_shows_titles_and_takes_item_ids(shop: Path) -> None:
    items = pl.read_csv(shop / "shop/simulated-items.csv")
    clicked = pl.read_csv(shop / "shop/simulated-events.csv")["item"][0]
    name = items.filter(pl.col("item") == clicked)["name"][0]
    printed = passed("recommend", shop / "bundle", clicked, "-k", "3", "--mode", "exact")
    assert name in printed
    assert len([line for line in printed.splitlines() if line.strip()[:1].isdigit()]) == 3
    answer = json.loads(passed("recommend", shop / "bundle", clicked, "no-such-item", "-k", "3", "--json"))
    assert len(answer["items"]) == len(answer["titles"]) == 3
    assert answer["unknown_ids"] == 1
    assert json.loads(passed("recommend", shop / "bundle", "--json"))["mode"] == "popular"
    assert "no-such-item" in failed("recommend", shop / "bundle", "no-such-item", "--on-unknown", "error")


def test_inspect_verifies_and_describes(shop: Path, tmp_path: Path) -> None:
    printed = passed("inspect", shop / "bundle")
    assert "verified" in printed
    assert f"{json.loads((shop / 'bundle/config.json').read_text())['items']:,}" in printed
    assert "simulated-events.csv" in printed
    assert "simulated-events.csv" in (shop / "bundle/README.md").read_text()
    assert json.loads(passed("inspect", shop / "bundle", "--json"))["format"] == "hiersrec-bundle"
    assert "not a bundle" in failed("inspect", tmp_path)


@pytest.mark.filterwarnings("ignore::hiersrec_sdk.errors.MissingKernelWarning")
def test_inspect_shows_the_kernel(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = pytest.importorskip("hiersrec_sdk._kernel")
    assert f"{kernel.__file__}, {kernel.isa()} (of " in passed("inspect", shop / "bundle")
    monkeypatch.setitem(sys.modules, "hiersrec_sdk._kernel", None)
    printed = passed("inspect", shop / "bundle")
    assert (
        f"hiersrec_sdk was imported from {Path(hiersrec_sdk.__file__)}, and it has no compiled kernel"
        in printed
    )
    assert "pip install -e ." in printed


@pytest.mark.parametrize("command", ["recommend", "explain"])
def test_a_mistyped_option_is_not_taken_for_an_item(command: str, shop: Path) -> None:
    result = hiersrec(command, shop / "bundle", "item-1", "--candidatse", "0.1")
    assert result.exit_code == 2
    assert "No such option '--candidatse'" in result.stderr


def test_what_is_printed_of_a_category_is_read_back(shop: Path) -> None:
    recommender = Recommender.load(shop / "bundle")
    clicked = recommender.catalog.ids(np.arange(3))[2]
    said = failed("recommend", shop / "bundle", str(clicked), "--category", "Shoes")
    assert said == (
        "Error: categories: 2 categories are called 'Shoes'; give the path of one: "
        '["Men", "Shoes"] or ["Women", "Shoes"]\n'
    )
    answer = json.loads(
        passed(
            "recommend", shop / "bundle", str(clicked), "--category", '["Men", "Shoes"]', "-k", "9", "--json"
        )
    )
    inside = recommender.recommend([clicked], 9, categories=[("Men", "Shoes")])
    assert tuple(answer["items"]) == inside.items
    assert [tuple(hit["path"]) for hit in answer["categories"]] == [hit.path for hit in inside.categories]
    without = passed(
        "recommend",
        shop / "bundle",
        str(clicked),
        "--exclude-category",
        '["Men", "Shoes"]',
        "-k",
        "300",
        "--json",
    )
    assert not {*inside.items} & {*json.loads(without)["items"]}
    printed = passed("recommend", shop / "bundle", str(clicked)).splitlines()
    labels = [line.split("%", 1)[1].strip() for line in printed if line.startswith("category")]
    for label, hit in zip(labels, recommender.recommend([clicked]).categories, strict=True):
        found = json.loads(passed("recommend", shop / "bundle", str(clicked), "--category", label, "--json"))
        assert tuple(found["items"]) == recommender.recommend([clicked], 20, categories=[hit.path]).items
