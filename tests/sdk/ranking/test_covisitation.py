from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.errors import BundleCorruptError
from hiersrec_sdk.ranking import available_backends, get_backend
from hiersrec_sdk.ranking.covisitation import (
    EDGE_COUNTS,
    FEATURES,
    TABLES,
    CovisitationCounts,
    CovisitationScorer,
    _log_of,
)
from tests.sdk.bundles import ITEMS, forge, make_shop

N = 7
EDGES = st.dictionaries(
    st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)),
    st.tuples(*[st.integers(0, 9)] * EDGE_COUNTS),
    max_size=25,
)


def counts_of(edges: dict[tuple[int, int], tuple[int, ...]]) -> CovisitationCounts:
    ordered = sorted(edges)
    popularity = np.random.default_rng(1).random((N, 5)).astype(np.float32)
    offsets = np.searchsorted([source for source, _ in ordered], np.arange(N + 1))
    rows = np.array([target for _, target in ordered], dtype=np.int32)
    clicks = np.array([edges[edge] for edge in ordered], dtype=np.uint16).reshape(-1, EDGE_COUNTS)
    return CovisitationCounts(popularity, offsets, rows, clicks)


def by_definition(counts: CovisitationCounts, session: list[int]) -> dict[int, list[float]]:
    """Features of every covisited item, one after the other, in plain Python."""
    newest_first = session[::-1]
    near: dict[int, dict[int, Any]] = {}
    for distance, item in enumerate(newest_first[:8]):
        start, stop = counts.offsets[item], counts.offsets[item + 1]
        near[distance] = dict(
            zip(counts.rows[start:stop].tolist(), counts.counts[start:stop].tolist(), strict=True)
        )
    covisited = set(session).union(*near.values())
    found = {}
    for item in sorted(covisited):
        none = [0] * EDGE_COUNTS
        after, before = (
            sum(0.8**distance * edges.get(item, none)[side] for distance, edges in near.items())
            for side in (0, 1)
        )
        newest = session[-1]
        steps = list(itertools.pairwise(session))
        logged = [
            after,
            before,
            *near[0].get(item, none),
            session.count(item),
            sum(a == newest and b == item for a, b in steps),
            sum(b == newest and a == item for a, b in steps),
            len(session),
            session.count(newest) - 1,
        ]
        since = math.log1p(newest_first.index(item)) if item in session else -1.0
        found[item] = [
            *counts.popularity[item].tolist(),
            *map(math.log1p, logged),
            since,
            len(set(session)) / len(session),
            float(counts.popularity[newest, -1]),
        ]
    return found


@settings(max_examples=200, deadline=None)
@given(edges=EDGES, session=st.lists(st.integers(0, N - 1), min_size=1, max_size=12))
def test_features_are_their_definition(
    edges: dict[tuple[int, int], tuple[int, ...]], session: list[int]
) -> None:
    counts = counts_of(edges)
    items, features = counts.features(np.array(session))
    wanted = by_definition(counts, session)
    assert items.tolist() == list(wanted)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, list(wanted.values()), rtol=1e-5, atol=1e-6)


BACKENDS = [get_backend(name) for name in available_backends()]


