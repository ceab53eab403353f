"""Which peers run together, and that the pictures can be drawn."""

from __future__ import annotations

from typing import Any

from benchmarks.draw import recall_picture, size_picture
from benchmarks.pictures import groups, merged


def test_groups() -> None:
    names = ["onnxruntime", "numpy", "faiss-flat", "torch"]

    assert groups(names, 1e9, 16e9) == [["numpy", "torch", "faiss-flat", "onnxruntime"]]
    assert groups(names, 4e9, 16e9) == [["numpy", "torch", "faiss-flat"], ["onnxruntime"]]
    assert groups(names, 5.5e9, 16e9) == [["numpy", "torch", "faiss-flat"]]


def row(work: str, by: str, median: float, recall: float | None = 1.0) -> dict[str, Any]:
    ranks = "candidates" if by in ("hiersrec-int8", "plain-read") else "all"
    return {"work": work, "by": by, "median_us": median, "recall_exact": recall, "ranks": ranks}


def test_merged() -> None:
    first, second = (
        [row("exact", "hiersrec-int8", 1)],
        [row("exact", "hiersrec-int8", 2), row("exact", "torch", 3)],
    )

    assert merged([first, second]) == [first[0], second[1]]


def test_pictures() -> None:
    rows = [
        row(work, by, median, recall)
        for work in ("exact", "candidates")
        for by, median, recall in (
            ("hiersrec-int8", 10, 0.99),
            ("plain-read", 9, None),
            ("faiss-ivf-4", 5, 0.9),
            ("faiss-ivf-16", 8, 0.95),
            ("onnxruntime", 90, 1.0),
        )
    ]

    assert size_picture({1_000: rows, 10_000: rows}).startswith(b"\x89PNG")
    assert recall_picture(rows, 1_000).startswith(b"\x89PNG")
