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
from hiersrec_sdk.ranking.covisitation import CLICKS_OF, FEATURES, TABLES, Links, Wide
from tests.sdk.bundles import ITEMS, forge, make_shop

N = 7
EDGES = st.dictionaries(
    st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)),
    st.tuples(*[st.integers(0, 9)] * CLICKS_OF),
    max_size=25,
)


def links_of(edges: dict[tuple[int, int], tuple[int, ...]]) -> Links:
    ordered = sorted(edges)
    popularity = np.random.default_rng(1).random((N, 5)).astype(np.float32)
    offsets = np.searchsorted([source for source, _ in ordered], np.arange(N + 1))
    rows = np.array([target for _, target in ordered], dtype=np.int32)
    clicks = np.array([edges[edge] for edge in ordered], dtype=np.uint16).reshape(-1, CLICKS_OF)
    return Links(popularity, offsets, rows, clicks)


def by_definition(links: Links, session: list[int]) -> dict[int, list[float]]:
    """Features of every linked item, one after the other, in plain Python."""
    newest_first = session[::-1]
    near: dict[int, dict[int, Any]] = {}
    for distance, item in enumerate(newest_first[:8]):
        start, stop = links.offsets[item], links.offsets[item + 1]
        near[distance] = dict(
            zip(links.rows[start:stop].tolist(), links.clicks[start:stop].tolist(), strict=True)
        )
    linked = set(session).union(*near.values())
    found = {}
    for item in sorted(linked):
        none = [0] * CLICKS_OF
        after, before = (
            sum(0.8**distance * edges.get(item, none)[side] for distance, edges in near.items())
            for side in (0, 1)
        )
        newest = session[-1]
        steps = list(itertools.pairwise(session))
        counts = [
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
            *links.popularity[item].tolist(),
            *map(math.log1p, counts),
            since,
            len(set(session)) / len(session),
            float(links.popularity[newest, -1]),
        ]
    return found


@settings(max_examples=200, deadline=None)
@given(edges=EDGES, session=st.lists(st.integers(0, N - 1), min_size=1, max_size=12))
def test_features_are_their_definition(
    edges: dict[tuple[int, int], tuple[int, ...]], session: list[int]
) -> None:
    links = links_of(edges)
    items, features = links.features(np.array(session))
    wanted = by_definition(links, session)
    assert items.tolist() == list(wanted)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, list(wanted.values()), rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(edges=EDGES, session=st.lists(st.integers(0, N - 1), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_boosts_are_the_network_of_the_features(
    edges: dict[tuple[int, int], tuple[int, ...]], session: list[int], seed: int
) -> None:
    random = np.random.default_rng(seed)

    def numbers(*shape: int) -> NDArray[np.float32]:
        return random.standard_normal(shape).astype(np.float32)

    wide = Wide(links_of(edges), numbers(FEATURES, 4), numbers(4), numbers(5))
    items, features = wide.links.features(np.array(session))
    rows, boosts = wide.boosts(np.array(session))
    assert boosts.dtype == np.float32
    np.testing.assert_array_equal(rows, items)
    for one, boost in zip(features.astype(float), boosts, strict=True):
        hidden = [max(0.0, float(one @ wide.hidden_weight[:, at] + wide.hidden_bias[at])) for at in range(4)]
        wanted = float(wide.weight[4]) + sum(h * float(w) for h, w in zip(hidden, wide.weight, strict=False))
        assert boost == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    rows, boosts_in_numpy = wide.boosts_in_numpy(np.array(session))
    np.testing.assert_array_equal(rows, items)
    np.testing.assert_allclose(boosts, boosts_in_numpy, rtol=1e-4, atol=1e-4)


def test_many_neighbours() -> None:
    n, wide_one = 20_000, 3_000
    random = np.random.default_rng(2)
    rows = random.permutation(n)[:wide_one].astype(np.int32)
    offsets = np.full(n + 1, wide_one)
    offsets[:8] = 0  # item 7 has them all
    clicks = random.integers(0, 65_536, (wide_one, CLICKS_OF)).astype(np.uint16)
    links = Links(random.random((n, 5)).astype(np.float32), offsets, rows, clicks)
    network = (random.standard_normal(shape).astype(np.float32) for shape in ((FEATURES, 24), 24, 25))
    wide = Wide(links, *network)
    session = np.array([*random.integers(0, n, 30), 7, 3, 7])
    items, boosts = wide.boosts(session)
    wanted_items, wanted = wide.boosts_in_numpy(session)
    np.testing.assert_array_equal(items, wanted_items)
    np.testing.assert_allclose(boosts, wanted, rtol=1e-4, atol=1e-4)


def test_what_no_check_has_seen_is_passed_over() -> None:
    _kernel = pytest.importorskip("hiersrec_sdk._kernel", reason="there is no compiled extension here")
    offsets = np.array([0, 2, 1, 10**12, 4], dtype=np.int64)
    rows = np.array([-1, 10**6, 2, 1], dtype=np.int32)
    network = np.zeros((FEATURES, 2), np.float32), np.zeros(2, np.float32), np.ones(3, np.float32)
    clicks = np.ones((4, CLICKS_OF), np.uint16)
    wide = _kernel.Wide(np.ones((4, 5), np.float32), offsets, rows, clicks, *network)
    assert wide.boosts(np.array([0, 1, 2, 3]))[0].tolist() == [0, 1, 2, 3]


def test_a_wide_network_is_left_to_numpy() -> None:
    links = links_of({(0, 1): (1, 2, 3)})
    wide = Wide(links, np.ones((FEATURES, 65), np.float32), np.zeros(65, np.float32), np.ones(66, np.float32))
    rows, boosts = wide.boosts(np.array([0]))
    assert rows.tolist() == [0, 1]
    assert len(boosts) == 2


def test_tables_are_read_back(tmp_path: Path) -> None:
    shop = make_shop(wide=True)
    assert shop.wide is not None
    found = Wide.from_tables(open_bundle(shop.write(tmp_path / "bundle")).tables)
    assert found is not None
    for name, table in shop.wide.tables().items():
        np.testing.assert_array_equal(found.tables()[name], table)
    assert Wide.from_tables({}) is None


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_missing(name: str, tmp_path: Path) -> None:
    shop = make_shop(wide=True)
    tables = {table: values for table, values in shop.tensors.items() if table != name}
    with pytest.raises(BundleCorruptError, match=f"table '{name}' is missing"):
        open_bundle(forge(tmp_path / "bundle", shop.config, tables, shop.files))


@pytest.mark.parametrize("value", [-1, ITEMS])
def test_a_neighbour_that_is_no_row(value: int, tmp_path: Path) -> None:
    shop = make_shop(wide=True)
    tables = shop.tensors
    tables["covisitation.rows"] = tables["covisitation.rows"].copy()
    tables["covisitation.rows"][3] = value
    with pytest.raises(BundleCorruptError, match=r"'covisitation.rows' holds values outside \[0, 60\)"):
        open_bundle(forge(tmp_path / "bundle", shop.config, tables, shop.files))
