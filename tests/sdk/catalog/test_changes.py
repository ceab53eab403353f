"""New items through the item encoder, many threads at once, a kill while saving, and changes from a file."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import random
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hiersrec_sdk import Item, Recommender, errors
from hiersrec_sdk.bundle.schema import DELTA
from hiersrec_sdk.bundle.tables import read_tables, write_tables
from hiersrec_training.data.dataset import Dataset
from tests.sdk.bundles import DIMENSION, make_shop, write_config
from tests.sdk.cli.run import failed, passed
from tests.waiting import PATIENCE


@pytest.fixture
def trained(tiny_bundle: Path) -> Recommender:
    return Recommender.load(tiny_bundle)


def test_a_new_item_is_placed_by_its_metadata(
    trained: Recommender, tiny_data: Path, tiny_bundle: Path
) -> None:
    data = Dataset.load(tiny_data)
    like = 7  # a new item with the metadata of this one
    text, price = data.text[like], float(data.numbers["price"][like])
    leaf = data.tree.ids[-1][data.category[like]]
    catalog = trained.catalog
    given: dict[str, Any] = {
        "id": "new",
        "category": leaf,
        "text": text,
        "numbers": {"price": price},
        "title": "New",
    }
    assert catalog.upsert([given, Item("bare", "left")]) == 2
    assert len(catalog) == data.items + 2
    vector = catalog.vectors(catalog.rows(["new"]))[0]
    assert np.linalg.norm(vector) == pytest.approx(1)
    again = Recommender.load(tiny_bundle).catalog
    again.upsert(
        [Item("new", ["left" if str(leaf).startswith("left") else "right", leaf], text, {"price": price})]
    )
    np.testing.assert_allclose(again.vectors(again.rows(["new"]))[0], vector, atol=1e-6)
    found = trained.recommend(["item-7", "item-3"], 50, mode="exact")
    assert {"new", "bare"} <= set(found.items)
    assert found[found.items.index("new")].title == "New"
    assert trained.recommend(["new"], 3).unknown_ids == 0
    assert trained.categories(["new"])[0].probability > 0
    assert trained.explain(["item-7"], "bare").item == "bare"


def test_a_changed_item_keeps_its_vector_unless_it_is_described(trained: Recommender) -> None:
    catalog = trained.catalog
    before = catalog.vectors(catalog.rows(["item-7"]))[0]
    catalog.upsert([Item("item-7", title="Renamed")])
    np.testing.assert_array_equal(catalog.vectors(catalog.rows(["item-7"]))[0], before)
    assert catalog.title(int(catalog.rows(["item-7"])[0])) == "Renamed"
    catalog.move("item-7", "left.0")
    np.testing.assert_array_equal(catalog.vectors(catalog.rows(["item-7"]))[0], before)
    assert catalog.title(int(catalog.rows(["item-7"])[0])) == "Renamed"
    catalog.upsert([Item("item-7", text="word1 group2")])
    assert np.abs(catalog.vectors(catalog.rows(["item-7"]))[0] - before).max() > 1e-3


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"id": "x", "categoy": "left"}], "no field 'categoy'"),
        ([{"category": "left"}], "without an id"),
        (["x"], "must be an Item or a mapping"),
        ([Item("x", "nowhere")], "item 'x': there is no category 'nowhere'"),
        (
            [Item("x", ["left", "nowhere", "deeper"])],
            r"no category \[.left., .nowhere., .deeper.\].*; a new category must be the last",
        ),
        (
            [Item("x", ["left", "lost"]), Item("y", ["left", "lost", "deeper"])],
            "a new category must be the last",
        ),
        ([Item("x", ["right", "left.0", "new"])], r"no category \[.right., .left\.0., .new.\]"),
        ([Item("x", ["left", 5])], "of another type"),
        ([Item("x", [])], r"no category \[\]"),
        (
            [Item("x", ["left", "n"]), Item("y", ["right", "n"]), Item("z", "n")],
            "'z': 2 categories are called 'n'",
        ),
        ([Item("x", ["n"])], r"no category \[.n.\]"),
        ([Item("x", vector=[1.0])], "16 finite numbers, got 1$"),
        ([Item("x", vector=[float("nan")] * 16)], "16 finite numbers, got 16 that are NaN"),
        ([Item("x", vector=[3e38] * 16)], "16 finite numbers, got 16 that are NaN, infinite or too large"),
        ([Item("x", vector=cast("Any", "abc"))], "must be a list of numbers"),
        ([cast("Any", {"id": "x", "numbers": {5: 5.0}})], "numbers must map the names of columns, got 5"),
        ([Item("x", "left", numbers={"weight": 3})], "knows no number 'weight'; it was trained with price"),
        (
            [Item("x", "left", numbers={"price": cast("Any", "dear")})],
            "must be a finite number, or None, got 'dear'",
        ),
        (
            [Item("item-7", metadata_vector=[0.1] * 3)],
            "'item-7': the model was not trained with metadata_vector, but with text and numbers: leave it out",
        ),
        ([Item("item-1", title="a"), Item(5)], "position 1"),
    ],
)
def test_what_cannot_be_placed_or_encoded_changes_nothing(
    items: list[Any], message: str, trained: Recommender
) -> None:
    before = trained.catalog.current
    with pytest.raises(errors.InvalidArgumentError, match=message):
        trained.catalog.upsert(items)
    assert trained.catalog.current is before
    assert not before.has_changes
    trained.catalog.upsert([Item("x", ["left", "n"])])  # and nothing of it is remembered
    assert len(trained.catalog) == 49


def test_other_wrong_calls(trained: Recommender) -> None:
    catalog = trained.catalog
    with pytest.raises(errors.UnknownItemError):
        catalog.move("nobody", "left")
    wrong: list[Any] = [float("inf"), [1, 2], "much"]
    for values in wrong:
        with pytest.raises(errors.CatalogChangeError):
            catalog.set_bias(["item-1"], values)
    assert catalog.remove(["nobody"]) == 0
    assert catalog.upsert([]) == 0
    assert not catalog.current.has_changes
    other = Recommender.load(trained._bundle.path).filter(allow=["item-1"])
    catalog.remove(["item-2"])
    with pytest.raises(errors.InvalidFilterError):
        trained.recommend(["item-1"], filter=other)


def test_a_promoted_item_is_recommended_and_a_buried_one_is_not(trained: Recommender) -> None:
    catalog = trained.catalog
    before = trained.explain(["item-7"], "item-30")
    catalog.set_bias(["item-30"], 1000.0)
    assert trained.recommend(["item-7"], 1, mode="exact").items == ("item-30",)
    catalog.set_bias(["item-30"], -1000.0)
    assert trained.recommend(["item-7"], 48, mode="exact").items[-1] == "item-30"
    assert trained.explain(["item-7"], "item-30").parts.item_bias == pytest.approx(
        before.parts.item_bias - 1000, abs=1e-3
    )
    catalog.upsert([Item("item-30", title="Still buried")])
    assert trained.recommend(["item-7"], 48, mode="exact").items[-1] == "item-30"
    catalog.set_bias(["item-30"], 0)
    assert trained.explain(["item-7"], "item-30").score == pytest.approx(before.score)


@pytest.mark.slow
def test_readers_see_whole_snapshots_and_do_not_wait(tmp_path: Path) -> None:
    shop = make_shop("string", times=20)
    recommender = Recommender.load(shop.write(tmp_path / "bundle"))
    session, writes = shop.ids[3:6], 300
    # every write moves the user_bias of 1000 from one pair of new items to the next: always exactly one pair is on top
    vector = np.zeros(6, dtype=np.float32)
    recommender.catalog.upsert(Item(f"new-{at}", "2/5", vector=vector) for at in range(4))
    recommender.catalog.set_bias(["new-0", "new-1"], 1000.0)
    stop = False

    def read(_: int) -> int:
        calls = 0
        while not stop:
            top = recommender.recommend(
                session, 2, mode="exact" if calls % 2 else "candidates", candidates=0.9
            )
            assert set(top.items) in ({"new-0", "new-1"}, {"new-2", "new-3"}), top.items
            calls += 1
        return calls

    with ThreadPoolExecutor(16) as pool:
        readers = [pool.submit(read, at) for at in range(16)]
        try:
            for turn in range(writes):
                at = 2 * (turn % 2)
                bias = np.where(np.arange(4) // 2 == at // 2, -1.0, 1000.0)
                recommender.catalog.set_bias([f"new-{each}" for each in range(4)], bias)
                recommender.catalog.upsert([Item(f"other-{turn}", "2/2", vector=vector)])
                if turn % 10 == 9:
                    recommender.catalog.remove([f"other-{turn - 1}"])
        finally:
            stop = True
        assert all(reader.result() > 0 for reader in readers)
    assert len(recommender.catalog) == shop.items + 4 + writes - writes // 10


def save_for_ever(bundle: str, ready: Any) -> None:
    recommender = Recommender.load(bundle, verify=False)
    turn = 0
    while True:
        turn += 1
        counted = np.full(6, turn, dtype=np.float32)
        recommender.catalog.upsert([Item(-1, vector=counted), Item(-turn - 10, vector=[0.0] * 6)])
        recommender.save(bundle)
        ready.value = turn


@pytest.mark.slow
def test_a_kill_while_saving_leaves_the_old_or_the_new_bundle(tmp_path: Path) -> None:
    bundle = make_shop().write(tmp_path / "bundle")
    context = multiprocessing.get_context("fork")
    chance, turns = random.Random(0), []
    for _ in range(100):
        ready = context.Value("i", 0, lock=False)  # a child that is killed would take a lock with it
        process = context.Process(target=save_for_ever, args=(str(bundle), ready), daemon=True)
        process.start()
        while not ready.value and process.is_alive():
            time.sleep(0.0005)
        time.sleep(chance.random() * 0.05)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        recommender = Recommender.load(bundle)  # every checksum is right
        saved = recommender.catalog.vectors(recommender.catalog.rows([-1]))[0, 0]
        assert ready.value <= saved <= ready.value + 1
        turns.append(ready.value)
        assert recommender.recommend([-1], 3).unknown_ids == 0
        assert len([*tmp_path.iterdir()]) <= 2  # what earlier ones have left is removed by later ones
    assert max(turns) > 1
    recommender.save(bundle)
    assert [*tmp_path.iterdir()] == [bundle]


def test_saving(trained: Recommender, tmp_path: Path) -> None:
    catalog = trained.catalog
    trained.save(tmp_path / "same")
    assert not (tmp_path / "same" / DELTA).exists()
    catalog.upsert([Item("new", ["left", "left.new"], "word1", title="New")])
    catalog.remove(["item-3"])
    trained.save(tmp_path / "bundle")
    found = Recommender.load(tmp_path / "bundle")
    assert found.config["delta"] == {"items": 48}
    assert found.recommend(["new", "item-7"], 5).items == trained.recommend(["new", "item-7"], 5).items
    assert pickle.loads(pickle.dumps(trained)).catalog.rows(["new"])[0] > 0
    catalog.set_bias(["new"], 1.0)
    with pytest.raises(errors.CatalogChangeError, match=r"save\(\) them first"):
        pickle.dumps(trained)
    with pytest.raises(errors.BundleError, match="is not a bundle"):
        trained.save(tmp_path)
    (tmp_path / "bundle" / DELTA).write_bytes((tmp_path / "bundle" / DELTA).read_bytes()[:-1])
    with pytest.raises(errors.BundleCorruptError, match="truncated"):
        Recommender.load(tmp_path / "bundle")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["bundle", "same"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"remove": "\xff"}', "line 2 is not JSON: .*utf-8"),
        (b'{"remove": "\\ud800"}', "line 2 is not JSON"),
        (b'{"remove": ' + b"[" * 100_000, "line 2 is not JSON: .*deep"),
        (b'{"remove": ' + b"9" * 5_000 + b"}", "line 2 is not JSON: .*64 bits"),
        (b'{"set_bias": {"id": "item-5", "value": NaN}}', "line 2 is not JSON: .*NaN"),
        (b'{"set_bias": {"id": "item-5", "value": 1e999}}', "line 2 is not JSON"),
        (b'{"remove": "item-1", "remove": "item-2"}', "line 2 is not JSON: .*twice"),
        (b'{"remove": "item\0"}', "line 2 is not JSON"),
        (b'\xef\xbb\xbf{"remove": "item-2"}', "line 2 is not JSON"),
    ],
)
def test_a_line_that_is_no_plain_json_is_named(
    line: bytes, message: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    file = tmp_path / "changes.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"remove": "item-3"}\r\n' + line + b"\n")
    said = failed("catalog", "apply", tiny_bundle, file, "--out", tmp_path / "out")
    assert re.search(message, said, re.IGNORECASE)
    assert len(said) < 500
    assert not (tmp_path / "out").exists()


def test_changes_from_a_file(tiny_bundle: Path, tmp_path: Path) -> None:
    changes = [
        {"upsert": {"id": "new", "category": ["left", "left.1"], "text": "word1", "numbers": {"price": 3}}},
        {"upsert": {"id": "other", "category": "right"}},
        {"remove": "item-3"},
        {"move": {"id": "item-4", "category": "right.2"}},
        {"set_bias": {"id": "item-5", "value": 500}},
    ]
    file = tmp_path / "changes.jsonl"
    file.write_text("\n".join(map(json.dumps, changes)) + "\n\n")
    apply: list[str | Path] = ["catalog", "apply", tiny_bundle, file, "--out"]
    assert passed(*apply, tmp_path / "out").startswith(
        "2 upsert, 1 remove, 1 move, 1 set_bias; 49 items; written to"
    )
    found = Recommender.load(tmp_path / "out")
    assert found.catalog.rows(["item-3"])[0] == -1
    assert found.recommend(["item-7"], 1, mode="exact").items == ("item-5",)
    for line, message in (
        ("{", "line 6 is not JSON"),
        ('{"add": 1}', "line 6: it must be an object with one key"),
        ('{"move": {"id": "item-4"}}', "keys id and category"),
        ('{"set_bias": {"id": "nobody", "value": 1}}', "line 6: item id 'nobody'"),
        ('{"upsert": {"id": "a", "category": "nowhere"}}', "line 6: item 'a'"),
    ):
        file.write_text("\n".join(map(json.dumps, changes)) + f"\n{line}\n")
        assert message in failed(*apply, tmp_path / "not")
        assert not (tmp_path / "not").exists()


def test_a_bundle_that_is_replaced_is_read_whole(tmp_path: Path) -> None:
    bundle = make_shop().write(tmp_path / "bundle")
    context = multiprocessing.get_context("fork")
    ready = context.Value("i", 0)
    process = context.Process(target=save_for_ever, args=(str(bundle), ready), daemon=True)
    process.start()
    try:
        while not ready.value:
            time.sleep(0.001)
        for _ in range(100):
            before = ready.value
            catalog = Recommender.load(bundle).catalog
            assert before <= catalog.vectors(catalog.rows([-1]))[0, 0] <= ready.value + 1
    finally:
        process.kill()
        process.join()


def test_an_added_item_is_a_candidate_where_its_category_is(tmp_path: Path) -> None:
    shop = make_shop(full=False)
    recommender = Recommender.load(shop.write(tmp_path / "bundle"))
    leaves = dict(enumerate(shop.ranges[-1]))  # two are empty, and taken like the others
    places: dict[int, set[int]] = {}
    for leaf in leaves:
        places[-10 - leaf] = {leaf}
    middle, top = shop.category_ids[1][1], shop.category_ids[0][1]  # leaves 2 to 4, and 5 to 8
    places |= {-50: {2, 3, 4}, -51: {5, 6, 7, 8}, -52: {2, 3, 4}, -53: set(range(9))}
    vector = np.zeros(6, dtype=np.float32)
    category: dict[int, Any] = {
        own: shop.category_ids[2][next(iter(at))] for own, at in places.items() if len(at) == 1
    }
    category |= {-50: middle, -51: top, -52: [shop.category_ids[0][0], middle, 7777], -53: None}
    recommender.catalog.upsert(Item(own, category[own], vector=vector) for own in places)
    met = set()
    for row in range(shop.items):
        trace = recommender.trace([shop.ids[row]], 1, candidates=0.02)
        taken = {leaf for leaf, span in leaves.items() if list(span) in trace.ranges.tolist()}
        assert taken
        ranges = trace.result.ranges
        for own, reach in places.items():
            at = int(recommender.catalog.rows([own])[0])
            inside = any(start <= at < stop for start, stop in ranges)
            assert inside == bool(reach & taken), (own, taken)
            met.add((own, inside))
    assert len(met) > 1.5 * len(places)


def test_an_item_comes_back_as_it_was(trained: Recommender) -> None:
    catalog, session = trained.catalog, ["item-7", "item-9"]
    before = trained.explain(session, "item-8")
    catalog.remove(["item-8", "item-9"])
    assert trained.recommend(session).unknown_ids == 1
    catalog.upsert([Item("item-9"), Item("item-8")])
    after = trained.explain(session, "item-8")
    assert after.parts == before.parts
    assert after.title == before.title
    assert after.categories == before.categories


def test_the_categories_above_a_new_one_are_known(trained: Recommender) -> None:
    catalog = trained.catalog
    catalog.upsert([Item("a", ["right", "new"]), Item("b", "right"), Item("c")])
    rows = catalog.rows(["a", "b", "c", "item-1"])
    assert catalog.categories_of(rows, 0)[:3].tolist() == [1, 1, -1]
    assert len(set(catalog.categories_of(rows).tolist())) == 4
    for own, wanted in (("a", ["right"]), ("b", ["right"]), ("c", [])):
        found = trained.explain(["item-7"], own)
        assert [category.category for category in found.categories] == wanted


def test_rows_that_were_replaced_do_not_pile_up(trained: Recommender) -> None:
    catalog = trained.catalog
    chosen = trained.filter(categories=["right"], exclude=["item-2"])
    wanted = trained.recommend(["item-30"], 9, mode="exact", filter=chosen).items
    ids = [f"item-{at}" for at in range(48)]
    for _ in range(60):
        catalog.upsert(Item(own) for own in ids)
        found = trained.recommend(["item-30"], 9, mode="exact", filter=chosen)
        assert set(found.items) == set(wanted)
    assert catalog.current.stop < 48 + 2 * 48 + 1200
    assert len(catalog) == 48
    assert trained.recommend(["item-30"], 9, mode="exact", allow=["item-3"]).items == ("item-3",)


def test_a_bundle_that_was_replaced_is_neither_mixed_nor_lost(tmp_path: Path) -> None:
    one, other = make_shop(), make_shop(seed=9)
    path = one.write(tmp_path / "bundle")
    first, second = Recommender.load(path), Recommender.load(path)
    first.catalog.remove(one.ids[:2])
    first.save(path)
    first.catalog.remove(one.ids[2:3])
    first.save(path)  # its own changes are no others'
    second.catalog.remove(one.ids[5:6])
    with pytest.raises(errors.BundleError, match="replaced since it was loaded"):
        second.save(path)
    assert len(Recommender.load(path).catalog) == one.items - 3
    path.rename(tmp_path / "old")
    other.write(path)
    with pytest.raises(errors.BundleError, match="replaced since it was loaded"):
        first.save(path)
    assert len(Recommender.load(path).catalog) == other.items


def test_saving_to_a_link_replaces_what_it_leads_to(tmp_path: Path) -> None:
    shop = make_shop()
    shop.write(tmp_path / "bundle")
    (tmp_path / "current").symlink_to(tmp_path / "bundle")
    recommender = Recommender.load(tmp_path / "current")
    recommender.catalog.remove(shop.ids[:1])
    recommender.save(tmp_path / "current")
    assert (tmp_path / "current").is_symlink()
    assert len(Recommender.load(tmp_path / "bundle").catalog) == shop.items - 1
    with pytest.raises(errors.InvalidOptionError, match="path must be a string or a path object, got None"):
        recommender.save(cast("Any", None))


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("origin", lambda values: values + 10**9),
        ("origin", lambda values: values * 0 + 5),
        ("clicks", lambda values: values[:-1]),
        ("vectors", lambda values: values * np.float32("nan")),
        ("vectors", lambda values: values[:, :3].copy()),
        ("deleted", lambda values: values[:0]),
        ("deleted", lambda values: values - 10**6),
        ("placement_id", lambda values: values - 1),
        ("placement", lambda values: values + 10**6),
        ("placement.categories", lambda values: values + 99),
        ("placement.paths", lambda values: values + 99),
        ("item_ids", lambda values: values * 0),
        ("user_bias", lambda values: values.astype(np.float64)),
        ("titles.offsets", lambda values: values + 7),
        ("category_parents", lambda values: values + 50),
        ("category_parents", lambda values: values[:0]),
        ("category_ids.bytes", lambda values: values[:-1]),
    ],
)
def test_changes_that_do_not_fit_are_refused(table: str, change: Any, tmp_path: Path) -> None:
    shop = make_shop(covisitation=True)
    path = shop.write(tmp_path / "bundle")
    recommender = Recommender.load(path)
    added = Item(-7, [*shop.category_paths[1, 1], "new"], vector=[0.0] * 6, title="A")
    recommender.catalog.upsert([added, Item(shop.ids[4])])
    recommender.catalog.remove(shop.ids[8:9])
    recommender.save(path)
    tables = {name: np.array(values) for name, values in read_tables(path / DELTA).items()}
    tables[table] = change(tables[table])
    write_tables(path / DELTA, tables)
    config = json.loads((path / "config.json").read_text())
    content = (path / DELTA).read_bytes()
    config["files"][DELTA] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    write_config(path, config)
    for verify in (True, False):
        with pytest.raises(errors.BundleCorruptError, match="does not hold changes of this bundle"):
            Recommender.load(path, verify=verify)


@pytest.mark.parametrize(
    "item",
    [
        Item(2**70, vector=[0.0] * 16),
        Item("\ud800"),
        Item("x", title=cast("Any", 5)),
        Item("x", ["left", "\ud800"]),
        {"id": [1]},
        {"id": "x", "category": {"a": 1}},
        ["x"],
        {"id": "x", "numbers": 3},
    ],
)
def test_what_could_not_be_saved_is_refused(item: Any, trained: Recommender) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        trained.catalog.upsert([item])
    assert not trained.catalog.current.has_changes


def test_one_id_is_no_list_of_ids(trained: Recommender) -> None:
    calls: list[Any] = [
        trained.catalog.remove,
        trained.catalog.upsert,
        partial(trained.catalog.set_bias, values=1.0),
    ]
    for call in calls:
        with pytest.raises(errors.CatalogChangeError, match="must be a list"):
            call("item-1")
    with pytest.raises(errors.CatalogChangeError, match="no category was given"):
        trained.catalog.move("item-1", cast("Any", None))


def test_ids_of_numpy_are_plain_ones(tmp_path: Path) -> None:
    shop = make_shop(full=False)
    recommender = Recommender.load(shop.write(tmp_path / "bundle"))
    new = [np.int64(0), np.int64(100), np.int64(9999)]
    recommender.catalog.upsert([{"id": np.int64(77), "category": np.array(new), "vector": [1.0] * 6}])
    only = recommender.filter(categories=np.array([9999]))
    found = recommender.recommend([77], 5, filter=only)
    assert json.dumps(list(found.items)) == "[77]"
    assert recommender.session(np.array([77])).items == (77,)
    assert type(recommender.session(np.array([77])).items[0]) is int


def test_a_child_that_was_forked_during_a_write_can_write(tmp_path: Path) -> None:
    recommender = Recommender.load(make_shop().write(tmp_path / "bundle"))
    context = multiprocessing.get_context("fork")
    with recommender.catalog._lock:  # as in the middle of a write
        process = context.Process(target=recommender.catalog.remove, args=([0],), daemon=True)
        process.start()
        process.join(PATIENCE)
    assert process.exitcode == 0


def test_new_categories_of_one_id_are_told_apart_by_their_paths(trained: Recommender, tmp_path: Path) -> None:
    catalog = trained.catalog
    catalog.upsert([Item("a", ["left", "n"]), Item("b", ("right", "n")), Item("c", ["left", "n"])])
    catalog.upsert([Item("d", ["left", "right"])])  # below one parent, an id that stands at the top too
    chosen = trained.filter(categories=[("left", "n")])
    message = r"""2 categories are called 'n'; give the path of one: \["left", "n"\] or \["right", "n"\]$"""
    calls: list[Any] = [
        lambda: trained.filter(categories=["n"]),
        lambda: trained.recommend(["item-7"], exclude_categories=["n"]),
        lambda: catalog.move("item-1", "n"),
        lambda: catalog.upsert([Item("item-1", "n")]),
    ]
    for call in calls:
        with pytest.raises(errors.AmbiguousCategoryError, match=message):
            call()
    before = catalog.current.stop
    for _ in range(60):
        catalog.upsert(Item(f"item-{at}") for at in range(48))
    assert catalog.current.stop < before + 60 * 48 - 1000  # compacted
    trained.save(tmp_path / "bundle")
    again = Recommender.load(tmp_path / "bundle")
    for recommender, prepared in (
        (trained, chosen),
        (trained, trained.filter(categories=[["left", "n"]])),
        (again, again.filter(categories=[("left", "n")])),
    ):
        assert set(recommender.recommend(["item-7"], 50, mode="exact", filter=prepared).items) == {"a", "c"}
        below = recommender.recommend(["item-7"], 50, mode="exact", categories=["left"]).items
        assert {"a", "c", "d"} <= set(below)
        assert "b" not in below
        found = recommender.explain(["item-7"], "b").categories
        assert [(each.path, each.label) for each in found] == [(("right",), '["right"]')]
    again.catalog.move("item-1", ["right", "n"])  # is there already
    assert set(again.recommend(["item-7"], 50, mode="exact", categories=[("right", "n")]).items) == {
        "b",
        "item-1",
    }
    assert len(again.catalog.current.delta.categories) == 3


def test_biases_of_a_set_are_of_one_number(tmp_path: Path) -> None:
    """A set has no order, in which ids and values would belong to each other."""
    shop = make_shop()
    catalog = Recommender.load(shop.write(tmp_path / "bundle")).catalog
    ids = shop.ids[:3]
    before = catalog.biases(catalog.rows(ids))
    for values in ([1.0, 2.0, 3.0], np.ones(3)):
        with pytest.raises(errors.CatalogChangeError, match="which has no order"):
            catalog.set_bias(set(ids), values)
    assert not catalog.current.has_changes
    biases = dict(zip(ids, [1.0, 2.0, 3.0], strict=True))
    catalog.set_bias(biases.keys(), list(biases.values()))  # which has one
    assert (catalog.biases(catalog.rows(ids)) - before).tolist() == [1.0, 2.0, 3.0]
    catalog.set_bias({ids[0]}, [4.0])
    for value in (2, np.array(2.0)):
        catalog.set_bias(frozenset(ids), value)
        assert (catalog.biases(catalog.rows(ids)) - before).tolist() == [2.0] * 3


def test_items_without_a_leaf_category_are_limited_by_what_is_known_of_them(tmp_path: Path) -> None:
    """Those of a top category, whose number is 0, are told from those without any."""
    shop = make_shop("string", full=False)
    recommender = Recommender.load(shop.write(tmp_path / "bundle"))
    top = recommender.catalog.current.category(0, 0).path[0]
    added = [
        Item(name, category, vector=[0.0] * DIMENSION)
        for name, category in (("one", top), ("other", top), ("none", None), ("neither", None))
    ]
    recommender.catalog.upsert(added)
    recommender.catalog.set_bias([item.id for item in added], [104.0, 103.0, 102.0, 101.0])
    recommender.save(tmp_path / "saved")
    for each in (recommender, Recommender.load(tmp_path / "saved")):
        found = each.recommend(shop.ids[:1], 4, mode="exact", max_per_category=1).items
        assert found[:2] == ("one", "none")
        assert not {"other", "neither"} & set(found)
