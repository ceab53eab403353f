"""The principal axes of the item table: the bundle's vectors stand in them, and no score changes.

Rotated, the first dimensions hold most of every score, so that ranking can drop rows after reading a part of them. A
score is a dot product, which a rotation of both sides leaves alone: ``(q R) · (v R) = q · v`` for an orthogonal R.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hiersrec_training.model import ItemGraph, QueryParts, ServingGraph

_CHUNK = 65_536  # rows at a time: the work is done in float64, whose copy of a whole table would be large


def principal_axes(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Orthogonal float32 [d, d] whose columns are the principal axes of ``vectors`` float32 [n, d].

    They are the eigenvectors of the second moment ``V^T V``, which is not centred, because dot products are not, by
    falling eigenvalue. A table of fewer than d rows leaves some axes open: they complete the basis. The largest
    component of every axis is positive, the first of those that tie, so that equal tables have equal axes.
    """
    d = vectors.shape[1]
    moment = np.zeros((d, d))
    for start in range(0, len(vectors), _CHUNK):
        chunk = vectors[start : start + _CHUNK].astype(np.float64)
        moment += chunk.T @ chunk
    _, found = np.linalg.eigh(moment)  # by rising eigenvalue; orthonormal whatever the rank
    axes: NDArray[np.float64] = found[:, ::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(d)]
    return np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0), dtype=np.float32)


def rotate(vectors: NDArray[np.float32], axes: NDArray[np.float32]) -> NDArray[np.float32]:
    """``vectors`` float32 [n, d] in the ``axes`` [d, d]: float32 [n, d], each value rounded once."""
    rotated = np.empty_like(vectors)
    wide = axes.astype(np.float64)
    for start in range(0, len(vectors), _CHUNK):
        rotated[start : start + _CHUNK] = vectors[start : start + _CHUNK] @ wide
    return rotated


class RotatedSession(nn.Module):
    """The session encoder between rotated vectors: those that it reads are turned back, its query is turned.

    What goes in and comes out is that of :class:`ServingGraph`; ``axes`` float32 [d, d].
    """

    back: Tensor
    axes: Tensor

    def __init__(self, serving: ServingGraph, axes: NDArray[np.float32]) -> None:
        super().__init__()
        self.serving = serving
        self.output_names = serving.output_names
        # both ways round, as constants that the runtime packs once: a transposed operand would cost in every call
        self.register_buffer("back", torch.from_numpy(axes.T.copy()))
        self.register_buffer("axes", torch.from_numpy(axes.copy()))

    def forward(self, session_vectors: Tensor, session_lengths: Tensor) -> tuple[Tensor, ...]:
        *rest, query = self.serving(session_vectors @ self.back, session_lengths)
        return (*rest, query @ self.axes)


class RotatedParts(nn.Module):
    """:class:`QueryParts` between rotated vectors, as above."""

    back: Tensor
    axes: Tensor

    def __init__(self, parts: QueryParts, axes: NDArray[np.float32]) -> None:
        super().__init__()
        self.parts = parts
        self.output_names = parts.output_names
        self.register_buffer("back", torch.from_numpy(axes.T.copy()))
        self.register_buffer("axes", torch.from_numpy(axes.copy()))

    def forward(self, session_vectors: Tensor, session_lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, state, handed = self.parts(session_vectors @ self.back, session_lengths)
        return weights, state @ self.axes, handed @ self.axes


class RotatedItems(nn.Module):
    """The item encoder with its vectors rotated by ``axes`` float32 [d, d]."""

    axes: Tensor

    def __init__(self, items: ItemGraph, axes: NDArray[np.float32]) -> None:
        super().__init__()
        self.items = items
        self.input_names = items.input_names
        self.register_buffer("axes", torch.from_numpy(axes.copy()))

    def forward(self, category_path: Tensor, *rest: Tensor) -> Tensor:
        vectors: Tensor = self.items(category_path, *rest)
        return vectors @ self.axes
