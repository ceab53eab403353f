"""Sound bundles in memory, which the cases damage, and how they are put on disk with checksums that are right."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load

from hiersrec_sdk import Recommender
from hiersrec_sdk.bundle.schema import CATALOG, CONFIG, DELTA, ITEM_ENCODER, MODEL, QUERY_PARTS
from hiersrec_sdk.catalog.ids import id_tables, item_id_tables
from tests.sdk.bundles import SIZES, Shop, graph, make_shop

Tables = dict[str, NDArray[Any]]

ALIGNMENT: Final = 64
SCRATCH: Final = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
_CODES: Final = {
    np.dtype(code): name
    for code, name in {
        "<f8": "F64",
        "<f4": "F32",
        "<f2": "F16",
        "<i8": "I64",
        "<i4": "I32",
        "<i2": "I16",
        "i1": "I8",
        "<u8": "U64",
        "<u4": "U32",
        "<u2": "U16",
        "u1": "U8",
        "?": "BOOL",
    }.items()
}


@dataclass
class Parts:
    """The content of a bundle.

    Attributes:
        name: what the bundle has.
        config: ``config.json`` without its sums.
        tables: of each table file by its name.
        files: the other files by name.
        ids: the item ids of the bundle's rows.
    """

    name: str
    config: dict[str, Any]
    tables: dict[str, Tables]
    files: dict[str, bytes]
    ids: list[Any]

    def copy(self) -> Parts:
        """The same content, to change; arrays are shared, and must be replaced."""
        tables = {name: dict(each) for name, each in self.tables.items()}
        return Parts(self.name, pickle.loads(pickle.dumps(self.config)), tables, dict(self.files), self.ids)

    def content(self) -> dict[str, bytes]:
        """All files but ``config.json``."""
        return self.files | {name: Packed.of(tables).dump() for name, tables in self.tables.items()}


@dataclass
class Packed:
    """A table file before it is written: its header, which may be changed, and its data."""

    header: dict[str, dict[str, Any]]
    data: bytes

    @classmethod
    def of(cls, tables: Mapping[str, NDArray[Any]]) -> Packed:
        """The tables, the largest first, each at a multiple of 64 bytes."""
        header: dict[str, dict[str, Any]] = {}
        blocks: list[bytes] = []
        position = 0
        for name in sorted(tables, key=lambda name: (-tables[name].nbytes, name)):
            block = np.ascontiguousarray(tables[name]).tobytes()
            shape = list(tables[name].shape)
            header[name] = {
                "dtype": _CODES[tables[name].dtype],
                "shape": shape,
                "data_offsets": [position, position + len(block)],
            }
            position += len(block)
            blocks.append(block)
            gap = -position % ALIGNMENT
            if gap:
                padding = {"dtype": "U8", "shape": [gap], "data_offsets": [position, position + gap]}
                header[f"padding.{len(header)}"] = padding
                position += gap
                blocks.append(bytes(gap))
        return cls(header, b"".join(blocks))

    def dump(self) -> bytes:
        """The file."""
        return framed(json.dumps(self.header, separators=(",", ":")).encode(), self.data)


def framed(header: bytes, data: bytes) -> bytes:
    """A table file of a header and its data."""
    header += b" " * (-(len(header) + 8) % ALIGNMENT)
    return len(header).to_bytes(8, "little") + header + data


def tables_of(file: bytes) -> Tables:
    """The tables of a file, read by the library and in the order of their names."""
    return {name: table for name, table in sorted(load(file).items()) if not name.startswith("padding.")}


def sums(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The entries of ``files`` in ``config.json``."""
    return {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in files.items()
    }


def signed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``config.json`` with its own checksum, NaN and all."""
    content = {key: value for key, value in config.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return content | {"sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}


def config_of(parts: Parts, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The whole content of ``config.json``."""
    about = {"format": "hiersrec-bundle", "schema_version": 3, "created_by": "a forger"}
    return signed(about | {"files": sums(files)} | parts.config)


