"""The losses of a batch: cross-entropy of the next item, over the catalog or a sample of it, and of its categories."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hiersrec_training.batches import Inputs
from hiersrec_training.distributed import ALONE, Ranks
from hiersrec_training.losses import ScoreOffsets, catalog_cross_entropy, sampled_cross_entropy
from hiersrec_training.model import Answer, HierSRec, Metadata


class Objective:
    """What training minimises.

    Args:
        model: on the device to train on.
        meta: of all items, there too.
        clicks: int64 [items] of the training sessions.
        dtype: of the matrix products of the full softmax.
        ranks: that share the batches.
    """

    def __init__(
        self,
        model: HierSRec,
        meta: Metadata,
        clicks: NDArray[np.int64],
        dtype: torch.dtype,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.meta, self.dtype, self.ranks = model, meta, dtype, ranks
        device = meta.category_path.device
        # metadata that learn to place items by themselves must not learn that nobody wants items without clicks
        negative = (clicks > 0) if model.config.id_dropout else np.ones(len(clicks), dtype=bool)
        self.negatives = torch.from_numpy(np.flatnonzero(negative)).to(device)
        # position of an item among them
        self.negative_of = torch.from_numpy(np.cumsum(negative) - 1).to(device)
        chances = np.where(negative, clicks + 1.0, 0.0)
        chances = chances**0.75 / (chances**0.75).sum()
        self.chances = torch.from_numpy(chances).to(device)
        # not on a GPU, where an item without a chance might seem to add a rounding error; it ends with 1 exactly
        cumulated = chances.cumsum()
        self.cumulated = torch.from_numpy(cumulated / cumulated[-1]).to(device)

    def losses(self, inputs: Inputs, positions: int | None = None) -> dict[str, Tensor]:
        """The ``loss`` and its parts: sums over the positions of ``inputs``, divided by ``positions``.

        By default by their own number: a mean.
        """
        sums = self._sampled(inputs) if self.model.items.is_sampled else self._full(inputs)
        return {name: total / (positions or len(inputs.target)) for name, total in sums.items()}

    def _full(self, inputs: Inputs) -> dict[str, Tensor]:
        table, clicked = self.model.items.all_and_some(self.meta, inputs.items.flatten(), self.dtype)
        answer, repeats = self._answer(inputs, clicked.view(*inputs.items.shape, clicked.shape[1]))
        target = inputs.target
        if len(self.negatives) < len(table):
            table, target = table[self.negatives], self.negative_of[target]
            repeats = repeats._replace(item=self.negative_of[repeats.item])
        item_loss = catalog_cross_entropy(answer.query, table, repeats, target, inputs.weight, self.dtype)
        return self._joint(item_loss, answer.category_logits, inputs)

    def _sampled(self, inputs: Inputs) -> dict[str, Tensor]:
        # All ranks draw the same items. Others on each would estimate the denominator better, but then a step reaches
        # and sends so many times as many rows, and its loss is not that of one process.
        samples, device = self.model.config.samples, self.chances.device
        # of float32 numbers one in 2^24 is 0, and an item with a smaller chance may never be drawn
        numbers = torch.rand(samples, device=device, dtype=torch.float64)
        # the first item that ends above a number: one without a chance ends where that before it does
        drawn = torch.searchsorted(self.cumulated, numbers, right=True)
        sampled, times = torch.unique(drawn, return_counts=True)
        expected = torch.log(samples * self.chances[sampled] / times).float()
        parts = [inputs.items.flatten(), inputs.target, sampled]
        needed, at = torch.unique(torch.cat(parts), return_inverse=True)
        clicked, target, sampled = at.split([len(part) for part in parts])
        vectors = self.model.items.some_vectors(needed, self.meta)
        answer, repeats = self._answer(inputs, F.embedding(clicked.view_as(inputs.items), vectors))
        item_loss = sampled_cross_entropy(
            answer.query,
            vectors,
            repeats._replace(item=torch.searchsorted(needed, repeats.item)),
            target,
            inputs.weight,
            sampled,
            expected,
        )
        return self._joint(item_loss, answer.category_logits, inputs)

    def _answer(self, inputs: Inputs, vectors: Tensor) -> tuple[Answer, ScoreOffsets]:
        """:meth:`HierSRec.answer`, with dropout masks of this rank's own."""
        self.ranks.own_random_numbers()
        return self.model.answer(inputs, vectors)

    def _joint(self, item_loss: Tensor, category_logits: list[Tensor], inputs: Inputs) -> dict[str, Tensor]:
        losses = {"item_loss": item_loss}
        total = item_loss
        path = self.meta.category_path[inputs.target]  # [P, L]
        for level, logits in enumerate(category_logits):
            each = F.cross_entropy(logits, path[:, level], reduction="none")
            losses[f"category_loss_{level}"] = (each * inputs.weight).sum()
            total = total + self.model.config.category_weight * losses[f"category_loss_{level}"]
        return {"loss": total, **losses}
