"""The check that the exported graphs answer as PyTorch does. It runs before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hiersrec_export.graphs import rotate
from hiersrec_sdk.bundle.schema import ITEM_ENCODER, MODEL, QUERY_PARTS
from hiersrec_sdk.encoders.runtime import open_session
from hiersrec_sdk.encoders.session_encoder import OnnxSessionEncoder
from hiersrec_sdk.errors import ExportError
from hiersrec_training.data.dataset import Sessions
from hiersrec_training.model import HierSRec, Metadata

TOLERANCE = 1e-4
LARGEST_BATCH = 64
EVERY_LENGTH = 64  # up to here every length is compared, and some of the greater ones


@dataclass(frozen=True)
class Parity:
    """``sessions`` compared; ``worst`` difference by output, relative to the output's largest value in the batch."""

    sessions: int
    worst: dict[str, float]

    @property
    def largest(self) -> float:
        """The worst difference of all outputs."""
        return max(self.worst.values())


@torch.no_grad()
def check_item_parity(
    model: HierSRec, graph: bytes, meta: Metadata, axes: NDArray[np.float32] | None = None, seed: int = 0
) -> float:
    """Compare PyTorch with onnxruntime on the metadata of 1, 7 and 64 random items, and on an item without any.

    Args:
        model: the trained model, in evaluation mode.
        graph: bytes of ``item_encoder.onnx``.
        meta: of all items of the data set.
        axes: float32 [d, d], the rotation of the graph's vectors; None: as trained.

    Returns:
        The worst relative difference.

    Raises:
        ExportError: it is above 1e-4.
    """
    session = open_session(graph, ITEM_ENCODER)
    names = [value.name for value in session.get_inputs()]
    random = np.random.default_rng(seed)
    samples = [meta.rows(torch.from_numpy(random.integers(0, len(meta.tokens), size))) for size in (1, 7, 64)]
    bare = samples[0]
    nothing = (torch.zeros_like(tensor) for tensor in (bare.tokens, bare.number_bins, bare.vectors))
    samples.append(Metadata(bare.category_path, *nothing))
    worst = 0.0
    for sample in samples:
        wanted = F.normalize(model.items.from_metadata(sample), dim=1).numpy()
        wanted = rotate(wanted, axes)
        (given,) = session.run(["item_vectors"], {name: getattr(sample, name).numpy() for name in names})
        worst = _larger(worst, _relative(wanted, given))
    if not worst <= TOLERANCE:
        raise ExportError(
            f"PyTorch and onnxruntime differ by {worst:.1e} (relative) in item_encoder.onnx; at most "
            f"{TOLERANCE:.0e} is allowed. No bundle was written."
        )
    return worst


