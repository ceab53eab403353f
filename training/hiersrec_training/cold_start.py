"""What an item that nobody has clicked yet is worth beside the others: a bias that all such items have in common.

The wide part is fitted on items that were clicked, and where much is known of those it leaves no room for others. So a
tenth of the items loses its clicks, as if they were added today, and the bias is the largest that costs no more than a
given share of the hits on other items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hiersrec_sdk.ranking.covisitation import POPULARITIES
from hiersrec_sdk.ranking.covisitation import CovisitationCounts as Links
from hiersrec_training.covisitation import BEST_NEW, LEAST_CASES, Cases, collect, scores_of
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.links import without
from hiersrec_training.model import HierSRec, Metadata, Wide

SHARE = 0.1  # of the clicked items that stand as new
MOST_CASES = 20_000
TOGETHER = 512  # cases


def choose_bias(
    model: HierSRec,
    meta: Metadata,
    links: Links,
    sessions: Sessions,
    report: Callable[[str], None],
    progress: bool = False,
) -> dict[str, Any]:
    """The bias of items without a click, beside the fitted wide part of ``model``, chosen on ``sessions``, which
    neither has seen.

    Returns:
        ``bias``, and what was measured with it: ``recall@20`` where the next click is on a new item, the same where it
        is on another (``known_recall@20``) and as that would be if new items were never shown
        (``known_recall@20_alone``), and the ``share`` of the items that stood as new. Nothing where no case has a hit
        to lose, or where there are few cases.
    """
    new = links.popularity[:, -1] == 0
    new |= np.random.default_rng(model.config.seed).random(len(new)) < SHARE
    whole = _before_clicks(sessions, new)
    if whole.cases < LEAST_CASES:
        report(
            f"new items: {whole.cases} validation cases before a click on one are too few to choose their bias"
        )
        return {}
    unlinked = without(links, new)
    cases = collect(model, meta, unlinked, whole, new, MOST_CASES, progress)
    ranked = list(_ranked(model.wide, unlinked, cases, new))
    limits = np.array([one.limit for one in ranked if not one.is_new and one.limit > -np.inf])
    if not np.isfinite(limits).any():
        return {}
    limits.sort()
    may_lose = min(int(model.config.cold_start_cost * len(limits)), int(np.isfinite(limits).sum()) - 1)
    bias = float(np.nextafter(np.float32(limits[may_lose]), np.float32(-np.inf)))
    known, fresh = (np.array([one.limit for one in ranked if one.is_new == kind]) for kind in (False, True))
    found = {
        "bias": bias,
        "recall@20": float(np.mean(fresh < bias)) if len(fresh) else 0.0,
        "known_recall@20": float(np.mean(known > bias)),
        "known_recall@20_alone": float(np.mean(known > -np.inf)),
        "share": float(new.mean()),
    }
    report(
        f"new items ({found['share']:.0%} of the items, by metadata alone): Recall@20 {found['recall@20']:.4f} on "
        f"them, {found['known_recall@20']:.4f} on the others, {found['known_recall@20_alone']:.4f} without new ones"
    )
    return found


def _before_clicks(sessions: Sessions, new: NDArray[np.bool]) -> Sessions:
    """The sessions up to their first click on a ``new`` item, which so is clicked last or never; of two clicks or more:
    as at the time when these items are added, when no session holds one yet."""
    place = np.arange(len(sessions.items)) - np.repeat(sessions.offsets[:-1], sessions.lengths)
    session = np.repeat(np.arange(len(sessions)), sessions.lengths)
    first = sessions.lengths.copy()
    np.minimum.at(first, session[new[sessions.items]], place[new[sessions.items]])
    kept = np.minimum(first + 1, sessions.lengths)
    kept[kept < 2] = 0
    offsets = np.concatenate([[0], kept[kept > 0].cumsum()]).astype(np.int64)
    return Sessions(sessions.items[place < kept[session]], offsets)


class _Ranked(NamedTuple):
    """A case: whether its target is new, and the bias of new items from which on a new target is among the best 20, or
    from which on another is not any more; -inf for one that never is, inf for one that always is (a new one: never)."""

    is_new: bool
    limit: float


@torch.no_grad()
def _ranked(wide: Wide, links: Links, cases: Cases, new: NDArray[np.bool]) -> Iterator[_Ranked]:
    popularity = torch.from_numpy(links.popularity)
    nothing = float(wide.item_bias(torch.zeros(1, POPULARITIES)))
    for begin in range(0, len(cases), TOGETHER):
        chosen = np.arange(begin, min(begin + TOGETHER, len(cases)))
        all_scores, case, targets, items = (
            tensor.numpy() for tensor in scores_of(wide, popularity, cases, chosen)
        )
        edges = np.searchsorted(case, np.arange(len(chosen) + 1))
        for at, (start, stop) in enumerate(pairwise(edges.tolist())):
            scores, is_new = all_scores[start:stop].astype(np.float64), new[items[start:stop]]
            scores[is_new] -= nothing
            target = targets[at] - start
            yield _Ranked(
                bool(is_new[target]), _limit(scores, is_new, target, bool(cases.reachable[chosen[at]]))
            )


def _limit(scores: NDArray[np.float64], new: NDArray[np.bool], target: int, reachable: bool) -> float:
    """See :class:`_Ranked`; ties count against the target. ``scores`` [n] of new items are those without the bias."""
    mine, is_new = scores[target], bool(new[target])
    above_alike = int(np.count_nonzero(scores[new == is_new] >= mine))  # with itself
    left = BEST_NEW - above_alike  # of the others, so many may be above it
    if not reachable or left < 0:
        return np.inf if is_new else -np.inf
    others = np.sort(scores[new != is_new])[::-1]
    if len(others) <= left:
        return -np.inf if is_new else np.inf
    return float(others[left] - mine) if is_new else float(mine - others[left])
