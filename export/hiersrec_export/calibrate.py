"""Calibration: the cost and the accuracy of budgets of candidates, and the top_p of ``candidates="auto"``.

It follows the runtime's rules, for many examples and many budgets at once. Every item is scored once an example. An
item is a candidate of the first m categories of the example's order if the best position of its categories is below m.
So sums along the order give, for every m, the rows that are scored and the candidates that rank at or above the target.
A budget only decides m.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hiersrec_sdk.encoders.session_encoder import Encoded
from hiersrec_sdk.ranking import get_backend
from hiersrec_sdk.ranking.covisitation import CovisitationScorer, ScoreOffsets
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.examples import Examples
from hiersrec_training.metrics import reaches_target

K = 20  # recommendations that the budgets are measured for
KEPT = 0.995  # share of the exact Recall and MRR that the chosen top_p keeps
SMALLEST_SHARE = 0.0025
LARGEST_SHARE = 0.08
SHOWN_TOP_PS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
MOST_EXAMPLES = 20_000
LEAST_EXAMPLES = 1_000
SCORES = 1_000_000_000  # examples times items, at most: some seconds of work
_SCORES = 1 << 24  # scores held at a time, 64 MiB
_LARGEST_BATCH = 256

Ints = NDArray[np.int64]


def calibrate(
    scorer: Scorer,
    data: Dataset,
    examples: Examples,
    max_length: int,
    default: float,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure the budgets and choose the top_p.

    Args:
        scorer: the exported model.
        data: the data set that the examples are from.
        examples: to measure on.
        max_length: newest clicks of a session that count.
        default: the bundle's candidate share.
        progress: whether to show a bar.

    Returns:
        ``examples``; ``kept``, the share of the exact Recall@20 and MRR@20 to keep; ``top_p``, the smallest that keeps
        it of both; ``exact``, the metrics with every item ranked; ``shares`` and ``top_ps``, those of each budget, the
        chosen top_p among them; ``session_categories``, ``top_p`` and both curves once more, with the leaf categories
        of the session's items always taken. ``rows``: mean of an example.
    """
    budgets = Budgets(shares_of(data.items, default), all_top_ps())
    plain, with_session = _Sums(budgets), _Sums(budgets)
    bar = tqdm(total=len(examples), desc="calibration", unit="example", disable=not progress)
    for counts, session_counts in measure(scorer, Layout.of(data), examples, budgets, max_length):
        plain.add(counts)
        with_session.add(session_counts)
        bar.update(len(counts.ranks))
    bar.close()
    return {
        "examples": len(examples),
        "kept": KEPT,
        "exact": plain.exact(),
        **plain.curve(),
        "session_categories": with_session.curve(),
    }


