"""Cold start: the bias that all items without clicks share.

The co-visitation scorer is fitted on items that were clicked, and where much is known of those it leaves no room for
others. So a tenth of the items loses its clicks, as if added today, and the bias is the largest that costs no more than
a given share of the hits on other items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hiersrec_sdk.ranking.covisitation import POPULARITIES, CovisitationCounts
from hiersrec_training.covisitation import LEAST_EXAMPLES, scores_of, without
from hiersrec_training.covisitation_network import CovisitationNetwork
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.model import HierSRec, Metadata
from hiersrec_training.scored_examples import BEST_COLD, ScoredExamples, collect

SHARE = 0.1  # of the clicked items, which are treated as cold
MOST_EXAMPLES = 20_000
TOGETHER = 512  # examples


def choose_bias(
    model: HierSRec,
    meta: Metadata,
    covisits: CovisitationCounts,
    sessions: Sessions,
    report: Callable[[str], None],
    progress: bool = False,
) -> dict[str, Any]:
    """Choose the cold-start bias, beside the fitted co-visitation scorer of ``model``.

    Args:
        model: the trained model.
        meta: of all items.
        covisits: of the training sessions.
        sessions: what it is chosen on; neither encoder nor ``covisits`` have seen them.
        report: takes a line for a person to read.
        progress: whether to show a bar.

    Returns:
        ``bias``, and metrics with it: ``recall@20`` where the next item is a cold one, ``known_recall@20`` where it is
        another, ``known_recall@20_alone`` the latter if cold items were never shown; and ``share`` of the items that
        stood as cold. Empty where there are few examples, or none has a hit to lose.
    """
    cold = covisits.popularity[:, -1] == 0
    cold |= np.random.default_rng(model.config.seed).random(len(cold)) < SHARE
    whole = _up_to_cold(sessions, cold)
    if whole.example_count < LEAST_EXAMPLES:
        report(
            f"no cold-start bias: {whole.example_count} validation examples up to a cold item are too few to choose "
            f"it, it takes {LEAST_EXAMPLES}"
        )
        return {}
    warm_covisits = without(covisits, cold)
    examples = collect(model, meta, warm_covisits, whole, cold, MOST_EXAMPLES, progress)
    ranked = list(_ranked(model.covisitation, warm_covisits, examples, cold))
    limits = np.array([one.limit for one in ranked if not one.is_cold and one.limit > -np.inf])
    if not np.isfinite(limits).any():
        return {}
    limits.sort()
    may_lose = min(int(model.config.cold_start_cost * len(limits)), int(np.isfinite(limits).sum()) - 1)
    bias = float(np.nextafter(np.float32(limits[may_lose]), np.float32(-np.inf)))
    known, fresh = (np.array([one.limit for one in ranked if one.is_cold == kind]) for kind in (False, True))
    found = {
        "bias": bias,
        "recall@20": float(np.mean(fresh < bias)) if len(fresh) else 0.0,
        "known_recall@20": float(np.mean(known > bias)),
        "known_recall@20_alone": float(np.mean(known > -np.inf)),
        "share": float(cold.mean()),
    }
    report(
        f"cold start ({found['share']:.0%} of the items, placed by metadata alone): Recall@20 "
        f"{found['recall@20']:.4f} on them, {found['known_recall@20']:.4f} on the others, "
        f"{found['known_recall@20_alone']:.4f} if they were never shown"
    )
    return found


def _up_to_cold(sessions: Sessions, cold: NDArray[np.bool]) -> Sessions:
    """The sessions up to their first cold item, which is then their last, if they have two clicks up to there.

    That is the log of the time when these items are added: no session holds one yet.
    """
    position = np.arange(len(sessions.items)) - np.repeat(sessions.offsets[:-1], sessions.lengths)
    session = np.repeat(np.arange(len(sessions)), sessions.lengths)
    first = sessions.lengths.copy()
    np.minimum.at(first, session[cold[sessions.items]], position[cold[sessions.items]])
    kept = np.minimum(first + 1, sessions.lengths)
    kept[kept < 2] = 0
    offsets = np.concatenate([[0], kept[kept > 0].cumsum()]).astype(np.int64)
    return Sessions(sessions.items[position < kept[session]], offsets)


class _Ranked(NamedTuple):
    """An example, and the cold-start bias that decides whether its target is among the best 20.

    A cold target is among them above ``limit``, another one below it. ``limit`` is -inf for a cold target that always
    is and for another that never is; inf the other way round.
    """

    is_cold: bool
    limit: float


@torch.no_grad()
def _ranked(
    network: CovisitationNetwork,
    covisits: CovisitationCounts,
    examples: ScoredExamples,
    cold: NDArray[np.bool],
) -> Iterator[_Ranked]:
    popularity = torch.from_numpy(covisits.popularity)
    network = network.cpu()
    nothing = float(network.item_bias(torch.zeros(1, POPULARITIES)))
    for begin in range(0, len(examples), TOGETHER):
        chosen = np.arange(begin, min(begin + TOGETHER, len(examples)))
        all_scores, example, targets, items = (
            tensor.cpu().numpy() for tensor in scores_of(network, popularity, examples, chosen)
        )
        edges = np.searchsorted(example, np.arange(len(chosen) + 1))
        for at, (start, stop) in enumerate(pairwise(edges.tolist())):
            scores, is_cold = all_scores[start:stop].astype(np.float64), cold[items[start:stop]]
            scores[is_cold] -= nothing
            target = targets[at] - start
            reachable = bool(examples.reachable[chosen[at]])
            yield _Ranked(bool(is_cold[target]), _limit(scores, is_cold, target, reachable))


def _limit(scores: NDArray[np.float64], cold: NDArray[np.bool], target: int, reachable: bool) -> float:
    """See :class:`_Ranked`; ties count against the target. ``scores`` [n] of cold items are those without the bias."""
    mine, is_cold = scores[target], bool(cold[target])
    above_alike = int(np.count_nonzero(scores[cold == is_cold] >= mine))  # with itself
    left = BEST_COLD - above_alike  # so many of the others may be above it
    if not reachable or left < 0:
        return np.inf if is_cold else -np.inf
    others = np.sort(scores[cold != is_cold])[::-1]
    if len(others) <= left:
        return -np.inf if is_cold else np.inf
    return float(others[left] - mine) if is_cold else float(mine - others[left])
