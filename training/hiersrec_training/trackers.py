"""Where the curves of a training go: ``metrics.jsonl`` always, and what ``--log`` names beside it.

Nothing leaves the machine unless the user's own environment says so: see each tracker.
"""

from __future__ import annotations

import importlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

from hiersrec_sdk.arguments import is_integer
from hiersrec_sdk.atomic import write_file
from hiersrec_sdk.errors import InvalidOptionError, MissingExtraError, RunError
from hiersrec_sdk.shown import shortened, shown
from hiersrec_training.run import RunInfo

Line = Mapping[str, Any]
"""A line of ``metrics.jsonl``: "step" and "epoch", with mean losses or with "validation", a dictionary of metrics."""


class Tracker(Protocol):
    """What takes the lines of a run, in order."""

    def log(self, line: Line, /) -> None:
        """Take one line."""

    def close(self, is_finished: bool, /) -> None:
        """The run is over; or it was interrupted, and may go on some day."""


class JsonLines:
    """``metrics.jsonl`` in the run folder, one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.jsonl"

    def log(self, line: Line) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def close(self, is_finished: bool) -> None:
        pass

    def lines(self) -> list[Line]:
        """What was logged, see :func:`read_lines`."""
        return read_lines(self._path)

    def keep(self, lines: Iterable[Line]) -> None:
        """Drop all but these."""
        if self._path.exists():
            write_file(self._path, "".join(json.dumps(line) + "\n" for line in lines))


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder."""

    def __init__(self, folder: Path, info: RunInfo) -> None:
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer: Any = module.SummaryWriter(str(folder / "tensorboard"))
        if not info.trackers["tensorboard"]:
            self._writer.add_text("settings", json.dumps(info.config.as_dict(), indent=2), 0)
            info.trackers["tensorboard"] = "tensorboard"

    def log(self, line: Line) -> None:
        for name, value in figures_of(line).items():
            self._writer.add_scalar(name, value, line["step"])
        self._writer.flush()

    def close(self, is_finished: bool) -> None:
        self._writer.close()


class MLflow:
    """A run of what ``MLFLOW_TRACKING_URI`` names, a server or database; by default of ``mlflow.db`` in the run folder.

    The experiment is that of ``MLFLOW_EXPERIMENT_NAME``, or "hiersrec".
    """

    def __init__(self, folder: Path, info: RunInfo) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        module = importlib.import_module("mlflow")
        local = f"sqlite:///{(folder / 'mlflow.db').absolute()}"
        self._client = module.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or local)
        self._run = info.trackers["mlflow"]
        if self._run:
            self._client.update_run(self._run, "RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "hiersrec"
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        self._run = self._client.create_run(experiment, run_name=_name(folder)).info.run_id
        info.trackers["mlflow"] = self._run
        for setting, value in info.config.as_dict().items():
            self._client.log_param(self._run, setting, value)

    def log(self, line: Line) -> None:
        for name, value in figures_of(line).items():
            self._client.log_metric(self._run, name.replace("@", "_at_"), value, step=line["step"])

    def close(self, is_finished: bool) -> None:
        self._client.set_terminated(self._run, "FINISHED" if is_finished else "KILLED")


class WeightsAndBiases:
    """A run in ``wandb/`` of the run folder, which ``wandb sync`` sends; with ``WANDB_MODE=online`` it is sent at once.

    Settings and curves alone: neither code, git, console output, packages nor figures of the machine.
    """

    def __init__(self, folder: Path, info: RunInfo) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_CACHE_DIR", str((folder / "wandb").absolute()))  # not the home folder
        module = importlib.import_module("wandb")
        its_id = info.trackers["wandb"] or secrets.token_hex(4)
        settings = module.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT") or "hiersrec",
            name=_name(folder),
            id=its_id,
            dir=os.environ.get("WANDB_DIR") or str(folder),
            mode=os.environ.get("WANDB_MODE") or "offline",
            resume="allow",
            config=info.config.as_dict(),
            settings=settings,
        )
        info.trackers["wandb"] = its_id

    def log(self, line: Line) -> None:
        self._run.log(figures_of(line), step=line["step"])

    def close(self, is_finished: bool) -> None:
        self._run.finish(exit_code=0 if is_finished else 1)