def examples_of(sessions: Sessions, items: int, seed: int = 0) -> Examples:
    """The examples to measure on: a sample of 20,000, fewer where the catalog is large, at least 1,000."""
    return Examples.of(sessions).sample(min(MOST_EXAMPLES, max(LEAST_EXAMPLES, SCORES // items)), seed)


def shares_of(items: int, default: float) -> list[float]:
    """Candidate shares to measure, each twice the one before; and ``default``, the bundle's.

    None holds fewer than K items, as such shares are all alike. None is above 8 %, but for ``default``.
    """
    shares, share = {default}, SMALLEST_SHARE
    while share <= max(default, LARGEST_SHARE):
        if share * items >= K:
            shares.add(share)
        share *= 2
    return sorted(shares)


def all_top_ps() -> list[float]:
    """The values of top_p to try, rising and finer towards 1, where a little more takes many more categories."""
    rest = 1 / (1 + np.exp(np.linspace(np.log(0.3 / 0.7), 9.5, 401)))  # 1 - top_p
    return sorted({*(round(1 - float(f"{value:.3g}"), 9) for value in rest), *SHOWN_TOP_PS, 1.0})


class _Sums:
    """Sums over examples, [budgets] each. The last budget is the top_p 1.0, which takes everything."""

    def __init__(self, budgets: Budgets) -> None:
        self.budgets = budgets
        self.examples = 0
        self.hits = np.zeros(len(budgets))
        self.reciprocals = np.zeros(len(budgets))
        self.covered = np.zeros(len(budgets))
        self.rows = np.zeros(len(budgets))

    def add(self, counts: Counts) -> None:
        hit = (counts.ranks >= 1) & (counts.ranks <= K)
        self.examples += len(hit)
        self.hits += hit.sum(axis=0)
        self.reciprocals += (hit / np.maximum(counts.ranks, 1)).sum(axis=0)
        self.covered += (counts.ranks >= 1).sum(axis=0)
        self.rows += counts.rows.sum(axis=0)

    def metrics(self, budget: int) -> dict[str, float]:
        return {
            f"recall@{K}": float(self.hits[budget] / self.examples),
            f"mrr@{K}": float(self.reciprocals[budget] / self.examples),
            "candidate_coverage": float(self.covered[budget] / self.examples),
            "rows": float(self.rows[budget] / self.examples),
        }

    def exact(self) -> dict[str, float]:
        return {name: value for name, value in self.metrics(-1).items() if name != "candidate_coverage"}

    def curve(self) -> dict[str, Any]:
        """The chosen ``top_p``, and the metrics of ``shares`` and ``top_ps``."""
        keeps = (self.hits >= KEPT * self.hits[-1]) & (self.reciprocals >= KEPT * self.reciprocals[-1])
        first = len(self.budgets.shares)
        chosen = int(keeps[first:].argmax())  # the last one keeps everything
        top_ps = enumerate(self.budgets.top_ps)
        return {
            "top_p": self.budgets.top_ps[chosen],
            "shares": [{"share": share, **self.metrics(at)} for at, share in enumerate(self.budgets.shares)],
            "top_ps": [
                {"top_p": top_p, **self.metrics(first + at)}
                for at, top_p in top_ps
                if top_p in SHOWN_TOP_PS or at == chosen
            ],
        }


class Encoder(Protocol):
    """A session encoder, such as :class:`hiersrec_sdk.encoders.session_encoder.OnnxSessionEncoder`."""

    def encode(self, vectors: NDArray[np.float32], lengths: Ints, /) -> Encoded: ...


@dataclass(frozen=True)
class Scorer:
    """Everything that a bundle scores items with, by item index.

    ``encoder``: the exported graph in onnxruntime; ``vectors`` float32 [items, d], which it reads and queries;
    ``item_bias`` float32 [items] and ``covisitation``, or None.
    """

    encoder: Encoder
    vectors: NDArray[np.float32]
    item_bias: NDArray[np.float32] | None = None
    covisitation: CovisitationScorer | None = None


@dataclass(frozen=True)
class Budgets:
    """Budgets to measure: candidate shares, and values of top_p over the leaf categories.

    A share takes categories, by higher logit, then lower index, until they hold that share of the rows; a top_p, until
    their probabilities sum to it. Both take more until there are K items, and the one that crosses is taken.
    """

    shares: Sequence[float]
    top_ps: Sequence[float]

    def __len__(self) -> int:
        return len(self.shares) + len(self.top_ps)

    def taken(self, probabilities: NDArray[np.float64], sizes: Ints, least: Ints) -> Ints:
        """How many categories each budget takes, int64 [B, budgets], the shares first.

        Args:
            probabilities: [B, C], of the categories in the order in which they are taken.
            sizes: [B, C], how many items lie in each.
            least: [B], how many are taken at least.
        """
        batch, categories = sizes.shape
        items = int(sizes[0].sum())
        k = min(K, items)
        needs = [max(math.ceil(share * items), k) for share in self.shares]
        held, top_p = sizes.cumsum(axis=1), probabilities.cumsum(axis=1)
        taken = np.empty((batch, len(self)), dtype=np.int64)
        for row in range(batch):
            taken[row, : len(needs)] = held[row].searchsorted(needs) + 1
            by_top_p = top_p[row].searchsorted(self.top_ps) + 1
            taken[row, len(needs) :] = np.maximum(by_top_p, held[row].searchsorted(k) + 1)
        taken[:, len(needs) :][:, np.asarray(self.top_ps) >= 1] = categories  # whatever the sum is rounded to
        return np.clip(taken, least[:, None], categories)


class Counts(NamedTuple):
    """The target's ``ranks`` and how many ``rows`` are scored, for B examples: int64 [B, budgets] each.

    Ranks count from 1, with ties before the target; 0 where the target is no candidate.
    """

    ranks: Ints
    rows: Ints


@dataclass(frozen=True)
class Layout:
    """The leaf categories of the items.

    ``leaf`` int64 [items]: the one that each item lies in; ``extra`` int64: those that list it too, item after item;
    ``offsets`` int64 [items + 1]: where those of each item begin; ``sizes`` int64 [C]: how many items lie in each leaf.
    """

    leaf: Ints
    extra: Ints
    offsets: Ints
    sizes: Ints

    @classmethod
    def of(cls, data: Dataset) -> Layout:
        counts = np.fromiter(map(len, data.extra_categories), np.int64, data.items)
        offsets = np.append(0, counts.cumsum())
        extra = np.fromiter(chain.from_iterable(data.extra_categories), np.int64, offsets[-1])
        sizes = np.bincount(data.category, minlength=data.tree.sizes[-1])
        return cls(data.category.astype(np.int64), extra, offsets, sizes)

    def best_position(self, position: Ints, examples: Ints, items: Ints) -> Ints:
        """Position of the first of an item's categories in an example's order, for n pairs of them: int64 [n].

        ``position`` int64 [B, C]: of every category in every example's order.
        """
        best: Ints = position[examples, self.leaf[items]]
        starts, stops = self.offsets[items], self.offsets[items + 1]
        rest = np.flatnonzero(starts < stops)  # pairs with a further category
        while len(rest):
            further = position[examples[rest], self.extra[starts[rest]]]
            best[rest] = np.minimum(best[rest], further)
            starts[rest] += 1
            rest = rest[starts[rest] < stops[rest]]
        return best


def measure(
    scorer: Scorer,
    layout: Layout,
    examples: Examples,
    budgets: Budgets,
    max_length: int,
) -> Iterator[tuple[Counts, Counts]]:
    """Measure the budgets batch by batch, the short sessions first.

    Args:
        scorer: the exported model.
        layout: the items' categories.
        examples: to measure on.
        budgets: to measure.
        max_length: newest clicks of a session that count.

    Yields:
        The counts with the runtime's order of categories; and those with the leaf categories of the session's items
        taken before all others.
    """
    size = max(1, min(_LARGEST_BATCH, _SCORES // len(scorer.vectors)))
    score_offsets = None if scorer.covisitation is None else get_backend().covisitation(scorer.covisitation)
    for some, vectors in examples.batches(scorer.vectors, max_length, size):
        encoded = scorer.encoder.encode(vectors, some.lengths)
        scored = _Scored.of(some, encoded, scorer, score_offsets)
        logits = encoded.category_logits[-1]
        by_logit = np.argsort(-logits, axis=1, kind="stable")
        plain = _counts(scored, layout, budgets, logits, by_logit, np.ones(len(logits), dtype=np.int64))
        in_session = np.zeros(logits.shape, dtype=bool)
        in_session[scored.click_example, layout.leaf[scored.click]] = True
        session_first = np.argsort(~np.take_along_axis(in_session, by_logit, axis=1), axis=1, kind="stable")
        order = np.take_along_axis(by_logit, session_first, axis=1)
        yield plain, _counts(scored, layout, budgets, logits, order, in_session.sum(axis=1))


@dataclass(frozen=True)
class _Scored:
    """B examples with every item scored.

    An item of the session, and one co-visited with it, is always a candidate: fixed. The others are so by a category.

    Attributes:
        targets: int64 [B].
        click_example, click: int64, the pairs of an example and a click of its session.
        fixed_example, fixed_item: int64, the pairs of an example and one of its fixed items.
        fixed_above: int64 [B], fixed items that reach the target's score, score offsets included.
        target_is_fixed: bool [B].
        example, item: int64, the pairs of an example and another item that reaches the target's score.
    """

    targets: Ints
    click_example: Ints
    click: Ints
    fixed_example: Ints
    fixed_item: Ints
    fixed_above: Ints
    target_is_fixed: NDArray[np.bool]
    example: Ints
    item: Ints

    @classmethod
    def of(
        cls, examples: Examples, encoded: Encoded, scorer: Scorer, score_offsets: ScoreOffsets | None
    ) -> _Scored:
        scores = encoded.item_query @ scorer.vectors.T  # [B, items]
        if scorer.item_bias is not None:
            scores += scorer.item_bias
        size, lengths, targets = len(examples), examples.lengths, examples.targets
        prefixes = [prefix.astype(np.int64) for prefix, _ in examples]
        click_example = np.repeat(np.arange(size), lengths)
        click = np.concatenate(prefixes)
        if encoded.repeat_logits is not None:
            real = np.arange(encoded.repeat_logits.shape[1]) < lengths[:, None]
            np.add.at(scores, (click_example, click), encoded.repeat_logits[real])
        if score_offsets is None:
            fixed = [np.unique(prefix) for prefix in prefixes]
        else:
            fixed = []
            for at, prefix in enumerate(prefixes):
                items, offsets = score_offsets(prefix)
                scores[at, items] += offsets
                fixed.append(items)
        fixed_example = np.repeat(np.arange(size), [len(items) for items in fixed])
        fixed_item = np.concatenate(fixed)
        above = reaches_target(scores, targets)
        fixed_above = np.bincount(fixed_example, weights=above[fixed_example, fixed_item], minlength=size)
        target_is_fixed = np.bincount(fixed_example, fixed_item == targets[fixed_example], minlength=size) > 0
        above[fixed_example, fixed_item] = False
        return cls(
            targets,
            click_example,
            click,
            fixed_example,
            fixed_item,
            fixed_above.astype(np.int64),
            target_is_fixed,
            *np.nonzero(above),
        )


def _counts(
    scored: _Scored, layout: Layout, budgets: Budgets, logits: NDArray[np.float32], order: Ints, least: Ints
) -> Counts:
    """``logits`` and ``order`` [B, C]; ``least`` int64 [B]: how many categories at its head are always taken."""
    size, categories = order.shape
    every = np.arange(size)
    position = np.empty_like(order)
    np.put_along_axis(position, order, np.arange(categories)[None], axis=1)
    odds = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    probabilities = np.take_along_axis(odds / odds.sum(axis=1, keepdims=True), order, axis=1)
    taken = budgets.taken(probabilities, layout.sizes[order], least)

    def up_to(example: Ints, at: Ints) -> Ints:
        """int64 [B, C]: how many of the pairs of example and position are at each position or before it."""
        pairs = np.bincount(example * categories + at, minlength=size * categories)
        return pairs.reshape(size, categories).cumsum(axis=1)

    above = up_to(scored.example, layout.best_position(position, scored.example, scored.item))
    ranks = scored.fixed_above[:, None] + np.take_along_axis(above, taken - 1, axis=1)
    target_position = layout.best_position(position, every, scored.targets)
    ranks[(target_position[:, None] >= taken) & ~scored.target_is_fixed[:, None]] = 0

    rows = layout.sizes[order].cumsum(axis=1)
    several = np.flatnonzero(np.diff(layout.offsets))
    example, item = np.repeat(every, len(several)), np.tile(several, size)
    # an item that a category lists is scored from there on, not from the one that it lies in
    rows += up_to(example, layout.best_position(position, example, item))
    rows -= up_to(example, position[example, layout.leaf[item]])
    # fixed items are always scored
    rows -= up_to(
        scored.fixed_example, layout.best_position(position, scored.fixed_example, scored.fixed_item)
    )
    rows += np.bincount(scored.fixed_example, minlength=size)[:, None]
    return Counts(ranks, np.take_along_axis(rows, taken - 1, axis=1))
