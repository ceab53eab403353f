"""Calibration against its definition in plain Python, and against the runtime."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hiersrec_export.calibrate import KEPT, Budgets, K, Layout, Scorer, all_top_ps, measure, shares_of
from hiersrec_export.export import export, trained_vectors
from hiersrec_export.model_card import calibration_picture, model_card, summary
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.cli.main import main
from hiersrec_sdk.encoders.session_encoder import Encoded, OnnxSessionEncoder
from hiersrec_sdk.errors import ExportError, RunError
from hiersrec_training.config import Config
from hiersrec_training.covisitation import by_rows, count_covisits
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.examples import Examples
from hiersrec_training.run import load_model
from hiersrec_training.train import train
from tests.conftest import Exported, quiet

ITEMS, LEAVES, WIDTH, MAX_LENGTH = 160, 8, 3, 4
SHARES = (0.01, 0.2, 0.4, 0.55, 0.8, 1.0)
TOP_PS = (0.1, 0.5, 0.8, 0.9, 0.99, 1.0)
BIAS = np.random.default_rng(6).integers(-2, 3, ITEMS).astype(np.float32)


class Integers:
    """An encoder of integers, so that scores and logits tie often, and however they are summed."""

    def encode(self, vectors: NDArray[np.float32], lengths: NDArray[np.int64], /) -> Encoded:
        real = np.arange(vectors.shape[1]) < lengths[:, None]
        newest = vectors[np.arange(len(lengths)), lengths - 1]
        total = vectors.sum(axis=1)
        mixed = np.stack(
            [total[:, leaf % WIDTH] * (leaf - 3) + newest[:, 0] for leaf in range(LEAVES)], axis=1
        )
        return Encoded(
            category_logits=(np.round(mixed / 3).astype(np.float32),),
            repeat_logits=(np.arange(vectors.shape[1])[None] % 3 - newest[:, 1:2]).astype(np.float32) * real,
            item_query=(newest + total % 2).astype(np.float32),
        )


def integer_vectors(items: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).integers(-2, 3, (items, WIDTH)).astype(np.float32)


def by_definition(
    data: Dataset,
    vectors: NDArray[np.float32],
    clicks: NDArray[np.int32],
    target: int,
    share: float | None,
    top_p: float | None,
    session_first: bool,
) -> tuple[int, int]:
    """Rank of the target, 0 where it is no candidate, and rows scored: of one example, with one budget."""
    session = [int(item) for item in clicks[-MAX_LENGTH:]]
    encoded = Integers().encode(vectors[session][None], np.array([len(session)]))
    logits = encoded.category_logits[-1][0].tolist()
    assert encoded.repeat_logits is not None
    session_leaves = {int(data.category[item]) for item in session} if session_first else set()
    order = sorted(range(LEAVES), key=lambda leaf: (leaf not in session_leaves, -logits[leaf], leaf))
    total = sum(math.exp(logit) for logit in logits)
    taken: list[int] = []
    held, probability = 0, 0.0
    for leaf in order:
        if share is not None:
            enough = held >= max(math.ceil(share * data.items), K)
        else:
            assert top_p is not None
            enough = probability >= top_p and held >= K and top_p < 1
        if enough and session_leaves <= set(taken):
            break
        taken.append(leaf)
        held += int(np.count_nonzero(data.category == leaf))
        probability += math.exp(logits[leaf]) / total
    candidates = set(session)
    for item in range(data.items):
        if {int(data.category[item]), *data.extra_categories[item]} & set(taken):
            candidates.add(item)
    scores = {item: float(np.dot(vectors[item], encoded.item_query[0]) + BIAS[item]) for item in candidates}
    for position, item in enumerate(session):
        scores[item] += float(encoded.repeat_logits[0, position])
    rank = sum(score >= scores[target] for score in scores.values()) if target in candidates else 0
    return rank, len(candidates)


@pytest.mark.parametrize("listed_often", [False, True])
def test_every_example_is_as_by_definition(make_dataset: Callable[..., Dataset], listed_often: bool) -> None:
    data = make_dataset(items=ITEMS, sessions=90, longest=6)
    random = np.random.default_rng(2)
    extra = [random.permutation(LEAVES)[: random.integers(0, 4)].tolist() for _ in range(ITEMS)]
    data = replace(data, extra_categories=extra if listed_often else [[] for _ in range(ITEMS)])
    # targets from anywhere: the walks of the data set never leave a category
    stray = data.test.items.copy()
    stray[::3] = random.integers(0, ITEMS, len(stray[::3]))
    sessions = replace(data.test, items=stray)
    vectors = integer_vectors(ITEMS)
    examples = Examples.of(sessions)
    assert len(examples) == sessions.example_count
    budgets = Budgets(SHARES, TOP_PS)
    found = list(measure(Scorer(Integers(), vectors, BIAS), Layout.of(data), examples, budgets, MAX_LENGTH))
    batches = list(examples.batches(vectors, MAX_LENGTH, 256))
    seen = 0
    for (batch, _), both in zip(batches, found, strict=True):
        for at, (clicks, target) in enumerate(batch):
            for session_first, counts in zip((False, True), both, strict=True):
                for budget in range(len(budgets)):
                    share = SHARES[budget] if budget < len(SHARES) else None
                    top_p = None if share is not None else TOP_PS[budget - len(SHARES)]
                    wanted = by_definition(data, vectors, clicks, target, share, top_p, session_first)
                    assert (counts.ranks[at, budget], counts.rows[at, budget]) == wanted
                    seen += wanted[0] > 1
    assert seen > 100


@given(
    data=st.data(), extra=st.lists(st.lists(st.integers(0, LEAVES - 1), max_size=5), min_size=1, max_size=12)
)
def test_the_best_position_is_that_of_the_first_category(data: st.DataObject, extra: list[list[int]]) -> None:
    of_leaves, n = st.integers(0, LEAVES - 1), len(extra)
    category = data.draw(st.lists(of_leaves, min_size=n, max_size=n))
    position = np.array(data.draw(st.lists(st.permutations(range(LEAVES)), min_size=1, max_size=3)))
    pairs = data.draw(
        st.lists(st.tuples(st.integers(0, len(position) - 1), st.integers(0, n - 1)), max_size=20)
    )
    examples, items = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    found = layout_of(category, extra).best_position(position, examples, items)
    assert found.tolist() == [
        min(position[example, leaf] for leaf in [category[item], *extra[item]]) for example, item in pairs
    ]


def layout_of(category: list[int], extra: list[list[int]]) -> Layout:
    tree = SimpleNamespace(sizes=[LEAVES])
    data: Any = SimpleNamespace(
        items=len(extra), category=np.array(category, np.int32), extra_categories=extra, tree=tree
    )
    return Layout.of(data)


def test_one_item_of_many_categories_takes_no_more_for_the_others() -> None:
    items = 10_000
    layout = layout_of([0] * items, [list(range(LEAVES)) * 200, *[[] for _ in range(items - 1)]])
    assert sum(array.nbytes for array in vars(layout).values()) < 40 * items


def test_all_items_are_the_exact_mode(make_dataset: Callable[..., Dataset]) -> None:
    data = make_dataset(items=ITEMS, sessions=90, longest=6)
    examples = Examples.of(data.test)
    for both in measure(
        Scorer(Integers(), integer_vectors(ITEMS), BIAS),
        Layout.of(data),
        examples,
        Budgets([1.0], [1.0]),
        MAX_LENGTH,
    ):
        for counts in both:
            assert np.all(counts.rows == ITEMS)
            assert np.all(counts.ranks >= 1)


def test_the_curve_is_that_of_the_runtime(tiny_bundle: Path, tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    recommender = Recommender.load(tiny_bundle)
    catalog = recommender.catalog
    ids = data.item_ids.to_list()
    rows = catalog.rows(ids)
    vectors = np.ascontiguousarray(catalog.base.table.vectors[rows])
    assert catalog.covisitation is not None
    assert catalog.base.tables.item_bias is not None
    # rows are to items as items to rows
    scorer = replace(catalog.covisitation, counts=by_rows(catalog.covisitation.counts, rows))
    encoder = OnnxSessionEncoder(
        (tiny_bundle / "model.onnx").read_bytes(), dimension=16, categories=data.tree.sizes
    )
    served = Scorer(encoder, vectors, catalog.base.tables.item_bias[rows], scorer)
    shares = (0.45, 0.6, 0.8, 1.0)
    examples = Examples.of(data.validation)
    found = list(measure(served, Layout.of(data), examples, Budgets(shares, [1.0]), 6))
    for (batch, _), (counts, _) in zip(examples.batches(vectors, 6, 256), found, strict=True):
        for at, (clicks, target) in enumerate(batch):
            for budget, share in enumerate(shares):
                result = recommender.recommend([ids[item] for item in clicks], K, candidates=share)
                assert result.rows_scored == counts.rows[at, budget]
                rank = result.items.index(ids[target]) + 1 if ids[target] in result.items else 0
                ours = int(counts.ranks[at, budget])
                assert (ours if ours <= K else 0) == rank


def ranks_by_the_model(run: Path, data: Dataset) -> NDArray[np.int64]:
    """Rank of the target in every validation example, by PyTorch."""
    model, info = load_model(run)
    vectors = trained_vectors(model, info, data)
    scorer, bias = model.covisitation.exported(count_covisits(data.train, data.items))
    ranks = []
    for session in range(len(data.validation)):
        clicks = data.validation[session].astype(np.int64)
        for length in range(1, len(clicks)):
            prefix = clicks[max(0, length - info.config.max_length) : length]
            with torch.no_grad():
                served = model.serve(torch.from_numpy(vectors[prefix])[None], torch.tensor([len(prefix)]))
            scores = vectors @ served.query[0].numpy()
            np.add.at(scores, prefix, served.repeats[0].numpy())
            scores += bias
            items, offsets = scorer.score_offsets(prefix)
            scores[items] += offsets
            ranks.append(int((scores >= scores[clicks[length]]).sum()))
    return np.array(ranks)


@pytest.fixture
def calibration(tiny_bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = open_bundle(tiny_bundle).config["calibration"]
    return found


def test_a_bundle_holds_its_curve(calibration: dict[str, Any], tiny_data: Path, tiny_run: Path) -> None:
    data = Dataset.load(tiny_data)
    assert (calibration["split"], calibration["trained_on"], calibration["run"]) == (
        "validation",
        False,
        tiny_run.name,
    )
    assert calibration["examples"] == data.validation.example_count
    exact = calibration["exact"]
    assert exact["rows"] == data.items
    ranks = ranks_by_the_model(tiny_run, data)
    assert exact["recall@20"] == pytest.approx(np.mean(ranks <= 20))
    assert exact["mrr@20"] == pytest.approx(np.mean((ranks <= 20) / ranks))
    for curve in (calibration, calibration["session_categories"]):
        everything = curve["shares"][-1]  # the default of so small a catalog
        assert everything == {"share": 1.0, **exact, "candidate_coverage": 1.0}
        rows = [entry["rows"] for entry in curve["top_ps"]]
        assert rows == sorted(rows)
        chosen = next(entry for entry in curve["top_ps"] if entry["top_p"] == curve["top_p"])
        for name in ("recall@20", "mrr@20"):
            assert chosen[name] >= KEPT * exact[name]


def test_budgets_to_measure_are_rising_and_of_use() -> None:
    top_ps = all_top_ps()
    assert top_ps == sorted(top_ps)
    assert top_ps[0] == 0.3
    assert top_ps[-1] == 1.0
    assert {0.9, 0.99, 0.9999} <= set(top_ps)
    assert shares_of(43_097, 0.04) == [0.0025, 0.005, 0.01, 0.02, 0.04, 0.08]
    assert shares_of(2000, 0.5) == [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5]
    assert shares_of(48, 1.0) == [0.64, 1.0]


def test_the_card_shows_the_curve(tiny_bundle: Path, calibration: dict[str, Any]) -> None:
    text = (tiny_bundle / "README.md").read_text()
    assert "](calibration.png)" in text
    assert f'**top_p {calibration["top_p"]:g}, "auto"**' in text
    for entry in (*calibration["shares"], *calibration["top_ps"], calibration["exact"]):
        assert f"{100 * entry['recall@20']:.2f} %" in text
    assert "was not trained on it" in text
    picture = (tiny_bundle / "calibration.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 600
    assert height > 400


def test_a_curve_that_finds_nothing_is_drawn_too(calibration: dict[str, Any]) -> None:
    nothing = {"recall@20": 0.0, "mrr@20": 0.0}
    for curve in (calibration, calibration["session_categories"]):
        for entry in (*curve["shares"], *curve["top_ps"], calibration["exact"]):
            entry |= nothing
    assert calibration_picture(calibration, 48)
    assert "keeps 100.00 %" in summary(calibration, 48)


def test_a_final_run_is_calibrated_with_one_that_was_not(
    tiny_run: Path, tiny_final_export: Exported, calibration: dict[str, Any]
) -> None:
    config = open_bundle(tiny_final_export.bundle).config
    assert config["metrics"]["trained_on"] == "training and validation splits"
    found = config["calibration"]
    assert not found["trained_on"]
    assert found == calibration  # the curve of the other run
    card = (tiny_final_export.bundle / "README.md").read_text()
    assert f"the run {tiny_run.name}, which was not trained on it" in card
    line = next(line for line in tiny_final_export.lines if line.startswith('candidates="auto"'))
    assert f"top_p {found['top_p']:g}" in line
    assert "flatter" not in line


def test_a_final_run_alone_says_that_it_has_seen_the_examples(
    tiny_bundle: Path, tiny_final_run: Path
) -> None:
    config = open_bundle(tiny_bundle).config
    config["calibration"]["trained_on"] = True
    assert "which the model was trained on" in model_card("final", load_model(tiny_final_run)[1], config)
    assert "flatter" in summary(config["calibration"], 48)


def test_without_a_validation_split_there_are_no_budgets(
    make_dataset: Callable[..., Dataset], tiny_config: Config, tmp_path: Path
) -> None:
    data = make_dataset()
    none = replace(data.validation, items=data.validation.items[:0], offsets=np.zeros(1, np.int64))
    replace(data, validation=none).save(tmp_path / "data")
    one = replace(tiny_config, epochs=1)
    train(tmp_path / "data", tmp_path / "run", one, final=True, device="cpu", progress=False, report=quiet)
    export(tmp_path / "run", tmp_path / "bundle", report=quiet)
    config = open_bundle(tmp_path / "bundle").config
    assert "calibration" not in config
    assert "calibration.png" not in config["files"]
    assert "## Candidates" not in (tmp_path / "bundle/README.md").read_text()
    with pytest.raises(ExportError, match="no validation split"):
        export(tmp_path / "run", tmp_path / "again", calibrate_with=tmp_path / "run", report=quiet)


def test_errors_say_what_is_wrong_with_a_calibration_run(
    tiny_final_run: Path,
    tiny_run: Path,
    tiny_config: Config,
    tmp_path: Path,
    make_dataset: Callable[..., Dataset],
) -> None:
    def attempt(message: str, error: type[Exception], run: Path, other: Path) -> None:
        with pytest.raises(error, match=message):
            export(run, tmp_path / "bundle", calibrate_with=other, report=quiet)

    attempt("was trained without its validation split", ExportError, tiny_run, tiny_run)
    attempt(r"trained on its validation split too \(--final\)", ExportError, tiny_final_run, tiny_final_run)
    attempt("is not a training run", RunError, tiny_final_run, tmp_path)
    make_dataset(seed=4).save(tmp_path / "data")
    one = replace(tiny_config, epochs=1)
    train(tmp_path / "data", tmp_path / "other", one, device="cpu", progress=False, report=quiet)
    attempt("another data set", ExportError, tiny_final_run, tmp_path / "other")
    assert not (tmp_path / "bundle").exists()


def test_other_settings_of_the_calibration_run_are_noted(
    tiny_final_run: Path,
    tiny_data: Path,
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unlike = replace(tiny_config, temperature=0.1, epochs=1)
    train(tiny_data, tmp_path / "other", unlike, device="cpu", progress=False, report=quiet)
    said: list[str] = []

    def stop(name: str) -> None:
        raise InterruptedError(name)

    with pytest.raises(InterruptedError):
        export(
            tiny_final_run, tmp_path / "b", calibrate_with=tmp_path / "other", report=said.append, step=stop
        )
    assert said == [
        f"note: {tmp_path / 'other'} was trained with other settings than {tiny_final_run}: temperature"
    ]


def test_the_command_takes_the_calibration_run(tiny_final_run: Path, tmp_path: Path) -> None:
    arguments = [
        "export",
        str(tiny_final_run),
        "--out",
        str(tmp_path / "bundle"),
        "--calibrate-with",
        str(tiny_final_run),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "--final" in result.stderr
