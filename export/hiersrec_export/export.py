"""A training run and its data set as a bundle."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hiersrec_export import IR_VERSION, OPSET
from hiersrec_export.calibrate import Scorer, calibrate, examples_of
from hiersrec_export.graphs import item_graph, principal_axes, query_parts_graph, rotate, session_graph
from hiersrec_export.hub_metadata import HubMetadata
from hiersrec_export.model_card import calibration_picture, model_card, summary
from hiersrec_export.parity import TOLERANCE, Parity, check_item_parity, check_parity, check_query_parts
from hiersrec_export.writable import check_writable
from hiersrec_sdk.arguments import is_utf8
from hiersrec_sdk.bundle.schema import QUERY_PARTS
from hiersrec_sdk.bundle.tables import StringTable
from hiersrec_sdk.bundle.write import write_bundle
from hiersrec_sdk.catalog.ids import id_tables, item_id_tables
from hiersrec_sdk.cpus import resolved
from hiersrec_sdk.encoders.runtime import available_providers
from hiersrec_sdk.encoders.session_encoder import OnnxSessionEncoder
from hiersrec_sdk.errors import BundleError, ExportError, ProviderError
from hiersrec_sdk.ranking import Codes
from hiersrec_sdk.ranking.covisitation import CovisitationScorer
from hiersrec_sdk.shown import shown
from hiersrec_training.covisitation import by_rows, count_covisits
from hiersrec_training.data.dataset import Dataset, Sessions
from hiersrec_training.data.text_encoders import HASHED
from hiersrec_training.model import HierSRec, Metadata
from hiersrec_training.run import RunInfo, load_model

CANDIDATE_SHARE = 0.04  # the paper's
LEAST_CANDIDATES = 1000  # a small catalog has a larger share: fewer would save less than the encoder takes


def export(
    run_path: Path,
    out: Path,
    *,
    data_path: Path | None = None,
    calibrate_with: Path | None = None,
    name: str | None = None,
    metadata: HubMetadata | None = None,
    report: Callable[[str], None] = print,
    step: Callable[[str], None] = lambda name: None,
    progress: bool = False,
) -> Parity:
    """Write the bundle ``out`` of the finished run ``run_path``, all or nothing.

    Args:
        run_path: a folder that ``train`` wrote.
        out: folder to write; it must not exist.
        data_path: the data set, where it is no longer at the path that the run noted.
        calibrate_with: for a final run: a run of the same data set, trained without the validation split, to measure
            the candidates with.
        name: name for the model card; the run's by default.
        metadata: license and data sets, for the model card.
        report: takes lines for a person to read.
        step: takes the name of each step as it begins; some take seconds.
        progress: whether to show bars.

    Raises:
        RunError: ``run_path`` is not a finished run.
        DataError: the data set is missing.
        ExportError: the data set is not the run's, ``calibrate_with`` does not go with the run, training diverged, or
            PyTorch and onnxruntime differ.
        BundleError: ``out`` exists or cannot be written.
    """
    if os.path.lexists(out):
        raise BundleError(f"{out} exists already: choose another folder or remove it")
    if name is not None and not is_utf8(name):
        raise ExportError(f"--name must be valid UTF-8, got {shown(name)}")
    check_writable(Path(out), BundleError)
    model, info = load_model(Path(run_path))
    data_path = Path(data_path or info.data["path"])
    if not data_path.exists():
        raise ExportError(
            f"the data set of {run_path} is no longer at {data_path}: say where it is with --data"
        )
    data = Dataset.load(data_path)
    if data.fingerprint != info.data["fingerprint"]:
        raise ExportError(f"{data_path} is not the data set that {run_path} was trained on")
    measured = Path(calibrate_with or run_path)
    other = None if calibrate_with is None else _calibration_run(measured, Path(run_path), info, data, report)
    step("preparing the model…")
    served = _Servable.of(model, info, data)
    files = {
        "model.onnx": served.graph,
        "item_encoder.onnx": item_graph(model, served.axes),
        QUERY_PARTS: query_parts_graph(model, served.axes),
    }
    report(", ".join(f"{name} {len(content):,} bytes" for name, content in files.items()))
    step("checking parity of PyTorch and onnxruntime…")
    meta = Metadata.of(data, info.shape, info.config)
    item_parity = check_item_parity(model, files["item_encoder.onnx"], meta, served.axes)
    real = data.validation if len(data.validation) else data.train
    compared = partial(check_parity, model, served.graph, served.vectors, real, served.axes)
    parity = compared()
    report(
        f"PyTorch and onnxruntime agree on {parity.sessions:,} sessions, lengths 1 to {model.config.max_length}, "
        f"batches 1 to 64: worst relative difference {parity.largest:.1e}; on items {item_parity:.1e}"
    )
    for provider in available_providers():
        if provider != "cpu":
            try:
                largest = compared(provider=provider, tolerance=np.inf).largest
            except ProviderError as error:
                report(f"not compared on {provider}: {error}")
                continue
            if largest <= TOLERANCE:
                report(f"on {provider} too: {largest:.1e}")
            else:  # the bundle is as good as ever on the CPU, and on other machines
                report(
                    f"warning: PyTorch and onnxruntime on {provider} differ by {largest:.1e}, above {TOLERANCE:.0e}: "
                    f"do not serve with providers=({provider!r},) on this machine"
                )
    check_query_parts(files["model.onnx"], files[QUERY_PARTS], served.rotated, real, model.config.max_length)
    config = _config(info, data, parity)
    if data.validation.example_count:
        if other is not None:
            step(f"preparing the model of {measured}…")
        source = served if other is None else _Servable.of(*other, data)
        step("calibrating candidates…")
        calibration = {
            "split": "validation",
            "trained_on": info.final and other is None,
            "run": measured.resolve().name,
            **source.calibrate(data, config["candidate_share"], progress),
        }
        config["calibration"] = calibration
        report(summary(calibration, data.items))
        files["calibration.png"] = calibration_picture(calibration, data.items)
    files["README.md"] = model_card(name or Path(run_path).name, info, config, metadata).encode(
        errors="replace"
    )
    step(f"writing {out}…")
    tables = catalog_tables(data, served.rotated, served.item_bias, served.covisitation)
    write_bundle(Path(out), config, tables, files)
    return parity


@dataclass(frozen=True)
class _Servable:
    """A model ready to serve.

    Attributes:
        model: the model.
        vectors: float32 [items, d], as trained.
        axes: float32 [d, d], the principal axes that the bundle's vectors are in.
        rotated: float32 [items, d], in those axes.
        graph: bytes of ``model.onnx``, which reads and gives rotated vectors.
        covisitation: by item index; None where it was not fitted.
        item_bias: float32 [items]; None where it was not fitted.
    """

    model: HierSRec
    vectors: NDArray[np.float32]
    axes: NDArray[np.float32]
    rotated: NDArray[np.float32]
    graph: bytes
    covisitation: CovisitationScorer | None
    item_bias: NDArray[np.float32] | None

    @classmethod
    def of(cls, model: HierSRec, info: RunInfo, data: Dataset) -> _Servable:
        vectors = trained_vectors(model, info, data)
        if wrong := int((~np.isfinite(vectors).all(axis=1)).sum()):
            raise ExportError(
                f"the vectors of {wrong:,} of {data.items:,} items are not finite, so training diverged: train anew "
                "with a lower learning_rate"
            )
        axes = principal_axes(vectors)
        scorer, bias = None, None
        if model.covisitation.fitted:
            scorer, bias = model.covisitation.exported(count_covisits(_trained_on(info, data), data.items))
            clicked = model.items.clicked.numpy()
            if not clicked.all():  # the network knows items that nobody wants, not those that nobody saw
                cold = info.cold_start.get("bias", float(np.median(bias[clicked])))
                bias = np.where(clicked, bias, cold).astype(np.float32)
        graph = session_graph(model, axes)
        return cls(model, vectors, axes, rotate(vectors, axes), graph, scorer, bias)

    def calibrate(self, data: Dataset, default: float, progress: bool) -> dict[str, Any]:
        """Calibrate on the validation split of ``data``; ``default`` is the bundle's candidate share."""
        encoder = OnnxSessionEncoder(
            self.graph,
            dimension=self.model.config.dimension,
            categories=self.model.shape.categories,
            threads=resolved("auto"),
        )
        examples = examples_of(data.validation, data.items)
        scorer = Scorer(encoder, self.rotated, self.item_bias, self.covisitation)
        return calibrate(scorer, data, examples, self.model.config.max_length, default, progress)


