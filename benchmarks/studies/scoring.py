"""What scores items in a study: a bundle or a run as the calibration sees it, by the item index of a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hiersrec_export.calibrate import Encoder, Scorer
from hiersrec_export.export import trained_vectors
from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.folder import open_bundle
from hiersrec_sdk.bundle.schema import MODEL
from hiersrec_sdk.encoders.session_encoder import Encoded, OnnxSessionEncoder
from hiersrec_sdk.ranking.covisitation import CovisitationScorer
from hiersrec_training.covisitation import by_rows
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.model import HierSRec
from hiersrec_training.run import load_model


def encoder_of(bundle: Path, recommender: Recommender) -> OnnxSessionEncoder:
    """The session encoder of the bundle, on two processors."""
    config = recommender.config
    return OnnxSessionEncoder(
        (bundle / MODEL).read_bytes(),
        dimension=config["dimension"],
        categories=config["categories"],
        threads=2,
    )


def scorer_of(bundle: Path, recommender: Recommender, data: Dataset, encoder: Encoder) -> Scorer:
    """What scores the items of ``data``, of which ``recommender`` serves the bundle.

    Raises:
        ValueError: the bundle is of other items.
    """
    tables = open_bundle(bundle).tables
    rows = recommender.catalog.rows(data.item_ids.to_list())
    if len(recommender.catalog) != data.items or (rows < 0).any():
        raise ValueError("the bundle holds other items than the data set")
    # rows[item] is a row, so the table of rows in the order of the items is a table of items
    scorer = CovisitationScorer.from_tables(tables)
    return Scorer(
        encoder,
        np.ascontiguousarray(tables["item_vectors"][rows]),
        tables["item_bias"][rows] if "item_bias" in tables else None,
        None if scorer is None else replace(scorer, counts=by_rows(scorer.counts, rows)),
    )


class TorchEncoder:
    """The session encoder of a run, in PyTorch: what the exported graph computes, without an export."""

    def __init__(self, model: HierSRec) -> None:
        self._model = model.eval()

    @torch.no_grad()
    def encode(self, vectors: NDArray[np.float32], lengths: NDArray[np.int64], /) -> Encoded:
        served = self._model.serve(torch.from_numpy(vectors), torch.from_numpy(lengths))
        logits = tuple(level.numpy() for level in served.category_logits)
        return Encoded(logits, served.repeats.numpy(), served.query.numpy())


def scorer_of_run(run: Path, data: Dataset) -> Scorer:
    """The encoder of the run ``run`` alone: without item bias and co-visitation scorer."""
    model, info = load_model(run)
    return Scorer(TorchEncoder(model), trained_vectors(model, info, data))
