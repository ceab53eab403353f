"""Deeper and learned hierarchies: ``python -m benchmarks.studies.trees SOURCE --work WORK --out docs/results``.

The shop's own tree, cut at every depth, beside trees that are learned where a shop has none: k-means of the items'
co-click vectors. Each is trained as the shop's own and measured on the validation split: the encoder with every item
ranked, and from candidates of the predicted categories alone. SOURCE is the folder that holds the data sets. Writes
``trees.md`` and ``trees.png``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.studies.budget import Row, accuracy
from benchmarks.studies.pages import bars_picture, write_page
from benchmarks.studies.scoring import scorer_of_run
from benchmarks.studies.trials import Asked, Trained, Trial, study_options
from benchmarks.tables import table
from hiersrec_export.calibrate import Budgets
from hiersrec_training.data.dataset import CategoryTree, Dataset
from hiersrec_training.examples import Examples
from hiersrec_training.neighbors import co_clicks

SHARE = 0.04  # of the items, as candidates
RANK = 32  # of the co-click vectors
ROUNDS = 20  # of k-means
EXAMPLES = 20_000


def cut(data: Dataset, depth: int) -> Dataset:
    """``data`` with the upper ``depth`` levels of its tree only."""
    tree, path = data.tree, data.tree.paths()[:, depth - 1]
    extra = [
        sorted({int(path[leaf]) for leaf in leaves} - {int(path[main])})
        for leaves, main in zip(data.extra_categories, data.category, strict=True)
    ]
    return replace(
        data,
        category=path[data.category].astype(np.int32),
        extra_categories=extra,
        tree=CategoryTree(tree.ids[:depth], tree.parents[:depth]),
        settings=_with_levels(data, depth),
    )


def learned(data: Dataset, sizes: list[int], seed: int = 0) -> Dataset:
    """``data`` with a tree of ``sizes`` categories at each level, the top level first.

    The leaves are the clusters of k-means over co-click vectors (the leading singular vectors of the square roots of
    the co-click counts of the training sessions); each level above clusters the centers of the one below.
    """
    points = co_click_vectors(data, seed)
    levels: list[NDArray[np.int64]] = []  # of each level, the leaf first: the cluster of each point below
    for size in reversed(sizes):
        clusters, points = k_means(points, size, seed)
        levels.append(clusters.numpy())
    # number the clusters in the order of a depth-first walk; those of the top level keep their numbers
    number = np.arange(len(points))
    parents = [np.full(len(points), -1, np.int32)]
    for cluster in reversed(levels[1:]):  # the parent of each cluster of the level below
        above = number[cluster]
        order = np.argsort(above, kind="stable")
        parents.append(above[order].astype(np.int32))
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
    ids: list[list[int | str]] = [list(range(len(level))) for level in parents]
    return replace(
        data,
        category=number[levels[0]].astype(np.int32),
        extra_categories=[[] for _ in range(data.items)],
        tree=CategoryTree(ids, parents),
        settings=_with_levels(data, len(ids)),
    )


def _with_levels(data: Dataset, depth: int) -> dict[str, Any]:
    return {**data.settings, "levels": [f"level_{level + 1}" for level in range(depth)]}


def co_click_vectors(data: Dataset, seed: int = 0) -> Tensor:
    """Unit vectors float32 [items, RANK]; an item without co-clicks has zeros."""
    graph = co_clicks(data.train, data.items, 64, 5)
    source, place = np.nonzero(graph.counts)
    where = torch.from_numpy(np.stack([source, graph.neighbors[source, place]]))
    counts = torch.from_numpy(graph.counts[source, place]).sqrt()
    row, column = where
    degree = torch.zeros(data.items).index_add(0, row, counts).clamp_min(1e-9)
    even = torch.sparse_coo_tensor(
        where, counts / (degree[row] * degree[column]).sqrt(), (data.items, data.items), check_invariants=True
    ).coalesce()
    torch.manual_seed(seed)
    left, values, _ = torch.svd_lowrank(even, min(RANK, data.items), niter=4)
    return torch.nn.functional.normalize(left * values, dim=1)


def k_means(points: Tensor, clusters: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The cluster int64 [n] of each of ``points`` [n, d], and the centers [at most ``clusters``, d]. None is empty."""
    random = torch.Generator().manual_seed(seed)
    centers = points[torch.randperm(len(points), generator=random)[:clusters]]
    for _ in range(ROUNDS):
        cluster = nearest(points, centers)
        counts = torch.bincount(cluster, minlength=len(centers))
        sums = torch.zeros_like(centers).index_add(0, cluster, points)
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centers)
    used, cluster = torch.unique(nearest(points, centers), return_inverse=True)
    return cluster, centers[used]


