"""A write that is interrupted, at any line, is made whole or not at all: the catalog is compared with plain Python."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from hiersrec_sdk import errors
from hiersrec_sdk.bundle import Bundle, open_bundle
from hiersrec_sdk.catalog import filters
from hiersrec_sdk.catalog.change_file import apply
from hiersrec_sdk.catalog.filters import Filter
from hiersrec_sdk.catalog.snapshot import Catalog
from hiersrec_sdk.catalog.tree import NEW
from hiersrec_sdk.catalog.writer import MutableCatalog
from hiersrec_sdk.ranking.candidates import Choice
from tests.sdk.bundles import DIMENSION, SIZES, Shop, make_shop
from tests.sdk.interruptions import Interruption, lines_of

LONG = bool(os.environ.get("HIERSREC_STRESS"))
FILES = ("writer.py", "delta.py", "change_file.py")  # that change anything
GRAINS = {"lines": (FILES, False)} | ({"every file": ((), False), "opcodes": (FILES, True)} if LONG else {})


class OutOfTimeError(Exception):
    """As Celery's soft time limit is one: an Exception, raised by a signal handler."""


ERRORS = KeyboardInterrupt, MemoryError, OutOfTimeError

SHOP = make_shop("string")
assert SHOP.bias is not None
MEDIAN_BIAS = float(np.median(SHOP.bias))  # of new items
NODES = SHOP.category_paths
PATHS = {path[-1]: path for path in NODES.values()}
HOMES = {leaf: NODES[2, leaf] for leaf in range(SIZES[2])}


@dataclass(frozen=True)
class Known:
    """What plain Python knows of an item; ``home``: ids from the top down to the category that it lies in."""

    vector: tuple[float, ...]
    title: str | None
    home: tuple[Any, ...]
    clicks: int
    bias: float
    user_bias: float = 0.0


@dataclass
class Model:
    """The catalog in plain Python."""

    items: dict[Any, Known] = field(default_factory=dict)

    @classmethod
    def of(cls, shop: Shop) -> Model:
        assert shop.bias is not None
        assert shop.titles is not None
        return cls(
            {
                own: Known(
                    tuple(shop.vectors[row].tolist()),
                    shop.titles[row] or None,
                    shop.category_paths[2, shop.leaf_of(row)],
                    int(shop.clicks[row]),
                    float(shop.bias[row]),
                )
                for row, own in enumerate(shop.ids)
            }
        )

    def copy(self) -> Model:
        return Model(dict(self.items))

    def upsert(self, *items: dict[str, Any]) -> Model:
        for each in items:
            new = Known((), None, (), 0, MEDIAN_BIAS)
            known = self.items.get(
                each["id"], EXPORTED.get(each["id"], new)
            )  # which it has again if it was removed
            if "category" in each:
                category = each["category"]
                home = PATHS[category] if isinstance(category, str) else tuple(category)
                known = replace(known, home=home)
            if "vector" in each:
                known = replace(known, vector=tuple(each["vector"]))
            if each.get("title"):
                known = replace(known, title=each["title"])
            self.items[each["id"]] = known
        return self

    def remove(self, *ids: Any) -> Model:
        for own in ids:
            self.items.pop(own, None)
        return self

    def move(self, own: Any, category: str) -> Model:
        return self.upsert({"id": own, "category": category})

    def set_bias(self, *ids: Any, value: float) -> Model:
        for own in ids:
            self.items[own] = replace(self.items[own], user_bias=value)
        return self


EXPORTED: dict[Any, Known] = Model.of(SHOP).items


def contents(catalog: Catalog) -> dict[Any, Known]:
    """All that a snapshot knows of its items, looked up by row and by id, in the columns and in their indexes."""
    tree, delta, n = catalog.tree, catalog.delta, len(catalog.base)
    rows = catalog.live_rows()
    ids = list(catalog.ids(rows))
    assert len(catalog) == len(rows) == len(set(ids))
    assert catalog.rows(ids).tolist() == rows.tolist()
    vectors, biases, clicks = catalog.vectors(rows), catalog.biases(rows), catalog.clicks_of(rows)
    leaves = catalog.categories_of(rows)
    found = {}
    for at, (row, own) in enumerate(zip(rows.tolist(), ids, strict=True)):
        if row < n:
            home = HOMES[int(leaves[at])]
            user_bias = 0.0 if catalog.base.user_bias is None else float(catalog.base.user_bias[row])
        else:
            placement = delta.placement(row - n)
            assert placement.leaf == leaves[at]
            nodes = list(enumerate(placement.path))
            new = [number for level, number in placement.categories if level == NEW]
            assert set(nodes) <= placement.categories
            home = NODES[nodes[-1]] + tuple(delta.categories.ids[number] for number in new)
            user_bias = float(delta.user_bias[row - n])
        found[own] = Known(
            tuple(vectors[at].tolist()),
            catalog.title(row),
            home,
            int(clicks[at]),
            float(biases[at]) - user_bias,
            user_bias,
        )
    added = rows[rows >= n]
    origin = catalog.origins(added)
    added, origin = added[origin >= 0], origin[origin >= 0]
    order = np.argsort(origin)
    assert np.array_equal(catalog.current_rows(origin[order]), added[order])
    every = delta.candidate_ranges(Choice(np.arange(len(tree.leaves)), tree.leaves, ()))
    assert every[:, 0].tolist() == np.flatnonzero(delta.live_mask).tolist()
    return found