def offsets_of(
    scorer: CovisitationScorer, session: list[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows and offsets, once it is certain that every backend gives the same bits."""
    (rows, offsets), *others = (backend.covisitation(scorer)(np.array(session)) for backend in BACKENDS)
    assert rows.dtype == np.int64
    assert offsets.dtype == np.float32
    for other_rows, other_offsets in others:
        assert other_rows.dtype == np.int64
        assert other_offsets.dtype == np.float32
        np.testing.assert_array_equal(other_rows, rows)
        np.testing.assert_array_equal(other_offsets.view(np.uint32), offsets.view(np.uint32))
    return rows, offsets


def network(seed: int, hidden: int) -> tuple[NDArray[np.float32], ...]:
    random = np.random.default_rng(seed)
    shapes = (FEATURES, hidden), (hidden,), (hidden + 1,)
    weights = (random.standard_normal(shape) * 10 ** random.uniform(-2, 2) for shape in shapes)
    return tuple(weight.astype(np.float32) for weight in weights)


@settings(max_examples=200, deadline=None)
@given(
    edges=EDGES,
    session=st.lists(st.integers(0, N - 1), min_size=1, max_size=12),
    seed=st.integers(0, 99),
    hidden=st.integers(1, 9) | st.just(64),
)
def test_offsets_are_the_network_of_the_features(
    edges: dict[tuple[int, int], tuple[int, ...]], session: list[int], seed: int, hidden: int
) -> None:
    scorer = CovisitationScorer(counts_of(edges), *network(seed, hidden))
    items, features = scorer.counts.features(np.array(session))
    rows, offsets = offsets_of(scorer, session)
    np.testing.assert_array_equal(rows, items)
    hidden_units = np.maximum(features.astype(float) @ scorer.hidden_weight + scorer.hidden_bias, 0)
    terms = hidden_units * scorer.weight[:-1]
    largest = np.abs(features).astype(float) @ np.abs(scorer.hidden_weight) @ np.abs(scorer.weight[:-1])
    scale = largest.max() + np.abs(scorer.hidden_bias) @ np.abs(scorer.weight[:-1]) + abs(scorer.weight[-1])
    np.testing.assert_allclose(offsets, terms.sum(axis=1) + scorer.weight[-1], rtol=0, atol=1e-5 * scale)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_large_counts_and_many_neighbors(seed: int) -> None:
    n, many = 20_000, 3_000
    random = np.random.default_rng(seed)
    rows = random.permutation(n)[:many].astype(np.int32)
    offsets = np.full(n + 1, many)
    offsets[:8] = 0  # item 7 has them all
    counts = (65_536 ** random.random((many, EDGE_COUNTS))).astype(np.uint16)
    popularity = np.log1p(1e6 * random.random((n, 5)) ** 9).astype(np.float32)
    scorer = CovisitationScorer(CovisitationCounts(popularity, offsets, rows, counts), *network(seed, 24))
    session = random.integers(0, n, 30).tolist()
    found, _ = offsets_of(scorer, [*session, 7, 3, 7])
    assert found.tolist() == sorted({*session, 7, 3, *rows.tolist()})


@given(st.lists(st.just(0.0) | st.floats(0.125, 2**30, width=32), min_size=1))
def test_the_logarithm_is_correct_to_the_last_bit_but_one(values: list[float]) -> None:
    counts = np.array(values, np.float32)
    right = np.log1p(counts.astype(np.float64))
    np.testing.assert_allclose(_log_of(counts), right, rtol=2**-23)


def test_the_logarithm_of_every_count() -> None:
    counts = np.arange(1, 65_536 * 8)
    right = np.log1p(counts.astype(np.float64)).astype(np.float32)
    assert (_log_of(counts) == right).all()


def test_rows_and_edges_outside_the_tables_are_passed_over() -> None:
    offsets = np.array([0, 2, 1, 10**12, 4], dtype=np.int64)
    rows = np.array([-1, 10**6, 2, 1], dtype=np.int32)
    counts = CovisitationCounts(
        np.ones((4, 5), np.float32), offsets, rows, np.ones((4, EDGE_COUNTS), np.uint16)
    )
    found, _ = offsets_of(CovisitationScorer(counts, *network(0, 2)), [0, 1, 2, 3])
    assert found.tolist() == [0, 1, 2, 3]


def test_a_network_too_large_for_c_is_left_to_numpy() -> None:
    scorer = CovisitationScorer(counts_of({(0, 1): (1, 2, 3)}), *network(0, 65))
    rows, offsets = offsets_of(scorer, [0])
    assert rows.tolist() == [0, 1]
    assert len(offsets) == 2


def test_tables_are_read_back(tmp_path: Path) -> None:
    shop = make_shop(covisitation=True)
    assert shop.covisitation is not None
    found = CovisitationScorer.from_tables(open_bundle(shop.write(tmp_path / "bundle")).tables)
    assert found is not None
    for name, table in shop.covisitation.tables().items():
        np.testing.assert_array_equal(found.tables()[name], table)
    assert CovisitationScorer.from_tables({}) is None


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_missing(name: str, tmp_path: Path) -> None:
    shop = make_shop(covisitation=True)
    tables = {table: values for table, values in shop.tensors.items() if table != name}
    with pytest.raises(BundleCorruptError, match=f"table '{name}' is missing"):
        open_bundle(forge(tmp_path / "bundle", shop.config, tables, shop.files))


@pytest.mark.parametrize("value", [-1, ITEMS])
def test_a_neighbor_that_is_no_row(value: int, tmp_path: Path) -> None:
    shop = make_shop(covisitation=True)
    tables = shop.tensors
    tables["covisitation.rows"] = tables["covisitation.rows"].copy()
    tables["covisitation.rows"][3] = value
    with pytest.raises(BundleCorruptError, match=r"'covisitation.rows' has values outside \[0, 60\)"):
        open_bundle(forge(tmp_path / "bundle", shop.config, tables, shop.files))
