from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_sdk.errors import RunError
from hiersrec_training import covisitation, metrics, scored_examples
from hiersrec_training.batches import Batches
from hiersrec_training.config import Config
from hiersrec_training.covisitation import RECENT, WINDOW, by_rows, count_covisits, without
from hiersrec_training.covisitation_network import CovisitationNetwork
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.examples import Windows
from hiersrec_training.model import Metadata
from hiersrec_training.run import load_model
from hiersrec_training.scored_examples import ScoredExamples, collect, features_of
from hiersrec_training.train import train
from hiersrec_training.validation import evaluate_model


def quiet(line: str) -> None:
    pass


ITEMS = 8
SESSIONS = st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9), min_size=1, max_size=12)


def as_sessions(lists: list[list[int]]) -> Sessions:
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in lists])]).astype(np.int64)
    return Sessions(np.concatenate(lists).astype(np.int32), offsets)


@settings(max_examples=100, deadline=None)
@given(sessions=SESSIONS, width=st.integers(1, ITEMS))
def test_counts_are_their_definition(sessions: list[list[int]], width: int) -> None:
    after, directly = np.zeros((ITEMS, ITEMS), int), np.zeros((ITEMS, ITEMS), int)
    for clicks in sessions:
        for (i, a), (j, b) in itertools.combinations(enumerate(clicks), 2):
            if a != b and j - i <= WINDOW:
                after[a, b] += 1
                directly[a, b] += j - i == 1
    either = after + after.T
    covisits = count_covisits(as_sessions(sessions), ITEMS, width)
    for item in range(ITEMS):
        start, stop = covisits.offsets[item : item + 2]
        best = [int(other) for other in np.lexsort((range(ITEMS), -either[item])) if either[item, other]][
            :width
        ]
        assert covisits.rows[start:stop].tolist() == best
        wanted = np.stack([after[item, best], after[best, item], directly[item, best]], axis=1)
        np.testing.assert_array_equal(covisits.counts[start:stop], wanted)
    for column, share in enumerate((*RECENT, 1.0)):
        newest = sessions[round((1 - share) * len(sessions)) :]
        counts = [sum(clicks.count(item) for clicks in newest) for item in range(ITEMS)]
        np.testing.assert_allclose(
            covisits.popularity[:, column], [math.log1p(count) for count in counts], rtol=1e-6
        )


@settings(max_examples=60, deadline=None)
@given(
    sessions=SESSIONS,
    seed=st.integers(0, 99),
    session=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9),
)
def test_rows_have_the_counts_of_their_items(
    sessions: list[list[int]], seed: int, session: list[int]
) -> None:
    covisits = count_covisits(as_sessions(sessions), ITEMS)
    order = np.random.default_rng(seed).permutation(ITEMS)  # row to item
    row = np.argsort(order)
    items, features = covisits.features(np.array(session))
    rows, again = by_rows(covisits, order).features(row[session])
    order_of_rows = np.argsort(row[items])
    np.testing.assert_array_equal(rows, row[items][order_of_rows])
    np.testing.assert_allclose(again, features[order_of_rows], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    counted=SESSIONS,
    sessions=st.lists(st.lists(st.integers(0, ITEMS - 1), min_size=2, max_size=20), min_size=1, max_size=9),
    most=st.integers(1, 20),
)
def test_features_of_many_examples_are_those_of_each(
    counted: list[list[int]], sessions: list[list[int]], most: int
) -> None:
    covisits = count_covisits(as_sessions(counted), ITEMS)
    examples = Windows.of(as_sessions(sessions), most).examples()
    keys, features = features_of(covisits, examples)
    alone = [covisits.features(prefix.astype(np.int64), np.log1p) for prefix, _ in examples]
    assert keys.tolist() == [
        number * ITEMS + item for number, (items, _) in enumerate(alone) for item in items.tolist()
    ]
    np.testing.assert_allclose(features, np.concatenate([each for _, each in alone]), rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    sessions=SESSIONS,
    removed=st.sets(st.integers(0, ITEMS - 1)),
    clicks=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=9),
)
def test_items_without_clicks_are_co_visited_with_none(
    sessions: list[list[int]], removed: set[int], clicks: list[int]
) -> None:
    covisits = count_covisits(as_sessions(sessions), ITEMS)
    left = without(covisits, np.isin(np.arange(ITEMS), [*removed]))
    for item in range(ITEMS):
        before, after = slice(*covisits.offsets[item : item + 2]), slice(*left.offsets[item : item + 2])
        kept = [row not in removed and item not in removed for row in covisits.rows[before].tolist()]
        assert left.rows[after].tolist() == covisits.rows[before][kept].tolist()
        np.testing.assert_array_equal(left.counts[after], covisits.counts[before][kept])
        np.testing.assert_array_equal(
            left.popularity[item], covisits.popularity[item] * (item not in removed)
        )
    assert set(left.features(np.array(clicks))[0].tolist()) <= {*clicks, *range(ITEMS)} - (
        removed - {*clicks}
    )


