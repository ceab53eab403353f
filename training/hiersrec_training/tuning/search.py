"""The search: trials on the newest sessions, chosen by Optuna, and given up when they are worse than others were."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from hiersrec_training.config import Config
from hiersrec_training.data.dataset import Dataset
from hiersrec_training.run import part_of
from hiersrec_training.tuning.folder import ERROR, About, again, finished
from hiersrec_training.tuning.space import EPOCHS, config_of, difference, searched
from hiersrec_training.tuning.workers import Ended, Epoch, Job, Workers

METRIC = "mrr@20"


@dataclass(frozen=True)
class Clock:
    """When the work began, and when it has to be over; both of ``time.monotonic``."""

    start: float
    end: float

    @classmethod
    def of(cls, seconds: float) -> Clock:
        start = time.monotonic()
        return cls(start, start + seconds)

    def is_past(self, share: float = 1.0) -> bool:
        """Whether that share of the time is over."""
        return time.monotonic() >= self.start + share * (self.end - self.start)


def shown_settings(settings: Mapping[str, Any]) -> str:
    """As the command line takes them."""
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "the defaults"


def searched_data(folder: Path, about: About, data: Dataset) -> Path:
    """The dataset folder of the search: the newest sessions, or all."""
    if about.sessions >= len(data.train):
        return Path(about.data)
    path = folder / "newest"
    if not path.exists():
        replace(data, train=data.train.newest(about.sessions)).save(path)
    return path


class Search:
    """The trials of a study, one after another or several at once.

    Args:
        folder: of the study.
        about: what it began with.
        data: dataset folder to train on.
        study: Optuna's.
        trials: how many there shall be.
        is_over: whether it is too late to begin another one, or the next epoch of one.
        report: takes lines for a person to read.
    """

    def __init__(
        self,
        folder: Path,
        about: About,
        data: Path,
        study: optuna.Study,
        trials: int,
        is_over: Callable[[], bool],
        report: Callable[[str], None],
    ) -> None:
        self._folder, self._about, self._data, self._study = folder, about, data, study
        self._trials, self._is_over, self._report = trials, is_over, report
        self._running: dict[str, tuple[optuna.Trial, float]] = {}
        self._late: set[str] = set()  # jobs that were given up for want of time

    def run(self, workers: Workers, stop: list[int]) -> None:
        """All trials that are missing."""
        if not self._study.get_trials(deepcopy=False):
            base = self._about.base.as_dict()
            self._study.enqueue_trial({name: base[name] for name in searched(self._about.fixed)})
        workers.run(self._next, self._watch, lambda job, ended: self._end(job, ended, stop), stop)

    def config(self, params: Mapping[str, Any]) -> Config:
        """The settings of a trial."""
        return config_of(self._about.base, params)

    def _next(self) -> Job | None:
        if len(finished(self._study)) + len(self._running) >= self._trials or self._is_over():
            return None
        trial = self._study.ask(searched(self._about.fixed))
        config = self.config(trial.params)
        trial.set_user_attr(EPOCHS, config.epochs)
        name = f"trial-{trial.number}"
        out = self._folder / "trials" / name
        remove(out)  # of a killed process
        self._running[name] = trial, time.monotonic()
        # the scorer takes time, and has no part in what is compared
        return Job(name, self._data, out, replace(config, covisitation=False), self._about.device)

    def _watch(self, job: Job, epoch: Epoch) -> bool:
        trial, _ = self._running[job.name]
        trial.report(epoch.metrics[METRIC], epoch.number)
        if trial.should_prune():
            return False
        if self._is_over() and not self._is_last(job, trial):
            self._late.add(job.name)
            return False
        return True

    def _is_last(self, job: Job, trial: optuna.Trial) -> bool:
        """Whether the training ends with the newest epoch by itself."""
        values = self._values(trial)
        since_best = len(values) - 1 - values.index(max(values))
        return len(values) >= job.config.epochs or since_best >= job.config.patience

    def _values(self, trial: optuna.Trial) -> list[float]:
        """The MRR@20 after each epoch."""
        return list(self._study.get_trials(deepcopy=False)[trial.number].intermediate_values.values())

    def _end(self, job: Job, ended: Ended, stop: list[int]) -> None:
        trial, started = self._running.pop(job.name)
        remove(job.out)
        if ended.how == "interrupted" or (ended.how == "failed" and stop):
            again(self._study, self._study.get_trials(deepcopy=False)[trial.number])
            return
        seconds = time.monotonic() - started
        trial.set_user_attr("seconds", round(seconds, 1))
        values = self._values(trial)
        if ended.how == "failed":
            trial.set_user_attr(ERROR, ended.message)
            self._study.tell(trial, state=TrialState.FAIL)
            what = f"failed: {ended.message}"
        elif ended.how == "given up":
            self._study.tell(trial, state=TrialState.PRUNED)
            why = ", as the time of the search is over" if job.name in self._late else ""
            after = f"after epoch {len(values)} of {job.config.epochs}{why}"
            what = f"given up {after}, with MRR@20 {max(values):.4f}"
        else:
            self._study.tell(trial, max(values))
            what = f"MRR@20 {max(values):.4f}"
        self._report(
            f"trial {trial.number}, {shown_settings(difference(self.config(trial.params), self._about.base))}: "
            f"{what}{self._best()}, {seconds:,.0f} s"
        )

    def _best(self) -> str:
        done = [trial for trial in finished(self._study) if trial.state == TrialState.COMPLETE]
        if not done:
            return ""
        best = max(done, key=lambda trial: trial.value or 0.0)
        return f", best {best.value:.4f} (trial {best.number})"


def remove(run: Path) -> None:
    """A run folder, finished or not."""
    for folder in (run, part_of(run)):
        shutil.rmtree(folder, ignore_errors=True)
