from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_training import model as model_module
from hiersrec_training.batches import Batches
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.model import HierSRec, Metadata, Shape
from hiersrec_training.neighbors import co_clicks


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> Dataset:
    return Dataset.load(tiny_data)


@pytest.fixture
def model(data: Dataset, tiny_config: Config) -> HierSRec:
    torch.manual_seed(1)
    model = HierSRec(Shape.of(data, tiny_config), tiny_config).eval()
    model.items.connect(co_clicks(data.train, data.items, tiny_config.neighbors, tiny_config.neighbor_window))
    for parameter in model.parameters():  # so that nothing is zero by initialisation
        torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.constant_(model.covisitation.scale, 0.75)
    return model


@pytest.fixture
def meta(data: Dataset, model: HierSRec) -> Metadata:
    return Metadata.of(data, model.shape, model.config)


def test_later_clicks_never_changes_an_earlier_state(model: HierSRec) -> None:
    x = torch.randn(2, 6, 16)
    changed = x.clone()
    changed[:, 4:] = torch.randn(2, 2, 16)
    for before, after in zip(model.session.read(x), model.session.read(changed), strict=True):
        torch.testing.assert_close(before[:, :4], after[:, :4])
        assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_item_vectors_have_length_one_and_some_are_rows_of_all(model: HierSRec, meta: Metadata) -> None:
    table = model.items.all_vectors(meta)
    torch.testing.assert_close(table.norm(dim=1), torch.ones(len(table)))
    some = torch.tensor([3, 17, 3, 0])
    torch.testing.assert_close(model.items.some_vectors(some, meta), table[some])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_item_vectors_without_gradients_are_the_same_ones(
    model: HierSRec, meta: Metadata, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_module, "ITEMS_TOGETHER", 7)
    wanted = model.items.all_vectors(meta, dtype).detach()
    with torch.no_grad():
        assert torch.equal(model.items.all_vectors(meta, dtype), wanted)


def test_gradients_of_the_two_ways_to_item_vectors_agree(model: HierSRec, meta: Metadata) -> None:
    some = torch.tensor([3, 17, 8])
    parameters = list(model.items.parameters())
    direction = torch.randn(3, 16)
    ways = (model.items.all_vectors(meta)[some], model.items.some_vectors(some, meta))
    grads = [torch.autograd.grad((way * direction).sum(), parameters) for way in ways]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_batch_is_left_out_of_the_graph_and_put_back(
    data: Dataset, tiny_config: Config, model: HierSRec
) -> None:
    before = model.items.co_clicks.clone()
    batches = Batches(data.train, 20, 40)  # whole sessions
    first, *others = batches.in_order()
    rest = [int(session) for session in np.argsort(batches.windows.length, kind="stable")[40:]]
    kept = [
        data.train[int(np.searchsorted(data.train.offsets, batches.windows.start[window]))] for window in rest
    ]
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in kept])]).astype(np.int64)
    without = co_clicks(
        Sessions(np.concatenate(kept), offsets), data.items, data.items, tiny_config.neighbor_window
    )
    expected = np.zeros((data.items, data.items), np.float32)
    np.put_along_axis(expected, without.neighbors.astype(np.int64), without.counts, axis=1)
    expected[:, 0] = [
        counts[near == 0].max(initial=0)
        for near, counts in zip(without.neighbors, without.counts, strict=True)
    ]
    with model.items.without(model.items.edges_of(first)):
        near = model.items.neighbors.long()
        found = model.items.co_clicks.clone()
        assert not torch.equal(found, before)
    there = before > 0
    wanted = torch.from_numpy(expected).gather(1, near)
    torch.testing.assert_close(found[there], wanted[there], rtol=1e-4, atol=1e-4)
    assert torch.equal(model.items.co_clicks, before)
    assert others


def test_every_input_of_an_item_matters_and_missing_ones_are_allowed(
    make_dataset: Callable[..., Dataset], tiny_config: Config
) -> None:
    data = make_dataset()
    shape = Shape.of(data, tiny_config)
    model = HierSRec(shape, tiny_config)
    meta = Metadata.of(data, shape, tiny_config)
    base = model.items.from_metadata(meta.rows(torch.tensor([1])))
    for changed in (
        replace(meta, category_path=meta.category_path.roll(7, 0)),
        replace(meta, tokens=torch.zeros_like(meta.tokens)),
        replace(meta, number_bins=torch.zeros_like(meta.number_bins)),
    ):
        assert not torch.allclose(base, model.items.from_metadata(changed.rows(torch.tensor([1]))))
    assert np.isnan(data.numbers["price"][0])
    assert meta.number_bins[0, 0] == 0
    assert data.text[0] is None
    assert not meta.tokens[0].any()
    assert torch.isfinite(model.items.from_metadata(meta)).all()