class Tried:
    """A catalog with some changes, what plain Python knows of it, and a filter that has judged some of its rows."""

    def __init__(self, bundle: Bundle) -> None:
        self.catalog = MutableCatalog(Catalog.of(bundle), bundle, no_encoder)
        self.model = Model(dict(EXPORTED))
        self.filter: Filter = filters.prepare(
            self.catalog.current, categories=["0/1"], exclude=[SHOP.ids[50], "new-2"]
        )
        self.old = [(self.catalog.current, self.model.copy())]
        start = [item("new-1", "2/2"), item("new-2", "2/5"), item(SHOP.ids[50], "2/5", title="T")]
        self.catalog.upsert(start)
        self.model.upsert(*start)
        self.catalog.remove([SHOP.ids[9], "new-1"])
        self.model.remove(SHOP.ids[9], "new-1")
        assert self.filter.allows_delta(self.catalog.current.delta).tolist() == [False, False, False]
        self.old.append((self.catalog.current, self.model.copy()))

    def check(self, *models: Model) -> Model:
        """The one of ``models`` that the catalog equals."""
        now = self.catalog.current
        found = contents(now)
        equal = [model for model in models if found == model.items]
        assert equal, "the catalog is neither as before nor as after"
        allowed = self.filter.allows_delta(now.delta)
        rows = np.flatnonzero(now.delta.live_mask)
        for row, own in zip(rows.tolist(), now.delta.ids(rows), strict=True):
            inside = equal[0].items[own].home[:1] == ("0/1",) and own not in (SHOP.ids[50], "new-2")
            assert allowed[row] == inside, own
        return equal[0]

    def check_old(self) -> None:
        """Older snapshots are what they were."""
        for snapshot, model in self.old:
            assert contents(snapshot) == model.items
            assert self.filter.allows_delta(snapshot.delta).tolist() == [False] * len(snapshot.delta)


def no_encoder(*_: Any) -> Any:
    raise AssertionError("all items have vectors")


def item(own: str, category: Any, **more: Any) -> dict[str, Any]:
    vector = np.random.default_rng(sum(own.encode())).integers(-8, 9, DIMENSION) / 8
    return {"id": own, "category": category, "vector": vector.tolist(), **more}


SEVERAL = [
    item("new-3", "2/6", title="Three"),
    item("new-2", "2/8"),
    item(SHOP.ids[3], [*PATHS["1/1"], "fresh"]),
    item("new-4", [*PATHS["1/3"], "fresh too"]),
    {"id": SHOP.ids[6], "title": "Renamed"},
]
MORE = [item("last", "2/2"), item(SHOP.ids[3], "2/5"), item("new-2", [*PATHS["1/1"], "fresh"])]
LINES: list[dict[str, Any]] = [
    {"upsert": SEVERAL[0]},
    {"upsert": {"id": SHOP.ids[3], "category": "2/5"}},
    {"upsert": {"id": SHOP.ids[3], "title": "Again"}},
    {"remove": "new-3"},
    {"move": {"id": SHOP.ids[7], "category": "2/8"}},
    {"set_bias": {"id": SHOP.ids[7], "value": 2.0}},
]


def applied(model: Model, count: int) -> Model:
    """``model`` after the first ``count`` of ``LINES``."""
    for line in LINES[:count]:
        kind, value = next(iter(line.items()))
        if kind == "upsert":
            model.upsert(value)
        elif kind == "remove":
            model.remove(value)
        elif kind == "move":
            model.move(value["id"], value["category"])
        else:
            model.set_bias(value["id"], value=value["value"])
    return model


@dataclass(frozen=True)
class Write:
    call: Callable[[MutableCatalog], object]
    after: tuple[Callable[[Model], Model], ...]


