"""The wide part of the model (Wide & Deep, Cheng et al., arXiv 1606.07792): what the click log itself says of an item
after a session, added to what the encoder says.

An item that was clicked near one of the session's newest items before, or that the session holds, is linked. Of each
linked item there are ``FEATURES``: how popular it is, how often it was clicked after and before the session's newest
items, how it stands in the session. A small network turns them into a boost of the item's score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

try:
    from hiersrec_sdk import _kernel
except ImportError:
    _compiled: Any = None
else:
    _compiled = _kernel

_MOST_HIDDEN: Final = 64  # as csrc/wide.h says
REACH: Final = 8  # newest clicks whose neighbours are linked
DECAY: Final = 0.8  # what a click weighs, to the power of its distance to the newest
POPULARITIES: Final = 5  # counts of an item's clicks, in newest parts of the log and in all of it
CLICKS_OF: Final = 3  # of a neighbour: clicks after the item, before it, directly after it
FEATURES: Final = POPULARITIES + 2 + CLICKS_OF + 8
TABLES: Final = (
    "covisitation.popularity",
    "covisitation.offsets",
    "covisitation.rows",
    "covisitation.counts",
    "covisitation.hidden_weight",
    "covisitation.hidden_bias",
    "covisitation.weight",
)


@dataclass(frozen=True, eq=False)
class Links:
    """What is known of each item beside its vector; arrays may be memory-mapped.

    Attributes:
        popularity: float32 [n, 5], log(1 + clicks) in newest parts of the log, then in all of it.
        offsets: int64 [n + 1]; the neighbours of item i are ``rows[offsets[i]:offsets[i + 1]]``, each once.
        rows: int32 [edges].
        clicks: uint16 [edges, 3]: of the neighbour, within some clicks after the item, before it, and directly after.
    """

    popularity: NDArray[np.float32]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int32]
    clicks: NDArray[np.uint16]

    def features(self, session: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The items linked to ``session`` int64 [length], oldest first, at least one click.

        Returns:
            Distinct items, rising, int64 [m]; and their features, float32 [m, FEATURES].
        """
        newest_first = session[::-1]
        near = newest_first[:REACH]
        starts, stops = self.offsets[near], self.offsets[near + 1]
        counts = stops - starts
        edges = np.repeat(stops - counts.cumsum(), counts) + np.arange(counts.sum())
        linked = np.concatenate([self.rows[edges], newest_first])
        items, place = np.unique(linked, return_inverse=True)
        size, length = len(items), len(session)
        of_edge, of_click = place[: len(edges)], place[len(edges) :]
        clicks = self.clicks[edges].astype(np.float32)
        weight = np.repeat(np.float32(DECAY) ** np.arange(len(near)), counts)
        features = np.zeros((size, FEATURES), dtype=np.float32)
        features[:, :POPULARITIES] = self.popularity[items]
        at = POPULARITIES
        features[:, at] = np.bincount(of_edge, weight * clicks[:, 0], size)
        features[:, at + 1] = np.bincount(of_edge, weight * clicks[:, 1], size)
        at += 2
        features[of_edge[: counts[0]], at : at + CLICKS_OF] = clicks[: counts[0]]  # of the newest click
        at += CLICKS_OF
        newest = of_click[0]
        features[:, at] = np.bincount(of_click, minlength=size)
        features[:, at + 1] = np.bincount(
            of_click[:-1], of_click[1:] == newest, size
        )  # directly before and after
        features[:, at + 2] = np.bincount(of_click[1:], of_click[:-1] == newest, size)  # the newest item
        features[:, at + 3] = length
        features[:, at + 4] = features[newest, at] - 1
        features[:, POPULARITIES : at + 5] = np.log1p(features[:, POPULARITIES : at + 5])
        since = np.full(size, -1.0, dtype=np.float32)
        since[of_click[::-1]] = np.log1p(np.arange(length)[::-1])
        features[:, at + 5] = since
        features[:, at + 6] = np.count_nonzero(features[:, at]) / length
        features[:, at + 7] = features[newest, POPULARITIES - 1]
        return items, features


@dataclass(frozen=True, eq=False)
class CovisitationScorer:
    """The links, and the network: ``boost = weight · relu(hidden_weight · features + hidden_bias)``.

    ``hidden_weight`` float32 [FEATURES, h]; ``hidden_bias`` [h]; ``weight`` [h + 1], of which the last is the bias.
    """

    links: Links
    hidden_weight: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    weight: NDArray[np.float32]

    @classmethod
    def from_tables(cls, tables: Mapping[str, NDArray[Any]]) -> CovisitationScorer | None:
        """From the tables of a bundle; None where it has no wide part."""
        if TABLES[0] not in tables:
            return None
        popularity, offsets, rows, clicks, *network = (tables[name] for name in TABLES)
        return cls(Links(popularity, offsets, rows, clicks), *network)

    def tables(self) -> dict[str, NDArray[Any]]:
        """The inverse of :meth:`from_tables`."""
        links = self.links
        network = self.hidden_weight, self.hidden_bias, self.weight
        return dict(
            zip(TABLES, (links.popularity, links.offsets, links.rows, links.clicks, *network), strict=True)
        )

    def boosts(self, session: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The rows linked to ``session`` int64 [length >= 1]: distinct, rising, int64 [m]; their boosts float32 [m]."""
        return self.boosts_in_numpy(session) if self._native is None else self._native.boosts(session)

    @cached_property
    def _native(self) -> Any:
        """The same in C, where the extension is there and has room for the network."""
        if _compiled is None or len(self.hidden_bias) > _MOST_HIDDEN:
            return None
        return _compiled.Wide(*self.tables().values())

    def boosts_in_numpy(self, session: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What :meth:`boosts` is defined by; sums may differ in their last bits."""
        rows, features = self.links.features(session)
        hidden: NDArray[np.float32] = features @ self.hidden_weight + self.hidden_bias
        boosts: NDArray[np.float32] = np.maximum(hidden, 0) @ self.weight[:-1] + self.weight[-1]
        return rows, boosts
