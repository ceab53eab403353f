"""The run folder: written by ``train``, read by ``export``. safetensors and JSON, no pickle.

    run.json            configuration, data set, model shape, metrics of the kept epoch
    model.safetensors   weights of the kept epoch
    metrics.jsonl       one JSON object a line: losses while training, metrics after each epoch
    curves.png          the same as a picture

While training the folder is called ``<name>.part``. It holds ``checkpoint-<step>/``, and ``best-<epoch>.safetensors``,
the weights of the epoch that the checkpoint names as the best so far; and ``lock``, which one process holds. It gets
its name at the end.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hiersrec_sdk.arguments import is_integer
from hiersrec_sdk.atomic import PART, new_folder, write_file
from hiersrec_sdk.errors import ConfigError, RunError
from hiersrec_sdk.ranking.requests import MAX_DIMENSION
from hiersrec_sdk.shown import shortened, shown
from hiersrec_training.config import Config
from hiersrec_training.json_files import read_json
from hiersrec_training.locks import LOCK
from hiersrec_training.model import HierSRec, Shape
from hiersrec_training.optimizer import Adam

SCHEMA_VERSION = 3
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("data", "versions", "trackers"), dict),
    **dict.fromkeys(("metrics", "covisitation_metrics", "cold_start", "diverged"), dict),
    **dict.fromkeys(("device", "precision"), str),
    **dict.fromkeys(("final", "finished"), bool),
    **dict.fromkeys(("threads", "processes", "best_epoch"), int),
    "seconds": (int, float),
}
_STATE_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("step", "epochs", "bad", "best_epoch"), int),
    **dict.fromkeys(("best", "seconds"), (int, float)),
}
_DATA_KINDS = {"path": str, "fingerprint": str, "counts": dict, "settings": dict}
LARGEST_WEIGHT = 1e18  # the square of a larger one may overflow


@dataclass
class RunInfo:
    """The content of ``run.json``."""

    config: Config
    shape: Shape
    data: dict[str, Any]  # path, fingerprint, counts
    final: bool  # trained on training and validation splits together
    device: str
    precision: str  # of the softmax over items
    threads: int  # of each process
    versions: dict[str, str]
    processes: int = 1
    finished: bool = False
    best_epoch: int = 0  # counted from 1
    # of the encoder in its best epoch, validation split
    metrics: dict[str, float] = field(default_factory=dict)
    # with the scorer, newer half of that split
    covisitation_metrics: dict[str, float] = field(default_factory=dict)
    # the bias of items without clicks, and its metrics
    cold_start: dict[str, float] = field(default_factory=dict)
    validated_by: str | None = (
        None  # path of the run whose co-visitation scorer and cold-start bias a final run has
    )
    # the step at which it diverged and its learning rate; it may have gone on from a checkpoint with a lower one
    diverged: dict[str, float] = field(default_factory=dict)
    # what gets its curves beside metrics.jsonl, and what identifies the run there
    trackers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def save(self, folder: Path) -> None:
        about = {"format": "hiersrec-run", "schema_version": SCHEMA_VERSION, **asdict(self)}
        write_file(folder / "run.json", json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> RunInfo:
        """Read the run ``folder``.

        Raises:
            RunError: it is not a run, or one of another version.
        """
        try:
            about = read_json(folder / "run.json")
        except FileNotFoundError:
            raise RunError(f"{folder} is not a training run: it has no run.json") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{shortened(folder / 'run.json')} cannot be read: {shortened(error)}") from error
        if not isinstance(about, dict) or about.pop("format", None) != "hiersrec-run":
            raise RunError(f"{folder / 'run.json'} does not describe a HierSRec run")
        version = about.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            older = type(version) is int and version < SCHEMA_VERSION
            hint = "make a new run with hiersrec train DATA --out RUN" if older else "upgrade hiersrec-sdk"
            raise RunError(
                f"{folder} has schema version {shown(version)}, this version reads {SCHEMA_VERSION}: {hint}"
            )
        try:
            about["config"] = Config.from_dict(about["config"])
            about["shape"] = Shape(**about["shape"])
            info = cls(**about)
            _check(info)
            return info
        except (KeyError, TypeError, ConfigError) as error:
            raise RunError(f"{folder / 'run.json'} is not as this version writes it: {error!r}") from error


def _check(info: RunInfo) -> None:
    """Raise :class:`TypeError` where a value is of another kind than this version writes."""
    shape = info.shape
    for name, kind in _KINDS.items():
        _need(name, getattr(info, name), kind)
    for name, kind in _DATA_KINDS.items():
        _need(f"data.{name}", info.data[name], kind)
    for split in ("train", "validation", "test"):
        for name in (f"{split}_sessions", f"{split}_examples"):
            _need(f"data.counts.{name}", info.data["counts"][name], int)
    for name in ("metrics", "covisitation_metrics", "cold_start", "diverged"):
        for key, value in getattr(info, name).items():
            _need(f"{name}.{key}", value, (int, float))
    for name, value in info.trackers.items():
        _need(f"trackers.{name}", value, str)
    if info.validated_by is not None:
        _need("validated_by", info.validated_by, str)
    _need("shape.text", shape.text, bool)
    _need("shape.vector_length", shape.vector_length, (int, float))
    _need("shape.categories", shape.categories, list)
    _need("shape.numbers", shape.numbers, dict)
    for size in (shape.items, *shape.categories):
        if not is_integer(size, 1) or size >= 1 << 31:
            raise TypeError(f"shape: a number of items or categories is {shown(size)}")
    if not shape.categories or not is_integer(shape.vectors, 0) or shape.vectors > MAX_DIMENSION:
        raise TypeError(f"shape: there are no categories, or vectors is {shown(shape.vectors)}")
    for name, edges in shape.numbers.items():
        _need(f"shape.numbers.{name}", edges, list)
        for edge in edges:
            _need(f"shape.numbers.{name}", edge, (int, float))


def _need(name: str, value: Any, kind: type | tuple[type, ...]) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} is {shown(value)}")


def load_model(folder: Path) -> tuple[HierSRec, RunInfo]:
    """The trained model of a finished run, on the CPU, ready to evaluate or export.

    Raises:
        RunError: not a finished run, or its weights are missing, truncated or of another shape.
    """
    info = finished_run(folder)
    try:
        model = HierSRec(info.shape, info.config)
    except (RuntimeError, MemoryError) as error:
        raise RunError(
            f"{folder / 'run.json'} describes a model that cannot be made: {shortened(error)}"
        ) from error
    load_weights(model, folder / "model.safetensors")
    return model.eval(), info


def finished_run(folder: Path) -> RunInfo:
    """``run.json`` of a finished run. Raises :class:`RunError` where it is not finished, or no run."""
    if not folder.exists() and part_of(folder).exists():
        raise RunError(f"{folder} is not finished: {part_of(folder)} waits for hiersrec train --resume")
    info = RunInfo.load(folder)
    if not info.finished:
        raise RunError(f"{folder} is not finished: it waits for hiersrec train --resume")
    return info


def part_of(folder: Path) -> Path:
    """The name of a run folder while it is being trained."""
    return folder.with_name(folder.name + ".part")


def save_weights(model: HierSRec, path: Path) -> None:
    """All weights and buffers, all or nothing."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_file(path, lambda part: save_file(state, part))


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors in a file."""
    if path.exists() and not path.is_file():  # a named pipe would be waited for
        raise OSError("it is not a regular file")
    return load_file(path)


def load_weights(model: HierSRec, path: Path) -> None:
    """Raises :class:`RunError` where the file is missing, truncated, does not fit the model, or holds no numbers."""
    try:
        model.load_state_dict(_tensors(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{path} does not hold this run's weights: {shortened(error)}") from error
    if (name := diverged_weight(model)) is not None:
        raise RunError(
            f"{path}: {name} has weights that are not finite or beyond {LARGEST_WEIGHT:.0e}, so training diverged: "
            "train anew with a lower learning_rate"
        )


def diverged_weight(model: HierSRec) -> str | None:
    """The name of a parameter with a value that is not finite or beyond ``LARGEST_WEIGHT``; None if all are well."""
    for name, parameter in model.named_parameters():
        low, high = parameter.detach().aminmax()  # NaN where one value is, without a copy of the table
        if not (low >= -LARGEST_WEIGHT and high <= LARGEST_WEIGHT):
            return name
    return None


def kept_weights(folder: Path, epoch: int) -> Path:
    """The file of the weights after an epoch, counted from 1, while the run is trained."""
    return folder / f"best-{epoch:04d}.safetensors"


def save_checkpoint(folder: Path, model: HierSRec, optimizer: Adam, state: dict[str, Any]) -> None:
    """Write ``checkpoint-<step>-<epochs that are over>/``, all or nothing, then remove what older ones needed."""
    final = folder / f"checkpoint-{state['step']:08d}-{state['epochs']:04d}"
    with new_folder(final) as part:
        save_weights(model, part / "model.safetensors")
        save_file(optimizer.state(), part / "optimizer.safetensors")
        (part / "state.json").write_text(json.dumps(state))
    for old in checkpoints(folder)[:-1]:
        _remove_checkpoint(old)
    _remove_kept(folder, but=kept_weights(folder, state["best_epoch"]))
    _remove_parts(folder)


def clear(folder: Path) -> None:
    """Remove what only training needs: the lock, checkpoints with their weights, and files left half-written."""
    (folder / LOCK).unlink(missing_ok=True)
    for checkpoint in checkpoints(folder):
        _remove_checkpoint(checkpoint)
    _remove_kept(folder)
    _remove_parts(folder)


def _remove_checkpoint(path: Path) -> None:
    """Rename it first: a kill in the middle must not leave half of it under a checkpoint's name."""
    shutil.rmtree(path.rename(path.with_name(f"{path.name}{PART}removed")))


