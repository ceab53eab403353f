"""Cold items: ``python -m benchmarks.studies.cold SOURCE --work WORK --out docs/results``.

A tenth of the items, drawn at random, loses all its clicks in the training and the validation part, so that its
category and text are all there is to place it by. Measured on the test part, every item ranked: cases whose next click
is such a cold item, and the others; beside what else could rank an item without clicks. Trained without and with id
dropout, which teaches the encoder of metadata to place an item by itself. SOURCE is the folder that holds the data
sets. Writes ``cold.md`` and ``cold.png``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.budget import accuracy
from benchmarks.studies.pages import bars_picture, table, write_page
from benchmarks.studies.scoring import encoder_of, scorer_of
from benchmarks.studies.trials import Asked, Trained, Trial, study_options
from hiersrec_export.cases import Cases
from hiersrec_export.curve import Budgets
from hiersrec_sdk import Recommender
from hiersrec_sdk.features import token_table
from hiersrec_training.dataset import Dataset, Sessions

SHARE = 0.1
DROPOUTS = (0.0, 0.1, 0.3)
CASES = 5_000
BUCKETS = 1 << 16  # of words, for the match of texts

Scores = Callable[[int], NDArray[np.float64]]
"""From the newest item of a session to a score of every item."""


def cold_items(data: Dataset) -> NDArray[np.bool]:
    """bool [items]: a tenth of them, the same for the same number of items."""
    return np.random.default_rng(0).permutation(data.items) < round(SHARE * data.items)


def held_out(data: Dataset) -> Dataset:
    """``data`` without the clicks on cold items in its training and validation part. Sessions of one click are gone."""
    cold = cold_items(data)
    train, valid = (_without(sessions, cold) for sessions in (data.train, data.valid))
    clicks = np.bincount(train.then(valid).items, minlength=data.items).astype(np.int64)
    return replace(data, train=train, valid=valid, clicks=clicks)


def _without(sessions: Sessions, items: NDArray[np.bool]) -> Sessions:
    session = np.repeat(np.arange(len(sessions)), sessions.lengths)
    kept = ~items[sessions.items]
    lengths = np.bincount(session[kept], minlength=len(sessions))
    kept &= lengths[session] >= 2
    left = lengths >= 2
    time = None if sessions.time is None else sessions.time[left]
    return Sessions(sessions.items[kept], np.concatenate([[0], lengths[left].cumsum()]).astype(np.int64), time)


def cases_of(data: Dataset) -> tuple[Cases, Cases]:
    """Cases of the test part whose target is cold, and the others; a sample of each. No cold item is clicked before it,
    so that a session says the same as if they were not in the catalogue."""
    cold = cold_items(data)
    every = Cases.sample(data.test, 1 << 40)
    start = data.test.offsets[every.session]
    target = data.test.items[start + every.length]
    before = np.concatenate([[0], cold[data.test.items].cumsum()])
    clean = before[start + every.length] == before[start]
    found = []
    for wanted in (cold[target] & clean, ~cold[target] & clean):
        chosen = np.flatnonzero(wanted)
        chosen = np.sort(np.random.default_rng(1).permutation(chosen)[:CASES])
        found.append(Cases(data.test, every.session[chosen], every.length[chosen]))
    return found[0], found[1]


def served(trained: Trained, cases: Cases) -> list[float]:
    """Recall@20 of the whole model and of the encoder alone, every item ranked."""
    bundle, data = trained.bundle(), Dataset.load(trained.data)
    recommender = Recommender.load(bundle)
    whole = scorer_of(recommender, data, encoder_of(bundle, recommender))
    length: int = recommender.config["max_length"]
    scorers = (whole, replace(whole, bias=None, wide=None))
    return [accuracy(scorer, data, cases, Budgets([], [1.0]), length)[0].recall for scorer in scorers]


def simple_scores(data: Dataset) -> dict[str, Scores]:
    """What can rank items without a model: by chance, by the newest item's category, by the words of its text."""
    random = np.random.default_rng(2)
    leaf = data.category
    counts = data.clicks.astype(np.float64)
    found: dict[str, Scores] = {
        "random": lambda newest: random.random(data.items),
        "random, the newest item's category first": lambda newest: random.random(data.items) + (leaf == leaf[newest]),
        "popular, the newest item's category first": lambda newest: (
            counts + random.random(data.items) / 2 + 1e9 * (leaf == leaf[newest])
        ),
    }
    if data.text.null_count() < data.items:
        tokens = token_table(data.text.to_list(), BUCKETS, 24)
        holders = np.maximum(1, np.bincount(tokens.ravel(), minlength=BUCKETS + 1))
        weight = np.where(tokens > 0, np.log(data.items / holders[tokens]), 0.0)
        norm = np.sqrt((weight**2).sum(1)).clip(1e-9)

        def match(newest: int) -> NDArray[np.float64]:
            shared = np.isin(tokens, tokens[newest][tokens[newest] > 0])
            likeness: NDArray[np.float64] = (weight**2 * shared).sum(1) / norm / norm[newest]
            return likeness + 1e-6 * random.random(data.items)

        found["words in common with the newest item"] = match
    return found


def recall(scores: Scores, cases: Cases) -> float:
    """Recall@20; ties count against it."""
    hits = 0
    for session, length in zip(cases.session, cases.length, strict=True):
        clicks = cases.sessions[int(session)]
        found = scores(int(clicks[length - 1]))
        hits += int(np.count_nonzero(found >= found[clicks[length]]) <= 20)
    return hits / max(1, len(cases))


@click.command(help=__doc__)
@study_options
def main(asked: Asked) -> None:
    tables, groups = [], []
    for bench in asked.benches():
        data = held_out(Dataset.load(bench.data))
        both = cases_of(data)
        rows: dict[str, list[float]] = {}
        for dropout in DROPOUTS:
            trial = Trial(f"cold, id dropout {dropout:g}", {"id_dropout": dropout}, change=held_out)
            found = [[served(trained, cases) for cases in both] for trained in bench.run(trial)]
            for at, model in enumerate(("HierSRec", "its encoder alone")):
                rows[f"{model}, id dropout {dropout:g}"] = [fmean(each[part][at] for each in found) for part in (0, 1)]
        for name, scores in simple_scores(data).items():
            rows[name] = [recall(scores, cases) for cases in both]
        head = [bench.name, f"cold target ({len(both[0]):,} cases)", f"warm target ({len(both[1]):,} cases)"]
        body = [[name, *(f"{100 * value:.2f} %" for value in values)] for name, values in rows.items()]
        tables.append(table(head, body))
        bars = [(name, [100 * value for value in values]) for name, values in rows.items()]
        groups.append((bench.name, bars))
    picture = bars_picture(
        groups,
        series=["cold target", "warm target"],
        x="Recall@20 on the test part, %",
        title="Items without a click in training",
    )
    text = (
        "Recall@20, every item ranked, where the next click is on an item that training has never seen, and where it "
        "is on another. Sessions that hold a cold item before it are left out."
    )
    write_page(asked.out, "cold", asked.command("cold"), "Cold items", text, "\n\n".join(tables), picture)


if __name__ == "__main__":
    main()
