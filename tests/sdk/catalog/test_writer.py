"""A catalog that changes answers as a plain Python dictionary of its items does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from hiersrec_sdk import Filter, Item, Recommender, Result, errors
from hiersrec_sdk.catalog.tree import parse_name
from hiersrec_sdk.ranking import available_backends
from tests.sdk.bundles import DIMENSION, MAX_LENGTH, SIZES, Shop, make_shop


@dataclass
class Known:
    """What the model knows of an item; ``reach``: leaves that make it a candidate; ``groups``: the categories that it
    lies in, by their whole paths; ``place``: rank among those of one score; ``origin``: the bundle's row, or None."""

    vector: NDArray[np.float32]
    bias: float
    clicks: int
    title: str | None
    reach: set[int]
    groups: set[Any]
    place: int
    origin: int | None
    user_bias: float = 0.0


@dataclass
class Model:
    """The catalog as a dictionary."""

    shop: Shop
    items: dict[Any, Known] = field(default_factory=dict)
    rows: int = 0
    new: dict[tuple[Any, ...], tuple[set[int], set[Any]]] = field(default_factory=dict)  # by path

    def __post_init__(self) -> None:
        shop = self.shop
        for row, own in enumerate(shop.ids):
            leaves = {shop.leaf_of(row), *(leaf for leaf, rows in shop.extra.items() if row in rows)}
            groups = {group for leaf in leaves for group in self.groups(leaf)}
            bias = 0.0 if shop.bias is None else float(shop.bias[row])
            title = (shop.titles[row] or None) if shop.titles is not None else None
            self.items[own] = Known(
                shop.vectors[row], bias, int(shop.clicks[row]), title, leaves, groups, row, row
            )
        self.rows = shop.items
        self.exported = dict(self.items)

    def groups(self, leaf: int) -> list[tuple[Any, ...]]:
        """The whole paths of the categories of a leaf, the top first."""
        path = self.shop.category_paths[2, leaf]
        return [path[: length + 1] for length in range(len(path))]

    def named(self, name: Any) -> list[tuple[Any, ...]]:
        """The whole paths of the categories that ``name``, an id or a path, may mean."""
        paths = [self.shop.category_paths[node] for node in self.shop.named(name)]
        if isinstance(name, tuple):
            parents = [self.shop.category_paths[node] for node in self.shop.named(name[:-1])]
            return paths or [path for path in self.new if path[-1] == name[-1] and path[:-1] in parents]
        return paths + [path for path in self.new if path[-1] == name and name not in path[:-1]]

    def holding(self, path: tuple[Any, ...]) -> tuple[set[int], set[Any]]:
        """Leaves below a category, and the categories that an item of it lies in."""
        if path in self.new:
            return self.new[path]
        leaves = {leaf for leaf in range(SIZES[2]) if self.shop.category_paths[2, leaf][: len(path)] == path}
        lower = (*path, path[-1])
        if lower in self.shop.category_paths.values():  # an item of none of the categories below
            return self.holding(lower)
        only = self.groups(min(leaves))
        return leaves, set(only if len(leaves) == 1 else only[: len(path)])

    def open(self, parent: tuple[Any, ...], own: Any) -> None:
        """A new category below one of the bundle."""
        leaves = {
            leaf for leaf in range(SIZES[2]) if self.shop.category_paths[2, leaf][: len(parent)] == parent
        }
        self.new[*parent, own] = leaves, {parent[: at + 1] for at in range(len(parent))} | {(*parent, own)}

    @property
    def new_bias(self) -> float:
        if self.shop.bias is None:
            return 0.0
        return float(np.median(self.shop.bias))

    def upsert(
        self, own: Any, vector: NDArray[np.float32] | None, where: tuple[set[int], set[Any]] | None
    ) -> None:
        known = self.items.pop(own, self.exported.get(own))
        if known is None:
            assert vector is not None
            everywhere: tuple[set[int], set[Any]] = (set(range(SIZES[2])), set())
            known = Known(vector, self.new_bias, 0, None, *everywhere, 0, None)
        elif vector is not None:
            known = replace(known, vector=vector)
        if where is not None:
            known = replace(known, reach=where[0], groups=where[1])
        self.items[own] = replace(known, place=self.rows)
        self.rows += 1

    def set_bias(self, own: Any, user_bias: float) -> None:
        known = replace(self.items[own], user_bias=user_bias)
        if known.place >= self.shop.items:  # a row of its own, which is made anew
            known = replace(known, place=self.rows)
            self.rows += 1
        self.items[own] = known

    def scores(self, session: list[Any]) -> dict[Any, float]:
        known = [self.items[own] for own in session if own in self.items]
        read = known[-MAX_LENGTH:]
        ids = [own for own in session if own in self.items][-MAX_LENGTH:]
        query = 8 * np.sum([each.vector for each in read], axis=0)
        offsets: dict[int, float] = {}
        if self.shop.covisitation is not None:
            rows = np.array([each.origin for each in read if each.origin is not None], dtype=np.int64)
            if len(rows):
                covisited, found = self.shop.covisitation.score_offsets(rows)
                offsets = dict(zip(covisited.tolist(), found.tolist(), strict=True))
        scores = {}
        for own, each in self.items.items():
            score = float(query @ each.vector) + each.bias + each.user_bias
            if self.shop.repeats is not None:
                score += sum(
                    float(self.items[clicked].vector @ self.shop.repeats) for clicked in ids if clicked == own
                )
            if each.origin is not None:
                score += offsets.get(each.origin, 0.0)
            scores[own] = score
        return scores

    def best(self, scores: dict[Any, float], among: set[Any]) -> list[Any]:
        return sorted(among, key=lambda own: (-scores[own], self.items[own].place))