TRACKERS: Final[Mapping[str, Callable[[Path, RunInfo], Tracker]]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


class Log:
    """The trackers of a run: ``metrics.jsonl``, and those that ``info.trackers`` names.

    A resumed run does the steps after its checkpoint again. They are dropped from ``metrics.jsonl`` and logged anew.
    The other trackers have them already, and do not get them twice.

    Args:
        folder: of the run.
        info: its ``run.json``. ``trackers`` takes up what identifies the run to each.
        step, epochs: those of the checkpoint.
        report: takes a warning where a tracker fails, which ends its curves and not the training.

    Raises:
        RunError: a tracker could not begin.
    """

    def __init__(
        self, folder: Path, info: RunInfo, step: int, epochs: int, report: Callable[[str], None]
    ) -> None:
        self._lines, self._report = JsonLines(folder), report
        lines = self._lines.lines()
        self._seen = {_key(line) for line in lines}
        self._lines.keep(
            line for line in lines if (line["epoch"] <= epochs if _key(line)[1] else line["step"] <= step)
        )
        self._others: dict[str, Tracker] = {}
        for name in info.trackers:
            try:
                self._others[name] = TRACKERS[name](folder, info)
            except Exception as error:
                raise RunError(
                    f"--log {name} could not begin: {_why(error)}; mend that, then --resume"
                ) from error

    def write(self, line: Line) -> None:
        """To every tracker."""
        self._lines.log(line)
        if _key(line) not in self._seen:
            self._each(lambda tracker: tracker.log(line))

    def close(self, is_finished: bool) -> None:
        """No line comes any more."""
        self._lines.close(is_finished)
        self._each(lambda tracker: tracker.close(is_finished))

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._others.items()):
            try:
                do(tracker)
            except Exception as error:
                del self._others[name]
                self._report(f"warning: {name} gets no more curves, metrics.jsonl has them: {_why(error)}")


def check_names(names: Iterable[str]) -> None:
    """Raise :class:`InvalidOptionError` for the name of no tracker."""
    for name in names:
        if name not in TRACKERS:
            raise InvalidOptionError(f"log must be some of {', '.join(TRACKERS)}, got {shown(name)}")


def check_installed(names: Iterable[str]) -> None:
    """Raise :class:`MissingExtraError` where the package of a tracker is missing."""
    for name in names:
        if find_spec(name) is None:
            raise MissingExtraError(name, f"--log {name}", name)


def read_lines(path: Path) -> list[Line]:
    """The lines of a ``metrics.jsonl``; none where there is no such file.

    A line that a killed process has not written to its end is none, nor is a damaged one.
    """
    if not path.exists():
        return []
    whole = path.read_bytes().split(b"\n")[:-1]
    return [line for line in map(_line, whole) if line is not None]


def _line(written: bytes) -> Line | None:
    """A line as this module writes them; None where it is another."""
    try:
        line = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not all(is_integer(line.get(name), 0) for name in ("step", "epoch")):
        return None
    figures = line.get("validation", line)
    if not isinstance(figures, dict) or not all(isinstance(each, int | float) for each in figures.values()):
        return None
    return None if figures is not line and not figures.keys() >= {"recall@20", "mrr@20"} else line


def figures_of(line: Line) -> dict[str, float]:
    """The figures of a line by the names that trackers show: ``train/loss``, ``validation/mrr@20`` …"""
    if "validation" in line:
        return {f"validation/{name}": value for name, value in line["validation"].items()}
    return {f"train/{name}": value for name, value in line.items() if name not in ("step", "epoch")}


def _key(line: Line) -> tuple[int, bool]:
    """What a line is about: the step, and whether it is a validation after it."""
    return line["step"], "validation" in line


def _why(error: Exception) -> str:
    return shortened(" ".join(str(error).split())) or type(error).__name__


def _name(folder: Path) -> str:
    return folder.name.removesuffix(".part")
