"""Every path is the file or folder of exactly that name: no pattern, no home folder, no escape, no option."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from hiersrec_sdk import Recommender
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.data.simulate import simulate
from tests.sdk.cli.run import SMALL, failed, passed

NAMES = [
    "a[1]",
    "b*",
    "c?",
    "d e",
    "é",
    "#x",
    "%41",
    "~root",
    "-y",
    "{a,b}",
    "k=v",
    "$HOME",
    "a:b",
    "s3::x",
    "!z",
    "~",
]


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and a home folder that stays empty."""
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_a_dataset_is_the_folder_of_its_name(
    name: str, odd: Path, make_dataset: Callable[..., Dataset]
) -> None:
    for seed, other in enumerate(("a1", "b", "bx", "cx", "A", "x", "a", "root")):  # what patterns would find
        make_dataset(seed=seed + 1).save(Path(other))
    mine = make_dataset(seed=20)
    mine.save(Path(name))
    found = Dataset.load(Path(name))
    assert found.train.items.tolist() == mine.train.items.tolist()
    assert found.item_ids.to_list() == mine.item_ids.to_list()
    assert not list((odd / "home").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_simulated_shop_is_in_the_folder_of_its_name(name: str, odd: Path) -> None:
    simulate(Path(name), items=100, sessions=20, seed=0)
    assert sorted(path.name for path in odd.joinpath("here", name).iterdir()) == [
        "README.txt",
        "simulated-events.csv",
        "simulated-items.csv",
    ]
    assert not list((odd / "home").iterdir())


@pytest.mark.parametrize("shift", range(0, len(NAMES), 4))
@pytest.mark.slow
def test_the_whole_way_with_odd_names(shift: int, shop: Path, odd: Path) -> None:
    """Each step has another name, and beside it lies what a pattern would find."""
    names = [NAMES[(shift + at) % len(NAMES)] for at in range(len(NAMES))]
    folder = Path(f"in {names[0]}")
    folder.mkdir()
    # an argument that begins with a minus sign is written ./-y
    log, items, data, run, bundle, final, changed = (f"./{folder}/{name}" for name in names[:7])
    standalone, changes, config = (f"./{name}-file" for name in names[7:10])
    shutil.copyfile(shop / "shop/simulated-events.csv", f"{log}.csv")
    shutil.copyfile(shop / "shop/simulated-items.csv", f"{items}.csv")
    for other in ("a1", "bx", "cx", "A"):
        shutil.copytree(shop / "bundle", folder / other)
        Path(f"{folder}/{other}.csv").write_text("session,item,time\n1,other,1\n1,other,2\n")
    passed(
        *("prepare", f"{log}.csv", "--items", f"{items}.csv", "--event-column", "event", "--event", "view"),
        *("--category-column", "department", "--test-days", "3", "--out", data),
    )
    counts = json.loads(Path(data, "dataset.json").read_text())["counts"]
    assert counts["test_sessions"] == Dataset.load(shop / "data").counts["test_sessions"]
    Path(config).write_text("dimension = 16\nheads = 2\n")
    passed("train", data, "--out", run, "--config", config, *SMALL)
    passed("train", data, "--out", final, "--final", "--validated-by", run)
    passed("export", run, "--out", bundle, "--standalone", f"{standalone}.onnx")
    assert Path(f"{standalone}.onnx").is_file()
    item = str(Dataset.load(Path(data)).item_ids[0])
    assert "verified" in passed("inspect", bundle)
    answer = json.loads(passed("recommend", bundle, item, "--json"))
    assert answer["items"] == list(Recommender.load(bundle).recommend([item], 20).items)
    passed("explain", bundle, answer["items"][0], item)
    assert json.loads(passed("evaluate", bundle, data, "--json"))["examples"] == counts["test_examples"]
    Path(changes).write_text(json.dumps({"remove": answer["items"][0]}) + "\n")
    passed("catalog", "apply", bundle, changes, "--out", changed)
    assert answer["items"][0] not in json.loads(passed("recommend", changed, item, "--json"))["items"]
    assert not list((odd / "home").iterdir())
    assert {path.name for path in Path().iterdir()} == {
        folder.name,
        *(Path(name).name for name in (f"{standalone}.onnx", changes, config)),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_is_the_folder_or_the_zip_file_of_its_name(name: str, shop: Path, odd: Path) -> None:
    shutil.copytree(shop / "bundle", name)
    shutil.make_archive("archive", "zip", shop / "bundle")
    Path("archive.zip").rename(f"{name}.zip")
    for source in (name, Path(name), f"{name}.zip", Path(f"{name}.zip")):
        assert len(Recommender.load(source).catalog) > 0


@pytest.mark.parametrize("name", ["a[1]", "d e", "é", "%41", "~root", "-y", "b*", "c?"])
def test_a_url_of_a_folder_is_literal(name: str, shop: Path, odd: Path) -> None:
    pytest.importorskip("fsspec")
    shutil.copytree(shop / "bundle", name)
    assert len(Recommender.load(f"file://{Path.cwd()}/{name}").catalog) > 0


@pytest.mark.parametrize("out", [".", "/", "..", "./"])
def test_a_folder_that_is_there_is_never_a_traceback(out: str, shop: Path, odd: Path) -> None:
    assert "exists already" in failed("train", shop / "data", "--out", out, *SMALL)
    assert "exists already" in failed("export", shop / "run", "--out", out)
    assert "exists already" in failed("simulate", "--out", out)
    assert "exists already" in failed("prepare", shop / "shop/simulated-events.csv", "--out", out)


def test_the_batch_example_reads_the_one_file_of_the_name(shop: Path, odd: Path) -> None:
    from click.testing import CliRunner

    from examples.polars_batch import main

    item = Dataset.load(shop / "data").item_ids[0]
    for name, session in (("a1", "other"), ("a[1]", "mine"), ("~root", "mine")):
        clicks = pl.DataFrame({"session": [session], "item": [item], "time": [1]})
        clicks.write_parquet(Path.cwd() / name)
    for name in ("a[1]", "~root"):
        out = f"{name}-out"
        found = CliRunner().invoke(
            main, [f"./{name}", "--bundle", str(shop / "bundle"), "--out", out], catch_exceptions=False
        )
        assert found.exit_code == 0, found.output
        assert set(pl.read_parquet(Path.cwd() / out, glob=False)["session"]) == {"mine"}
