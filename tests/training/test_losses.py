from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hiersrec_training.losses import CHUNK, ScoreOffsets, catalog_cross_entropy, sampled_cross_entropy

Arguments: TypeAlias = tuple[Tensor, Tensor, ScoreOffsets, Tensor, Tensor]


def _plain(query: Tensor, vectors: Tensor, offsets: ScoreOffsets, target: Tensor, weight: Tensor) -> Tensor:
    logits = query @ vectors.T
    index = offsets.position * len(vectors) + offsets.item
    logits = logits.flatten().index_add(0, index, offsets.value).view_as(logits)
    return (weight * F.cross_entropy(logits, target, reduction="none")).sum()


def _arguments(positions: int, items: int, offsets: int, seed: int) -> Arguments:
    """Random arguments of a loss; those that have gradients are leaves."""
    torch.manual_seed(seed)
    position, item = torch.randint(0, positions, (offsets,)), torch.randint(0, items, (offsets,))
    position, value = position.sort()[0], torch.randn(offsets).requires_grad_()
    return (
        torch.randn(positions, 8, requires_grad=True),
        torch.randn(items, 8, requires_grad=True),
        offsets_at(position, item, value, positions),
        torch.randint(0, items, (positions,)),
        torch.rand(positions),
    )


def offsets_at(position: Tensor, item: Tensor, value: Tensor, positions: int) -> ScoreOffsets:
    return ScoreOffsets(
        position, item, value, torch.searchsorted(position, torch.arange(positions + 1)).tolist()
    )


def _gradients(loss: Tensor, arguments: Arguments) -> tuple[Tensor, ...]:
    query, vectors, offsets, *_ = arguments
    return torch.autograd.grad(loss, (query, vectors, offsets.value))


@settings(max_examples=30, deadline=None)
@given(
    positions=st.sampled_from([1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5]),
    items=st.integers(1, 40),
    offsets=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
def test_the_chunked_loss_and_its_gradients_are_those_of_the_plain_one(
    positions: int, items: int, offsets: int, seed: int
) -> None:
    arguments = _arguments(positions, items, offsets, seed)
    losses = [loss(*arguments) for loss in (catalog_cross_entropy, _plain)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
    for ours, plain in zip(*(_gradients(3 * loss, arguments) for loss in losses), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_bfloat16_changes_the_gradients_by_its_rounding_only() -> None:
    arguments = _arguments(200, 500, 300, 0)
    exact = _gradients(catalog_cross_entropy(*arguments), arguments)
    rounded = _gradients(catalog_cross_entropy(*arguments, dtype=torch.bfloat16), arguments)
    for a, b in zip(exact, rounded, strict=True):
        assert float((a - b).norm() / a.norm()) < 0.05


@settings(max_examples=50, deadline=None)
@given(
    positions=st.integers(1, 9),
    items=st.integers(1, 30),
    offsets=st.integers(0, 40),
    seed=st.integers(0, 1000),
)
def test_the_sampled_loss_is_the_full_one_where_every_item_is_drawn_as_often_as_expected(
    positions: int, items: int, offsets: int, seed: int
) -> None:
    arguments = _arguments(positions, items, offsets, seed)
    losses = (
        sampled_cross_entropy(*arguments, torch.randperm(items), torch.zeros(items)),
        _plain(*arguments),
    )
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-4)
    for ours, plain in zip(*(_gradients(3 * loss, arguments) for loss in losses), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_the_sampled_denominator_is_right_on_average() -> None:
    query, vectors, offsets, target, _ = _arguments(3, 200, 12, 0)
    chances = torch.rand(200) + 0.1
    chances /= chances.sum()
    draws = 50
    at_target = query @ vectors.T  # what the loss takes off the logarithm of the denominator
    at_target = (
        at_target.flatten().index_add(0, offsets.position * 200 + offsets.item, offsets.value).view(3, 200)
    )
    at_target = at_target.gather(1, target[:, None])[:, 0]
    estimates = []
    for _ in range(2000):
        sampled, times = torch.unique(torch.multinomial(chances, draws, replacement=True), return_counts=True)
        expected = torch.log(draws * chances[sampled] / times)
        # a single position: the mean is of denominators, not of their logarithms
        one = torch.tensor([1.0, 0.0, 0.0])
        loss = sampled_cross_entropy(query, vectors, offsets, target, one, sampled, expected)
        estimates.append((loss + at_target[0]).exp().detach())
    exact = (_plain(query, vectors, offsets, target, torch.tensor([1.0, 0.0, 0.0])) + at_target[0]).exp()
    assert abs(float((torch.stack(estimates).mean() / exact).detach()) - 1) < 0.02


def test_a_logit_may_have_several_offsets() -> None:
    offsets = offsets_at(
        torch.tensor([0, 0, 2, 2]), torch.tensor([6, 6, 5, 5]), torch.tensor([0.25, 0.25, 0.5, 0.5]), 3
    )
    logits = torch.zeros(3, 8)
    for rows, some in offsets.chunks(2):
        offsets.add_to(logits[rows], rows, some)
    assert logits[0, 6] == 0.5
    assert logits[2, 5] == 1
    assert logits.sum() == 1.5