@pytest.mark.parametrize("inputs", ["id", "category text", "id numbers", "numbers category id text"])
def test_an_item_is_made_of_the_chosen_inputs_alone(
    inputs: str, make_dataset: Callable[..., Dataset], tiny_config: Config
) -> None:
    data, config = make_dataset(), replace(tiny_config, item_inputs=inputs)
    shape = Shape.of(data, config)
    model = HierSRec(shape, config)
    meta = Metadata.of(data, shape, config)
    vectors = model.items.all_vectors(meta)
    assert vectors.shape == (data.items, config.dimension)
    torch.testing.assert_close(model.items.some_vectors(torch.tensor([3, 1]), meta), vectors[[3, 1]])
    for name, changed in (
        ("category", replace(meta, category_path=meta.category_path.roll(7, 0))),
        ("text", replace(meta, tokens=torch.zeros_like(meta.tokens))),
        ("numbers", replace(meta, number_bins=torch.zeros_like(meta.number_bins))),
    ):
        assert torch.equal(model.items.all_vectors(changed), vectors) == (name not in inputs.split())


def test_items_that_lose_their_id_in_training_stand_where_new_ones_will(
    data: Dataset, meta: Metadata, tiny_config: Config
) -> None:
    encoder = HierSRec(Shape.of(data, tiny_config), replace(tiny_config, id_dropout=0.5)).items
    new = F.normalize(encoder.from_metadata(meta), dim=1)
    whole = encoder.eval().all_vectors(meta)
    for vectors in (encoder.train().all_vectors(meta), encoder.some_vectors(torch.arange(data.items), meta)):
        lost = torch.isclose(vectors, new).all(1)
        assert 0.2 < lost.float().mean() < 0.8
        torch.testing.assert_close(vectors[~lost], whole[~lost])


def test_items_without_clicks_have_an_id_in_training_alone(
    data: Dataset, meta: Metadata, tiny_config: Config
) -> None:
    encoder = HierSRec(Shape.of(data, tiny_config), tiny_config).items
    every = torch.arange(data.items)
    encoder.know_clicks(every.numpy() % 3)
    alone = F.normalize(encoder.from_metadata(meta), dim=1)
    for mode in (True, False):
        encoder.train(mode)
        table = encoder.all_vectors(meta)
        is_alone = torch.isclose(table, alone).all(1)
        assert torch.equal(is_alone, ~encoder.clicked & (not mode))
        torch.testing.assert_close(encoder.some_vectors(every, meta), table)
        with torch.no_grad():
            torch.testing.assert_close(encoder.all_vectors(meta), table)


def test_items_without_clicks_are_left_out_of_scores_but_for_a_sessions_own(
    model: HierSRec,
) -> None:
    items = len(model.items.clicked)
    model.items.know_clicks(np.arange(items) % 3)
    scores = torch.randn(4, items)
    before = scores.clone()
    own = torch.tensor([0, 1, 3 * items + 3])  # of the first session items 0 and 1, of the last one item 3
    model.hide_unclicked(scores, own)
    is_shown = model.items.clicked.repeat(4, 1)
    is_shown.view(-1)[own] = True
    assert torch.equal(scores, before.where(is_shown, torch.tensor(-torch.inf)))


def with_vectors(data: Dataset, scale: float = 1.0) -> Dataset:
    """Every fourth item has none."""
    vectors = scale * np.random.default_rng(0).standard_normal((data.items, 5)).astype(np.float32)
    vectors[::4] = 0
    return replace(data, vectors=vectors.astype(np.float32))


@pytest.mark.parametrize("inputs", ["vectors", "id category text numbers", "vectors id category"])
def test_given_vectors_are_added_where_there_are_some(
    inputs: str, make_dataset: Callable[..., Dataset], tiny_config: Config
) -> None:
    data, config = with_vectors(make_dataset()), replace(tiny_config, item_inputs=inputs)
    shape = Shape.of(data, config)
    assert shape.vectors == 5
    model = HierSRec(shape, config)
    items = model.items
    meta = Metadata.of(data, shape, config)
    with torch.no_grad():
        items.co_clicks.zero_()  # items alone, without neighbors
        table, bare = (
            items.all_vectors(meta),
            items.all_vectors(replace(meta, vectors=torch.zeros_like(meta.vectors))),
        )
    same = (table == bare).all(1).numpy()
    assert np.array_equal(
        same, np.arange(data.items) % 4 == 0 if "vectors" in inputs else np.ones(data.items, bool)
    )
    some = torch.tensor([5, 4, 5])
    torch.testing.assert_close(items.some_vectors(some, meta), table[some])


