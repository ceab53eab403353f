"""A trained table, grown, and the queries of real sessions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from benchmarks.vectors.case import Case, predicted_ranges
from benchmarks.vectors.geometry import beside, geometry
from benchmarks.vectors.grow import grow
from benchmarks.vectors.sessions import cases, encode
from hiersrec_sdk import Recommender


def trained(bundle: Path, data: Path, rows: int, share: float, count: int, seed: int) -> Case:
    """The table of ``bundle`` grown to ``rows`` rows, asked by ``count`` sessions of the test part of ``data``.

    The candidates of a query are its most probable categories, up to ``share`` of the rows.

    Raises:
        HierSRecError: the bundle or the data set cannot be read.
        ValueError: the table has a bias, which not every peer can add.
    """
    recommender = Recommender.load(bundle)
    catalog = recommender.catalog
    if catalog.bias is not None:
        raise ValueError(f"{bundle} has a bias, which not every peer can add to its scores")
    vectors, leaves = np.asarray(catalog.item_vectors), np.asarray(catalog.ranges[-1])
    asked = encode(recommender, cases(recommender, data, count, seed))
    grown = grow(vectors, leaves, rows, seed)
    need = math.ceil(share * rows)
    return Case(
        "bundle",
        grown.vectors,
        asked.queries,
        [predicted_ranges(logits, grown.leaves, need) for logits in asked.logits],
        beside(
            {
                f"trained, {len(vectors):,} rows": geometry(vectors, leaves, asked.queries),
                f"grown to {rows:,} rows": geometry(grown.vectors, grown.leaves, asked.queries),
            }
        ),
    )
