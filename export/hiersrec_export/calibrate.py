"""What a budget of candidates costs and keeps: the runtime's rules, for many cases and many budgets at once.

Every item is scored once a case. An item is a candidate of the first m categories of the case's order if the best
place of its categories is below m, so sums along the order give, for every m, the rows that are scored and the
candidates that rank at or above the target. A budget only decides m.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.encoders.session_encoder import Encoded
from hiersrec_sdk.ranking import get_backend
from hiersrec_sdk.ranking.covisitation import CovisitationScorer as Wide
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.examples import Batch, Cases

K = 20  # recommendations that the budgets are measured for
_SCORES = 1 << 24  # scores held at a time, 64 MiB
_LARGEST_BATCH = 256

Ints = NDArray[np.int64]


class Encoder(Protocol):
    """See :class:`hiersrec_sdk.encoders.session_encoder.OnnxSessionEncoder`."""

    def encode(self, vectors: NDArray[np.float32], lengths: Ints, /) -> Encoded: ...


@dataclass(frozen=True)
class Scorer:
    """What scores items after a session: all that a bundle holds for it, by item index.

    ``encoder``: the exported graph in onnxruntime; ``vectors`` float32 [items, d], which it reads and queries; ``bias``
    float32 [items] and ``wide``, or None.
    """

    encoder: Encoder
    vectors: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None
    wide: Wide | None = None


@dataclass(frozen=True)
class Budgets:
    """Budgets to measure: shares of the items, and top_ps of the softmax over the leaf categories.

    A share takes categories, by higher logit, then lower index, until they hold that share of the items; a top_p, until
    their probabilities sum to it. Both take more until there are K items, and the one that crosses is taken.
    """

    shares: Sequence[float]
    top_ps: Sequence[float]

    def __len__(self) -> int:
        return len(self.shares) + len(self.top_ps)

    def taken(self, probabilities: NDArray[np.float64], sizes: Ints, least: Ints) -> Ints:
        """int64 [B, budgets]: how many categories each budget takes, the shares first.

        ``probabilities`` and ``sizes`` [B, C]: of the categories in the order in which they are taken; ``least`` [B]:
        the first so many are taken in any case.
        """
        batch, categories = sizes.shape
        items = int(sizes[0].sum())
        k = min(K, items)
        needs = [max(math.ceil(share * items), k) for share in self.shares]
        held, top_p = sizes.cumsum(axis=1), probabilities.cumsum(axis=1)
        taken = np.empty((batch, len(self)), dtype=np.int64)
        for case in range(batch):
            taken[case, : len(needs)] = held[case].searchsorted(needs) + 1
            by_top_p = top_p[case].searchsorted(self.top_ps) + 1
            taken[case, len(needs) :] = np.maximum(by_top_p, held[case].searchsorted(k) + 1)
        taken[:, len(needs) :][:, np.asarray(self.top_ps) >= 1] = categories  # whatever the sum is rounded to
        return np.clip(taken, least[:, None], categories)


class Counts(NamedTuple):
    """Of B cases, int64 [B, budgets] each: the target's ``ranks``, and the ``rows`` that are scored.

    A rank counts from 1, every tie before the target; it is 0 where the target is no candidate.
    """

    ranks: Ints
    rows: Ints


@dataclass(frozen=True)
class Layout:
    """The categories of the items: ``leaves`` int64 [items, W], the leaf that an item lies in, then those that list it.

    Padded with the first. ``sizes`` int64 [C]: items that lie in each.
    """

    leaves: Ints
    sizes: Ints

    @classmethod
    def of(cls, data: Dataset) -> Layout:
        width = 1 + max(map(len, data.extra_categories), default=0)
        leaves = np.repeat(data.category.astype(np.int64)[:, None], width, axis=1)
        for item, extra in enumerate(data.extra_categories):
            leaves[item, 1 : 1 + len(extra)] = extra
        return cls(leaves, np.bincount(data.category, minlength=data.tree.sizes[-1]))

    def best_place(self, place: Ints, cases: Ints, items: Ints) -> Ints:
        """int64 [n]: of each pair of case and item the first of the item's categories in the case's order.

        ``place`` int64 [B, C]: of every category in every case's order.
        """
        best: Ints = place[cases, self.leaves[items, 0]]
        for further in range(1, self.leaves.shape[1]):
            np.minimum(best, place[cases, self.leaves[items, further]], out=best)
        return best


def measure(
    scorer: Scorer,
    layout: Layout,
    cases: Cases,
    budgets: Budgets,
    max_length: int,
) -> Iterator[tuple[Counts, Counts]]:
    """Batch by batch, what the budgets cost and keep, the short sessions first.

    Args:
        scorer: the exported model.
        layout: the items' categories.
        cases: what to measure on; ``max_length``: the newest clicks of each that count.
        budgets: to measure.

    Yields:
        As the runtime does it; and with the leaf categories of the session's own items taken before all others.
    """
    size = max(1, min(_LARGEST_BATCH, _SCORES // len(scorer.vectors)))
    for batch in cases.batches(scorer.vectors, max_length, size):
        encoded = scorer.encoder.encode(batch.vectors, batch.lengths)
        scored = _Scored.of(batch, encoded, scorer)
        logits = encoded.category_logits[-1]
        by_logit = np.argsort(-logits, axis=1, kind="stable")
        plain = _counts(scored, layout, budgets, logits, by_logit, np.ones(len(logits), dtype=np.int64))
        own = np.zeros(logits.shape, dtype=bool)
        own[scored.click_case, layout.leaves[scored.click, 0]] = True
        own_first = np.argsort(~np.take_along_axis(own, by_logit, axis=1), axis=1, kind="stable")
        order = np.take_along_axis(by_logit, own_first, axis=1)
        yield plain, _counts(scored, layout, budgets, logits, order, own.sum(axis=1))


@dataclass(frozen=True)
class _Scored:
    """B cases, every item scored.

    ``targets`` int64 [B]; ``click_case``, ``click`` int64: the pairs of a case and a click of its session.
    ``own_case``, ``own_item`` int64: the pairs of a case and a distinct item that is always scored, one of its session
    or linked to it; ``own_above`` int64 [B]: such items that score at or above the target, boosts added;
    ``target_is_own`` bool [B]. ``case``, ``item`` int64: the pairs of a case and any other item that scores at or above
    the target, the target among them where it is not one of those.
    """

    targets: Ints
    click_case: Ints
    click: Ints
    own_case: Ints
    own_item: Ints
    own_above: Ints
    target_is_own: NDArray[np.bool]
    case: Ints
    item: Ints

    @classmethod
    def of(cls, batch: Batch, encoded: Encoded, scorer: Scorer) -> _Scored:
        scores = encoded.item_query @ scorer.vectors.T  # [B, items]
        if scorer.bias is not None:
            scores += scorer.bias
        size = len(batch.targets)
        click_case = np.repeat(np.arange(size), batch.lengths)
        click = np.concatenate(batch.clicks).astype(np.int64)
        if encoded.repeat_logits is not None:
            real = np.arange(batch.vectors.shape[1]) < batch.lengths[:, None]
            np.add.at(scores, (click_case, click), encoded.repeat_logits[real])
        if scorer.wide is None:
            own = [np.unique(clicks).astype(np.int64) for clicks in batch.clicks]
        else:
            own = []
            score_offsets = get_backend().covisitation(scorer.wide)
            for at, clicks in enumerate(batch.clicks):
                items, boosts = score_offsets(clicks.astype(np.int64))
                scores[at, items] += boosts
                own.append(items)
        own_case = np.repeat(np.arange(size), [len(items) for items in own])
        own_item = np.concatenate(own)
        threshold = scores[np.arange(size), batch.targets]
        above = scores >= threshold[:, None]
        own_above = np.bincount(own_case, weights=above[own_case, own_item], minlength=size).astype(np.int64)
        target_is_own = np.bincount(own_case, own_item == batch.targets[own_case], minlength=size) > 0
        above[own_case, own_item] = False
        case, item = np.nonzero(above)
        return cls(batch.targets, click_case, click, own_case, own_item, own_above, target_is_own, case, item)


def _counts(
    scored: _Scored, layout: Layout, budgets: Budgets, logits: NDArray[np.float32], order: Ints, least: Ints
) -> Counts:
    """``logits`` and ``order`` [B, C]; ``least`` int64 [B]: categories at the head of the order taken in any case."""
    size, categories = order.shape
    every = np.arange(size)
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(categories)[None], axis=1)
    odds = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    probabilities = np.take_along_axis(odds / odds.sum(axis=1, keepdims=True), order, axis=1)
    taken = budgets.taken(probabilities, layout.sizes[order], least)

    def up_to(case: Ints, at: Ints) -> Ints:
        """int64 [B, C]: how many of the pairs of case and place lie at each place or before it."""
        pairs = np.bincount(case * categories + at, minlength=size * categories)
        return pairs.reshape(size, categories).cumsum(axis=1)

    above = up_to(scored.case, layout.best_place(place, scored.case, scored.item))
    ranks = scored.own_above[:, None] + np.take_along_axis(above, taken - 1, axis=1)
    target_place = layout.best_place(place, every, scored.targets)
    ranks[(target_place[:, None] >= taken) & ~scored.target_is_own[:, None]] = 0

    rows = layout.sizes[order].cumsum(axis=1)
    several = np.flatnonzero((layout.leaves != layout.leaves[:, :1]).any(axis=1))
    case, item = np.repeat(every, len(several)), np.tile(several, size)
    # an item that a category lists is scored from there on, not from the one that it lies in
    rows += up_to(case, layout.best_place(place, case, item))
    rows -= up_to(case, place[case, layout.leaves[item, 0]])
    # the session's own and linked items are always scored
    rows -= up_to(scored.own_case, layout.best_place(place, scored.own_case, scored.own_item))
    rows += np.bincount(scored.own_case, minlength=size)[:, None]
    return Counts(ranks, np.take_along_axis(rows, taken - 1, axis=1))