@pytest.fixture(scope="module")
def examples(tiny_run: Path, tiny_data: Path) -> ScoredExamples:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    meta = Metadata.of(data, info.shape, info.config)
    return collect(model, meta, count_covisits(data.train, data.items), data.validation)


def test_an_example_holds_the_items_that_may_come_next(examples: ScoredExamples, tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    covisits = count_covisits(data.train, data.items)
    assert len(examples) == data.validation.example_count
    at = 0
    for index in range(len(data.validation)):  # in order of time
        clicks = data.validation[index]
        for length in range(1, len(clicks)):
            entries = slice(examples.offsets[at], examples.offsets[at + 1])
            assert examples.item[entries].tolist() == list(range(data.items))  # so few that the best are all
            assert examples.item[examples.target[at]] == clicks[length]
            prefix = clicks[6 * ((length - 1) // 6) : length]  # windows of the model's length
            covisited, features = covisits.features(prefix.astype(np.int64))
            there = examples.covisited[entries]
            assert np.flatnonzero(there >= 0).tolist() == covisited.tolist()
            np.testing.assert_allclose(examples.features[there[covisited]], features, rtol=1e-3, atol=1e-3)
            at += 1


def test_unfitted_it_changes_nothing(examples: ScoredExamples, tiny_run: Path, tiny_data: Path) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    covisits = count_covisits(data.train, data.items)
    bare = covisitation.measure(None, covisits, examples, slice(None))
    model.covisitation.reset()
    assert covisitation.measure(model.covisitation, covisits, examples, slice(None)) == bare
    found = evaluate_model(model, Metadata.of(data, info.shape, info.config), Batches(data.validation, 6, 16))
    for name, value in bare.items():
        assert found[name] == pytest.approx(value, abs=1e-9)


def test_an_example_is_scored_alike_among_few_and_many_items(
    examples: ScoredExamples, tiny_run: Path, tiny_data: Path
) -> None:
    data = Dataset.load(tiny_data)
    model, _ = load_model(tiny_run)
    popularity = torch.from_numpy(count_covisits(data.train, data.items).popularity)
    more = torch.cat([popularity, torch.randn(5_000, popularity.shape[1])])
    chosen = np.arange(5)
    among_many, among_few = (
        covisitation.scores_of(model.covisitation, each, examples, chosen) for each in (more, popularity)
    )
    for found, wanted in zip(among_many, among_few, strict=True):
        torch.testing.assert_close(found, wanted)


def test_how_many_positions_are_ranked_together_changes_nothing(
    tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    meta = Metadata.of(data, info.shape, info.config)
    wanted = evaluate_model(model, meta, Batches(data.validation, 6, 16))
    monkeypatch.setattr(metrics, "SCORES_TOGETHER", 3 * data.items)
    assert metrics.ranked_together(data.items) == 3
    assert metrics.ranked_together(10 * data.items) == 1
    assert evaluate_model(model, meta, Batches(data.validation, 6, 16)) == pytest.approx(wanted, abs=1e-9)


def test_fitting_lowers_the_loss_and_repeats(examples: ScoredExamples, tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    covisits = count_covisits(data.train, data.items)
    found = []
    for _ in range(2):
        network = CovisitationNetwork()
        covisitation.fit(network, covisits, examples, slice(None), seed=3)
        assert network.fitted
        found.append(network.state_dict())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name])
    network = CovisitationNetwork()
    network.load_state_dict(found[0])
    before = covisitation.measure(None, covisits, examples, slice(None))
    assert covisitation.measure(network, covisits, examples, slice(None))["mrr@20"] > before["mrr@20"]


def test_the_served_scorer_is_the_fitted_network(examples: ScoredExamples, tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    covisits = count_covisits(data.train, data.items)
    network = CovisitationNetwork()
    covisitation.fit(network, covisits, examples, slice(None))
    served, bias = network.exported(covisits)
    session = np.array([3, 1, 3])
    items, features = covisits.features(session)
    with torch.no_grad():
        wanted = network.score_offsets(torch.from_numpy(features)).numpy()
        np.testing.assert_allclose(bias, network.item_bias(torch.from_numpy(covisits.popularity)).numpy())
    rows, offsets = served.score_offsets(session)
    np.testing.assert_array_equal(rows, items)
    np.testing.assert_allclose(offsets, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("few", ["examples", "reachable ones"])
def test_few_examples_leave_it_out(
    few: str, tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    if few == "examples":
        monkeypatch.setattr(covisitation, "LEAST_EXAMPLES", 10**6)
    else:  # as in a large catalog, after a short training

        def unreachable(*arguments: Any, **options: Any) -> ScoredExamples:
            found = collect(*arguments, **options)
            return replace(found, reachable=np.zeros_like(found.reachable))

        monkeypatch.setattr(covisitation, "collect", unreachable)
    model.covisitation.reset()
    lines: list[str] = []
    meta = Metadata.of(data, info.shape, info.config)
    assert (
        covisitation.fit_on(
            model, meta, count_covisits(data.train, data.items), data.validation, lines.append
        )
        == {}
    )
    assert not model.covisitation.fitted
    assert "too few" in lines[0]


def test_items_without_clicks_are_no_entries_but_as_targets_and_as_a_sessions_own(
    tiny_run: Path, tiny_data: Path
) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    clicks = np.arange(data.items) % 3
    model.items.know_clicks(clicks)
    covisits = covisitation.without(count_covisits(data.train, data.items), clicks == 0)
    meta = Metadata.of(data, info.shape, info.config)
    examples = collect(model, meta, covisits, data.validation)
    entry = np.arange(len(examples.item))
    is_target = np.isin(entry, examples.target)
    is_own, is_clicked = examples.covisited.numpy() >= 0, clicks[examples.item.numpy()] > 0
    assert (is_clicked | is_target | is_own).all()
    hidden = ~is_clicked & ~is_own
    assert np.array_equal(hidden, np.isneginf(examples.score.numpy()))
    assert hidden.any()
    assert not examples.reachable[np.isin(examples.target, entry[hidden])].any()
    model.covisitation.reset()
    covisitation.fit(model.covisitation, covisits, examples, slice(None))
    assert all(parameter.isfinite().all() for parameter in model.covisitation.parameters())
    found = covisitation.measure(model.covisitation, covisits, examples, slice(None))
    missed = np.isin(examples.target, entry[hidden]).mean()
    assert 0 < found["recall@20"] <= 1 - missed + 0.01


def test_examples_with_many_entries_are_fewer(
    tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    some = (
        model,
        Metadata.of(data, info.shape, info.config),
        count_covisits(data.train, data.items),
        data.train,
    )
    every = collect(*some)
    assert len(every) == data.train.example_count
    monkeypatch.setattr(scored_examples, "MOST_ENTRIES", len(every.item) // 4)
    few = collect(*some)
    assert len(every) / 16 < len(few) < len(every) / 2
    assert len(few.item) <= len(every.item) / 3


def fitted_on(run: Path, data_path: Path) -> tuple[dict[str, float], list[str], CovisitationNetwork]:
    """What a fit finds and reports, and its network."""
    model, info = load_model(run)
    data = Dataset.load(data_path)
    model.covisitation.reset()
    lines: list[str] = []
    meta = Metadata.of(data, info.shape, info.config)
    covisits = count_covisits(data.train, data.items)
    return (
        covisitation.fit_on(model, meta, covisits, data.validation, lines.append),
        lines,
        model.covisitation,
    )


@pytest.mark.parametrize(("after", "warns"), [(0.2, True), (0.3, False), (0.4, False)])
def test_a_scorer_that_ranks_worse_is_kept_with_a_warning(
    after: float, warns: bool, tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = iter([{"recall@20": 0.5, "mrr@20": 0.3}, {"recall@20": 0.5, "mrr@20": after}])
    monkeypatch.setattr(covisitation, "measure", lambda *_: next(figures))
    metrics, lines, network = fitted_on(tiny_run, tiny_data)
    assert metrics["mrr@20"] == after
    assert network.fitted
    warnings = [
        line for line in lines if line.startswith("warning: the co-visitation scorer makes MRR@20 worse")
    ]
    assert len(warnings) == warns
    assert all("covisitation=false" in line for line in warnings)


@pytest.mark.parametrize("part", ["older half", "all"])
def test_a_fit_that_diverges_leaves_it_out(
    part: str, tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = covisitation.fit

    def diverges(network: CovisitationNetwork, *given: Any) -> None:
        original(network, *given)
        if (given[2] == slice(None)) == (part == "all"):
            with torch.no_grad():
                network.scale.fill_(math.nan)

    monkeypatch.setattr(covisitation, "fit", diverges)
    metrics, lines, network = fitted_on(tiny_run, tiny_data)
    assert metrics == {}
    assert "no co-visitation scorer: its fit diverged" in lines[-1]
    assert not network.fitted
    assert network.scale == 1


def test_a_final_run_takes_over_what_a_validated_one_found(
    tiny_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path
) -> None:
    def final(out: str, validated_by: Path | None, whole: bool = True) -> None:
        train(
            tiny_data,
            tmp_path / out,
            tiny_config,
            final=whole,
            validated_by=validated_by,
            device="cpu",
            progress=False,
            report=quiet,
        )

    final("with", tiny_run)
    source, info = load_model(tiny_run)
    assert info.covisitation_metrics["recall@20"] > 0
    model, info = load_model(tmp_path / "with")
    assert info.validated_by == str(tiny_run.resolve())
    for name, value in source.covisitation.state_dict().items():
        assert torch.equal(model.covisitation.state_dict()[name], value)
    final("without", None)
    assert not load_model(tmp_path / "without")[0].covisitation.fitted
    with pytest.raises(RunError, match="only a final run"):
        final("no", tiny_run, whole=False)
    with pytest.raises(RunError, match="it was not validated"):
        final("no", tmp_path / "with")
    with pytest.raises(RunError, match="is not a training run"):
        final("no", tiny_data)


def test_it_can_be_left_out(tiny_config: Config, tiny_data: Path, tmp_path: Path) -> None:
    config = replace(tiny_config, covisitation=False)
    info = train(tiny_data, tmp_path / "run", config, progress=False, report=lambda line: None)
    assert info.metrics
    assert not info.covisitation_metrics
    assert not load_model(tmp_path / "run")[0].covisitation.fitted
