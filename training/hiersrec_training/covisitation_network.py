"""The network of the co-visitation scorer."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hiersrec_sdk.ranking.covisitation import FEATURES, POPULARITIES, CovisitationCounts, CovisitationScorer


class CovisitationNetwork(nn.Module):
    """The co-visitation scorer: additions to the encoder's scores from the counts of the click log.

    It holds a network for the bias of every item by its popularity, one for the score offset of each item co-visited
    with the session (:mod:`hiersrec_sdk.ranking.covisitation`), and a scale of the encoder's scores beside them, as in
    Wide & Deep (arXiv 1606.07792). Initialised to zero output. Fitted after the encoder, see
    :mod:`hiersrec_training.covisitation`.
    """

    mean: Tensor  # float32 [FEATURES]
    deviation: Tensor  # float32 [FEATURES]
    fitted: Tensor  # bool []

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.bias_in, self.bias_out = nn.Linear(POPULARITIES, 16), nn.Linear(16, 1)
        self.offset_in, self.offset_out = nn.Linear(FEATURES, 24), nn.Linear(24, 1)
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Initialise to zero output, ready to be fitted."""
        self.scale.fill_(1.0)
        for first in (self.bias_in, self.offset_in):
            first.reset_parameters()
        for last in (self.bias_out, self.offset_out):
            last.weight.zero_()
            last.bias.zero_()
        self.fitted.fill_(False)

    def standardise(self, popularity: Tensor, features: Tensor) -> None:
        """Take over mean and deviation of the inputs.

        Args:
            popularity: [n, POPULARITIES] of all items.
            features: [m, FEATURES] of co-visited items.
        """
        for inputs, width in ((features, len(self.mean)), (popularity, POPULARITIES)):
            self.mean[:width] = inputs.mean(0)
            # a single row has no deviation
            self.deviation[:width] = (inputs.std(0) if len(inputs) > 1 else inputs[0] * 0).clamp_min(1e-3)

    def item_bias(self, popularity: Tensor) -> Tensor:
        """Biases [n] of items, from their popularity [n, POPULARITIES]."""
        weight, shift = self._standardising(self.bias_in, POPULARITIES)
        hidden = F.gelu(F.linear(popularity, weight, shift))
        return hidden @ self.bias_out.weight[0] + self.bias_out.bias

    def score_offsets(self, features: Tensor) -> Tensor:
        """Score offsets [m] of co-visited items, from their features [m, FEATURES]."""
        hidden = F.linear(features, *self._standardising(self.offset_in, FEATURES)).relu_()
        return hidden @ self.offset_out.weight[0] + self.offset_out.bias

    def _standardising(self, layer: nn.Linear, width: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of ``layer`` for inputs as they are: it wants them less their mean, over their deviation."""
        weight = layer.weight / self.deviation[:width]  # [h, width]
        return weight, layer.bias - weight @ self.mean[:width]

    @torch.no_grad()
    def exported(self, covisits: CovisitationCounts) -> tuple[CovisitationScorer, NDArray[np.float32]]:
        """The scorer as it is served, over ``covisits``; and the bias float32 [n] of the items."""
        weight, shift = self._standardising(self.offset_in, FEATURES)
        network = (weight.T, shift, torch.cat([self.offset_out.weight[0], self.offset_out.bias]))
        scorer = CovisitationScorer(covisits, *(each.cpu().contiguous().numpy() for each in network))
        return scorer, self.item_bias(torch.from_numpy(covisits.popularity)).numpy()
