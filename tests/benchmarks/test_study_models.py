"""The neural baselines see no future, learn, and are ranked as the definition says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.studies.models import MODELS, Settings, fit
from benchmarks.studies.models.fit import ranks
from hiersrec_training.data.dataset import Sessions

ITEMS = 30


def rounds(sessions: int, seed: int) -> Sessions:
    """Walks on a ring: each click is the next item."""
    random = np.random.default_rng(seed)
    lengths = random.integers(2, 7, sessions)
    starts = random.integers(0, ITEMS, sessions)
    clicks = np.concatenate(
        [(start + np.arange(n)) % ITEMS for start, n in zip(starts, lengths, strict=True)]
    )
    return Sessions(clicks.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


@pytest.mark.parametrize("name", MODELS)
def test_a_query_does_not_see_later_clicks(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name](ITEMS, 16, 0.1, 10).eval()
    clicks = torch.randint(ITEMS, (3, 8))
    changed = clicks.clone()
    changed[:, 5:] = torch.randint(ITEMS, (3, 3))
    with torch.no_grad():
        a, b = (model.queries(F.embedding(x, model.table())) for x in (clicks, changed))
    torch.testing.assert_close(a[:, :5], b[:, :5])
    assert not torch.allclose(a[:, 5:], b[:, 5:])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_it_learns(name: str) -> None:
    settings = Settings(
        dimension=32, dropout=0.1, learning_rate=2e-2, epochs=12, batch_sessions=32, max_length=10
    )
    lines: list[str] = []
    found = fit(MODELS[name], settings, rounds(400, 0), ITEMS, rounds(50, 1), report=lines.append)
    assert len(found) == len(lines) == 12
    assert found[-1]["mrr@20"] > (0.3 if name == "core" else 0.8)  # CORE answers with what is like its clicks
    assert fit(MODELS[name], settings, rounds(400, 0), ITEMS, rounds(50, 1)) == found  # the seed decides


def test_ranks_are_those_of_the_scores() -> None:
    torch.manual_seed(0)
    model = MODELS["gru4rec"](ITEMS, 16, 0.1, 10).eval()
    sessions = rounds(7, 3)
    found = ranks(model, sessions)
    expected = []
    with torch.no_grad():
        for clicks in sorted((sessions[i] for i in range(len(sessions))), key=len):
            items = torch.from_numpy(clicks[None].astype(np.int64))
            scores = model.queries(F.embedding(items, model.table()))[0] @ model.table().T
            expected += [int((scores[i] >= scores[i, clicks[i + 1]]).sum()) for i in range(len(clicks) - 1)]
    assert found.tolist() == expected
