"""examples/polars_batch.py on click logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from examples.polars_batch import main
from hiersrec_sdk import Recommender


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_every_session_is_answered(tiny_bundle: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sessions = {f"visit {at}": random.integers(0, 48, random.integers(1, 9)).tolist() for at in range(40)}
    clicks = [
        (session, f"item-{item}", 100.0 * at + position)
        for at, (session, items) in enumerate(sessions.items())
        for position, item in enumerate(items)
    ]
    log = pl.DataFrame(clicks, schema=["visit", "item", "at"], orient="row").sample(
        fraction=1, shuffle=True, seed=1
    )
    log.write_parquet(tmp_path / "clicks.parquet")
    done = run(
        tmp_path / "clicks.parquet",
        "--bundle",
        tiny_bundle,
        "--out",
        tmp_path / "out.parquet",
        "--session-column",
        "visit",
        "--time-column",
        "at",
        "-k",
        7,
        "--chunk",
        9,
    )
    assert done.exit_code == 0, done.output
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found.columns == ["session", "rank", "item", "score", "title"]
    recommender = Recommender.load(tiny_bundle)
    answers = dict(
        found.group_by("session").agg(pl.all().sort_by("rank")).select("session", "item").iter_rows()
    )
    assert answers == {
        session: list(recommender.recommend([f"item-{item}" for item in items], 7).items)
        for session, items in sessions.items()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clicks.parquet", "out.parquet"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"session": [1], "item": [5], "time": [1]}, "session 0: item id at position 0 is 5"),
        ({"session": [1], "product": ["item-5"], "time": [1]}, "item"),
        ({"session": [], "item": [], "time": []}, "has no rows"),
    ],
)
def test_says_what_is_wrong(
    tiny_bundle: Path, tmp_path: Path, columns: dict[str, list[object]], says: str
) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "clicks.parquet")
    failed = run(tmp_path / "clicks.parquet", "--bundle", tiny_bundle, "--out", tmp_path / "out.parquet")
    assert failed.exit_code == 1
    assert says in failed.output
    assert "Traceback" not in failed.output
    assert not (tmp_path / "out.parquet").exists()
