"""Studies that train: they go on where they were stopped, and leave a page and a picture."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.studies import ablations, cold, main_table, sparse, text, trees, trials, tuned, tuning
from benchmarks.studies.data_sets import DATA_SETS, DataSet, prepared
from benchmarks.studies.trials import Trial, benches
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.data.text_encoders import Model2Vec
from tests.text_models import SPECIAL, STATES, WORDS, write_encoder


@pytest.fixture
def work(tmp_path: Path, tiny_data: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder that holds the tiny data set as if it were Diginetica, with settings that train in a second."""
    settings = {**tiny_config.as_dict(), "epochs": 1}
    del settings["seed"]
    whole = replace(DATA_SETS["diginetica"], reduced=(None, None))
    tiny = replace(whole, settings=settings, neural_epochs=2)
    monkeypatch.setitem(DATA_SETS, "diginetica", tiny)
    monkeypatch.setattr(tuning, "GRID", [{"dropout": 0.1}])
    monkeypatch.setattr(sparse, "SHARES", (0.0, 0.75))
    monkeypatch.setattr(cold, "DROPOUTS", (0.3,))
    for study in (ablations, trees):  # those that differ most, to save time
        every: Callable[[Dataset], list[Trial]] = study.trials_of
        monkeypatch.setattr(
            study, "trials_of", lambda data, every=every: [*every(data)[:2], *every(data)[-4::3]]
        )
    folder = tmp_path / "work"
    shutil.copytree(tiny_data, folder / "diginetica" / "data")
    return folder


