"""The co-visitation scorer: counting what was clicked near what, and fitting the network that reads the counts.

It is fitted on the validation split. The encoder knows its training sessions better than it will ever know new ones,
and the counts hold those sessions, so only later ones show what encoder and counts are worth beside each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiersrec_sdk.ranking.covisitation import EDGE_COUNTS, POPULARITIES, CovisitationCounts
from hiersrec_training.covisitation_network import CovisitationNetwork
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.metrics import ranking_metrics, target_ranks_of_entries
from hiersrec_training.model import HierSRec, Metadata
from hiersrec_training.neighbors import most_frequent, near_pairs
from hiersrec_training.scored_examples import ScoredExamples, collect

# counts
WINDOW = 5  # most clicks between two co-visited items
WIDTH = 128  # most co-visited items of an item
RECENT = (0.01, 0.03, 0.1, 0.3)  # newest shares of the sessions, whose clicks are counted apart
MOST_CLICKS = np.iinfo(np.uint16).max

# fitting
LEAST_EXAMPLES = 50  # fewer say nothing
EPOCHS = 10
BATCH = 512  # examples a step
LEARNING_RATE = 2e-2


def count_covisits(sessions: Sessions, items: int, width: int = WIDTH) -> CovisitationCounts:
    """The co-visitation counts of all items, by item index.

    An item keeps the ``width`` items clicked most often near it. Ties go to the lower item index. Sessions are in
    order of time; their log needs no dates.
    """
    degrees = np.zeros(items, np.int64)
    rows, clicks = [np.empty(0, np.int32)], [np.empty((0, EDGE_COUNTS), np.uint16)]
    for pairs in near_pairs(sessions, items, WINDOW):
        kinds = (pairs.distance > 0, pairs.distance < 0, pairs.distance == 1)
        counts = np.stack(
            [np.bincount(pairs.pair[kind], minlength=len(pairs.source)) for kind in kinds], axis=1
        )
        kept, _ = most_frequent(pairs, counts[:, 0] + counts[:, 1], width)
        np.add.at(degrees, pairs.source[kept], 1)
        rows.append(pairs.target[kept].astype(np.int32))
        clicks.append(np.minimum(counts[kept], MOST_CLICKS).astype(np.uint16))
    offsets = np.concatenate([[0], degrees.cumsum()])
    return CovisitationCounts(
        _popularity(sessions, items), offsets, np.concatenate(rows), np.concatenate(clicks)
    )


def _popularity(sessions: Sessions, items: int) -> NDArray[np.float32]:
    """float32 [items, POPULARITIES]: log(1 + clicks) in the newest shares of the sessions, then in all of them."""
    popularity = np.empty((items, POPULARITIES), dtype=np.float32)
    for column, share in enumerate((*RECENT, 1.0)):
        newest = sessions.items[sessions.offsets[round((1 - share) * len(sessions))] :]
        popularity[:, column] = np.log1p(np.bincount(newest, minlength=items))
    return popularity


def by_rows(covisits: CovisitationCounts, order: NDArray[np.int64]) -> CovisitationCounts:
    """The counts by catalog row, where row r holds item ``order[r]``, int64 [n]."""
    row = np.empty(len(order), dtype=np.int32)
    row[order] = np.arange(len(order), dtype=np.int32)
    starts, counts = covisits.offsets[order], np.diff(covisits.offsets)[order]
    offsets = np.concatenate([[0], counts.cumsum()])
    edges = np.repeat(starts - offsets[:-1], counts) + np.arange(offsets[-1])
    return CovisitationCounts(
        covisits.popularity[order], offsets, row[covisits.rows[edges]], covisits.counts[edges]
    )


def without(covisits: CovisitationCounts, items: NDArray[np.bool]) -> CovisitationCounts:
    """The counts as if nobody had clicked ``items`` bool [n]."""
    source = np.repeat(np.arange(len(items)), np.diff(covisits.offsets))
    kept = ~(items[source] | items[covisits.rows])
    offsets = np.concatenate([[0], np.bincount(source[kept], minlength=len(items)).cumsum()])
    popularity = np.where(items[:, None], np.float32(0), covisits.popularity)
    return CovisitationCounts(popularity, offsets, covisits.rows[kept], covisits.counts[kept])


def fit(
    network: CovisitationNetwork,
    covisits: CovisitationCounts,
    examples: ScoredExamples,
    part: slice,
    seed: int = 0,
) -> None:
    """Fit ``network`` on a ``part`` of the examples, by the cross-entropy of the target among its example's entries.

    Examples whose target had to be added to the entries are left out: among so few items it is always the worst.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    network.reset()
    device = examples.score.device
    popularity = torch.from_numpy(covisits.popularity).to(device)
    network.standardise(popularity, examples.features[:: max(1, len(examples.features) // 500_000)].float())
    chosen = np.flatnonzero(examples.reachable[part]) + part.indices(len(examples))[0]
    size = min(BATCH, len(chosen))
    steps = EPOCHS * (len(chosen) // size)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    step = 0
    for _ in range(EPOCHS):
        order = random.permutation(chosen)
        for begin in range(0, len(order) - size + 1, size):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - step / steps)
            scores, example, target, _ = scores_of(network, popularity, examples, order[begin : begin + size])
            nothing = torch.zeros(size, device=device)
            largest = (nothing - torch.inf).scatter_reduce(0, example, scores.detach(), "amax")
            sums = nothing.index_add(0, example, (scores - largest[example]).exp())
            loss = (sums.log() + largest - scores[target]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    network.fitted.fill_(True)


def scores_of(
    network: CovisitationNetwork, popularity: Tensor, examples: ScoredExamples, chosen: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Score all entries of the ``chosen`` examples.

    Returns:
        Scores [entries]; the example of each entry, counted from the first chosen one, [entries]; the target's entry
        of each example [chosen]; and the items [entries].
    """
    starts, counts = examples.offsets[chosen], np.diff(examples.offsets)[chosen]
    ends = counts.cumsum()
    target = examples.target[chosen] - starts + ends - counts
    entries, example, targets = (
        torch.from_numpy(indices).to(examples.score.device)
        for indices in (
            np.repeat(starts - ends + counts, counts) + np.arange(ends[-1]),
            np.repeat(np.arange(len(chosen)), counts),
            target,
        )
    )
    covisited = examples.covisited.index_select(0, entries)
    there = (covisited >= 0).nonzero()[:, 0]
    item = examples.item.index_select(0, entries).long()
    few = len(item) < len(popularity)  # of a large catalog most items are in none of the examples
    bias = network.item_bias(popularity[item]) if few else network.item_bias(popularity).index_select(0, item)
    scores = network.scale * examples.score.index_select(0, entries) + bias
    features = examples.features.index_select(0, covisited.index_select(0, there))
    scores = scores.index_add(0, there, network.score_offsets(features.float()))
    return scores, example, targets, item


@torch.no_grad()
def measure(
    network: CovisitationNetwork | None, covisits: CovisitationCounts, examples: ScoredExamples, part: slice
) -> dict[str, float]:
    """Ranking metrics of a ``part`` of the examples; of the encoder alone where ``network`` is None."""
    popularity = torch.from_numpy(covisits.popularity).to(examples.score.device)
    network = (network or CovisitationNetwork()).to(popularity.device)
    chosen = np.arange(len(examples))[part]
    ranks = []
    for begin in range(0, len(chosen), BATCH):
        some = chosen[begin : begin + BATCH]
        scores, example, target, _ = scores_of(network, popularity, examples, some)
        ranks.append(target_ranks_of_entries(*(each.cpu().numpy() for each in (scores, example, target))))
    return ranking_metrics(np.concatenate(ranks))


def fit_on(
    model: HierSRec,
    meta: Metadata,
    covisits: CovisitationCounts,
    sessions: Sessions,
    report: Callable[[str], None],
    progress: bool = False,
) -> dict[str, float]:
    """Fit the co-visitation scorer of ``model`` on ``sessions``, which neither encoder nor ``covisits`` have seen.

    It is fitted on the older half and measured on the newer one first. The one that is kept is fitted on all.

    Returns:
        Metrics of the newer half, with the scorer. Empty, with the model as it was, where there are few examples or the
        fit diverged.
    """
    examples = _near(collect(model, meta, covisits, sessions, progress=progress), meta.category_path.device)
    model.covisitation.to(examples.score.device)
    older, newer = slice(0, len(examples) // 2), slice(len(examples) // 2, None)
    usable = np.count_nonzero(examples.reachable[older])
    if usable < LEAST_EXAMPLES // 2:
        report(
            f"no co-visitation scorer: {len(examples)} validation examples are too few to fit it; the older half has "
            f"{usable} whose target is among the encoder's best or co-visited, it takes {LEAST_EXAMPLES // 2}"
        )
        return {}
    before = measure(None, covisits, examples, newer)
    fit(model.covisitation, covisits, examples, older, model.config.seed)
    if _has_diverged(model.covisitation, report):
        return {}
    metrics = measure(model.covisitation, covisits, examples, newer)
    report(
        f"co-visitation scorer, fitted on the older half of {len(examples):,} validation examples; the newer half: "
        f"Recall@20 {before['recall@20']:.4f} to {metrics['recall@20']:.4f}, MRR@20 {before['mrr@20']:.4f} to "
        f"{metrics['mrr@20']:.4f}"
    )
    if metrics["mrr@20"] < before["mrr@20"]:
        report(
            "warning: the co-visitation scorer makes MRR@20 worse on sessions newer than those it was fitted on. It is "
            "kept all the same: --set covisitation=false trains without it, a longer validation split may mend it"
        )
    fit(model.covisitation, covisits, examples, slice(None), model.config.seed)
    return {} if _has_diverged(model.covisitation, report) else metrics


def _near(examples: ScoredExamples, device: torch.device) -> ScoredExamples:
    """The ``examples`` on ``device``, or on the CPU where a GPU has no room for them."""
    if device.type == "cuda" and 2 * examples.nbytes > torch.cuda.mem_get_info(device)[0]:
        return examples
    return examples.to(device)


def _has_diverged(network: CovisitationNetwork, report: Callable[[str], None]) -> bool:
    """Whether the fit of ``network`` diverged. That is reported, and its output is zero then."""
    if all(parameter.isfinite().all() for parameter in network.parameters()):
        return False
    report("no co-visitation scorer: its fit diverged, as the encoder's scores are too large")
    network.reset()
    return True
