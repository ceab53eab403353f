"""The cases of the fuzzer: the same for the same seed, sound where nothing is damaged; and some of each target, run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.schema import CATALOG
from tests.fuzz import bundle_case, chance, parts, use, wild_json
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SOUND = range(7)


def chosen(seed: str) -> chance.Chance:
    return chance.Chance(seed)


@pytest.mark.parametrize("target", TARGETS)
def test_a_seed_is_a_case(target: str) -> None:
    one, again = ([TARGETS[target](chosen(f"{target}:{seed}")) for seed in range(60)] for _ in range(2))
    assert [vars(case) | {"chance": None} for case in one] == [
        vars(case) | {"chance": None} for case in again
    ]
    assert len({str(case.notes) for case in one}) > 50


@pytest.mark.parametrize("at", SOUND)
@pytest.mark.parametrize("seed", range(4))
def test_a_sound_bundle_is_used_without_a_finding(at: int, seed: int, tmp_path: Path) -> None:
    whole = parts.sound()[at]
    files = parts.with_config(whole, whole.content())
    options = {"backend": "c", "verify": True}
    case = bundle_case.BundleCase([], files, whole.ids, chosen(f"sound:{seed}"), options)
    assert case.run(tmp_path) == "used"


@pytest.mark.parametrize("at", SOUND)
def test_exact_is_compared_with_the_tables_in_the_folder(at: int, tmp_path: Path) -> None:
    whole = parts.sound()[at].copy()
    folder = parts.write(tmp_path / "bundle", parts.with_config(whole, whole.content()))
    recommender = Recommender.load(folder)
    sessions = [[item] for item in whole.ids[:8]]
    use.check_exact(recommender, folder, sessions, chosen(""))
    whole.tables[CATALOG]["item_vectors"] = whole.tables[CATALOG]["item_vectors"] + np.float32(0.125)
    other = parts.write(tmp_path / "other", parts.with_config(whole, whole.content()))
    with pytest.raises(use.WrongError, match=r"exact (has other scores|leaves out a better item)"):
        use.check_exact(recommender, other, sessions, chosen(""))


def test_sums_are_right_whatever_was_changed(tmp_path: Path) -> None:
    whole = parts.sound()[1].copy()
    whole.tables[CATALOG]["clicks"] = whole.tables[CATALOG]["clicks"] + 1
    whole.config["metrics"] = {"recall@20": 0.25}
    folder = parts.write(tmp_path / "bundle", parts.with_config(whole, whole.content()))
    recommender = Recommender.load(folder)
    assert recommender.config["metrics"] == {"recall@20": 0.25}


def test_json_may_hold_any_text() -> None:
    value = {"a": wild_json.literal("NaN"), wild_json.again("b"): [wild_json.literal('"\\ud800"')], "b": "ü"}
    assert wild_json.dumps(value) == '{"a": NaN, "b": ["\\ud800"], "b": "\\u00fc"}'
    assert json.loads(wild_json.dumps({"a": wild_json.literal("1e999")})) == {"a": float("inf")}


@pytest.mark.slow
def test_a_short_run_finds_nothing() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--first", "0", "--cases", "50", "--hang", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("nothing found\n")
