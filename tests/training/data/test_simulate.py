"""The simulated shop: the same from the same seed, readable by prepare, with structure to learn."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from hiersrec_sdk.errors import DataError, InvalidOptionError
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.data.prepare import prepare
from hiersrec_training.data.simulate import START, prepare_options, simulate


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "shop"
    simulate(path, items=1500, sessions=8000, seed=3, days=12)
    return path


@pytest.fixture(scope="module")
def data(shop: Path) -> Dataset:
    """As README.txt says to read it."""
    return prepare(prepare_options(shop, test_days=1), lambda line: None)


def test_items(shop: Path) -> None:
    items = pl.read_csv(shop / "simulated-items.csv")
    assert items.columns == ["item", "name", "department", "category", "subcategory", "price"]
    assert items.height == items["item"].n_unique() == 1500
    assert all(re.fullmatch(r"sku-\d{5}", item) for item in items["item"])
    assert all(re.fullmatch(r"[a-z-]+( [a-z-]+){2,4}", name) for name in items["name"])
    assert 0 < items["price"].null_count() < 500
    assert items.select((pl.col("price") > 0).all()).item()
    levels = items.drop_nulls("subcategory").select("department", "category", "subcategory").unique()
    assert levels["department"].n_unique() == 4
    assert levels.height > 30


def test_events(shop: Path) -> None:
    events = pl.read_csv(shop / "simulated-events.csv")
    assert events.columns == ["session", "item", "time", "event"]
    assert events["session"].n_unique() == 8000
    assert set(events["event"]) == {"view", "addtocart", "purchase"}
    assert events["time"].is_sorted()
    first, last = events["time"][0], events["time"][-1]
    assert first >= START
    assert START + 11 * 86_400 < last < START + 13 * 86_400
    # what is bought was in the cart, what is in the cart was seen
    rows = {
        event: set(events.filter(event=event).select("session", "item").rows())
        for event in set(events["event"])
    }
    assert rows["purchase"] < rows["addtocart"] < rows["view"]


def test_it_is_called_simulated_and_says_how_to_read_it(shop: Path, data: Dataset) -> None:
    text = (shop / "README.txt").read_text()
    assert text.startswith("SIMULATED")
    assert "hiersrec prepare simulated-events.csv --event-column event --event view" in text
    assert data.settings["levels"] == ["department", "category", "subcategory"]
    assert data.tree.sizes[0] in (4, 5)  # 5 with the unknown category
    assert data.test.example_count > 0
    assert data.title.null_count() == 0


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(tmp_path / name, items=60, sessions=50, seed=seed, days=3)
    for file in ("simulated-items.csv", "simulated-events.csv", "README.txt"):
        same, again, other = [(tmp_path / name / file).read_bytes() for name in "abc"]
        assert same == again != other


def test_popularity_is_a_power_law(data: Dataset) -> None:
    clicks = np.sort(data.clicks)[::-1]
    assert clicks[: len(clicks) // 10].sum() > 0.25 * clicks.sum()
    assert np.median(clicks) < clicks.mean()


def test_sessions_keep_to_their_intent(data: Dataset) -> None:
    leaf = data.category[data.train.items]
    session = np.repeat(np.arange(len(data.train)), data.train.lengths)
    stays = (leaf[1:] == leaf[:-1])[session[1:] == session[:-1]].mean()
    by_chance = sum((count / len(leaf)) ** 2 for count in Counter(leaf.tolist()).values())
    assert 0.6 < stays < 0.95
    assert by_chance < 0.1


def test_style_lasts_when_the_subcategory_changes(data: Dataset) -> None:
    """Colours show the style: views of one session in different subcategories share one more often than if every view
    were of another session's item of the same subcategory."""
    leaf = data.category[data.train.items]
    colour = np.array([title.split()[0] for title in data.title])[data.train.items]
    by_leaf = np.argsort(leaf, kind="stable")
    mixed = np.random.default_rng(0).permutation(len(leaf))
    stranger = np.empty_like(colour)
    stranger[by_leaf] = colour[mixed[np.argsort(leaf[mixed], kind="stable")]]
    session = np.repeat(np.arange(len(data.train)), data.train.lengths)
    pairs = (session[2:] == session[:-2]) & (leaf[2:] != leaf[:-2])
    alike = (colour[2:] == colour[:-2])[pairs].mean()
    by_chance = (stranger[2:] == colour[:-2])[pairs].mean()
    assert alike > 1.3 * by_chance


def test_neighbors_follow_each_other(data: Dataset) -> None:
    """The most frequent successor of an item comes after it far more often than its popularity tells."""
    items, lengths = data.train.items, data.train.lengths
    session = np.repeat(np.arange(len(lengths)), lengths)
    inside = (session[1:] == session[:-1]) & (items[1:] != items[:-1])
    pairs = Counter(zip(items[:-1][inside].tolist(), items[1:][inside].tolist(), strict=True))
    popularity = data.clicks / data.clicks.sum()
    leaders = [(first, second, count) for (first, second), count in pairs.most_common(50)]
    after = Counter(items[:-1][inside].tolist())
    lift = [count / after[first] / popularity[second] for first, second, count in leaders]
    assert np.median(lift) > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": 5}, "items must be an integer ≥ [0-9]+, got 5"),
        ({"sessions": 0}, "sessions must be an integer ≥ 1, got 0"),
        ({"days": 0}, "days must be an integer ≥ 1, got 0"),
        ({"seed": -1}, "seed must be an integer ≥ 0, got -1"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        simulate(tmp_path / "shop", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_smallest_shop(tmp_path: Path) -> None:
    least = 0
    with pytest.raises(InvalidOptionError) as error:
        simulate(tmp_path / "shop", items=least)
    least = int(str(error.value).partition("≥ ")[2].partition(",")[0])
    simulate(tmp_path / "shop", items=least, sessions=1, days=1)
    assert pl.read_csv(tmp_path / "shop" / "simulated-items.csv").height == least


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(self: Path, *args: Any, **options: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_up)
    with pytest.raises(DataError, match=r"shop could not be written: .*No space left"):
        simulate(tmp_path / "shop", items=100, sessions=10)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        simulate(tmp_path, items=100, sessions=10)