WRITES = {
    "upsert": Write(lambda c: c.upsert(SEVERAL), (lambda m: m.upsert(*SEVERAL),)),
    "move": Write(lambda c: c.move("new-2", "2/8"), (lambda m: m.move("new-2", "2/8"),)),
    "move base": Write(lambda c: c.move(SHOP.ids[3], "2/8"), (lambda m: m.move(SHOP.ids[3], "2/8"),)),
    "remove": Write(
        lambda c: c.remove([SHOP.ids[3], "new-2", "nobody"]), (lambda m: m.remove(SHOP.ids[3], "new-2"),)
    ),
    "set_bias": Write(
        lambda c: c.set_bias([SHOP.ids[3], "new-2"], 4.0),
        (lambda m: m.set_bias(SHOP.ids[3], "new-2", value=4.0),),
    ),
    "file": Write(
        lambda c: apply(c, map(json.dumps, LINES)),
        tuple(partial(applied, count=count) for count in range(1, len(LINES) + 1)),
    ),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(SHOP.write(tmp_path_factory.mktemp("bundle") / "bundle"))


@pytest.mark.parametrize("grain", GRAINS)
@pytest.mark.parametrize("name", WRITES)
@pytest.mark.slow
def test_a_write_that_is_interrupted_at_any_line_is_made_whole_or_not_at_all(
    name: str, grain: str, bundle: Bundle
) -> None:
    write, (files, opcodes) = WRITES[name], GRAINS[grain]
    catalog = Tried(bundle).catalog
    count = lines_of(lambda: write.call(catalog), files, opcodes)
    assert count > 20
    outcomes = set()
    for at in range(1, count + 1, 4 if name == "file" and not LONG else 1):
        for error in ERRORS if LONG else [ERRORS[at % 3]]:
            tried = Tried(bundle)
            interruption = Interruption(at, error, files, opcodes)
            raised = interruption.during(partial(write.call, tried.catalog))
            assert isinstance(raised, error), interruption.where
            after = [change(tried.model.copy()) for change in write.after]
            try:
                model = tried.check(tried.model, *after)
                outcomes.add([tried.model, *after].index(model))
                # whatever it has left behind is in nobody's way
                tried.catalog.upsert(MORE)
                tried.catalog.set_bias(["last", SHOP.ids[30]], -1.0)
                tried.check(model.copy().upsert(*MORE).set_bias("last", SHOP.ids[30], value=-1.0))
                tried.check_old()
            except AssertionError as wrong:
                raise AssertionError(f"interrupted before {interruption.where}") from wrong
    assert outcomes == set(range(len(write.after) + 1))


@pytest.mark.slow
def test_real_signals_while_writing(bundle: Bundle) -> None:
    tried, chance = Tried(bundle), random.Random(0)
    interrupted = [0, 0]  # writes that were not made, and that were

    def interrupt(*_: Any) -> None:
        raise OutOfTimeError

    names = [*WRITES]
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while sum(interrupted) < (5_000 if LONG else 500):
            write = WRITES[chance.choice(names)]
            after = [change(tried.model.copy()) for change in write.after if "new-2" in tried.model.items]
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + chance.random() * 0.003)
                write.call(tried.catalog)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except OutOfTimeError:
                at = [tried.model, *after].index(tried.check(tried.model, *after))
                interrupted[at > 0] += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            tried = Tried(bundle) if chance.random() < 0.05 else tried
            tried.catalog.upsert(MORE)
            tried.model = tried.check(*(model.upsert(*MORE) for model in [tried.model, *after]))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert min(interrupted) > 0


@pytest.mark.slow
def test_a_write_from_a_signal_handler_inside_a_write(bundle: Bundle) -> None:
    """At any line: the one inside comes first, and both are made."""
    inside = [item("inside", "2/8"), item("new-2", "2/6"), item("category", [*PATHS["1/2"], "inner"])]
    count = lines_of(partial(WRITES["upsert"].call, Tried(bundle).catalog), FILES)

    class Handled(Interruption):
        def handle(self) -> None:
            tried.catalog.upsert(inside)

    for at in range(1, count + 1):
        tried = Tried(bundle)
        handled = Handled(at, files=FILES)
        handled.during(partial(tried.catalog.upsert, SEVERAL))
        assert handled.where is not None
        inner_first = tried.model.copy().upsert(*inside).upsert(*SEVERAL)
        inner_last = (
            tried.model.copy().upsert(*SEVERAL).upsert(*inside)
        )  # when the outer one was published already
        tried.check(inner_first, inner_last)
        tried.check_old()


def test_an_encoder_that_writes(bundle: Bundle) -> None:
    """A change in the middle of which there is another one each time ends in an error, and nothing of it is made."""

    def encode(items: Any, paths: Any) -> Any:
        tried.catalog.upsert([item("again", "2/8")])
        return np.zeros((len(items), DIMENSION), dtype=np.float32)

    tried = Tried(bundle)
    tried.catalog._encode = encode
    with pytest.raises(errors.CatalogChangeError, match="by the same thread in the middle of this change"):
        tried.catalog.upsert([{"id": "x", "category": "2/2", "text": "words"}])
    tried.check(tried.model.upsert(item("again", "2/8")))


def test_lines_before_a_broken_one_are_made_and_ids_may_come_again(bundle: Bundle) -> None:
    tried = Tried(bundle)
    lines = [*map(json.dumps, LINES[:3]), "{"]
    with pytest.raises(errors.CatalogChangeError, match="line 4 is not JSON"):
        apply(tried.catalog, lines)
    assert tried.check(applied(tried.model.copy(), 3)).items[SHOP.ids[3]].home == PATHS["2/5"]

    def broken() -> Iterator[str]:
        yield json.dumps({"upsert": item("another", "2/2")})
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        apply(tried.catalog, broken())
    assert "another" in contents(tried.catalog.current)
