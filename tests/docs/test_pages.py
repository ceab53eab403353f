"""Every block of the README, of the tutorial and of the how-to pages runs."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from tests.docs.blocks import ROOT, blocks_of, pages, run_page


def test_readme(shop: Path) -> None:
    run_page(ROOT / "README.md", shop)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_tutorial(tutorial: Path) -> None:
    """The fixture has run it: what it promises is there."""
    for name in ("shop", "data", "run", "bundle", "service.py"):
        assert (tutorial / name).exists()


@pytest.mark.parametrize("page", pages("how-to"))
@pytest.mark.slow
def test_how_to(page: Path, shop: Path) -> None:
    if page.stem == "own_data":
        _as_own_data(shop)
    run_page(page, shop)


def _as_own_data(folder: Path) -> None:
    """The simulated shop's log and item table, with the names and columns that the page speaks of."""
    events = pl.read_csv(folder / "shop/simulated-events.csv").rename(
        {"session": "visitor", "item": "product_id", "time": "ts", "event": "type"}
    )
    (folder / "events.csv.gz").write_bytes(gzip.compress(events.write_csv().encode()))
    items = pl.read_csv(folder / "shop/simulated-items.csv").rename({"item": "id", "name": "title"})
    items.write_csv(folder / "products.csv")
    for name in ("data", "run", "bundle"):
        (folder / name).rename(folder / f"tutorial-{name}")


@pytest.mark.parametrize("page", [*pages("."), *pages("how-to"), *pages("explanation"), *pages("reference")])
def test_python_parses(page: Path) -> None:
    """Blocks of pages that are not run are Python too."""
    for block in blocks_of(page):
        if block.language == "python":
            compile(block.code, f"{page}:{block.line}", "exec")
