"""The co-visitation scorer: what the click log says of an item after a session, added to what the encoder says.

It is the wide part of a wide and deep model (Cheng et al., arXiv 1606.07792). An item is covisited with a session if it
was clicked near one of the session's newest items before, or if the session holds it. Each covisited item has
``FEATURES`` features: how popular it is, how often it was clicked after and before the newest items, and where
it stands in the session. A small network turns them into a score offset.

This module is the definition, in NumPy. ``csrc/covisitation.c`` gives the same bits: both use only operations that
IEEE 754 rounds correctly, in the order that ``csrc/covisitation.h`` lays down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hiersrec_sdk.ranking.arrays import FLOAT32, INT32, INT64, UINT16, array_of

REACH: Final = 8  # newest clicks whose neighbors are covisited
DECAY: Final = 0.8  # what a click weighs, to the power of its distance to the newest
POPULARITIES: Final = 5  # counts of an item's clicks, in newest parts of the log and in all of it
EDGE_COUNTS: Final = 3  # of a neighbor: clicks after the item, before it, directly after it
FEATURES: Final = POPULARITIES + 2 + EDGE_COUNTS + 8
TABLES: Final = (
    "covisitation.popularity",
    "covisitation.offsets",
    "covisitation.rows",
    "covisitation.counts",
    "covisitation.hidden_weight",
    "covisitation.hidden_bias",
    "covisitation.weight",
)

ScoreOffsets: TypeAlias = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""See :meth:`CovisitationScorer.score_offsets`."""

_LARGEST_LOG: Final = 64.0  # of any number of clicks
# float64, by repeated multiplication
_WEIGHTS: Final = np.cumprod([1.0] + [float(np.float32(DECAY))] * (REACH - 1))
# Features in the order in which they enter the network's sums: those of the session, then those of each item.
_OF_SESSION: Final = (13, 14, 16, 17)
_OF_ITEM: Final = (*range(13), 15)


