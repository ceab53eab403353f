"""The benchmarks of whole calls run on a bundle as export writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import catalog_updates, recommend


@pytest.mark.parametrize("with_data", [True, False])
def test_where_the_time_of_a_call_goes(
    with_data: bool, tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "parts.json"
    options = [str(tiny_bundle), "--rows", "48,300", "--changed", "1,6", "--lengths", "1,5", "--calls", "5"]
    options += ["--json", str(file), *(["--data", str(tiny_data)] if with_data else [])]
    result = CliRunner().invoke(recommend.main, options, catch_exceptions=False)
    assert result.exit_code == 0
    found = json.loads(file.read_text())
    kinds = {(row["items"], row["upserts"], row["clicks"], row["how"]) for row in found}
    assert len(kinds) == len(found)
    for items, upserts in (
        (48, 0),
        (49, 1),
        (51, 6),
        (300, 0),
        (301, 1),
        (303, 6),
    ):  # every second is an update
        for clicks in (1, 5):
            assert {how for *kind, how in kinds if kind == [items, upserts, clicks]} == {*recommend.HOW}
    for row in found:
        parts = [row[part] for part in ("gather", "encoder", "kernel")]
        assert min(parts) > 0
        assert row["whole"] == pytest.approx(sum(parts) + row["rest"])
    assert "| 300, 0, exact" in result.output


def test_a_catalog_that_changes(tiny_bundle: Path, tiny_data: Path) -> None:
    options = [
        str(tiny_bundle),
        "--data",
        str(tiny_data),
        "--rows",
        "300",
        "--calls",
        "20",
        "--upserts",
        "60",
    ]
    result = CliRunner().invoke(catalog_updates.main, [*options, "--seconds", "0.1"], catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith("300 items")
    assert sum(", p99" in line for line in lines) == 18
    assert sum("beside" in line for line in lines) == 4
