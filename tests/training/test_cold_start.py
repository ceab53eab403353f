from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_export.export import export
from hiersrec_sdk import Item, Recommender
from hiersrec_training import cold_start
from hiersrec_training.cold_start import choose_bias
from hiersrec_training.config import Config
from hiersrec_training.covisitation import count_covisits
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.model import Metadata
from hiersrec_training.run import RunInfo, load_model
from hiersrec_training.train import train

Shop = tuple[Path, Path]  # data set and run


@pytest.fixture(scope="module")
def shop(
    make_dataset: Callable[..., Dataset], tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Shop:
    """A shop with more items than are recommended at once."""
    folder = tmp_path_factory.mktemp("shop")
    data = make_dataset(items=400, sessions=800)
    replace(data, train=data.train.newest(300)).save(folder / "data")  # some items have no click
    train(
        folder / "data", folder / "run", tiny_config, device="cpu", progress=False, report=lambda line: None
    )
    return folder / "data", folder / "run"


ENTRIES = st.lists(st.tuples(st.integers(-8, 8), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(entries=ENTRIES, data=st.data())
def test_the_limit_is_where_the_target_leaves_or_joins_the_best(
    entries: list[tuple[int, bool]], data: st.DataObject
) -> None:
    scores = np.array([score / 4 for score, _ in entries])
    is_cold = np.array([new for _, new in entries])
    target = data.draw(st.integers(0, len(entries) - 1))
    limit = cold_start._limit(scores, is_cold, target, True)
    for bias in (-9.0, -1.0, -0.25, 0.0, 0.5, 3.0, 9.0, *([limit] if np.isfinite(limit) else [])):
        served = np.where(is_cold, scores + bias, scores)
        hit = np.count_nonzero(served >= served[target]) <= 20
        assert hit == (bias > limit if is_cold[target] else bias < limit)
    assert cold_start._limit(scores, is_cold, target, False) == (np.inf if is_cold[target] else -np.inf)


@pytest.mark.slow
def test_the_bias_costs_what_it_may_cost(shop: Shop) -> None:
    model, info = load_model(shop[1])
    data = Dataset.load(shop[0])
    meta = Metadata.of(data, info.shape, info.config)
    covisits = count_covisits(data.train, data.items)
    found = {}
    for cost in (0.0, 0.05, 0.5):
        model.config = replace(info.config, cold_start_cost=cost)
        lines: list[str] = []
        found[cost] = choose_bias(model, meta, covisits, data.validation, lines.append)
        known, alone = found[cost]["known_recall@20"], found[cost]["known_recall@20_alone"]
        assert known >= (1 - cost) * alone
        assert f"{known:.4f} on the others" in lines[0]
    assert found[0.0]["bias"] <= found[0.05]["bias"] <= found[0.5]["bias"]
    assert found[0.0]["recall@20"] <= found[0.5]["recall@20"]
    assert 0 < found[0.0]["share"] < 0.5


def test_a_final_run_takes_over_what_a_validated_one_found(shop: Shop, tmp_path: Path) -> None:
    data, run = shop
    config = RunInfo.load(run).config
    info = train(
        data,
        tmp_path / "final",
        config,
        final=True,
        validated_by=run,
        progress=False,
        report=lambda line: None,
    )
    assert info.cold_start == RunInfo.load(run).cold_start != {}


def test_the_chosen_bias_is_exported(shop: Shop, tmp_path: Path) -> None:
    data, run = Dataset.load(shop[0]), RunInfo.load(shop[1])
    unclicked = int(np.flatnonzero(np.bincount(data.train.items, minlength=data.items) == 0)[0])
    export(shop[1], tmp_path / "bundle", report=lambda line: None)
    catalog = Recommender.load(tmp_path / "bundle").catalog
    catalog.upsert([Item("new", catalog.category(-1, 0).id)])
    for item_id in (data.item_ids[unclicked], "new"):
        assert catalog.biases(catalog.rows([item_id]))[0] == np.float32(run.cold_start["bias"])
    assert (
        f"share a cold-start bias of {run.cold_start['bias']:.2f}"
        in (tmp_path / "bundle" / "README.md").read_text()
    )


def test_where_nothing_can_be_lost_nothing_is_chosen(tiny_run: Path, tiny_data: Path) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)  # so few items that new ones push none out of the best
    meta = Metadata.of(data, info.shape, info.config)
    assert choose_bias(model, meta, count_covisits(data.train, data.items), data.validation, print) == {}


def test_where_every_session_begins_with_a_cold_item_nothing_is_chosen(shop: Shop) -> None:
    model, info = load_model(shop[1])
    data = Dataset.load(shop[0])
    covisits = count_covisits(data.train, data.items)
    drawn = np.random.default_rng(info.config.seed).random(data.items) < cold_start.SHARE
    home = int(np.flatnonzero(drawn)[0])
    offsets = np.arange(0, 303, 3)
    items = (
        np.stack([np.full(101, home), np.arange(101), np.arange(1, 102)], axis=1)[:100]
        .ravel()
        .astype(np.int32)
    )
    lines: list[str] = []
    meta = Metadata.of(data, info.shape, info.config)
    assert (
        choose_bias(model, meta, covisits, Sessions(items, offsets[:101].astype(np.int64)), lines.append)
        == {}
    )
    assert "too few" in lines[0]
