from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import large
from benchmarks.growing import empty_step, step_graph
from hiersrec_export.graphs import session_graph
from hiersrec_sdk import Recommender
from hiersrec_sdk.encoders.session_encoder import load_graph
from hiersrec_training.run import load_model


@pytest.mark.parametrize("strings", [False, True])
def test_a_large_catalogue(strings: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large.write(tmp_path / "bundle", 3_000, 8, strings)
    catalog = Recommender.load(tmp_path / "bundle").catalog  # every table is checked
    assert len(catalog) == 3_000
    assert catalog.rows(catalog.ids(np.arange(3_000))).tolist() == list(range(3_000))
    large.measure(tmp_path / "bundle", 20)
    lines = capsys.readouterr().out.splitlines()
    assert "load, not verified" in lines[0]
    assert sum(", p99" in line for line in lines) == 7


def test_one_more_click_gives_what_all_clicks_give(tiny_run: Path) -> None:
    model, _ = load_model(tiny_run)
    whole, step = (load_graph(graph(model), "", ("cpu",), 1) for graph in (session_graph, step_graph))
    d = model.config.dimension
    vectors = np.random.default_rng(0).standard_normal((model.config.max_length, d), dtype=np.float32)
    kept = empty_step(model)
    for length in range(1, model.config.max_length + 1):
        names = [value.name for value in step.get_inputs()]
        answer = step.run(None, dict(zip(names, [vectors[length - 1 : length], *kept], strict=True)))
        wanted = whole.run(
            ["category_logits", "repeat_logits", "item_query"],
            {"session_vectors": vectors[None, :length], "session_lengths": np.array([length])},
        )
        for found, right in zip(answer[:3], wanted, strict=True):
            np.testing.assert_allclose(found.ravel(), right.ravel(), rtol=1e-4, atol=1e-4)
        kept = answer[3:]