@given(st.floats(-6, 6))
@settings(max_examples=10, deadline=None)
def test_the_scale_of_given_vectors_does_not_matter(
    make_dataset: Callable[..., Dataset], tiny_config: Config, power: float
) -> None:
    tables = []
    for data in (with_vectors(make_dataset()), with_vectors(make_dataset(), 10**power)):
        torch.manual_seed(0)
        shape = Shape.of(data, tiny_config)
        model = HierSRec(shape, tiny_config)
        tables.append(model.items.from_metadata(Metadata.of(data, shape, tiny_config)))
    torch.testing.assert_close(*tables, rtol=1e-4, atol=1e-5)


def test_vectors_of_zeros_are_allowed(make_dataset: Callable[..., Dataset], tiny_config: Config) -> None:
    data = make_dataset()
    data = replace(data, vectors=np.zeros((data.items, 3), np.float32))
    shape = Shape.of(data, tiny_config)
    table = HierSRec(shape, tiny_config).items.all_vectors(Metadata.of(data, shape, tiny_config))
    assert torch.isfinite(table).all()


def test_a_shape_noted_before_there_were_vectors_has_none() -> None:
    assert Shape(items=5, categories=[1], text=False, numbers={}).vectors == 0


@pytest.mark.parametrize(
    ("category_conditioning", "reading"),
    [("all", [1, 2, 3]), ("top", [1, 2, 2]), ("leaf", [1, 1, 2]), ("none", [1, 1, 1])],
)
def test_the_item_head_reads_the_levels_that_condition_it(
    category_conditioning: str, reading: list[int], data: Dataset, tiny_config: Config
) -> None:
    config = replace(tiny_config, category_conditioning=category_conditioning)
    session = HierSRec(Shape.of(data, config), config).session
    heads = [*session.category_head, session.item_head]
    assert [head.get_parameter("weight").shape[1] // config.dimension for head in heads] == reading
    answer = session.answer(torch.randn(5, config.dimension), torch.randn(5, config.dimension))
    assert [logits.shape[1] for logits in answer.category_logits] == data.tree.sizes


def test_what_is_served_is_the_training_path_at_the_newest_click(
    model: HierSRec, meta: Metadata, data: Dataset
) -> None:
    table = model.items.all_vectors(meta)
    batch = next(Batches(data.train, 6, 32).in_order())
    x = F.embedding(batch.items, table)
    states, sums = model.session.read(x)
    lengths = batch.there.sum(1)
    rows = torch.arange(len(lengths))
    wanted = model.session.answer(states[rows, lengths - 1], sums[rows, lengths - 1])
    garbage = x + ~batch.there[..., None] * torch.randn(1)  # padding must not matter
    served = model.serve(garbage, lengths)
    torch.testing.assert_close(served.category_logits, wanted.category_logits)
    torch.testing.assert_close(served.query, 0.75 * wanted.query)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(served.repeats[row, :length], 0.75 * wanted.repeats[row, :length].flip(0))
        assert not served.repeats[row, length:].any()


def test_scores_are_cosines_over_the_temperature(model: HierSRec, meta: Metadata) -> None:
    query = model.serve(torch.randn(4, 3, 16), torch.tensor([3, 2, 1, 3])).query
    torch.testing.assert_close(query.norm(dim=1), torch.full((4,), 0.75 / model.config.temperature))


def test_the_category_prediction_conditions_what_follows(model: HierSRec) -> None:
    states, sums = torch.randn(5, 16), torch.randn(5, 16)
    before = model.session.answer(states, sums)
    with torch.no_grad():
        model.session.category_head[0].get_parameter("bias").add_(torch.randn(2) * 5)
    after = model.session.answer(states, sums)
    assert not torch.allclose(before.category_logits[1], after.category_logits[1])
    assert not torch.allclose(before.query, after.query)


def test_a_model_without_metadata_or_graph_still_works(make_dataset: Callable[..., Dataset]) -> None:
    config = Config(dimension=16, heads=2, max_length=6, neighbors=0)
    shape = Shape(items=5, categories=[1], text=False, numbers={})
    model = HierSRec(shape, config).eval()
    none = torch.zeros(5, 0, dtype=torch.int64)
    meta = Metadata(torch.zeros(5, 1, dtype=torch.int64), none, none, torch.zeros(5, 0))
    torch.testing.assert_close(model.items.all_vectors(meta), model.items.some_vectors(torch.arange(5), meta))
