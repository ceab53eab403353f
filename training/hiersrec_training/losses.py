"""Cross-entropy over the catalog: the whole of it in one pass, or a corrected sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK = 512  # positions at a time


class ScoreOffsets(NamedTuple):
    """Additions to single logits: ``value`` float32 [offsets] to that of ``item`` int64 at ``position`` int64.

    Sorted by position. A logit may have several. ``starts`` [positions + 1] says where each position's begin, and where
    the last ones end: it is a list since a tensor of a GPU would have to be waited for.
    """

    position: Tensor
    item: Tensor
    value: Tensor
    starts: list[int]

    @classmethod
    def none(cls, positions: int) -> ScoreOffsets:
        nothing = torch.zeros(0, dtype=torch.int64)
        return cls(nothing, nothing, torch.zeros(0), [0] * (positions + 1))

    def chunks(self, size: int) -> Iterator[tuple[slice, slice]]:
        """Slices of ``size`` of all positions, each with the slice of the offsets that fall on it."""
        positions = len(self.starts) - 1
        for first in range(0, positions, size):
            stop = min(first + size, positions)
            yield slice(first, stop), slice(self.starts[first], self.starts[stop])

    def add_to(self, logits: Tensor, rows: slice, some: slice) -> Tensor:
        """Add the offsets ``some`` to ``logits`` [rows, items] in place; returns their indices in the flat logits."""
        index: Tensor = (self.position[some] - rows.start) * logits.shape[1] + self.item[some]
        logits.view(-1).index_add_(0, index, self.value[some].to(logits.dtype))
        return index


class _CatalogCrossEntropy(torch.autograd.Function):
    """Logits, softmax and all three gradients chunk by chunk, so that the [positions, items] logits never exist whole.

    Computing the gradients in the forward pass saves computing the logits twice; backward only scales them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        vectors: Tensor,
        value: Tensor,
        target: Tensor,
        weight: Tensor,
        position: Tensor,
        item: Tensor,
        starts: list[int],
        dtype: torch.dtype,
    ) -> Tensor:
        offsets = ScoreOffsets(position, item, value, starts)
        table, query_low = vectors.to(dtype), query.to(dtype)
        weighted = (query * weight[:, None]).to(dtype)
        grad_query = torch.empty_like(query)
        grad_vectors: Tensor | None = None
        grad_value = torch.empty_like(value)
        loss = query.new_zeros(())
        for rows, some in offsets.chunks(CHUNK):
            logits = query_low[rows] @ table.T
            added = offsets.add_to(logits, rows, some)
            slope = torch.softmax(logits, dim=1)
            flat = slope.view(-1)
            index = target[rows] + len(vectors) * torch.arange(len(slope), device=target.device)
            at_target = flat[index]
            loss -= (weight[rows] * at_target.float().clamp_min(1e-30).log()).sum()
            flat[index] = at_target - 1  # scatter_ would copy all of it, twice
            grad_query[rows] = slope @ table
            part = slope.T @ weighted[rows]
            grad_vectors = part.to(vectors.dtype) if grad_vectors is None else grad_vectors.add_(part)
            grad_value[some] = flat[added].to(value.dtype)
        if grad_vectors is None:  # no position: a rank may have no window of a batch
            grad_vectors = torch.zeros_like(vectors)
        grad_query *= weight[:, None]
        grad_value *= weight[position]
        ctx.save_for_backward(grad_query, grad_vectors, grad_value)
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return (*(gradient.mul_(scale) for gradient in ctx.saved_tensors), *[None] * 6)


def catalog_cross_entropy(
    query: Tensor,
    vectors: Tensor,
    offsets: ScoreOffsets,
    target: Tensor,
    weight: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weighted sum over positions of the cross-entropy of the full softmax over all items.

    Args:
        query: float32 [positions, d].
        vectors: float32 [items, d]; logits are ``query @ vectors.T`` plus the offsets.
        offsets: added to single logits.
        target: int64 [positions], the item that came next.
        weight: float32 [positions].
        dtype: of the matrix products; sums over chunks stay in float32.
    """
    loss: Tensor = _CatalogCrossEntropy.apply(  # type: ignore[no-untyped-call]
        query, vectors, offsets.value, target, weight, offsets.position, offsets.item, offsets.starts, dtype
    )
    return loss


def sampled_cross_entropy(
    query: Tensor,
    vectors: Tensor,
    offsets: ScoreOffsets,
    target: Tensor,
    weight: Tensor,
    sampled: Tensor,
    log_expected: Tensor,
) -> Tensor:
    """Weighted sum over positions of the cross-entropy of a sampled softmax (Jean et al., arXiv 1412.2007).

    The target and every item with a score offset are always in the denominator with their true logits. The sampled
    items represent all others: the logarithm of the expected number of draws is subtracted from each logit, so that
    the sampled denominator is an unbiased estimate of the full one.

    Args:
        query: float32 [positions, d].
        vectors: float32 [items, d], of those items that the others name: any part of the catalog.
        offsets: added to single logits.
        target: int64 [positions].
        weight: float32 [positions].
        sampled: int64 [samples], distinct items.
        log_expected: float32 [samples], log(draws · probability / times drawn).
    """
    items, positions = len(vectors), len(query)
    every = torch.arange(positions, device=query.device)
    zeros = query.new_zeros(positions)
    # pairs of a position and an item with their true logits, each once
    keys = torch.cat([offsets.position * items + offsets.item, every * items + target])
    pairs, pair = torch.unique(keys, return_inverse=True)
    position, item = torch.div(pairs, items, rounding_mode="floor"), pairs % items
    added = query.new_zeros(len(pairs)).index_add(0, pair, torch.cat([offsets.value, zeros]))
    true = (query[position] * vectors[item]).sum(1) + added
    column = torch.full((items,), -1, device=query.device)
    column[sampled] = torch.arange(len(sampled), device=query.device)
    masked = torch.zeros(positions, len(sampled), dtype=torch.bool, device=query.device)
    is_sampled = column[item] >= 0
    masked[position[is_sampled], column[item[is_sampled]]] = True
    others = (query @ vectors[sampled].T - log_expected).masked_fill(masked, -torch.inf)
    # the log-sum-exp of the pairs of each position, by its largest
    largest = torch.full_like(zeros, -torch.inf).scatter_reduce(0, position, true.detach(), "amax")
    pairs_sum = zeros.index_add(0, position, (true - largest[position]).exp()).log() + largest
    denominator = torch.logaddexp(others.logsumexp(1), pairs_sum)
    return (weight * (denominator - true[pair[len(offsets.item) :]])).sum()
