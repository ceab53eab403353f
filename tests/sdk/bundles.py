"""A small shop as a real bundle, whose every number is a small multiple of 1/8.

Sums and products of such numbers are exact in float32 in any order, so that a plain re-implementation must give the
same scores to the last bit. They also tie often, which is what the order of ties has to be tested on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hiersrec_sdk.bundle.tables import StringTable, write_tables
from hiersrec_sdk.bundle.write import write_bundle
from hiersrec_sdk.catalog.ids import id_tables, item_id_tables
from hiersrec_sdk.ranking import Codes
from hiersrec_sdk.ranking.covisitation import (
    EDGE_COUNTS,
    FEATURES,
    POPULARITIES,
    CovisitationCounts,
    CovisitationScorer,
)

DIMENSION = 6
MAX_LENGTH = 7
LEAF_SIZES = [5, 0, 12, 1, 7, 30, 3, 0, 2]  # ragged, two of them empty
PARENTS = [[-1, -1], [0, 0, 1, 1], [0, 0, 1, 1, 1, 2, 2, 3, 3]]
SIZES = [len(parents) for parents in PARENTS]
ITEMS = sum(LEAF_SIZES)
# Leaf 1 is empty but for items of other leaves; leaf 3 lists an item of its own and one that leaf 5 lists too.
# Category ids for the tree of PARENTS. 0 and 5 are padded, and 5 stands elsewhere; 0 > 0 > 7 is a gap; 7 is everywhere.
REPEATED = [[0, 1], [5, 0, 5, 6], [5, 7, 0, 7, 8, 7, 9, 6, 0]]
EXTRA = {1: [0, 59], 3: [17, 40], 5: [4, 40, 2], 8: [55]}


@dataclass(frozen=True)
class Shop:
    """The content of the bundle: the numbers that a re-implementation starts from."""

    ids: list[Any]
    vectors: NDArray[np.float32]  # [items, dimension]
    bias: NDArray[np.float32] | None
    clicks: NDArray[np.int64]
    weights: list[NDArray[np.float32]]  # for each level [dimension, categories]
    repeats: NDArray[np.float32] | None  # [dimension]
    leaf_sizes: list[int]
    extra: dict[int, list[int]]
    category_ids: list[list[Any]]
    titles: list[str] | None
    stages: list[int] | None  # of the codes; None: no codes
    top_p: float | None  # of candidates="auto"; None: not calibrated
    covisitation: CovisitationScorer | None  # its network reads nothing but the popularity

    @property
    def items(self) -> int:
        return len(self.ids)

    @property
    def ranges(self) -> list[list[tuple[int, int]]]:
        """``[start, stop)`` of every category of every level."""
        return category_ranges(self.leaf_sizes)

    def leaf_of(self, row: int) -> int:
        return next(leaf for leaf, (start, stop) in enumerate(self.ranges[-1]) if start <= row < stop)

    @property
    def category_paths(self) -> dict[tuple[int, int], tuple[Any, ...]]:
        """The ids from the top down to every category, by level and index, the repeats of shallow branches included."""
        paths: dict[tuple[int, int], tuple[Any, ...]] = {}
        for level, ids in enumerate(self.category_ids):
            for index, own in enumerate(ids):
                paths[level, index] = (*paths.get((level - 1, PARENTS[level][index]), ()), own)
        return paths

    def named(self, name: Any) -> list[tuple[int, int]]:
        """Level and index of the categories that ``name``, an id or a path, may mean."""
        paths = self.category_paths
        if not isinstance(name, tuple):
            return [node for node, path in paths.items() if path[-1] == name and name not in path[:-1]]
        exact = [node for node, path in paths.items() if path == name]
        wanted = runs(name)
        alike = {
            node: path
            for node, path in paths.items()
            if [own for own, _ in runs(path)] == [own for own, _ in wanted]
            and all(have >= want for (_, have), (_, want) in zip(runs(path), wanted, strict=True))
        }
        return exact or [node for node, path in alike.items() if path[:-1] not in alike.values()]

    def leaves_below(self, node: tuple[int, int]) -> set[int]:
        """The leaf categories below a category, itself at the leaf level."""
        level, index = node
        below = {index}
        for parents in PARENTS[level + 1 :]:
            below = {child for child, parent in enumerate(parents) if parent in below}
        return below

    def rows_of_category(self, name: Any) -> set[int]:
        """Rows in the one category of this name, or listed in a category below it."""
        ((level, index),) = self.named(name)
        listed = {row for leaf in self.leaves_below((level, index)) for row in self.extra.get(leaf, [])}
        return {*range(*self.ranges[level][index])} | listed

    @property
    def stranger(self) -> Any:
        """An item id that is not in the catalog."""
        return "stranger" if self.id_type == "string" else 3

    @property
    def id_type(self) -> str:
        return "string" if isinstance(self.ids[0], str) else "int64"

    @property
    def config(self) -> dict[str, Any]:
        measured = {"kept": 0.99, "examples": 9, "split": "validation", "trained_on": False}
        with_session = {"top_p": (self.top_p or 0) / 2}
        return {
            "item_id_type": self.id_type,
            "category_id_type": "string" if isinstance(self.category_ids[0][0], str) else "int64",
            "items": self.items,
            "dimension": self.vectors.shape[1],
            "levels": ["department", "aisle", "shelf"],
            "categories": SIZES,
            "max_length": MAX_LENGTH,
            "candidate_share": 0.3,
            "model": {"layers": 0},
            "preprocessing": {},
            "data": {"name": "made up"},
            "metrics": {"recall@20": 0.5},
            **(
                {}
                if self.top_p is None
                else {"calibration": {"top_p": self.top_p, "session_categories": with_session, **measured}}
            ),
        }

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        tables: dict[str, NDArray[Any]] = {"item_vectors": self.vectors, "clicks": self.clicks}
        tables |= item_id_tables(self.ids)
        if self.bias is not None:
            tables["item_bias"] = self.bias
        if self.stages is not None:
            tables |= Codes.of(self.vectors, self.stages).tables()
        if self.covisitation is not None:
            tables |= self.covisitation.tables()
        if self.titles is not None:
            tables |= StringTable.from_strings(self.titles).tables("titles")
        if self.extra:
            lists = [self.extra.get(leaf, []) for leaf in range(SIZES[-1])]
            tables["extra_rows"] = np.array(list(chain(*lists)), dtype=np.int64)
            tables["extra_offsets"] = np.cumsum([0, *map(len, lists)])
        for level, ranges in enumerate(self.ranges):
            tables[f"category_ranges.{level}"] = np.array(ranges, dtype=np.int64)
            tables[f"category_parents.{level}"] = np.array(PARENTS[level], dtype=np.int32)
            tables |= id_tables(f"category_ids.{level}", self.category_ids[level])
        return tables

    @property
    def files(self) -> dict[str, bytes]:
        return {"model.onnx": graph(self.weights, self.repeats), "README.md": b"# A made-up shop\n"}

    def write(self, path: Path) -> Path:
        write_bundle(path, self.config, self.tensors, self.files)
        return path


def make_shop(
    id_type: str = "int64",
    seed: int = 0,
    *,
    full: bool = True,
    times: int = 1,
    dimension: int = DIMENSION,
    stages: list[int] | None = None,
    covisitation: bool = False,
    repeated: bool = False,
) -> Shop:
    """A shop.

    Args:
        id_type: type of the item ids.
        seed: seed of everything random.
        full: with everything optional but codes and the co-visitation scorer.
        times: number of items for each one of ``LEAF_SIZES``.
        dimension: length of the vectors.
        stages: ends of the codes' stages but the last; None: without codes.
        covisitation: with a co-visitation scorer.
        repeated: with category ids that stand at several places: below different parents, and along one branch.
    """
    random = np.random.default_rng(seed)
    items = times * ITEMS
    ids: list[Any] = [-5, 0, 2**62, *(int(item_id) for item_id in 1_000 + 7 * random.permutation(items - 3))]
    if id_type == "string":
        ids = ["", "größe-3", "0", *(f"shoe-{item_id}" for item_id in ids[3:])]

    def numbers(*shape: int) -> NDArray[np.float32]:
        return (random.integers(-8, 9, shape) / 8).astype(np.float32)

    return Shop(
        ids=ids,
        vectors=numbers(items, dimension),
        bias=numbers(items) if full else None,
        clicks=random.integers(0, 9, items),
        weights=[numbers(dimension, size) for size in SIZES],
        repeats=numbers(dimension) if full else None,
        leaf_sizes=[times * size for size in LEAF_SIZES],
        extra={leaf: [times * row for row in rows] for leaf, rows in EXTRA.items()} if full else {},
        category_ids=[
            [f"{level}/{index}" if full else 100 * level + index for index in range(size)]
            for level, size in enumerate(SIZES)
        ]
        if not repeated
        else [[f"c{own}" if full else own for own in level] for level in REPEATED],
        titles=[f"Item {row}" if row % 3 else "" for row in range(items)] if full else None,
        stages=stages,
        top_p=0.61 if full else None,
        covisitation=_scorer(random, items) if covisitation else None,
    )


def runs(path: tuple[Any, ...]) -> list[tuple[Any, int]]:
    """The ids of a path, each with how often it stands there in a row."""
    return [(own, len([*group])) for own, group in groupby(path)]


def _scorer(random: np.random.Generator, items: int) -> CovisitationScorer:
    neighbors = [np.sort(random.permutation(items)[: random.integers(0, 4)]) for _ in range(items)]
    offsets = np.cumsum([0, *map(len, neighbors)])
    clicks = random.integers(0, 5, (offsets[-1], EDGE_COUNTS)).astype(np.uint16)
    popularity = (random.integers(-8, 9, (items, POPULARITIES)) / 8).astype(np.float32)
    hidden = np.zeros((FEATURES, 3), dtype=np.float32)
    hidden[:POPULARITIES] = random.integers(-1, 2, (POPULARITIES, 3))
    rows = np.concatenate(neighbors).astype(np.int32)
    weight = np.array([1, -0.5, 0.25, 0.125], dtype=np.float32)
    shift = np.array([0, 0.5, -0.25], dtype=np.float32)
    return CovisitationScorer(CovisitationCounts(popularity, offsets, rows, clicks), hidden, shift, weight)


def category_ranges(leaf_sizes: list[int] = LEAF_SIZES) -> list[list[tuple[int, int]]]:
    """``[start, stop)`` of every category of every level."""
    stops = np.cumsum(leaf_sizes).tolist()
    levels = [[(stop - size, stop) for stop, size in zip(stops, leaf_sizes, strict=True)]]
    for parents, size in ((PARENTS[2], SIZES[1]), (PARENTS[1], SIZES[0])):
        below = [
            [span for span, parent in zip(levels[0], parents, strict=True) if parent == at]
            for at in range(size)
        ]
        levels.insert(0, [(spans[0][0], spans[-1][1]) for spans in below])
    return levels


def graph(weights: list[NDArray[np.float32]], repeats: NDArray[np.float32] | None) -> bytes:
    """A session encoder: the query is the sum of the session's vectors, logits are linear maps."""
    dimension = len(weights[0])
    node = helper.make_node
    value = helper.make_tensor_value_info
    names = [*(f"category_logits_{level}" for level in range(len(weights) - 1)), "category_logits"]
    constants = {
        "zero": np.array(0),
        "one": np.array(1),
        "axis": np.array([1]),
        "last": np.array([2]),
        "eight": np.array(8, dtype=np.float32),
        **{f"w_{name}": matrix for name, matrix in zip(names, weights, strict=True)},
    }
    nodes = [
        node("Shape", ["session_vectors"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"]),
        node("Range", ["zero", "length", "one"], ["places"]),
        node("Unsqueeze", ["session_lengths", "axis"], ["ends"]),
        node("Less", ["places", "ends"], ["is_real"]),
        node("Cast", ["is_real"], ["real"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["real", "last"], ["mask"]),
        node("Mul", ["session_vectors", "mask"], ["masked"]),
        node("ReduceSum", ["masked", "axis"], ["total"], keepdims=0),
        node("Mul", ["total", "eight"], ["item_query"]),
        *(node("MatMul", ["total", f"w_{name}"], [name]) for name in names),
    ]
    outputs = [
        value(name, TensorProto.FLOAT, ["batch", matrix.shape[1]])
        for name, matrix in zip(names, weights, strict=True)
    ]
    outputs.append(value("item_query", TensorProto.FLOAT, ["batch", dimension]))
    if repeats is not None:
        constants["w_repeat"] = repeats[:, None]
        nodes.append(node("MatMul", ["masked", "w_repeat"], ["repeat_columns"]))
        nodes.append(node("Squeeze", ["repeat_columns", "last"], ["repeat_logits"]))
        outputs.append(value("repeat_logits", TensorProto.FLOAT, ["batch", "length"]))
    inputs = [
        value("session_vectors", TensorProto.FLOAT, ["batch", "length", dimension]),
        value("session_lengths", TensorProto.INT64, ["batch"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    whole = helper.make_graph(nodes, "session_encoder", inputs, outputs, initializers)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def forge(
    path: Path, config: dict[str, Any], tensors: dict[str, NDArray[Any]], files: dict[str, bytes]
) -> Path:
    """Write a bundle without any of the checks of ``write_bundle``, with SHA-256 sums that are right."""
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    write_tables(path / "catalog.safetensors", tensors)
    about = {"format": "hiersrec-bundle", "schema_version": 3, "created_by": "a forger"}
    listed = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
        for file in path.iterdir()
    }
    write_config(path, {**about, "files": listed, **config})
    return path


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write ``config.json`` with the checksum of its content."""
    content = {key: value for key, value in config.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    (path / "config.json").write_text(json.dumps({**content, "sha256": digest}))
