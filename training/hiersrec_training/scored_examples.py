"""The examples that the co-visitation scorer is fitted on: which items may come next, with scores and features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from hiersrec_sdk.ranking.covisitation import (
    DECAY,
    EDGE_COUNTS,
    FEATURES,
    POPULARITIES,
    REACH,
    CovisitationCounts,
)
from hiersrec_training.batches import Batches, ahead
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.examples import Examples
from hiersrec_training.metrics import ranked_together
from hiersrec_training.model import HierSRec, Metadata

BEST = 100  # items that the encoder scores highest, entries of every example beside the co-visited ones
BEST_COLD = 20  # and of the cold items, where there are some
MOST_EXAMPLES = 80_000
MOST_ENTRIES = 40_000_000  # of all examples, which take about 2 GB
SAMPLE = 500  # examples whose entries are counted before


@dataclass(frozen=True)
class ScoredExamples:
    """Examples in order of time, each with the items that may come next: its entries.

    The entries of example e are ``offsets[e]`` to ``offsets[e + 1]``: the encoder's best items, the co-visited ones
    and the target, each once.
    """

    offsets: NDArray[np.int64]  # [examples + 1]
    target: NDArray[np.int64]  # [examples], the target's entry
    reachable: NDArray[np.bool]  # [examples], whether the target is one of the best or co-visited
    item: Tensor  # int32 [entries]
    score: Tensor  # float32 [entries], by the encoder
    covisited: Tensor  # int32 [entries], the row of its features; -1 where it is not co-visited
    features: Tensor  # float16 [co-visited entries, FEATURES]

    def __len__(self) -> int:
        return len(self.target)

    @property
    def nbytes(self) -> int:
        """Bytes of what has a value for each entry."""
        return sum(table.nbytes for table in (self.item, self.score, self.covisited, self.features))

    def to(self, device: torch.device) -> ScoredExamples:
        """With the values of entries there; which ones an example has is worked out on the CPU."""
        tables: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tables)


@torch.no_grad()
def collect(
    model: HierSRec,
    meta: Metadata,
    covisits: CovisitationCounts,
    sessions: Sessions,
    cold: NDArray[np.bool] | None = None,
    most: int = MOST_EXAMPLES,
    progress: bool = False,
) -> ScoredExamples:
    """Score the examples of ``sessions``: all, or those of every n-th session where there are more than ``most``.

    Args:
        model: the trained encoder.
        meta: of all items.
        covisits: of the training sessions.
        sessions: what to take the examples from.
        cold: bool [items], items treated as if they were added today: placed by metadata alone, and without a click in
            ``covisits``. The best of them are entries of every example. None: items without a click are left out.
        most: how many examples to score, about; fewer where their entries would be more than ``MOST_ENTRIES``.
        progress: whether to show a bar.
    """
    most = min(most, int(MOST_ENTRIES / _entries_of_one(covisits, sessions, model.config.max_length)))
    step = -(-sessions.example_count // max(1, most))
    chosen = [sessions[index] for index in range(0, len(sessions), step)]
    offsets = np.concatenate([[0], np.cumsum([len(clicks) for clicks in chosen])]).astype(np.int64)
    batches = Batches(Sessions(np.concatenate(chosen), offsets), model.config.max_length, 64)
    model.eval()
    device = meta.category_path.device
    table = model.items.all_vectors(meta)
    rows = torch.from_numpy(np.flatnonzero(False if cold is None else cold)).to(device)
    if cold is not None:
        table[rows] = F.normalize(model.items.from_metadata(meta.rows(rows)), dim=1)
    shown = len(table) if cold is not None else int(model.items.clicked.sum())
    best, best_cold = min(BEST, shown), min(BEST_COLD, len(rows))

    @torch.no_grad()  # which is a matter of the thread
    def scored() -> Iterator[tuple[Examples, NDArray[np.int64], Tensor]]:
        """Some examples, the items that lead in each, and the scores of all items."""
        for batch, examples in tqdm(
            batches.with_examples(), "examples", len(batches), disable=not progress, leave=False
        ):
            inputs = batch.inputs().to(device)
            answer, repeats = model.answer(inputs, F.embedding(inputs.items, table))
            for positions, some in repeats.chunks(ranked_together(len(table))):
                scores = answer.query[positions] @ table.T
                own = repeats.add_to(scores, positions, some)
                if cold is None:
                    model.hide_unclicked(scores, own)
                leading = [scores.topk(best).indices]
                if best_cold:
                    leading.append(rows[scores[:, rows].topk(best_cold).indices])
                yield examples.take(positions), torch.cat(leading, dim=1).cpu().numpy(), scores

    # PyTorch scores some examples while NumPy works on those before
    each = ahead(scored())
    return _in_order_of_time([_Some.of(some, covisits, leading, scores) for some, leading, scores in each])


def _entries_of_one(covisits: CovisitationCounts, sessions: Sessions, max_length: int) -> float:
    """How many entries an example has, about: long sessions have been near thousands of items."""
    some = Examples.of(sessions).sample(SAMPLE).newest(max_length)
    return BEST + len(features_of(covisits, some)[0]) / max(1, len(some))


class _Some(NamedTuple):
    """Some of :class:`ScoredExamples`, in any order."""

    time: NDArray[np.int64]  # [examples], position of the target in the log
    size: NDArray[np.int64]  # [examples], how many entries each has
    target: NDArray[np.int64]  # [examples], the target's entry, counted from the first of its example
    reachable: NDArray[np.bool]  # [examples]
    item: NDArray[np.int32]  # [entries]
    score: NDArray[np.float32]  # [entries]
    covisited: NDArray[np.int32]  # [entries]
    features: NDArray[np.float16]  # [co-visited entries, FEATURES]

    @classmethod
    def of(
        cls,
        examples: Examples,
        covisits: CovisitationCounts,
        leading: NDArray[np.int64],
        scores: Tensor,
    ) -> _Some:
        """From all ``scores`` [examples, items]; ``leading`` [examples, n] are the items that score highest.

        The scores stay where they are, and only those of entries are fetched.
        """
        items = scores.shape[1]
        each = np.arange(len(examples))
        covisited, features = features_of(covisits, examples)
        target = each * items + examples.targets
        reached = _distinct((each[:, None] * items + leading).ravel(), covisited)
        entries = _distinct(reached, target)
        at = reached.searchsorted(target)
        row = np.full(len(entries), -1, np.int32)
        row[entries.searchsorted(covisited)] = np.arange(len(covisited))
        first = entries.searchsorted(each * items)
        return cls(
            time=examples.stop,
            size=np.diff(first, append=len(entries)),
            target=entries.searchsorted(target) - first,
            reachable=reached.take(at, mode="clip") == target,
            item=(entries % items).astype(np.int32),
            score=scores.flatten()[torch.from_numpy(entries).to(scores.device)].cpu().numpy(),
            covisited=row,
            features=features.astype(np.float16),
        )


def _distinct(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """All the keys, rising, each once. On so many np.unique, which hashes them first, takes several times as long."""
    every = np.sort(np.concatenate(keys))
    return every[np.diff(every, prepend=-1) > 0]


def _in_order_of_time(found: list[_Some]) -> ScoredExamples:
    before = np.cumsum([0] + [len(some.features) for some in found]).tolist()
    for some, first in zip(found, before, strict=False):
        some.covisited[some.covisited >= 0] += first
    time, size, target, reachable, item, score, covisited, features = map(
        np.concatenate, zip(*found, strict=True)
    )
    order = np.argsort(time)
    starts = (size.cumsum() - size)[order]
    offsets = np.concatenate([[0], size[order].cumsum()])
    entries = np.repeat(starts - offsets[:-1], size[order]) + np.arange(offsets[-1])
    covisited = covisited[entries]
    there = covisited >= 0
    features = features[covisited[there]]
    covisited[there] = np.arange(len(features))
    return ScoredExamples(
        offsets,
        offsets[:-1] + target[order],
        reachable[order],
        *map(torch.from_numpy, (item[entries], score[entries], covisited, features)),
    )


def features_of(
    covisits: CovisitationCounts, examples: Examples
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The co-visited items of many examples at once, with their features: those of :meth:`CovisitationCounts.features`.

    It is told ``np.log1p`` for the logarithm. One example at a time would take several times as long.

    Returns:
        ``example * items + item``, rising, int64 [m]; and the features, float32 [m, FEATURES].
    """
    items, lengths = len(covisits.popularity), examples.lengths
    example = np.repeat(np.arange(len(examples)), lengths)
    distance = np.arange(len(example)) - np.repeat(lengths.cumsum() - lengths, lengths)  # to the newest click
    clicked = examples.clicks[examples.stop[example] - 1 - distance].astype(np.int64)
    near = np.flatnonzero(distance < REACH)
    starts = covisits.offsets[clicked[near]]
    sizes = covisits.offsets[clicked[near] + 1] - starts
    edges = np.repeat(starts - sizes.cumsum() + sizes, sizes) + np.arange(sizes.sum())
    of_near = np.repeat(near, sizes)  # the click that each edge comes from
    keys = np.concatenate([example[of_near] * items + covisits.rows[edges], example * items + clicked])
    found, place = np.unique(keys, return_inverse=True)
    of_edge, of_click = place[: len(edges)], place[len(edges) :]
    newest = of_click[distance == 0][example]  # [clicks], of each click's example
    owner = found // items
    size, counts = len(found), covisits.counts[edges]
    weights = np.cumprod([1.0] + [float(np.float32(DECAY))] * (REACH - 1))[distance[of_near]]
    features = np.zeros((size, FEATURES), np.float32)
    features[:, :POPULARITIES] = covisits.popularity[found % items]
    at = POPULARITIES
    features[:, at] = np.bincount(of_edge, weights * counts[:, 0], size)
    features[:, at + 1] = np.bincount(of_edge, weights * counts[:, 1], size)
    at += 2
    of_newest = distance[of_near] == 0
    features[of_edge[of_newest], at : at + EDGE_COUNTS] = counts[of_newest]
    at += EDGE_COUNTS
    features[:, at] = np.bincount(of_click, minlength=size)
    older = np.flatnonzero(distance > 0)  # each is directly before the click in front of it here
    features[:, at + 1] = np.bincount(of_click[older - 1], of_click[older] == newest[older], size)
    features[:, at + 2] = np.bincount(of_click[older], of_click[older - 1] == newest[older], size)
    features[:, at + 3] = lengths[owner]
    newest = of_click[distance == 0][owner]  # [m]
    features[:, at + 4] = features[newest, at] - 1
    features[:, POPULARITIES : at + 5] = np.log1p(features[:, POPULARITIES : at + 5])
    since = np.full(size, -1.0, np.float32)
    since[of_click[::-1]] = np.log1p(distance[::-1])  # the newest of several clicks is the last
    features[:, at + 5] = since
    features[:, at + 6] = (np.bincount(owner[features[:, at] > 0], minlength=len(examples)) / lengths)[owner]
    features[:, at + 7] = features[newest, POPULARITIES - 1]
    return found, features
