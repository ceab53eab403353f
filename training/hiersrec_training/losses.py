"""Cross-entropy over the catalogue: the whole of it in one pass, or a corrected sample."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

CHUNK = 128  # positions at a time: their logits stay in the processor's cache


def chunks(positions: int, bonus_position: Tensor, size: int) -> Iterator[tuple[slice, slice]]:
    """Slices of ``size`` positions, each with the slice of the bonuses (sorted by position) that fall on it."""
    starts = torch.arange(0, positions + size, size, device=bonus_position.device)
    edges = torch.searchsorted(bonus_position, starts).tolist()
    for chunk, (first, last) in enumerate(pairwise(edges)):
        yield slice(chunk * size, min((chunk + 1) * size, positions)), slice(first, last)


class _CatalogCrossEntropy(torch.autograd.Function):
    """Logits, softmax and all three gradients chunk by chunk, so that the [positions, items] logits never exist whole.

    Computing the gradients in the forward pass saves computing the logits twice; backward only scales them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        vectors: Tensor,
        target: Tensor,
        weight: Tensor,
        bonus: Tensor,
        bonus_position: Tensor,
        bonus_item: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        items = len(vectors)
        table = vectors.to(dtype)
        query_low = query.to(dtype)
        weighted = (query * weight[:, None]).to(dtype)
        grad_query = torch.empty_like(query)
        grad_vectors = torch.zeros_like(vectors)
        grad_bonus = torch.empty_like(bonus)
        loss = query.new_zeros(())
        for rows, some in chunks(len(query), bonus_position, CHUNK):
            place = (bonus_position[some] - rows.start) * items + bonus_item[some]
            logits = query_low[rows] @ table.T
            logits.view(-1).index_add_(0, place, bonus[some].to(dtype))
            slope = torch.softmax(logits, dim=1)
            index = target[rows, None]
            at_target = slope.gather(1, index)
            loss -= (weight[rows] * at_target[:, 0].float().clamp_min(1e-30).log()).sum()
            slope.scatter_(1, index, at_target - 1)
            grad_query[rows] = slope @ table
            grad_vectors += slope.T @ weighted[rows]
            grad_bonus[some] = slope.view(-1)[place].to(bonus.dtype)
        grad_query *= weight[:, None]
        grad_bonus *= weight[bonus_position]
        ctx.save_for_backward(grad_query, grad_vectors, grad_bonus)
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        grad_query, grad_vectors, grad_bonus = ctx.saved_tensors
        return grad_query * scale, grad_vectors * scale, None, None, grad_bonus * scale, None, None, None


def catalog_cross_entropy(
    query: Tensor,
    vectors: Tensor,
    target: Tensor,
    weight: Tensor,
    bonus: Tensor,
    bonus_position: Tensor,
    bonus_item: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weighted sum over positions of the cross-entropy of the full softmax over all items.

    Args:
        query: float32 [positions, d].
        vectors: float32 [items, d]; logits are ``query @ vectors.T`` plus the bonuses.
        target: int64 [positions], the item that came next.
        weight: float32 [positions].
        bonus: float32 [bonuses], added to the logit of ``bonus_item`` (int64) at ``bonus_position`` (int64, sorted).
        dtype: of the matrix products; sums over chunks stay in float32.
    """
    loss: Tensor = _CatalogCrossEntropy.apply(  # type: ignore[no-untyped-call]
        query, vectors, target, weight, bonus, bonus_position, bonus_item, dtype
    )
    return loss


def sampled_cross_entropy(
    query: Tensor,
    sampled_vectors: Tensor,
    sampled_log_expected: Tensor,
    sampled_masked: Tensor,
    own_logits: Tensor,
    target_logits: Tensor,
    weight: Tensor,
) -> Tensor:
    """Weighted sum over positions of the cross-entropy of a sampled softmax (Jean et al., arXiv 1412.2007).

    The target and the session's own items always stand in the denominator with their true logits. The sampled items
    stand for all others: the logarithm of the expected number of draws is taken from each logit, so that the sampled
    denominator is an unbiased estimate of the full one.

    Args:
        query: float32 [positions, d].
        sampled_vectors: float32 [samples, d], distinct items.
        sampled_log_expected: float32 [samples], log(draws · probability / times drawn).
        sampled_masked: bool [positions, samples], true where the item already stands among own items or as target.
        own_logits: float32 [positions, own], -inf at places that do not count.
        target_logits: float32 [positions]; the target must not stand among the own logits.
        weight: float32 [positions].
    """
    sampled = query @ sampled_vectors.T - sampled_log_expected
    sampled = sampled.masked_fill(sampled_masked, -torch.inf)
    every = torch.cat([target_logits[:, None], own_logits, sampled], dim=1)
    return (weight * (torch.logsumexp(every, dim=1) - target_logits)).sum()
