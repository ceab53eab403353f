"""The smoothing of item vectors over the co-click graph, with its gradients, in few passes over large tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST_BAG = 64  # edges that are summed by one thread block of a GPU
LEAST = 1e-3  # co-clicks up to this are rounding errors of none
BLOCK = 2048  # items at a time on a CPU, where their vectors stay in the cache from one operation to the next


def shares(co_clicks: Tensor) -> Tensor:
    """Weights of neighbors from their co-clicks [n, K]: the roots, to dampen the frequent ones, scaled to sum to 1."""
    roots = F.threshold(co_clicks, LEAST, 0.0).sqrt_()
    return roots.div_(roots.sum(1, keepdim=True).clamp_min_(1e-12))


class ReverseEdges(NamedTuple):
    """The graph with its edges reversed, as bags end to end: the items that each item is a neighbor of.

    There is a bag for each item, then more for those of more than ``LONGEST_BAG`` edges. A popular item is a neighbor
    of thousands, and a GPU walks a bag with a few threads, while all others wait for it.

    Attributes:
        rows: int32 [edges], the items that edges come from.
        order: int64 [edges], each edge's place in the table of neighbors.
        offsets: int32 [items + more], where the bags begin.
        long: int64 [L], the items with more than one bag.
        long_offsets: int64 [L], which of the further bags is the first of each of these.
    """

    rows: Tensor
    order: Tensor
    offsets: Tensor
    long: Tensor
    long_offsets: Tensor

    @classmethod
    def of(cls, neighbors: Tensor, co_clicks: Tensor) -> ReverseEdges:
        """The reverse of the edges from each item to its ``neighbors`` [items, K]; not of those without co-clicks."""
        items, width = neighbors.shape
        edges = (co_clicks.flatten() > LEAST).nonzero()[:, 0]
        target, by_target = torch.sort(neighbors.flatten()[edges], stable=True)
        edges = edges[by_target]
        count = torch.bincount(target, minlength=items)
        place = torch.arange(len(edges), device=edges.device) - (count.cumsum(0) - count)[target]
        is_first, begins = place < LONGEST_BAG, place % LONGEST_BAG == 0
        order = torch.cat([edges[is_first], edges[~is_first]])
        first = count.clamp_max(LONGEST_BAG)
        further = begins[~is_first].nonzero()[:, 0]
        long = (count > LONGEST_BAG).nonzero()[:, 0]
        bags = torch.div(count[long] - 1, LONGEST_BAG, rounding_mode="floor")
        return cls(
            rows=torch.div(order, width, rounding_mode="floor").int(),
            order=order,
            offsets=torch.cat([first.cumsum(0) - first, first.sum() + further]).int(),
            long=long,
            long_offsets=bags.cumsum(0) - bags,
        )

    def add_to(self, total: Tensor, values: Tensor, weights: Tensor) -> None:
        """Add to ``total`` float32 [items, d] the sums of ``values`` [items, d] over each item's bags.

        ``weights`` [items, K] are those of the edges, of the type of ``values``.
        """
        each_weight = weights.flatten().index_select(0, self.order)
        bags = F.embedding_bag(self.rows, values, self.offsets, per_sample_weights=each_weight, mode="sum")
        for rows in blocks(total):
            total[rows].add_(bags[rows])
        further = bags[len(total) :].to(total.dtype)
        if len(further):
            each = torch.arange(len(further), device=further.device)
            # no sum of single numbers in an order that is left to chance: every run gives the same
            total[self.long] += F.embedding_bag(each, further, self.long_offsets, mode="sum")


def blocks(table: Tensor) -> Iterator[slice]:
    """Slices of the rows of ``table``: on a CPU some at a time, elsewhere all of them."""
    size = BLOCK if table.device.type == "cpu" else max(1, len(table))
    return (slice(first, min(first + size, len(table))) for first in range(0, len(table), size))


def near_vectors(base: Tensor, neighbors: Tensor, weights: Tensor) -> Tensor:
    """Sums of the neighbors' rows of ``base`` [items, d], as bags of embeddings: faster than a sparse product.

    Args:
        base: [items, d].
        neighbors: int [n, K].
        weights: [n, K], of the type of ``base``.
    """
    near: Tensor = F.embedding_bag(neighbors, base, per_sample_weights=weights, mode="sum")
    return near


def to_unit(x: Tensor) -> Tensor:
    """Scale the rows of ``x`` [n, d] to length 1, in place. Returns the lengths before, [n, 1], at least 1e-12."""
    length: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min_(1e-12)
    x.div_(length)
    return length


def smooth_unit(
    x: Tensor,
    own: Tensor | None,
    scale: Tensor,
    neighbors: Tensor,
    weights: Tensor,
    reverse_edges: ReverseEdges | None,
    some: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Unit vectors of ``own + scale · near``, where ``near`` is each item's weighted sum of its neighbors' ``x``.

    Args:
        x: float32 [items, d].
        own: float32 [items, d]; None where it is ``x``.
        scale: float32 [].
        neighbors: int32 [items, K].
        weights: float32 [items, K].
        reverse_edges: of the whole graph; None where K is 0.
        some: int64 [n], items whose vectors are given apart: their gradients need no table of all items.
        dtype: neighbors are summed in.

    Returns:
        The unit vectors, float32 [items, d]; and those of ``some``, [n, d].
    """
    vectors: tuple[Tensor, Tensor] = _SmoothUnit.apply(  # type: ignore[no-untyped-call]
        x, own, scale, neighbors, weights, reverse_edges, some, dtype
    )
    return vectors


