"""A bundle whose catalogue was grown is a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.vectors.grown_bundle import moved, write_grown_bundle
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle


def test_moved() -> None:
    leaves, grown = np.array([[0, 2], [2, 2], [2, 5]]), np.array([[0, 20], [20, 20], [20, 50]])

    assert moved(np.array([[0, 2], [2, 5]]), leaves, grown).tolist() == [[0, 20], [20, 50]]
    assert moved(np.array([[0, 5]]), leaves, grown).tolist() == [[0, 50]]
    assert moved(leaves, leaves, grown).tolist() == grown.tolist()


def test_grown_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    write_grown_bundle(tmp_path / "grown", open_bundle(tiny_bundle), 500)
    small, large = Recommender.load(tiny_bundle), Recommender.load(tmp_path / "grown")

    assert len(large.catalog) == 500
    ids = small.catalog.ids(np.arange(len(small.catalog)))
    rows = large.catalog.rows(ids)
    assert (large.catalog.item_vectors[rows] == small.catalog.item_vectors).all()
    assert (large.catalog.clicks[rows] == small.catalog.clicks).all()
    leaf = small.catalog.categories_of(np.arange(len(small.catalog)))
    assert (large.catalog.categories_of(rows) == leaf).all()
    extra = [len(own.catalog.extra_rows(np.arange(len(own.catalog.ranges[-1])))) for own in (small, large)]
    assert extra[0] == extra[1] > 0
    assert len(large.recommend(list(ids[:3]), k=30)) == 30