@torch.no_grad()
def check_parity(
    model: HierSRec,
    graph: bytes,
    vectors: NDArray[np.float32],
    real: Sessions,
    axes: NDArray[np.float32] | None = None,
    seed: int = 0,
    provider: str = "cpu",
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare PyTorch with the runtime's encoder on random and on real sessions.

    PyTorch reads vectors as trained, and its query is rotated here. The graph reads rotated vectors. Every length from
    1 to 64, some from there to the maximum, and every batch size from 1 to 64 is tried with random unit vectors, and
    again with real sessions where there are any, cut or padded to that length.

    Args:
        model: the trained model, in evaluation mode.
        graph: bytes of ``model.onnx``.
        vectors: float32 [items, d] as trained, in the order of the data set's items.
        real: sessions of item indices.
        axes: float32 [d, d], the rotation of the graph's vectors and queries; None: as trained.
        seed: of the random sessions.
        provider: where onnxruntime runs.
        tolerance: the largest difference that is allowed, relative.

    Raises:
        ExportError: a difference above ``tolerance``; names the output, the length and the batch.
        ProviderError: the provider does not start here.
    """
    config = model.config
    encoder = OnnxSessionEncoder(
        graph, dimension=config.dimension, categories=model.shape.categories, providers=(provider,)
    )
    random = np.random.default_rng(seed)
    worst: dict[str, float] = {}
    sessions = 0
    lengths_tried = _lengths(config.max_length)
    for turn in range(max(len(lengths_tried), LARGEST_BATCH)):
        length = lengths_tried[turn % len(lengths_tried)]
        batch = min(1 + turn % LARGEST_BATCH, _largest_batch(length))
        inputs = [_random(random, batch, length, config.dimension)]
        if len(real):
            inputs.append(_real(random, batch, length, vectors, real))
        for x, lengths in inputs:
            wanted = model.serve(torch.from_numpy(x), torch.from_numpy(lengths))
            found = encoder.encode(rotate(x.reshape(-1, x.shape[2]), axes).reshape(x.shape), lengths)
            assert found.repeat_logits is not None
            names = [*(f"category_logits_{level}" for level in range(len(wanted.category_logits) - 1))]
            compared = {
                name: (ours.numpy(), theirs)
                for name, ours, theirs in zip(
                    [*names, "category_logits"], wanted.category_logits, found.category_logits, strict=True
                )
            }
            compared["repeat_logits"] = wanted.repeats.numpy(), found.repeat_logits
            compared["item_query"] = rotate(wanted.query.numpy(), axes), found.item_query
            for name, (expected, given) in compared.items():
                difference = _relative(expected, given)
                if not difference <= tolerance:
                    raise ExportError(
                        f"PyTorch and onnxruntime ({provider}) differ by {difference:.1e} (relative) in {name}, at "
                        f"length {length} and batch {batch}; at most {tolerance:.0e} is allowed. No bundle was written."
                    )
                worst[name] = max(worst.get(name, 0.0), difference)
            sessions += batch
    return Parity(sessions, worst)


def check_query_parts(
    graph: bytes, parts: bytes, vectors: NDArray[np.float32], real: Sessions, max_length: int, seed: int = 0
) -> float:
    """Compare the query of ``model.onnx`` with the sum of the outputs of ``query_parts.onnx``.

    Args:
        graph, parts: bytes of the two graphs.
        vectors: float32 [items, d], which both read.
        real: sessions of item indices, of which some are drawn.
        max_length: of the sessions that the graphs read.

    Returns:
        The worst relative difference.

    Raises:
        ExportError: it is above 1e-4.
    """
    random = np.random.default_rng(seed)
    worst = 0.0
    whole, split = open_session(graph, MODEL), open_session(parts, QUERY_PARTS)
    for length in (1, 2, max_length):
        x, lengths = _real(random, _largest_batch(length), length, vectors, real)
        feeds = {"session_vectors": x, "session_lengths": lengths}
        (query,) = whole.run(["item_query"], feeds)
        weights, from_state, from_categories = split.run(None, feeds)
        total = np.einsum("bt,btd->bd", weights, x) + from_state + from_categories
        worst = _larger(worst, _relative(query, total))
    if not worst <= TOLERANCE:
        raise ExportError(
            f"the parts of the query differ from it by {worst:.1e} (relative); at most {TOLERANCE:.0e} is allowed. "
            "No bundle was written."
        )
    return worst


def _lengths(longest: int) -> list[int]:
    """The lengths to compare at: every one up to 64, and some from there to the ``longest``."""
    every = np.arange(1, min(longest, EVERY_LENGTH) + 1)
    some = np.rint(np.geomspace(every[-1], longest, 16)).astype(np.int64)
    found: list[int] = np.union1d(every, some).tolist()
    return found


def _largest_batch(length: int) -> int:
    """Sessions of ``length`` to compare at once: attention takes the square of it for each."""
    return max(1, min(LARGEST_BATCH, LARGEST_BATCH * EVERY_LENGTH**2 // length**2))


def _random(
    random: np.random.Generator, batch: int, length: int, d: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x = random.standard_normal((batch, length, d)).astype(np.float32)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    lengths = random.integers(1, length + 1, batch)
    lengths[0] = length
    return x, lengths


def _real(
    random: np.random.Generator, batch: int, length: int, vectors: NDArray[np.float32], real: Sessions
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x = np.zeros((batch, length, vectors.shape[1]), dtype=np.float32)
    lengths = np.empty(batch, dtype=np.int64)
    for row, session in enumerate(random.integers(0, len(real), batch)):
        clicks = real[int(session)][-length:]
        x[row, : len(clicks)] = vectors[clicks]
        lengths[row] = len(clicks)
    return x, lengths


def _relative(wanted: NDArray[np.float32], given: NDArray[np.float32]) -> float:
    # the logit of an only category changes nothing, and may be next to zero
    least = 1.0 if wanted.shape[-1] == 1 else 1e-6
    return float(np.abs(wanted - given).max() / max(float(np.abs(wanted).max()), least))


def _larger(one: float, other: float) -> float:
    """The larger one; NaN where one of them is, which ``max`` may drop."""
    return float(np.maximum(one, other))
