from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from hiersrec_export.budgets import KEPT, all_top_ps, shares_of
from hiersrec_export.export import export, trained_vectors
from hiersrec_export.model_card import card, summary
from hiersrec_export.picture import budget_picture
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.cli.main import main
from hiersrec_sdk.errors import ExportError, RunError
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.links import links_of
from hiersrec_training.model import ServingGraph
from hiersrec_training.run import load_model
from hiersrec_training.train import train


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def final_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path, tiny_config: Config) -> Path:
    path = tmp_path_factory.mktemp("final") / "final"
    train(tiny_data, path, tiny_config, final=True, device="cpu", progress=False, report=quiet)
    return path


def ranks_by_the_model(run: Path, data: Dataset) -> NDArray[np.int64]:
    """Of every validation case, by PyTorch, every item ranked."""
    model, info = load_model(run)
    vectors = trained_vectors(model, info, data)
    wide, bias = model.wide.exported(links_of(data.train, data.items))
    ranks = []
    for session in range(len(data.valid)):
        clicks = data.valid[session].astype(np.int64)
        for length in range(1, len(clicks)):
            own = clicks[max(0, length - info.config.max_length) : length]
            with torch.no_grad():
                *_, repeats, query = ServingGraph(model)(
                    torch.from_numpy(vectors[own])[None], torch.tensor([len(own)])
                )
            scores = vectors @ query[0].numpy()
            np.add.at(scores, own, repeats[0].numpy())
            scores += bias
            linked, boosts = wide.score_offsets(own)
            scores[linked] += boosts
            ranks.append(int((scores >= scores[clicks[length]]).sum()))
    return np.array(ranks)


@pytest.fixture
def budgets(tiny_bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = open_bundle(tiny_bundle).config["calibration"]
    return found


def test_a_bundle_holds_its_curve(budgets: dict[str, Any], tiny_data: Path, tiny_run: Path) -> None:
    data = Dataset.load(tiny_data)
    assert (budgets["part"], budgets["trained_on"], budgets["run"]) == ("validation", False, tiny_run.name)
    assert budgets["cases"] == data.valid.cases
    exact = budgets["exact"]
    assert exact["rows"] == data.items
    ranks = ranks_by_the_model(tiny_run, data)
    assert exact["recall@20"] == pytest.approx(np.mean(ranks <= 20))
    assert exact["mrr@20"] == pytest.approx(np.mean((ranks <= 20) / ranks))
    for curve in (budgets, budgets["session_categories"]):
        everything = curve["shares"][-1]  # the default of so small a catalogue
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


def test_the_card_shows_the_curve(tiny_bundle: Path, budgets: dict[str, Any]) -> None:
    text = (tiny_bundle / "README.md").read_text()
    assert "](calibration.png)" in text
    assert f'**top_p {budgets["top_p"]:g}, "auto"**' in text
    for entry in (*budgets["shares"], *budgets["top_ps"], budgets["exact"]):
        assert f"{100 * entry['recall@20']:.2f} %" in text
    assert "was not trained on it" in text
    picture = (tiny_bundle / "calibration.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 600
    assert height > 400


def test_a_curve_that_finds_nothing_is_drawn_too(budgets: dict[str, Any]) -> None:
    nothing = {"recall@20": 0.0, "mrr@20": 0.0}
    for curve in (budgets, budgets["session_categories"]):
        for entry in (*curve["shares"], *curve["top_ps"], budgets["exact"]):
            entry |= nothing
    assert budget_picture(budgets, 48)
    assert "keeps 100.00 %" in summary(budgets, 48)


def test_a_final_run_is_calibrated_with_one_that_was_not(
    final_run: Path, tiny_run: Path, tmp_path: Path, budgets: dict[str, Any]
) -> None:
    said: list[str] = []
    export(final_run, tmp_path / "bundle", calibrate_with=tiny_run, report=said.append)
    config = open_bundle(tmp_path / "bundle").config
    assert config["metrics"]["trained_on"] == "training and validation part"
    found = config["calibration"]
    assert not found["trained_on"]
    assert found == budgets  # the curve of the other run
    assert (
        f"the run {tiny_run.name}, which was not trained on it" in (tmp_path / "bundle/README.md").read_text()
    )
    line = next(line for line in said if line.startswith('candidates="auto"'))
    assert f"top_p {found['top_p']:g}" in line
    assert "flatter" not in line


def test_a_final_run_alone_says_that_it_has_seen_the_cases(tiny_bundle: Path, final_run: Path) -> None:
    config = open_bundle(tiny_bundle).config
    config["calibration"]["trained_on"] = True
    assert "which the model was trained on" in card("final", load_model(final_run)[1], config)
    assert "flatter" in summary(config["calibration"], 48)


def test_without_a_validation_part_there_are_no_budgets(
    make_dataset: Callable[..., Dataset], tiny_config: Config, tmp_path: Path
) -> None:
    data = make_dataset()
    none = replace(data.valid, items=data.valid.items[:0], offsets=np.zeros(1, np.int64))
    replace(data, valid=none).save(tmp_path / "data")
    one = replace(tiny_config, epochs=1)
    train(tmp_path / "data", tmp_path / "run", one, final=True, device="cpu", progress=False, report=quiet)
    export(tmp_path / "run", tmp_path / "bundle", report=quiet)
    config = open_bundle(tmp_path / "bundle").config
    assert "calibration" not in config
    assert "calibration.png" not in config["files"]
    assert "Budget" not in (tmp_path / "bundle/README.md").read_text()
    with pytest.raises(ExportError, match="no validation part"):
        export(tmp_path / "run", tmp_path / "again", calibrate_with=tmp_path / "run", report=quiet)


def test_what_is_wrong_with_a_calibration_run_is_said(
    final_run: Path, tiny_run: Path, tiny_config: Config, tmp_path: Path, make_dataset: Callable[..., Dataset]
) -> None:
    def attempt(message: str, error: type[Exception], run: Path, other: Path) -> None:
        with pytest.raises(error, match=message):
            export(run, tmp_path / "bundle", calibrate_with=other, report=quiet)

    attempt("was trained without its validation part", ExportError, tiny_run, tiny_run)
    attempt(r"trained on its validation part too \(--final\)", ExportError, final_run, final_run)
    attempt("is no training run", RunError, final_run, tmp_path)
    make_dataset(seed=4).save(tmp_path / "data")
    one = replace(tiny_config, epochs=1)
    train(tmp_path / "data", tmp_path / "other", one, device="cpu", progress=False, report=quiet)
    attempt("another data set", ExportError, final_run, tmp_path / "other")
    assert not (tmp_path / "bundle").exists()


def test_other_settings_of_the_calibration_run_are_noted(
    final_run: Path, tiny_data: Path, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlike = replace(tiny_config, temperature=0.1, epochs=1)
    train(tiny_data, tmp_path / "other", unlike, device="cpu", progress=False, report=quiet)
    said: list[str] = []

    def stop(name: str) -> None:
        raise InterruptedError(name)

    with pytest.raises(InterruptedError):
        export(final_run, tmp_path / "b", calibrate_with=tmp_path / "other", report=said.append, step=stop)
    assert said == [
        f"note: {tmp_path / 'other'} was trained with other settings than {final_run}: temperature"
    ]


def test_the_command_takes_the_calibration_run(final_run: Path, tmp_path: Path) -> None:
    arguments = [
        "export",
        str(final_run),
        "--out",
        str(tmp_path / "bundle"),
        "--calibrate-with",
        str(final_run),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "--final" in result.stderr
