"""A training run and its data set as a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hiersrec_export.parity import Parity, check_item_parity, check_parity
from hiersrec_export.to_onnx import IR_VERSION, OPSET, item_graph, session_graph
from hiersrec_sdk.bundle import write_bundle
from hiersrec_sdk.catalog import id_tables, item_id_tables
from hiersrec_sdk.errors import ExportError
from hiersrec_sdk.tables import StringTable
from hiersrec_training.dataset import Dataset
from hiersrec_training.model import HierSRec, Metadata
from hiersrec_training.run import RunInfo, load_model

CANDIDATES = 0.04  # the paper's share of the catalogue
LEAST_CANDIDATES = 1000  # of a small catalogue more are ranked: fewer would save less than the encoder takes


def export(
    run_path: Path,
    out: Path,
    *,
    data_path: Path | None = None,
    name: str | None = None,
    report: Callable[[str], None] = print,
    step: Callable[[str], None] = lambda name: None,
) -> Parity:
    """Write the bundle ``out`` of the finished run ``run_path``, all or nothing.

    Args:
        run_path: what ``train`` wrote.
        out: folder to write; it must not exist.
        data_path: the data set, where it no longer lies at the path that the run noted.
        name: name for the model card; the run's by default.
        report: takes lines for a person to read.
        step: takes what is begun next, as it takes some seconds.

    Raises:
        RunError: not a finished run.
        DataError: the data set is missing.
        ExportError: the data set is not the run's, or PyTorch and onnxruntime differ.
        BundleError: ``out`` exists or cannot be written.
    """
    model, info = load_model(Path(run_path))
    data_path = Path(data_path or info.data["path"])
    if not data_path.exists():
        raise ExportError(f"the data set of {run_path} is no longer at {data_path}: say where it is with --data")
    data = Dataset.load(data_path)
    if data.fingerprint != info.data["fingerprint"]:
        raise ExportError(f"{data_path} is not the data set that {run_path} was trained on")
    step("tracing the model…")
    vectors = item_vectors(model, info, data)
    files = {"model.onnx": session_graph(model), "item_encoder.onnx": item_graph(model)}
    report(", ".join(f"{name} {len(content):,} bytes" for name, content in files.items()))
    step("checking parity of PyTorch and onnxruntime…")
    meta = Metadata.of(data, info.shape, info.config)
    item_parity = check_item_parity(model, files["item_encoder.onnx"], meta)
    real = data.valid if len(data.valid) else data.train
    parity = check_parity(model, files["model.onnx"], vectors, real)
    report(
        f"PyTorch and onnxruntime agree on {parity.sessions:,} sessions, lengths 1 to {model.config.max_length}, "
        f"batches 1 to 64: worst relative difference {max(parity.worst.values()):.1e}; on items {item_parity:.1e}"
    )
    config = _config(info, data, parity)
    files["README.md"] = _card(name or Path(run_path).name, info, config).encode()
    step(f"writing {out}…")
    write_bundle(Path(out), config, catalog_tables(data, vectors), files)
    return parity


@torch.no_grad()
def item_vectors(model: HierSRec, info: RunInfo, data: Dataset) -> NDArray[np.float32]:
    """Unit vectors float32 [items, d], in the order of the data set's items.

    An item without a click in training has only a random id vector: it is placed by its metadata alone, as
    ``item_encoder.onnx`` places an item that is added later.
    """
    meta = Metadata.of(data, info.shape, info.config)
    vectors = model.items.all_vectors(meta)
    clicked = np.bincount((data.train.then(data.valid) if info.final else data.train).items, minlength=data.items) > 0
    cold = F.normalize(model.items.from_metadata(meta), dim=1)
    found: NDArray[np.float32] = torch.where(torch.from_numpy(clicked)[:, None], vectors, cold).numpy()
    return found


def catalog_tables(data: Dataset, vectors: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """The tables of ``catalog.safetensors``: rows sorted by a depth-first walk of the category tree."""
    order = np.argsort(data.category, kind="stable")  # row to item
    row = np.empty_like(order)
    row[order] = np.arange(len(order))  # item to row
    ids = data.item_ids.gather(order).to_list()
    tables: dict[str, NDArray[Any]] = {
        "output_vectors": np.ascontiguousarray(vectors[order], dtype=np.float32),
        "clicks": data.clicks[order],
        **item_id_tables(ids),
    }
    tree = data.tree
    paths = tree.paths()[data.category[order]]  # [rows, L], rising in every column
    for level, size in enumerate(tree.sizes):
        edges = np.searchsorted(paths[:, level], np.arange(size + 1)).astype(np.int64)
        tables[f"category_ranges.{level}"] = np.stack([edges[:-1], edges[1:]], axis=1)
        tables[f"category_parents.{level}"] = tree.parents[level].astype(np.int32)
        tables |= id_tables(f"category_ids.{level}", tree.ids[level])  # type: ignore[arg-type]
        if tree.names is not None:
            tables |= StringTable.from_strings(tree.names[level]).tables(f"category_names.{level}")
    extra = [(leaf, int(row[item])) for item, leaves in enumerate(data.extra_categories) for leaf in leaves]
    if extra:
        leaves, rows = np.array(sorted(extra), dtype=np.int64).T
        tables["extra_offsets"] = np.searchsorted(leaves, np.arange(tree.sizes[-1] + 1)).astype(np.int64)
        tables["extra_rows"] = np.ascontiguousarray(rows)
    if data.title.null_count() < data.items:
        titles = data.title.gather(order).fill_null("").to_list()
        tables |= StringTable.from_strings(titles).tables("titles")
    return tables


def _config(info: RunInfo, data: Dataset, parity: Parity) -> dict[str, Any]:
    levels = info.data["settings"].get("levels") or [f"level {level}" for level in range(data.tree.depth)]
    return {
        "item_id_type": "string" if isinstance(data.item_ids[0], str) else "int64",
        "category_id_type": "string" if isinstance(data.tree.ids[-1][0], str) else "int64",
        "items": data.items,
        "dimension": info.config.dimension,
        "levels": levels,
        "categories": data.tree.sizes,
        "max_length": info.config.max_length,
        "candidates": max(CANDIDATES, min(1.0, LEAST_CANDIDATES / data.items)),
        "model": info.config.as_dict() | {"opset": OPSET, "ir_version": IR_VERSION},
        "preprocessing": {
            "text": {"buckets": info.config.text_buckets, "max_tokens": info.config.text_tokens}
            if info.shape.text
            else None,
            "numbers": info.shape.numbers,
        },
        "data": {
            "logs": [file["name"] for file in info.data["settings"].get("files", {}).get("logs", [])],
            **{key: info.data[key] for key in ("fingerprint", "counts", "settings")},
        },
        "metrics": {
            "validation": info.metrics,
            "trained_on": "training and validation part" if info.final else "training part",
            "epochs": info.best_epoch,
            "training_seconds": info.seconds,
            "parity": parity.worst,
        },
    }


def _card(name: str, info: RunInfo, config: dict[str, Any]) -> str:
    counts = info.data["counts"]
    lines = [
        f"# {name}",
        "",
        "A next-item recommender for sessions: HierSRec (arXiv 2309.06533), exported by HierSRec SDK.",
        "",
        "```python",
        "from hiersrec_sdk import Recommender",
        "",
        'recommender = Recommender.load("path/of/this/folder")',
        "result = recommender.recommend([...], k=20)  # ids of the items clicked so far, the newest last",
        "```",
        "",
        "## Data",
        "",
        f"From {', '.join(config['data']['logs']) or 'logs that were not noted'}: {counts['items']:,} items in "
        f"{' > '.join(f'{size:,}' for size in config['categories'])} categories; "
        f"{counts['train_sessions']:,} training, {counts['valid_sessions']:,} validation and "
        f"{counts['test_sessions']:,} test sessions "
        f"({counts['train_cases']:,}, {counts['valid_cases']:,} and {counts['test_cases']:,} cases).",
        f"Trained on the {config['metrics']['trained_on']}, {info.best_epoch} epochs, {info.seconds:,.0f} seconds "
        f"on {info.device}. The bundle holds no session: of the clicks only each item's count is kept.",
        "",
        "## Metrics",
        "",
    ]
    if not info.final:
        lines += ["On the validation part, every item ranked, ties counted against the model:", ""]
        lines += ["| metric | value |", "|---|---|"]
        lines += [f"| {metric} | {value:.4f} |" for metric, value in info.metrics.items()]
    else:
        lines += ["The validation part was trained on; `hiersrec evaluate` measures on the test part."]
    lines += [
        "",
        f"PyTorch and onnxruntime agree within {max(config['metrics']['parity'].values()):.1e} (relative).",
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(config["model"], indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)
