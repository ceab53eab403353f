"""Queries of real sessions: the test part of a data set through the encoder of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk import Recommender
from hiersrec_training.data.dataset import Dataset


class Encodings(NamedTuple):
    """``queries`` float32 [m, d] and ``logits`` float32 [m, leaf categories]."""

    queries: NDArray[np.float32]
    logits: NDArray[np.float32]


def cases(
    recommender: Recommender, data: Path, count: int, seed: int, length: int | None = None
) -> list[NDArray[np.int64]]:
    """``count`` different cases of the test part, drawn with ``seed``, or as many as there are: their rows.

    A case is a session up to any of its clicks but the last, oldest first, here without items that the catalogue lacks;
    of more than ``max_length`` clicks the last ones count. With a ``length``, only cases of that many clicks.
    """
    dataset = Dataset.load(data)
    row_of = recommender.catalog.rows(dataset.item_ids.to_list())
    sessions, longest = dataset.test, recommender.config["max_length"]
    known = [row_of[sessions[at][:-1]] for at in range(len(sessions))]
    known = [rows[rows >= 0] for rows in known]
    stops = [
        range(1, len(rows) + 1) if length is None else [length] * (length <= len(rows)) for rows in known
    ]
    every = [rows[:stop] for rows, own in zip(known, stops, strict=True) for stop in own]
    return [every[at][-longest:] for at in np.random.default_rng(seed).permutation(len(every))[:count]]


def encode(recommender: Recommender, sessions: list[NDArray[np.int64]]) -> Encodings:
    """What the encoder says of each of the sessions, given by their rows."""
    table, encoder = recommender.catalog.input_vectors, recommender._encoder
    queries, logits = [], []
    for rows in sessions:  # one by one, as they are served: a batch may differ in the last bit
        encoded = encoder.encode(table[rows][None], np.array([len(rows)], np.int64))
        queries.append(np.array(encoded.item_query[0]))
        logits.append(np.array(encoded.category_logits[-1][0]))
    return Encodings(np.stack(queries), np.stack(logits))
