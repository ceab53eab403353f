"""A shop that the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sdk.cli.run import SMALL, hiersrec, passed


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a simulated shop, and the dataset, run and bundle made from it."""
    pytest.importorskip("torch", reason="needs the extra train")
    path = tmp_path_factory.mktemp("shop")
    passed("simulate", "--out", path / "shop", "--items", "300", "--sessions", "1500", "--seed", "1")
    printed = passed(
        "prepare",
        path / "shop/simulated-events.csv",
        "--items",
        path / "shop/simulated-items.csv",
        "--event-column",
        "event",
        "--event",
        "view",
        "--category-column",
        "department",
        "--category-column",
        "category",
        "--category-column",
        "subcategory",
        "--text-column",
        "name",
        "--title-column",
        "name",
        "--number-column",
        "price",
        "--test-days",
        "3",
        "--out",
        path / "data",
    )
    assert "test" in printed
    passed("train", path / "data", "--out", path / "run", *SMALL)
    exported = hiersrec("export", path / "run", "--out", path / "bundle", "--standalone", path / "model.onnx")
    assert exported.stdout.count("agree on") == 2
    assert "preparing the model" in exported.stderr
    assert "agree on" not in exported.stderr
    assert (path / "model.onnx").is_file()
    return path