def nearest(points: Tensor, centers: Tensor) -> Tensor:
    """int64 [n]: the nearest of ``centers`` [k, d] to each of ``points`` [n, d]."""
    return torch.cat([torch.cdist(some, centers).argmin(1) for some in points.split(8192)])


def trials_of(data: Dataset) -> list[Trial]:
    """The shop's own tree at every depth, learned trees of as many leaves, and none."""
    depth, leaves = data.tree.depth, data.tree.sizes[-1]
    trials = [
        Trial(
            f"the shop's, {level} of {depth} levels ({data.tree.sizes[level - 1]:,} leaves)",
            {"covisitation": False},
            None if level == depth else partial(cut, depth=level),
        )
        for level in range(depth, 0, -1)
    ]
    for few in (leaves, max(2, leaves // 4)):
        for sizes in ([few], [max(2, round(few**0.5)), few]):
            name = " over ".join(f"{size:,}" for size in sizes)
            trials.append(Trial(f"learned, {name}", {"covisitation": False}, partial(learned, sizes=sizes)))
    trials.append(
        Trial("none", {"covisitation": False, "category_conditioning": "none"}, partial(learned, sizes=[1]))
    )
    return trials


def from_candidates(trained: Trained) -> tuple[Row, Row]:
    """The encoder alone on the validation split: from the categories that hold 4 % of the items, and exact."""
    data = Dataset.load(trained.data)
    examples = Examples.of(data.validation).sample(EXAMPLES)
    max_length = trained.info.config.max_length
    found = accuracy(scorer_of_run(trained.run, data), data, examples, Budgets([SHARE], [1.0]), max_length)
    return found[0], found[1]


@click.command(help=__doc__)
@study_options
def main(asked: Asked) -> None:
    tables, groups = [], []
    for bench in asked.benches():
        data = Dataset.load(bench.data)
        body, bars = [], []
        for trial in trials_of(data):
            trained = bench.run(trial)
            some, exact = (
                Row(
                    rows[0].name,
                    *(fmean(getattr(row, name) for row in rows) for name in ("recall", "mrr", "rows")),
                )
                for rows in zip(*map(from_candidates, trained), strict=True)
            )
            leaf = fmean(each.leaf_accuracy for each in trained)
            body.append(
                [
                    trial.name,
                    f"{100 * exact.recall:.2f} %",
                    f"{100 * exact.mrr:.2f} %",
                    f"{100 * leaf:.1f} %",
                    f"{100 * some.recall:.2f} %",
                    f"{100 * some.recall / exact.recall:.1f} %",
                    f"{100 * some.rows / data.items:.1f} %",
                ]
            )
            bars.append((trial.name, [100 * exact.recall, 100 * some.recall]))
        head = [
            f"{bench.name}, tree",
            "Recall@20",
            "MRR@20",
            "leaf category right",
            "Recall@20 at 4 %",
            "kept",
            "rows",
        ]
        tables.append(f"{bench.about(data)}.\n\n{table(head, body)}")
        groups.append((bench.name, bars))
    picture = bars_picture(
        groups,
        series=["exact", "from candidates, 4 %"],
        x="Recall@20 of the encoder, %",
        title="Trees of categories",
    )
    text = (
        "The encoder alone on the validation split, with every item ranked, and from the most probable leaf categories "
        "until they hold 4 % of the items. Every row of a table was trained alike."
    )
    write_page(
        asked.out, "trees", asked.command("trees"), "Trees of categories", text, "\n\n".join(tables), picture
    )


if __name__ == "__main__":
    main()
