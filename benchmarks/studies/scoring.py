"""A bundle as the export's budgets see it: everything by the item index of a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hiersrec_export.calibrate import Encoder, Scorer
from hiersrec_sdk import Recommender
from hiersrec_sdk.encoders.session_encoder import OnnxSessionEncoder
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.links import by_rows


def encoder_of(bundle: Path, recommender: Recommender) -> OnnxSessionEncoder:
    """The session encoder of the bundle, on all processors."""
    sizes = [len(ranges) for ranges in recommender.catalog.ranges]
    return OnnxSessionEncoder(
        bundle / "model.onnx", dimension=recommender.config["dimension"], categories=sizes, threads=2
    )


def scorer_of(recommender: Recommender, data: Dataset, encoder: Encoder) -> Scorer:
    """What scores the items of ``data``, of which ``recommender`` serves a bundle.

    Raises:
        ValueError: the bundle is of other items.
    """
    catalog = recommender.catalog
    rows = catalog.rows(data.item_ids.to_list())
    if len(catalog) != data.items or (rows < 0).any():
        raise ValueError("the bundle holds other items than the data set")
    # rows[item] is a row, so the table of rows in the order of the items is a table of items
    wide = (
        catalog.wide
        if catalog.wide is None
        else replace(catalog.wide, counts=by_rows(catalog.wide.counts, rows))
    )
    return Scorer(
        encoder,
        np.ascontiguousarray(catalog.item_vectors[rows]),
        None if catalog.bias is None else catalog.bias[rows],
        wide,
    )
