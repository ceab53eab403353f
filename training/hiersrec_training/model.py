"""HierSRec (arXiv 2309.06533) in one file: item encoder, session encoder, category heads, item head.

The category prediction conditions what follows: each level the next one, and all of them the item head. The rest, which
the paper leaves open, is what worked on click logs: cosine scores over a temperature (NISER, arXiv 1909.04276; CORE,
arXiv 2204.11067), a query that is mostly the weighted sum of the vectors of the session's items (CORE), attention by
distance instead of position, item vectors smoothed once over the co-click graph, and a learnt logit for repeats. A
co-visitation scorer (:mod:`hiersrec_training.covisitation_network`) adds what the click log itself says of an item
after a session.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hiersrec_sdk.encoders.features import bin_edges, number_bins, token_table
from hiersrec_sdk.errors import ConfigError
from hiersrec_training.batches import Batch, Inputs
from hiersrec_training.config import Config
from hiersrec_training.covisitation_network import CovisitationNetwork
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.losses import ScoreOffsets
from hiersrec_training.neighbors import DECAY, CoClicks
from hiersrec_training.smoothing import ReverseEdges, near_vectors, shares, smooth_unit, to_unit

ITEMS_TOGETHER = 1 << 16  # items whose vectors are made at once, where no gradient is wanted


@dataclass(frozen=True)
class Shape:
    """The sizes that the data decide. With the configuration, all that is needed to build the model."""

    items: int
    categories: list[int]  # of each level, the top level first
    text: bool  # whether any item has a text
    numbers: dict[str, list[float]]  # bin edges of each numeric column
    vectors: int = 0  # width of the items' given vectors, 0 where there are none
    vector_length: float = 1.0  # root mean square of the lengths of those that are not zero

    @classmethod
    def of(cls, data: Dataset, config: Config) -> Shape:
        return cls(
            items=data.items,
            categories=data.tree.sizes,
            text=data.text.null_count() < data.items,
            numbers={name: bin_edges(values, config.number_bins) for name, values in data.numbers.items()},
            vectors=0 if data.vectors is None else data.vectors.shape[1],
            vector_length=1.0 if data.vectors is None else _length(data.vectors),
        )


@dataclass(frozen=True)
class Metadata:
    """Metadata of n items, with L category levels, at most W words, N numeric columns and given vectors of width m.

    All int64 but the vectors, which are float32. Their width may be 0; an item without one has a row of zeros.
    """

    category_path: Tensor  # [n, L]
    tokens: Tensor  # [n, W] hash buckets from 1, padded with 0
    number_bins: Tensor  # [n, N]
    vectors: Tensor  # [n, m]

    @classmethod
    def of(cls, data: Dataset, shape: Shape, config: Config) -> Metadata:
        tokens = token_table(data.text.to_list(), config.text_buckets, config.text_tokens)
        bins = [
            torch.from_numpy(number_bins(data.numbers[name], edges)) for name, edges in shape.numbers.items()
        ]
        return cls(
            category_path=torch.from_numpy(data.tree.paths()[data.category]).long(),
            tokens=torch.from_numpy(tokens),
            number_bins=torch.stack(bins, dim=1) if bins else torch.zeros(data.items, 0, dtype=torch.int64),
            vectors=torch.zeros(data.items, 0) if data.vectors is None else torch.from_numpy(data.vectors),
        )

    def rows(self, items: Tensor | slice) -> Metadata:
        """The metadata of ``items``, in their order."""
        return Metadata(*(tensor[items] for tensor in vars(self).values()))

    def to(self, device: torch.device) -> Metadata:
        return Metadata(*(tensor.to(device) for tensor in vars(self).values()))


def _length(vectors: NDArray[np.float32]) -> float:
    """Root mean square of the lengths of the ``vectors`` [n, m] that are not zero; 1 where all are."""
    squares = np.einsum("nm,nm->n", vectors, vectors, dtype=np.float64)
    known = squares[squares > 0]
    return float(np.sqrt(known.mean())) if len(known) else 1.0


class BatchEdges(NamedTuple):
    """Edges of the co-click graph, as the sessions of a batch add to them. One may be there several times."""

    edge: Tensor  # int64 [E], of all items' neighbors end to end
    co_clicks: Tensor  # float32 [E]

    def to(self, device: torch.device) -> BatchEdges:
        return BatchEdges(*(tensor.to(device, non_blocking=True) for tensor in self))

    def pinned(self) -> BatchEdges:
        return BatchEdges(*(tensor.pin_memory() for tensor in self))


class ItemEncoder(nn.Module):
    """``x_i = e_i + Σ_l C_l[c_l(i)] + M(m_i)``, then smoothed over the co-click graph, then of length 1.

    This is the paper's ``W [e ; ΣC ; M]``, with the three blocks of W absorbed by the three tables. Given vectors are
    metadata too: divided by their mean length and mapped linearly. ``item_inputs`` of the configuration may leave some
    of the inputs out.

    An item without a click in training learns nothing about its id vector, except whom it is not to be mistaken for. So
    outside training it has none: metadata alone place it, as ``item_encoder.onnx`` places an item that is added later.
    """

    clicked: Tensor  # bool [items]
    neighbors: Tensor  # int32 [items, K]
    co_clicks: Tensor  # float32 [items, K]

    def __init__(self, shape: Shape, config: Config) -> None:
        super().__init__()
        self.dimension, self.id_dropout = config.dimension, config.id_dropout
        d, inputs = config.dimension, config.item_inputs.split()
        categories = shape.categories if "category" in inputs else []
        numbers = shape.numbers.values() if "numbers" in inputs else []
        text = shape.text and "text" in inputs
        # a step of the sampled softmax reaches few of the items: only those have a gradient
        self.is_sampled = config.is_sampled(shape.items)
        self.item = nn.Embedding(shape.items, d, sparse=self.is_sampled) if "id" in inputs else None
        self.category = nn.ModuleList([nn.Embedding(size, d) for size in categories])
        self.token = nn.EmbeddingBag(config.text_buckets + 1, d, padding_idx=0) if text else None
        self.number = nn.ModuleList([nn.Embedding(len(edges) + 2, d) for edges in numbers])
        self.vector = (
            nn.Linear(shape.vectors, d, bias=False) if shape.vectors and "vectors" in inputs else None
        )
        self.vector_length = shape.vector_length
        tables = (self.item, self.token, self.vector)
        if all(table is None for table in tables) and not len(self.category) + len(self.number):
            raise ConfigError(f"the data set has none of item_inputs, {config.item_inputs}")
        for module in self.modules():
            if isinstance(
                module, nn.Embedding | nn.EmbeddingBag | nn.Linear
            ):  # all read rows of about length 1
                nn.init.normal_(module.weight, std=d**-0.5 / 4)
        if self.item is not None:
            nn.init.normal_(self.item.weight, std=d**-0.5)
        self.smoothing = nn.Parameter(torch.zeros(()))  # log of the neighbors' weight
        self.register_buffer("clicked", torch.ones(shape.items, dtype=torch.bool))
        self.register_buffer("neighbors", torch.zeros(shape.items, config.neighbors, dtype=torch.int32))
        self.register_buffer("co_clicks", torch.zeros(shape.items, config.neighbors))
        self.window = config.neighbor_window
        self._reverse_edges: ReverseEdges | None = None
        self._neighbors_on_cpu: Tensor | None = None

    def connect(self, graph: CoClicks) -> None:
        """Take over the co-click graph into buffers, which are saved with the weights."""
        self.neighbors.copy_(torch.from_numpy(graph.neighbors))
        self.co_clicks.copy_(torch.from_numpy(graph.counts))
        self._reverse_edges = self._neighbors_on_cpu = None

    def know_clicks(self, clicks: NDArray[np.int64]) -> None:
        """Take over, into a buffer that is saved with the weights, which items have ``clicks`` int64 [items]."""
        self.clicked.copy_(torch.from_numpy(clicks > 0))

    def _connect_back(self) -> ReverseEdges:
        if self._reverse_edges is None:
            self._reverse_edges = ReverseEdges.of(self.neighbors, self.co_clicks)
        return self._reverse_edges

    def edges_of(self, batch: Batch) -> BatchEdges:
        """What the sessions of ``batch`` add to the graph. On the CPU, wherever the model is."""
        if self._neighbors_on_cpu is None:
            self._neighbors_on_cpu = self.neighbors.cpu()
        neighbors, width = self._neighbors_on_cpu, self.neighbors.shape[1]
        edges, co_clicks = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0)]
        for distance, first, second in batch.co_clicks(self.window):
            for item, other in ((first, second), (second, first)):
                row, column = (neighbors[item] == other[:, None]).nonzero(as_tuple=True)
                edges.append(item[row] * width + column)
                co_clicks.append(torch.full_like(row, DECAY ** (distance - 1), dtype=torch.float32))
        return BatchEdges(torch.cat(edges), torch.cat(co_clicks))

    @contextmanager
    def without(self, edges: BatchEdges) -> Iterator[None]:
        """Leave the sessions that add ``edges`` out of the graph: they are to be predicted, not looked up.

        Otherwise an item would be nearer to the one that came next in training than it ever is in serving.
        """
        if self.neighbors.shape[1] and not self.is_sampled:
            self._connect_back()  # while the graph is whole
        counts = self.co_clicks.view(-1)
        kept = counts[edges.edge]
        counts.index_add_(0, edges.edge, edges.co_clicks, alpha=-1)
        try:
            yield
        finally:
            counts[edges.edge] = kept

    def from_metadata(self, meta: Metadata) -> Tensor:
        """Sum of the vectors of category and metadata: [n, d]. An item without words or a vector has none to add."""
        x = self.from_bins(meta.category_path, meta.number_bins)
        x = x if self.token is None else x + self.token(meta.tokens)  # the mean over the words
        return x if self.vector is None else x + self.vector(meta.vectors) / self.vector_length

    def from_bins(self, path: Tensor, bins: Tensor) -> Tensor:
        """Sum of the vectors of the categories along each path, int64 [n, L], and of the numbers' bins, [n, N]: [n, d].

        Missing numbers have their own bin.
        """
        found = [
            table(column)
            for tables, columns in ((self.category, path.T), (self.number, bins.T))
            if len(tables)  # else they are no input of this model
            for table, column in zip(tables, columns, strict=True)
        ]
        if not found:
            return self.smoothing.new_zeros(path.shape[0], self.dimension)
        x: Tensor = found[0]
        for more in found[1:]:
            x = x + more
        return x

    def all_vectors(self, meta: Metadata, dtype: torch.dtype = torch.float32) -> Tensor:
        """Unit vectors of the whole catalog: [items, d]. Neighbors are summed in ``dtype``.

        Without gradients no more than two such tables exist at once, and no item loses its id by dropout.
        """
        if not torch.is_grad_enabled():
            return self._all_vectors_in_slices(meta, dtype)
        nothing = torch.zeros(0, dtype=torch.int64, device=self.co_clicks.device)
        return self.all_and_some(meta, nothing, dtype)[0]

    def all_and_some(
        self, meta: Metadata, some: Tensor, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """:meth:`all_vectors`, and those of ``some`` items int64 [n] apart, [n, d]: its gradients need no table."""
        if not torch.is_grad_enabled():
            table = self._all_vectors_in_slices(meta, dtype)
            return table, table[some]
        x = known = self.from_metadata(meta)
        own, weights = None, shares(self.co_clicks)
        if self._drops_ids:
            lost = self._lost(len(x))
            x = known if self.item is None else known + self.item.weight
            own, weights = torch.where(lost, known, x), weights.masked_fill(lost, 0.0)
        elif self.item is not None:
            x = known.add_(self._ids(self.item.weight, slice(None)))
        reverse = self._connect_back() if self.neighbors.shape[1] else None
        return smooth_unit(x, own, self.smoothing.exp(), self.neighbors, weights, reverse, some, dtype)

    def _all_vectors_in_slices(self, meta: Metadata, dtype: torch.dtype) -> Tensor:
        items, device = len(meta.category_path), meta.category_path.device
        slices = [slice(start, start + ITEMS_TOGETHER) for start in range(0, items, ITEMS_TOGETHER)]
        smooth = torch.empty(items, self.dimension, device=device)
        base = torch.empty_like(smooth, dtype=dtype)
        for some in slices:
            known = self.from_metadata(meta.rows(some))
            smooth[some] = known if self.item is None else known + self._ids(self.item.weight[some], some)
            base[some] = smooth[some]
        for some in slices:
            if self.neighbors.shape[1]:
                weights = shares(self.co_clicks[some]).to(dtype)
                near = near_vectors(base, self.neighbors[some], weights)
                smooth[some].addcmul_(near.float(), self.smoothing.exp())
            to_unit(smooth[some])
        return smooth

    def some_vectors(self, items: Tensor, meta: Metadata) -> Tensor:
        """Unit vectors of ``items`` int64 [n] alone: [n, d], the rows of :meth:`all_vectors`."""
        around = self.neighbors[items].long()  # [n, K]
        every, at = torch.unique(torch.cat([items, around.flatten()]), return_inverse=True)
        known = self.from_metadata(meta.rows(every))
        base = known if self.item is None else known + self._ids(self.item(every), every)
        at_items = at[: len(items)]
        x = F.embedding(at_items, base)
        if around.shape[1]:
            bags, weights = at[len(items) :].view_as(around), shares(self.co_clicks[items])
            x = x + self.smoothing.exp() * near_vectors(base, bags, weights)
        if self._drops_ids:
            x = torch.where(self._lost(len(x)), F.embedding(at_items, known), x)
        return F.normalize(x, dim=1)

    def _ids(self, vectors: Tensor, items: Tensor | slice) -> Tensor:
        """``vectors`` [n, d], the id vectors of ``items``: outside training zeros for those without a click."""
        return vectors if self.training else vectors * self.clicked[items, None]

    @property
    def _drops_ids(self) -> bool:
        return self.training and self.id_dropout > 0

    def _lost(self, items: int) -> Tensor:
        """Which ``items`` metadata alone place in this step: bool [items, 1].

        Dropout of whole inputs, as in DropoutNet (Volkovs et al., NeurIPS 2017).
        """
        return torch.rand(items, 1, device=self.smoothing.device) < self.id_dropout


class Attention(nn.Module):
    """Causal self-attention with a learnt bias for each head and distance."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dimension, 3 * config.dimension)
        self.out = nn.Linear(config.dimension, config.dimension)
        self.distance = nn.Parameter(torch.zeros(config.heads, config.max_length))

    def forward(self, x: Tensor, distance: Tensor, causal: Tensor) -> Tensor:
        batch, length, d = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.distance[:, distance]  # [heads, T, T]
        scores = q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5 + bias  # [B, heads, T, T]
        weights = scores.masked_fill(~causal, -1e9).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).reshape(batch, length, d)
        out: Tensor = self.out(mixed)
        return out


