"""The notebooks of examples/, each run from top to bottom."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import nbformat
import pytest
from nbclient import NotebookClient

from tests.examples.processes import ROOT

NOTEBOOKS: Final = sorted((ROOT / "examples").glob("*.ipynb"))
# What each prints, and how many pictures it shows.
SHOWN: Final = {
    "notebook": (["brand-new has rank", "True\nFalse\n"], 1),
    "own_log": (["validation", "PyTorch and onnxruntime agree", "clicked: "], 0),
    "category_heads": (["sum 1.000", "candidates=1.0: 48 of 48 items ranked, 10 of", "leaf categories"], 1),
    "new_items": (["48 items before, 49 now", "with a bias of 20: rank 1\n", "True\n"], 0),
}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_runs(path: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERSREC_BUNDLE", str(tiny_bundle))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # of the tests; a notebook shows its pictures inline
    notebook = read(path)
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output.get("text", "") for output in outputs)
    texts, pictures = SHOWN[path.stem]
    for text in texts:
        assert text in printed, printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == pictures
    assert printed.endswith(texts[-1]) or not texts[-1].endswith("\n")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_stored_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