def _calibration_run(
    measured: Path, run_path: Path, info: RunInfo, data: Dataset, report: Callable[[str], None]
) -> tuple[HierSRec, RunInfo]:
    """The run ``measured``, to calibrate the run ``run_path`` with.

    Raises:
        RunError: it is not finished.
        ExportError: it does not go with the run.
    """
    if not info.final:
        raise ExportError(
            f"{run_path} was trained without its validation split, so it is calibrated with itself: leave out "
            "--calibrate-with"
        )
    if not data.validation.example_count:
        raise ExportError(f"the data set of {run_path} has no validation split: leave out --calibrate-with")
    model, other = load_model(measured)
    if other.data["fingerprint"] != data.fingerprint:
        raise ExportError(
            f"{measured} was trained on another data set than {run_path}: it cannot calibrate it"
        )
    if other.final:
        raise ExportError(
            f"{measured} was trained on its validation split too (--final): --calibrate-with takes a run that was not"
        )
    if unlike := info.config.unlike(other.config):
        report(f"note: {measured} was trained with other settings than {run_path}: {', '.join(unlike)}")
    return model, other


@torch.no_grad()
def trained_vectors(model: HierSRec, info: RunInfo, data: Dataset) -> NDArray[np.float32]:
    """Unit vectors float32 [items, d], in the order of the data set's items."""
    found: NDArray[np.float32] = model.items.all_vectors(Metadata.of(data, info.shape, info.config)).numpy()
    return found


