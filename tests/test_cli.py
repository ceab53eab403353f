"""The whole path from the shell, on a simulated shop, and what the shell says when something is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from hiersrec_sdk.cli.main import main
from hiersrec_training.config import Config, load_config

SMALL = [
    "--set",
    "dimension=16",
    "--set",
    "heads=2",
    "--set",
    "epochs=1",
    "--set",
    "batch_sessions=32",
    "--set",
    "learning_rate=0.01",
    "--no-progress",
]


def hiersrec(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def passed(*arguments: str | Path) -> str:
    result = hiersrec(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(*arguments: str | Path) -> str:
    result = hiersrec(*arguments)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a simulated shop and the data set, run and bundle made from it."""
    path = tmp_path_factory.mktemp("shop")
    passed("simulate", "--out", path / "shop", "--items", "300", "--sessions", "1500", "--seed", "1")
    printed = passed(
        "prepare",
        path / "shop/simulated-events.csv",
        "--items",
        path / "shop/simulated-items.csv",
        "--event-column",
        "event",
        "--event",
        "view",
        "--category-column",
        "department",
        "--category-column",
        "category",
        "--category-column",
        "subcategory",
        "--text-column",
        "name",
        "--title-column",
        "name",
        "--number-column",
        "price",
        "--test-days",
        "3",
        "--out",
        path / "data",
    )
    assert "test" in printed
    passed("train", path / "data", "--out", path / "run", *SMALL)
    exported = hiersrec("export", path / "run", "--out", path / "bundle", "--standalone", path / "model.onnx")
    assert exported.stdout.count("agree on") == 2
    assert "tracing the model" in exported.stderr
    assert "agree on" not in exported.stderr
    assert (path / "model.onnx").is_file()
    return path


def test_evaluate_prints_one_flat_object(shop: Path) -> None:
    metrics = json.loads(passed("evaluate", shop / "bundle", shop / "data", "--mode", "exact", "--json"))
    assert all(not isinstance(value, dict | list) for value in metrics.values())
    assert {"recall@20", "mrr@20", "ndcg@1", "examples", "candidate_coverage", "category_accuracy_2"} <= set(
        metrics
    )
    assert metrics["mode"] == "exact"
    assert metrics["examples"] > 0
    some = json.loads(passed("evaluate", shop / "bundle", shop / "data", "--candidates", "0.3", "--json"))
    assert some["candidates"] == 0.3
    assert some["rows_scored"] < metrics["rows_scored"]
    valid = json.loads(passed("evaluate", shop / "bundle", shop / "data", "--split", "validation", "--json"))
    assert valid["split"] == "validation"
    assert valid["examples"] != metrics["examples"]
    table = passed("evaluate", shop / "bundle", shop / "data")
    assert "recall" in table
    assert "category accuracy 0" in table


@pytest.mark.parametrize("baseline", ["popular", "markov", "rules", "sknn", "stan", "vstan"])
def test_baselines_stand_under_the_same_protocol(shop: Path, baseline: str) -> None:
    metrics = json.loads(passed("evaluate", shop / "data", "--baseline", baseline, "--json"))
    ours = json.loads(passed("evaluate", shop / "bundle", shop / "data", "--json"))
    assert metrics["examples"] == ours["examples"]
    assert 0 < metrics["mrr@20"] < 1


def test_compare_lists_every_method(shop: Path) -> None:
    printed = passed("compare", shop / "bundle", shop / "data")
    for method in ("HierSRec, candidates", "HierSRec, exact", "popular", "markov", "sknn"):
        assert method in printed
    rows = [
        json.loads(line) for line in passed("compare", shop / "bundle", shop / "data", "--json").splitlines()
    ]
    assert len({row["examples"] for row in rows}) == 1


def test_recommend_shows_titles_and_takes_own_ids(shop: Path) -> None:
    items = pl.read_csv(shop / "shop/simulated-items.csv")
    clicked = pl.read_csv(shop / "shop/simulated-events.csv")["item"][0]
    name = items.filter(pl.col("item") == clicked)["name"][0]
    printed = passed("recommend", shop / "bundle", clicked, "-k", "3", "--mode", "exact")
    assert name in printed
    assert len([line for line in printed.splitlines() if line.strip()[:1].isdigit()]) == 3
    answer = json.loads(passed("recommend", shop / "bundle", clicked, "no-such-item", "-k", "3", "--json"))
    assert len(answer["items"]) == len(answer["titles"]) == 3
    assert answer["unknown_ids"] == 1
    assert json.loads(passed("recommend", shop / "bundle", "--json"))["mode"] == "popular"
    assert "no-such-item" in failed("recommend", shop / "bundle", "no-such-item", "--on-unknown", "error")


def test_inspect_verifies_and_describes(shop: Path, tmp_path: Path) -> None:
    printed = passed("inspect", shop / "bundle")
    assert "verified" in printed
    assert f"{json.loads((shop / 'bundle/config.json').read_text())['items']:,}" in printed
    assert "simulated-events.csv" in printed
    assert "simulated-events.csv" in (shop / "bundle/README.md").read_text()
    assert json.loads(passed("inspect", shop / "bundle", "--json"))["format"] == "hiersrec-bundle"
    assert "no bundle" in failed("inspect", tmp_path)


def test_epochs_come_from_an_earlier_run(shop: Path, tmp_path: Path) -> None:
    best = json.loads((shop / "run/run.json").read_text())["best_epoch"]
    more = [*SMALL, "--set", "epochs=3"]
    passed(
        "train", shop / "data", "--out", tmp_path / "run", "--final", "--validated-by", shop / "run", *more
    )
    about = json.loads((tmp_path / "run/run.json").read_text())
    assert about["config"]["epochs"] == about["best_epoch"] == best
    assert about["final"]


