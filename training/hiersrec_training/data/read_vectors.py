"""Vectors of items that a shop has already: a .npy file beside the item table, row by row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from hiersrec_sdk.errors import DataError
from hiersrec_training.data.read_table import existing, reading


def read_vectors(path: Path, rows: int) -> pl.Series:
    """The array in ``path`` as a series of float32 [m] for each of the item table's ``rows``, null where a row is NaN.

    Raises:
        DataError: no such file or no .npy file, not floats [rows, m], or a row that is neither finite nor all NaN.
    """
    existing(path)
    try:
        with reading(path):
            array = np.load(path, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path} is no .npy file of numbers: {error}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is no .npy file: it holds several arrays; save one")
    if array.ndim != 2 or not array.shape[1] or not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"{path} holds {array.dtype} {list(array.shape)}; item vectors are floats [rows, width]"
        )
    if len(array) != rows:
        raise DataError(
            f"{path} has {len(array):,} rows, the item table {rows:,}: give a vector for each row, in the table's order"
        )
    with np.errstate(over="ignore"):  # it would not be finite then
        vectors = array.astype(np.float32, copy=False)
    known = np.isfinite(vectors).all(axis=1)
    broken = ~known & ~np.isnan(vectors).all(axis=1)
    if broken.any():
        raise DataError(
            f"{path}: row {int(broken.argmax())} (the first is 0) holds values that are not finite; an item without a "
            "vector has a row that is NaN throughout"
        )
    vectors[~known] = 0
    frame = pl.DataFrame({"vector": vectors, "known": known})
    return frame.select(pl.when("known").then("vector").alias("vector"))["vector"]
