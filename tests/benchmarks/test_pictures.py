"""The pictures are drawn from runs of the ranking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from benchmarks.peers import OURS, READ
from benchmarks.pictures import main


def row(work: str, by: str, median: float, recall: float | None, rows: int) -> dict[str, Any]:
    ranks = "candidates" if by in (OURS, READ) else "all"
    return {"work": work, "by": by, "median_us": median, "recall_exact": recall, "ranks": ranks, "rows": rows}


def test_pictures(tmp_path: Path) -> None:
    files = []
    for size in (1_000, 10_000):
        rows = [
            row(work, by, median, recall, size)
            for work in ("exact", "candidates", "batch")
            for by, median, recall in (
                (OURS, 10, 0.99),
                (READ, 9, None),
                ("faiss-ivf-4", 5, 0.9),
                ("faiss-ivf-16", 8, 0.95),
                ("onnxruntime", 90, 1.0),
                ("a new one", 95, 1.0),
            )
        ]
        files.append(tmp_path / f"{size}.json")
        files[-1].write_text(json.dumps(rows))
    arguments = [*map(str, files), "--out", str(tmp_path / "out"), "--at", "1000"]
    assert CliRunner().invoke(main, arguments, catch_exceptions=False).exit_code == 0
    for name in ("size", "recall"):
        assert (tmp_path / "out" / f"ranking-{name}.png").read_bytes().startswith(b"\x89PNG")
