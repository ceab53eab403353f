"""The sessions that ask, the items that are upserted, and a bundle whose catalog was grown."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.bundles import (
    examples,
    grown_bundle,
    items_to_upsert,
    leaf_ranges,
    moved,
    random_sessions,
    trained,
)
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_training.data.dataset import Dataset


def test_moved() -> None:
    leaves, grown = np.array([[0, 2], [2, 2], [2, 5]]), np.array([[0, 20], [20, 20], [20, 50]])

    assert moved(np.array([[0, 2], [2, 5]]), leaves, grown).tolist() == [[0, 20], [20, 50]]
    assert moved(np.array([[0, 5]]), leaves, grown).tolist() == [[0, 50]]
    assert moved(leaves, leaves, grown).tolist() == grown.tolist()


def test_grown_bundle(tiny_bundle: Path) -> None:
    small = Recommender.load(tiny_bundle)
    every = np.arange(len(small.catalog))
    ids = small.catalog.ids(every)
    with grown_bundle(tiny_bundle, 500) as path:
        large = Recommender.load(path)  # every table is checked
        tables, before = open_bundle(path).tables, open_bundle(tiny_bundle).tables
        assert len(large.catalog) == 500
        rows = large.catalog.rows(ids)
        assert (large.catalog.vectors(rows) == small.catalog.vectors(every)).all()
        for name in ("clicks", "item_bias", "covisitation.popularity"):
            np.testing.assert_array_equal(tables[name][rows], before[name])
        assert (large.catalog.categories_of(rows) == small.catalog.categories_of(every)).all()
        assert len(tables["extra_rows"]) == len(before["extra_rows"]) > 0
        first, later = (bundle["covisitation.offsets"] for bundle in (before, tables))
        for row, there in enumerate(rows.tolist()):
            neighbors = tables["covisitation.rows"][later[there] : later[there + 1]]
            assert (
                neighbors.tolist() == rows[before["covisitation.rows"][first[row] : first[row + 1]]].tolist()
            )
        assert later[-1] == first[-1]
        assert len(large.recommend(list(ids[:3]), k=30)) == 30
    assert not path.exists()
    with grown_bundle(tiny_bundle, 10) as path:
        assert path == tiny_bundle


def test_examples_are_prefixes_of_test_sessions(tiny_bundle: Path, tiny_data: Path) -> None:
    recommender, test = Recommender.load(tiny_bundle), Dataset.load(tiny_data).test
    lengths = [len(rows) for rows in examples(recommender, tiny_data, 10**6, 0)]
    assert len(lengths) == len(test.items) - len(test)
    assert max(lengths) == recommender.config["max_length"]
    assert {len(rows) for rows in examples(recommender, tiny_data, 5, 0, length=3)} == {3}
    leaves = [recommender.catalog.categories_of(rows) for rows in random_sessions(recommender, 4, 9, 0)]
    assert all(len({*leaf.tolist()}) == 1 and len(leaf) == 4 for leaf in leaves)


def test_items_to_upsert(tiny_bundle: Path) -> None:
    recommender = Recommender.load(tiny_bundle)
    catalog, before = recommender.catalog, len(recommender.catalog)
    assert catalog.upsert(items_to_upsert(recommender, 6)) == 6
    assert len(catalog) == before + 6
    catalog.upsert(items_to_upsert(recommender, 6, seed=1, known=True))
    assert len(catalog) == before + 6 + 3


def test_a_trained_case_has_the_scores_of_the_recommender(tiny_bundle: Path, tiny_data: Path) -> None:
    tables = open_bundle(tiny_bundle).tables
    case = trained(tiny_bundle, tiny_data, len(tables["item_vectors"]), 0.3, 4, 0)
    recommender = Recommender.load(tiny_bundle)
    rows = examples(recommender, tiny_data, 4, 0)
    assert case.bias is not None
    for session, query, ranges in zip(rows, case.queries, case.ranges, strict=True):
        found = recommender.trace(recommender.catalog.ids(session))
        np.testing.assert_array_equal(query, found.item_query)
        probable = int(found.category_logits[-1].argmax())
        assert ranges[0].tolist() == leaf_ranges(tables)[probable].tolist()
    order = np.argsort(case.vectors.sum(axis=1))
    there = np.argsort(np.asarray(tables["item_vectors"]).sum(axis=1))
    np.testing.assert_array_equal(case.vectors[order], tables["item_vectors"][there])
    np.testing.assert_array_equal(case.bias[order], tables["item_bias"][there])
