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

from benchmarks.studies import ablations, main_table, trials, tuning
from benchmarks.studies.data_sets import DATA_SETS, DataSet, prepared
from benchmarks.studies.trials import Trial, benches
from hiersrec_training.config import Config
from hiersrec_training.dataset import Dataset


@pytest.fixture
def work(tmp_path: Path, tiny_data: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder that holds the tiny data set as if it were Diginetica, with settings that train in a second."""
    settings = {**tiny_config.as_dict(), "epochs": 1}
    del settings["seed"]
    monkeypatch.setitem(DATA_SETS, "diginetica", replace(DATA_SETS["diginetica"], settings=settings, neural_epochs=2))
    monkeypatch.setattr(tuning, "GRID", [{"dropout": 0.1}])
    folder = tmp_path / "work"
    shutil.copytree(tiny_data, folder / "diginetica" / "data")
    return folder


def run(study: ModuleType, work: Path, *options: str) -> str:
    arguments = [str(work), "--work", str(work), "--out", str(work / "out"), "--data-set", "diginetica", *options]
    result = CliRunner().invoke(study.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    name = study.__name__.rpartition(".")[2]
    assert (work / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return (work / "out" / f"{name}.md").read_text()


STUDIES: list[tuple[ModuleType, list[str], list[str]]] = [
    (ablations, ["--epochs", "1"], ["item head only", "items without text", "only the top level handed on"]),
    (main_table, ["--seeds", "2", "--draws", "1"], ["HierSRec, exact", "±", "vstan", "gru4rec", "core"]),
]


@pytest.mark.parametrize(("study", "options", "rows"), STUDIES)
def test_a_study_leaves_a_page_and_does_nothing_twice(
    study: ModuleType, options: list[str], rows: list[str], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = run(study, work, *options)
    assert all(row in page for row in rows)
    assert f"python -m benchmarks.studies.{study.__name__.rpartition('.')[2]} SOURCE" in page

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("done already")

    monkeypatch.setattr(trials, "train", refuse)
    monkeypatch.setattr(tuning, "fit", refuse)
    assert run(study, work, *options) == page


def test_a_trial_with_other_settings_is_not_taken_for_this_one(work: Path) -> None:
    bench = benches(work, work, ["diginetica"])[0]
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
        assert Dataset.load(folder).test.cases > 1000
    assert isinstance(DATA_SETS["diginetica"], DataSet)