def run(study: ModuleType, work: Path, *options: str) -> str:
    arguments = [
        str(work),
        "--work",
        str(work),
        "--out",
        str(work / "out"),
        "--data-set",
        "diginetica",
        *options,
    ]
    result = CliRunner().invoke(study.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    name = study.__name__.rpartition(".")[2] + ("_full_size" if "--full-size" in options else "")
    assert (work / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return (work / "out" / f"{name}.md").read_text()


STUDIES: list[tuple[ModuleType, list[str], list[str]]] = [
    (
        ablations,
        ["--epochs", "1"],
        ["item head only", "items are ids only", "no co-click graph"],
    ),
    (ablations, ["--full-size", "--seeds", "2"], ["item head only", " ± ", "--seeds 2", " --full-size"]),
    (sparse, [], ["75 % of the items", "text and category: MRR@20"]),
    (trees, [], ["1 of 2 levels (2 leaves)", "learned, 3 over 8", "none"]),
    (
        cold,
        [],
        ["id dropout 0.3, cold items never shown", "as exported", "popular, the newest", "words in common"],
    ),
    (
        tuned,
        ["--trials", "2", "--best", "1"],
        ["the defaults", "by hand: ", "2 trials on the newest 168 sessions"],
    ),
    (
        text,
        ["--encoder", "ENCODER", "--seeds", "2"],
        [
            "no text",
            "hashed words",
            "sentence encoder and hashed words",
            "static model",
            " ± ",
            "--encoder ENCODER",
        ],
    ),
    (main_table, ["--draws", "1"], ["HierSRec, exact", "vstan", "gru4rec", "core"]),
]


@pytest.mark.parametrize(("study", "options", "rows"), STUDIES)
@pytest.mark.slow
def test_a_study_leaves_a_page_and_does_nothing_twice(
    study: ModuleType,
    options: list[str],
    rows: list[str],
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if study is text:
        write_encoder(work / "encoder")
    options = [str(work / "encoder") if option == "ENCODER" else option for option in options]
    page = run(study, work, *options)
    assert all(row in page for row in rows)
    assert f"python -m benchmarks.studies.{study.__name__.rpartition('.')[2]} SOURCE" in page

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("done already")

    monkeypatch.setattr(trials, "train", refuse)
    monkeypatch.setattr(tuning, "fit", refuse)
    assert run(study, work, *options) == page


def test_a_static_model_keeps_the_distances_of_its_tokens(tmp_path: Path) -> None:
    pytest.importorskip("model2vec", reason="needs model2vec: pip install '.[text]'")
    text.distill(write_encoder(tmp_path / "encoder"), tmp_path / "static")
    words = np.arange(len(SPECIAL), len(STATES))
    alone = (STATES[2] + STATES[words] + STATES[3]) / 3  # between the special tokens
    alone -= alone.mean(axis=0)
    alone /= np.linalg.norm(alone, axis=1, keepdims=True)
    found = Model2Vec(tmp_path / "static").encode(WORDS)
    np.testing.assert_allclose(
        found @ found.T, alone @ alone.T, atol=1e-5
    )  # as PCA to all dimensions turns them


def test_seeds_become_a_mean_and_a_deviation() -> None:
    rows = [{"mrr@20": value} for value in (0.1, 0.3)]
    assert main_table._spread(rows, "mrr@20") == "20.00 % ± 14.14"
    assert main_table._spread(rows[:1], "mrr@20") == "10.00 %"


def test_a_trial_with_other_settings_is_not_taken_for_this_one(work: Path) -> None:
    bench = benches(work, work, ["diginetica"])[0]
    trained = replace(bench, seeds=2).run(Trial("a trial"))
    assert [one.info.config.seed for one in trained] == [0, 1]
    assert len({one.run for one in trained}) == 2
    bench.run(Trial("a trial"))
    with pytest.raises(click.ClickException, match="other settings: move it away"):
        bench.run(Trial("a trial", {"dropout": 0.7}))


def test_the_newest_sessions_of_all_items(work: Path) -> None:
    whole, some = (benches(work, work, ["diginetica"], sessions=n)[0] for n in (None, 30))
    all_data, data = Dataset.load(whole.data), Dataset.load(some.data)
    assert len(data.train) == 30
    assert data.items == all_data.items
    np.testing.assert_array_equal(data.train[-1], all_data.train[-1])
    assert some.folder != whole.folder


def test_a_data_set_that_is_not_there_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_dataset: Callable[..., Dataset]
) -> None:
    assert prepared("wikispeedia", tmp_path, tmp_path / "work") is None
    assert "wikispeedia is skipped" in capsys.readouterr().err
    with pytest.raises(click.ClickException, match="none of the data sets"):
        benches(tmp_path, tmp_path / "work", [])


def test_every_data_set_of_the_studies_is_prepared(shared_data: Path, tmp_path: Path) -> None:
    for name in ("retailrocket", "wikispeedia"):
        folder = prepared(name, shared_data, tmp_path)
        assert folder is not None
        assert Dataset.load(folder).test.example_count > 1000
    assert isinstance(DATA_SETS["diginetica"], DataSet)


@pytest.mark.parametrize("kinds", ["text", "category", "text and category"])
def test_metadata_are_removed_from_a_share_of_the_items(
    kinds: str, make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    data = make_dataset()
    half, most = sparse.without(data, kinds, 0.5), sparse.without(data, kinds, 0.75)
    most.save(tmp_path / "data")  # which checks the tree
    for share, some in ((0.5, half), (0.75, most)):
        gone = some.tree.sizes[-1] - 1
        if "category" in kinds:
            assert some.tree.sizes == [size + 1 for size in data.tree.sizes]
            assert some.tree.paths()[gone].tolist() == [size - 1 for size in some.tree.sizes]
            assert (some.category == gone).mean() == share
        else:
            np.testing.assert_array_equal(some.category, data.category)
        kept = [a == b for a, b in zip(some.text, data.text, strict=True)]
        assert all(kept) == ("text" not in kinds)
    lost = [a is None and b is not None for a, b in zip(half.text, data.text, strict=True)]
    more = [a is None and b is not None for a, b in zip(most.text, data.text, strict=True)]
    assert all(b for a, b in zip(lost, more, strict=True) if a)


def test_a_tree_is_cut_at_a_depth(make_dataset: Callable[..., Dataset], tmp_path: Path) -> None:
    data = make_dataset()
    top = trees.cut(data, 1)
    top.save(tmp_path / "data")
    assert top.tree.ids == [["left", "right"]]
    np.testing.assert_array_equal(top.category, data.category // 4)
    assert trees.cut(data, 2).tree.ids == data.tree.ids


@pytest.mark.parametrize("sizes", [[8], [2, 8], [2, 4, 12], [1]])
def test_a_tree_is_learned_from_co_clicks(
    sizes: list[int], make_dataset: Callable[..., Dataset], tmp_path: Path
) -> None:
    data = make_dataset(sessions=600)  # sessions stay within one of 8 categories
    found = trees.learned(data, sizes)
    found.save(tmp_path / "data")
    assert found.tree.depth == len(sizes)
    assert all(0 < size <= wanted for size, wanted in zip(found.tree.sizes, sizes, strict=True))
    assert np.unique(found.category).tolist() == list(range(found.tree.sizes[-1]))
    if sizes[-1] >= 8:  # leaves hardly mix categories
        of = [np.bincount(data.category[found.category == leaf]) for leaf in range(found.tree.sizes[-1])]
        assert sum(counts.max() for counts in of) > 0.7 * data.items


def test_cold_items_have_no_clicks_and_are_the_targets(make_dataset: Callable[..., Dataset]) -> None:
    data = make_dataset(sessions=1000)
    held, is_cold = cold.held_out(data), cold.cold_items(data)
    assert is_cold.sum() == 5
    for part in (held.train, held.validation):
        assert not is_cold[part.items].any()
        assert part.lengths.min() >= 2
        assert part.offsets[-1] == len(part.items)
    assert held.clicks[is_cold].sum() == 0
    old, new = ([part[index] for index in range(len(part))] for part in (data.train, held.train))
    left = [walk[~is_cold[walk]].tolist() for walk in old]
    assert [walk.tolist() for walk in new] == [walk for walk in left if len(walk) >= 2]
    for some, wanted in zip(cold.examples_of(held), (True, False), strict=True):
        assert len(some)
        for prefix, target in some:
            assert is_cold[target] == wanted
            assert not is_cold[prefix].any()
