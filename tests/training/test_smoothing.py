from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hiersrec_training import smoothing
from hiersrec_training.smoothing import LEAST, LONGEST_BAG, ReverseEdges, shares, smooth_unit


@given(st.integers(1, 200), st.integers(1, 9), st.integers(0, 1000), st.floats(0, 1))
@settings(deadline=None)
def test_gradients_go_back_along_every_edge(items: int, width: int, seed: int, popular: float) -> None:
    """Also to an item that most are neighbors of; edges without co-clicks do not count."""
    random = torch.Generator().manual_seed(seed)
    neighbors = torch.randint(0, items, (items, width), generator=random)
    neighbors[torch.rand(neighbors.shape, generator=random) < popular] = items // 2
    counts = torch.rand(items, width, generator=random) * (torch.rand(items, width, generator=random) < 0.8)
    weights = torch.where(counts > LEAST, counts, 0.0)
    grad = torch.randn(items, 3, generator=random)
    edges = ReverseEdges.of(neighbors, counts)
    wanted = torch.ones(items, 3)
    for column in range(width):
        wanted.index_add_(0, neighbors[:, column], weights[:, column, None] * grad)
    total = torch.ones(items, 3)
    edges.add_to(total, grad, weights)
    torch.testing.assert_close(total, wanted, atol=1e-4, rtol=1e-4)
    lengths = torch.diff(torch.cat([edges.offsets, torch.tensor([len(edges.rows)], dtype=torch.int32)]))
    assert int(lengths.max()) <= LONGEST_BAG
    assert len(edges.rows) == int((counts > LEAST).sum())


@given(
    items=st.integers(1, 40),
    width=st.integers(0, 5),
    some=st.lists(st.integers(0, 10**6), max_size=9),
    block=st.integers(1, 50),
    has_own=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_smooth_unit_vectors_and_their_gradients_are_those_of_plain_autograd(
    items: int, width: int, some: list[int], block: int, has_own: bool, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64).requires_grad_()

    x, own, scale = leaf(items, 4), leaf(items, 4), leaf()
    neighbors = torch.randint(0, items, (items, width), generator=random)
    co_clicks = torch.rand(items, width, generator=random) * (
        torch.rand(items, width, generator=random) < 0.7
    )
    weights = shares(co_clicks).double()
    chosen = torch.tensor([number % items for number in some], dtype=torch.int64)
    smoothed = (own if has_own else x) + scale * (weights[..., None] * x[neighbors]).sum(1)
    table = F.normalize(smoothed, dim=1)
    reverse = ReverseEdges.of(neighbors, co_clicks) if width else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoothing, "BLOCK", block)
        ours = smooth_unit(
            x, own if has_own else None, scale, neighbors, weights, reverse, chosen, torch.float64
        )
        directions = leaf(items, 4).detach(), leaf(len(chosen), 4).detach()
        inputs = (x, own, scale)
        found = []
        for vectors in (ours, (table, table[chosen])):
            total = torch.stack([(a * b).sum() for a, b in zip(vectors, directions, strict=True)]).sum()
            grads = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
            found.append((*vectors, *grads))
    torch.testing.assert_close(*found)


def test_an_item_without_a_vector_stays_finite() -> None:
    x = torch.zeros(3, 4, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    none = torch.zeros(3, 0)
    table, _ = smooth_unit(x, None, torch.ones(()), none.int(), none, None, nothing, torch.float32)
    assert not table.any()
    (grad,) = torch.autograd.grad(table.sum(), x)
    assert grad.isfinite().all()