class Block(nn.Module):
    """One Transformer layer, normalised before each part."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.dimension
        self.norm_attention = nn.LayerNorm(d)
        self.attention = Attention(config)
        self.norm_mlp = nn.LayerNorm(d)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, distance: Tensor, causal: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_attention(x), distance, causal))
        x = x + self.dropout(self.mlp(self.norm_mlp(x)))
        return x


class Answer(NamedTuple):
    """Outputs of the heads for P session states; the last axis of ``repeats`` is the distance to the newest item."""

    category_logits: list[Tensor]  # of each level [P, C_l], the top level first
    query: Tensor  # [P, d], the score of an item is query · vector
    repeats: Tensor  # [P, max_length]


class SessionEncoder(nn.Module):
    """Session vectors in, answers out: everything that the exported graph holds."""

    def __init__(self, shape: Shape, config: Config) -> None:
        super().__init__()
        d = config.dimension
        self.max_length = config.max_length
        self.temperature = config.temperature
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(d)
        # the weighted sum of the vectors of the session's items
        self.weigh = nn.Linear(d, 1)
        self.weigh_distance = nn.Parameter(torch.zeros(config.max_length))
        # category heads: level l reads the state and the predictions of the levels above
        levels = len(shape.categories)
        read_by_item_head = {"all": range(levels), "top": [0], "leaf": [levels - 1], "none": []}[
            config.category_conditioning
        ]
        known = d
        self.category_head, self.category_conditioning = nn.ModuleList(), nn.ModuleDict()
        for level, size in enumerate(shape.categories):
            self.category_head.append(nn.Linear(known, size))
            if level in read_by_item_head:
                self.category_conditioning[str(level)] = nn.Linear(size, d, bias=False)
                known += d
        # item head
        self.item_head = nn.Linear(known, d)
        self.item_gate = nn.Linear(known, d)
        self.repeat_head = nn.Linear(d, config.max_length)
        nn.init.zeros_(self.repeat_head.weight)
        nn.init.zeros_(self.repeat_head.bias)

    def read(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """States and weighted sums after each click: [B, T, d] each, from item vectors [B, T, d]."""
        vectors = self.dropout(vectors)
        states, weights = self.attend(vectors)
        return states, weights @ vectors

    def attend(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """States after each click [B, T, d], and the weight of each click up to it in the sum [B, T, T]."""
        length, d = vectors.shape[1:]
        position = torch.arange(length, device=vectors.device)
        distance = position[:, None] - position[None, :]  # [T, T], from the state to the click
        causal = distance >= 0
        distance = distance.clamp(0, self.max_length - 1)
        x = vectors * d**0.5
        for block in self.blocks:
            x = block(x, distance, causal)
        states = self.norm(x)
        weights = self.weigh(states).transpose(1, 2) + self.weigh_distance[distance]  # [B, T, T]
        return states, weights.masked_fill(~causal, -1e9).softmax(-1)

    def answer(self, states: Tensor, sums: Tensor) -> Answer:
        """The heads, for states and weighted sums [P, d]."""
        category_logits, known = self.condition(states)
        query = sums + torch.sigmoid(self.item_gate(known)) * self.item_head(known)
        return Answer(
            category_logits, F.normalize(query, dim=-1) / self.temperature, self.repeat_head(states)
        )

    def condition(self, states: Tensor) -> tuple[list[Tensor], Tensor]:
        """Category logits of each level; and the states with the levels' predictions, [P, d · (1 + levels)]."""
        known = states
        category_logits = []
        for level, head in enumerate(self.category_head):
            logits = head(known)
            category_logits.append(logits)
            if str(level) in self.category_conditioning:
                known = torch.cat([known, self.category_conditioning[str(level)](logits.softmax(-1))], dim=-1)
        return category_logits, known