def _remove_kept(folder: Path, but: Path | None = None) -> None:
    for path in folder.glob("best-*.safetensors"):
        if path != but:
            path.unlink()


def _remove_parts(folder: Path) -> None:
    for path in folder.glob(f"*{PART}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def load_checkpoint(folder: Path, model: HierSRec, optimizer: Adam) -> dict[str, Any]:
    """Weights, optimizer moments and state of the newest checkpoint; an empty state where there is none yet."""
    found = checkpoints(folder)
    if not found:
        return {}
    newest = found[-1]
    load_weights(model, newest / "model.safetensors")
    try:
        optimizer.load(_tensors(newest / "optimizer.safetensors"))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise RunError(f"{newest} cannot be resumed from: {error}") from error
    return _state(newest / "state.json")


def _state(path: Path) -> dict[str, Any]:
    """The state of the loop in a checkpoint. Raises :class:`RunError` where it is not as this version writes it."""
    try:
        state = read_json(path)
        _need("its content", state, dict)
        for name, kind in _STATE_KINDS.items():
            _need(name, state.get(name), kind)
        recent = state.get("recent", {})
        _need("recent", recent, dict)
        for name, values in recent.items():
            _need(f"recent.{name}", values, list)
            for value in values:
                _need(f"recent.{name}", value, (int, float))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be resumed from: {shortened(error)}") from error
    found: dict[str, Any] = state
    return found


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, the oldest first."""
    return sorted(path for path in folder.glob("checkpoint-*") if PART not in path.name)
