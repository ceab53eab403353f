from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hiersrec_sdk.errors import RunError
from hiersrec_training import covisitation as wide
from hiersrec_training import metrics
from hiersrec_training.batches import Batches
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.links import links_of
from hiersrec_training.model import Metadata, Wide
from hiersrec_training.run import load_model
from hiersrec_training.train import evaluate_model, train


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def cases(tiny_run: Path, tiny_data: Path) -> wide.Cases:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    meta = Metadata.of(data, info.shape, info.config)
    return wide.collect(model, meta, links_of(data.train, data.items), data.valid)


def test_a_case_holds_what_may_answer_it(cases: wide.Cases, tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    links = links_of(data.train, data.items)
    assert len(cases) == data.valid.cases
    case = 0
    for index in range(len(data.valid)):  # in order of time
        clicks = data.valid[index]
        for length in range(1, len(clicks)):
            entries = slice(cases.offsets[case], cases.offsets[case + 1])
            assert cases.item[entries].tolist() == list(range(data.items))  # so few that the best are all
            assert cases.item[cases.target[case]] == clicks[length]
            own = clicks[6 * ((length - 1) // 6) : length]  # windows of the model's length
            linked, features = links.features(own.astype(np.int64))
            there = cases.linked[entries]
            assert np.flatnonzero(there >= 0).tolist() == linked.tolist()
            np.testing.assert_allclose(cases.features[there[linked]], features, rtol=1e-3, atol=1e-3)
            case += 1


def test_unfitted_it_changes_nothing(cases: wide.Cases, tiny_run: Path, tiny_data: Path) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    links = links_of(data.train, data.items)
    bare = wide.measure(None, links, cases, slice(None))
    model.wide.reset()
    assert wide.measure(model.wide, links, cases, slice(None)) == bare
    found = evaluate_model(model, Metadata.of(data, info.shape, info.config), Batches(data.valid, 6, 16))
    for name, value in bare.items():
        assert found[name] == pytest.approx(value, abs=1e-9)


def test_a_case_is_scored_alike_among_few_and_many_items(
    cases: wide.Cases, tiny_run: Path, tiny_data: Path
) -> None:
    data = Dataset.load(tiny_data)
    model, _ = load_model(tiny_run)
    popularity = torch.from_numpy(links_of(data.train, data.items).popularity)
    more = torch.cat([popularity, torch.randn(5_000, popularity.shape[1])])
    chosen = np.arange(5)
    among_many, among_few = (wide.scores_of(model.wide, each, cases, chosen) for each in (more, popularity))
    for found, wanted in zip(among_many, among_few, strict=True):
        torch.testing.assert_close(found, wanted)


def test_how_many_positions_are_ranked_together_changes_nothing(
    tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    meta = Metadata.of(data, info.shape, info.config)
    wanted = evaluate_model(model, meta, Batches(data.valid, 6, 16))
    monkeypatch.setattr(metrics, "SCORES_TOGETHER", 3 * data.items)
    assert metrics.ranked_together(data.items) == 3
    assert metrics.ranked_together(10 * data.items) == 1
    assert evaluate_model(model, meta, Batches(data.valid, 6, 16)) == pytest.approx(wanted, abs=1e-9)


def test_fitting_lowers_the_loss_and_repeats(cases: wide.Cases, tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    links = links_of(data.train, data.items)
    found = []
    for _ in range(2):
        part = Wide()
        wide.fit(part, links, cases, slice(None), seed=3)
        assert part.fitted
        found.append(part.state_dict())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name])
    part = Wide()
    part.load_state_dict(found[0])
    before = wide.measure(None, links, cases, slice(None))
    assert wide.measure(part, links, cases, slice(None))["mrr@20"] > before["mrr@20"]


def test_what_is_served_is_what_was_fitted(cases: wide.Cases, tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    links = links_of(data.train, data.items)
    part = Wide()
    wide.fit(part, links, cases, slice(None))
    served, bias = part.exported(links)
    session = np.array([3, 1, 3])
    items, features = links.features(session)
    with torch.no_grad():
        wanted = part.boosts(torch.from_numpy(features)).numpy()
        np.testing.assert_allclose(bias, part.item_bias(torch.from_numpy(links.popularity)).numpy())
    rows, boosts = served.score_offsets(session)
    np.testing.assert_array_equal(rows, items)
    np.testing.assert_allclose(boosts, wanted, rtol=1e-4, atol=1e-4)


def test_few_cases_leave_it_out(tiny_run: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, info = load_model(tiny_run)
    data = Dataset.load(tiny_data)
    monkeypatch.setattr(wide, "LEAST_CASES", 10**6)
    model.wide.reset()
    lines: list[str] = []
    meta = Metadata.of(data, info.shape, info.config)
    assert wide.fit_on(model, meta, links_of(data.train, data.items), data.valid, lines.append) == {}
    assert not model.wide.fitted
    assert "too few" in lines[0]


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
    assert info.wide_metrics["recall@20"] > 0
    model, info = load_model(tmp_path / "with")
    assert info.validated_by == str(tiny_run.resolve())
    for name, value in source.wide.state_dict().items():
        assert torch.equal(model.wide.state_dict()[name], value)
    final("without", None)
    assert not load_model(tmp_path / "without")[0].wide.fitted
    with pytest.raises(RunError, match="only a final run"):
        final("no", tiny_run, whole=False)
    with pytest.raises(RunError, match="it validates nothing"):
        final("no", tmp_path / "with")
    with pytest.raises(RunError, match="no training run"):
        final("no", tiny_data)


def test_it_can_be_left_out(tiny_config: Config, tiny_data: Path, tmp_path: Path) -> None:
    config = replace(tiny_config, wide=False)
    info = train(tiny_data, tmp_path / "run", config, progress=False, report=lambda line: None)
    assert info.metrics
    assert not info.wide_metrics
    assert not load_model(tmp_path / "run")[0].wide.fitted
