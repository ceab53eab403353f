"""Ranking metrics of the model itself, in PyTorch: what an epoch ends with."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from hiersrec_training.batches import Batches
from hiersrec_training.metrics import ranked_together, ranking_metrics, target_ranks
from hiersrec_training.model import HierSRec, Metadata


@torch.no_grad()
def evaluate_model(
    model: HierSRec, meta: Metadata, batches: Batches, progress: bool = False
) -> dict[str, float]:
    """Ranking metrics of every example, with every item ranked; ties count against the model."""
    model.eval()
    device = meta.category_path.device
    table = model.items.all_vectors(meta)
    ranks = []
    right = np.zeros(meta.category_path.shape[1])
    for batch in tqdm(batches.in_order(), "validation", len(batches), disable=not progress, leave=False):
        batch = batch.to(device)
        states, sums = model.session.read(F.embedding(batch.items, table))
        answer = model.session.answer(states[batch.there], sums[batch.there])
        repeats = model.repeat_offsets(batch, answer)
        for rows, some in repeats.chunks(len(batch.target), ranked_together(len(table))):
            scores = answer.query[rows] @ table.T
            repeats.add_to(scores, rows, some)
            ranks.append(target_ranks(scores, batch.target[rows]))
        path = meta.category_path[batch.target]
        for level, logits in enumerate(answer.category_logits):
            right[level] += int((logits.argmax(1) == path[:, level]).sum())
    every = np.concatenate(ranks)
    accuracy = {f"category_accuracy_{level}": float(count) / len(every) for level, count in enumerate(right)}
    return ranking_metrics(every) | accuracy
