from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hiersrec_training.losses import CHUNK, catalog_cross_entropy, sampled_cross_entropy


def _plain(
    query: Tensor, vectors: Tensor, target: Tensor, weight: Tensor, bonus: Tensor, position: Tensor, item: Tensor
) -> Tensor:
    logits = query @ vectors.T
    logits = logits.flatten().index_add(0, position * len(vectors) + item, bonus).view_as(logits)
    return (weight * F.cross_entropy(logits, target, reduction="none")).sum()


@settings(max_examples=30, deadline=None)
@given(
    positions=st.sampled_from([1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5]),
    items=st.integers(1, 40),
    bonuses=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
def test_the_chunked_loss_and_its_gradients_are_those_of_the_plain_one(
    positions: int, items: int, bonuses: int, seed: int
) -> None:
    torch.manual_seed(seed)
    query = torch.randn(positions, 8, requires_grad=True)
    vectors = torch.randn(items, 8, requires_grad=True)
    bonus = torch.randn(bonuses, requires_grad=True)
    target = torch.randint(0, items, (positions,))
    weight = torch.rand(positions)
    position = torch.sort(torch.randint(0, positions, (bonuses,)))[0]
    item = torch.randint(0, items, (bonuses,))
    leaves = (query, vectors, bonus)
    losses = [loss(query, vectors, target, weight, bonus, position, item) for loss in (catalog_cross_entropy, _plain)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
    for ours, plain in zip(*(torch.autograd.grad(3 * loss, leaves) for loss in losses), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_bfloat16_changes_the_gradients_by_its_rounding_only() -> None:
    torch.manual_seed(0)
    query, vectors = torch.randn(200, 32, requires_grad=True), torch.randn(500, 32, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    arguments = (query, vectors, torch.randint(0, 500, (200,)), torch.ones(200), torch.zeros(0), none, none)
    exact = torch.autograd.grad(catalog_cross_entropy(*arguments), (query, vectors))
    rounded = torch.autograd.grad(catalog_cross_entropy(*arguments, dtype=torch.bfloat16), (query, vectors))
    for a, b in zip(exact, rounded, strict=True):
        assert float((a - b).norm() / a.norm()) < 0.05


def test_the_sampled_loss_is_the_full_one_where_every_item_is_drawn_as_often_as_expected() -> None:
    torch.manual_seed(0)
    items, positions = 30, 7
    query, vectors = torch.randn(positions, 8), torch.randn(items, 8)
    target = torch.randint(0, items, (positions,))
    own = torch.stack([torch.randperm(items)[:4] for _ in range(positions)])  # distinct within a session
    bonus = torch.randn(positions, 4)
    weight = torch.rand(positions)
    is_target = own == target[:, None]
    masked = torch.zeros(positions, items, dtype=torch.bool).scatter(1, own, True).scatter(1, target[:, None], True)
    sampled = sampled_cross_entropy(
        query,
        vectors,
        torch.zeros(items),  # log of the expected number of draws over the number drawn
        masked,
        (torch.einsum("pd,ptd->pt", query, vectors[own]) + bonus).masked_fill(is_target, -torch.inf),
        (query * vectors[target]).sum(1) + (bonus * is_target).sum(1),
        weight,
    )
    position = torch.arange(positions).repeat_interleave(4)
    full = _plain(query, vectors, target, weight, bonus.flatten(), position, own.flatten())
    torch.testing.assert_close(sampled, full)


def test_the_sampled_denominator_is_right_on_average() -> None:
    torch.manual_seed(0)
    items, draws = 200, 50
    vectors = torch.randn(items, 8) / 3
    query = torch.randn(1, 8)
    chances = torch.rand(items) + 0.1
    chances /= chances.sum()
    full = (query @ vectors.T).exp().sum()
    estimates = []
    for _ in range(2000):
        sampled, times = torch.unique(torch.multinomial(chances, draws, replacement=True), return_counts=True)
        corrected = query @ vectors[sampled].T - torch.log(draws * chances[sampled] / times)
        estimates.append(corrected.exp().sum())
    assert abs(float(torch.stack(estimates).mean() / full) - 1) < 0.01
