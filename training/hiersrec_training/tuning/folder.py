"""The folder of a study.

study.json    data set, fixed settings, and how the search trains
trials.log    the trials of the search, as Optuna's JournalStorage writes them
newest/       the dataset that the search trains on, where it is not the whole one
trials/       runs of the search, each until it is over
runs/         runs on all training sessions, of the best trials and of the defaults
best.toml     what to train with
report.md     tables; what_mattered.png: the importance of each setting
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hiersrec_sdk.atomic import write_file
from hiersrec_sdk.errors import ConfigError, RunError
from hiersrec_sdk.shown import shortened, shown
from hiersrec_training import locks
from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.json_files import read_json
from hiersrec_training.tuning.space import sampler

SCHEMA_VERSION: Final = 1
FORMAT: Final = "hiersrec-study"
ERROR: Final = "error"  # attribute of a trial: why it failed
_OVER: Final = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class About:
    """The content of ``study.json``.

    ``fixed``: settings that are not searched; ``sessions``: newest training sessions of the search.
    """

    data: str
    fingerprint: str
    fixed: dict[str, Any]
    sessions: int
    seed: int
    device: str

    @property
    def base(self) -> Config:
        """The defaults of this study: with the fixed settings."""
        return Config.from_dict({**self.fixed, "seed": self.seed})

    def save(self, folder: Path) -> None:
        about = {"format": FORMAT, "schema_version": SCHEMA_VERSION, **asdict(self)}
        write_file(folder / "study.json", json.dumps(about, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises :class:`RunError` where the folder holds no study, or one of another version."""
        path = folder / "study.json"
        try:
            about = read_json(path)
        except FileNotFoundError:
            raise RunError(f"{folder} is not a study of hiersrec tune: it has no study.json") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {shortened(error)}") from error
        if not isinstance(about, dict) or about.pop("format", None) != FORMAT:
            raise RunError(f"{path} does not describe a study of hiersrec tune")
        if (version := about.pop("schema_version", None)) != SCHEMA_VERSION:
            raise RunError(
                f"{folder} has schema version {shown(version)}, this version reads {SCHEMA_VERSION}: choose another "
                "folder for a new study"
            )
        try:
            study = cls(**about)
            _ = study.base, study.sessions + 1, study.device + study.data + study.fingerprint
        except (TypeError, ConfigError) as error:
            raise RunError(f"{path} is not as this version writes it: {shortened(error)}") from error
        return study


def begin(folder: Path, about: About, data: Dataset) -> None:
    """Make the folder of a new study."""
    if folder.exists():
        if not (folder / "study.json").exists():
            raise RunError(f"{folder} exists and holds no study: choose another folder or remove it")
        earlier = About.load(folder)
        what = "" if earlier.fingerprint == about.fingerprint else f" of another data set, {earlier.data}"
        raise RunError(f"{folder} holds a study{what}: go on with --resume, or choose another folder")
    folder.mkdir(parents=True)
    about.save(folder)


def to_resume(folder: Path, data_path: Path, data: Dataset) -> About:
    """What the study in ``folder`` began with.

    Raises:
        RunError: there is none, or its data have changed.
    """
    if not folder.exists():
        raise RunError(f"there is no study {folder} to resume: leave --resume out to begin one")
    about = About.load(folder)
    if about.fingerprint != data.fingerprint:
        raise RunError(
            f"{data_path} is not the data set that {folder} began with: that was {about.data}, or it has changed "
            "since. Old and new trials cannot be compared: begin a study in another folder"
        )
    if about.data != (here := str(data_path.resolve())):  # it may have moved
        about = replace(about, data=here)
        about.save(folder)
    return about


def alone(folder: Path) -> AbstractContextManager[None]:
    """Raise :class:`RunError` where another process works on the study."""
    return locks.alone(folder, "hiersrec tune")


def open_trials(folder: Path, about: About, pruner: optuna.pruners.BasePruner) -> optuna.Study:
    """The trials of the search. Those that a killed process left are done again."""
    path = folder / "trials.log"
    _mend(path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name="hiersrec",
            direction="maximize",
            load_if_exists=True,
            pruner=pruner,
        )
        trials = study.get_trials(deepcopy=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read: {shortened(error)}; begin a study in another folder"
        ) from error
    study.sampler = sampler(about.seed, len(trials))
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            again(study, trial)
    return study


def again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Give up a trial that was interrupted, and queue its settings. It has no attribute ``ERROR``."""
    study.tell(trial.number, state=TrialState.FAIL)
    study.enqueue_trial(trial.params)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are over, the failed ones too, without those that are done again."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state in _OVER or ERROR in trial.user_attrs
    ]


def _mend(path: Path) -> None:
    """Cut the line that a killed process has not written to its end, and remove its lock."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        written = path.read_bytes()
        whole = written[: written.rfind(b"\n") + 1]
        if len(whole) < len(written):
            write_file(path, whole)


def clear(folder: Path) -> None:
    """Remove what only an unfinished study needs."""
    for name in ("trials", "newest"):
        shutil.rmtree(folder / name, ignore_errors=True)
