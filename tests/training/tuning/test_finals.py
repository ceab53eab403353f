"""What a study concludes from its trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import stdev
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from hiersrec_training.config import Config, load_config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.run import RunInfo
from hiersrec_training.tuning.finals import Finalist, finalists, noise
from hiersrec_training.tuning.folder import About
from hiersrec_training.tuning.report import best_toml, commands, final_table, verdict
from hiersrec_training.tuning.space import SPACE

ABOUT = About("/data of a shop", "f", {"dimension": 16, "heads": 2}, 100, 0, "auto")
USUAL = {name: ABOUT.base.as_dict()[name] for name in SPACE}


def trial_of(value: float | None, **settings: Any) -> FrozenTrial:
    return create_trial(
        state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        value=value,
        params=USUAL | settings,
        distributions=dict(SPACE),
    )


def finalist_of(tiny_run: Path, *values: float, name: str = "trial 1", **settings: Any) -> Finalist:
    info = RunInfo.load(tiny_run)
    runs = {
        seed: (Path(f"run {seed}"), replace(info, metrics={"mrr@20": value, "recall@20": 2 * value}))
        for seed, value in enumerate(values)
    }
    return Finalist(name, replace(ABOUT.base, **settings), runs=runs)


def test_the_finalists_are_the_defaults_and_the_best_others() -> None:
    trials = [
        trial_of(0.2),
        trial_of(0.4, epochs=3),
        trial_of(None, epochs=4),
        trial_of(0.5, epochs=5),
        trial_of(0.3, epochs=3),
        trial_of(0.1, epochs=6),
    ]
    found = finalists(ABOUT, trials, 3)
    assert [each.config.epochs for each in found] == [2, 5, 3, 6]
    assert [each.searched for each in found] == [0.2, 0.5, 0.4, 0.1]
    assert [each.config.epochs for each in finalists(ABOUT, trials, 1)] == [2, 5]
    assert [each.config for each in finalists(ABOUT, [], 3)] == [ABOUT.base]


@given(st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5))
def test_the_noise_of_one_finalist_is_its_standard_deviation(values: list[float]) -> None:
    runs: Any = {
        seed: (Path(), SimpleNamespace(metrics={"mrr@20": value})) for seed, value in enumerate(values)
    }
    found = Finalist("trial 1", Config(), runs=runs)
    assert noise([found]) == pytest.approx(stdev(values))
    assert noise([found, found]) == pytest.approx(stdev(values))


def test_there_is_no_noise_of_single_runs(tiny_run: Path) -> None:
    assert noise([finalist_of(tiny_run, 0.3), finalist_of(tiny_run, 0.4)]) is None


def test_a_gain_is_told_from_the_noise(tiny_run: Path, tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    defaults = finalist_of(tiny_run, 0.30, 0.32)
    much = finalist_of(tiny_run, 0.40, 0.42, epochs=4)
    little = finalist_of(tiny_run, 0.31, 0.33, epochs=4)
    assert "That is more than luck" in verdict(much, defaults, [defaults, much], data)
    assert "That is no more than luck" in verdict(little, defaults, [defaults, little], data)
    assert "better than the defaults" in verdict(defaults, defaults, [defaults, little], data)
    single = finalist_of(tiny_run, 0.30), finalist_of(tiny_run, 0.4, epochs=8)
    said = verdict(single[1], single[0], single, data)
    assert "--seeds 2 would tell" in said
    assert "At the end of what was searched: epochs" in said
    assert "trial 1" in final_table(single, ABOUT.base)


def test_a_gain_over_nothing_has_no_percentage(tiny_run: Path, tiny_data: Path) -> None:
    defaults, best = finalist_of(tiny_run, 0.0, 0.0), finalist_of(tiny_run, 0.4, 0.42, epochs=4)
    said = verdict(best, defaults, [defaults, best], Dataset.load(tiny_data))
    assert "gain +0.4100 MRR@20 over the defaults. That is more" in said


def test_the_best_settings_are_a_config_file(tiny_run: Path, tmp_path: Path) -> None:
    best = finalist_of(tiny_run, 0.3, 0.5, epochs=4, temperature=0.05, item_inputs="id category", seed=7)
    (tmp_path / "best.toml").write_text(best_toml(best, "of a study"))
    assert load_config(tmp_path / "best.toml") == replace(best.config, seed=0)
    assert best.best_run == Path("run 1")
    final, export = commands(Path("study"), ABOUT, best)
    assert "'/data of a shop'" in final
    assert "--final --validated-by 'run 1'" in final
    assert "--calibrate-with 'run 1'" in export
    assert len(commands(Path("study"), ABOUT, replace(best, runs={}))) == 3
