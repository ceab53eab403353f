"""The curve of the budgets against its definition in plain Python, and against the runtime."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hiersrec_export.calibrate import Budgets, K, Layout, Scorer, measure
from hiersrec_sdk import Recommender
from hiersrec_sdk.encoders.session_encoder import Encoded, OnnxSessionEncoder
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.examples import Cases
from hiersrec_training.links import by_rows

ITEMS, LEAVES, WIDTH, MAX_LENGTH = 160, 8, 3, 4
SHARES = (0.01, 0.2, 0.4, 0.55, 0.8, 1.0)
TOP_PS = (0.1, 0.5, 0.8, 0.9, 0.99, 1.0)
BIAS = np.random.default_rng(6).integers(-2, 3, ITEMS).astype(np.float32)


class WholeNumbers:
    """An encoder of whole numbers, so that scores and logits tie often, and however they are summed."""

    def encode(self, vectors: NDArray[np.float32], lengths: NDArray[np.int64], /) -> Encoded:
        real = np.arange(vectors.shape[1]) < lengths[:, None]
        newest = vectors[np.arange(len(lengths)), lengths - 1]
        total = vectors.sum(axis=1)
        mixed = np.stack(
            [total[:, leaf % WIDTH] * (leaf - 3) + newest[:, 0] for leaf in range(LEAVES)], axis=1
        )
        return Encoded(
            category_logits=(np.round(mixed / 3).astype(np.float32),),
            repeat_logits=(np.arange(vectors.shape[1])[None] % 3 - newest[:, 1:2]).astype(np.float32) * real,
            item_query=(newest + total % 2).astype(np.float32),
        )


def whole_vectors(items: int) -> NDArray[np.float32]:
    return np.random.default_rng(5).integers(-2, 3, (items, WIDTH)).astype(np.float32)


def by_definition(
    data: Dataset,
    vectors: NDArray[np.float32],
    clicks: NDArray[np.int32],
    target: int,
    share: float | None,
    top_p: float | None,
    own_first: bool,
) -> tuple[int, int]:
    """Rank of the target, 0 where it is no candidate, and rows scored: of one case, with one budget."""
    session = [int(item) for item in clicks[-MAX_LENGTH:]]
    encoded = WholeNumbers().encode(vectors[session][None], np.array([len(session)]))
    logits = encoded.category_logits[-1][0].tolist()
    assert encoded.repeat_logits is not None
    own_leaves = {int(data.category[item]) for item in session} if own_first else set()
    order = sorted(range(LEAVES), key=lambda leaf: (leaf not in own_leaves, -logits[leaf], leaf))
    total = sum(math.exp(logit) for logit in logits)
    taken: list[int] = []
    held, probability = 0, 0.0
    for leaf in order:
        if share is not None:
            enough = held >= max(math.ceil(share * data.items), K)
        else:
            assert top_p is not None
            enough = probability >= top_p and held >= K and top_p < 1
        if enough and own_leaves <= set(taken):
            break
        taken.append(leaf)
        held += int(np.count_nonzero(data.category == leaf))
        probability += math.exp(logits[leaf]) / total
    candidates = set(session)
    for item in range(data.items):
        if {int(data.category[item]), *data.extra_categories[item]} & set(taken):
            candidates.add(item)
    scores = {item: float(np.dot(vectors[item], encoded.item_query[0]) + BIAS[item]) for item in candidates}
    for place, item in enumerate(session):
        scores[item] += float(encoded.repeat_logits[0, place])
    rank = sum(score >= scores[target] for score in scores.values()) if target in candidates else 0
    return rank, len(candidates)


@pytest.mark.parametrize("listed_often", [False, True])
def test_every_case_is_as_by_definition(make_dataset: Callable[..., Dataset], listed_often: bool) -> None:
    data = make_dataset(items=ITEMS, sessions=90, longest=6)
    random = np.random.default_rng(2)
    extra = [random.permutation(LEAVES)[: random.integers(0, 4)].tolist() for _ in range(ITEMS)]
    data = replace(data, extra_categories=extra if listed_often else [[] for _ in range(ITEMS)])
    # targets from anywhere: the walks of the data set never leave a category
    stray = data.test.items.copy()
    stray[::3] = random.integers(0, ITEMS, len(stray[::3]))
    sessions = replace(data.test, items=stray)
    vectors = whole_vectors(ITEMS)
    cases = Cases.sample(sessions, 10**6)
    assert len(cases) == sessions.cases
    budgets = Budgets(SHARES, TOP_PS)
    found = list(measure(Scorer(WholeNumbers(), vectors, BIAS), Layout.of(data), cases, budgets, MAX_LENGTH))
    batches = list(cases.batches(vectors, MAX_LENGTH, 256))
    seen = 0
    for batch, both in zip(batches, found, strict=True):
        for at, (clicks, target) in enumerate(zip(batch.clicks, batch.targets.tolist(), strict=True)):
            for own_first, counts in zip((False, True), both, strict=True):
                for budget in range(len(budgets)):
                    share = SHARES[budget] if budget < len(SHARES) else None
                    top_p = None if share is not None else TOP_PS[budget - len(SHARES)]
                    wanted = by_definition(data, vectors, clicks, target, share, top_p, own_first)
                    assert (counts.ranks[at, budget], counts.rows[at, budget]) == wanted
                    seen += wanted[0] > 1
    assert seen > 100


def test_all_items_are_the_exact_mode(make_dataset: Callable[..., Dataset]) -> None:
    data = make_dataset(items=ITEMS, sessions=90, longest=6)
    cases = Cases.sample(data.test, 10**6)
    for both in measure(
        Scorer(WholeNumbers(), whole_vectors(ITEMS), BIAS),
        Layout.of(data),
        cases,
        Budgets([1.0], [1.0]),
        MAX_LENGTH,
    ):
        for counts in both:
            assert np.all(counts.rows == ITEMS)
            assert np.all(counts.ranks >= 1)


def test_the_curve_is_what_the_runtime_does(tiny_bundle: Path, tiny_data: Path) -> None:
    data = Dataset.load(tiny_data)
    recommender = Recommender.load(tiny_bundle)
    catalog = recommender.catalog
    ids = data.item_ids.to_list()
    rows = catalog.rows(ids)
    vectors = np.ascontiguousarray(catalog.item_vectors[rows])
    assert catalog.wide is not None
    assert catalog.bias is not None
    wide = replace(
        catalog.wide, counts=by_rows(catalog.wide.counts, rows)
    )  # rows are to items as items to rows
    encoder = OnnxSessionEncoder(tiny_bundle / "model.onnx", dimension=16, categories=data.tree.sizes)
    scorer = Scorer(encoder, vectors, catalog.bias[rows], wide)
    shares = (0.45, 0.6, 0.8, 1.0)
    cases = Cases.sample(data.valid, 10**6)
    found = list(measure(scorer, Layout.of(data), cases, Budgets(shares, [1.0]), 6))
    for batch, (counts, _) in zip(cases.batches(vectors, 6, 256), found, strict=True):
        for at, (clicks, target) in enumerate(zip(batch.clicks, batch.targets.tolist(), strict=True)):
            for budget, share in enumerate(shares):
                result = recommender.recommend([ids[item] for item in clicks], K, candidates=share)
                assert result.rows_scored == counts.rows[at, budget]
                rank = result.items.index(ids[target]) + 1 if ids[target] in result.items else 0
                ours = int(counts.ranks[at, budget])
                assert (ours if ours <= K else 0) == rank


def test_a_sample_is_drawn_from_all_cases_and_the_same_each_time(
    make_dataset: Callable[..., Dataset],
) -> None:
    sessions = make_dataset().train
    some, again = Cases.sample(sessions, 50), Cases.sample(sessions, 50)
    assert len(some) == 50
    np.testing.assert_array_equal(some.session, again.session)
    every = Cases.sample(sessions, sessions.cases)
    lengths = sessions.lengths
    pairs = set(zip(every.session.tolist(), every.length.tolist(), strict=True))
    assert pairs == {(at, n) for at in range(len(sessions)) for n in range(1, int(lengths[at]))}
    assert set(zip(some.session.tolist(), some.length.tolist(), strict=True)) <= pairs