def numbers(random: np.random.Generator) -> NDArray[np.float32]:
    return (random.integers(-8, 9, DIMENSION) / 8).astype(np.float32)


KINDS: dict[str, dict[str, Any]] = {
    "bare": {"full": False},
    "full": {"stages": []},
    "covisited": {"covisitation": True},
    "repeated": {"repeated": True},
    "repeated integers": {"repeated": True, "full": False},
}


@pytest.fixture(
    scope="module",
    params=[
        "covisited",
        *(pytest.param(each, marks=pytest.mark.slow) for each in KINDS if each != "covisited"),
    ],
)
def shop(request: pytest.FixtureRequest) -> Shop:
    return make_shop("string" if request.param == "covisited" else "int64", **KINDS[request.param])


@pytest.fixture(scope="module")
def bundle(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop.write(tmp_path_factory.mktemp("shop") / "bundle")


@pytest.mark.parametrize("backend", [available_backends()[0], "numpy"])
def test_it_answers_as_a_dictionary_does(shop: Shop, bundle: Path, backend: str) -> None:
    strings = shop.id_type == "string"
    strangers = [f"new-{at}" if strings else -1000 - at for at in range(8)]
    every = [*shop.ids[::3], *strangers]
    ids = st.sampled_from(every)
    paths = [*shop.category_paths.values()]
    known_categories = [*dict.fromkeys([path[-1] for path in paths]), *paths]
    parents = [path for node, path in shop.category_paths.items() if node[0] < 2]
    created = ["new", "other"] if isinstance(paths[0][0], str) else [9001, 9002]
    created += [shop.category_ids[0][1], shop.category_ids[2][5]]  # ids that others may have

    class Life(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.recommender = Recommender.load(bundle, backend=backend, verify=False)
            self.model = Model(shop)
            self.kept: list[tuple[list[Any], Result]] = []
            self.folder = TemporaryDirectory()

        @initialize()
        def prepare(self) -> None:
            self.allowed = set(every[::2])
            self.group, middle, leaf = (shop.category_paths[node] for node in ((0, 1), (1, 1), (2, 5)))
            r = self.recommender
            self.filters: list[tuple[Filter, Any]] = [
                (r.filter(allow=self.allowed), lambda own, known: own in self.allowed),
                (
                    r.filter(categories=[middle, leaf]),
                    lambda own, known: bool({middle, leaf} & known.groups),
                ),
                (
                    r.filter(exclude=shop.ids[:9], exclude_categories=[leaf]),
                    lambda own, known: own not in shop.ids[:9] and leaf not in known.groups,
                ),
            ]

        @rule(items=st.lists(st.tuples(ids, st.integers(0, 99)), min_size=1, max_size=5), data=st.data())
        def upsert(self, items: list[tuple[Any, int]], data: st.DataObject) -> None:
            seen: dict[Any, Item] = {}
            vectors: dict[Any, NDArray[np.float32] | None] = {}
            names = [*known_categories, *self.model.new, *(path[-1] for path in self.model.new)]
            for own, seed in items:
                vector = numbers(np.random.default_rng(seed))
                category: Any = data.draw(st.sampled_from([None, *names]))
                if category is not None and len(self.model.named(category)) != 1:
                    before = self.recommender.catalog.current
                    with pytest.raises(errors.AmbiguousCategoryError, match=f"^item {own!r}: "):
                        self.recommender.catalog.upsert([Item(own, category, vector=vector)])
                    assert self.recommender.catalog.current is before
                    continue
                is_known = own in self.model.items or own in self.model.exported  # which a removed one is too
                vectors[own] = None if is_known and seed % 3 == 0 else vector
                seen[own] = Item(own, category, vector=vectors[own])
            assert self.recommender.catalog.upsert(seen.values()) == len(seen)
            for own, item in seen.items():
                where: Any = item.category
                if where is not None:
                    where = self.model.holding(*self.model.named(where))
                self.model.upsert(own, vectors[own], where)

        @rule(
            own=st.sampled_from(shop.ids[::3]),
            below=st.sampled_from(created),
            parent=st.sampled_from(parents),
        )
        def open_a_category(self, own: Any, below: Any, parent: tuple[Any, ...]) -> None:
            if own not in self.model.items:
                return
            path = (*parent, below)
            found = self.model.named(path)
            if len(found) > 1:
                return
            self.recommender.catalog.move(own, list(path))
            if not found:
                self.model.open(parent, below)
            self.model.upsert(own, None, self.model.holding(*(found or [path])))

        @rule(data=st.data())
        def filter_by_a_name(self, data: st.DataObject) -> None:
            new = self.model.new
            name = data.draw(st.sampled_from([*known_categories, *new, *(path[-1] for path in new)]))
            found = self.model.named(name)
            if len(found) > 1:
                with pytest.raises(
                    errors.AmbiguousCategoryError, match=f"^categories: {len(found)} categories "
                ):
                    self.recommender.filter(categories=[name])
                return
            chosen = self.recommender.filter(categories=[name])
            rows = self.recommender.catalog.rows([*self.model.items])
            allowed = np.concatenate(
                [chosen.allows(np.arange(shop.items)), chosen.allows_delta(self.recommender.catalog.delta)]
            )
            assert {own for own, row in zip(self.model.items, rows, strict=True) if allowed[row]} == {
                own for own, known in self.model.items.items() if found[0] in known.groups
            }

        @rule(removed=st.sets(ids, max_size=4))
        def remove(self, removed: set[Any]) -> None:
            there = [own for own in removed if own in self.model.items]
            if len(there) >= len(self.model.items):
                return
            assert self.recommender.catalog.remove(removed) == len(there)
            for own in there:
                del self.model.items[own]

        @rule(own=st.lists(ids, min_size=1, max_size=3, unique=True), value=st.integers(-40, 40))
        def set_bias(self, own: list[Any], value: int) -> None:
            if not all(each in self.model.items for each in own):
                with pytest.raises(errors.UnknownItemError):
                    self.recommender.catalog.set_bias(own, 1.0)
                return
            self.recommender.catalog.set_bias(own, [value / 8] * len(own))
            for each in own:
                self.model.set_bias(each, value / 8)

        @rule(session=st.lists(ids, min_size=1, max_size=9), k=st.integers(1, 80), which=st.integers(0, 3))
        def exact(self, session: list[Any], k: int, which: int) -> None:
            model = self.model
            chosen, rule_of = (None, lambda own, known: True) if which == 3 else self.filters[which]
            found = self.recommender.recommend(session, k, mode="exact", filter=chosen)
            among = {own for own, known in model.items.items() if rule_of(own, known)}
            assert found.unknown_ids == sum(own not in model.items for own in session)
            if not any(own in model.items for own in session):
                order = sorted(among, key=lambda own: (-model.items[own].clicks, model.items[own].place))
                assert found.mode == "popular"
                assert list(found.items) == order[:k]
                return
            scores = model.scores(session)
            assert list(found.items) == model.best(scores, among)[:k]
            assert found.scores.tolist() == [scores[own] for own in found.items]
            assert [hit.title for hit in found] == [model.items[own].title for own in found.items]
            self.kept.append((session, found))
            for options in ({"threads": 2}, {"exclude_seen": True}, {"exclude": session}):
                many = self.recommender.recommend_many(
                    [session] * 3, k, mode="exact", filter=chosen, **options
                )
                alone = self.recommender.recommend(session, k, mode="exact", filter=chosen, **options)
                rest = among if "threads" in options else among - set(session)
                for each in (*many, alone):
                    assert list(each.items) == model.best(scores, rest)[:k]

        @rule(session=st.lists(ids, min_size=1, max_size=9), k=st.integers(1, 20), which=st.integers(0, 3))
        def candidates(self, session: list[Any], k: int, which: int) -> None:
            model = self.model
            if not any(own in model.items for own in session):
                return
            chosen, rule_of = (None, lambda own, known: True) if which == 3 else self.filters[which]
            found = self.recommender.recommend(session, k, candidates=0.05, filter=chosen)
            scores = model.scores(session)
            rows = {own: int(self.recommender.catalog.rows([own])[0]) for own in model.items}
            inside = {
                own for own, row in rows.items() if any(start <= row < stop for start, stop in found.ranges)
            }
            among = {own for own in inside if rule_of(own, model.items[own])}
            assert list(found.items) == model.best(scores, among)[:k]
            assert found.scores.tolist() == [scores[own] for own in found.items]
            fitting = {own for own, known in model.items.items() if rule_of(own, known)}
            assert len(found) == min(k, len(fitting))
            spans = dict(enumerate(shop.ranges[-1]))
            covisited = {rows[own] for own in session if own in rows}
            whole = {
                leaf
                for leaf, (start, stop) in spans.items()
                if stop > start and any(low <= start and stop <= high for low, high in found.ranges)
            }
            # leaves whose rows may all be there one by one, be the leaf taken or not
            single = covisited | {row for extra in shop.extra.values() for row in extra}
            origins = [
                known.origin
                for own in session
                if (known := model.items.get(own)) and known.origin is not None
            ]
            if shop.covisitation is not None and origins:
                single |= {*shop.covisitation.counts.features(np.array(origins[-MAX_LENGTH:]))[0].tolist()}
            unsure = {leaf for leaf, span in spans.items() if {*range(*span)} <= single}
            for own, known in model.items.items():
                if rows[own] >= shop.items and rows[own] not in covisited and not known.reach & unsure:
                    if known.reach & whole:
                        assert own in inside
                    elif shop.covisitation is None:
                        assert own not in inside

        @rule(own=ids, session=st.lists(ids, min_size=1, max_size=4))
        def explain(self, own: Any, session: list[Any]) -> None:
            model = self.model
            if own not in model.items or not any(each in model.items for each in session):
                return
            found = self.recommender.explain(session, own)
            scores = model.scores(session)
            assert found.score == scores[own]
            assert found.rank == 1 + sum(score > found.score for score in scores.values())
            assert math.isclose(
                sum(getattr(found.parts, name) for name in found.parts.__slots__), found.score
            )
            catalog = self.recommender.catalog
            for category in found.categories:
                node = catalog.find_category(category.path)
                assert catalog.find_category(parse_name(category.label, catalog.category_id_type)) == node
                assert shop.category_paths[node] in model.items[own].groups
            hits = self.recommender.similar_items(own, 5)
            likeness = {
                other: float(known.vector @ model.items[own].vector) for other, known in model.items.items()
            }
            assert [hit.item for hit in hits] == model.best(likeness, set(likeness) - {own})[:5]

        @rule(session=st.lists(ids, min_size=1, max_size=4), limit=st.integers(1, 3))
        def limited(self, session: list[Any], limit: int) -> None:
            if not any(own in self.model.items for own in session):
                return
            found = self.recommender.recommend(session, 30, mode="exact", max_per_category=limit)
            rows = self.recommender.catalog.rows(list(found.items))
            counts = np.unique(self.recommender.catalog.categories_of(rows), return_counts=True)[1]
            assert counts.max() <= limit

        @rule(in_place=st.booleans())
        def save_and_load(self, in_place: bool) -> None:
            folder = Path(self.folder.name)
            path = folder / ("same" if in_place else f"saved-{len(list(folder.iterdir()))}")
            self.recommender.save(path)
            self.recommender = Recommender.load(path, backend=backend)
            self.prepare()

        @invariant()
        def ids_are_not_lost(self) -> None:
            catalog = self.recommender.catalog
            assert len(catalog) == len(self.model.items)
            rows = catalog.rows(every)
            there = rows >= 0
            assert there.tolist() == [own in self.model.items for own in every]
            assert list(catalog.ids(rows[there])) == [own for own in every if own in self.model.items]

        def teardown(self) -> None:
            for session, found in self.kept:  # what was answered stays as it was
                assert [hit.item for hit in found] == list(found.items), session
            self.folder.cleanup()

    machine = Life.TestCase
    machine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
    machine().runTest()