class Served(NamedTuple):
    """What ``model.onnx`` of a bundle answers B sessions of at most T clicks: the heads at the newest click."""

    category_logits: list[Tensor]  # of each level [B, C_l], the top level first
    query: Tensor  # [B, d], the score of an item is query · vector
    repeats: Tensor  # [B, T], score offset of each click's item; 0 behind the session


class HierSRec(nn.Module):
    """The whole model: item encoder and session encoder, which meet in the item vectors, and co-visitation scorer."""

    def __init__(self, shape: Shape, config: Config) -> None:
        super().__init__()
        self.shape = shape
        self.config = config
        self.items = ItemEncoder(shape, config)
        self.session = SessionEncoder(shape, config)
        self.covisitation = CovisitationNetwork()

    def answer(self, inputs: Inputs, vectors: Tensor) -> tuple[Answer, ScoreOffsets]:
        """The heads at the P positions of ``inputs``, whose items have ``vectors`` [B, T, d]; and the repeat logits."""
        states, sums = self.session.read(vectors)
        answer = self.session.answer(inputs.at_positions(states), inputs.at_positions(sums))
        position = inputs.click_position
        repeats = answer.repeats[position, inputs.click_distance]
        return answer, ScoreOffsets(position, inputs.click_item, repeats, inputs.starts)

    def hide_unclicked(self, scores: Tensor, own: Tensor) -> None:
        """Leave items without a click in training out of ``scores`` [n, items], but where the session has them itself.

        Placed by metadata, at the center of their category, they would be above many items that people want. In serving
        a bias keeps them down, which :mod:`hiersrec_training.cold_start` chooses when all else is fitted.

        Args:
            scores: of every item. In those left out it is -inf then.
            own: int64, where the items of the sessions themselves are in the flat scores.
        """
        flat = scores.view(-1)
        kept = flat[own]
        scores.index_fill_(1, (~self.items.clicked).nonzero()[:, 0], -torch.inf)
        flat[own] = kept

    def serve(self, vectors: Tensor, lengths: Tensor) -> Served:
        """Answer sessions as the exported graph does: from item vectors [B, T, d] and int64 lengths [B]."""
        states, sums = self.session.read(vectors)
        last = (lengths - 1).clamp_min(0)  # [B]
        each = torch.arange(len(last), device=last.device)
        answer = self.session.answer(states[each, last], sums[each, last])
        distance = last[:, None] - torch.arange(vectors.shape[1], device=last.device)  # [B, T]
        repeats = answer.repeats.gather(1, distance.clamp(0, self.session.max_length - 1)) * (distance >= 0)
        scale = self.covisitation.scale
        return Served(answer.category_logits, answer.query * scale, repeats * scale)
