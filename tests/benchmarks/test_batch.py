"""The benchmark of many sessions runs, and each way gives the same items."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from benchmarks import batch
from hiersrec_training.data.dataset import Dataset


def test_sessions_are_repeated(tiny_data: Path, tmp_path: Path) -> None:
    batch.write_sessions(tmp_path / "sessions", tiny_data, 530)
    found = pq.read_table(tmp_path / "sessions").to_pydict()
    dataset = Dataset.load(tiny_data)
    splits = dataset.train, dataset.validation, dataset.test
    once = [dataset.item_ids[split[at].tolist()].to_list() for split in splits for at in range(len(split))]
    assert found["visitor"] == [*range(530)]
    assert found["items"] == (once * 3)[:530]


@pytest.mark.slow
def test_one_process_and_two(tiny_bundle: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "find_spec", lambda name: None)
    options = [str(tiny_bundle), "--data", str(tiny_data), "--sessions", "300", "--rows", "0,200", "-k", "5"]
    result = CliRunner().invoke(batch.main, options, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line for line in lines if line.endswith("k 5")] == [
        "48 items, 300 sessions, k 5",
        "200 items, 300 sessions, k 5",
    ]
    assert sum(line.startswith("| 1 process") for line in lines) == 2
    assert sum("not installed" in line for line in lines) == 4
