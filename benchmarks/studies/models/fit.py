"""Training and measuring a neural baseline: the same batches, softmax, schedule and ranks as for our own model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.studies.models.session_model import SessionModel
from hiersrec_training.batches import Batches
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.losses import ScoreOffsets, catalog_cross_entropy
from hiersrec_training.metrics import ranking_metrics, target_ranks
from hiersrec_training.optimizer import schedule

RANKED_TOGETHER = 256  # positions whose scores of the whole catalog are held at once
WARMUP = 0.05  # share of the steps


@dataclass(frozen=True)
class Settings:
    """What is tuned on the validation split."""

    dimension: int = 128
    dropout: float = 0.25
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    epochs: int = 5
    batch_sessions: int = 128
    max_length: int = 50
    seed: int = 0


def fit(
    kind: type[SessionModel],
    settings: Settings,
    sessions: Sessions,
    items: int,
    measured: Sessions,
    dtype: torch.dtype = torch.float32,
    until: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    progress: bool = False,
) -> list[dict[str, float]]:
    """Train on ``sessions`` and measure on ``measured`` after each epoch.

    Adam with our own schedule; ``dtype`` is that of the products of the softmax over items;
    ``until``: stop after so many of the epochs.
    Returns the metrics of :func:`ranking_metrics` after each epoch, every item ranked, ties against the model.
    """
    torch.manual_seed(settings.seed)
    model = kind(items, settings.dimension, settings.dropout, settings.max_length)
    batches = Batches(sessions, settings.max_length, settings.batch_sessions)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings.weight_decay, fused=True)
    steps = settings.epochs * len(batches)
    found = []
    step = 0
    for epoch in range(until or settings.epochs):
        model.train()
        bar = tqdm(
            batches.shuffled(settings.seed, epoch), f"epoch {epoch + 1}", len(batches), disable=not progress
        )
        for batch in bar:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * schedule(step / steps, WARMUP)
            table = model.table()
            query = model.queries(F.embedding(batch.items, table))[batch.there]
            none = ScoreOffsets.none(len(query))
            loss = catalog_cross_entropy(query, table, none, batch.target, batch.weight, dtype)
            optimizer.zero_grad(set_to_none=True)
            (loss / len(batch.target)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            step += 1
        metrics = ranking_metrics(ranks(model, measured, progress))
        report(f"epoch {epoch + 1}: Recall@20 {metrics['recall@20']:.4f}, MRR@20 {metrics['mrr@20']:.4f}")
        found.append(metrics)
    return found


@torch.no_grad()
def ranks(model: SessionModel, sessions: Sessions, progress: bool = False) -> NDArray[np.int64]:
    """int64 [examples]: the rank of each next click among all items, short sessions first."""
    model.eval()
    table = model.table()
    batches = Batches(sessions, model.max_length, 256)
    every = []
    for batch in tqdm(batches.in_order(), "ranks", len(batches), disable=not progress, leave=False):
        query = model.queries(F.embedding(batch.items, table))[batch.there]
        for some, target in zip(
            query.split(RANKED_TOGETHER), batch.target.split(RANKED_TOGETHER), strict=True
        ):
            every.append(target_ranks(some @ table.T, target))
    return np.concatenate(every)