@dataclass(frozen=True, eq=False)
class CovisitationCounts:
    """Counts of the click log, for each item; arrays may be memory-mapped.

    Attributes:
        popularity: float32 [n, 5], log(1 + clicks) in newest parts of the log, then in all of it.
        offsets: int64 [n + 1]; the neighbors of item i are ``rows[offsets[i]:offsets[i + 1]]``, each once.
        rows: int32 [edges].
        counts: uint16 [edges, 3]: clicks of the neighbor within some clicks after the item, before it, and directly
            after it.
    """

    popularity: NDArray[np.float32]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    counts: NDArray[np.uint16]

    def features(
        self, session: NDArray[np.int64], log: Callable[[NDArray[Any]], NDArray[Any]] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The items covisited with ``session`` int64 [length], oldest first, at least one click.

        Offsets and neighbors outside of the tables, as a bundle that was not verified may have them, are passed over.

        Args:
            session: int64 [length], rows.
            log: gives log(1 + count); by default the one that C computes too. Training takes ``np.log1p``, which may
                differ in the last bit, so that a seed gives the same weights whatever serves.

        Returns:
            Distinct items, rising, int64 [m]; and their features, float32 [m, FEATURES].

        Raises:
            ValueError: no click, or a row outside of the catalog.
        """
        if not len(session) or session.min() < 0 or session.max() >= len(self.popularity):
            raise ValueError(f"session must be at least one row, all in [0, {len(self.popularity)})")
        log = _log_of if log is None else log
        newest_first = session[::-1]
        neighbors, distances, counts = self._neighbors(newest_first[:REACH])
        items, positions = np.unique(np.concatenate([neighbors, newest_first]), return_inverse=True)
        size, length = len(items), len(session)
        of_edge, of_click = positions[: len(neighbors)], positions[len(neighbors) :]
        weights = _WEIGHTS[distances]
        features = np.zeros((size, FEATURES), dtype=np.float32)
        features[:, :POPULARITIES] = self.popularity[items]
        at = POPULARITIES
        features[:, at] = np.bincount(of_edge, weights * counts[:, 0], size)
        features[:, at + 1] = np.bincount(of_edge, weights * counts[:, 1], size)
        at += 2
        of_newest = int(distances.searchsorted(1))  # edges of the newest click
        features[of_edge[:of_newest], at : at + EDGE_COUNTS] = counts[:of_newest]
        at += EDGE_COUNTS
        newest = of_click[0]
        features[:, at] = np.bincount(of_click, minlength=size)
        # directly after the newest item
        features[:, at + 1] = np.bincount(of_click[:-1], of_click[1:] == newest, size)
        features[:, at + 2] = np.bincount(of_click[1:], of_click[:-1] == newest, size)  # directly before it
        features[:, at + 3] = length
        features[:, at + 4] = features[newest, at] - 1
        features[:, POPULARITIES : at + 5] = log(features[:, POPULARITIES : at + 5])
        since = np.full(size, -1.0, dtype=np.float32)
        since[of_click[::-1]] = log(np.arange(length)[::-1])
        features[:, at + 5] = since
        features[:, at + 6] = np.count_nonzero(features[:, at]) / length
        features[:, at + 7] = features[newest, POPULARITIES - 1]
        return items, features

    def _neighbors(
        self, near: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.uint16]]:
        """The neighbors of the rows ``near``, one after the other: rows, positions in ``near``, and counts."""
        starts, stops = self.offsets[near], self.offsets[near + 1]
        fits = (starts >= 0) & (stops >= starts) & (stops <= len(self.rows))
        sizes = np.where(fits, stops - starts, 0)
        distances = np.repeat(np.arange(len(near)), sizes)
        edges = np.arange(len(distances)) + np.repeat(starts - sizes.cumsum() + sizes, sizes)
        rows = self.rows[edges]
        fits = (rows >= 0) & (rows < len(self.popularity))
        if not fits.all():
            edges, rows, distances = edges[fits], rows[fits], distances[fits]
        return rows, distances, self.counts[edges]


@dataclass(frozen=True, eq=False)
class CovisitationScorer:
    """The counts, and the network: ``offset = weight · relu(hidden_weight · features + hidden_bias)``.

    Attributes:
        counts: of the click log.
        hidden_weight: float32 [FEATURES, h].
        hidden_bias: float32 [h].
        weight: float32 [h + 1], of which the last is the bias.
    """

    counts: CovisitationCounts
    hidden_weight: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    weight: NDArray[np.float32]

    @classmethod
    def from_tables(cls, tables: Mapping[str, NDArray[Any]]) -> CovisitationScorer | None:
        """The scorer in a bundle's tables; None if it has none."""
        if TABLES[0] not in tables:
            return None
        popularity, offsets, rows, counts, *network = (tables[name] for name in TABLES)
        return cls(CovisitationCounts(popularity, offsets, rows, counts), *network)

    def tables(self) -> dict[str, NDArray[Any]]:
        """The tables of a bundle; the inverse of :meth:`from_tables`."""
        counts = self.counts
        network = self.hidden_weight, self.hidden_bias, self.weight
        return dict(
            zip(
                TABLES, (counts.popularity, counts.offsets, counts.rows, counts.counts, *network), strict=True
            )
        )

    def check(self) -> None:
        """Raise unless the tables fit together.

        Raises:
            TypeError: a table is not an array, or of the wrong dtype.
            ValueError: a wrong shape or layout, or no item.
        """
        counts, hidden = self.counts, len(array_of("hidden_bias", self.hidden_bias, FLOAT32, (None,)))
        items = len(array_of("popularity", counts.popularity, FLOAT32, (None, POPULARITIES)))
        if not items:
            raise ValueError("popularity must be that of at least one item, got none")
        array_of("offsets", counts.offsets, INT64, (items + 1,))
        edges = len(array_of("rows", counts.rows, INT32, (None,)))
        array_of("counts", counts.counts, UINT16, (edges, EDGE_COUNTS))
        array_of("hidden_weight", self.hidden_weight, FLOAT32, (FEATURES, hidden))
        array_of("weight", self.weight, FLOAT32, (hidden + 1,))

    def score_offsets(self, session: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Which items' scores change after ``session`` int64 [length], oldest first, at least one click.

        Returns:
            The covisited rows, distinct, rising, int64 [m]; and their score offsets, float32 [m].

        Raises:
            TypeError: ``session`` is not an array, or of the wrong dtype.
            ValueError: no click, or a row outside of the catalog.
        """
        array_of("session", session, INT64, (None,))
        rows, features = self.counts.features(session)
        shared = self.hidden_bias.copy()
        for feature in _OF_SESSION:
            shared += features[0, feature] * self.hidden_weight[feature]
        hidden = np.repeat(shared[None], len(rows), axis=0)
        for feature in _OF_ITEM:
            hidden += features[:, feature, None] * self.hidden_weight[feature]
        terms = np.empty((len(self.weight), len(rows)), np.float32)
        terms[0] = self.weight[-1]
        np.multiply(np.where(hidden > 0, hidden, np.float32(0)).T, self.weight[:-1, None], out=terms[1:])
        offsets: NDArray[np.float32] = np.add.accumulate(terms, axis=0)[
            -1
        ]  # one after the other, unlike np.sum
        return rows, offsets


def largest_offset(tables: Mapping[str, NDArray[Any]]) -> float:
    """A bound on the magnitude of any score offset that a bundle's tables give."""
    popularity = tables[TABLES[0]]
    hidden_weight, hidden_bias, weight = (np.abs(tables[name], dtype=np.float64) for name in TABLES[-3:])
    feature = max(_LARGEST_LOG, float(popularity.max()), -float(popularity.min()))
    hidden = hidden_weight.sum(axis=0) * feature + hidden_bias
    return float(weight[:-1] @ hidden + weight[-1])


def _log_of(counts: NDArray[Any]) -> NDArray[np.float32]:
    """log(1 + counts), float32, by the series of ``csrc/covisitation.c``: a library's log1p has other bits.

    1 + count = 2^e m, m in [sqrt(1/2), sqrt(2)), and log m = 2 (s + s^3 / 3 + s^5 / 5 ...), s = (m - 1) / (m + 1).
    """
    m, exponent = np.frexp(1.0 + counts.astype(np.float64))  # m in [1/2, 1)
    low = m < 1.4142135623730951 / 2
    m, exponent = np.where(low, 2 * m, m), exponent - low
    s = (m - 1) / (m + 1)
    z = s * s
    series = np.full_like(z, 1 / 15)
    for odd in (13, 11, 9, 7, 5, 3, 1):
        series *= z
        series += 1 / odd
    found: NDArray[np.float32] = (exponent * 0.6931471805599453 + 2 * s * series).astype(np.float32)
    return found
