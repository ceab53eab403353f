"""Our metrics beside an independent implementation."""

from __future__ import annotations

import numpy as np
import pytest

from hiersrec_training.metrics import ranking_metrics


def test_ranx_agrees_on_ten_thousand_examples() -> None:
    ranx = pytest.importorskip("ranx", reason="ranx is not installed; it comes with the extra bench")
    random = np.random.default_rng(0)
    examples, items, listed = 10_000, 300, 40
    targets = random.integers(0, items, examples)
    lists = [random.permutation(items)[:listed] for _ in range(examples)]
    ranks = np.array(
        [(np.flatnonzero(row == target) + 1).sum() for row, target in zip(lists, targets, strict=True)]
    )
    qrels = ranx.Qrels({f"c{example}": {f"i{target}": 1} for example, target in enumerate(targets)})
    run = ranx.Run(
        {
            f"c{example}": {f"i{item}": float(listed - position) for position, item in enumerate(row)}
            for example, row in enumerate(lists)
        }
    )
    ours = ranking_metrics(ranks)
    names = [f"{metric}@{cut}" for metric in ("recall", "mrr", "ndcg") for cut in (1, 5, 10, 20)]
    theirs = ranx.evaluate(qrels, run, names)
    assert 0 < ours["recall@20"] < 1
    for name in names:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12), name
