"""An item's metadata as the numbers that the item encoder reads: the same in training, export and at run time."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hiersrec_sdk.errors import CatalogChangeError
from hiersrec_sdk.number_lists import numbers
from hiersrec_sdk.ranking.arrays import LARGEST, are_bounded
from hiersrec_sdk.shown import shown

_WORD = re.compile(r"\w+")


def token_buckets(text: str | None, buckets: int, max_tokens: int) -> list[int]:
    """Words of ``text`` as hash buckets in ``[1, buckets]``: the distinct lower-case words in order, CRC-32 of the
    UTF-8 bytes modulo ``buckets`` plus 1, at most ``max_tokens`` of them. A missing text has none."""
    if not text:
        return []
    words = dict.fromkeys(_WORD.findall(text.lower()))
    return [zlib.crc32(word.encode()) % buckets + 1 for word in list(words)[:max_tokens]]


def token_table(texts: Sequence[str | None], buckets: int, max_tokens: int) -> NDArray[np.int64]:
    """Buckets of many texts: int64 [texts, longest, at least 1], padded with 0 at the end."""
    rows = [token_buckets(text, buckets, max_tokens) for text in texts]
    table = np.zeros((len(rows), max([1, *map(len, rows)])), dtype=np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table


def bin_edges(values: ArrayLike, bins: int) -> list[float]:
    """Edges that cut the known ``values`` (float64, NaN where missing) into at most ``bins`` quantile bins."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return []
    return [float(edge) for edge in np.unique(np.quantile(known, np.arange(1, bins) / bins))]


def number_bins(values: ArrayLike, edges: Sequence[float]) -> NDArray[np.int64]:
    """Bin of each value, int64: 0 where it is missing (NaN or infinite), else 1 + the number of edges at or below."""
    number = np.asarray(values, dtype=np.float64)
    bins = np.searchsorted(np.asarray(edges, dtype=np.float64), number, side="right") + 1
    return np.where(np.isfinite(number), bins, 0).astype(np.int64)


def checked_vector(item_id: int | str, name: str, value: Any, width: int) -> NDArray[np.float32]:
    """The vector ``name`` of an item: float32 [width].

    Raises:
        CatalogChangeError: not as many finite numbers.
    """
    try:
        vector = numbers(name, value, CatalogChangeError)
        if len(vector) != width or not are_bounded(vector):
            off = np.count_nonzero(~(np.abs(vector) <= LARGEST))
            given = f"{off} that are NaN, infinite or too large" if off else str(len(vector))
            raise CatalogChangeError(f"{name} must be {width} finite numbers, got {given}")
    except CatalogChangeError as error:
        raise CatalogChangeError(f"item {shown(item_id)}: its {error}") from error
    return vector