def with_config(parts: Parts, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """All files of the bundle."""
    return {CONFIG: json.dumps(config_of(parts, files)).encode(), **files}


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files of a bundle to a new folder."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


_sound: list[Parts] = []


def sound() -> list[Parts]:
    """The sound bundles. They are made once, in another process, so that this one loads no graph before it forks."""
    if not _sound:
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            file = Path(folder) / "parts"
            pid = os.fork()
            if not pid:
                try:
                    file.write_bytes(pickle.dumps(_made(Path(folder))))
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(0)
            os.waitpid(pid, 0)
            if not file.is_file():
                raise RuntimeError("the sound bundles could not be made")
            _sound.extend(pickle.loads(file.read_bytes()))
    return _sound


def _made(folder: Path) -> list[Parts]:
    full: dict[str, Any] = {"stages": [8, 16], "covisitation": True}
    shops = {
        "integers, codes, covisitation, delta": make_shop(dimension=20, **full),
        "strings, repeated categories, delta": make_shop("string", seed=1, repeated=True),
        "strings, codes, covisitation": make_shop("string", seed=2, times=3, dimension=20, **full),
        "integers, bare": make_shop(seed=3, full=False),
        "strings, bare, codes, covisitation, delta": make_shop("string", 4, full=False, dimension=24, **full),
        "integers, four stages": make_shop(seed=5, dimension=99, stages=[32, 64, 96]),
    }
    found = [_one_item()]
    for name, shop in shops.items():
        tables = {CATALOG: shop.tensors}
        made = Parts(
            name, shop.config | _SETTINGS, tables, {**shop.files, **_graphs(shop.vectors.shape[1])}, shop.ids
        )
        if "delta" in name:
            path = write(folder / str(len(found)), with_config(made, made.content()))
            _change(shop, path)
            made.config["delta"] = json.loads((path / CONFIG).read_text())["delta"]
            tables[DELTA] = tables_of((path / DELTA).read_bytes())
        found.append(made)
    return found


def _one_item() -> Parts:
    """The smallest bundle: an item in a category, and vectors of one dimension."""
    one = np.ones((1, 1), np.float32)
    tables: Tables = {
        "item_vectors": one,
        "clicks": np.array([3]),
        **item_id_tables(["only"]),
        "category_ranges.0": np.array([[0, 1]]),
        "category_parents.0": np.array([-1], np.int32),
        **id_tables("category_ids.0", ["all"]),
    }
    sizes = {"items": 1, "dimension": 1, "levels": ["shop"], "categories": [1], "max_length": 1}
    config = make_shop("string").config | _SETTINGS | sizes
    files = {MODEL: graph([one], None), **_graphs(1, 1, 1)}
    return Parts("one item", config, {CATALOG: tables}, files, ["only"])


_SETTINGS: Final[dict[str, Any]] = {
    "data": {
        "name": "made up",
        "logs": ["clicks.csv"],
        "counts": {"train_sessions": 9, "train_examples": 20, "test_sessions": 3, "test_examples": 4},
    },
    "metrics": {"trained_on": "train", "validation": {"recall@20": 0.5, "mrr@20": 0.25}},
    "cold_start_bias": -1.5,
    "preprocessing": {
        "text": {"buckets": 8, "max_tokens": 4},
        "numbers": {"price": [1.0, 2.5, 10.0]},
        "vectors": {"width": 3, "from": "file"},
    },
    "calibration": {
        "top_p": 0.61,
        "session_categories": {"top_p": 0.3},
        "trained_on": False,
        "kept": 0.9,
        "examples": 10,
        "split": "validation",
    },
}


def _graphs(dimension: int, levels: int = len(SIZES), leaves: int = SIZES[-1]) -> dict[str, bytes]:
    return {ITEM_ENCODER: _item_encoder(dimension, levels, leaves), QUERY_PARTS: _query_parts(dimension)}


def _change(shop: Shop, path: Path) -> None:
    """Give the bundle changes of every kind."""
    recommender = Recommender.load(path, backend="numpy")
    catalog, ids = recommender.catalog, shop.ids
    text = shop.id_type == "string"
    deepest = catalog.category(-1, 2).path
    new = "new" if isinstance(deepest[0], str) else 77
    catalog.upsert([{"id": f"added-{n}" if text else 50 + n, "vector": shop.vectors[n]} for n in range(4)])
    catalog.upsert([{"id": ids[9], "title": "größer", "category": [*deepest[:2], new], "text": "red boots"}])
    catalog.upsert(
        [{"id": "later" if text else 60, "category": [*deepest[:1], new], "numbers": {"price": 2.0}}]
    )
    catalog.move(ids[20], deepest)
    catalog.remove([ids[30], ids[31], ids[17]])
    catalog.set_bias([ids[3], ids[9]], [0.5, -0.25])
    recommender.save(path)


def _item_encoder(dimension: int, levels: int, leaves: int) -> bytes:
    """An item encoder with every input: sums of rows of small tables."""
    random = np.random.default_rng(dimension)
    value, node = helper.make_tensor_value_info, helper.make_node
    constants = {
        "leaves": random.integers(-8, 9, (leaves, dimension)),
        "words": random.integers(-8, 9, (9, dimension)),
        "bins": random.integers(-8, 9, (5, dimension)),
        "given": random.integers(-8, 9, (3, dimension)),
    }
    arrays = {name: (table / 8).astype(np.float32) for name, table in constants.items()}
    arrays |= {"last": np.array(levels - 1), "axis": np.array([1])}
    nodes = [
        node("Gather", ["category_path", "last"], ["leaf"], axis=1),
        node("Gather", ["leaves", "leaf"], ["by_leaf"]),
        node("Gather", ["words", "tokens"], ["by_word"]),
        node("ReduceSum", ["by_word", "axis"], ["by_text"], keepdims=0),
        node("Gather", ["bins", "number_bins"], ["by_bin"]),
        node("ReduceSum", ["by_bin", "axis"], ["by_number"], keepdims=0),
        node("MatMul", ["vectors", "given"], ["by_vector"]),
        node("Add", ["by_leaf", "by_text"], ["by_words"]),
        node("Add", ["by_number", "by_vector"], ["by_numbers"]),
        node("Add", ["by_words", "by_numbers"], ["item_vectors"]),
    ]
    inputs = [
        value("category_path", TensorProto.INT64, ["items", levels]),
        value("tokens", TensorProto.INT64, ["items", "words"]),
        value("number_bins", TensorProto.INT64, ["items", 1]),
        value("vectors", TensorProto.FLOAT, ["items", 3]),
    ]
    outputs = [value("item_vectors", TensorProto.FLOAT, ["items", dimension])]
    return _model(nodes, inputs, outputs, arrays)


def _query_parts(dimension: int) -> bytes:
    """Parts that are a third of the session's sum each, more or less."""
    value, node = helper.make_tensor_value_info, helper.make_node
    arrays = {"axis": np.array([1]), "one": np.array([0.5] * dimension, np.float32), "last": np.array([2])}
    nodes = [
        node("ReduceSum", ["session_vectors", "last"], ["session_weights"], keepdims=0),
        node("ReduceSum", ["session_vectors", "axis"], ["total"], keepdims=0),
        node("Mul", ["total", "one"], ["state_query"]),
        node("Cast", ["session_lengths"], ["lengths"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["lengths", "axis"], ["column"]),
        node("Mul", ["state_query", "column"], ["category_query"]),
    ]
    inputs = [
        value("session_vectors", TensorProto.FLOAT, ["batch", "length", dimension]),
        value("session_lengths", TensorProto.INT64, ["batch"]),
    ]
    outputs = [
        value("session_weights", TensorProto.FLOAT, ["batch", "length"]),
        value("state_query", TensorProto.FLOAT, ["batch", dimension]),
        value("category_query", TensorProto.FLOAT, ["batch", dimension]),
    ]
    return _model(nodes, inputs, outputs, arrays)


def _model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], arrays: Mapping[str, NDArray[Any]]
) -> bytes:
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def remove(folder: Path) -> None:
    """Remove a folder with everything in it, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