def _trained_on(info: RunInfo, data: Dataset) -> Sessions:
    return data.train.then(data.validation) if info.final else data.train


def catalog_tables(
    data: Dataset,
    vectors: NDArray[np.float32],
    item_bias: NDArray[np.float32] | None = None,
    covisitation: CovisitationScorer | None = None,
) -> dict[str, NDArray[Any]]:
    """The tables of ``catalog.safetensors``: rows sorted by a depth-first walk of the category tree."""
    order = np.argsort(data.category, kind="stable")  # row to item
    row = np.empty_like(order)
    row[order] = np.arange(len(order))  # item to row
    ids = data.item_ids.gather(order).to_list()
    by_row = np.ascontiguousarray(vectors[order], dtype=np.float32)
    tables: dict[str, NDArray[Any]] = {
        "item_vectors": by_row,
        **Codes.of(by_row).tables(),
        "clicks": data.clicks[order],
        **item_id_tables(ids),
    }
    if item_bias is not None:
        tables["item_bias"] = item_bias[order]
    if covisitation is not None:
        tables |= replace(covisitation, counts=by_rows(covisitation.counts, order)).tables()
    tree = data.tree
    paths = tree.paths()[data.category[order]]  # [rows, L], rising in every column
    for level, size in enumerate(tree.sizes):
        edges = np.searchsorted(paths[:, level], np.arange(size + 1)).astype(np.int64)
        tables[f"category_ranges.{level}"] = np.stack([edges[:-1], edges[1:]], axis=1)
        tables[f"category_parents.{level}"] = tree.parents[level].astype(np.int32)
        tables |= id_tables(f"category_ids.{level}", tree.ids[level])
    extra = [(leaf, int(row[item])) for item, leaves in enumerate(data.extra_categories) for leaf in leaves]
    if extra:
        leaves, rows = np.array(sorted(extra), dtype=np.int64).T
        tables["extra_offsets"] = np.searchsorted(leaves, np.arange(tree.sizes[-1] + 1)).astype(np.int64)
        tables["extra_rows"] = np.ascontiguousarray(rows)
    if data.title.null_count() < data.items:
        titles = data.title.gather(order).fill_null("").to_list()
        tables |= StringTable.from_strings(titles).tables("titles")
    return tables


def _preprocessing(info: RunInfo) -> dict[str, Any]:
    """What the item encoder reads of an item, as one added later needs it too; no word of what it does not read."""
    inputs, shape = info.config.item_inputs.split(), info.shape
    text = {"buckets": info.config.text_buckets, "max_tokens": info.config.text_tokens}
    encoder = info.data["settings"].get("options", {}).get("text_encoder", HASHED)
    vectors = {"width": shape.vectors, "from": "file" if encoder == HASHED else encoder}
    return {
        "text": text if shape.text and "text" in inputs else None,
        "numbers": shape.numbers if "numbers" in inputs else {},
        "vectors": vectors if shape.vectors and "vectors" in inputs else None,
    }


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
        **({"cold_start_bias": info.cold_start["bias"]} if info.cold_start else {}),
        "candidate_share": max(CANDIDATE_SHARE, min(1.0, LEAST_CANDIDATES / data.items)),
        "model": info.config.as_dict() | {"opset": OPSET, "ir_version": IR_VERSION},
        "preprocessing": _preprocessing(info),
        "data": {
            "logs": [file["name"] for file in info.data["settings"].get("files", {}).get("logs", [])],
            **{key: info.data[key] for key in ("fingerprint", "counts", "settings")},
        },
        "metrics": {
            "validation": info.metrics,
            "validation_with_covisitation": info.covisitation_metrics,
            "cold_start": info.cold_start,
            "trained_on": "training and validation splits" if info.final else "training split",
            "epochs": info.best_epoch,
            "training_seconds": info.seconds,
            "parity": parity.worst,
        },
    }
