"""Ranking metrics of the model itself, in PyTorch: what an epoch ends with."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from hiersrec_training.batches import Batches
from hiersrec_training.distributed import ALONE, Ranks
from hiersrec_training.metrics import ranked_together, ranking_metrics, target_ranks
from hiersrec_training.model import HierSRec, Metadata


@torch.no_grad()
def evaluate_model(
    model: HierSRec, meta: Metadata, batches: Batches, progress: bool = False, ranks: Ranks = ALONE
) -> dict[str, float]:
    """Ranking metrics of every example, with every clicked item ranked; ties count against the model.

    Those without a click in training are left out, see :meth:`HierSRec.hide_unclicked`: as targets they are missed.

    Each of the ``ranks`` ranks the examples of some batches, and has the metrics of all.
    """
    model.eval()
    device = meta.category_path.device
    table = model.items.all_vectors(meta)
    found = [np.empty(0, np.int64)]
    right = np.zeros(meta.category_path.shape[1])
    total = -(-len(batches) // ranks.size)
    some = ranks.some(batches.in_order())
    for batch in tqdm(some, "validation", total, disable=not progress, leave=False):
        inputs = batch.inputs().to(device)
        answer, repeats = model.answer(inputs, F.embedding(inputs.items, table))
        for rows, offsets in repeats.chunks(ranked_together(len(table))):
            scores = answer.query[rows] @ table.T
            model.hide_unclicked(scores, repeats.add_to(scores, rows, offsets))
            found.append(target_ranks(scores, inputs.target[rows]))
        path = meta.category_path[inputs.target]
        for level, logits in enumerate(answer.category_logits):
            right[level] += int((logits.argmax(1) == path[:, level]).sum())
    parts = ranks.gathered((np.concatenate(found), right))
    every = np.concatenate([part for part, _ in parts])
    shares = np.sum([part for _, part in parts], axis=0) / len(every)
    return ranking_metrics(every) | {
        f"category_accuracy_{level}": float(one) for level, one in enumerate(shares)
    }