class _SmoothUnit(torch.autograd.Function):
    """:func:`smooth_unit`, in few passes over the tables.

    What is needed of a block of items is done while it is in the cache. Autograd would read and write all of them for
    each operation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        own: Tensor | None,
        scale: Tensor,
        neighbors: Tensor,
        weights: Tensor,
        reverse_edges: ReverseEdges | None,
        some: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        unit, length = torch.empty_like(x), x.new_empty(len(x), 1)
        near = torch.empty_like(x, dtype=dtype)
        base, low_weights = x.to(dtype), weights.to(dtype)
        for rows in blocks(x):
            unit[rows] = (x if own is None else own)[rows]
            if reverse_edges is not None:
                near[rows] = near_vectors(base, neighbors[rows], low_weights[rows])
                unit[rows].addcmul_(near[rows].to(x.dtype), scale)
            length[rows] = to_unit(unit[rows])
        ctx.save_for_backward(unit, length, near, scale, weights, some)
        ctx.is_own, ctx.reverse_edges = own is None, reverse_edges
        return unit, unit.index_select(0, some)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_some: Tensor) -> tuple[Tensor | None, ...]:
        unit, length, near, scale, weights, some = ctx.saved_tensors
        back = torch.empty_like(unit)
        for rows in blocks(back):
            _back_from_unit(grad[rows], unit[rows], length[rows], out=back[rows])
        part = _back_from_unit(grad_some, unit.index_select(0, some), length.index_select(0, some))
        back.index_add_(0, some, part)
        if ctx.reverse_edges is None:
            return (back, None, *[None] * 6) if ctx.is_own else (None, back, *[None] * 6)
        low, grad_scale = torch.empty_like(near), torch.zeros_like(scale)
        for rows in blocks(back):
            low[rows] = back[rows]
            grad_scale += (back[rows] * near[rows]).sum()
        grad_x = back if ctx.is_own else torch.zeros_like(back)
        ctx.reverse_edges.add_to(grad_x, low, (weights * scale).to(low.dtype))
        return grad_x, None if ctx.is_own else back, grad_scale, *[None] * 5


def _back_from_unit(grad: Tensor, unit: Tensor, length: Tensor, out: Tensor | None = None) -> Tensor:
    """The gradient before :func:`to_unit`, [n, d]: what lies along ``unit`` would change the length alone."""
    along = (grad * unit).sum(1, keepdim=True)
    return torch.addcmul(grad, unit, along, value=-1, out=out).div_(length)