def test_vectors_of_a_shop_go_the_whole_way(shop: Path, tmp_path: Path) -> None:
    items = pl.read_csv(shop / "shop/simulated-items.csv", comment_prefix="#")
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((items.height, 6)))
    printed = passed(
        "prepare",
        shop / "shop/simulated-events.csv",
        "--items",
        shop / "shop/simulated-items.csv",
        "--event-column",
        "event",
        "--event",
        "view",
        "--category-column",
        "category",
        "--item-vectors",
        tmp_path / "vectors.npy",
        "--test-days",
        "3",
        "--out",
        tmp_path / "data",
    )
    assert "items with a vector of 6 numbers" in printed
    passed("train", tmp_path / "data", "--out", tmp_path / "run", *SMALL)
    passed("export", tmp_path / "run", "--out", tmp_path / "bundle")
    about = json.loads((tmp_path / "bundle/config.json").read_text())
    assert about["preprocessing"]["vectors"] == {"width": 6, "from": "file"}
    item = items["item"][0]
    assert json.loads(passed("recommend", tmp_path / "bundle", str(item), "--json"))["items"]


def test_show_config_is_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(passed("train", "--show-config"))
    assert load_config(tmp_path / "config.toml") == Config()


def test_every_command_explains_itself() -> None:
    assert "recommend" in passed("--help")
    for command in main.commands:
        printed = passed(command, "--help")
        options = [option for option in main.commands[command].params if option.param_type_name == "option"]
        assert all(
            getattr(option, "help", None) or option.name in ("mode", "on_unknown") for option in options
        )
        assert "Usage" in printed


def moved_data(shop: Path, tmp_path: Path) -> Path:
    """A run whose data set is no longer where it was."""
    run = tmp_path / "run-of-moved-data"
    shutil.copytree(shop / "run", run)
    about = json.loads((run / "run.json").read_text())
    about["data"]["path"] = str(tmp_path / "elsewhere")
    (run / "run.json").write_text(json.dumps(about))
    return run


def test_errors_are_one_line(shop: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("a b\nb c\n" * 20)
    assert "missing.csv" in failed("prepare", tmp_path / "missing.csv", "--out", tmp_path / "data")
    assert "exists already" in failed("prepare", log, "--out", shop / "data")
    assert "exists already" in failed("train", shop / "data", "--out", shop / "run")
    assert "is not a dataset" in failed("train", tmp_path, "--out", tmp_path / "run")
    assert "did you mean epochs" in failed(
        "train", shop / "data", "--out", tmp_path / "run", "--set", "epoch=1"
    )
    assert "leave the others out" in failed(
        "train", shop / "data", "--out", tmp_path / "run", "--resume", "--final"
    )
    assert "is not a training run" in failed("export", tmp_path, "--out", tmp_path / "bundle")
    assert "exists already" in failed("export", shop / "run", "--out", shop / "bundle")
    assert "no bundle" in failed("evaluate", tmp_path, shop / "data")
    both = ("--mode", "exact", "--candidates", "0.1")
    assert "--candidates" in failed("evaluate", shop / "bundle", shop / "data", *both)
    assert "above 0 and up to 1" in failed("recommend", shop / "bundle", "--candidates", "0")
    assert "at least 1" in failed("recommend", shop / "bundle", "-k", "0")
    assert "--candidates" in failed("recommend", shop / "bundle", *both)
    assert "--data" in failed("export", moved_data(shop, tmp_path), "--out", tmp_path / "bundle")
    assert hiersrec("evaluate", shop / "bundle").exit_code == 2
    assert not (tmp_path / "run").exists()


def test_integer_ids_are_read_as_integers(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("".join(f"{n % 7 - 3} {(n + 1) % 7 - 3} {(n + 2) % 7 - 3}\n" for n in range(60)))
    passed("prepare", log, "--test-fraction", "0.1", "--out", tmp_path / "data")
    passed("train", tmp_path / "data", "--out", tmp_path / "run", *SMALL)
    passed("export", tmp_path / "run", "--out", tmp_path / "bundle")
    answer = json.loads(passed("recommend", tmp_path / "bundle", "3", "--json"))
    assert all(isinstance(item, int) for item in answer["items"])
    assert all(-3 <= item <= 3 for item in answer["items"])
    assert "skipped" not in passed("recommend", tmp_path / "bundle", "-2", "3", "-k", "3")
    assert "item id 'three' is no whole number" in failed("recommend", tmp_path / "bundle", "3", "three")


def test_a_missing_extra_names_the_command_that_installs_it(tmp_path: Path) -> None:
    """As on a machine with the runtime alone: torch and polars cannot be imported."""
    code = (
        "import sys\n"
        "for name in ('torch', 'polars', 'onnx'): sys.modules[name] = None\n"
        "from hiersrec_sdk.cli.main import main\n"
        "main()\n"
    )
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/config.json").touch()
    for arguments in (
        ["prepare", "log.csv", "--out", "data"],
        ["train", "data", "--out", "run"],
        ["export", "run", "--out", "out"],
        ["export", "bundle", "--standalone", "model.onnx"],
        ["evaluate", "bundle", "data"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1, done.stderr
        assert "pip install 'hiersrec-sdk[train]'" in done.stderr
        assert "Traceback" not in done.stderr
