"""Fitting the wide part of the model: on sessions that neither the encoder nor the links have seen.

The encoder knows its training sessions better than it will ever know new ones, and the links hold them. So what
they are worth beside each other shows only on later sessions: those of the validation part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from hiersrec_sdk.ranking.covisitation import CovisitationCounts as Links
from hiersrec_training.batches import Batches
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.metrics import ranked_together, ranking_metrics
from hiersrec_training.model import HierSRec, Metadata, Wide

BEST = 100  # items of the encoder that stand in a case beside the linked ones
BEST_NEW = 20  # and of the new ones, where there are some
MOST_CASES = 80_000
LEAST_CASES = 50  # fewer say nothing
EPOCHS = 10
BATCH = 512  # cases a step
LEARNING_RATE = 2e-2


@dataclass(frozen=True)
class Cases:
    """Prefixes of sessions with the click that came next, in order of time, and the items that may answer each.

    The entries of case c are ``offsets[c]`` to ``offsets[c + 1]``: the encoder's best items, the linked ones and the
    target, each once.
    """

    offsets: NDArray[np.int64]  # [cases + 1]
    target: NDArray[np.int64]  # [cases], the target's entry
    reachable: NDArray[np.bool]  # [cases], whether the target is one of the best or linked
    item: NDArray[np.int32]  # [entries]
    score: NDArray[np.float32]  # [entries], by the encoder
    linked: NDArray[np.int32]  # [entries], the row of its features; -1 where it is not linked
    features: NDArray[np.float16]  # [linked entries, FEATURES]

    def __len__(self) -> int:
        return len(self.target)


@torch.no_grad()
def collect(
    model: HierSRec,
    meta: Metadata,
    links: Links,
    sessions: Sessions,
    new: NDArray[np.bool] | None = None,
    most: int = MOST_CASES,
    progress: bool = False,
) -> Cases:
    """The cases of ``sessions``: all of them, or those of every n-th session where there are more than ``most``.

    The items ``new`` bool [items], of which the ``links`` know no click, stand as if they were added to the catalogue
    today: metadata place them. The best of them are entries of every case.
    """
    step = -(-sessions.cases // most)
    chosen = [sessions[index] for index in range(0, len(sessions), step)]
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in chosen])]).astype(np.int64)
    batches = Batches(Sessions(np.concatenate(chosen), offsets), model.config.max_length, 64)
    model.eval()
    device = meta.category_path.device
    table = model.items.all_vectors(meta)
    rows = torch.from_numpy(np.flatnonzero(False if new is None else new)).to(device)
    if new is not None:
        table[rows] = F.normalize(model.items.from_metadata(meta.rows(rows)), dim=1)
    best, best_new = min(BEST, len(table)), min(BEST_NEW, len(rows))
    found: list[_Case] = []
    for batch, windows in tqdm(
        batches.with_windows(), "cases", len(batches), disable=not progress, leave=False
    ):
        batch = batch.to(device)
        states, sums = model.session.read(F.embedding(batch.items, table))
        answer = model.session.answer(states[batch.there], sums[batch.there])
        bonuses = model.bonuses(batch, answer)
        prefixes = [
            (window, row, length)
            for row, (window, longest) in enumerate(
                zip(windows.tolist(), batch.there.sum(1).tolist(), strict=True)
            )
            for length in range(1, longest + 1)
        ]
        clicks, targets = batch.items.cpu().numpy(), batch.target.cpu().numpy()
        for places, some in bonuses.chunks(len(targets), ranked_together(len(table))):
            scores = answer.query[places] @ table.T
            bonuses.add_to(scores, places, some)
            of_new = rows[scores[:, rows].topk(best_new).indices] if best_new else rows.expand(len(scores), 0)
            leading = torch.cat([scores.topk(best).indices, of_new], dim=1).cpu().numpy()
            scored = scores.cpu().numpy()
            for place, (window, row, length) in enumerate(prefixes[places]):
                linked, features = links.features(clicks[row, :length])
                target = targets[places.start + place]
                reached = np.unique(np.concatenate([leading[place], linked]))
                items = np.union1d(reached, [target])
                at = np.full(len(items), -1)
                at[items.searchsorted(linked)] = np.arange(len(linked))
                found.append(
                    _Case(
                        int(batches.start[window]) + length,
                        int(items.searchsorted(target)),
                        len(items) == len(reached),
                        items.astype(np.int32),
                        scored[place, items],
                        at,
                        features.astype(np.float16),
                    )
                )
    found.sort(key=lambda case: case.time)
    starts = np.concatenate([[0], np.cumsum([len(case.items) for case in found])]).astype(np.int64)
    before = np.concatenate([[0], np.cumsum([len(case.features) for case in found])])
    numbered = zip(found, before[:-1], strict=True)
    features_of = [np.where(case.linked >= 0, case.linked + first, -1) for case, first in numbered]
    return Cases(
        offsets=starts,
        target=starts[:-1] + np.array([case.target for case in found], dtype=np.int64),
        reachable=np.array([case.reachable for case in found]),
        item=np.concatenate([case.items for case in found]),
        score=np.concatenate([case.scores for case in found]),
        linked=np.concatenate(features_of).astype(np.int32),
        features=np.concatenate([case.features for case in found]),
    )


class _Case(NamedTuple):
    """One of :class:`Cases`, its ``target`` and ``linked`` counted from its own first."""

    time: int  # place of the target in the log
    target: int
    reachable: bool
    items: NDArray[np.int32]
    scores: NDArray[np.float32]
    linked: NDArray[np.int64]
    features: NDArray[np.float16]


def fit(wide: Wide, links: Links, cases: Cases, part: slice, seed: int = 0) -> None:
    """Fit ``wide`` on the ``part`` of the cases, by the cross-entropy of the target among the entries of its case.

    Cases whose target had to be added to the entries are left out: among so few items it is always the worst.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    wide.reset()
    popularity = torch.from_numpy(links.popularity)
    wide.standardise(
        popularity, torch.from_numpy(cases.features[:: max(1, len(cases.features) // 500_000)]).float()
    )
    chosen = np.flatnonzero(cases.reachable[part]) + part.indices(len(cases))[0]
    size = min(BATCH, len(chosen))
    steps = EPOCHS * (len(chosen) // size)
    optimizer = torch.optim.AdamW(wide.parameters(), weight_decay=1e-3)
    step = 0
    for _ in range(EPOCHS):
        order = random.permutation(chosen)
        for begin in range(0, len(order) - size + 1, size):
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1 - step / steps)
            scores, case, target, _ = scores_of(wide, popularity, cases, order[begin : begin + size])
            largest = torch.full((size,), -torch.inf).scatter_reduce(0, case, scores.detach(), "amax")
            sums = torch.zeros(size).index_add(0, case, (scores - largest[case]).exp())
            loss = (sums.log() + largest - scores[target]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
    wide.fitted.fill_(True)


def scores_of(
    wide: Wide, popularity: Tensor, cases: Cases, chosen: NDArray[np.int64]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the ``chosen`` cases the scores of all entries [n], the place of each one's case, the targets' places, and the
    entries' items [n]."""
    starts, counts = cases.offsets[chosen], np.diff(cases.offsets)[chosen]
    ends = counts.cumsum()
    entries = np.repeat(starts - ends + counts, counts) + np.arange(ends[-1])
    linked = cases.linked[entries]
    there = np.flatnonzero(linked >= 0)
    item = torch.from_numpy(cases.item[entries]).long()
    few = len(item) < len(popularity)  # among so many items most are in none of the cases
    bias = wide.item_bias(popularity[item]) if few else wide.item_bias(popularity)[item]
    scores = wide.scale * torch.from_numpy(cases.score[entries]) + bias
    boosts = wide.boosts(torch.from_numpy(cases.features[linked[there]]).float())
    scores = scores.index_add(0, torch.from_numpy(there), boosts)
    target = cases.target[chosen] - starts + ends - counts
    case = torch.from_numpy(np.repeat(np.arange(len(chosen)), counts))
    return scores, case, torch.from_numpy(target), item


@torch.no_grad()
def measure(wide: Wide | None, links: Links, cases: Cases, part: slice) -> dict[str, float]:
    """Metrics of the ``part`` of the cases, of the encoder alone where ``wide`` is None; ties against the model."""
    popularity = torch.from_numpy(links.popularity)
    chosen = np.arange(len(cases))[part]
    ranks = []
    for begin in range(0, len(chosen), BATCH):
        some = chosen[begin : begin + BATCH]
        scores, case, target, _ = scores_of(Wide() if wide is None else wide, popularity, cases, some)
        above = (scores >= scores[target][case]).float()
        ranks.append(torch.zeros(len(some)).index_add(0, case, above).long().numpy())
    return ranking_metrics(np.concatenate(ranks))


def fit_on(
    model: HierSRec,
    meta: Metadata,
    links: Links,
    sessions: Sessions,
    report: Callable[[str], None],
    progress: bool = False,
) -> dict[str, float]:
    """Fit the wide part of ``model`` on ``sessions``, which neither it nor the ``links`` have seen.

    Fitted on the older half and measured on the newer one first; what is kept is fitted on all.

    Returns:
        Metrics of the newer half, with the wide part; none, and the model as it was, where there are few cases.
    """
    cases = collect(model, meta, links, sessions, progress=progress)
    if len(cases) < LEAST_CASES:
        report(f"the wide part is left out: {len(cases)} validation cases are too few to fit it")
        return {}
    older, newer = slice(0, len(cases) // 2), slice(len(cases) // 2, None)
    before = measure(None, links, cases, newer)
    fit(model.wide, links, cases, older, model.config.seed)
    metrics = measure(model.wide, links, cases, newer)
    report(
        f"wide part, fitted on the older half of {len(cases):,} validation cases; the newer half: Recall@20 "
        f"{before['recall@20']:.4f} to {metrics['recall@20']:.4f}, MRR@20 {before['mrr@20']:.4f} to "
        f"{metrics['mrr@20']:.4f}"
    )
    fit(model.wide, links, cases, slice(None), model.config.seed)
    return metrics
